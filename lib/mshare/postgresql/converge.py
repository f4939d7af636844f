# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL cluster that should run on a region or on huge pages, or on ordinary memory again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from .. import paths
from ..backends.choose import choose, locate
from ..collapse import preflight as collapse
from ..converge.outcome import ABSENT, Outcome, Undo, chosen, one_at_a_time
from ..errors import Conflict, MshareError, Unavailable
from ..files import read_text
from ..host import fragmentation, huge_pages
from ..info import inventory
from ..preload import settings
from ..services.choose import systemd_runs
from ..units import counted, format_size
from . import account, ask, clusters, files, native, placement, probe, server, spec
from .clusters import Cluster
from .facts import ClusterFacts, Costs, MemberFacts, PostgresqlFacts
from .files import Changes, Verified
from .native import HugePages
from .patroni import restart as patroni_restart
from .placement import Segment
from .probe import Cost
from .server import Server
from .spec import NATIVE, ClusterSpec

PROBES = 10
_OFF = ("off", "false", "no", "0")
_ON = ("on", "true", "yes", "1")


@dataclass
class _Move:
    """A cluster on its way: what differs, and what came of it."""

    cluster: Cluster
    spec: ClusterSpec | None
    """None: back to ordinary memory."""
    changes: Changes
    add_to: str | None = None
    """A group that the cluster's owner is to join."""
    leave: str | None = None
    server: Server | None = None
    why_restart: str | None = None
    """Why the server has to be started again; None if it need not."""
    restarted: bool = False
    segment: Segment | None = None
    backend: Segment | None = None
    lost: str | None = None
    """What is no longer as it was when it was last verified."""
    status: str | None = None
    """huge_pages_status, asked in the server that was started."""
    warnings: list[str] = field(default_factory=list)
    costs: Costs = field(default_factory=Costs)

    @property
    def id(self) -> str:
        return self.cluster.id

    @property
    def huge_pages(self) -> HugePages:
        return native.described(self.cluster, self.segment, self.status)

    def facts(self) -> PostgresqlFacts:
        running = self.server
        cluster = ClusterFacts(
            version=self.cluster.version,
            name=self.cluster.name,
            data_directory=self.cluster.data_directory,
            running=running is not None,
            pid=None if running is None else running.pid,
            port=None if running is None else running.port,
            patroni=self._member(),
        )
        return PostgresqlFacts(
            cluster=cluster,
            restart_required=self.why_restart is not None and not self.restarted,
            restart_reason=None if self.restarted else self.why_restart,
            restarted=self.restarted,
            lost=self.lost,
            segment=self.segment,
            backend_segment=self.backend,
            huge_pages=self.huge_pages,
            align_only=self.spec is not None and self.spec.align_only,
            page_tables=self.costs,
            summary=tuple(self._summary()),
        )

    def _member(self) -> MemberFacts | None:
        member = self.cluster.patroni
        if member is None:
            return None
        return MemberFacts(member.scope, member.name, patroni_restart.leads(member))

    def _summary(self) -> Iterator[str]:
        """What people read."""
        if self.server is None or self.segment is None:
            yield f"PostgreSQL cluster {self.id} does not run."
            return
        yield f"PostgreSQL cluster {self.id}, postmaster {self.server.pid}: {self.segment.text}"
        if self.why_restart is not None and not self.restarted:
            yield f"It has to be restarted: {self.why_restart}."
            if self.cluster.patroni is not None:
                yield (
                    f"`patronictl restart` is not enough: restart Patroni itself (systemctl restart"
                    f" {self.cluster.unit}), one member after the other, replicas first."
                )
        if self.lost is not None:
            yield f"{self.lost}."
        yield from self._about_small_pages()
        yield from self._about_costs()
        if self.restarted and self.spec is not None and self.spec.backend == "simulated":
            text = "Simulated: each connection has page tables of its own, and nothing is saved."
            # A server's own region has no owner that validate could ask.
            if self.spec.region is not None:
                text += f" `mshare validate {self.spec.region}` shows what sharing them would save."
            yield text

    def _about_small_pages(self) -> Iterator[str]:
        if self.huge_pages.fell_back:
            yield (
                f"huge_pages is try ({self.huge_pages.source}), but the server is in small pages: it found"
                " too few huge pages when it started, and its log does not say so."
            )
        if self.restarted and self.spec is not None and self.spec.align_only:
            yield (
                "It was started in small pages, where huge pages can be collapsed while it runs"
                f" (mshare_collapse with follow: true, or `mshare collapse {self.cluster.data_directory}`)."
            )

    def _about_costs(self) -> Iterator[str]:
        for when, cost in (("before", self.costs.before), ("after", self.costs.after)):
            if cost is None:
                continue
            yield (
                f"Page tables of {counted(cost.connections, 'connection')} {when}:"
                f" {format_size(cost.sum_bytes)}, {format_size(cost.average_bytes)} each"
                f" ({cost.kind}: {cost.how})"
            )
            if cost.shared_bytes:
                yield (
                    f"And {format_size(cost.shared_bytes)} of page tables that all of them share, once"
                    " (modelled: no process's VmPTE counts them)"
                )


