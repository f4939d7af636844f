# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regions that should be there, or should not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import files, paths
from ..backends import choose
from ..backends import root as roots
from ..clients.status import CLIENTS
from ..converge import memory
from ..converge.outcome import (
    ABSENT,
    Boot,
    Outcome,
    Undo,
    chosen,
    differing_keys,
    locate,
    locate_leftovers,
    other_version,
    outdated_warnings,
    present,
    remove_spec,
    spec_written,
)
from ..converge.request import Request
from ..errors import Conflict, MshareError, Unavailable
from ..host import accounts
from ..info import attached, inventory
from ..info.facts import RegionFacts
from ..services import status_file, supervisor
from ..services.choose import current
from ..services.status_file import Role, S, Unread
from ..services.supervisor import Progress, Supervisor, no_progress
from ..units import counted, format_size
from . import preflight, rules
from .spec import RegionSpec
from .status import OWNER, OwnerStatus, starting
from .units import address_space_limit, region_files_differ, region_files_written, remove_region_files

# What a running region can take over; what matters only while one is being made, or to systemd.
_LIVE_KEYS = ("mode", "owner", "group")
_BIRTH_KEYS = ("overcommit", "prefault", "pattern", "backend", "root", "memory_max", "before")


@dataclass(frozen=True)
class RegionPresent(Request[RegionFacts]):
    """That a region exists as specified and that its owner runs.

    `program` starts the command line of this library where systemd does not. Conflict for a region that
    differs in what cannot be changed, unless `recreate`; with clients attached, unless `force` as well.
    A name that a killed owner left is replaced only with `replace_stale` (or `recreate`). An owner of
    another version of the library keeps running, unless `replace_outdated`.
    """

    spec: RegionSpec
    program: Sequence[str]
    recreate: bool = False
    replace_stale: bool = False
    replace_outdated: bool = False
    force: bool = False
    boot: bool | None = None
    progress: Progress = no_progress

    @property
    def region(self) -> str:
        return self.spec.name

    def require(self) -> None:
        roots.require_place(choose.locate(self.spec.backend, self.spec.root).root, self.spec.name)

    def converge(self, check: bool) -> Outcome[RegionFacts]:
        spec = self.spec
        root = locate(spec.backend, spec.root, check)
        if root is not None and not check:
            self.require()
        if root is None:
            memory.check(spec.memory_bytes, overcommit=spec.overcommit, prefault=spec.prefault)
            fills_bytes = spec.memory_bytes if spec.prefault else 0
            findings = _preflight(spec, None, spec.window_bytes or spec.mapped_bytes)
            preflight.require(findings)
            return Outcome(
                True,
                [f"create region {spec.name}"],
                ABSENT,
                present(spec),
                fills_bytes=fills_bytes,
                warnings=preflight.warnings(findings),
            )
        return _Region(self, root).converge(check)


