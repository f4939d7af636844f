# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL cluster that should run on a region or on huge pages, or on ordinary memory again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
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
from . import account, ask, clusters, files, loader, native, placement, probe, server, spec, unit_files
from .clusters import Cluster
from .configuration import COMMAND_LINE
from .facts import ClusterFacts, Costs, MemberFacts, PostgresqlFacts
from .files import Changes, Verified
from .native import HugePages
from .patroni import huge_pages as patroni_huge_pages
from .patroni import restart as patroni_restart
from .patroni.store import Change
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
    store: Change | None = None
    """What changes in the store of the Patroni cluster; None where nothing does."""
    demands: bool = False
    """Whether that store has PostgreSQL demand huge pages afterwards."""
    withheld: str | None = None
    """Why the store is left as it is: that needs permission to restart."""
    server: Server | None = None
    why_restart: str | None = None
    """Why the server has to be started again; None if it need not."""
    takes_environment: bool = False
    """Whether a restart has to bring another environment, and not other settings only."""
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
        view = patroni_restart.view_of(member)
        leads = patroni_restart.leads(member, view)
        if view is None:
            return MemberFacts(member.scope, member.name, leads)
        own = view.member(member.name)
        return MemberFacts(
            member.scope,
            member.name,
            leads,
            tuple(each.name for each in view.members),
            None if own is None else own.api_url,
            tuple(each.api_url for each in view.members),
        )

    def _summary(self) -> Iterator[str]:
        """What people read."""
        if self.server is None or self.segment is None:
            yield f"PostgreSQL cluster {self.id} does not run."
            return
        yield f"PostgreSQL cluster {self.id}, postmaster {self.server.pid}: {self.segment.text}"
        if self.withheld is not None:
            yield f"{self.withheld}."
        if self.why_restart is not None and not self.restarted:
            yield f"It has to be restarted: {self.why_restart}."
            yield from self._about_patroni()
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

    def _about_patroni(self) -> Iterator[str]:
        """How to restart a member by hand."""
        member = self.cluster.patroni
        if member is None:
            return
        if self.takes_environment:
            yield (
                f"`patronictl restart` is not enough: restart Patroni itself (systemctl restart"
                f" {self.cluster.unit}), one member after the other, replicas first."
            )
        elif self.withheld is None:
            yield f"`patronictl restart {member.scope} {member.name}` is enough; replicas first."

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
    members_ready: bool = False,
    check: bool = False,
) -> Outcome[PostgresqlFacts]:
    """See to it that a cluster's server is started with the library, and, if it may be restarted, that it is.

    `planned_pages` are huge pages that the pool will have been given before this is more than a check.
    `members_ready` says that the hosts of all members of a Patroni cluster have enough of them.
    Afterwards the segment is where it should be, or everything is restored and MshareError has the reason.
    """
    cluster = clusters.find(version, name)
    _require_root(cluster)
    cluster = cluster.managed()
    with one_at_a_time(check):
        stored = _stored(cluster, wanted, members_ready)
        change = _store_change(cluster, wanted, stored)
        wanted = _sized(cluster, _placed(wanted, check), stored)
        if not check and wanted.needs_library and not os.path.exists(wanted.library):
            raise Unavailable(
                f"{wanted.library} is missing on this host, and it is what puts PostgreSQL on a region;"
                " install it with the role dbmem.mshare.postgresql, or mshare_runtime with preload: true"
            )
        joined = files.recorded_group(cluster)
        group = account.group_needed(cluster.owner, wanted.root) if wanted.root else None
        keeps = joined if wanted.root else None
        change_all = files.present(cluster, wanted, group or keeps, systemd_runs())
        _require_effect(cluster, change_all, wanted.pages, change)
        move = _Move(cluster, wanted, files.different(change_all), add_to=group)
        if not wanted.root:
            move.leave = joined
        move.warnings += cluster.warnings
        _plan_store(move, change, restart)
        _inspect(move)
        _require_loader(move, check)
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
        move.warnings += cluster.warnings
        _plan_store(move, _store_change(cluster, None, _stored(cluster, None)), restart)
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


def _sized(cluster: Cluster, wanted: ClusterSpec, stored: Mapping[str, object] | None = None) -> ClusterSpec:
    """With what follows from the cluster: how long it may take to start, and which pages it can ask for."""
    if wanted.pages == NATIVE:
        native.require(cluster)
        own = _own_size(cluster, stored)
        return ClusterSpec(NATIVE, page_bytes=native.page_bytes(cluster, wanted.page_bytes, own))
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


def _own_size(cluster: Cluster, stored: Mapping[str, object] | None) -> str:
    """huge_page_size as the cluster has it without us."""
    if cluster.patroni is None or stored is None:
        return native.own_size(cluster, files.absent(cluster))
    return patroni_huge_pages.own_size(cluster, cluster.patroni, stored)


