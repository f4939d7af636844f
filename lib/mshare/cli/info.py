# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare info, list, stat. They change nothing and need nothing installed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import click

from .. import record
from ..backends import root as root_files
from ..backends.choose import locate
from ..errors import MshareError
from ..info import inventory
from ..info.facts import (
    ClientsFacts,
    DirectoryFacts,
    GenerationFacts,
    MountFacts,
    OwnerFacts,
    RegionFacts,
    Support,
)
from ..kernel.generations import DESCRIBED
from ..region.rules import region_name
from . import display
from .options import region_argument, where_options
from .screen import Screen


@click.command("info")
@where_options
@click.option("--no-probe", is_flag=True, help="Do not probe the kernel; its generation stays unknown.")
@click.option("--generations", is_flag=True, help="List the interfaces of the kernel that are known instead.")
@click.pass_obj
def info_command(
    screen: Screen, backend: str | None, root: str | None, no_probe: bool, generations: bool
) -> None:
    """Show whether mshare works here, and what exists."""
    if generations:
        _generations(screen)
        return
    host = inventory.host(backend or "auto", root, probing=not no_probe)
    screen.answer(record.to_fields(host))
    screen.sentence(f"Supported: {_supported(host.support)}")
    for reason in _each_once(host.support.reasons):
        screen.sentence(f"  {reason}")
    if host.mounts:
        screen.sentence("")
        _mounts(screen, host.mounts)
    if host.regions:
        screen.sentence("")
        _regions(screen, host.regions)
    screen.sentence("")
    memory = host.memory
    screen.sentence(
        f"Memory: {display.size(memory.total_bytes)}, of it {display.size(memory.available_bytes)}"
        f" available and {display.size(memory.page_tables_bytes)} page tables"
    )


def _generations(screen: Screen) -> None:
    known = inventory.generations()
    screen.answer({"generations": [record.to_fields(each) for each in known]})
    rows = [(each.id, each.status, each.origin, _can(each)) for each in known]
    screen.table(("Generation", "Status", "From", "Can"), rows)
    for each in known:
        if each.status != "posted":
            screen.sentence(f"No kernel has {each.id}; the simulated backend plays it.")


# What a feature lets one do, in the order in which they came.
_ABILITIES = {
    "explicit_mappings": "map",
    "unmap": "unmap",
    "any_address": "attach anywhere",
    "owner_bound": "end with its owner",
    "nameless": "be without a file",
    "partial_attach": "attach a part",
    "protect": "protect",
    "advice": "advise",
}


def _can(generation: GenerationFacts) -> str:
    return ", ".join(text for name, text in _ABILITIES.items() if generation.features[name]) or "-"


def _supported(support: Support) -> str:
    if not support.supported:
        return "no"
    mounted = "mounted" if support.mounted else "not mounted yet"
    return f"yes, by the {support.backend} backend at {support.root} ({mounted})"


def _each_once(reasons: Sequence[str]) -> list[str]:
    """Without those that another sentence repeats."""
    return [reason for reason in reasons if not any(reason != other and reason in other for other in reasons)]


def _takes(mount: MountFacts) -> str:
    """The kinds of objects that can be mapped into a region."""
    kinds = (mount.features or {}).get("mapping_kinds", ())
    return ", ".join(kinds) if isinstance(kinds, (list, tuple)) else ""


def _mounts(screen: Screen, mounts: Sequence[MountFacts]) -> None:
    rows = [
        (
            mount.root,
            mount.backend or "-",
            mount.generation or "-",
            _takes(mount) or "-",
            display.size(mount.alignment_bytes),
            display.access(mount),
        )
        for mount in mounts
    ]
    screen.table(("Mount", "Backend", "Generation", "Takes", "Alignment", "Access"), rows)
    for mount in mounts:
        if mount.reason is not None:
            screen.sentence(f"  {mount.reason}")
        if mount.generation in DESCRIBED:
            screen.sentence(
                f"  {mount.root}: generation {display.generation(mount.generation)}, no kernel has it"
            )
    _directories(screen, {mount.root: mount.directories for mount in mounts})


def _directories(screen: Screen, directories: Mapping[str, Sequence[DirectoryFacts]]) -> None:
    """By root."""
    rows = [
        (directory.name, display.access(directory), os.path.join(root, directory.name))
        for root, each in directories.items()
        for directory in each
    ]
    if rows:
        screen.sentence("")
        screen.table(("Directory", "Access", "Path"), rows)