class _Region:
    """One region: what is there, against what should be."""

    def __init__(self, request: RegionPresent, root: str) -> None:
        self.request = request
        self.spec = spec = request.spec
        self.root = root
        self.spec_path = paths.spec_file("regions", spec.name)
        self.keeper = current()
        self.facts = inventory.region_facts(root, spec.name)
        self.running = self.facts.owner.alive
        status = status_file.read(root, spec.name, OWNER)
        # The owner's status holds the spec that the region was made with.
        self.stored = status.spec if status is not None and self.running else None
        different = differing_keys(spec, self.stored)
        self.rebuild = [key for key in different if key not in _LIVE_KEYS + _BIRTH_KEYS]
        self.stale = self.facts.exists and not self.running
        self.outdated = other_version(self.facts.owner.version) if self.running else None

    def converge(self, check: bool) -> Outcome[RegionFacts]:
        whose = self._ending()
        self._refuse(ending=bool(whose))
        spec, name = self.spec, self.spec.name
        boot = Boot.of(self.keeper, OWNER, name, self.request.boot)
        start = not self.running or bool(whose)
        live = not start and self._access_differs()
        write = files.read_text(self.spec_path) != spec.to_json()
        units = self.keeper.survives_reboot and region_files_differ(spec)
        actions = chosen(
            (
                (bool(whose), f"end region {name}, whose {' and whose '.join(whose)}"),
                (self.stale, f"remove the name that a killed owner of region {name} left behind"),
                (start, f"create region {name} of {format_size(spec.mapped_bytes)} at {self.root}"),
                (live, f"set mode, owner or group of region {name}"),
                (write, f"write {self.spec_path}"),
                (units, f"write the systemd settings of region {name}"),
                boot.step(f"region {name}"),
            )
        )
        before = self._before()
        window_bytes = _window_bytes(spec, self.root) if start else self.facts.window_bytes or 0
        findings = _preflight(spec, self.root, window_bytes)
        # A region that replaces another gets the room that the other has now: its owner sees if it is enough.
        fills_root = self.root if start and not whose and not self.stale else None
        if start:
            self._require_it_fits(findings, fills_root)
        fills_bytes = spec.memory_bytes if start and spec.prefault else 0
        warnings = [*preflight.warnings(findings), *self._warnings(ends=bool(whose))]
        with Undo() as undo:
            if actions and not check:
                self._make_way(ends=bool(whose))
                undo.enter_context(spec_written(self.spec_path, spec.to_json()))
                if units:
                    undo.enter_context(region_files_written(spec))
                if start:
                    warnings += _prefaulted_in_python(self._start())
                    undo.add(lambda: _end(self.keeper, name, self.root))
                if live:
                    undo.add(self._put_access_back)
                    self._set_access()
                if boot.enabled != boot.wanted:
                    self.keeper.set_enabled(OWNER, name, boot.wanted)
                    undo.add(lambda: self.keeper.set_enabled(OWNER, name, boot.enabled))
            if self.running and not check:
                supervisor.wait_until_ready(OWNER, name, self.root, self.request.progress)
            facts = inventory.region_facts(self.root, name)
            if not check:
                _require_healthy(facts, made=start)
        after = present(spec) if actions else before
        return Outcome(
            bool(actions), actions, before, after, facts, boot.facts(), fills_bytes, fills_root, warnings
        )

    def _warnings(self, ends: bool) -> list[str]:
        name = self.spec.name
        left = outdated_warnings(
            f"the owner of region {name}", None if ends else self.outdated, "replace_outdated"
        )
        return left + _unread(f"recreating region {name}", self.facts, ends and not self.request.force)

    def _ending(self) -> list[str]:
        """Why a running region has to be ended."""
        why = [f"{', '.join(self.rebuild)} differ"] if self.rebuild else []
        return why + ([f"owner {self.outdated}"] if self.request.replace_outdated and self.outdated else [])

    def _require_it_fits(self, findings: list[preflight.Finding], fills_root: str | None) -> None:
        spec = self.spec
        memory.check(spec.memory_bytes, overcommit=spec.overcommit, prefault=spec.prefault)
        preflight.require(findings)
        if spec.prefault and fills_root is not None:
            memory.check_room(spec.name, spec.memory_bytes, fills_root)

    def _make_way(self, ends: bool) -> None:
        if ends:
            _end(self.keeper, self.spec.name, self.root)
        if self.stale:
            roots.unlink(self.root, self.spec.name)

    def _start(self) -> OwnerStatus:
        argv = [*self.request.program, "own", "--spec", self.spec_path]
        try:
            first = starting(self.spec.name, self.root, self.spec.to_dict())
            return self.keeper.start(OWNER, self.spec.name, self.root, argv, first, self.request.progress)
        except BaseException:
            # An owner that is killed while it fills its region cannot remove the name, and so the memory.
            if not inventory.region_facts(self.root, self.spec.name).owner.alive:
                roots.unlink(self.root, self.spec.name)
            raise

    def _before(self) -> Mapping[str, object]:
        if self.stored is None:
            return {"state": "stale"} if self.stale else ABSENT
        return {"state": "present", **self.stored, **self._access()}

    def _access(self) -> dict[str, object]:
        """The current mode, and owner and group if a specification names them."""
        facts = self.facts
        if facts.mode is None or facts.uid is None or facts.gid is None:
            return {}
        current = {
            "mode": facts.mode,
            "owner": accounts.user(facts.uid),
            "group": accounts.group(facts.gid),
        }
        named = {"mode", *self.spec.to_dict(), *(self.stored or {})}
        return {key: value for key, value in current.items() if key in named}

    def _refuse(self, ending: bool) -> None:
        name, facts = self.spec.name, self.facts
        _require_known(facts)
        if self.running and self.stored is None:
            raise Conflict(_foreign(name, self.root, facts))
        if self.rebuild and not self.request.recreate:
            raise Conflict(
                f"region {name} exists with {format_size(facts.mapped_bytes or 0)} mapped in a window of"
                f" {format_size(facts.window_bytes or 0)}, but its {', '.join(self.rebuild)} should differ"
                f" ({format_size(self.spec.mapped_bytes)} requested); a region's size and mappings are"
                f" fixed: set recreate: true (--recreate) to create it again, which loses its content"
            )
        if ending:
            _refuse_attached(name, self.root, f"recreating region {name}", self.request.force)
        if self.stale and not (self.request.replace_stale or self.request.recreate):
            raise Conflict(
                f"{facts.path} exists and its owner has ended, so nobody can attach it; have"
                " it replaced with replace_stale: true (--replace-stale), or remove it (state: absent or"
                " `mshare rm`)"
            )

    def _access_differs(self) -> bool:
        uid, gid = self.spec.ids()
        return self.facts.mode is not None and (
            int(self.facts.mode, 8) != self.spec.mode
            or uid not in (-1, self.facts.uid)
            or gid not in (-1, self.facts.gid)
        )

    def _set_access(self) -> None:
        roots.set_region_access(self.root, self.spec.name, self.spec.mode, *self.spec.ids())

    def _put_access_back(self) -> None:
        facts = self.facts
        if facts.mode is not None and facts.uid is not None and facts.gid is not None:
            roots.set_region_access(self.root, facts.name, int(facts.mode, 8), facts.uid, facts.gid)


