# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host: support, mounts, regions, owners, clients. A mere look.

Changes nothing and needs nothing but the standard library: files of /proc, status files, sidecars. On
a kernel, what is mapped inside a region is known from its owner's status file only.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from .. import paths
from ..backends.choose import choose, kernel_has_msharefs, locate
from ..backends.mapping import mapping_to_dict
from ..backends.simulated.layout import Layout
from ..errors import MshareError, sentence
from ..host import mounts, procfs
from ..kernel import abi, probe
from ..kernel.generations import GENERATIONS
from ..services import status_file
from . import attached

Facts = dict[str, Any]


def mount_roots() -> list[str]:
    """Every msharefs there is, real or simulated, mounted or an ordinary user's directory."""
    roots = [
        mount.path
        for mount in mounts.mounts()
        if mount.filesystem == abi.FILESYSTEM or mount.source == paths.SIMULATED_SOURCE
    ]
    if Layout.present(paths.simulated_root()):
        roots.append(paths.simulated_root())
    return sorted(set(roots))


def mount_facts(root: str, probing: bool = True) -> Facts:
    """One msharefs: backend, generation with its features, alignment, access. Probing makes a scratch
    file that is unlinked before it is asked; without it a kernel's generation is not known."""
    facts: Facts = {"root": root, "backend": None, "generation": None, "features": None}
    try:
        mount = mounts.mount_at(root)
        found = os.stat(root)
        facts.update(mode=f"{stat.S_IMODE(found.st_mode):04o}", uid=found.st_uid, gid=found.st_gid)
        if mount is not None and mount.filesystem == abi.FILESYSTEM:
            facts["backend"] = "kernel"
            facts["generation"] = probe.generation(root).id if probing else None
        else:
            facts["backend"] = "simulated"
            facts["generation"] = Layout.read(root).generation_id
        facts["alignment_bytes"] = probe.alignment_bytes(root)
    except (MshareError, OSError) as error:
        facts["reason"] = sentence(error)
    if facts["generation"] is not None:
        facts["features"] = {**GENERATIONS[facts["generation"]].features.__dict__}
    return facts


def support(backend: str = "auto", root: str | None = None) -> Facts:
    """Whether mshare can be used here, which backend that would be, and why or why not."""
    reasons = []
    facts: Facts = {
        "supported": True,
        "kernel_supported": kernel_has_msharefs(),
        "backend": None,
        "root": None,
    }
    try:
        choice = choose(backend)
        facts.update(backend=choice.backend, root=root or choice.root)
        reasons.append(choice.reason)
        located = locate(backend, root)
        facts.update(backend=located.backend, root=located.root, mounted=True)
    except MshareError as error:
        facts["mounted"] = False
        facts["supported"] = facts["backend"] is not None
        reasons.append(str(error))
    facts["reasons"] = reasons
    return facts


def region_names(root: str) -> list[str]:
    """Regions with a file, and those whose owner still has a status file."""
    try:
        files = set(os.listdir(root)) - {abi.INFO_FILE, ".simulated"}
    except OSError:
        files = set()
    return sorted(files | set(status_file.names(root, "owner")))


