# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of steps: tried, written down, done, and undone from the last to the first. No server is touched:
the parts are replaced, and note what they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mshare import files
from mshare.converge.outcome import Outcome
from mshare.errors import Conflict, MshareError, Unavailable
from mshare.plan import facts as plan_facts
from mshare.plan.plan import plan as make_plan
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.spec import NATIVE, ClusterSpec
from mshare.remedy import converge
from mshare.remedy import recorded as written_down
from mshare.remedy.decide import Choice, Decision
from mshare.remedy.recorded import Entry, Recorded
from mshare.remedy.spec import RemedySpec
from mshare.survey.record import from_fields
from mshare.units import GIB, MIB
from rig import surveys
from rig.world import World

SPEC = RemedySpec(NATIVE, restart=True)


def cluster(name: str) -> Cluster:
    return Cluster("15", name, f"/data/{name}", 0, 0, f"/etc/postgresql/15/{name}", "/usr/bin")


def choice(name: str, pages: str | None = NATIVE) -> Choice:
    spec = None if pages is None else ClusterSpec(pages)
    page_bytes = 2 * MIB if pages in (NATIVE, "hugetlb") else None
    return Choice(
        f"postgresql {name}", cluster(name), pages or "collapse", spec, page_bytes, "it was asked for"
    )


def entry(name: str, pages: str | None = NATIVE) -> Entry:
    return Entry("15", name, f"/data/{name}", pages or "collapse", pages, None, None)


