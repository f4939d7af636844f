# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of users and groups, with their numbers where there is no name."""

from __future__ import annotations

import grp
import pwd

import pytest

from mshare.errors import Unavailable
from mshare.host import accounts


def free_number(taken: set[int]) -> int:
    return next(number for number in range(60_000, 65_000) if number not in taken)


def test_names():
    first_user, first_group = pwd.getpwall()[0], grp.getgrall()[0]
    assert accounts.user(first_user.pw_uid) == pwd.getpwuid(first_user.pw_uid).pw_name
    assert accounts.group(first_group.gr_gid) == grp.getgrgid(first_group.gr_gid).gr_name


def test_a_number_that_nobody_has():
    uid = free_number({entry.pw_uid for entry in pwd.getpwall()})
    gid = free_number({entry.gr_gid for entry in grp.getgrall()})
    assert (accounts.user(uid), accounts.group(gid)) == (str(uid), str(gid))


@pytest.mark.parametrize("number", [-2, 1 << 40])
def test_a_number_that_no_account_can_have(number):
    assert (accounts.user(number), accounts.group(number)) == (str(number), str(number))


@pytest.mark.parametrize("user", [4294967000, "no-such-user-of-mshare"])
def test_an_account_that_is_not_there_is_told(user):
    with pytest.raises(Unavailable, match=rf"^there is no user {user} .*`getent passwd {user}`"):
        accounts.entry(user)


def test_an_account_by_uid_or_name():
    assert accounts.entry(0) == accounts.entry("root")
