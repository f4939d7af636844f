# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The surveys' user; tests/fleet makes and removes it."""

from __future__ import annotations

import os
import subprocess

import pytest

from mshare.monitoring import account


@pytest.mark.skipif(os.geteuid() != 0, reason="runs a process as another user")
def test_the_user_is_removed_once_its_last_survey_has_ended(monkeypatch):
    """cron goes on with what it has started, and userdel refuses a user who runs something."""
    looks, ran = [], []
    uid = 4_000_000_000 + os.getpid()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=uid) as survey:

        def pause(seconds):
            looks.append(survey.poll())
            if len(looks) == 3:
                survey.communicate()

        monkeypatch.setattr(account.time, "sleep", pause)
        monkeypatch.setattr(account.commands, "find", lambda name: f"/usr/sbin/{name}")
        monkeypatch.setattr(
            account.commands, "run", lambda *words, next_step: ran.append((words, survey.poll()))
        )
        account.remove(account.Account(uid, uid))
    assert looks == [None] * 3
    assert ran == [(("/usr/sbin/userdel", "mshare-monitoring"), 0)]


def test_one_that_does_not_end_is_left_to_userdel_to_name(monkeypatch):
    looks, ran = [], []
    monkeypatch.setattr(account.time, "sleep", looks.append)
    monkeypatch.setattr(account, "_LOOKS", 3)
    monkeypatch.setattr(account.commands, "run", lambda *words, next_step: ran.append(next_step))
    account.remove(account.Account(os.getuid(), os.getgid()))
    assert len(looks) == 3
    assert ran == ["change the user by hand, and run this again"]
