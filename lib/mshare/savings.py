# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What sharing page tables saves: arithmetic on what was observed, and a verdict.

Every figure says what it is. "measured" was read from counters on this host, "modelled" is arithmetic
from ranges, "projected" is scaled to another size or number of clients. A figure made of several is
called by the weakest of them. Figures hold what the region costs, not what a program costs anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .baseline import EDGE_BYTES, Baseline
from .errors import InvalidRequest
from .pagetable import TABLE_BYTES, page_tables
from .units import GIB, format_size

SCHEMA_VERSION = 1

Kind = Literal["measured", "modelled", "projected"]
KINDS: tuple[Kind, ...] = ("measured", "modelled", "projected")
"""From the strongest word to the weakest."""

_ACHIEVABLE_SHARE = 0.9
_PLAUSIBLE = 1.1
# The PGD of a process is in PageTables but not in its VmPTE.
_PGD_BYTES = TABLE_BYTES


@dataclass(frozen=True)
class DeadClient:
    """A client that ended before it was told to."""

    number: int
    pid: int
    reason: str


@dataclass(frozen=True)
class ClientsSeen:
    """What the launcher saw of a region's clients: the fields of its status file that count here."""

    region: str
    backend: str
    requested: int
    attached: int
    generation: str = ""
    dead: tuple[DeadClient, ...] = ()
    errors: tuple[str, ...] = ()
    window_bytes: int | None = None
    mapped_bytes: int | None = None
    span_bytes: int | None = None
    """What each client touched; None where the clients are programs of the user's."""
    stride_bytes: int | None = None
    attach_ms_median: float | None = None
    attach_ms_max: float | None = None
    grown_how: str = "growth of VmPTE"
    """Where the clients' own page tables are from."""
    vm_pte_before_bytes_sum: int | None = None
    """Over the attached clients, before they mapped the region."""
    vm_pte_after_bytes_sum: int | None = None
    """Over the same clients, after they touched their span."""
    host_page_tables_before_bytes: int | None = None
    """PageTables of /proc/meminfo before the first client was started."""
    host_page_tables_after_bytes: int | None = None

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> ClientsSeen:
        """Take the fields from a status file; others are left alone.

        Raises InvalidRequest when one without which nothing can be said is missing.
        """
        missing = [name for name in ("region", "backend", "requested", "attached") if name not in status]
        if missing:
            raise InvalidRequest(
                f"the clients' status has no {', '.join(missing)}; start the clients with this release"
                " of mshare and validate again"
            )
        known = {name: status[name] for name in cls.__dataclass_fields__ if name in status}
        known["dead"] = tuple(
            DeadClient(one["number"], one["pid"], one["reason"]) for one in status.get("dead") or ()
        )
        known["errors"] = tuple(str(error) for error in status.get("errors") or ())
        return cls(**known)

    @property
    def grown_bytes(self) -> int | None:
        """By how much the clients' own page tables grew in all, or None where nobody looked."""
        grown = _difference(self.vm_pte_before_bytes_sum, self.vm_pte_after_bytes_sum)
        # A client that gives tables of its own back meanwhile has no negative cost.
        return None if grown is None else max(0, grown)

    @property
    def host_grown_bytes(self) -> int | None:
        """By how much the host's PageTables grew while the clients came."""
        return _difference(self.host_page_tables_before_bytes, self.host_page_tables_after_bytes)


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


@dataclass(frozen=True)
class Projection:
    """The database the figures are scaled to."""

    size_bytes: int = 300 * GIB
    clients: int = 1500

    def __post_init__(self) -> None:
        if self.size_bytes <= 0 or self.clients <= 0:
            raise InvalidRequest(
                f"a projection to {self.size_bytes} bytes and {self.clients} clients needs both"
                " greater than zero, like 300GiB and 1500"
            )


@dataclass(frozen=True)
class Thresholds:
    """What a deployment must reach to pass; None asks for what is achievable."""

    min_saving_percent: float | None = None
    """Of the page tables in all. n clients that share one set can save (n - 1)/n at best: nothing
    with 1 client, 50 % with 2, 99 % with 100. None asks for 90 % of that."""
    max_model_error_percent: float = 5.0
    """How far measured page tables may be from the model, besides tables shared at the edges."""
    min_clients_attached: int | None = None
    """None asks for every client that was requested."""
    max_client_errors: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("min_saving_percent", self.min_saving_percent, 100),
            ("max_model_error_percent", self.max_model_error_percent, None),
            ("min_clients_attached", self.min_clients_attached, None),
            ("max_client_errors", self.max_client_errors, None),
        ):
            if value is not None and (value < 0 or (most is not None and value > most)):
                bounds = "0 or more" if most is None else f"0 to {most}"
                raise InvalidRequest(f"threshold {name} is {value:g} and must be {bounds}")

    def required_saving_percent(self, clients: int) -> float:
        """The saving to reach with a number of clients; no less than 0 for the honest single one."""
        if self.min_saving_percent is not None:
            return self.min_saving_percent
        return _ACHIEVABLE_SHARE * achievable_percent(clients)