def _stored(
    cluster: Cluster, wanted: ClusterSpec | None, members_ready: bool = False
) -> Mapping[str, object] | None:
    """What the store of a Patroni cluster has; None for everybody else's.

    Conflict for what may not be done to one of its members.
    """
    member = cluster.patroni
    if member is None:
        return None
    if wanted is not None and wanted.region is not None:
        raise Conflict(
            f"region {wanted.region} would stop Patroni with it, which runs PostgreSQL cluster {cluster.id},"
            " so nothing was changed; omit the region, and the server creates its own"
        )
    if wanted is not None and wanted.pages == NATIVE:
        patroni_huge_pages.require_all_asked(member, members_ready)
        patroni_huge_pages.require_effect(cluster, member)
    try:
        return patroni_huge_pages.read(member)
    except MshareError:
        recorded = files.record(cluster)
        if NATIVE in (wanted and wanted.pages, recorded and recorded.pages):
            raise
        # Its files can be written while Patroni does not answer; a restart would ask it.
        return None


def _store_change(
    cluster: Cluster, wanted: ClusterSpec | None, stored: Mapping[str, object] | None
) -> Change | None:
    """What a spec, or the way back, makes of the store of a Patroni cluster; None for everybody else's."""
    member = cluster.patroni
    if member is None or stored is None:
        return None
    if wanted is None or wanted.pages != NATIVE:
        return patroni_huge_pages.back(member, stored)
    own = _own_size(cluster, stored)
    size_bytes = native.page_bytes(cluster, wanted.page_bytes, own)
    needed = size_bytes is not None and (wanted.page_bytes is not None or native.needs_size(size_bytes, own))
    return patroni_huge_pages.native(member, stored, size_bytes if needed else None)


def _plan_store(move: _Move, change: Change | None, restart: bool) -> None:
    """Have a move change the store. What demands huge pages needs permission to restart: every member that
    somebody restarts would need them from then on."""
    if change is None:
        return
    move.warnings += change.kept
    move.demands = patroni_huge_pages.is_on(change.after)
    if not change.differs:
        return
    if restart or not move.demands:
        move.store = change
        return
    move.changes, move.leave = {}, None
    move.withheld = (
        f"The store of Patroni cluster {change.scope} was left as it is, without permission to restart:"
        " huge_pages counts for all of its members, also when somebody else restarts them"
    )


def _require_effect(cluster: Cluster, wanted: Changes, pages: str, change: Change | None = None) -> None:
    """Conflict where PostgreSQL would not do about huge pages what our file says."""
    if cluster.patroni is not None:
        if pages != NATIVE:
            _require_no_demand(cluster, change)
        return
    planned = {path: text for path, text in wanted.items() if text is not None}
    value, source = clusters.settings(cluster, planned).get("huge_pages", ("", ""))
    if not value:
        raise Conflict(
            f"PostgreSQL cluster {cluster.id} does not read {files.configuration_file(cluster)}, so nothing"
            f" was changed; add include_dir = 'conf.d' at the end of {cluster.main}"
        )
    if value.lower() not in _setting(pages) and source == COMMAND_LINE:
        raise Conflict(
            f"huge_pages of PostgreSQL cluster {cluster.id} is {value} on its command line (ExecStart= of its"
            " unit, or pg_ctl.conf), which counts more than any file, so nothing was changed; take it out"
            " there, restart the server once, and run this again"
        )
    if value.lower() not in _setting(pages):
        raise Conflict(
            f"huge_pages of PostgreSQL cluster {cluster.id} would be {value} for all that"
            f" {files.configuration_file(cluster)} says, because of {source}; take it out there (ALTER"
            " SYSTEM RESET huge_pages, or include_dir = 'conf.d' at the end of postgresql.conf)"
        )


def _require_no_demand(cluster: Cluster, change: Change | None) -> None:
    """The same for the library under Patroni, whose settings are left alone: `try` does without a pool.
    What we have set ourselves is put back."""
    value = ask.setting(cluster, "huge_pages")
    if value not in _ON:
        return
    stays = change is None or patroni_huge_pages.is_on(change.after)
    if change is not None and change.names and not stays:
        return
    recorded = files.record(cluster)
    if not stays and cluster.patroni is not None and recorded is not None and recorded.pages == NATIVE:
        # Another member's turn has put it back, and this one hears of it soon.
        patroni_huge_pages.require_heard(cluster, cluster.patroni, demanded=False, restarts=False)
        return
    raise Conflict(
        f"huge_pages of PostgreSQL cluster {cluster.id} is {value}, so PostgreSQL takes huge pages of the"
        " host's pool or does not start; set it to try (`patronictl edit-config`:"
        " postgresql.parameters.huge_pages), and run this again"
    )