def postgresql_present(
    wanted: ClusterSpec,
    *,
    version: str | None = None,
    name: str | None = None,
    restart: bool = False,
    probes: int = PROBES,
    planned_pages: int = 0,
    check: bool = False,
) -> Outcome[PostgresqlFacts]:
    """See to it that a cluster's server is started with the library, and, if it may be restarted, that it is.

    `planned_pages` are huge pages that the pool will have been given before this is more than a check.
    Afterwards the segment is where it should be, or everything is restored and MshareError has the reason.
    """
    cluster = clusters.find(version, name)
    _require_root(cluster)
    cluster = cluster.managed()
    with one_at_a_time(check):
        wanted = _sized(cluster, _placed(wanted, check))
        if not check and wanted.needs_library and not os.path.exists(wanted.library):
            raise Unavailable(
                f"{wanted.library} is missing on this host, and it is what puts PostgreSQL on a region;"
                " install it with the role dbmem.mshare.postgresql, or mshare_runtime with preload: true"
            )
        joined = files.recorded_group(cluster)
        group = account.group_needed(cluster.owner, wanted.root) if wanted.root else None
        keeps = joined if wanted.root else None
        change_all = files.present(cluster, wanted, group or keeps, systemd_runs())
        _require_effect(cluster, change_all, wanted.pages)
        move = _Move(cluster, wanted, files.different(change_all), add_to=group)
        if not wanted.root:
            move.leave = joined
        _inspect(move)
        _require_loader(move)
        if move.why_restart is not None and wanted.pages == "hugetlb":
            _require_pool(move, planned_pages)
        if move.why_restart is not None and wanted.pages == NATIVE:
            native.require_pool(cluster, move.segment, wanted.page_bytes, planned_pages)
        if move.why_restart is not None and wanted.pages == "thp" and not wanted.align_only:
            move.warnings += _fragmented(move)
        outcome = _go(move, restart, probes, check)
        if not check:
            files.sweep(change_all, cluster)
        return outcome


def postgresql_absent(
    *,
    version: str | None = None,
    name: str | None = None,
    restart: bool = False,
    probes: int = PROBES,
    check: bool = False,
) -> Outcome[PostgresqlFacts]:
    """Ensure that a cluster's files and, if it may be restarted, its server have nothing of mshare."""
    cluster = clusters.find(version, name)
    _require_root(cluster)
    cluster = cluster.managed()
    with one_at_a_time(check):
        change_all = files.absent(cluster)
        move = _Move(cluster, None, files.different(change_all), leave=files.recorded_group(cluster))
        _inspect(move)
        outcome = _go(move, restart, probes, check)
        if not check:
            files.sweep(change_all, cluster)
        return outcome


def postgresql_status(*, version: str | None = None, name: str | None = None) -> PostgresqlFacts:
    """Where the shared memory of a cluster's server lies now; the same facts as those of a change."""
    cluster = clusters.find(version, name)
    _require_root(cluster)
    move = _Move(cluster, None, {}, server=server.running(cluster))
    if move.server is not None:
        move.segment = placement.of(move.server.pid)
    return move.facts()


def _require_root(cluster: Cluster) -> None:
    if not paths.is_root():
        raise Unavailable(
            f"PostgreSQL cluster {cluster.id} can be examined and changed by root only, but this is uid"
            f" {os.geteuid()}; run as root (become: true)"
        )


