# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applying remedies to a host, and undoing them.

Everything is tried as a check run first, so that what is refused is refused before anything is changed. What
is to be done is written down, then done step by step: the pool, the clusters, the collapses. If a step fails,
what this run did is undone in the opposite order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .. import files as files_of_ours
from ..collapse import converge as collapsing
from ..collapse.collapse import Result as Collapsed
from ..collapse.spec import FollowSpec, followed
from ..converge.outcome import Outcome, one_at_a_time
from ..errors import MshareError, Unavailable, sentence
from ..host import procfs
from ..huge_pages import before as pool_before
from ..huge_pages import converge as huge_pages
from ..huge_pages import spec as huge_pages_spec
from ..huge_pages import stopped
from ..huge_pages.converge import Around
from ..huge_pages.result import Result as PoolOutcome
from ..plan import text as plan_text
from ..plan.plan import Plan
from ..postgresql import clusters, files
from ..postgresql.clusters import Cluster
from ..postgresql.converge import postgresql_absent, postgresql_present
from ..postgresql.facts import PostgresqlFacts
from ..postgresql.spec import ClusterSpec
from ..survey.record import Survey
from ..survey.survey import survey as survey_host
from . import recorded as written_down
from .decide import POOL_PAGE_BYTES, Choice, Decision, counted, decide
from .recorded import Entry, Recorded
from .result import InstanceResult, Measured, PoolResult, Result
from .spec import MINIMUM_PERCENT, RemedySpec

_Undo = Callable[[], None]


@dataclass
class _Run:
    """A run: what it has done so far, for its result and for going back."""

    spec: RemedySpec
    check: bool
    actions: list[str] = field(default_factory=list)
    before: dict[str, object] = field(default_factory=dict)
    after: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    undo: list[tuple[str, _Undo]] = field(default_factory=list)
    """What was done, and how it is undone; the last first."""
    instances: list[InstanceResult] = field(default_factory=list)
    pool: PoolResult | None = None
    released_bytes: int = 0
    """In a check run, what servers would give back of the pool before it is restored."""

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    def add(self, outcome: Outcome[object]) -> None:
        if outcome.changed:
            self.note(outcome.actions, outcome.before, outcome.after)
        self.warnings += outcome.warnings

    def note(self, actions: list[str], before: Mapping[str, object], after: Mapping[str, object]) -> None:
        self.actions += actions
        self.before.update({key: value for key, value in before.items() if key not in self.before})
        self.after.update(after)


def present(spec: RemedySpec, *, check: bool = False, survey: Callable[[], Survey] = survey_host) -> Result:
    """Apply remedies. Afterwards each is verified, or what this run did is undone and MshareError says why.

    Raises what stands in the way before anything is changed. Another run on this host is waited for first:
    what it does is surveyed.
    """
    with one_at_a_time(check):
        return _present(spec, check, survey)


def _present(spec: RemedySpec, check: bool, survey: Callable[[], Survey]) -> Result:
    surveyed = survey()
    recorded = written_down.load()
    decision = decide(spec, surveyed, recorded)
    tables_bytes = procfs.meminfo_bytes()["PageTables"]
    tried = _apply(_Run(spec, True), decision, surveyed, recorded)
    if check or not tried.changed:
        return _result(tried, decision, tables_bytes, recorded, check)
    run = _Run(spec, False)
    after = _planned(decision, recorded)
    written_down.save(after)
    try:
        run = _apply(run, decision, surveyed, recorded)
    except (MshareError, OSError) as error:
        undone = _go_back(run)
        written_down.save(recorded if undone is None else after)
        raise _failed(error, undone, bool(run.undo)) from None
    return _result(run, decision, tables_bytes, after, check)


def _planned(decision: Decision, recorded: Recorded) -> Recorded:
    """What is written down before it is done."""
    for choice in decision.choices:
        earlier = recorded.of(choice.cluster.data_directory)
        entry = Entry(
            choice.cluster.version,
            choice.cluster.name,
            choice.cluster.data_directory,
            choice.remedy,
            None if choice.spec is None else choice.spec.pages,
            None if choice.spec is None else choice.spec.prefault,
            earlier.earlier if earlier is not None else files.stored(choice.cluster),
        )
        recorded = recorded.with_entry(entry)
    ours = recorded.pool or (_is_pooled(decision) and not pool_before.load())
    return dataclasses.replace(recorded, pool=ours)


def _is_pooled(decision: Decision) -> bool:
    return any(choice.page_bytes == POOL_PAGE_BYTES for choice in decision.choices)


