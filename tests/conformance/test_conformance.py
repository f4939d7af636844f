# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every case on every backend it applies to; the table of results is printed at the end of the run.

pytest tests/conformance                               simulated, and the kernel if it has msharefs
MSHARE_TEST_KERNEL=require pytest tests/conformance    a kernel without msharefs is a failure
"""

from __future__ import annotations

import os

import pytest

from conformance.cases import CASES, Case, Scene
from conformance.targets import KERNEL, Target
from mshare.backends.choose import kernel_has_msharefs


def test_case(case: Case, target: Target, scene: Scene) -> None:
    case.play(scene)


def test_the_kernel_is_among_the_backends() -> None:
    if not kernel_has_msharefs():
        missing = f"kernel {os.uname().release} has no msharefs in /proc/filesystems"
        if os.environ.get("MSHARE_TEST_KERNEL") == "require":
            pytest.fail(f"MSHARE_TEST_KERNEL=require, and {missing}")
        pytest.skip(missing)
    assert KERNEL.present()


def test_the_cases_are_many_and_each_has_a_name_and_a_source_of_its_own() -> None:
    assert len(CASES) >= 200
    # A row per generation may share its words with another's.
    assert len({(case.id, case.needs) for case in CASES}) == len(CASES)
    assert all(case.source for case in CASES)
