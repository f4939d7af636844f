# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Having the library on a host do what a module would do there.

Its command line is compiled and installed, and several times cheaper than sending and running a module. Only
the very same library is asked; whatever it cannot be told, or does not plainly answer, is the module's.
"""

from __future__ import annotations

import json
import re
import shlex
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import InvalidRequest
from ansible_collections.dbmem.mshare.plugins.plugin_utils.library import is_same_as
from ansible_collections.dbmem.mshare.plugins.plugin_utils.module_action import Fields, ModuleAction

# What a spec takes as a module does; of other values a module makes texts and numbers in its own way.
TEXT = (str,)
NUMBER = (int, str)
SEQUENCE = (list,)
TRUTH = (bool,)

# With more than that the module is the quicker way, or the only one: a shell is told it in one argument.
_MOST_LINES = 8
_MOST_CHARACTERS = 16384


@dataclass(frozen=True)
class Command:
    """A command of the library, and how the options of a module are said to it."""

    words: tuple[str, ...]
    spec: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    """The options that a spec has under the same name, and the types that mean the same in both."""
    argument: str | None = None
    """The option that is the command's argument."""
    values: tuple[str, ...] = ()
    """The options that are said as --NAME VALUE."""
    flags: tuple[str, ...] = ()
    """The options that are said as --NAME where they are true."""
    switches: tuple[str, ...] = ()
    """The options that are said as --NAME or --no-NAME."""

    def line(self, executable: str, arguments: Fields, *more: str) -> str | None:
        """The shell command for a module's arguments; None where it cannot be told all of them."""
        words = [executable, "--json", *self.words, *more]
        spec = {}
        given = {name: value for name, value in arguments.items() if value not in (None, [])}
        # In paths a module replaces variables of the host's environment.
        if "$" in str(given):
            return None
        for name, value in given.items():
            option = name.replace("_", "-")
            if _is_one_of(self.spec.get(name, ()), value):
                spec[name] = value
            elif name == self.argument:
                words.append(str(value))
            elif name in self.values:
                words += [f"--{option}", str(value)]
            elif name in (*self.flags, *self.switches) and isinstance(value, bool):
                no = [f"--no-{option}"] if name in self.switches else []
                words += [f"--{option}"] if value else no
            else:
                return None
        if not self.spec:
            return shlex.join(words)
        return f"printf %s {shlex.quote(json.dumps(spec))} | {shlex.join([*words, '--spec', '/dev/stdin'])}"


def _is_one_of(types: tuple[type, ...], value: object) -> bool:
    return isinstance(value, bool) == (types == TRUTH) and isinstance(value, types)


class CommandLineAction(ModuleAction):
    """Has the library on the host do it, or else the module."""

    @abstractmethod
    def _lines(self, executable: str, arguments: Fields) -> list[str | None]:
        """The commands that do it; None for what cannot be said to a command."""

    @abstractmethod
    def _result(self, answers: list[Fields]) -> Fields | None:
        """What the module would return for the commands' answers; None where that is not plain."""

    def _failure(self, answer: Fields) -> Fields | None:
        """How the module would fail for the answer of a command that failed.

        None for what the module, which takes more kinds of values, may understand.
        """
        error = answer.get("error")
        if error is None or error["kind"] == InvalidRequest.kind:
            return None
        return {"failed": True, "changed": False, "msg": error["message"], "error_kind": error["kind"]}

    def _answer(self) -> Fields | None:
        arguments = {key: value for key, value in self._task.args.items() if value is not None}
        executable = str(arguments.pop("executable", "/usr/local/bin/mshare"))
        lines = self._lines(executable, arguments)
        # What the library starts is started by that name, too.
        by_name = executable.startswith("/") and executable.endswith("/mshare")
        otherwise = any(self._task.environment) or not by_name
        if otherwise or None in lines or not 0 < len(lines) <= _MOST_LINES:
            return None
        command = " && ".join([is_same_as(executable), *(line for line in lines if line)])
        if len(command) > _MOST_CHARACTERS:
            return None
        said = self._low_level_execute_command(command, sudoable=True)
        answers = documents(said["stdout"])
        if said["rc"] != 0:
            return self._failure(answers[-1]) if answers else None
        return self._result(answers) if len(answers) == len(lines) else None


def documents(text: str) -> list[Fields]:
    """The JSON documents in a text, each beginning with a line of its own; a host may say more than that."""
    decoder = json.JSONDecoder()
    try:
        return [
            decoder.raw_decode(text, start.start())[0] for start in re.finditer(r"^{", text, re.MULTILINE)
        ]
    except ValueError:
        return []