class Host:
    """What is there, and what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.native: set[str] = set()
        self.broken: set[str] = set()
        self.refused: str | None = None
        self.clusters: list[Cluster] = []
        """What every cluster of the host is; none of them runs."""
        self.planned: list[int] = []
        """Pages that each cluster was told the pool would have by then."""
        self.pages = 0
        self.segment: Any = None
        self.released_bytes: list[int] = []
        """What check runs of the pool were told."""
        self.recorded: list[Recorded] = []

    def facts(self, name: str, waits: bool = False) -> Any:
        return SimpleNamespace(
            page_tables=SimpleNamespace(before=None, after=None),
            restarted=False,
            restart_required=waits,
            restart_reason="it is elsewhere" if waits else None,
            segment=self.segment,
            align_only=False,
        )

    def present(
        self, wanted: ClusterSpec, *, name: str, check: bool, restart: bool, planned_pages: int, **how: Any
    ) -> Outcome[Any]:
        if check:
            self.planned.append(planned_pages)
        if name == self.refused:
            raise Conflict(f"{name} is refused")
        changed = name not in self.native
        if not check:
            self.asked.append(f"{name} {wanted.pages}")
            self.recorded.append(written_down.load())
            if name in self.broken:
                raise MshareError(f"{name} does not start")
            self.native.add(name)
        actions = [f"restart {name}"] if changed else []
        return Outcome(changed, actions, {}, {}, self.facts(name, changed and not restart))

    def absent(self, *, name: str, restart: bool, check: bool = False, **how: Any) -> Outcome[Any]:
        changed = name in self.native
        if not check:
            self.asked.append(f"{name} back")
            if restart:
                self.native.discard(name)
        return Outcome(
            changed, ["restore"] if changed else [], {}, {}, self.facts(name, changed and not restart)
        )

    def pool(self, spec: Any, *, check: bool = False, **how: Any) -> Any:
        before, wanted = self.pages, 80
        if not check:
            self.asked.append("pool")
            self.pages = wanted
        changed = before != wanted
        facts = SimpleNamespace(page_bytes=1 << 21, before=before, wanted=wanted, granted=self.pages)
        return SimpleNamespace(
            changed=changed,
            failure=None,
            pools=(facts,),
            actions=("reserve",) if changed else (),
            before={},
            after={},
            warnings=(),
        )

    def no_pool(self, *, check: bool = False, released_bytes: int = 0) -> Any:
        changed = self.pages > 0
        if check:
            self.released_bytes.append(released_bytes)
        if not check:
            self.asked.append("pool back")
            self.pages = 0
        return SimpleNamespace(
            changed=changed, failure=None, actions=("give back",), before={}, after={}, warnings=()
        )


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, here: World) -> Host:
    found = Host()
    monkeypatch.setattr(converge, "postgresql_present", found.present)
    monkeypatch.setattr(converge, "postgresql_absent", found.absent)
    monkeypatch.setattr(converge.huge_pages, "present", found.pool)
    monkeypatch.setattr(converge.huge_pages, "absent", found.no_pool)
    monkeypatch.setattr(converge.files, "stored", lambda cluster: None)
    monkeypatch.setattr(converge.clusters, "find", lambda version, name: cluster(name))
    monkeypatch.setattr(converge.clusters, "every", lambda: found.clusters)
    monkeypatch.setattr(converge.stopped.server, "running", lambda cluster: None)
    monkeypatch.setattr(converge, "_verdicts", lambda plan: ["the plan"])
    monkeypatch.setattr(converge, "counted", lambda survey, choices: ())
    gone = Outcome(False, [], {}, {})
    monkeypatch.setattr(converge.collapsing, "let_go", lambda target, check=False: gone)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(*choices: Choice, spec: RemedySpec = SPEC, check: bool = False) -> Any:
        decision = Decision(choices, (), None)  # type: ignore[arg-type]
        monkeypatch.setattr(converge, "decide", lambda spec, survey, recorded: decision)
        return converge.present(spec, check=check, survey=lambda: from_fields(surveys.survey("db", [])))

    return run


def test_everything_is_written_down_before_it_is_done(host: Host, run: Callable[..., Any]) -> None:
    result = run(choice("a"), choice("b"))
    assert host.asked == ["pool", "a native", "b native"]
    assert host.recorded[0] == Recorded(pool=True, entries=(entry("a"), entry("b")))
    assert written_down.load() == host.recorded[0]
    assert (result.changed, result.recorded) == (True, True)
    assert result.actions == ("reserve", "restart a", "restart b")
    assert (result.pool.before, result.pool.pages) == (0, 80)


def test_a_second_run_does_nothing(host: Host, run: Callable[..., Any]) -> None:
    run(choice("a"))
    host.asked.clear()
    again = run(choice("a"))
    assert (host.asked, again.changed) == ([], False)
    assert again.lines()[0] == "Nothing to do."


def test_a_check_run_does_nothing(host: Host, run: Callable[..., Any]) -> None:
    result = run(choice("a"), check=True)
    assert (host.asked, result.changed, written_down.load()) == ([], True, Recorded())
    assert "Would restart a." in result.lines()
    assert result.plan == ("the plan",)


def test_what_is_refused_is_refused_before_anything_is_done(host: Host, run: Callable[..., Any]) -> None:
    host.refused = "b"
    with pytest.raises(Conflict, match="b is refused"):
        run(choice("a"), choice("b"))
    assert (host.asked, written_down.load()) == ([], Recorded())


def test_what_fails_goes_back_from_the_last_to_the_first(host: Host, run: Callable[..., Any]) -> None:
    host.broken.add("b")
    with pytest.raises(MshareError, match="b does not start; what this run had done before that is undone"):
        run(choice("a"), choice("b"))
    assert host.asked == ["pool", "a native", "b native", "a back", "pool back"]
    assert (host.native, host.pages, written_down.load()) == (set(), 0, Recorded())


def test_a_way_back_that_fails_is_told_and_stays_written_down(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.broken.add("b")

    def fail(**how: Any) -> None:
        raise Unavailable("no systemctl")

    monkeypatch.setattr(converge, "postgresql_absent", fail)
    with pytest.raises(MshareError, match=r"going back failed for cluster 15-a \(no systemctl\); run"):
        run(choice("a"), choice("b"))
    assert host.pages == 0
    assert [each.name for each in written_down.load().entries] == ["a", "b"]


def test_an_earlier_run_is_not_undone_by_a_later_one(host: Host, run: Callable[..., Any]) -> None:
    run(choice("a"))
    before = written_down.load()
    host.broken.add("b")
    with pytest.raises(MshareError, match="b does not start; nothing else was changed"):
        run(choice("a"), choice("b"))
    assert (host.native, host.pages, written_down.load()) == ({"a"}, 80, before)


def test_a_pool_of_somebody_else_s_is_used_as_it_is(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converge.pool_before, "load", lambda: True)
    result = run(choice("a"))
    assert "pool" not in host.asked
    assert not written_down.load().pool
    assert any("set up by mshare_huge_pages" in text for text in result.warnings)


def test_a_pool_that_nobody_needs_any_more_is_given_back(host: Host, run: Callable[..., Any]) -> None:
    run(choice("a"))
    host.native.clear()
    host.asked.clear()
    run(choice("a", "thp"))
    assert host.asked == ["a thp", "pool back"]


def test_undone_is_what_was_written_down(host: Host, run: Callable[..., Any]) -> None:
    run(choice("a"), choice("b"))
    host.asked.clear()
    assert converge.absent(SPEC, check=True).changed
    assert host.asked == []
    result = converge.absent(SPEC)
    assert host.asked == ["a back", "b back", "pool back"]
    assert (result.changed, result.recorded, written_down.load()) == (True, False, Recorded())
    assert not converge.absent(SPEC).changed


def test_what_a_run_that_was_killed_at_once_left_is_removed(host: Host) -> None:
    """Of its record there is a beginning, and no more: nothing was done."""
    record = Path(written_down.file_path())
    left = record.with_name(f".{record.name}.0123456789abcdef.new")
    files.write_text(str(left), "{")
    action = f"remove {record}, which a run that did not end has left"
    checked = converge.absent(SPEC, check=True)
    assert (checked.changed, checked.actions, left.exists()) == (True, (action,), True)
    assert converge.absent(SPEC).actions == (action,)
    assert not left.parent.exists()
    assert not converge.absent(SPEC).changed


def test_an_undo_that_was_killed_before_it_forgot_is_completed(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(choice("a"))

    def die(recorded: Recorded) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(written_down, "save", die)
        with pytest.raises(KeyboardInterrupt):
            converge.absent(SPEC)
    assert written_down.load()
    assert converge.absent(SPEC).changed
    assert not written_down.load()
    assert not converge.absent(SPEC).changed


def test_a_check_run_knows_what_the_servers_give_back(host: Host, run: Callable[..., Any]) -> None:
    run(choice("a"), choice("b"))
    host.segment = SimpleNamespace(kind="hugetlb", size_bytes=144 << 20, text="in the pool", huge_bytes=0)
    assert converge.absent(SPEC, check=True).changed
    assert set(host.released_bytes) == {288 << 20}
    host.released_bytes.clear()
    host.segment = SimpleNamespace(kind="sysv", size_bytes=144 << 20, text="elsewhere", huge_bytes=0)
    assert converge.absent(SPEC, check=True).changed
    assert set(host.released_bytes) == {0}


def test_a_pool_in_use_by_others_is_refused_before_a_server_is_restarted(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(choice("a"))
    recorded = written_down.load()
    host.asked.clear()

    def refused(**how: Any) -> None:
        raise Conflict("60 of its 80 are in use")

    monkeypatch.setattr(converge.huge_pages, "absent", refused)
    with pytest.raises(Conflict, match="60 of its 80 are in use"):
        converge.absent(SPEC)
    assert (host.asked, host.native, written_down.load()) == ([], {"a"}, recorded)


def test_without_a_restart_the_rest_waits(host: Host, run: Callable[..., Any]) -> None:
    run(choice("a"))
    result = converge.absent(replace(SPEC, restart=False))
    assert (result.restart_required, result.recorded, host.pages) == (True, True, 80)
    assert "the pool stays as it is until the servers" in result.warnings[0]
    assert not converge.absent(SPEC).recorded
    assert host.pages == 0


def test_pages_of_another_size_are_not_what_the_pool_gets(host: Host, run: Callable[..., Any]) -> None:
    """A server with huge_page_size = 1GB finds its pages or is refused; those of 2 MiB do not serve it."""
    large = replace(choice("large"), page_bytes=GIB)
    done = run(large)
    assert done.pool is None
    assert host.planned == [0]
    assert host.asked == ["large native"]
    run(choice("usual"), large, check=True)
    assert host.planned[1:] == [80, 0]


def test_a_cluster_that_is_stopped_is_told(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.clusters = [cluster("on"), cluster("off")]
    monkeypatch.setattr(
        converge.clusters, "settings", lambda each: {"huge_pages": (each.name, "postgresql.conf")}
    )
    (warning,) = run(choice("main")).warnings
    assert warning.startswith(
        "PostgreSQL cluster 15-on does not run, so its huge pages are not counted (huge_pages = on,"
        " postgresql.conf), and how many it needs is not known: `/usr/bin/postgres"
    )


def test_what_the_pool_s_way_back_warns_of_is_told(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(choice("a"))
    given = SimpleNamespace(changed=False, failure=None, warnings=("it stays",))
    monkeypatch.setattr(converge.huge_pages, "absent", lambda **how: given)
    assert converge.absent(SPEC).warnings == ("it stays",)


def test_another_run_is_waited_for_and_what_it_did_is_surveyed(
    host: Host, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second controller: the host is examined when it has its turn, which it keeps to the end."""
    turns: list[str] = []

    @contextmanager
    def turn(check: bool) -> Iterator[None]:
        turns.append("check" if check else "turn")
        host.native.add("main")
        yield
        turns.append("end")

    monkeypatch.setattr(converge, "one_at_a_time", turn)
    host.pages = 80
    assert not run(choice("main")).changed
    assert host.asked == []
    converge.absent(SPEC)
    assert turns == ["turn", "end", "turn", "end"]


def test_what_the_plan_says_is_its_verdicts() -> None:
    facts = plan_facts.from_survey(
        from_fields(surveys.survey("db", [surveys.instance("pg", 64 * GIB, 50, 100)]))
    )
    host, *__ = lines = list(converge._verdicts(make_plan(facts)))
    assert host.startswith("db: ")
    assert any(line.startswith("pg: ") for line in lines)
    assert all(len(line) <= 80 for line in lines)