def _prefaulted_in_python(status: OwnerStatus) -> list[str]:
    if status.prefault is None or status.filler_reason is None:
        return []
    return [
        f"region {status.region} was prefaulted by Python and not by the program in C, which is faster:"
        f" {status.filler_reason}"
    ]


def _preflight(spec: RegionSpec, root: str | None, window_bytes: int) -> list[preflight.Finding]:
    """The findings of this host about a region."""
    supervised = current().survives_reboot
    uid = spec.ids()[0] if root is not None else -1
    return preflight.findings(
        preflight.Wanted(
            spec.name,
            window_bytes,
            spec.memory_bytes,
            sum(mapping.size_bytes for mapping in spec.mappings if mapping.kind == "hugetlb"),
            overcommit=spec.overcommit,
            prefault=spec.prefault,
            attaches=spec.prefault or spec.pattern,
            memory_max_bytes=spec.memory_max_bytes,
            units=spec.before,
            uid=os.geteuid() if uid < 0 else uid,
            simulated=root is not None and choose.locate(spec.backend, root).backend == "simulated",
            address_space_limit=address_space_limit(spec.name) if supervised else None,
            supervised=supervised,
        )
    )


def _window_bytes(spec: RegionSpec, root: str) -> int:
    """The size of the window. Refuses what no owner could create on this msharefs, because check mode
    starts no owner that would refuse it."""
    alignment_bytes = roots.alignment_bytes(root)
    generation = roots.generation(root, roots.backend_at(root) or "kernel")
    assert generation is not None, "a kernel was asked"
    window_bytes = rules.place(spec.mappings, spec.window_bytes, alignment_bytes, generation)[1]
    rules.address(spec.address, alignment_bytes)
    return window_bytes


def _require_healthy(facts: RegionFacts, made: bool) -> None:
    """MshareError for a region that nobody can attach. One that was just `made` is removed by the caller."""
    if facts.health == "healthy":
        return
    if made:
        raise MshareError(
            f"region {facts.name} at {facts.root} was created, but then was {facts.health}, so it was removed"
            " again; something else may be changing it; run this again"
        )
    raise MshareError(
        f"region {facts.name} at {facts.root} was created, but is {facts.health}; see `mshare list`"
        " and the owner's log"
    )