def _placed(wanted: ClusterSpec, check: bool) -> ClusterSpec:
    """With the msharefs that pages of 4k need."""
    if wanted.pages != "4k":
        return dataclasses.replace(wanted, backend=None, root=None)
    try:
        choice = locate(wanted.backend or "auto", wanted.root)
    except Unavailable:
        if not check:
            raise
        # It would be mounted before this.
        choice = choose(wanted.backend or "auto")
    if choice.backend == "simulated" and wanted.backend != "simulated":
        raise Unavailable(
            "pages of 4k need a kernel with mshare, and this host would have the simulated backend"
            f" ({choice.reason}), on which each connection pays more for page tables than before; set pages"
            " to thp, or ask for backend simulated by name (mshare_msharefs_backend) to try it out"
        )
    root = wanted.root or choice.root
    wanted = dataclasses.replace(wanted, backend=choice.backend, root=root)
    if wanted.region is None:
        return wanted
    region = inventory.region_facts(root, wanted.region)
    if not check and region.health != "healthy":
        raise Unavailable(
            f"region {wanted.region} on the msharefs at {root} is {region.health}; create it first (role"
            " dbmem.mshare.region), or omit the region, and the server creates its own"
        )
    return dataclasses.replace(wanted, region_bytes=region.mapped_bytes)


def _sized(cluster: Cluster, wanted: ClusterSpec) -> ClusterSpec:
    """With what follows from the cluster: how long it may take to start, and which pages it can ask for."""
    _require_patroni_can(cluster, wanted)
    if wanted.pages == NATIVE:
        native.require(cluster)
        page_bytes = native.page_bytes(cluster, wanted.page_bytes, files.absent(cluster))
        return ClusterSpec(NATIVE, page_bytes=page_bytes)
    buffers_bytes = ask.shared_buffers_bytes(cluster)
    wanted = dataclasses.replace(
        wanted,
        prefault=spec.prefaults(wanted.pages, wanted.prefault, buffers_bytes),
        start_seconds=spec.start_seconds(buffers_bytes),
    )
    if wanted.align_only:
        # Otherwise a restart would be for nothing.
        collapse.require_host()
    return wanted


def _require_patroni_can(cluster: Cluster, wanted: ClusterSpec) -> None:
    """Conflict for what only Patroni's store decides, or what would take Patroni itself along."""
    if cluster.patroni is None:
        return
    if wanted.pages == NATIVE:
        raise Conflict(
            f"pages native are a setting of PostgreSQL, and Patroni keeps those of cluster {cluster.id} for"
            " all of its members, so nothing was changed; set postgresql.parameters.huge_pages to on with"
            " `patronictl edit-config`, and restart the members with `patronictl restart`"
        )
    if wanted.region is not None:
        raise Conflict(
            f"region {wanted.region} would stop Patroni with it, which runs PostgreSQL cluster {cluster.id},"
            " so nothing was changed; omit the region, and the server creates its own"
        )


def _require_effect(cluster: Cluster, wanted: Changes, pages: str) -> None:
    """Conflict where PostgreSQL would not do about huge pages what our file says."""
    if cluster.patroni is not None:
        _require_no_demand(cluster)
        return
    planned = {path: text for path, text in wanted.items() if text is not None}
    value, source = clusters.settings(cluster, planned).get("huge_pages", ("", ""))
    if not value:
        raise Conflict(
            f"PostgreSQL cluster {cluster.id} does not read {files.configuration_file(cluster)}, so nothing"
            f" was changed; add include_dir = 'conf.d' at the end of {cluster.main}"
        )
    if value.lower() not in _setting(pages):
        raise Conflict(
            f"huge_pages of PostgreSQL cluster {cluster.id} would be {value} for all that"
            f" {files.configuration_file(cluster)} says, because of {source}; take it out there (ALTER"
            " SYSTEM RESET huge_pages, or include_dir = 'conf.d' at the end of postgresql.conf)"
        )


def _require_no_demand(cluster: Cluster) -> None:
    """The same for Patroni's, whose settings are left alone: `try` does without a pool."""
    value = ask.setting(cluster, "huge_pages")
    if value in _ON:
        raise Conflict(
            f"huge_pages of PostgreSQL cluster {cluster.id} is {value}, so PostgreSQL takes huge pages of"
            " the host's pool or does not start; set it to try (`patronictl edit-config`:"
            " postgresql.parameters.huge_pages), and run this again"
        )


