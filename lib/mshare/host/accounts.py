# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of users and groups, or their numbers where this host has no name for them."""

from __future__ import annotations

import grp
import pwd

from ..errors import Unavailable


def entry(user: int | str) -> pwd.struct_passwd:
    """The account of a uid or a name; Unavailable where the host has none, or cannot tell now."""
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        raise Unavailable(
            f"there is no user {user} in this host's accounts, or they cannot be read now; see"
            f" `getent passwd {user}`, and run this again"
        ) from None


def user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)
