# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host: support, mounts, regions, owners, clients.

Changes nothing and needs nothing but the standard library: files of /proc, status files, sidecars. What
cannot be read is one entry with a reason. Whether a region lives is asked of its root; on a kernel, what is
mapped inside is known from its owner's status file only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from ..backends import root as roots
from ..backends.choose import choose, kernel_has_msharefs, locate
from ..backends.mapping import MappingEntry
from ..clients.status import CLIENTS, LauncherStatus
from ..errors import MshareError, sentence
from ..host import procfs
from ..kernel import probe
from ..kernel.generations import PLAYED
from ..record import Malformed
from ..region.status import OWNER, OwnerStatus
from ..services import status_file
from ..services.status_file import Unread
from .facts import (
    ClientsFacts,
    DirectoryFacts,
    GenerationFacts,
    HostFacts,
    MemoryFacts,
    MountFacts,
    OwnerFacts,
    RegionFacts,
    Support,
)

_UNREADABLE = "unreadable"


def mount_facts(root: str, probing: bool = True) -> MountFacts:
    """One msharefs: backend, generation with its features, alignment, access. Probing makes a scratch
    file that is unlinked before it is asked; without it a kernel's generation is not known."""
    facts = MountFacts(root)
    try:
        file = os.stat(root)
        facts = replace(facts, mode=f"{stat.S_IMODE(file.st_mode):04o}", uid=file.st_uid, gid=file.st_gid)
        backend = roots.used_at(root) or "simulated"
        facts = replace(facts, backend=backend)
        generation = roots.generation(root, backend, probing)
        if generation is not None:
            features = {**generation.features.__dict__}
            facts = replace(facts, generation=generation.id, features=features)
        facts = replace(facts, directories=tuple(directory_facts(root)))
        return replace(facts, alignment_bytes=roots.alignment_bytes(root))
    except (MshareError, OSError) as error:
        return replace(facts, reason=sentence(error))


def directory_facts(root: str) -> Iterator[DirectoryFacts]:
    """The directories of regions at a root."""
    for name in roots.directories(root):
        facts = DirectoryFacts(name)
        with contextlib.suppress(OSError, MshareError):
            file = roots.status(root, name)
            facts = replace(facts, mode=f"{stat.S_IMODE(file.st_mode):04o}", uid=file.st_uid, gid=file.st_gid)
        yield facts


def support(backend: str = "auto", root: str | None = None) -> Support:
    """Whether mshare can be used here, which backend that would be, and why or why not."""
    found, mounted, reasons = None, False, []
    try:
        found = locate(backend, root)
        mounted = True
        reasons.append(found.reason)
    except MshareError as not_mounted:
        with contextlib.suppress(MshareError):
            found = choose(backend)
            found = found._replace(root=root or found.root)
            reasons.append(found.reason)
        reasons.append(str(not_mounted))
    return Support(
        supported=found is not None,
        kernel_supported=kernel_has_msharefs() or probe.why_no_calls() is None,
        backend=None if found is None else found.backend,
        root=None if found is None else found.root,
        mounted=mounted,
        reasons=tuple(reasons),
    )


def region_names(root: str) -> list[str]:
    """Regions with a file, and those whose owner still has a status file."""
    return sorted({*roots.names(root), *status_file.names(root, OWNER)})


def region_facts(root: str, name: str) -> RegionFacts:
    """One region: file, owner, geometry, mappings, clients.

    The root is asked first, what the owner wrote down second; `source` says which of them knew.
    """
    status = status_file.observe(root, name, OWNER)
    reasons = [status.reason] if isinstance(status, Unread) and status.state == _UNREADABLE else []
    facts = _with_file(
        RegionFacts(
            name=name,
            root=root,
            path=os.path.join(root, name),
            mode=None,
            uid=None,
            gid=None,
            exists=False,
            window_bytes=None,
            mapped_bytes=None,
            address=None,
            mappings=None,
            owner=_owner(status),
            health="",
            clients=clients_facts(root, name),
        )
    )
    if isinstance(status, OwnerStatus):
        facts = replace(
            facts,
            window_bytes=status.window_bytes,
            mapped_bytes=status.mapped_bytes,
            address=status.address,
            mappings=status.mappings,
        )
    if facts.window_bytes is None:
        facts = replace(facts, window_bytes=roots.window_bytes(root, name))
    try:
        seen = roots.peek(root, name)
    except (Malformed, OSError) as error:
        seen = None
        reasons.append(sentence(error))
    if seen is not None:
        facts = replace(
            facts,
            window_bytes=seen.window_bytes,
            mapped_bytes=sum(mapping.size_bytes for mapping in seen.mappings),
            address=seen.address,
            mappings=tuple(MappingEntry.of(mapping) for mapping in seen.mappings),
        )
        if status is None and seen.owner_pid is not None:
            state = "unmanaged" if seen.owner_alive else "gone"
            facts = replace(
                facts, owner=replace(facts.owner, pid=seen.owner_pid, alive=seen.owner_alive, state=state)
            )
    if reasons:
        return replace(facts, health=_UNREADABLE, reason="; ".join(reasons))
    return _judged(facts, roots.attachable(root, name) if facts.exists else None)


