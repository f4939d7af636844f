# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module or command line: the one decision of this collection's action plugins."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.dbmem.mshare.plugins.module_utils import _converge, _results
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import (
    EXIT_VERDICT_FAILED,
    InvalidRequest,
    MshareError,
    Unavailable,
)
from ansible_collections.dbmem.mshare.plugins.plugin_utils.commands import Command, Commands, Fields
from ansible_collections.dbmem.mshare.plugins.plugin_utils.library import is_same_as

EXECUTABLE = "/usr/local/bin/mshare"
OLDEST_PYTHON = (3, 9)
_VERSION = shlex.quote('import sys; print("python %d.%d" % sys.version_info[:2])')
# With more than that the module is the quicker way, or the only one: a shell takes it as one argument.
_MOST_LINES = 8
_MOST_CHARACTERS = 16384


class ModuleAction(ActionBase):
    """Sends a module, and says in a sentence where a host's Python is too old for it.

    Ansible itself refuses such a Python with a traceback, or not at all: its modules need 3.8 or 3.9.
    """

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> Fields:
        result: Fields = super().run(tmp, task_vars)
        return {**result, **self._send(dict(self._task.args), task_vars)}

    def _send(self, arguments: Fields, task_vars: Any) -> Fields:
        in_background = self._task.async_val and not self._connection.has_native_async
        answer: Fields = self._execute_module(
            module_args=arguments, task_vars=task_vars, wrap_async=in_background
        )
        # What this collection refuses has a kind.
        if not answer.get("failed") or "error_kind" in answer:
            return answer
        return self._too_old() or answer

    def _too_old(self) -> Fields | None:
        """The failure for a host whose Python is too old; None where it is not."""
        interpreter = (getattr(self, "_used_interpreter", None) or "").lstrip("#!").strip()
        if not interpreter:
            return None
        done = self._low_level_execute_command(f"{interpreter} -c {_VERSION}", sudoable=True)
        match = re.search(r"^python (\d+)\.(\d+)$", done["stdout"], re.MULTILINE)
        if match is None or (int(match[1]), int(match[2])) >= OLDEST_PYTHON:
            return None
        needed = ".".join(map(str, OLDEST_PYTHON))
        return {
            "failed": True,
            "changed": False,
            "error_kind": Unavailable.kind,
            "msg": (
                f"{interpreter} on this host is Python {match[1]}.{match[2]}, and dbmem.mshare needs {needed} or"
                " newer; install a newer Python beside it (python39 on EL 8), and set"
                " ansible_python_interpreter to its path for this host"
            ),
        }


class LibraryAction(ModuleAction):
    """Has a host's own command line do what a module would do there, or sends the module.

    The command line is installed and compiled, so it is several times cheaper than a module that is sent.
    Both give the same result, for both call the same functions of the library. The decision:

    1. A task in the background (async) always sends the module: who does not wait gets the number of a job.
    2. The task becomes a shell line by the tables in `commands.py`. What they cannot express goes to the
       module: unknown options, values of a type that a module would convert, variables of the host's
       environment in paths, an environment or another program name, more than a few regions.
    3. One shell line goes to the host. It first compares the checksum of the library there with ours. Where
       that differs, or nothing is installed, nothing is done, and the module is sent.
    4. For one region the command does the work (with --check in check mode), and its answer is the result.
       For a list each command runs with --check only: a list is judged whole before the first region is
       changed, and that takes the module. Where nothing is to be done the answers are the result.
    5. A refusal that is final (no room, a conflict) is the result. An invalid request goes to the module,
       which accepts more kinds of values, and words it in its own options.
    """

    COMMANDS: Commands

    def run(self, tmp: Any = None, task_vars: Any = None) -> Fields:
        result: Fields = ActionBase.run(self, tmp, task_vars)
        answer = None if self._task.async_val else self._answer()
        if answer is None:
            answer = self._send(self._arguments(), task_vars)
        return {**result, **answer}

    def _arguments(self) -> Fields:
        """What the module is called with."""
        return dict(self._task.args)

    def _answer(self) -> Fields | None:
        """What the module would return, by the command line; None where the module has to be sent."""
        arguments = {key: value for key, value in self._task.args.items() if value is not None}
        executable = str(arguments.pop("executable", EXECUTABLE))
        # What the library starts is started by that name, too.
        by_name = executable.startswith("/") and executable.endswith("/mshare")
        lines = [] if any(self._task.environment) or not by_name else self._lines(executable, arguments)
        if None in lines or not 0 < len(lines) <= _MOST_LINES:
            return None
        command = " && ".join([is_same_as(executable), *(line for line in lines if line)])
        if len(command) > _MOST_CHARACTERS:
            return None
        done = self._low_level_execute_command(command, sudoable=True)
        answers = documents(done["stdout"])
        try:
            if done["rc"] in (0, EXIT_VERDICT_FAILED) and len(answers) == len(lines):
                return self._result(arguments, answers)
            return self._failure(answers[-1]) if done["rc"] != 0 and answers else None
        except MshareError:  # An answer that lacks a field: no answer.
            return None

    def _lines(self, executable: str, arguments: Fields) -> list[str | None]:
        """The commands for the task; None for what cannot be put to a command."""
        regions = self.COMMANDS.regions
        if regions is None or arguments.get(regions.many) is None:
            return [self._line(executable, arguments, self._task.check_mode)]
        entries = arguments[regions.many]
        known = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        if not known or regions.name in arguments:
            return []
        common = {key: value for key, value in arguments.items() if key != regions.many}
        each = (_converge.merged(common, entry, regions.alternatives) for entry in entries)
        return [self._line(executable, entry, True) for entry in each]

    def _line(self, executable: str, arguments: Fields, check: bool) -> str | None:
        if self.COMMANDS.absent is None:
            return self.COMMANDS.present.line(executable, arguments)
        others = {key: value for key, value in arguments.items() if key != "state"}
        command = self._command(arguments.get("state", "present"))
        return None if command is None else command.line(executable, others, *(["--check"] if check else []))

    def _command(self, state: object) -> Command | None:
        return {"present": self.COMMANDS.present, "absent": self.COMMANDS.absent}.get(str(state))

    def _result(self, arguments: Fields, answers: list[Fields]) -> Fields | None:
        """The module's result for the commands' answers; None where something is to be done by the module."""
        regions = self.COMMANDS.regions
        if regions is None:
            return self.COMMANDS.result(arguments, answers[0]) if self.COMMANDS.result else None
        if arguments.get(regions.many) is None:
            return _results.single(regions.name, regions.facts, arguments[regions.name], answers[0])
        if any(answer["changed"] or not regions.settled(answer[regions.facts]) for answer in answers):
            return None
        names = [entry[regions.name] for entry in arguments[regions.many]]
        return _results.several(regions.name, regions.facts, dict(zip(names, answers)))

    def _failure(self, answer: Fields) -> Fields | None:
        """The module's failure for the answer of a command that failed; None where the module has to judge."""
        regions = self.COMMANDS.regions
        if regions is not None and self._task.args.get(regions.many) is not None:
            return None
        error = answer.get("error")
        if error is None or error["kind"] == InvalidRequest.kind:
            return None
        return {"failed": True, "changed": False, "msg": error["message"], "error_kind": error["kind"]}


def documents(text: str) -> list[Fields]:
    """The JSON documents in a text, each beginning with a line of its own; a host may say more than that."""
    decoder = json.JSONDecoder()
    try:
        return [
            decoder.raw_decode(text, start.start())[0] for start in re.finditer(r"^{", text, re.MULTILINE)
        ]
    except ValueError:
        return []
