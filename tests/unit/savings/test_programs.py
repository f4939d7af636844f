# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validating a region's clients: who counts as a client, and when there is nothing to validate."""

from __future__ import annotations

from functools import partial

import pytest

from mshare.errors import MshareError, Unavailable
from mshare.host.processes import Process
from mshare.savings import programs, validate


def where(here):
    return {"backend": "simulated", "root": str(here.root)}


def test_without_clients_there_is_nothing_to_validate(here):
    with here.owned(), pytest.raises(MshareError, match=r"no clients of region sga .*validate"):
        validate.validate("sga", **where(here))


def test_the_clients_of_a_launcher(here):
    with here.owned():
        here.ok("clients", "start", "sga", "--count", "2", "--span", "64MiB")
        found = validate.validate("sga", **where(here))
        answer = validate.result(found)
    assert answer["clients"]["attached"] == 2
    assert answer["figures"]["without_sharing_per_client"]["kind"] == "measured"
    assert answer["passed"] is found.passed is True
    assert answer["summary"] == found.summary_lines()


def test_nobody_but_the_owner(here):
    with here.owned():
        assert programs.attached_programs(str(here.root), "sga", "simulated") is None


def test_a_failure_names_its_region_among_several(here):
    with here.owned(), pytest.raises(MshareError, match=r"^region sga: no clients"):
        validate.validate_each(["sga", "other"], partial(validate.validate, **where(here)))


def test_several_have_one_verdict(here):
    with here.owned():
        here.ok("clients", "start", "sga", "--count", "2", "--span", "64MiB")
        found = validate.validate_each(["sga"], partial(validate.validate, **where(here)))
    both = {"a": found["sga"], "b": found["sga"]}
    answer = validate.results(both)
    assert [entry["region"] for entry in answer["regions"]] == ["a", "b"]
    assert answer["passed"] is True
    assert "" in answer["summary"]
    assert validate.failure(both, ["x", "y"]) == "the validation of region a, b failed: x; y"


@pytest.mark.parametrize("error", [PermissionError(), FileNotFoundError()])
def test_page_tables_that_may_not_be_read_are_an_error_and_no_zero(error, monkeypatch):
    def refuse(pid):
        raise error

    monkeypatch.setattr(programs.pagemap, "Pagemap", refuse)
    process = Process(7, b"Name:\tpostgres\nPPid:\t1\n", 4096)
    if isinstance(error, FileNotFoundError):
        assert programs._tables_bytes(process, []) == 0, "it has ended"
        return
    with pytest.raises(Unavailable, match=r"process 7 \(postgres\) has the region mapped, and uid"):
        programs._tables_bytes(process, [])