def _apply(run: _Run, decision: Decision, surveyed: Survey, recorded: Recorded) -> _Run:
    """Every step, or in a check run what each would do."""
    planned_pages = _pool(run, decision, surveyed, recorded)
    for choice in decision.choices:
        more = planned_pages if choice.page_bytes == POOL_PAGE_BYTES else 0
        facts = None if choice.spec is None else _cluster(run, choice, more)
        _follow(run, choice, facts)
    if recorded.pool and not _is_pooled(decision):
        _give_pool_back(run)
    return run


def _pool(run: _Run, decision: Decision, surveyed: Survey, recorded: Recorded) -> int:
    """Enlarge the pool; how many pages it has more, or in a check run would have."""
    if not _is_pooled(decision):
        return 0
    if pool_before.load() and not recorded.pool:
        run.warnings.append(
            "the pools of this host were set up by mshare_huge_pages, so they are used as they are"
        )
        return 0
    wanted = huge_pages_spec.make(
        [{"size": f"{POOL_PAGE_BYTES}B", "wanted": "auto"}],
        spare=run.spec.spare,
        share_of_ram_max=run.spec.share_of_ram_max,
        instances=counted(surveyed, decision.choices),
        persist=run.spec.persist,
    )
    around = Around(survey=lambda: surveyed)
    outcome = huge_pages.present(wanted, check=True, around=around)
    (pool,) = outcome.pools
    if recorded.pool and pool.before >= pool.wanted:
        # Others may have given pages back since: that is no reason to take them away.
        run.pool = PoolResult(pool.page_bytes, pool.before, pool.before)
        return 0
    if not run.check:
        outcome = huge_pages.present(wanted, around=around)
        _require_done(outcome)
        (pool,) = outcome.pools
    if outcome.changed:
        run.note(list(outcome.actions), outcome.before, outcome.after)
        if not recorded.pool:
            run.undo.append(("the pool", lambda: _require_done(huge_pages.absent())))
    sids = [each.sid for each in surveyed.instances if each.sid]
    run.warnings += [
        *outcome.warnings,
        *stopped.warnings(POOL_PAGE_BYTES, surveyed.host.huge_page_default_bytes, sids),
    ]
    pages = pool.wanted if run.check else pool.granted
    run.pool = PoolResult(pool.page_bytes, pool.before, pages)
    return max(0, pool.wanted - pool.before)


def _require_done(outcome: PoolOutcome) -> None:
    if outcome.failure is not None:
        raise MshareError(outcome.failure)


def _give_pool_back(run: _Run) -> None:
    outcome = huge_pages.absent(check=run.check, released_bytes=run.released_bytes)
    if outcome.failure is not None:
        raise MshareError(outcome.failure)
    if outcome.changed:
        run.note(list(outcome.actions), outcome.before, outcome.after)
    run.warnings += outcome.warnings


def _cluster(run: _Run, choice: Choice, planned_pages: int) -> PostgresqlFacts | None:
    assert choice.spec is not None
    cluster = choice.cluster
    earlier = written_down.spec_from(files.stored(cluster))
    outcome = postgresql_present(
        choice.spec,
        version=cluster.version,
        name=cluster.name,
        restart=run.spec.restart,
        probes=run.spec.probes,
        planned_pages=planned_pages if run.check else 0,
        check=run.check,
    )
    if outcome.changed and not run.check:
        run.undo.append((f"cluster {cluster.id}", lambda: _back(cluster, earlier, run.spec)))
    run.add(outcome)
    facts = outcome.facts
    assert facts is not None
    if choice.page_bytes is None:
        run.released_bytes += _pool_bytes(run, facts)
    run.instances.append(_instance_result(choice, outcome.changed, facts))
    return facts


def _pool_bytes(run: _Run, facts: PostgresqlFacts) -> int:
    """What a check run finds in a server and its restart would give back; in a real run it has been."""
    segment = facts.segment
    if not run.check or not run.spec.restart or segment is None or segment.kind != "hugetlb":
        return 0
    return segment.size_bytes


def _back(cluster: Cluster, earlier: ClusterSpec | None, spec: RemedySpec) -> None:
    how = {"version": cluster.version, "name": cluster.name, "restart": spec.restart, "probes": 0}
    if earlier is None:
        postgresql_absent(**how)  # type: ignore[arg-type]
    else:
        postgresql_present(earlier, **how)  # type: ignore[arg-type]