def achievable_percent(clients: int) -> float:
    """The best saving there is when `clients` processes share one set of page tables."""
    return 100 * (clients - 1) / clients if clients else 0.0


@dataclass(frozen=True)
class Figure:
    """A number with its unit, what kind of number it is, and where it is from."""

    name: str
    value: float
    unit: Literal["bytes", "percent", "ms", "clients"]
    kind: Kind
    how: str
    per_client: bool = False

    @property
    def text(self) -> str:
        return _TEXT[self.unit](self.value)


_TEXT = {
    "bytes": format_size,
    "percent": "{:.2f} %".format,
    "ms": "{:.1f} ms".format,
    "clients": "{:,.0f}".format,
}


@dataclass(frozen=True)
class Row:
    """A line of the table people see."""

    label: str
    per_client: str
    in_all: str
    kind: str


@dataclass(frozen=True)
class Savings:
    """The figures of one region and its clients, and whether they reach the thresholds."""

    clients: ClientsSeen
    baseline: Baseline
    projection: Projection
    thresholds: Thresholds
    figures: Mapping[str, Figure]
    reasons: tuple[str, ...] = field(default=())
    """Why the verdict is "failed": what was found, what is needed, what to do next."""
    notes: tuple[str, ...] = field(default=())
    """Sentences that explain the figures to whoever sees them."""

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def title(self) -> str:
        """What the figures are about. Address space and memory are two sizes."""
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
        """One line: passed or failed, and on what kind of figure."""
        word = "passed" if self.passed else "failed"
        saving, percent = self.figures["saving"], self.figures["saving_percent"]
        return f"Validation {word}: saving {saving.text} ({percent.text}, {saving.kind})"

    def rows(self) -> list[Row]:
        """The table people see, as texts."""
        return [self._row(*line) for line in _TABLE if any(name in self.figures for name in line[1:])]

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
        """The table and the verdict as aligned plain text."""
        rows = [Row("", "per client", "in all", ""), *self.rows()]
        label, one, all_ = (
            max(len(getattr(row, column)) for row in rows) for column in ("label", "per_client", "in_all")
        )
        table = [
            f"{row.label:<{label}}  {row.per_client:>{one}}  {row.in_all:>{all_}}  {row.kind}".rstrip()
            for row in rows
        ]
        reasons = [f"- {text}" for text in self.reasons]
        return [self.title, *self.notes, "", *table, "", self.verdict, *reasons]

    def to_dict(self) -> dict[str, Any]:
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
                "dead": [asdict(one) for one in self.clients.dead],
                "errors": list(self.clients.errors),
            },
            "baseline": self.baseline.to_dict(),
            "projection": asdict(self.projection),
            "thresholds": asdict(self.thresholds),
        }


_TABLE = (
    # label, the figure per client, the figure in all
    ("Clients attached, of {requested} asked for", "", "clients_attached"),
    ("Attach time, median", "attach_median", ""),
    ("Attach time, slowest", "attach_slowest", ""),
    ("Page tables without sharing", "without_sharing_per_client", "without_sharing"),
    ("Page tables with sharing", "with_sharing_per_client", "with_sharing"),
    ("Saving", "saving_per_client", "saving"),
    ("Saving in percent", "", "saving_percent"),
    ("Growth of the host's PageTables", "", "host_page_tables_growth"),
    ("Probe's distance from the model", "model_difference", ""),
    ("{size} x {clients} clients, without sharing", "projected_without_per_client", "projected_without"),
    ("  of it leaf tables", "projected_leaf_per_client", "projected_leaf"),
    ("{size} x {clients} clients, with sharing", "projected_with_per_client", "projected_with"),
    ("{size} x {clients} clients, saving", "", "projected_saving"),
)


def assess(
    baseline: Baseline,
    clients: ClientsSeen,
    projection: Projection | None = None,
    thresholds: Thresholds | None = None,
    notes: tuple[str, ...] = (),
) -> Savings:
    """Put a host's figures together and judge them."""
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
    reasons = _reasons(baseline, clients, thresholds, figures)
    return Savings(clients, baseline, projection, thresholds, figures, tuple(reasons), notes)


def _weakest(*kinds: Kind) -> Kind:
    return max(kinds, key=KINDS.index)


