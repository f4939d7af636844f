# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing about what is wanted, of one region or of several.

For one the command does it. For several it is only asked whether anything is to be done, for the module judges
all of them before it changes the first.
"""

from __future__ import annotations

from ansible_collections.dbmem.mshare.plugins.module_utils import _each
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import Outcome
from ansible_collections.dbmem.mshare.plugins.plugin_utils.command_line import (
    Command,
    CommandLineAction,
    Fields,
)


class ConvergingAction(CommandLineAction):
    """Has something present or absent."""

    PRESENT: Command
    ABSENT: Command

    def _line(self, executable: str, arguments: Fields, check: bool) -> str | None:
        state = arguments.get("state", "present")
        command = {"present": self.PRESENT, "absent": self.ABSENT}.get(str(state))
        if command is None:
            return None
        others = {key: value for key, value in arguments.items() if key != "state"}
        return command.line(executable, others, *(["--check"] if check else []))

    def _lines(self, executable: str, arguments: Fields) -> list[str | None]:
        return [self._line(executable, arguments, self._task.check_mode)]

    def _result(self, answers: list[Fields]) -> Fields | None:
        (answer,) = answers
        return {
            **{key: answer[key] for key in ("changed", "actions", "warnings", "boot")},
            "diff": {side: answer[side] for side in ("before", "after")},
            **self._facts(answer),
        }

    def _facts(self, answer: Fields) -> Fields:
        """What was found, as the module calls it."""
        raise NotImplementedError


class EachAction(ConvergingAction):
    """Has one region, or what belongs to it, present or absent, or each of several."""

    NAME: str
    """The option for one region."""
    LIST: str
    """The option for several."""
    FACTS: str
    """What is found of each, as the module and the command call it."""
    ALTERNATIVES: tuple[str, ...] = ()
    """Options of which a region has one: an entry that gives one takes none of the others."""

    def _settled(self, facts: Fields) -> bool:
        """Whether what was found, where nothing is to be done, is as it should be."""
        raise NotImplementedError

    def _lines(self, executable: str, arguments: Fields) -> list[str | None]:
        entries = arguments.get(self.LIST)
        if entries is None:
            return super()._lines(executable, arguments)
        common = {key: value for key, value in arguments.items() if key != self.LIST}
        known = isinstance(entries, list) and all(isinstance(one, dict) for one in entries)
        if not known or self.NAME in common:
            return []
        return [
            self._line(executable, _each.merged(common, entry, self.ALTERNATIVES), True) for entry in entries
        ]

    @property
    def _entries(self) -> list[Fields] | None:
        entries: list[Fields] | None = self._task.args.get(self.LIST)
        return entries

    def _failure(self, answer: Fields) -> Fields | None:
        return super()._failure(answer) if self._entries is None else None

    def _result(self, answers: list[Fields]) -> Fields | None:
        many = self._entries is not None
        if many and any(answer["changed"] or not self._settled(answer[self.FACTS]) for answer in answers):
            return None
        outcomes = {
            entry[self.NAME]: self._outcome(answer)
            for entry, answer in zip(self._entries or [self._task.args], answers)
        }
        results = _each.results(self.NAME, self.FACTS, outcomes, many=many)
        return {**results, "warnings": _each.warnings(outcomes)}

    def _outcome(self, answer: Fields) -> Outcome:
        """What the command said, as the library has it."""
        said = ("changed", "actions", "before", "after", "boot", "warnings")
        return Outcome(**{key: answer[key] for key in said}, facts=answer[self.FACTS])
