# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the savings reach the thresholds, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InvalidRequest
from ..units import counted, format_size
from .baseline import EDGE_BYTES, Baseline
from .clients_seen import ClientsSeen
from .figure import Figure

_ACHIEVABLE_SHARE = 0.9


@dataclass(frozen=True)
class Thresholds:
    """What a deployment must reach to pass; None stands for what is achievable."""

    min_saving_percent: float | None = None
    """Percent of all page tables. n clients that share one set can save (n - 1)/n at best: nothing
    with 1 client, 50 % with 2, 99 % with 100. None requires 90 % of that."""
    max_model_error_percent: float = 5.0
    """How far measured page tables may differ from the model, apart from tables shared at the edges."""
    min_clients_attached: int | None = None
    """None requires all clients that were requested."""
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
                raise InvalidRequest(f"threshold {name} is {value:g}, but must be {bounds}")

    def required_saving_percent(self, clients: int) -> float:
        """The saving that is required with a number of clients; 0 with a single client."""
        if self.min_saving_percent is not None:
            return self.min_saving_percent
        return _ACHIEVABLE_SHARE * achievable_percent(clients)


def achievable_percent(clients: int) -> float:
    """The best possible saving if `clients` processes share one set of page tables."""
    return 100 * (clients - 1) / clients if clients else 0.0


def failure_reasons(
    baseline: Baseline, seen: ClientsSeen, wanted: Thresholds, figures: Mapping[str, Figure]
) -> Iterable[str]:
    yield from _client_reasons(seen, wanted)
    yield from _model_reasons(baseline, seen, wanted, figures)
    saving, required = figures["saving_percent"], wanted.required_saving_percent(seen.attached)
    # A single client shares with nobody: around zero is the best that it can save.
    # So few tables are within what two readings of a process differ by anyway.
    tiny = figures["without_sharing_per_client"].value <= EDGE_BYTES
    if seen.attached and required > 0 and saving.value < required and not (tiny and _default(wanted)):
        yield (
            f"the saving is {saving.value:.2f} % ({saving.kind}) with {counted(seen.attached, 'client')}, but"
            f" {required:.2f} % is required and {achievable_percent(seen.attached):.2f} % is the best"
            f" possible; attach more clients, let them touch more, or lower min_saving_percent"
        )


def _default(wanted: Thresholds) -> bool:
    """Whether nobody asked for a certain saving."""
    return wanted.min_saving_percent is None


def _client_reasons(seen: ClientsSeen, wanted: Thresholds) -> Iterable[str]:
    needed = seen.requested if wanted.min_clients_attached is None else wanted.min_clients_attached
    if seen.attached < needed:
        died = f", {len(seen.dead)} died (the first: {seen.dead[0].reason})" if seen.dead else ""
        yield (
            f"{seen.attached:,} of {counted(seen.requested, 'client')} attached{died}, but {needed} must be;"
            " see the clients' log; `mshare clients restart` starts the missing ones"
        )
    if len(seen.errors) > wanted.max_client_errors:
        yield (
            f"the clients reported {counted(len(seen.errors), 'error')} (the first: {seen.errors[0]}), but"
            f" at most {wanted.max_client_errors} may be reported; see the clients' log"
        )


def _model_reasons(
    baseline: Baseline, seen: ClientsSeen, wanted: Thresholds, figures: Mapping[str, Figure]
) -> Iterable[str]:
    limit, worst = wanted.max_model_error_percent, baseline.worst
    if worst.error_percent > limit and abs(worst.difference_bytes) > EDGE_BYTES:
        yield (
            f"a process of the baseline has {format_size(worst.measured_bytes)} of page tables where the"
            f" model says {format_size(worst.modelled_bytes)}, a difference of {worst.error_percent:.2f} %,"
            f" but only {limit:g} % is allowed; measure again on a quiet host, and check whether huge pages"
            f" are"
            " forced on shared memory (transparent_hugepage/shmem_enabled)"
        )
    if seen.backend != "simulated" or seen.grown_bytes is None or not seen.attached:
        return
    if seen.span_bytes is None:
        return  # They were not asked to touch anything.
    # The simulated saving is computed from tables that the clients really have.
    expected_bytes = figures["without_sharing_per_client"].value
    mean_bytes = seen.grown_bytes // seen.attached
    least_bytes = min(expected_bytes * (1 - limit / 100), expected_bytes - EDGE_BYTES)
    if mean_bytes < least_bytes:
        yield (
            f"a client has {format_size(mean_bytes)} of its own page tables where the probe had"
            f" {format_size(expected_bytes)}, but at most {limit:g} % less is allowed; let the clients"
            " touch a page in every 2 MiB of the same span"
        )
