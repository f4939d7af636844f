# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module takes along to a host stays small: the library grows, and no module takes it all."""

from __future__ import annotations

import pytest

from checks.layout import modules
from checks.shipped import shipped

# What was measured (`python -m checks.shipped`): a bound only gets lower, or there is a reason for more.
# 67: what keeps a server collapsed (runtime), and PostgreSQL's facts as a record of their own.
MOST = 67
MOST_OF = {
    # These are run on a whole fleet.
    "mshare_info": 23,
    # Its figures for alerts are the plan's as well.
    "mshare_survey": 60,
    # It knows every manager, Patroni's store and restarts among them, and the accounts that servers run as.
    # What is asked for in a list is judged together: memory, and room for processes.
    # 83: parameters in that store, and huge_pages among them, each a file; what the loader would do.
    "mshare_postgresql": 83,
    # It lists the clusters that do not run, by the units and managers that start them.
    "mshare_huge_pages": 85,
    # It surveys, plans, and applies what the other modules apply.
    "mshare_remedy": 128,
}
# They run on the controller only.
NEVER_SENT = {path.stem for path in modules() if "AnsibleModule(" not in path.read_text()}


@pytest.fixture(scope="module")
def sent() -> dict[str, list[str]]:
    return shipped()


def test_every_module_is_counted(sent: dict[str, list[str]]) -> None:
    assert sent.keys() | NEVER_SENT == {path.stem for path in modules()}


def test_no_module_takes_the_whole_library_along(sent: dict[str, list[str]]) -> None:
    counts = {module: len(files) for module, files in sent.items()}
    assert {module: count for module, count in counts.items() if count > MOST_OF.get(module, MOST)} == {}


def test_a_module_that_looks_takes_nothing_along_that_acts(sent: dict[str, list[str]]) -> None:
    acting = ("/converge.py", "/install.py", "/owner.py", "/launcher.py", "/cli/")
    for module in ("mshare_info", "mshare_survey"):
        assert [file for file in sent[module] if any(part in file for part in acting)] == [], module


def test_facts_take_no_system_calls_along(sent: dict[str, list[str]]) -> None:
    calling = ("/kernel/calls/", "/kernel/syscalls.py", "/kernel/_libc.py", "/backends/base.py")
    assert [file for file in sent["mshare_info"] if any(part in file for part in calling)] == []
