# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare attach: this process as a client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from .. import record
from ..backends.connect import connect
from ..clients import client
from ..converge.spec import parse_number
from ..errors import InvalidRequest, MshareError
from ..pagetable import STRIDE_BYTES
from ..region.filling import Filler, ranges
from ..region.rules import region_name
from ..services import signals
from ..units import counted, format_milliseconds, format_size, parse_size
from . import display
from .options import region_argument, where_options
from .progress import Step
from .screen import Screen


@click.command("attach")
@region_argument
@click.option("--address", metavar="ADDR", help="Where; a multiple of the alignment (default: anywhere).")
@click.option("--touch", metavar="SIZE", help="Touch a page in every 2 MiB of SIZE, and verify the pattern.")
@click.option("--hold", is_flag=True, help="Stay attached until Ctrl-C.")
@where_options
@click.pass_obj
def attach_command(
    screen: Screen,
    name: str,
    address: str | None,
    touch: str | None,
    hold: bool,
    backend: str | None,
    root: str | None,
) -> None:
    """Attach a region to this process, and detach it."""
    region_name(name)
    where = None if address is None else parse_number(address, "address")
    span_bytes = 0 if touch is None else parse_size(touch, "touch")
    target = client.Target.find(name, connect(backend or "auto", root))
    if span_bytes and not target.mappings_known:
        raise InvalidRequest(
            f"what is mapped in region {name} is not known, because no owner of mshare's wrote it down, and a"
            " touch of anything else ends the process; attach it without --touch"
        )
    if span_bytes > target.mapped_bytes:
        raise InvalidRequest(
            f"{format_size(span_bytes)} cannot be touched: {format_size(target.mapped_bytes)} are known to be"
            f" mapped in region {name}"
        )
    if span_bytes:
        _touch(screen, target, span_bytes)
    attachment, done = client.attach_and_touch(target, span_bytes, STRIDE_BYTES, where)
    with attachment:
        screen.answer(
            {
                "region": name,
                "address": attachment.address,
                "window_bytes": target.window_bytes,
                "mapped_bytes": target.mapped_bytes if target.mappings_known else None,
                "span_bytes": span_bytes,
                "stride_bytes": STRIDE_BYTES,
                **record.to_fields(done),
            }
        )
        screen.sentence(f"Attached region {name} at {attachment.address:#x}.")
        screen.fields(_lines(target, span_bytes, done))
        if hold:
            # From this message on, Ctrl-C is the normal end, not an interruption.
            with contextlib.suppress(KeyboardInterrupt):
                screen.sentence("Ctrl-C detaches it.")
                signals.wait_for_ever()


def _touch(screen: Screen, target: client.Target, span_bytes: int) -> None:
    """Have another process touch it first: what is not there any more would end this one."""
    filler = Filler(target.place())
    if filler.why_python is not None:
        screen.note(f"Python touches it, and not the program in C, which is faster: {filler.why_python}")
    with screen.waiting(f"Touching region {target.name}") as shown:
        fault = filler.touch_pages(
            list(ranges(target.mappings, span_bytes)),
            STRIDE_BYTES,
            lambda done, total: shown.step(
                Step(done, total, f"touched {format_size(done)} of {format_size(total)}")
            ),
        )
    if fault is not None:
        raise MshareError(fault.sentence(target.name))


def _lines(target: client.Target, span_bytes: int, done: client.Touched) -> Iterator[tuple[str, str]]:
    yield "window", f"{format_size(target.window_bytes)} of address space"
    yield "mapped", display.mapped(target.mapped_bytes if target.mappings_known else None)
    yield "attaching", format_milliseconds(done.attach_us / 1000)
    if span_bytes:
        took = format_milliseconds(done.touch_us / 1000)
        yield "touched", f"a page in every 2 MiB of {format_size(span_bytes)}, {took}"
        yield "verified", _verified(target, done)
    before, after = done.vm_pte_before_bytes, done.vm_pte_after_bytes
    yield (
        "page tables",
        f"{format_size(before)} before, {format_size(after)} after (measured: VmPTE of this process)",
    )


def _verified(target: client.Target, done: client.Touched) -> str:
    if target.pattern is None:
        return "nothing: the owner wrote no pattern (--pattern)"
    right_pages = done.verified_pages - done.wrong_pages
    return (
        f"{right_pages:,} of {counted(done.verified_pages, 'page holds', 'pages hold')} what the owner wrote"
    )