def _require_loader(move: _Move, check: bool) -> None:
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
    library = move.spec.library
    loader.require(move.cluster, move.server, library, root=move.spec.root, will_be_installed=check)
    profile = move.server.profile()
    if move.why_restart is not None and profile is not None:
        move.warnings.append(
            f"AppArmor confines postmaster {move.server.pid} of PostgreSQL cluster {move.id} by profile"
            f" {profile}, which has to let it map the library (a rule `{library} mr,`); otherwise the server"
            " starts without it, and is put back"
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
    needs_library = move.spec is not None and move.spec.needs_library
    move.takes_environment = needs_library or settings.has_ours(environment)
    if move.spec is None:
        if settings.has_ours(environment):
            move.why_restart = "the server still runs with the library it was started with"
        elif _is_native_by_us(move) if move.cluster.patroni is None else _is_native_by_store(move):
            move.why_restart = "the server still runs with huge_pages = on, as it was started"
    elif not spec.started_with(environment, move.spec):
        move.why_restart = "the server was started with another environment"
    else:
        clauses = list(placement.wrong(move.spec, move.segment, _mapped_huge(move)))
        if clauses:
            move.why_restart = clauses[0]
        elif move.withheld is not None:
            move.why_restart = "huge_pages is not on for it"
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


def _is_native_by_store(move: _Move) -> bool:
    """The same for Patroni's: we have put it there, and its store does not demand it any longer."""
    member = move.cluster.patroni
    if move.segment is None or move.segment.kind != "hugetlb" or member is None:
        return False
    recorded = files.record(move.cluster)
    ours = move.store is not None or (recorded is not None and recorded.pages == NATIVE)
    return not move.demands and (ours or patroni_huge_pages.waits(member))


def _lost(move: _Move) -> str | None:
    """What changed since the memory was last verified; None if nothing did, or if it never was verified."""
    recorded = files.record(move.cluster)
    verified = recorded.verified if recorded is not None else None
    if move.why_restart is None or move.server is None or verified is None or move.changes:
        return None
    if move.withheld is not None:
        # Other pages are asked for than were verified.
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
            *((True, text) for text in (move.store.actions() if move.store is not None else [])),
            (move.add_to is not None, f"add {move.cluster.owner} to group {move.add_to}"),
            (move.leave is not None, f"take {move.cluster.owner} out of group {move.leave}"),
            (restarting, f"restart PostgreSQL cluster {move.id}, because {move.why_restart}"),
            (_verified_first(move), f"note that PostgreSQL cluster {move.id} is as it should be"),
        ]
    )
    before = {path: read_text(path) for path in move.changes}
    if (restarting or (move.store is not None and move.demands)) and move.cluster.patroni is not None:
        move.warnings += patroni_restart.require_possible(move.cluster.patroni)
    if restarting and move.server is not None:
        if not move.server.ready:
            raise Conflict(
                f"postmaster {move.server.pid} of PostgreSQL cluster {move.id} is starting, recovering or"
                " stopping, so it was not restarted, and nothing was changed; wait until it takes"
                " connections, and run this again"
            )
        server.require_restartable(move.cluster)
        if move.cluster.patroni is None:
            ask.require_startable(move.cluster, move.server.pid)
    if restarting:
        # Whoever is not let in could not be verified afterwards.
        with _probed(move, min(probes, 1)):
            pass
    if not check:
        if restarting:
            _restart(move, before, probes)
        else:
            with Undo() as undo:
                _write_store(move, restarting)
                undo.add(lambda: _undo_store(move, touched=False))
                _write(move, before)
            if _verified_first(move):
                _note(move)
    store_before, store_after = _store_sides(move.store)
    return Outcome(
        bool(actions),
        actions,
        {**_side(before), **store_before},
        {**_side(move.changes), **store_after} or (ABSENT if back else {}),
        move.facts(),
        warnings=move.warnings,
    )


def _side(texts: Changes) -> dict[str, object]:
    """A side of the diff: the lines of each file that changes."""
    return {path: ABSENT if text is None else text.split("\n") for path, text in sorted(texts.items())}


def _store_sides(change: Change | None) -> tuple[dict[str, object], dict[str, object]]:
    """The same for the store of a Patroni cluster."""
    if change is None:
        return {}, {}
    return {change.place: change.lines(change.before)}, {change.place: change.lines(change.after)}


