# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calculates what sharing page tables saves, and a verdict.

Every figure has a label. "measured" was read from counters on this host, "modelled" is arithmetic from
ranges, "projected" is scaled to another size or number of clients. A figure computed from several has
the weakest label among them. Figures cover the region, not what a program costs anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from .. import texttable
from ..errors import InvalidRequest
from ..labels import Kind, weakest
from ..pagetable import TABLE_BYTES, page_tables
from ..units import GIB, counted, format_size
from .baseline import EDGE_BYTES, Baseline
from .clients_seen import ClientsSeen
from .figure import Figure
from .table import HEADS, RIGHT, TABLE, Row
from .verdict import Thresholds, failure_reasons

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Projection:
    """The database that the figures are scaled to."""

    size_bytes: int = 300 * GIB
    clients: int = 1500

    def __post_init__(self) -> None:
        if self.size_bytes <= 0 or self.clients <= 0:
            raise InvalidRequest(
                f"a projection to {self.size_bytes} bytes and {self.clients} clients needs both"
                " greater than zero, like 300GiB and 1500"
            )


@dataclass(frozen=True)
class Savings:
    """The figures of one region and its clients, and whether they reach the thresholds."""

    clients: ClientsSeen
    baseline: Baseline
    projection: Projection
    thresholds: Thresholds
    figures: Mapping[str, Figure]
    reasons: tuple[str, ...] = field(default=())
    """Why the verdict is "failed": what was measured, what is required, what to do next."""
    notes: tuple[str, ...] = field(default=())
    """Sentences that explain the figures."""

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def title(self) -> str:
        """The region, and its sizes: address space and memory."""
        seen = self.clients
        parts = (
            ("window {} of address space", seen.window_bytes),
            ("{} mapped", seen.mapped_bytes),
            ("{} touched by each client", seen.span_bytes),
        )
        sizes = [text.format(format_size(size)) for text, size in parts if size is not None]
        generation = f" ({seen.generation})" if seen.generation else ""
        return f"Region {seen.region}, {seen.backend} backend{generation}: {', '.join(sizes)}".rstrip(": ")

    @property
    def verdict(self) -> str:
        """One line: passed or failed, and the label of the saving."""
        word = "passed" if self.passed else "failed"
        saving, percent = self.figures["saving"], self.figures["saving_percent"]
        return f"Validation {word}: saving {saving.text} ({percent.text}, {saving.kind})"

    def rows(self) -> list[Row]:
        """The table for people, as text."""
        return [self._row(*line) for line in TABLE if any(name in self.figures for name in line[1:])]

    def _row(self, label: str, per_client: str, in_all: str) -> Row:
        here = [self.figures.get(name) for name in (per_client, in_all)]
        shown = label.format(
            requested=f"{self.clients.requested:,}",
            size=format_size(self.projection.size_bytes),
            clients=f"{self.projection.clients:,}",
        )
        kinds = list(dict.fromkeys(figure.kind for figure in here if figure))
        texts = [figure.text if figure else "" for figure in here]
        return Row(shown, texts[0], texts[1], ", ".join(kinds))

    def summary_lines(self) -> list[str]:
        """The table and the verdict as aligned text."""
        table = texttable.table(HEADS, [row.cells for row in self.rows()], RIGHT)
        reasons = [f"- {text}" for text in self.reasons]
        return [self.title, *self.notes, "", *table, "", self.verdict, *reasons]

    def to_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "figures": {
                name: {key: value for key, value in asdict(figure).items() if key != "name"}
                for name, figure in self.figures.items()
            },
            "clients": {
                **asdict(self.clients),
                "dead": [asdict(client) for client in self.clients.dead],
                "errors": list(self.clients.errors),
            },
            "baseline": self.baseline.to_dict(),
            "projection": asdict(self.projection),
            "thresholds": asdict(self.thresholds),
        }


def assess(
    baseline: Baseline,
    clients: ClientsSeen,
    projection: Projection | None = None,
    thresholds: Thresholds | None = None,
    notes: tuple[str, ...] = (),
) -> Savings:
    """Calculate all figures and the verdict."""
    projection = projection or Projection()
    thresholds = thresholds or Thresholds()
    figures = {
        figure.name: figure
        for part in (
            _clients(clients),
            _page_tables(baseline, clients),
            _model(baseline),
            _projected(clients, projection),
        )
        for figure in part
    }
    reasons = failure_reasons(baseline, clients, thresholds, figures)
    return Savings(clients, baseline, projection, thresholds, figures, tuple(reasons), notes)


