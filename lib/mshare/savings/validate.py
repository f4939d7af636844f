# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validates a deployment: compares what its clients report with a probe without sharing.

Needs only the standard library, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from .. import errors
from ..backends.choose import Choice, locate
from ..clients.status import KINDS
from ..errors import MshareError
from ..host import procfs
from ..info import attached
from ..info.facts import ClientsFacts, RegionFacts
from ..info.inventory import region_facts
from ..pagetable import STRIDE_BYTES
from ..region.rules import region_name
from ..units import format_size
from . import baseline, shared_tables
from .assess import SCHEMA_VERSION, Projection, Savings, assess
from .clients_seen import ClientsSeen
from .programs import Programs, attached_programs
from .verdict import Thresholds

# The probe may use this share of the free memory: one part in four.
_MEMORY_SHARE = 4


def validate(
    region: str,
    *,
    backend: str = "auto",
    root: str | None = None,
    span_bytes: int | None = None,
    probes: int = 2,
    projection: Projection | None = None,
    thresholds: Thresholds | None = None,
) -> Savings:
    """Measure a baseline over the span that the clients of a region touch, and validate the saving.

    With `span_bytes` the probe touches another span than the clients did. If no launcher runs, the
    clients are the programs that have the region mapped, such as the backends of a database. Raises
    MshareError if there are no clients at all.
    """
    region_name(region)
    choice = locate(backend, root)
    facts = region_facts(choice.root, region)
    launched = facts.clients
    if launched is not None and not launched.launcher_alive:
        launched = None
    programs = None if launched is not None else attached_programs(choice.root, region, choice.backend)
    # A launcher counts its own clients; of other programs those that cannot be read are missing.
    unread = None if launched is not None else attached.unread(facts.window_bytes)
    if launched is not None:
        seen = _launched(launched, choice.root)
    elif programs is not None:
        seen = programs.seen
    else:
        raise MshareError(
            f"no clients of region {region} at {choice.root} run, and no other program has it mapped,"
            " so there is nothing to validate; start some first (`mshare clients start`, or the role"
            " dbmem.mshare.clients)" + (f". {unread}" if unread else "")
        )
    # The user's own programs may touch anything, so the probe covers the whole region.
    span_bytes = span_bytes or seen.span_bytes or seen.mapped_bytes
    if not span_bytes:
        raise MshareError(
            f"how much of region {region} is mapped is not known, so there is nothing to measure against;"
            " give a span (`mshare validate --span`)"
        )
    seen = replace(seen, huge_bytes=_huge_bytes(facts, span_bytes))
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0)
    fitting_bytes = baseline.largest_span(available_bytes // _MEMORY_SHARE, STRIDE_BYTES, probes)
    measured = baseline.measure(min(span_bytes, fitting_bytes or span_bytes), STRIDE_BYTES, probes)
    notes = _notes(choice, launched, programs, unread)
    return assess(measured, seen, projection, thresholds, notes)


def _launched(facts: ClientsFacts, root: str) -> ClientsSeen:
    if facts.state == "starting":
        raise MshareError(
            f"the clients of region {facts.region} are still starting: {facts.attached} of {facts.requested}"
            f" are attached; run this again when `mshare clients status {facts.region}` shows all of them"
        )
    seen = ClientsSeen.of(facts)
    if seen.backend != "kernel":
        return seen
    return replace(seen, shared_tables=shared_tables.of_region(root, facts.region, facts))


def _huge_bytes(facts: RegionFacts, span_bytes: int) -> int:
    """How much of the first `span_bytes` of a region is in pages of 2 MiB."""
    left_bytes, huge_bytes = span_bytes, 0
    for entry in facts.mappings or ():
        part_bytes = min(left_bytes, entry.size)
        left_bytes -= part_bytes
        huge_bytes += part_bytes if entry.kind == "hugetlb" else 0
    return huge_bytes


def validate_each(regions: Sequence[str], validate_one: Callable[[str], Savings]) -> dict[str, Savings]:
    """What sharing saves in each of several regions; `validate_one` is `validate` with its other arguments.

    Raises what `validate` raises; with several regions the message starts with the region's name.
    """
    for region in regions:
        region_name(region)
    savings = {}
    for region in regions:
        try:
            savings[region] = validate_one(region)
        except (MshareError, OSError) as error:
            if len(regions) == 1:
                raise
            raise errors.within(f"region {region}", error) from error
    return savings


def result(savings: Savings) -> dict[str, object]:
    """The result of the command line and the module for one region."""
    return {**savings.to_dict(), "summary": savings.summary_lines()}


def results(by_region: Mapping[str, Savings]) -> dict[str, object]:
    """The same for several regions: one verdict, one text, and each of the results."""
    return {
        "schema_version": SCHEMA_VERSION,
        "passed": all(savings.passed for savings in by_region.values()),
        "reasons": [
            f"region {region}: {reason}"
            for region, savings in by_region.items()
            for reason in savings.reasons
        ],
        "summary": [line for savings in by_region.values() for line in [*savings.summary_lines(), ""]][:-1],
        "regions": [{"region": region, **result(savings)} for region, savings in by_region.items()],
    }


def failure(regions: Iterable[str], reasons: Iterable[str]) -> str:
    """The message for missed thresholds."""
    return f"the validation of region {', '.join(regions)} failed: {'; '.join(reasons)}"


def _notes(
    choice: Choice, launched: ClientsFacts | None, programs: Programs | None, unread: str | None
) -> tuple[str, ...]:
    """Why this backend is used, what the clients are, and why they touch this span."""
    notes = [f"Backend {choice.backend}: {choice.reason}."]
    if programs is not None:
        who = ", ".join(f"{count} of {name}" for name, count in sorted(programs.counts.items()))
        notes.append(f"The clients are programs, other than the owner, that have the region mapped: {who}.")
        if unread is not None:
            notes.append(f"{unread}.")
    if launched is not None and launched.client_kind_reason:
        notes.append(f"The clients are {KINDS['python']}, not lean ones: {launched.client_kind_reason}.")
    if launched is not None and launched.span_fitted:
        why = (
            "fitted to this host's free memory, because simulated clients really pay for their own page"
            " tables"
            if choice.backend == "simulated"
            else "fitted to this host's free memory"
        )
        span, mapped = format_size(launched.span_bytes or 0), format_size(launched.mapped_bytes or 0)
        notes.append(f"Each client touches one page in every 2 MiB of the first {span} of {mapped}: {why}.")
    return tuple(notes)