def _foreign(name: str, root: str, facts: RegionFacts) -> str:
    if facts.owner.state != "unmanaged":
        return (
            f"the owner of region {name} at {root}, process {facts.owner.pid}, was started by another user"
            f" (state files of uid {os.geteuid()} do not have it); run as root, or as that user"
        )
    if facts.owner.pid is None:
        users = attached.summary(attached.processes(root, name))
        unread = attached.unread(facts.window_bytes)
        who = users or ("" if unread else "a process that does not have it mapped")
        parts = [f"it is mapped by {who}"] if who else []
        return (
            f"region {name} at {root} lives, and its owner is none of mshare's; "
            + "; ".join([*parts, *([unread] if unread else [])])
            + "; choose another name, or end the program that made it first"
        )
    return (
        f"region {name} at {root} belongs to process {facts.owner.pid}, which is not an mshare owner;"
        " choose another name, or end that process first"
    )


def _require_known(facts: RegionFacts) -> None:
    """Unavailable where nobody can tell this user whether a region lives: it is not taken for a dead one."""
    if facts.health == "unknown" and not facts.owner.alive and not os.access(facts.path, os.R_OK):
        raise Unavailable(
            f"whether region {facts.name} lives is not known: {facts.reason}; run as root (become: true), or"
            " as a member of its group"
        )


def _refuse_attached(name: str, root: str, doing: str, force: bool) -> None:
    if force:
        return
    clients = attached.processes(root, name)
    if clients:
        raise Conflict(
            f"{doing} would kill {counted(len(clients), 'attached client')}: {attached.summary(clients)};"
            " stop them first (state: absent of mshare_clients, `mshare clients stop`, or the database they"
            " belong to), or set force: true (--force)"
        )


def _unread(doing: str, facts: RegionFacts, ends: bool) -> list[str]:
    """What is to be warned of where a region is ended and not every process can be read."""
    unread = attached.unread(facts.window_bytes) if ends else None
    return [f"{doing}: {unread}"] if unread else []


def _end(keeper: Supervisor, name: str, root: str) -> None:
    keeper.stop(CLIENTS, name, root)
    keeper.stop(OWNER, name, root)
    roots.unlink(root, name)


def _known(root: str, name: str, role: Role[S]) -> bool:
    """Whether any file of a role is there; Conflict for one that another version of the library keeps."""
    status = status_file.peek(root, name, role)
    if isinstance(status, Unread) and status.state == "unknown" and status.alive:
        raise Conflict(status.reason)
    return status is not None or name in status_file.names_left(root, role)


@dataclass(frozen=True)
class RegionAbsent(Request[RegionFacts]):
    """Ensure that there is no region of that name, no owner, and no trace of either.

    Conflict while clients are attached, unless `force`.
    """

    name: str
    backend: str = "auto"
    root: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        rules.region_name(self.name)

    @property
    def region(self) -> str:
        return self.name

    def converge(self, check: bool) -> Outcome[RegionFacts]:
        name = self.name
        root = locate_leftovers("regions", OWNER, name, self.backend, self.root)
        if root is None:
            return Outcome(False, [], ABSENT, ABSENT)
        keeper = current()
        facts = inventory.region_facts(root, name)
        # Also of the clients: what another version writes is refused before anything is changed.
        owner_known, __ = _known(root, name, OWNER), _known(root, name, CLIENTS)
        spec_path = paths.spec_file("regions", name)
        enabled = keeper.enabled(OWNER, name)
        _require_known(facts)
        if facts.owner.state == "unmanaged" or (facts.owner.alive and not owner_known):
            raise Conflict(_foreign(name, root, facts))
        _refuse_attached(name, root, f"removing region {name}", self.force)
        ends = facts.owner.alive or facts.exists
        warnings = _unread(f"removing region {name}", facts, ends and not self.force)
        actions = chosen(
            (
                (ends, f"end region {name}"),
                (owner_known and not facts.owner.alive, f"forget the owner of region {name}"),
                (files.left_at(spec_path), f"remove {spec_path}"),
                (enabled, f"disable region {name} at boot"),
            )
        )
        if actions and not check:
            if enabled:
                keeper.set_enabled(OWNER, name, False)
            _end(keeper, name, root)
            if keeper.survives_reboot:
                remove_region_files(name)
            # Clients that were killed must not be started again for a region that is gone.
            remove_spec(paths.spec_file("clients", name))
            remove_spec(spec_path)
        before = {"state": "present"} if actions else ABSENT
        return Outcome(bool(actions), actions, before, ABSENT, boot={"enabled": False}, warnings=warnings)