def _clients(seen: ClientsSeen) -> Iterable[Figure]:
    yield Figure("clients_attached", seen.attached, "clients", "measured", "the launcher's count")
    for name, value, how in (
        ("attach_median", seen.attach_ms_median, "median of the clients' own clocks"),
        ("attach_slowest", seen.attach_ms_max, "slowest of the clients' own clocks"),
    ):
        if value is not None:
            yield Figure(name, value, "ms", "measured", how, per_client=True)
    if seen.host_grown_bytes is not None:
        yield Figure(
            "host_page_tables_growth",
            seen.host_grown_bytes,
            "bytes",
            "measured",
            "PageTables in /proc/meminfo, before the clients and after; with all they cost besides the"
            " region, and whatever else ran",
        )


def _span_bytes(baseline: Baseline, seen: ClientsSeen) -> int:
    return seen.span_bytes or baseline.span_bytes


def _page_tables(baseline: Baseline, seen: ClientsSeen) -> Iterable[Figure]:
    """Without sharing, with sharing, and the difference."""
    without_one = _probe(baseline, _span_bytes(baseline, seen))
    without = _without_in_all(without_one, seen)
    with_one, with_ = _with_sharing(_span_bytes(baseline, seen), seen)
    saving_bytes = without.value - with_.value
    kind = _weakest(without.kind, with_.kind)
    percent = 100 * saving_bytes / without.value if without.value else 0.0
    each_bytes = saving_bytes // seen.attached if seen.attached else 0
    yield from (without_one, without, with_one, with_)
    yield Figure("saving", saving_bytes, "bytes", kind, "without sharing less with sharing, in all")
    yield Figure("saving_per_client", each_bytes, "bytes", kind, "saving / clients attached", per_client=True)
    yield Figure("saving_percent", percent, "percent", kind, "saving / without sharing, in all")


def _probe(baseline: Baseline, span_bytes: int) -> Figure:
    """What one client would pay for the span, from the probe."""
    value: float = baseline.measured_bytes
    kind: Kind = "measured"
    how = (
        f"growth of VmPTE in {len(baseline.processes)} processes that touched"
        f" {format_size(baseline.span_bytes)} of plain shared memory in 4 KiB pages, mean"
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
            f"{seen.grown_how}, sum over the attached clients: simulated, each has tables of its own",
        )
    how = f"per client x {seen.attached} attached"
    return Figure("without_sharing", probe.value * seen.attached, "bytes", "projected", how)


def _with_sharing(span_bytes: int, seen: ClientsSeen) -> tuple[Figure, Figure]:
    """Per client and in all."""
    shared_bytes, shared_kind, shared_how = _shared_once(span_bytes, seen)
    own_bytes, own_how = 0, "a client has no tables of its own for the region"
    own_kind: Kind = "modelled"
    if seen.backend == "kernel" and seen.grown_bytes is not None:
        own_bytes, own_kind = seen.grown_bytes, "measured"
        own_how = "growth of VmPTE, mean of the attached clients"
    each_bytes = own_bytes // seen.attached if seen.attached else 0
    return (
        Figure("with_sharing_per_client", each_bytes, "bytes", own_kind, own_how, per_client=True),
        Figure(
            "with_sharing",
            own_bytes + shared_bytes,
            "bytes",
            _weakest(own_kind, shared_kind),
            f"per client x {seen.attached} attached + the shared tables once: {shared_how}",
        ),
    )


def _shared_once(span_bytes: int, seen: ClientsSeen) -> tuple[int, Kind, str]:
    """The shared tables: bytes, kind, and where from.

    A kernel shows them in the host's PageTables only, together with what every client has for its own
    program (its VmPTE and PGD) and with whatever else runs. What remains is below the model where the
    owner touched the region before the clients came, and far above where other programs grew: then
    the model is the honest figure.
    """
    modelled_bytes = page_tables(span_bytes).total_bytes if seen.attached else 0
    how = f"tables for every 2 MiB, 1 GiB and 512 GiB of {format_size(span_bytes)}"
    host_bytes, own_bytes = seen.host_grown_bytes, seen.vm_pte_after_bytes_sum
    if seen.backend == "kernel" and host_bytes is not None and own_bytes is not None:
        measured_bytes = host_bytes - own_bytes - seen.attached * _PGD_BYTES
        if modelled_bytes <= measured_bytes <= modelled_bytes * _PLAUSIBLE:
            return measured_bytes, "measured", "growth of PageTables less the clients' VmPTE and PGD"
        how += f" (PageTables grew by {format_size(measured_bytes)} besides the clients' own)"
    return modelled_bytes, "modelled", how


def _model(baseline: Baseline) -> Iterable[Figure]:
    worst = baseline.worst
    how = "measured - modelled for the same addresses, in the process farthest from the model"
    yield Figure("model_difference", worst.difference_bytes, "bytes", "measured", how, per_client=True)
    yield Figure("model_error_percent", worst.error_percent, "percent", "measured", how, per_client=True)


