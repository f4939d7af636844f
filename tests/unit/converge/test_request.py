# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One request or many: all are judged before the first changes anything."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from mshare.converge import outcome, request
from mshare.converge.outcome import ABSENT, Outcome, chosen, differing_keys
from mshare.converge.request import Halted, Request, apply, apply_all
from mshare.converge.spec import Spec
from mshare.errors import Conflict, InvalidRequest, MshareError
from mshare.services import lock


@dataclass
class Asked(Request):
    """Notes what is asked of it, and refuses where it is told to."""

    name: str
    refuses: tuple[bool, ...] = ()
    """In a check run, when acting, or both."""
    seen: list[bool] = field(default_factory=list)

    @property
    def region(self) -> str:
        return self.name

    def converge(self, check: bool) -> Outcome:
        self.seen.append(check)
        if check in self.refuses:
            raise Conflict(f"{self.name} is in the way")
        return Outcome(True, [f"make {self.name}"], ABSENT, {"state": "present"})


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "state"))


def test_all_are_judged_before_the_first_is_acted_upon():
    asked = [Asked("a"), Asked("b", refuses=(True,))]
    with pytest.raises(
        Halted, match=r"^region b \(2 of 2\): b is in the way; nothing was changed$"
    ) as caught:
        apply_all(asked)
    assert [one.seen for one in asked] == [[True], [True]]
    assert (caught.value.kind, caught.value.exit_code) == (Conflict.kind, Conflict.exit_code)
    assert caught.value.done == {}


@pytest.mark.parametrize("kind", ["regions", "clients", "mounts", "collapse"])
def test_an_empty_directory_that_a_killed_process_left_goes(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config" / kind).mkdir(parents=True)
    apply_all([Asked("a")], check=True)
    assert (tmp_path / "config" / kind).exists()
    apply_all([Asked("a")])
    assert list(tmp_path.iterdir()) == []


def test_a_specification_that_is_left_keeps_its_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path / "config"))
    spec = tmp_path / "config" / "regions" / "b.json"
    spec.parent.mkdir(parents=True)
    spec.touch()
    apply_all([Asked("a")])
    assert spec.exists()


def test_what_was_done_before_a_failure_is_told():
    asked = [Asked("a"), Asked("b", refuses=(False,))]
    with pytest.raises(Halted, match="done before that: make a") as caught:
        apply_all(asked)
    assert list(caught.value.done) == ["a"]


def test_a_check_run_asks_once():
    asked = [Asked("a"), Asked("b")]
    assert list(apply_all(asked, check=True)) == ["a", "b"]
    assert [one.seen for one in asked] == [[True], [True]]


def test_a_region_twice_is_refused_unseen():
    asked = [Asked("a"), Asked("b"), Asked("a")]
    with pytest.raises(InvalidRequest, match="region a is in the list more than once"):
        apply_all(asked)
    assert [one.seen for one in asked] == [[], [], []]


def test_together_too_much_is_refused_before_anything_is_done(monkeypatch):
    def refuse(fills: object) -> None:
        raise MshareError("too much in all")

    monkeypatch.setattr(request.memory, "check_together", refuse)
    asked = [Asked("a"), Asked("b")]
    with pytest.raises(MshareError, match="too much in all"):
        apply_all(asked)
    assert [one.seen for one in asked] == [[True], [True]]


def test_nothing_of_the_turn_is_left(tmp_path):
    assert apply(Asked("a")).changed
    assert not (tmp_path / "state").exists()


def test_steps_that_are_to_be_taken():
    assert chosen([(True, "a"), (False, "b"), (True, "c")]) == ["a", "c"]


def test_keys_in_which_a_stored_spec_differs():
    @dataclass(frozen=True)
    class Sized(Spec):
        size: int
        group: str | None = None

    assert differing_keys(Sized(1), None) == []
    assert differing_keys(Sized(1), {"size": 1}) == []
    assert differing_keys(Sized(1, "dba"), {"size": 2}) == ["group", "size"]


def test_a_spec_file_is_put_back_where_the_rest_fails(tmp_path):
    path = tmp_path / "regions" / "a.json"
    path.parent.mkdir()
    path.write_text("as it was")
    with pytest.raises(ZeroDivisionError), outcome.spec_written(str(path), "new"):
        1 / ("as it was" in path.read_text())
    assert path.read_text() == "as it was"


def test_what_has_several_steps_has_one_turn():
    """Each step would take its own otherwise, and wait for itself."""
    with outcome.one_at_a_time(False):
        with outcome.one_at_a_time(False):
            pass
        # Others still wait: the turn ends with the outer one.
        assert lock.holder(outcome._lock()) == os.getpid()
    assert not os.path.exists(outcome._lock())


def test_steps_are_undone_the_last_first_and_only_on_a_failure():
    undone = []

    def steps(error):
        with outcome.Undo() as undo:
            undo.add(lambda: undone.append("first"))
            undo.add(lambda: undone.append("second"))
            if error is not None:
                raise error

    steps(None)
    assert undone == []
    with pytest.raises(KeyboardInterrupt):
        steps(KeyboardInterrupt())
    assert undone == ["second", "first"]
