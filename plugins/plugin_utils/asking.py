# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking the library on a host whether anything is to be done, before a module is sent there.

On a second run nothing is, and a check run of the command line, which is compiled and installed, is several
times cheaper than sending and running a module. Only the very same library is asked, and whatever it does
not plainly answer with "nothing" is the module's.
"""

from __future__ import annotations

import functools
import json
import shlex
from abc import abstractmethod
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare import install, preloading

# With more than that the module is the quicker way.
_QUESTIONS = 8

Fields = dict[str, Any]


class AskingAction(ActionBase):
    """Runs the module of its name, unless nothing is to be done."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    COMMAND: tuple[str, ...]
    """Of the command line."""
    SPEC: frozenset[str]
    """The options that a spec has under the same name."""
    CONSENTS: frozenset[str]
    """The options that say nothing where nothing is to be done."""
    ANEW: tuple[str, ...] = ()
    """The options that have something done where nothing differs: flags of the command line."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> Fields:
        result: Fields = super().run(tmp, task_vars)
        answer = self._answer()
        return {**result, **(self._execute_module(task_vars=task_vars) if answer is None else answer)}

    @abstractmethod
    def _asked(self, arguments: Fields) -> list[Fields]:
        """The arguments for each region."""

    @abstractmethod
    def _settled(self, answer: Fields) -> bool:
        """Whether what was found is as it should be."""

    @abstractmethod
    def _result(self, asked: list[Fields], answers: list[Fields]) -> Fields:
        """The module's result for these answers."""

    def _answer(self) -> Fields | None:
        """The result, if the host says that nothing is to be done."""
        arguments = {key: value for key, value in self._task.args.items() if value is not None}
        executable = str(arguments.pop("executable", "/usr/local/bin/mshare"))
        asked = self._asked(arguments)
        if (
            not (0 < len(asked) <= _QUESTIONS)
            or any(self._task.environment)
            or not executable.startswith("/")
        ):
            return None
        if any(one.get("state", "present") != "present" or self._unknown(one) for one in asked):
            return None
        commands = " && ".join(
            [_same_library(executable), *(self._command(executable, one) for one in asked)]
        )
        said = self._low_level_execute_command(commands, sudoable=True)
        answers = _documents(said["stdout"]) if said["rc"] == 0 else []
        if len(answers) != len(asked):
            return None
        if any(answer["changed"] or not self._settled(answer) for answer in answers):
            return None
        warnings = [text for answer in answers for text in answer["warnings"]]
        return {"changed": False, "actions": [], "warnings": warnings, **self._result(asked, answers)}

    def _unknown(self, arguments: Fields) -> bool:
        return bool(arguments.keys() - self.SPEC - self.CONSENTS - {*self.ANEW, "state", "boot"})

    def _command(self, executable: str, arguments: Fields) -> str:
        spec = {
            key: value for key, value in arguments.items() if key in self.SPEC and value not in (None, [])
        }
        boot = {None: [], True: ["--boot"], False: ["--no-boot"]}.get(arguments.get("boot"), ["--boot=?"])
        anew = [
            f"--{name.replace('_', '-')}" for name in self.ANEW if arguments.get(name, False) is not False
        ]
        words = [executable, "--json", *self.COMMAND, "--check", *boot, *anew, "--spec", "/dev/stdin"]
        return f"printf %s {shlex.quote(json.dumps(spec))} | {shlex.join(words)}"


def _same_library(executable: str) -> str:
    """A shell command that succeeds where the program is of the library that this collection has."""
    line = r"s/^sys\.path\.insert(0, '\(.*\)')$/\1/p"
    mark = f'"library": "{_digest()}"'
    path = shlex.quote(executable)
    return f'grep -qsF {shlex.quote(mark)} "$(sed -n {shlex.quote(line)} {path} 2>/dev/null)/manifest.json"'


@functools.cache
def sources() -> dict[str, str]:
    """The library, as mshare_runtime brings it: path below the package -> text."""
    top = Path(library.__file__).parent
    files = {path.relative_to(top): path for path in sorted(top.rglob("*.py"))}
    found = {
        str(below): path.read_text(encoding="utf-8")
        for below, path in files.items()
        if below.parts[0] not in install.CONTROLLERS
    }
    return {**found, **preload_sources()}


@functools.cache
def preload_sources() -> dict[str, str]:
    """Of the library what is not Python, and so not among the module_utils that Ansible ships."""
    folder = Path(library.__file__).parents[3] / "lib" / "mshare" / install.PRELOAD
    return {install.PRELOAD + name: text for name, text in preloading.sources_in(str(folder)).items()}


@functools.cache
def _digest() -> str:
    return install.digest(sources())


def _documents(text: str) -> list[Fields]:
    """The JSON documents in a text, one behind the other; none where there is anything else."""
    found, decoder, rest = [], json.JSONDecoder(), text.strip()
    while rest:
        try:
            document, end = decoder.raw_decode(rest)
        except ValueError:
            return []
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def for_each(name: str, many: str, arguments: Fields, alternatives: tuple[str, ...] = ()) -> list[Fields]:
    """The arguments of each region, as the module takes them together; none where it would complain."""
    common = {key: value for key, value in arguments.items() if key != many}
    entries = arguments.get(many)
    if entries is None:
        return [common]
    if not isinstance(entries, list) or name in common or not all(isinstance(one, dict) for one in entries):
        return []
    return [_merged(common, entry, alternatives) for entry in entries]


def _merged(common: Fields, entry: Fields, alternatives: tuple[str, ...]) -> Fields:
    given = {key: value for key, value in entry.items() if value is not None}
    others = dict.fromkeys(alternatives) if given.keys() & set(alternatives) else {}
    return {**common, **others, **given}


def of_each(name: str, facts: str, many: bool, asked: list[Fields], answers: list[Fields]) -> Fields:
    """The result of a module for one region or many."""
    names = [one[name] for one in asked]
    result: Fields = {
        "regions": [
            {name: region, "changed": False, "actions": [], facts: answer[facts], "boot": answer["boot"]}
            for region, answer in zip(names, answers)
        ],
        "diff": {
            side: {region: answer[side] for region, answer in zip(names, answers)}
            for side in ("before", "after")
        },
    }
    if not many:
        (answer,) = answers
        result.update({facts: answer[facts]}, boot=answer["boot"])
        result["diff"] = {side: answer[side] for side in ("before", "after")}
    return result
