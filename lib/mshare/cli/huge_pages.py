# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare huge-pages: the pools of a host, as they are, as they should be, and back."""

from __future__ import annotations

import click

from ..errors import Failure, InvalidRequest, MshareError
from ..host.huge_pages import Pool
from ..huge_pages.converge import absent, present
from ..huge_pages.result import Result
from ..huge_pages.show import show
from ..huge_pages.spec import (
    DEFAULT_SHARE_OF_RAM,
    DEFAULT_SPARE_PAGES,
    THP_MODES,
    HugePagesSpec,
    make,
    parse_memlock,
    parse_want,
)
from ..units import format_size
from .options import check_option
from .progress import Step
from .screen import Screen

_HEADS = ("Pages of", "Node", "Total", "In use", "Reserved", "Surplus", "Size")


@click.command("huge-pages")
@click.option(
    "--want",
    "wants",
    metavar="[SIZE[@NODE]=]PAGES",
    multiple=True,
    help="The size of a pool: auto, a number of pages, or a size. Like auto, 24GiB, 1GiB=16 or 2MiB@0=512."
    " Repeat it for more pools.",
)
@click.option(
    "--instance",
    "instances",
    metavar="NAME",
    multiple=True,
    help="An instance that auto counts, as `mshare survey` names it. Default: the databases that use huge"
    " pages.",
)
@click.option(
    "--spare",
    metavar="PAGES",
    default=str(DEFAULT_SPARE_PAGES),
    show_default=True,
    help="What auto adds, pages or a size.",
)
@click.option(
    "--share-of-ram",
    type=float,
    default=DEFAULT_SHARE_OF_RAM,
    show_default=True,
    help="How much of the RAM all pools may take.",
)
@click.option("--live/--no-live", default=True, help="Whether the running kernel is changed.")
@click.option("--boot/--no-boot", default=True, help="Whether it is set for the next boot.")
@click.option("--keep-partial", is_flag=True, help="Keep what was granted if it is less than asked for.")
@click.option("--shm-group", metavar="GROUP", help="The group that may use huge pages for SysV memory.")
@click.option(
    "--memlock",
    metavar="UNIT|USER[=SIZE]",
    multiple=True,
    help="A service or user that may lock SIZE of memory. Default: without limit.",
)
@click.option(
    "--transparent", type=click.Choice(THP_MODES), help="Transparent huge pages for ordinary memory."
)
@click.option("--absent", "is_absent", is_flag=True, help="Restore what was there before.")
@check_option
@click.pass_context
def huge_pages_command(
    ctx: click.Context,
    wants: tuple[str, ...],
    instances: tuple[str, ...],
    spare: str,
    share_of_ram: float,
    live: bool,
    boot: bool,
    keep_partial: bool,
    shm_group: str | None,
    memlock: tuple[str, ...],
    transparent: str | None,
    is_absent: bool,
    check: bool,
) -> None:
    """Show the pools of huge pages of this host, or set them.

    Without options, shows the pools, what the databases need, and what sets the pools at boot. What an
    earlier run asked for and this one does not is restored. Exit code 1 when the kernel grants less than
    asked for; the pool then goes back to what it was.
    """
    screen: Screen = ctx.obj
    if is_absent:
        _only_absent(ctx)
        with screen.waiting("Restoring") as shown:
            result = absent(check=check, progress=lambda done, total: shown.step(_step(done, total)))
        _answer(screen, result)
        return
    if not (wants or shm_group or memlock or transparent):
        _only_show(ctx)
        _show(screen)
        return
    spec = make(
        [parse_want(text) for text in wants],
        spare=spare,
        share_of_ram_max=share_of_ram,
        instances=instances,
        live=live,
        persist=boot,
        keep_partial=keep_partial,
        shm_group=shm_group,
        memlock=[parse_memlock(text) for text in memlock],
        transparent=transparent,
    )
    _apply(screen, spec, check)


def _apply(screen: Screen, spec: HugePagesSpec, check: bool) -> None:
    with screen.waiting("Reserving") as shown:
        result = present(spec, check=check, progress=lambda done, total: shown.step(_step(done, total)))
    _answer(screen, result)


def _step(done_bytes: int, total_bytes: int) -> Step:
    return Step(done_bytes, total_bytes, f"{format_size(done_bytes)} of {format_size(total_bytes)}")


def _answer(screen: Screen, result: Result) -> None:
    failure = None if result.failure is None else Failure.of(MshareError(result.failure))
    screen.answer({**result.to_dict(), **({} if failure is None else {"error": vars(failure)})})
    for text in result.warnings:
        screen.warn(text)
    for line in result.lines():
        screen.sentence(line)
    if failure is not None:
        # With its figures, and the sentence for people is among the lines.
        click.get_current_context().exit(failure.exit_code)


def _given(ctx: click.Context) -> list[str]:
    """The options that say what to do and differ from their defaults, by their names."""
    return [
        max(parameter.opts, key=len)
        for parameter in ctx.command.params
        if _differs(ctx.params.get(parameter.name or ""), parameter.default)
    ]


def _differs(value: object, default: object) -> bool:
    # Which options were written is known to click 8 only; what is not given is None, () or False.
    if value is None or value == ():
        return False
    return default is True if value is False else value != default


def _only_absent(ctx: click.Context) -> None:
    others = [option for option in _given(ctx) if option not in ("--absent", "--check")]
    if others:
        raise InvalidRequest(f"--absent restores everything, and {others[0]} was given as well; leave it out")


def _only_show(ctx: click.Context) -> None:
    others = _given(ctx)
    if others:
        raise InvalidRequest(
            f"{others[0]} was given, and nothing that is wanted; add --want, like --want auto"
        )


def _show(screen: Screen) -> None:
    shown = show()
    screen.answer(shown.to_dict())
    screen.table(_HEADS, [_row(pool) for pool in shown.pools], right=_HEADS[1:])
    for line in shown.lines():
        screen.sentence(line)


def _row(pool: Pool) -> tuple[str, ...]:
    counts = (pool.total, pool.used - (pool.reserved or 0), pool.reserved, pool.surplus)
    return (
        format_size(pool.page_bytes),
        "all" if pool.node is None else str(pool.node),
        *("-" if count is None else f"{count:,}" for count in counts),
        format_size((pool.total or 0) * pool.page_bytes),
    )
