# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module takes along to a host stays small: the library grows, and no module takes it all."""

from __future__ import annotations

import pytest

from checks.layout import modules
from checks.shipped import shipped

MOST = 80
# mshare_info is what one runs on a whole fleet. It sent 27 when the library had neither
# folders nor typed records.
MOST_OF = {"mshare_info": 34}
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
