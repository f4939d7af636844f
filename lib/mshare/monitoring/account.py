# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user that surveys: without a home, a shell or a password."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass

from ..errors import Conflict, Unavailable
from ..host import commands, processes
from .spec import USER

_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false")
_NEXT_STEP = "change the user by hand, and run this again"
_LOOKS, _PAUSE_SECONDS = 700, 0.1
"""For as long as a survey is given time."""
_SYSTEM_UIDS = 1000
"""People have uids from here on."""


@dataclass(frozen=True)
class Account:
    """The user, by its numbers."""

    uid: int
    gid: int


def current() -> Account | None:
    """The user, if there is one; Conflict for a person's."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return None
    if entry.pw_uid == 0 or entry.pw_uid >= _SYSTEM_UIDS:
        raise Conflict(
            f"user {USER} (uid {entry.pw_uid}) is no system user, so surveys do not run as that; rename it"
        )
    return Account(entry.pw_uid, entry.pw_gid)


def require_programs() -> None:
    """Unavailable on a host that cannot make users."""
    if commands.find("useradd") is None:
        raise Unavailable(
            f"this host has no useradd, so user {USER} cannot be made; make it by hand, as a system user"
        )


def make() -> Account:
    shell = next((shell for shell in _SHELLS if os.path.exists(shell)), _SHELLS[-1])
    words = ("--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", shell)
    commands.run(commands.find("useradd") or "useradd", *words, USER, next_step=_NEXT_STEP)
    account = current()
    assert account is not None
    return account


def remove(account: Account) -> None:
    """Remove the user, once the survey that cron may just have started as that user has ended."""
    for __ in range(_LOOKS):
        if not any(account.uid in process.uids for process in processes.read_all().processes):
            break
        time.sleep(_PAUSE_SECONDS)
    # It says which process still runs as that user.
    commands.run(commands.find("userdel") or "userdel", USER, next_step=_NEXT_STEP)
