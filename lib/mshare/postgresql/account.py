# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The group by which a cluster's owner may make regions."""

from __future__ import annotations

import grp
import os
import stat

from ..errors import Conflict
from ..host import accounts, commands


def group_needed(owner: str, root: str) -> str | None:
    """The group that a user has to join to make files in a folder; None if it may already, or there is none.

    Conflict where no group would help.
    """
    try:
        status = os.stat(root)
    except FileNotFoundError:
        return None
    user = accounts.entry(owner)
    if status.st_uid == user.pw_uid:
        return None
    if status.st_gid in os.getgrouplist(owner, user.pw_gid):
        allowed = status.st_mode & stat.S_IRWXG == stat.S_IRWXG
    else:
        if status.st_mode & stat.S_IRWXO == stat.S_IRWXO:
            return None
        if status.st_gid != 0 and status.st_mode & stat.S_IRWXG == stat.S_IRWXG:
            return accounts.group(status.st_gid)
        allowed = False
    if allowed:
        return None
    raise Conflict(
        f"{owner} may not make regions on the msharefs at {root} (mode {stat.S_IMODE(status.st_mode):04o},"
        f" group {accounts.group(status.st_gid)}); give msharefs its own"
        " group (mshare_msharefs_group)"
    )


def join(owner: str, group: str) -> None:
    _run("gpasswd", "--add", owner, group)


def leave(owner: str, group: str) -> None:
    """Take a user out of a group, if the user is in it."""
    try:
        if owner not in grp.getgrnam(group).gr_mem:
            return
    except KeyError:
        return
    _run("gpasswd", "--delete", owner, group)


def _run(*words: str) -> None:
    commands.run(*words, next_step="change the group by hand, and run this again")