def _clients(seen: ClientsSeen) -> Iterable[Figure]:
    yield Figure("clients_attached", seen.attached, "clients", "measured", seen.attached_how)
    for name, value, how in (
        ("attach_median", seen.attach_ms_median, "median of the times that the clients measured"),
        ("attach_slowest", seen.attach_ms_max, "slowest of the times that the clients measured"),
    ):
        if value is not None:
            yield Figure(name, value, "ms", "measured", how, per_client=True)
    if seen.host_grown_bytes is not None:
        yield Figure(
            "host_page_tables_growth",
            seen.host_grown_bytes,
            "bytes",
            "measured",
            "PageTables in /proc/meminfo, before and after starting the clients; includes everything else"
            " that ran",
        )


def _span_bytes(baseline: Baseline, seen: ClientsSeen) -> int:
    return seen.span_bytes or baseline.span_bytes


def _page_tables(baseline: Baseline, seen: ClientsSeen) -> Iterable[Figure]:
    """Page tables without sharing, with sharing, and the difference."""
    without_one = _probe(baseline, _span_bytes(baseline, seen), seen)
    without = _without_in_all(without_one, seen)
    with_one, with_ = _with_sharing(_span_bytes(baseline, seen), seen)
    saving_bytes = without.value - with_.value
    kind = weakest(without.kind, with_.kind)
    percent = 100 * saving_bytes / without.value if without.value else 0.0
    each_bytes = saving_bytes // seen.attached if seen.attached else 0
    yield from (without_one, without, with_one, with_)
    yield Figure("saving", saving_bytes, "bytes", kind, "without sharing minus with sharing, in all")
    yield Figure("saving_per_client", each_bytes, "bytes", kind, "saving / clients attached", per_client=True)
    yield Figure("saving_percent", percent, "percent", kind, "saving / without sharing, in all")


def _probe(baseline: Baseline, span_bytes: int, seen: ClientsSeen) -> Figure:
    """What one client would pay for the span without sharing, from the probe."""
    if seen.huge_bytes:
        how = (
            f"model: tables for {format_size(span_bytes)}, of it {format_size(seen.huge_bytes)}"
            " in pages of 2 MiB, which the probe does not take out of the pool"
        )
        value = _tables_bytes(span_bytes, seen)
        return Figure("without_sharing_per_client", value, "bytes", "modelled", how, per_client=True)
    value = baseline.measured_bytes
    kind: Kind = "measured"
    how = (
        f"growth of VmPTE in {counted(len(baseline.processes), 'process', 'processes')} that touched"
        f" {format_size(baseline.span_bytes)} of plain shared memory in 4 KiB pages; mean"
    )
    if span_bytes != baseline.span_bytes:
        ratio = page_tables(span_bytes).total_bytes / page_tables(baseline.span_bytes).total_bytes
        value, kind = round(value * ratio), "projected"
        how += f"; scaled by the model to {format_size(span_bytes)}"
    return Figure("without_sharing_per_client", value, "bytes", kind, how, per_client=True)


def _without_in_all(probe: Figure, seen: ClientsSeen) -> Figure:
    if seen.backend == "simulated" and seen.grown_bytes is not None:
        return Figure(
            "without_sharing",
            seen.grown_bytes,
            "bytes",
            "measured",
            f"{seen.grown_how}, sum over the attached clients, which have their own tables on the simulated"
            f" backend",
        )
    how = f"per client x {seen.attached} attached"
    return Figure("without_sharing", probe.value * seen.attached, "bytes", "projected", how)


def _with_sharing(span_bytes: int, seen: ClientsSeen) -> tuple[Figure, Figure]:
    """Page tables with sharing, per client and in all."""
    shared_bytes, shared_kind, shared_how = _shared_once(span_bytes, seen)
    own_bytes, own_how = 0, "a client has no page tables of its own for the region"
    own_kind: Kind = "modelled"
    if seen.backend == "kernel" and seen.grown_bytes is not None:
        own_bytes, own_kind = seen.grown_bytes, "measured"
        own_how = "growth of VmPTE; mean of the attached clients"
    each_bytes = own_bytes // seen.attached if seen.attached else 0
    return (
        Figure("with_sharing_per_client", each_bytes, "bytes", own_kind, own_how, per_client=True),
        Figure(
            "with_sharing",
            own_bytes + shared_bytes,
            "bytes",
            weakest(own_kind, shared_kind),
            f"per client x {seen.attached} attached + the shared tables once: {shared_how}",
        ),
    )


