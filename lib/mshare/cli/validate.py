# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare validate: what sharing page tables saves, measured."""

from __future__ import annotations

import click

from ..errors import EXIT_VERDICT_FAILED
from ..savings.assess import Projection, Savings
from ..savings.table import HEADS, RIGHT
from ..savings.validate import result, validate
from ..savings.verdict import Thresholds
from ..units import parse_size
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
    help="How far measured page tables may differ from the model, in percent.",
)
@click.option(
    "--min-clients-attached", type=int, help="How many must be attached. Default: all that were requested."
)
@click.option(
    "--max-client-errors",
    type=int,
    default=0,
    show_default=True,
    help="How many errors the clients may report.",
)
@click.option("--span", metavar="SIZE", help="How much the probe touches. Default: the same as the clients.")
@click.option("--probes", type=int, default=2, show_default=True, help="Processes of the probe.")
@click.option(
    "--project-size",
    metavar="SIZE",
    default="300GiB",
    show_default=True,
    help="Scale the figures to a region of this size ...",
)
@click.option(
    "--project-clients", type=int, default=1500, show_default=True, help="... and to this many clients."
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

    A probe maps plain shared memory in its own processes, as a database without mshare would, and its
    page tables are compared with those of the clients. The exit code is 3 if the validation fails.
    """
    screen: Screen = ctx.obj
    screen.note("Measuring page tables without sharing ...")
    savings = validate(
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
    screen.answer(result(savings))
    _savings(screen, savings)
    if not savings.passed:
        ctx.exit(EXIT_VERDICT_FAILED)


def _savings(screen: Screen, savings: Savings) -> None:
    for line in (savings.title, *savings.notes, ""):
        screen.sentence(line)
    screen.table(HEADS, [row.cells for row in savings.rows()], RIGHT)
    screen.sentence("")
    screen.sentence(savings.verdict)
    for reason in savings.reasons:
        screen.sentence(f"  {reason}")
