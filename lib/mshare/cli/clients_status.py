# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare clients status, count."""

from __future__ import annotations

import click

from .. import record
from ..backends.choose import locate
from ..errors import MshareError
from ..info import inventory
from ..info.facts import ClientsFacts
from ..region.rules import region_name
from . import display
from .options import region_argument, where_options
from .screen import Screen


@click.command("status")
@region_argument
@where_options
@click.pass_obj
def status_command(screen: Screen, name: str, backend: str | None, root: str | None) -> None:
    """Show the state of the clients."""
    facts = _facts(name, backend, root)
    if facts is None:
        raise MshareError(
            f"no clients of region {name} were started; start some with"
            f" `mshare clients start {name} --count N`"
        )
    screen.answer({"clients": record.to_fields(facts)})
    screen.sentence(f"Clients of region {name}: {_state(facts)}")
    display.clients(screen, facts)


@click.command("count")
@region_argument
@where_options
@click.pass_obj
def count_command(screen: Screen, name: str, backend: str | None, root: str | None) -> None:
    """Print how many clients are attached."""
    facts = _facts(name, backend, root)
    if facts is not None and facts.attached is None:
        raise MshareError(facts.errors[0])
    attached, requested = (facts.attached, facts.requested) if facts is not None else (0, 0)
    dead = facts.dead if facts is not None else ()
    screen.answer(
        {
            "attached": attached,
            "requested": requested,
            "dead": [record.to_fields(client) for client in dead],
        }
    )
    screen.sentence(str(attached))


def _state(facts: ClientsFacts) -> str:
    return facts.state if facts.launcher_alive or facts.state == "unreadable" else "gone"


def _facts(name: str, backend: str | None, root: str | None) -> ClientsFacts | None:
    choice = locate(backend or "auto", root)
    return inventory.clients_facts(choice.root, region_name(name))