def _shared_once(span_bytes: int, seen: ClientsSeen) -> tuple[int, Kind, str]:
    """The shared tables: bytes, label, and source.

    A kernel counts them in no process. What was measured is taken within a tolerance of the model; outside
    of that, other programs came and went meanwhile, and the model is used.
    """
    modelled_bytes = _tables_bytes(span_bytes, seen) if seen.attached else 0
    how = f"tables for every 2 MiB, 1 GiB and 512 GiB of {format_size(span_bytes)}"
    shared = seen.shared_tables
    if shared is None or not seen.attached:
        return modelled_bytes, "modelled", how
    touched_bytes = max(shared.touched_bytes, span_bytes)
    expected_bytes = _tables_bytes(touched_bytes, seen)
    difference_bytes = abs(shared.size_bytes - expected_bytes)
    if shared.size_bytes <= 0 or difference_bytes > tolerance_bytes(expected_bytes, seen.attached):
        how += f"; {shared.how}, is {format_size(shared.size_bytes)}: other programs came and went meanwhile"
        return modelled_bytes, "modelled", how
    if expected_bytes == modelled_bytes:
        return shared.size_bytes, "measured", shared.how
    how = f"{shared.how}; scaled by the model from {format_size(touched_bytes)} to {format_size(span_bytes)}"
    return round(shared.size_bytes * modelled_bytes / expected_bytes), "projected", how


def tolerance_bytes(expected_bytes: int, attached: int) -> int:
    """How far the shared tables may be from the model and still be what was measured: a table of each level
    at either end of the range; a page for each client, because some kernels count the PGD and others do not;
    and a part in a hundred for what else ran meanwhile."""
    return EDGE_BYTES + attached * TABLE_BYTES + expected_bytes // 100


def _tables_bytes(span_bytes: int, seen: ClientsSeen) -> int:
    """The model for a span, of which a part may be in pages of 2 MiB."""
    huge_bytes = min(seen.huge_bytes, span_bytes)
    whole = page_tables(span_bytes)
    return whole.total_bytes - page_tables(huge_bytes).leaf_bytes


def _model(baseline: Baseline) -> Iterable[Figure]:
    worst = baseline.worst
    how = "measured minus modelled for the same addresses, in the process that differs most"
    yield Figure("model_difference", worst.difference_bytes, "bytes", "measured", how, per_client=True)
    yield Figure("model_error_percent", worst.error_percent, "percent", "measured", how, per_client=True)


def _projected(seen: ClientsSeen, to: Projection) -> Iterable[Figure]:
    """The model for the projected database, with the growth measured for a client."""
    tables = page_tables(to.size_bytes)
    measured = seen.backend == "kernel" and seen.attached and seen.grown_bytes
    own_bytes = measured // seen.attached if measured else 0
    in_all = f"per client x {to.clients}"
    for name, each_bytes, in_all_bytes, how_each, how in (
        (
            "projected_without",
            tables.total_bytes,
            tables.total_bytes * to.clients,
            "model: 4 KiB per 2 MiB, per 1 GiB and per 512 GiB",
            in_all,
        ),
        (
            "projected_leaf",
            tables.leaf_bytes,
            tables.leaf_bytes * to.clients,
            "model: 4 KiB per 2 MiB",
            in_all,
        ),
        (
            "projected_with",
            own_bytes,
            tables.total_bytes + own_bytes * to.clients,
            "growth of VmPTE of a client on this host" if measured else "model: none of its own",
            f"{in_all} + the tables of one process",
        ),
    ):
        yield Figure(f"{name}_per_client", each_bytes, "bytes", "projected", how_each, per_client=True)
        yield Figure(name, in_all_bytes, "bytes", "projected", how)
    saving_bytes = tables.total_bytes * (to.clients - 1) - own_bytes * to.clients
    yield Figure("projected_saving", saving_bytes, "bytes", "projected", "without minus with, in all")