def _projected(seen: ClientsSeen, to: Projection) -> Iterable[Figure]:
    """The model for the database the figures are scaled to, with a client's measured own growth."""
    one = page_tables(to.size_bytes)
    measured = seen.backend == "kernel" and seen.attached and seen.grown_bytes
    own_bytes = measured // seen.attached if measured else 0
    in_all = f"per client x {to.clients}"
    for name, each_bytes, in_all_bytes, how_each, how in (
        (
            "projected_without",
            one.total_bytes,
            one.total_bytes * to.clients,
            "model: 4 KiB per 2 MiB, per 1 GiB and per 512 GiB",
            in_all,
        ),
        (
            "projected_leaf",
            one.leaf_bytes,
            one.leaf_bytes * to.clients,
            "model: 4 KiB per 2 MiB",
            in_all,
        ),
        (
            "projected_with",
            own_bytes,
            one.total_bytes + own_bytes * to.clients,
            "growth of VmPTE of a client here" if measured else "model: none of its own",
            f"{in_all} + the tables of one process",
        ),
    ):
        yield Figure(f"{name}_per_client", each_bytes, "bytes", "projected", how_each, per_client=True)
        yield Figure(name, in_all_bytes, "bytes", "projected", how)
    saving_bytes = one.total_bytes * (to.clients - 1) - own_bytes * to.clients
    yield Figure("projected_saving", saving_bytes, "bytes", "projected", "without less with, in all")


def _reasons(
    baseline: Baseline, seen: ClientsSeen, wanted: Thresholds, figures: Mapping[str, Figure]
) -> Iterable[str]:
    yield from _client_reasons(seen, wanted)
    yield from _model_reasons(baseline, seen, wanted, figures)
    saving, required = figures["saving_percent"], wanted.required_saving_percent(seen.attached)
    # One client shares with nobody: whatever rounding leaves around zero is as good as it gets.
    if seen.attached and required > 0 and saving.value < required:
        yield (
            f"the saving is {saving.value:.2f} % ({saving.kind}) with {_number(seen.attached)} where"
            f" {required:.2f} % is needed and {achievable_percent(seen.attached):.2f} % is the best"
            " possible; attach more clients, let them touch more, or lower min_saving_percent"
        )


def _client_reasons(seen: ClientsSeen, wanted: Thresholds) -> Iterable[str]:
    needed = seen.requested if wanted.min_clients_attached is None else wanted.min_clients_attached
    if seen.attached < needed:
        died = f", {len(seen.dead)} died (the first: {seen.dead[0].reason})" if seen.dead else ""
        yield (
            f"{_number(seen.attached)} of {seen.requested} attached{died}, and {needed} must be; see the"
            " clients' log; `mshare clients restart` starts the missing ones"
        )
    if len(seen.errors) > wanted.max_client_errors:
        yield (
            f"the clients reported {len(seen.errors)} errors (the first: {seen.errors[0]}) and"
            f" {wanted.max_client_errors} are allowed; see the clients' log"
        )


def _model_reasons(
    baseline: Baseline, seen: ClientsSeen, wanted: Thresholds, figures: Mapping[str, Figure]
) -> Iterable[str]:
    limit, worst = wanted.max_model_error_percent, baseline.worst
    if worst.error_percent > limit and abs(worst.difference_bytes) > EDGE_BYTES:
        yield (
            f"a process of the baseline has {format_size(worst.measured_bytes)} of page tables where the"
            f" model says {format_size(worst.modelled_bytes)}, {worst.error_percent:.2f} % apart, and"
            f" {limit:g} % is allowed; measure again on a quiet host, and see whether huge pages are"
            " forced on shared memory (transparent_hugepage/shmem_enabled)"
        )
    if seen.backend != "simulated" or seen.grown_bytes is None or not seen.attached:
        return
    if seen.span_bytes is None:
        return  # Nobody asked them to touch anything.
    # The simulated saving stands on tables that the clients really have.
    expected_bytes = figures["without_sharing_per_client"].value
    mean_bytes = seen.grown_bytes // seen.attached
    least_bytes = min(expected_bytes * (1 - limit / 100), expected_bytes - EDGE_BYTES)
    if mean_bytes < least_bytes:
        yield (
            f"a client has {format_size(mean_bytes)} of page tables of its own where the probe had"
            f" {format_size(expected_bytes)}, and {limit:g} % less is allowed; let the clients touch a"
            " page in every 2 MiB of the same span"
        )


def _number(clients: int) -> str:
    return f"{clients} client" + ("" if clients == 1 else "s")
