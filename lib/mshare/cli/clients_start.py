# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare clients start, restart, stop."""

from __future__ import annotations

from typing import Any

import click

from ..backends.choose import locate
from ..clients.converge import ClientsAbsent, ClientsPresent
from ..clients.spec import ClientsSpec
from ..clients.status import CLIENTS
from ..converge.request import apply
from ..errors import MshareError
from ..region.rules import region_name
from ..services.supervisor import status_of
from ..units import counted
from . import display
from .options import (
    boot_option,
    check_option,
    clients_options,
    clients_spec,
    program,
    region_argument,
    where_options,
)
from .screen import Screen


@click.command("start")
@clients_options
@click.option(
    "--restart-outdated",
    is_flag=True,
    help="Restart all if their launcher runs another version of the library.",
)
@click.option("--restart-dead", is_flag=True, help="Start dead clients again; the others stay as they are.")
@click.option("--require-all", is_flag=True, help="Fail if fewer are attached than requested.")
@boot_option
@check_option
@click.pass_obj
def start_command(
    screen: Screen,
    /,
    spec_path: str | None,
    restart_outdated: bool,
    restart_dead: bool,
    require_all: bool,
    boot: bool | None,
    check: bool,
    **options: Any,
) -> None:
    """Start clients, or change their number.

    Without a COMMAND they are ours: each opens, maps, touches and verifies the region for itself, and
    stays. A COMMAND is run N times with the region in its environment (see `mshare clients run --help`).
    """
    spec = clients_spec(spec_path, options)
    consents = {
        "restart_outdated": restart_outdated,
        "restart_dead": restart_dead,
        "require_all": require_all,
    }
    _start(screen, spec, boot, check, **consents)


def _start(screen: Screen, /, spec: ClientsSpec, boot: bool | None, check: bool, **consents: bool) -> None:
    with screen.waiting(f"Starting {counted(spec.count, 'client')} of {spec.region}") as progress:
        request = ClientsPresent(spec, program(), boot=boot, progress=progress, **consents)
        done = apply(request, check=check)
    attached = done.facts.attached if done.facts is not None else 0
    # Nobody may tell: what the launcher writes down can be unreadable.
    number = "An unknown number" if attached is None else f"{attached:,}"
    shown = display.outcome(
        screen,
        done,
        done.to_dict("clients"),
        check,
        f"{number} of {counted(spec.count, 'client is', 'clients are')} attached to region {spec.region}.",
        f"The clients of region {spec.region} run already as requested; nothing to do.",
    )
    if shown and done.facts is not None:
        display.clients(screen, done.facts)


@click.command("restart")
@region_argument
@where_options
@check_option
@click.pass_obj
def restart_command(screen: Screen, name: str, backend: str | None, root: str | None, check: bool) -> None:
    """Start dead clients again; the others stay as they are."""
    choice = locate(backend or "auto", root)
    status = status_of(CLIENTS, region_name(name), choice.root)
    if status is None:
        raise MshareError(
            f"no launcher of region {name} runs; start clients with `mshare clients start {name} --count N`"
        )
    _start(screen, ClientsSpec.from_dict(status.spec), None, check, restart_dead=True)


@click.command("stop")
@region_argument
@where_options
@check_option
@click.pass_obj
def stop_command(screen: Screen, name: str, backend: str | None, root: str | None, check: bool) -> None:
    """Stop the clients of a region; the region stays."""
    done = apply(ClientsAbsent(name, backend or "auto", root), check=check)
    display.outcome(
        screen,
        done,
        done.to_dict("clients"),
        check,
        f"Stopped the clients of region {name}.",
        f"No clients of region {name} run; nothing to do.",
    )