def _regions(screen: Screen, regions: Sequence[RegionFacts]) -> None:
    rows = [
        (
            region.name,
            region.health,
            display.size(region.window_bytes),
            display.size(region.mapped_bytes),
            _owner_pid(region.owner),
            _clients(region.clients),
            display.access(region),
            region.path,
        )
        for region in regions
    ]
    heads = ("Region", "Health", "Window", "Mapped", "Owner", "Clients", "Access", "Path")
    screen.table(heads, rows, right=("Window", "Mapped", "Owner", "Clients"))
    for reason in _reasons(regions):
        screen.sentence(f"  {reason}")


def _owner_pid(owner: OwnerFacts) -> str:
    if owner.alive and owner.pid is None:
        return "unknown"
    return str(owner.pid) if owner.alive else "-"


def _reasons(regions: Iterable[RegionFacts]) -> list[str]:
    """Why regions and their clients cannot be read."""
    return [
        f"{region.name}: {reason}"
        for region in regions
        for reason in (region.reason, _unreadable(region.clients))
        if reason is not None
    ]


def _unreadable(clients: ClientsFacts | None) -> str | None:
    return clients.errors[0] if clients is not None and clients.state == "unreadable" else None


def _clients(facts: ClientsFacts | None) -> str:
    if facts is None or facts.attached is None:
        return "-" if facts is None else facts.state
    return f"{facts.attached} of {facts.requested}"


@click.command("list")
@where_options
@click.pass_obj
def list_command(screen: Screen, backend: str | None, root: str | None) -> None:
    """List the regions."""
    roots = root_files.roots() if root is None else [locate(backend or "auto", root).root]
    regions = [inventory.region_facts(each, name) for each in roots for name in inventory.region_names(each)]
    directories = {each: list(inventory.directory_facts(each)) for each in roots}
    screen.answer(
        {
            "regions": [record.to_fields(region) for region in regions],
            "directories": [
                {"root": root, **record.to_fields(directory)}
                for root, inside in directories.items()
                for directory in inside
            ],
        }
    )
    if regions:
        _regions(screen, regions)
    _not_lean(screen, regions)
    _directories(screen, directories)
    closed = [each for each in roots if not os.access(each, os.R_OK | os.X_OK)]
    if closed:
        screen.sentence(
            f"There may be more regions at {', '.join(closed)}, which uid {os.geteuid()} may not read."
        )
    elif not regions:
        screen.sentence("There are no regions; create one with `mshare create NAME --size SIZE`.")


def _not_lean(screen: Screen, regions: Sequence[RegionFacts]) -> None:
    for clients in (region.clients for region in regions):
        if clients is not None and clients.client_kind_reason:
            screen.sentence(display.not_lean(clients))


_SOURCES = {
    "root": "msharefs itself",
    "status file": "status file of its owner",
    "file": "absence of its file",
}


@click.command("stat")
@region_argument
@where_options
@click.pass_obj
def stat_command(screen: Screen, name: str, backend: str | None, root: str | None) -> None:
    """Show a region: sizes, owner, clients, mappings."""
    choice = locate(backend or "auto", root)
    facts = inventory.region_facts(choice.root, region_name(name))
    known = facts.owner.pid is not None or facts.reason is not None
    if not facts.exists and not known:
        raise MshareError(f"there is no region {name} at {choice.root}; `mshare list` shows the regions")
    screen.answer({"backend": choice.backend, "region": record.to_fields(facts)})
    source = "" if facts.source is None else f" (by the {_SOURCES[facts.source]})"
    screen.sentence(f"Region {name}: {facts.health}{source}")
    screen.fields(
        [
            ("path", facts.path),
            ("reason", facts.reason),
            ("backend", choice.backend),
            *display.sizes(facts),
            ("address", hex(facts.address) if facts.address else "any"),
            ("access", display.access(facts)),
            ("owner", _owner(facts.owner)),
            ("clients", _attached(facts.clients)),
        ]
    )
    if facts.mappings:
        screen.sentence("")
        display.mappings(screen, facts.mappings)


def _attached(clients: ClientsFacts | None) -> str:
    if clients is None:
        return "none"
    return f"{_clients(clients)} attached" if clients.attached is not None else clients.errors[0]


def _owner(owner: OwnerFacts) -> str:
    if owner.pid is None:
        return "unknown, not an mshare owner" if owner.alive else "unknown"
    shown = f"process {owner.pid}, {owner.state}"
    return shown if owner.error is None else f"{shown}: {owner.error}"
