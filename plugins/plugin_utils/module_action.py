# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending a module, or not: what the action plugins of modules have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from ansible.plugins.action import ActionBase

Fields = dict[str, Any]


class ModuleAction(ActionBase):
    """Sends the module of its name, unless there is an answer without it."""

    TRANSFERS_FILES = False
    _supports_async = True
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> Fields:
        result: Fields = super().run(tmp, task_vars)
        # Who does not wait is to get the number of a job.
        answer = None if self._task.async_val else self._answer()
        if answer is None:
            in_background = self._task.async_val and not self._connection.has_native_async
            answer = self._execute_module(
                module_args=self._arguments(), task_vars=task_vars, wrap_async=in_background
            )
        return {**result, **answer}

    def _arguments(self) -> Fields:
        """What the module is called with."""
        return dict(self._task.args)

    @abstractmethod
    def _answer(self) -> Fields | None:
        """What the module would return, where that is known already."""
