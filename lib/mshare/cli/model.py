# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare model: what page tables cost, by arithmetic."""

from __future__ import annotations

import click

from ..errors import InvalidRequest
from ..pagetable import PageTables, page_tables
from ..units import counted, format_size, parse_size
from .screen import Screen


@click.command("model")
@click.option("--size", metavar="SIZE", default="300GiB", show_default=True, help="Touched by each client.")
@click.option("--clients", type=int, default=1500, show_default=True, help="How many processes attach.")
@click.option("--page-size", metavar="SIZE", default="4KiB", show_default=True, help="4KiB, 2MiB or 1GiB.")
@click.pass_obj
def model_command(screen: Screen, size: str, clients: int, page_size: str) -> None:
    """Calculate what page tables cost.

    For any size and number of clients. Only arithmetic; nothing is measured.
    """
    size_bytes, page_bytes = parse_size(size), parse_size(page_size, "page size")
    if clients < 1:
        raise InvalidRequest(f"{counted(clients, 'client')} cannot be modelled; use 1 or more, like 1500")
    tables = page_tables(size_bytes, page_bytes)
    levels = _levels(tables)
    screen.answer(
        {
            "kind": "modelled",
            "size_bytes": size_bytes,
            "clients": clients,
            "page_bytes": page_bytes,
            **{
                side: {f"{level}_bytes": count * tables for level, tables in levels}
                for side, count in (("per_client", 1), ("without_sharing", clients), ("with_sharing", 1))
            },
            "saving_bytes": (clients - 1) * tables.total_bytes,
        }
    )
    screen.sentence(
        f"{counted(clients, 'client that touches', 'clients that touch')} all of {format_size(size_bytes)} in"
        f" pages of {format_size(page_bytes)} (modelled: arithmetic, nothing was measured)"
    )
    screen.sentence("")
    heads = ("Page tables", "Per client", "Without sharing, in all", "With sharing, in all")
    rows = [
        (level, format_size(tables), format_size(tables * clients), format_size(tables))
        for level, tables in levels
    ]
    screen.table(heads, rows, right=heads[1:])
    screen.sentence("")
    saved = (clients - 1) * tables.total_bytes
    screen.sentence(f"Sharing saves {format_size(saved)}, {100 * (clients - 1) / clients:.2f} %.")


def _levels(tables: PageTables) -> list[tuple[str, int]]:
    return [
        ("leaf", tables.leaf_bytes),
        ("pmd", tables.pmd_bytes),
        ("pud", tables.pud_bytes),
        ("total", tables.total_bytes),
    ]
