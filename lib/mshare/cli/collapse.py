# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare collapse: huge pages for the shared memory of a running server."""

from __future__ import annotations

import signal
import threading

import click

from ..collapse import service
from ..collapse.collapse import Result, collapse
from ..collapse.follow import follow
from ..collapse.spec import SECONDS, read_spec
from ..collapse.spec import rate as parse_rate
from ..errors import EXIT_VERDICT_FAILED, InvalidRequest
from ..services.notify import notify
from ..units import format_size
from .options import check_option
from .progress import Step
from .screen import Screen

_ENOUGH = 0.9
"""The share of the memory in use that has to be in huge pages in the end; the ends of a segment cannot be."""


@click.command("collapse")
@click.argument("target", metavar="TARGET", required=False)
@click.option(
    "--spec", "spec_path", metavar="FILE", help="Follow what a spec file names, as the service does."
)
@click.option(
    "--rate",
    metavar="SIZE",
    help="At most SIZE per second, like 200MiB, or unlimited. Default: it works a quarter of the time.",
)
@click.option("--follow", "following", is_flag=True, help="Stay, and collapse again after a restart.")
@click.option(
    "--interval",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help=f"With --follow: check every SECONDS. Default: {SECONDS:g}.",
)
@check_option
@click.pass_context
def collapse_command(
    ctx: click.Context,
    target: str | None,
    spec_path: str | None,
    rate: str | None,
    following: bool,
    interval: float | None,
    check: bool,
) -> None:
    """Put a running server's shared memory into huge pages.

    TARGET is a pid, the data directory of a PostgreSQL server, or a systemd unit. Nothing is restarted;
    an interrupted run is resumed by the next one. Exit code 3 when less than 90 % of the memory in use
    ends up in huge pages.
    """
    screen: Screen = ctx.obj
    if spec_path is not None:
        if target is not None or rate is not None or following or interval is not None or check:
            raise InvalidRequest("--spec says everything; use it without a TARGET and other options")
        service.run(read_spec(spec_path), screen.sentence)
        return
    if target is None:
        raise InvalidRequest(
            "a TARGET is needed: a pid, a data directory or a systemd unit; see `mshare survey` for pids"
        )
    rate_bytes = parse_rate(rate)
    if following:
        if check:
            raise InvalidRequest("--check and --follow cannot be combined; use only one of them")
        _follow(screen, target, rate_bytes, interval or SECONDS)
        return
    if interval is not None:
        raise InvalidRequest("--interval only takes effect with --follow")
    with screen.waiting("Collapsing") as shown:
        result = collapse(
            target,
            rate_bytes=rate_bytes,
            check=check,
            progress=lambda done, total: shown.step(
                Step(done, total, f"{format_size(done)} of {format_size(total)}")
            ),
        )
    screen.answer(result.to_dict())
    for line in result.lines():
        screen.sentence(line)
    if not check and not _is_enough(result):
        ctx.exit(EXIT_VERDICT_FAILED)


def _is_enough(result: Result) -> bool:
    return result.after.huge_bytes >= _ENOUGH * result.after.used_bytes


def _follow(screen: Screen, target: str, rate_bytes: int | None, seconds: float) -> None:
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: over.set())
    notify(READY="1")
    follow(target, over.wait, screen.sentence, seconds=seconds, rate_bytes=rate_bytes)