def _with_file(facts: RegionFacts) -> RegionFacts:
    try:
        file = roots.status(facts.root, facts.name)
    except (FileNotFoundError, NotADirectoryError):
        return replace(facts, exists=False)
    except (MshareError, OSError) as error:
        # That it may not be looked at does not make it absent, nor its owner dead.
        return replace(facts, exists=True, reason=sentence(error))
    if stat.S_ISDIR(file.st_mode):
        return replace(facts, exists=False)
    mode = f"{stat.S_IMODE(file.st_mode):04o}"
    return replace(facts, mode=mode, uid=file.st_uid, gid=file.st_gid, exists=True)


def _owner(status: OwnerStatus | Unread | None) -> OwnerFacts:
    if status is None:
        return OwnerFacts(None, False, "gone", None, None, None)
    if isinstance(status, Unread):
        # Of a process whose file this user may not read nobody knows whether it lives.
        known = status.state == _UNREADABLE or status.pid is None
        state = status.state if status.alive or known else "gone"
        return OwnerFacts(status.pid, status.alive, state, status.reason, status.version, None)
    alive = status.alive
    return OwnerFacts(
        status.pid,
        alive,
        status.state if alive or status.state == "failed" else "gone",
        status.error.message if status.error is not None else None,
        status.version,
        status.oom_score_adjust,
    )


# By the state of an owner that lives. Of "unknown" are those that another version of the library runs, in
# another schema.
_HEALTH = {"ready": "healthy", "unmanaged": "healthy", "unknown": "unknown"}


def _judged(facts: RegionFacts, attachable: bool | None) -> RegionFacts:
    """With its health, in one word, and who knew it."""
    owner = facts.owner
    if not facts.exists:
        starting = owner.alive and owner.state == "starting"
        return replace(facts, health="starting" if starting else "missing", source="file")
    if attachable and not owner.alive:
        # Its owner lives, as the root says, and is none that wrote anything down.
        owner = replace(owner, alive=True, state="unmanaged", pid=None, error=None)
        return replace(facts, owner=owner, health="healthy", source="root")
    alive_health = _HEALTH.get(owner.state or "", "starting")
    if attachable is not None:
        dead_health = "starting" if owner.alive and owner.state == "starting" else "stale"
        return replace(facts, health=alive_health if attachable else dead_health, source="root")
    if owner.alive:
        return replace(facts, health=alive_health, source="status file")
    if owner.pid is not None:
        return replace(facts, health="stale", source="status file")
    why = (
        f"uid {os.geteuid()} may not open {facts.path}"
        if not os.access(facts.path, os.R_OK)
        else "it has no size"
    )
    reason = facts.reason or owner.error or f"{why}, and no owner of it is known"
    return replace(facts, owner=replace(owner, state="unknown"), health="unknown", reason=reason)


def clients_facts(root: str, name: str) -> ClientsFacts | None:
    """The clients of a region as their launcher reports them, checked against /proc; None without one."""
    status = status_file.observe(root, name, CLIENTS)
    if status is None:
        return None
    alive = status.alive
    if isinstance(status, Unread):
        return ClientsFacts(
            region=name,
            state=status.state,
            launcher_pid=status.pid,
            launcher_alive=alive,
            version=status.version,
            requested=None,
            attached=None if alive or status.state == _UNREADABLE or status.pid is None else 0,
            dead=(),
            errors=(status.reason,),
            root=root,
        )
    return ClientsFacts(
        region=status.region,
        state=status.state,
        launcher_pid=status.pid,
        launcher_alive=alive,
        version=status.version,
        requested=status.requested,
        # A launcher that was killed took its clients with it, and can no longer count them.
        attached=_attached(status) if alive else 0,
        dead=status.dead,
        errors=status.errors,
        root=status.root,
        error=status.error,
        backend=status.backend,
        generation=status.generation,
        reloads=status.reloads,
        owner_alive=status.owner_alive,
        window_bytes=status.window_bytes,
        mapped_bytes=status.mapped_bytes,
        span_bytes=status.span_bytes,
        span_fitted=status.span_fitted,
        stride_bytes=status.stride_bytes,
        attach_ms_median=status.attach_ms_median,
        attach_ms_max=status.attach_ms_max,
        vm_pte_before_bytes_sum=status.vm_pte_before_bytes_sum,
        vm_pte_after_bytes_sum=status.vm_pte_after_bytes_sum,
        host_page_tables_before_bytes=status.host_page_tables_before_bytes,
        host_page_tables_after_bytes=status.host_page_tables_after_bytes,
        client_kind=status.client_kind,
        client_kind_reason=status.client_kind_reason,
    )


def _attached(status: LauncherStatus) -> int:
    """How many a launcher counted last that still live: on a full tmpfs it cannot write down who died."""
    if not status.attached:
        return status.attached
    return min(status.attached, procfs.count_running(status.pids))


def host(backend: str = "auto", root: str | None = None, probing: bool = True) -> HostFacts:
    """Everything: what `mshare info` and the module mshare_info answer."""
    all_roots = [root] if root is not None else roots.roots()
    memory = procfs.meminfo_bytes()
    return HostFacts(
        support(backend, root),
        tuple(mount_facts(each, probing) for each in all_roots if os.path.isdir(each)),
        tuple(region_facts(each, name) for each in all_roots for name in region_names(each)),
        MemoryFacts(memory.get("MemTotal"), memory.get("MemAvailable"), memory.get("PageTables")),
        generations(),
    )


def generations() -> tuple[GenerationFacts, ...]:
    """The interfaces that the library knows, in the order of time."""
    return tuple(
        GenerationFacts(known.id, known.status, known.origin, {**known.features.__dict__})
        for known in PLAYED.values()
    )
