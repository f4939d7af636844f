# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reasons against transparent huge pages, which the plan and the collapse itself have in common."""

from __future__ import annotations

import pytest

from mshare.collapse import gates


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (gates.of_kind("anonymous"), None),
        (gates.of_kind("posix"), None),
        (gates.of_kind("file"), "a segment of kind file is not shmem memory"),
        (gates.of_kind("hugetlb"), "a segment of kind hugetlb is not shmem memory"),
        (gates.of_place(0x200000, True), None),
        (gates.of_place(0x201000, False), "its address 0x201000 is not congruent to its offset modulo 2 MiB"),
        (gates.of_setting("never"), None),
        (gates.of_setting(None), None),
        (gates.of_setting("deny"), "shmem_enabled is deny"),
        (gates.of_process(True), None),
        (gates.of_process(None), None),
        (gates.of_process(False), "its processes have transparent huge pages switched off"),
        (gates.of_kernel("6.1.0-18-amd64"), None),
        (gates.of_kernel(None), None),
        (gates.of_kernel("5.14.0-427.el9"), "kernel 5.14.0-427.el9 has no MADV_COLLAPSE"),
        # A try says more than a number: a distributor may have added it, or left it out.
        (gates.of_kernel("5.14.0-427.el9", True), None),
        (gates.of_kernel("6.12.0", False), "kernel 6.12.0 has no MADV_COLLAPSE"),
    ],
)
def test_the_reason(answer: str | None, reason: str | None) -> None:
    assert (answer or "").startswith(reason or "")
    assert (answer is None) == (reason is None)
