# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare validate, model: what sharing page tables saves, measured and by arithmetic."""

from __future__ import annotations

import click

from ..errors import EXIT_VERDICT_FAILED, InvalidRequest
from ..pagetable import PageTables, page_tables
from ..savings import Projection, Savings, Thresholds
from ..units import format_size, parse_size
from ..validate import validate
from .options import region_argument, where_options
from .screen import Screen


@click.command("validate")
@region_argument
@click.option("--min-saving-percent", type=float, help="Default: 90 % of what that many clients can save.")
@click.option(
    "--max-model-error-percent",
    type=float,
    default=5.0,
    show_default=True,
    help="How far measured page tables may be from the model.",
)
@click.option(
    "--min-clients-attached", type=int, help="How many must be attached. Default: all that were asked for."
)
@click.option(
    "--max-client-errors",
    type=int,
    default=0,
    show_default=True,
    help="How many errors the clients may report.",
)
@click.option("--span", metavar="SIZE", help="What the probe touches. Default: the same as the clients.")
@click.option("--probes", type=int, default=2, show_default=True, help="Processes of the probe.")
@click.option(
    "--project-size",
    metavar="SIZE",
    default="300GiB",
    show_default=True,
    help="Scale the figures to a region of this size ...",
)
@click.option(
    "--project-clients", type=int, default=1500, show_default=True, help="... and to so many clients."
)
@where_options
@click.pass_context
def validate_command(
    ctx: click.Context,
    name: str,
    min_saving_percent: float | None,
    max_model_error_percent: float,
    min_clients_attached: int | None,
    max_client_errors: int,
    span: str | None,
    probes: int,
    project_size: str,
    project_clients: int,
    backend: str | None,
    root: str | None,
) -> None:
    """Measure what a region's clients save; pass or fail.

    A probe maps plain shared memory in processes of its own, as a database without mshare would; its
    page tables are compared with those of the clients. Exit code 3 when the verdict is "failed".
    """
    screen: Screen = ctx.obj
    screen.note("Measuring page tables without sharing ...")
    found = validate(
        name,
        backend=backend or "auto",
        root=root,
        span_bytes=None if span is None else parse_size(span, "span"),
        probes=probes,
        projection=Projection(parse_size(project_size, "project-size"), project_clients),
        thresholds=Thresholds(
            min_saving_percent, max_model_error_percent, min_clients_attached, max_client_errors
        ),
    )
    screen.answer({**found.to_dict(), "summary": found.summary_lines()})
    _savings(screen, found)
    if not found.passed:
        ctx.exit(EXIT_VERDICT_FAILED)


def _savings(screen: Screen, found: Savings) -> None:
    for line in (found.title, *found.notes, ""):
        screen.say(line)
    rows = [(row.label, row.per_client, row.in_all, row.kind) for row in found.rows()]
    screen.table(("", "Per client", "In all", "Figures are"), rows, right=("Per client", "In all"))
    screen.say("")
    screen.say(found.verdict)
    for reason in found.reasons:
        screen.say(f"  {reason}")


@click.command("model")
@click.option("--size", metavar="SIZE", default="300GiB", show_default=True, help="Touched by each client.")
@click.option("--clients", type=int, default=1500, show_default=True, help="How many processes attach.")
@click.option("--page-size", metavar="SIZE", default="4KiB", show_default=True, help="4KiB, 2MiB or 1GiB.")
@click.pass_obj
def model_command(screen: Screen, size: str, clients: int, page_size: str) -> None:
    """Work out what page tables cost.

    For any size and number of clients: arithmetic, nothing is looked at.
    """
    size_bytes, page_bytes = parse_size(size), parse_size(page_size, "page size")
    if clients < 1:
        raise InvalidRequest(f"{clients} clients pay for nothing; ask for 1 or more, like 1500")
    one = page_tables(size_bytes, page_bytes)
    levels = _levels(one)
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
            "saving_bytes": (clients - 1) * one.total_bytes,
        }
    )
    screen.say(
        f"{clients:,} clients that touch all of {format_size(size_bytes)} in pages of"
        f" {format_size(page_bytes)} (modelled: arithmetic, nothing was measured)"
    )
    screen.say("")
    heads = ("Page tables", "Per client", "Without sharing, in all", "With sharing, in all")
    rows = [
        (level, format_size(tables), format_size(tables * clients), format_size(tables))
        for level, tables in levels
    ]
    screen.table(heads, rows, right=heads[1:])
    screen.say("")
    saved = (clients - 1) * one.total_bytes
    screen.say(f"Sharing saves {format_size(saved)}, {100 * (clients - 1) / clients:.2f} %.")


def _levels(one: PageTables) -> list[tuple[str, int]]:
    return [
        ("leaf", one.leaf_bytes),
        ("pmd", one.pmd_bytes),
        ("pud", one.pud_bytes),
        ("total", one.total_bytes),
    ]
