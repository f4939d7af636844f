# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes down each task's result, as a line of JSON, in the file that RECORD_TO names."""

from __future__ import annotations

DOCUMENTATION = r"""
name: record
type: notification
short_description: Write down results as JSON
description: Writes down each task's result as a line of JSON, for tests.
author: dbmem.mshare contributors
"""

import json  # noqa: E402
import os  # noqa: E402

from ansible.plugins.callback import CallbackBase  # noqa: E402


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "record"

    def _write(self, entry):
        with open(os.environ["RECORD_TO"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, default=str) + "\n")

    def _write_task(self, status, result):
        if "include_" in result._task.action:
            return
        entry = {"host": result._host.get_name(), "task": result._task.get_name(), "status": status}
        self._write({**entry, "result": dict(result._result)})

    def v2_runner_on_ok(self, result):
        self._write_task("ok", result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write_task("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result):
        self._write_task("unreachable", result)

    def v2_playbook_on_stats(self, stats):
        hosts = sorted(stats.processed)
        self._write({"recap": {host: stats.summarize(host) for host in hosts}})
