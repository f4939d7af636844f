# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare clients: the processes that attach to a region."""

from __future__ import annotations

import click

from .program import LazyGroup

_COMMANDS = {
    "start": "clients_start",
    "status": "clients_status",
    "count": "clients_status",
    "restart": "clients_start",
    "stop": "clients_start",
    "run": "clients_run",
}


@click.group("clients", cls=LazyGroup, modules=_COMMANDS)
def clients_command() -> None:
    """The processes that attach to a region.

    \b
      mshare clients start sga --count 1500
      mshare clients start sga --count 16 -- /usr/local/bin/worker --verbose
    """