def _instance_result(choice: Choice, changed: bool, facts: PostgresqlFacts) -> InstanceResult:
    measured = []
    if facts.page_tables.before is not None:
        cost, after = facts.page_tables.before, facts.page_tables.after
        measured.append(
            Measured(cost.connections, cost.sum_bytes, None if after is None else after.sum_bytes, cost.kind)
        )
    return InstanceResult(
        choice.instance,
        choice.cluster.id,
        choice.remedy,
        choice.why,
        changed,
        facts.restarted,
        facts.restart_required,
        facts.restart_reason,
        None if facts.segment is None else facts.segment.text,
        None if facts.segment is None else facts.segment.huge_bytes,
        tuple(measured),
    )


def _follow(run: _Run, choice: Choice, facts: PostgresqlFacts | None) -> None:
    """Have a service collapse what is not in huge pages from the start; or none, where that is not needed."""
    cluster = choice.cluster
    wanted = FollowSpec(cluster.data_directory, run.spec.rate_bytes, run.spec.interval_seconds)
    if facts is not None and not facts.align_only:
        gone = collapsing.let_go(cluster.data_directory, check=run.check)
        if gone.changed and not run.check:
            run.undo.append(("the service", lambda: _set_up(wanted, run.spec)))
        run.add(gone)
        return
    had = cluster.data_directory in followed()
    # Where the server is still to be restarted, there is nothing to collapse yet.
    measured: tuple[Measured, ...] = ()
    waits = facts is not None and (facts.restart_required or (run.check and facts.restart_reason is not None))
    if waits:
        outcome, changed = collapsing.set_up(wanted, run.spec.program, check=run.check), False
    else:
        kept = collapsing.keep(wanted, run.spec.program, minimum_percent=MINIMUM_PERCENT, check=run.check)
        outcome, changed = kept.service, kept.changed
        measured = (_measured(kept),)
        if kept.result.changed:
            run.actions.append(f"put the memory of PostgreSQL cluster {cluster.id} into huge pages")
    if outcome.changed and not had and not run.check:
        run.undo.append(("the service", lambda: _let_go(wanted.target)))
    run.add(outcome)
    if not run.check and not waits:
        _require_huge(kept.result, cluster)
    _add_service(run, choice, changed or outcome.changed, measured)


def _set_up(wanted: FollowSpec, spec: RemedySpec) -> None:
    collapsing.set_up(wanted, spec.program)


def _let_go(target: str) -> None:
    collapsing.let_go(target)


def _measured(kept: collapsing.Kept) -> Measured:
    before, after = kept.result.before, kept.result.after
    return Measured(
        before.processes,
        before.page_tables_bytes,
        None if kept.result.check else after.page_tables_bytes,
        "measured: VmPTE of all its processes, around the collapse",
    )


def _require_huge(result: Collapsed, cluster: Cluster) -> None:
    after = result.after
    if 100 * after.huge_bytes < MINIMUM_PERCENT * after.used_bytes:
        raise MshareError(
            f"{' '.join(result.lines())} At least {MINIMUM_PERCENT} % of PostgreSQL cluster {cluster.id}"
            " should be; free memory, or compact it (echo 1 > /proc/sys/vm/compact_memory)"
        )


def _add_service(run: _Run, choice: Choice, changed: bool, measured: tuple[Measured, ...]) -> None:
    last = run.instances[-1] if run.instances else None
    if last is not None and last.name == choice.instance:
        run.instances[-1] = dataclasses.replace(
            last, changed=last.changed or changed, measured=measured or last.measured, service=True
        )
        return
    run.instances.append(
        InstanceResult(
            choice.instance,
            choice.cluster.id,
            choice.remedy,
            choice.why,
            changed,
            measured=measured,
            service=True,
        )
    )


def _go_back(run: _Run) -> str | None:
    """Undo what a run did, the last first; None, or a clause that says what could not be undone."""
    failures = []
    for what, undo in reversed(run.undo):
        try:
            undo()
        except (MshareError, OSError) as error:
            failures.append(f"{what} ({sentence(error)})")
    return "; ".join(failures) or None


def _failed(error: BaseException, undone: str | None, had_done: bool) -> MshareError:
    if undone is not None:
        tail = f"going back failed for {undone}; run this again with mshare_remedy_state=absent"
    elif had_done:
        tail = "what this run had done before that is undone"
    else:
        tail = "nothing else was changed"
    return MshareError(f"{sentence(error)}; {tail}")


