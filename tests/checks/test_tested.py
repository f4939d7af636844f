# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/unit has the folders of the library, every module a test there, and CONTRIBUTING says where."""

from __future__ import annotations

from checks import tested

# Tested through the module that uses them, by no test of their own yet. This list only gets shorter.
THROUGH_OTHERS: set[str] = {
    "backends.simulated.watch",
    "backends.simulated.window",
    "clients.launcher",
    "clients.roll",
    "plan.outlook",
    "postgresql.managers.containers",
    "postgresql.unit_files",
    "report.page",
    "survey.attribution",
    "survey.groups",
    "survey.host",
}


def test_every_module_has_a_test_in_its_folder() -> None:
    assert set(tested.untested()) - THROUGH_OTHERS == set()


def test_the_list_of_exceptions_only_gets_shorter() -> None:
    assert THROUGH_OTHERS - set(tested.untested()) == set(), "tested by now, or gone: take it off the list"


def test_folders_of_tests_are_folders_of_the_library() -> None:
    others = {"plugins"}
    folders = {path.name for path in tested.UNIT.iterdir() if any(path.glob("**/test_*.py"))}
    assert folders - others <= {path.name for path in tested.LIBRARY.iterdir()}


def test_contributing_says_where() -> None:
    assert tested.CONTRIBUTING.read_text() == tested.written(), "type `make docs`"