def _require_loader(move: _Move) -> None:
    """Conflict where the loader would ignore LD_PRELOAD: it does so in the server that runs."""
    if move.server is None or move.spec is None or not move.spec.needs_library:
        return
    if move.server.is_secure():
        raise Conflict(
            f"the kernel has the loader ignore LD_PRELOAD in postmaster {move.server.pid} of PostgreSQL"
            f" cluster {move.id} (AT_SECURE), because SELinux or AppArmor changes its context when it starts,"
            " or because its program has capabilities (getcap), so nothing was changed; allow noatsecure for"
            " that transition, restart the server once and run this again, or set pages to native"
        )


def _setting(pages: str) -> tuple[str, ...]:
    """What PostgreSQL's huge_pages has to be: the library asks by itself."""
    return _ON if pages == NATIVE else _OFF


def _require_pool(move: _Move, planned_pages: int = 0) -> None:
    """Unavailable where the pool of huge pages is too small for a segment of today's size."""
    if move.segment is None:
        return
    page_bytes = min(huge_pages.sizes_bytes(), default=0)
    if not page_bytes:
        raise Unavailable(
            "this kernel has no pools of huge pages (/sys/kernel/mm/hugepages is empty); set pages to thp"
        )
    size_bytes = move.segment.size_bytes
    # What others have reserved counts as free until they touch it.
    pool = huge_pages.pool(page_bytes)
    needed, free = -(-size_bytes // page_bytes), pool.available if pool else 0
    free += planned_pages
    if move.segment.kind == "hugetlb":
        # Its own pages come free when it stops.
        free += needed
    if free < needed:
        raise Unavailable(
            f"the segment of PostgreSQL cluster {move.id} is {format_size(size_bytes)}, which needs"
            f" {counted(needed, 'huge page')} of {format_size(page_bytes)}, but this host has {free} free;"
            f" raise vm.nr_hugepages by {needed - free}, or set pages to thp, which needs no pool"
        )


def _fragmented(move: _Move) -> Iterator[str]:
    """A warning where fewer huge pages are free than a segment of today's size needs."""
    free_bytes = fragmentation.free_huge_bytes()
    if move.segment is None or free_bytes is None:
        return
    # Its own come free when it stops.
    free_bytes += move.segment.huge_bytes
    if free_bytes < move.segment.size_bytes:
        yield (
            f"PostgreSQL cluster {move.id} needs {format_size(move.segment.size_bytes)} of huge pages, and"
            f" only {format_size(free_bytes)} of free memory are in blocks that large (/proc/buddyinfo), so"
            " part of it may stay in small pages; compact memory before the restart"
            " (echo 1 > /proc/sys/vm/compact_memory), or reserve a pool and set pages to hugetlb"
        )


def _inspect(move: _Move) -> None:
    """What runs, and whether it was started as it should be."""
    move.server = server.running(move.cluster)
    if move.server is None:
        return
    move.segment = placement.of(move.server.pid)
    environment = move.server.environment()
    if move.spec is None:
        if settings.has_ours(environment):
            move.why_restart = "the server still runs with the library it was started with"
        elif _is_native_by_us(move):
            move.why_restart = "the server still runs with huge_pages = on, as it was started"
    elif not spec.started_with(environment, move.spec):
        move.why_restart = "the server was started with another environment"
    else:
        clauses = list(placement.wrong(move.spec, move.segment, _mapped_huge(move)))
        if clauses:
            move.why_restart = clauses[0]
    move.lost = _lost(move)


def _is_native_by_us(move: _Move) -> bool:
    """Whether a server is in the pool that would not be without us: its files say that they want no huge
    pages, or it was started and verified by us."""
    if move.segment is None or move.segment.kind != "hugetlb" or move.server is None:
        return False
    planned = {path: text or "" for path, text in move.changes.items()}
    value, __ = clusters.settings(move.cluster, planned).get("huge_pages", ("try", ""))
    recorded = files.record(move.cluster)
    verified = recorded.verified if recorded is not None else None
    ours = verified is not None and verified.pages == NATIVE and verified.is_of(move.server)
    return value.lower() in _OFF or ours


def _lost(move: _Move) -> str | None:
    """What changed since the memory was last verified; None if nothing did, or if it never was verified."""
    recorded = files.record(move.cluster)
    verified = recorded.verified if recorded is not None else None
    if move.why_restart is None or move.server is None or verified is None or move.changes:
        return None
    if verified.is_of(move.server):
        since = f"the same postmaster {move.server.pid} allocated new memory (a crash restart)"
    else:
        since = f"it was restarted, as postmaster {move.server.pid}"
    return (
        f"PostgreSQL cluster {move.id} was verified with pages {verified.pages} in postmaster"
        f" {verified.pid}; since then {since}, and that is lost: {move.why_restart}"
    )


def _mapped_huge(move: _Move) -> int:
    """What a postmaster should have in huge pages that nobody made touch anything."""
    if move.segment is None or move.spec is None or move.spec.prefault is False:
        return 0
    return move.segment.size_bytes if move.spec.pages == "thp" else 0


def _go(move: _Move, restart: bool, probes: int, check: bool) -> Outcome[PostgresqlFacts]:
    restarting = restart and move.why_restart is not None
    back = move.spec is None
    actions = chosen(
        [
            *(
                (True, f"{'remove' if text is None else 'write'} {path}")
                for path, text in sorted(move.changes.items())
            ),
            (move.add_to is not None, f"add {move.cluster.owner} to group {move.add_to}"),
            (move.leave is not None, f"take {move.cluster.owner} out of group {move.leave}"),
            (restarting, f"restart PostgreSQL cluster {move.id}, because {move.why_restart}"),
            (_verified_first(move), f"note that PostgreSQL cluster {move.id} is as it should be"),
        ]
    )
    before = {path: read_text(path) for path in move.changes}
    if restarting and move.cluster.patroni is not None:
        patroni_restart.require_possible(move.cluster.patroni)
    if restarting:
        # Whoever is not let in could not be verified afterwards.
        with _probed(move, min(probes, 1)):
            pass
    if not check:
        if restarting:
            _restart(move, before, probes)
        else:
            _write(move, before)
            if _verified_first(move):
                _note(move)
    return Outcome(
        bool(actions),
        actions,
        _side(before),
        _side(move.changes) or (ABSENT if back else {}),
        move.facts(),
        warnings=move.warnings,
    )


def _side(texts: Changes) -> dict[str, object]:
    """A side of the diff: the lines of each file that changes."""
    return {path: ABSENT if text is None else text.split("\n") for path, text in sorted(texts.items())}


def _write(move: _Move, before: Changes) -> None:
    """Write the files and set the group; a failure is undone. One to remove them is repeated instead."""
    with Undo() as undo:
        if move.spec is not None:
            undo.add(lambda: _put_back(move, before))
        if move.add_to is not None:
            account.join(move.cluster.owner, move.add_to)
        files.write(move.changes, move.cluster)
        if move.leave is not None:
            account.leave(move.cluster.owner, move.leave)


def _put_back(move: _Move, before: Changes) -> None:
    """Have the files and the group as they were."""
    files.write(before, move.cluster)
    with suppress(MshareError):
        if move.add_to is not None:
            account.leave(move.cluster.owner, move.add_to)
        if move.leave is not None:
            account.join(move.cluster.owner, move.leave)


def _restart(move: _Move, before: Changes, probes: int) -> None:
    """Write the files, restart the server, check; put everything back if it is not as it should be."""
    assert move.server is not None
    old_server, position = move.server, server.log_position(move.cluster)
    with _probed(move, probes) as opened:
        move.costs = Costs(before=_cost(move, opened))
    member = move.cluster.patroni
    if member is not None:
        old_server = patroni_restart.step_down(move.cluster, member) or old_server
    environment = old_server.environment()
    _write(move, before)
    try:
        _require_asked(move)
        seconds = move.spec.start_seconds if move.spec is not None else spec.START_SECONDS
        if member is not None:
            move.server = patroni_restart.restart(move.cluster, member, old_server, seconds)
        else:
            move.server = server.restart(move.cluster, old_server, seconds)
        _verify(move, probes, position)
    except (MshareError, OSError) as error:
        if move.spec is None:
            raise
        raise MshareError(f"{error}; {_undo(move, before, environment)}") from None
    move.restarted = True
    move.lost = None
    _note(move)


def _verified_first(move: _Move) -> bool:
    """Whether somebody else restarted the server with what was written before, and nobody knows yet that it
    worked: later runs tell what is lost by that."""
    recorded = files.record(move.cluster)
    known = recorded is None or recorded.verified is not None
    return move.spec is not None and move.server is not None and move.why_restart is None and not known


def _note(move: _Move) -> None:
    """Write down in which server the memory is where it should be."""
    if move.spec is not None and move.server is not None:
        verified = Verified(move.spec.pages, move.server.pid, move.server.started_ticks)
        files.write_verified(move.cluster, verified)


def _require_asked(move: _Move) -> None:
    """Conflict, before the server is stopped, where PostgreSQL's huge_pages would be another."""
    if move.spec is None or move.cluster.patroni is not None:
        return
    value, wanted = ask.setting(move.cluster, "huge_pages"), _setting(move.spec.pages)
    if value is not None and value not in wanted:
        raise Conflict(
            f"huge_pages of PostgreSQL cluster {move.id} would be {value}, as `postgres -C huge_pages` says,"
            f" although {files.configuration_file(move.cluster)} sets it to {wanted[0]}; take it out where it"
            " is set"
        )


def _verify(move: _Move, probes: int, position: server.LogPosition) -> None:
    """MshareError unless postmaster and backend have the segment where it should be."""
    assert move.server is not None
    move.segment = placement.of(move.server.pid)
    # What is in small pages now, and collapsed later, shows there what it costs.
    later = move.spec is not None and move.spec.align_only
    with _probed(move, probes) as opened:
        cost = None if later else _cost(move, opened)
        move.costs = dataclasses.replace(move.costs, after=cost)
        move.status = server.huge_pages_status(opened[0]) if opened else None
        pid = opened[0].pid if opened else next(iter(move.server.children()), None)
        touched_bytes = cost.span_bytes if cost is not None else 0
        move.backend = placement.of(pid) if pid is not None else None
    if move.spec is None:
        return
    if move.spec.pages == NATIVE and move.status == "off":
        raise MshareError(
            f"PostgreSQL cluster {move.id} was started with huge_pages = on, and its huge_pages_status is off"
        )
    checked = [
        ("the postmaster", move.segment, _mapped_huge(move)),
        ("a backend", move.backend, touched_bytes),
    ]
    for who, segment, size_bytes in checked:
        for clause in placement.wrong(move.spec, segment, size_bytes):
            log_text = server.log_since(move.cluster, position, "mshare")
            raise MshareError(
                f"PostgreSQL cluster {move.id} was started with pages {move.spec.pages}, and in {who}"
                f" {clause}" + (f"; its log says: {log_text}" if log_text else "")
            )


@contextmanager
def _probed(move: _Move, probes: int) -> Iterator[list[server.Connection]]:
    with ExitStack() as opened:
        connections = []
        if probes and move.server is not None and move.server.connects:
            connections = opened.enter_context(server.connections(move.cluster, move.server, probes))
        yield connections


def _cost(move: _Move, opened: list[server.Connection]) -> Cost | None:
    if not opened or move.segment is None:
        return None
    before = move.costs.before
    size_bytes = probe.segment_bytes(opened[0])
    span_bytes = before.span_bytes if before else probe.span_bytes(size_bytes, len(opened))
    return probe.cost(opened, move.segment, span_bytes)


def _undo(move: _Move, before: Changes, environment: dict[str, str]) -> str:
    """Put files, group and server back; a clause that says how that went.

    A server that was not stopped has the environment that it had, and is left alone.
    """
    _put_back(move, before)
    running = server.running(move.cluster)
    member = move.cluster.patroni
    if member is not None and running is not None and running.environment() == environment:
        return "its files were restored, and it was not stopped"
    try:
        if member is not None:
            patroni_restart.put_back(move.cluster, member, running)
        elif running is None:
            server.start(move.cluster)
        else:
            server.restart(move.cluster, running)
    except MshareError as error:
        return f"its files were restored, but it does not start with them either: {error}"
    return "its files were restored, and it runs with them again"
