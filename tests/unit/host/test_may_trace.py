# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a process may look into others, with and without the capability for it."""

from __future__ import annotations

import os

import pytest

from mshare.host import procfs
from rig.survey_parts import python


@pytest.mark.parametrize(
    ("mask", "may"), [("0000000000080000", True), ("000001ffffffffff", True), ("0", False)]
)
def test_by_the_effective_set(mask, may, monkeypatch):
    monkeypatch.setattr(procfs, "read", lambda path: f"Name:\tx\nCapPrm:\tffffffff\nCapEff:\t{mask}\n")
    assert procfs.may_trace() == may


@pytest.mark.skipif(os.geteuid() != 0, reason="gives capabilities up: root only")
def test_of_a_real_process():
    code = "from mshare.host import procfs; print(procfs.may_trace())"
    drop = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "--")
    assert python(code).stdout == "True\n"
    assert python(code, *drop).stdout == "False\n"