def region_facts(root: str, name: str) -> Facts:
    """One region: file, owner, geometry, mappings, clients; a None is something that is not known."""
    status = status_file.look(status_file.file(root, name, "owner")) or {}
    owner_alive = status_file.process_alive(status) if status else False
    facts: Facts = {"name": name, "root": root, "path": os.path.join(root, name)}
    geometry: Facts = {
        key: status.get(key) for key in ("window_bytes", "mapped_bytes", "address", "mappings")
    }
    try:
        found = os.stat(facts["path"])
        facts.update(
            mode=f"{stat.S_IMODE(found.st_mode):04o}", uid=found.st_uid, gid=found.st_gid, exists=True
        )
    except OSError as error:
        facts.update(mode=None, uid=None, gid=None, exists=not isinstance(error, FileNotFoundError))
    record = Layout.read(root).record(name) if Layout.present(root) else None
    if record is not None:
        inside = sorted((placed.mapping for placed in record.placed), key=lambda mapping: mapping.offset)
        geometry = {
            "window_bytes": record.window_bytes,
            "mapped_bytes": sum(mapping.size_bytes for mapping in inside),
            "address": record.address,
            "mappings": [mapping_to_dict(mapping) for mapping in inside],
        }
        if not status and record.owner is not None:
            status = {"pid": record.owner.pid, "state": "unmanaged"}
            owner_alive = not record.dead
    facts.update(geometry)
    facts["owner"] = {
        "pid": status.get("pid"),
        "alive": owner_alive,
        "state": status.get("state") if owner_alive or status.get("state") == "failed" else "gone",
        "error": status.get("error", {}).get("message"),
        "version": status.get("version"),
        "oom_score_adjust": status.get("oom_score_adjust"),
    }
    facts["health"] = _health(facts)
    facts["clients"] = clients_facts(root, name)
    return facts


# By the state of an owner that lives. Of "unknown" are those that another version of the library runs, in
# another schema.
_HEALTH = {"ready": "healthy", "unmanaged": "healthy", "unknown": "unknown"}


def _health(facts: Facts) -> str:
    """ "healthy", or one word for what is wrong."""
    if not facts["exists"]:
        return "missing"
    if not facts["owner"]["alive"]:
        return "stale"
    return _HEALTH.get(facts["owner"]["state"], "starting")


def clients_facts(root: str, name: str) -> Facts | None:
    """The clients of a region as their launcher reports them, checked against /proc; None without one."""
    status = status_file.look(status_file.file(root, name, "clients"))
    if status is None:
        return None
    alive = status_file.process_alive(status)
    if status["state"] == "unknown":
        errors = [status.pop("error")["message"]]
        status.update(requested=None, attached=None, dead=[], errors=errors)
    facts = {key: value for key, value in status.items() if key not in ("schema_version", "pids", "spec")}
    facts["launcher_pid"] = facts.pop("pid")
    facts["launcher_alive"] = alive
    facts.pop("started_ticks")
    # A launcher that was killed took its clients with it, and can no longer count them.
    facts["attached"] = _attached(status) if alive else 0
    return facts


def _attached(status: Facts) -> int | None:
    """How many a launcher counted last that still live: on a full tmpfs it cannot write down who died."""
    counted: int | None = status["attached"]
    if not counted:
        return counted
    return min(counted, sum(procfs.start_ticks(pid) is not None for pid in status["pids"]))


def living_roles(root: str) -> list[str]:
    """Who lives on a root, as words for a sentence: "region sga (owner 4711; attached: 4713 ...)"."""
    living = []
    for name in region_names(root):
        facts = region_facts(root, name)
        owner, clients = facts["owner"], facts["clients"] or {}
        found = attached.processes(root, name)
        who = [f"owner {owner['pid']}"] if owner["alive"] else []
        if clients.get("launcher_alive"):
            who.append(f"launcher {clients['launcher_pid']}")
        if found:
            who.append(f"{len(found)} attached: {attached.told(found)}")
        if who:
            living.append(f"region {name} ({'; '.join(who)})")
    return living


def host(backend: str = "auto", root: str | None = None, probing: bool = True) -> Facts:
    """Everything: what `mshare info` and the module mshare_info answer."""
    roots = [root] if root is not None else mount_roots()
    return {
        **support(backend, root),
        "mounts": [mount_facts(found, probing) for found in roots if os.path.isdir(found)],
        "regions": [region_facts(found, name) for found in roots for name in region_names(found)],
        "memory": {
            key: procfs.meminfo_bytes().get(field)
            for key, field in (
                ("total_bytes", "MemTotal"),
                ("available_bytes", "MemAvailable"),
                ("page_tables_bytes", "PageTables"),
            )
        },
    }