def _result(run: _Run, decision: Decision, tables_bytes: int, recorded: Recorded, check: bool) -> Result:
    passed = [InstanceResult(each.instance, None, None, each.reason) for each in decision.passed]
    specs = [choice.spec for choice in decision.choices]
    return Result(
        changed=run.changed,
        check=check,
        actions=tuple(run.actions),
        before=run.before,
        after=run.after,
        instances=(*run.instances, *passed),
        pool=run.pool,
        page_tables_before_bytes=tables_bytes,
        page_tables_after_bytes=None if check else procfs.meminfo_bytes()["PageTables"],
        needs_library=any(spec is not None and spec.needs_library for spec in specs),
        needs_program=any(each.service for each in run.instances),
        restart_required=any(each.restart_required for each in run.instances) and not run.spec.restart,
        recorded=bool(recorded),
        plan=tuple(_verdicts(decision.plan)),
        warnings=tuple(dict.fromkeys(run.warnings)),
    )


def _verdicts(plan: Plan) -> Iterator[str]:
    """What the plan says of the host and of each instance."""
    yield from plan_text.verdict(plan.host.name or "the host", plan.outlook)
    for instance in plan.instances:
        yield from plan_text.verdict(instance.name, instance.outlook)


def absent(spec: RemedySpec, *, check: bool = False) -> Result:
    """Undo everything that is written down. What cannot be undone yet stays written down, and is told."""
    with one_at_a_time(check):
        return _absent(spec, check)


def _absent(spec: RemedySpec, check: bool) -> Result:
    recorded = written_down.load()
    run = _Run(spec, check)
    tables_bytes = procfs.meminfo_bytes()["PageTables"]
    _require_undoable(spec, recorded)
    left = recorded
    for entry in recorded.entries:
        waits = _take_back(run, entry)
        if not waits:
            left = left.without(entry)
            if not check:
                written_down.save(left)
    if recorded.pool:
        if left.entries:
            run.warnings.append("the pool stays as it is until the servers that have its pages are restarted")
        else:
            _give_pool_back(run)
            left = dataclasses.replace(left, pool=False)
    # A run that was killed may have left nothing but a record, or the beginning of one.
    forgets = not left and files_of_ours.left_at(written_down.file_path())
    if forgets and not run.changed:
        run.actions.append(f"remove {written_down.file_path()}, which a run that did not end has left")
    if (recorded or forgets) and not check:
        written_down.save(left)
    return Result(
        changed=run.changed,
        check=check,
        actions=tuple(run.actions),
        before=run.before,
        after=run.after,
        instances=tuple(run.instances),
        pool=run.pool,
        page_tables_before_bytes=tables_bytes,
        page_tables_after_bytes=None if check else procfs.meminfo_bytes()["PageTables"],
        needs_library=False,
        needs_program=False,
        restart_required=any(each.restart_required for each in run.instances) and not spec.restart,
        recorded=bool(left),
        warnings=tuple(dict.fromkeys(run.warnings)),
    )


def _require_undoable(spec: RemedySpec, recorded: Recorded) -> None:
    """Raise what is refused, the pool's pages in use by others included, before anything is changed."""
    tried = _Run(spec, True)
    waiting = [entry for entry in recorded.entries if _take_back(tried, entry)]
    if recorded.pool and not waiting:
        _give_pool_back(tried)


def _take_back(run: _Run, entry: Entry) -> bool:
    """Undo one entry; whether it waits for a restart that is not allowed."""
    gone = collapsing.let_go(entry.data_directory, check=run.check)
    run.add(gone)
    if entry.pages is None:
        reason = "its memory stays in huge pages until its next restart"
        run.instances.append(InstanceResult(entry.text, None, None, reason, gone.changed))
        return False
    before = entry.spec_before
    try:
        cluster = clusters.find(entry.version, entry.name)
    except Unavailable as error:
        run.warnings.append(f"PostgreSQL cluster {entry.text} is not undone, because {sentence(error)}")
        return False
    how = {
        "version": cluster.version,
        "name": cluster.name,
        "restart": run.spec.restart,
        "probes": run.spec.probes,
        "check": run.check,
    }
    outcome = (
        postgresql_absent(**how)  # type: ignore[arg-type]
        if before is None
        else postgresql_present(before, **how)  # type: ignore[arg-type]
    )
    run.add(outcome)
    facts = outcome.facts
    assert facts is not None
    run.released_bytes += _pool_bytes(run, facts)
    choice = Choice(entry.text, cluster, "undone", before, None, "it was recorded")
    run.instances.append(_instance_result(choice, outcome.changed, facts))
    return facts.restart_required and not (run.check and run.spec.restart)
