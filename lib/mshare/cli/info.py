# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare info, list, stat: what there is. They change nothing and need nothing installed."""

from __future__ import annotations

from typing import Any

import click

from ..backends.choose import locate
from ..errors import MshareError
from ..info import inventory
from ..region.rules import region_name
from . import display
from .options import region_argument, where_options
from .screen import Screen


@click.command("info")
@where_options
@click.option("--no-probe", is_flag=True, help="Ask a kernel nothing; its generation is then not known.")
@click.pass_obj
def info_command(screen: Screen, backend: str | None, root: str | None, no_probe: bool) -> None:
    """Say whether mshare works here, and what there is."""
    host = inventory.host(backend or "auto", root, probing=not no_probe)
    screen.answer(host)
    screen.say(f"Supported: {_supported(host)}")
    for reason in _shortest(host["reasons"]):
        screen.say(f"  {reason}")
    if host["mounts"]:
        screen.say("")
        _mounts(screen, host["mounts"])
    if host["regions"]:
        screen.say("")
        _regions(screen, host["regions"])
    screen.say("")
    memory = host["memory"]
    screen.say(
        f"Memory: {display.size(memory['total_bytes'])}, of it {display.size(memory['available_bytes'])}"
        f" available and {display.size(memory['page_tables_bytes'])} page tables"
    )


def _supported(host: dict[str, Any]) -> str:
    if not host["supported"]:
        return "no"
    mounted = "mounted" if host["mounted"] else "not mounted yet"
    return f"yes, by the {host['backend']} backend at {host['root']} ({mounted})"


def _shortest(reasons: list[str]) -> list[str]:
    """Without those that another one begins with."""
    return [one for one in reasons if not any(two != one and two.startswith(one) for two in reasons)]


def _mounts(screen: Screen, mounts: list[dict[str, Any]]) -> None:
    rows = [
        (
            mount["root"],
            mount["backend"] or "-",
            mount["generation"] or "-",
            ", ".join((mount["features"] or {}).get("mapping_kinds", ())) or "-",
            display.size(mount.get("alignment_bytes")),
            display.access(mount),
        )
        for mount in mounts
    ]
    screen.table(("Mount", "Backend", "Generation", "Takes", "Alignment", "Access"), rows)
    for mount in mounts:
        if "reason" in mount:
            screen.say(f"  {mount['reason']}")


def _regions(screen: Screen, regions: list[dict[str, Any]]) -> None:
    rows = [
        (
            region["name"],
            region["health"],
            display.size(region["window_bytes"]),
            display.size(region["mapped_bytes"]),
            str(region["owner"]["pid"]) if region["owner"]["alive"] else "-",
            _clients(region["clients"]),
            display.access(region),
            region["path"],
        )
        for region in regions
    ]
    heads = ("Region", "Health", "Window", "Mapped", "Owner", "Clients", "Access", "Path")
    screen.table(heads, rows, right=("Window", "Mapped", "Owner", "Clients"))


def _clients(facts: dict[str, Any] | None) -> str:
    if facts is None or facts["attached"] is None:
        return "-"
    return f"{facts['attached']} of {facts['requested']}"


@click.command("list")
@where_options
@click.pass_obj
def list_command(screen: Screen, backend: str | None, root: str | None) -> None:
    """List the regions."""
    roots = inventory.mount_roots() if root is None else [locate(backend or "auto", root).root]
    regions = [
        inventory.region_facts(where, name) for where in roots for name in inventory.region_names(where)
    ]
    screen.answer({"regions": regions})
    if regions:
        _regions(screen, regions)
    else:
        screen.say("There are no regions; make one with `mshare create NAME --size SIZE`.")


@click.command("stat")
@region_argument
@where_options
@click.pass_obj
def stat_command(screen: Screen, name: str, backend: str | None, root: str | None) -> None:
    """Show a region: sizes, owner, clients, mappings."""
    where = locate(backend or "auto", root)
    facts = inventory.region_facts(where.root, region_name(name))
    if not facts["exists"] and facts["owner"]["pid"] is None:
        raise MshareError(f"there is no region {name} at {where.root}; `mshare list` shows those there are")
    screen.answer({"backend": where.backend, "region": facts})
    screen.say(f"Region {name}: {facts['health']}")
    screen.fields(
        [
            ("path", facts["path"]),
            ("backend", where.backend),
            *display.sizes(facts),
            ("address", hex(facts["address"]) if facts["address"] else "any"),
            ("access", display.access(facts)),
            ("owner", _owner(facts["owner"])),
            ("clients", _clients(facts["clients"]) + " attached" if facts["clients"] else "none"),
        ]
    )
    if facts["mappings"]:
        screen.say("")
        display.mappings(screen, facts["mappings"])


def _owner(owner: dict[str, Any]) -> str:
    if owner["pid"] is None:
        return "unknown"
    said = f"process {owner['pid']}, {owner['state']}"
    return said if owner["error"] is None else f"{said}: {owner['error']}"