def _write_store(move: _Move, restarting: bool) -> None:
    """Change the store of a Patroni cluster, and see that this member has heard of it, whoever has changed
    it: Patroni restarts it with what it knows. Nothing is changed where that fails."""
    member = move.cluster.patroni
    if member is None:
        return
    if move.store is not None:
        patroni_huge_pages.change(member, move.store)
    if move.store is None and not (restarting and not move.takes_environment):
        return
    try:
        patroni_huge_pages.require_heard(move.cluster, member, move.demands, restarting)
    except MshareError as error:
        raise MshareError(f"{error}{_undo_store(move, touched=False)}") from None


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
    first, position = move.server, server.log_position(move.cluster)
    with _probed(move, probes) as opened:
        move.costs = Costs(before=_cost(move, opened))
    _write_store(move, True)
    try:
        stepped = _step_down(move)
        _write(move, before)
    except (MshareError, OSError) as error:
        touched = not _is(server.running(move.cluster), first)
        text = _undo_store(move, touched)
        if not text:
            raise
        raise MshareError(f"{error}{text}") from None
    old_server = stepped or first
    # One that Patroni has started again as a replica already has the settings of the store.
    untouched = first if _is_native(move) else old_server
    try:
        _require_asked(move)
        if stepped is None or move.takes_environment or not _is_placed(move, stepped):
            move.server = _start_again(move, old_server)
        else:
            move.server = stepped
        _verify(move, probes, position)
    except (MshareError, OSError) as error:
        if move.spec is None:
            raise
        raise MshareError(f"{error}; {_undo(move, before, untouched)}") from None
    move.restarted = True
    move.lost = None
    _note(move)


def _is_native(move: _Move) -> bool:
    return move.spec is not None and move.spec.pages == NATIVE


def _step_down(move: _Move) -> Server | None:
    """Have a leader of Patroni's hand over; the server that runs then, None where nobody did."""
    member = move.cluster.patroni
    return None if member is None else patroni_restart.step_down(move.cluster, member)


def _is_placed(move: _Move, stepped: Server) -> bool:
    """Whether a server is as it should be, to which nothing but settings has to come."""
    segment = placement.of(stepped.pid)
    if move.spec is None:
        return segment is not None and segment.kind != "hugetlb"
    return not list(placement.wrong(move.spec, segment, 0))


def _is(running: Server | None, other: Server) -> bool:
    return running is not None and server.same(running, other)


def _start_again(move: _Move, old_server: Server) -> Server:
    seconds = move.spec.start_seconds if move.spec is not None else spec.START_SECONDS
    member = move.cluster.patroni
    if member is None:
        return server.restart(move.cluster, old_server, seconds)
    return patroni_restart.restart(
        move.cluster, member, old_server, seconds, environment=move.takes_environment
    )


def _undo_store(move: _Move, touched: bool) -> str:
    """Put the store of a Patroni cluster back; the end of a sentence that says how that went.

    A server that was `touched` may not start with PostgreSQL's own huge pages: these are taken back even if
    an earlier run has set them, for another member. Otherwise only what this run has changed is put back.
    """
    member = move.cluster.patroni
    if member is None or move.spec is None:
        return ""
    if touched and _is_native(move):
        return f"; {patroni_huge_pages.take_back(member)}"
    return "" if move.store is None else f"; {patroni_huge_pages.undo(member, move.store.reverse)}"


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
    """Conflict, before the server is stopped, where its huge_pages or its environment would be another."""
    if move.spec is None or move.cluster.patroni is not None:
        return
    if move.cluster.plain_unit is not None and move.spec.needs_library:
        unit_files.require_set(move.cluster, move.spec)
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
    # It let them in before, and may be full of clients by now: that is no reason to restart it once more.
    with _probed(move, probes, fewer=True) as opened:
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
def _probed(move: _Move, probes: int, fewer: bool = False) -> Iterator[list[server.Connection]]:
    with ExitStack() as opened:
        connections = []
        if probes and move.server is not None and move.server.connects:
            connections = opened.enter_context(
                server.connections(move.cluster, move.server, probes, fewer=fewer)
            )
        yield connections


def _cost(move: _Move, opened: list[server.Connection]) -> Cost | None:
    if not opened or move.segment is None:
        return None
    before = move.costs.before
    size_bytes = probe.segment_bytes(opened[0])
    span_bytes = before.span_bytes if before else probe.span_bytes(size_bytes, len(opened))
    return probe.cost(opened, move.segment, span_bytes)


def _undo(move: _Move, before: Changes, untouched: Server) -> str:
    """Put store, files, group and server back; a clause that says how that went.

    A server that is still `untouched` is left alone.
    """
    running = server.running(move.cluster)
    touched = not _is(running, untouched)
    store_text = _undo_store(move, touched)
    _put_back(move, before)
    member = move.cluster.patroni
    if not touched:
        return f"its files were restored, and it was not stopped{store_text}"
    try:
        if member is not None:
            patroni_restart.put_back(move.cluster, member, running)
        else:
            server.forget_failures(move.cluster)
            if running is None:
                server.start(move.cluster)
            else:
                server.restart(move.cluster, running)
    except MshareError as error:
        return f"its files were restored, but it does not start with them either{store_text}: {error}"
    return f"its files were restored, and it runs with them again{store_text}"
