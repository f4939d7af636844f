# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.clients.status import DeadClient
from mshare.errors import InvalidRequest, MshareError
from mshare.info.facts import ClientsFacts
from mshare.labels import KINDS
from mshare.pagetable import page_tables
from mshare.savings.assess import Projection, assess
from mshare.savings.baseline import Baseline, ProcessTables
from mshare.savings.clients_seen import ClientsSeen
from mshare.savings.shared_tables import SharedTables
from mshare.savings.verdict import Thresholds, achievable_percent
from mshare.units import GIB, KIB, MIB, TIB, format_size

SPAN = 300 * GIB
OWN = 40 * KIB
"""What a client has for its own program."""
ONE = page_tables(SPAN).total_bytes


def probe(span_bytes=SPAN, off_bytes=-12 * KIB, processes=2):
    modelled = page_tables(span_bytes).total_bytes
    one = ProcessTables(0, 60 * KIB, 60 * KIB + modelled + off_bytes, modelled)
    return Baseline(span_bytes, 2 * MIB, (one,) * processes)


def status(clients=100, growth_bytes=ONE, **changes):
    """The facts of a launcher: each client's tables grew by `growth_bytes`."""
    facts = ClientsFacts(
        region="sga",
        state="ready",
        launcher_pid=7,
        launcher_alive=True,
        version="1",
        requested=clients,
        attached=clients,
        dead=(),
        errors=(),
        root="/m",
        backend="simulated",
        generation="2025-08",
        window_bytes=512 * GIB,
        mapped_bytes=SPAN,
        span_bytes=SPAN,
        stride_bytes=2 * MIB,
        attach_ms_median=0.41,
        attach_ms_max=3.2,
        vm_pte_before_bytes_sum=OWN * clients,
        vm_pte_after_bytes_sum=(OWN + growth_bytes) * clients,
        host_page_tables_before_bytes=20 * MIB,
        host_page_tables_after_bytes=20 * MIB + (OWN + 4 * KIB + growth_bytes) * clients,
    )
    return replace(facts, **changes)


def kernel_status(clients=100, growth_bytes=0, shared_bytes=ONE, **changes):
    seen = status(clients, growth_bytes, backend="kernel", mapped_bytes=None)
    after_bytes = seen.host_page_tables_after_bytes + shared_bytes
    return replace(replace(seen, host_page_tables_after_bytes=after_bytes), **changes)


def found(fields, baseline=None, touched_bytes=0, huge_bytes=0, **options):
    seen = replace(ClientsSeen.of(fields), huge_bytes=huge_bytes)
    if fields.backend == "kernel" and seen.host_grown_bytes is not None:
        rest_bytes = seen.host_grown_bytes - seen.vm_pte_after_bytes_sum - seen.attached * 4 * KIB
        seen = replace(seen, shared_tables=SharedTables(rest_bytes, "a counter", touched_bytes))
    return assess(baseline or probe(), seen, **options)


def without(facts, *names):
    return replace(facts, **dict.fromkeys(names))


class TestWhatTheLauncherSaw:
    def test_the_facts_that_count_are_taken(self):
        dead = (DeadClient(3, 4711, "was killed by SIGKILL"),)
        seen = ClientsSeen.of(status(dead=dead, errors=("x",)))
        assert (seen.dead, seen.errors, seen.region) == (dead, ("x",), "sga")
        assert seen.grown_bytes == 100 * ONE

    def test_what_nobody_measured_stays_unknown(self):
        names = ("vm_pte_before_bytes_sum", "host_page_tables_before_bytes", "span_bytes")
        seen = ClientsSeen.of(without(status(), *names))
        assert (seen.grown_bytes, seen.host_grown_bytes, seen.span_bytes) == (None, None, None)

    def test_a_launcher_that_cannot_be_read(self):
        facts = status(requested=None, attached=None, errors=("/run/x is not UTF-8 text",))
        with pytest.raises(MshareError, match="/run/x is not UTF-8 text"):
            ClientsSeen.of(facts)


COMMAND = without(
    status(
        clients=10,
        span_bytes=0,
        # Of whole programs: what they have for themselves is in it.
        vm_pte_after_bytes_sum=10 * MIB,
    ),
    "attach_ms_median",
    "attach_ms_max",
    "vm_pte_before_bytes_sum",
    "window_bytes",
    "mapped_bytes",
    "stride_bytes",
    "host_page_tables_before_bytes",
)
"""Clients that run a command of the user's: they tell nothing of themselves."""

# case, status, baseline, {figure: (value, kind)}
FIGURES = [
    (
        "simulated: the clients' own tables are real, sharing is modelled",
        status(),
        probe(),
        {
            "clients_attached": (100, "measured"),
            "without_sharing_per_client": (ONE - 12 * KIB, "measured"),
            "without_sharing": (100 * ONE, "measured"),
            "with_sharing_per_client": (0, "modelled"),
            "with_sharing": (ONE, "modelled"),
            "saving": (99 * ONE, "modelled"),
            "saving_percent": (99.0, "modelled"),
            "host_page_tables_growth": (100 * (ONE + OWN + 4 * KIB), "measured"),
            "model_difference": (-12 * KIB, "measured"),
        },
    ),
    (
        "kernel: the probe is scaled, sharing is measured",
        kernel_status(growth_bytes=4 * KIB, shared_bytes=ONE + MIB),
        probe(off_bytes=0),
        {
            "without_sharing_per_client": (ONE, "measured"),
            "without_sharing": (100 * ONE, "projected"),
            "with_sharing_per_client": (4 * KIB, "measured"),
            "with_sharing": (ONE + MIB + 400 * KIB, "measured"),
            "saving": (99 * ONE - MIB - 400 * KIB, "projected"),
            "projected_with_per_client": (4 * KIB, "projected"),
            "projected_with": (ONE + 1500 * 4 * KIB, "projected"),
        },
    ),
    (
        "kernel: other programs ended meanwhile",
        kernel_status(shared_bytes=8 * KIB),
        probe(),
        {"with_sharing": (ONE, "modelled")},
    ),
    (
        "kernel: other programs' tables grew meanwhile",
        kernel_status(shared_bytes=3 * ONE),
        probe(),
        {"with_sharing": (ONE, "modelled")},
    ),
    (
        "kernel: nobody read PageTables",
        without(kernel_status(), "host_page_tables_before_bytes"),
        probe(),
        {"with_sharing_per_client": (0, "measured"), "with_sharing": (ONE, "modelled")},
    ),
    (
        "kernel: clients gave tables of their own back",
        kernel_status(growth_bytes=-8 * KIB),
        probe(),
        {"with_sharing_per_client": (0, "measured")},
    ),
    (
        "a probe of another span is scaled by the model",
        status(),
        probe(span_bytes=64 * GIB, off_bytes=0),
        {"without_sharing_per_client": (ONE, "projected")},
    ),
    (
        "a user's command on the simulated backend: nothing was read of the clients",
        COMMAND,
        probe(off_bytes=0),
        {
            "without_sharing": (10 * ONE, "projected"),
            "with_sharing": (ONE, "modelled"),
            "saving_percent": (90.0, "projected"),
        },
    ),
    (
        "one client shares with nobody",
        status(clients=1),
        probe(off_bytes=0),
        {"saving": (0, "modelled"), "saving_percent": (0.0, "modelled")},
    ),
    (
        "nobody attached",
        status(clients=0),
        probe(),
        {
            "without_sharing": (0, "measured"),
            "with_sharing": (0, "modelled"),
            "saving_per_client": (0, "modelled"),
            "saving_percent": (0.0, "modelled"),
        },
    ),
]


class TestFigures:
    @pytest.mark.parametrize(
        ("off_bytes", "kind"),
        [(12 * KIB, "measured"), (-4 * KIB, "measured"), (5 * MIB, "measured"), (-20 * MIB, "modelled")],
    )
    def test_shared_tables_are_measured_within_a_tolerance_to_both_sides(self, off_bytes, kind):
        figure = found(kernel_status(shared_bytes=ONE + off_bytes)).figures["with_sharing"]
        assert figure.kind == kind
        assert figure.value == (ONE + off_bytes if kind == "measured" else ONE)

    def test_tables_of_what_the_owner_alone_touched_are_scaled_to_the_clients_span(self):
        facts = kernel_status(shared_bytes=ONE, span_bytes=150 * GIB)
        figure = found(facts, probe(150 * GIB), touched_bytes=SPAN).figures["with_sharing"]
        half_bytes = page_tables(150 * GIB).total_bytes
        assert (figure.value, figure.kind) == (pytest.approx(half_bytes, abs=4 * KIB), "projected")
        assert "scaled by the model from 300 GiB to 150 GiB" in figure.how

    @pytest.mark.parametrize(("huge_bytes", "leaf_bytes"), [(SPAN, 0), (100 * GIB, 400 * MIB)])
    def test_huge_pages_have_no_leaf_tables(self, huge_bytes, leaf_bytes):
        """The probe takes no pages out of the pool, so what they cost is modelled."""
        figures = found(status(), huge_bytes=huge_bytes).figures
        upper_bytes = ONE - page_tables(SPAN).leaf_bytes
        one = figures["without_sharing_per_client"]
        assert (one.value, one.kind) == (upper_bytes + leaf_bytes, "modelled")
        assert figures["with_sharing"].value == upper_bytes + leaf_bytes
        assert "in pages of 2 MiB" in one.how

    @pytest.mark.parametrize(
        ("fields", "baseline", "wanted"),
        [case[1:] for case in FIGURES],
        ids=[case[0] for case in FIGURES],
    )
    def test_values_and_kinds(self, fields, baseline, wanted):
        figures = found(fields, baseline).figures
        assert {name: (figures[name].value, figures[name].kind) for name in wanted} == wanted
        assert all(figure.how for figure in figures.values())

    def test_the_storys_projection(self):
        figures = found(status()).figures
        texts = {name: figures[name].text for name in figures if name.startswith("projected_")}
        assert texts == {
            "projected_without_per_client": "601.2 MiB",
            "projected_without": "880.6 GiB",
            "projected_leaf_per_client": "600 MiB",
            "projected_leaf": "878.9 GiB",
            "projected_with_per_client": "0 B",
            "projected_with": "601.2 MiB",
            "projected_saving": "880 GiB",
        }
        assert {figures[name].kind for name in texts} == {"projected"}

    def test_the_projection_is_a_parameter(self):
        figures = found(status(), projection=Projection(64 * GIB, 10)).figures
        assert figures["projected_without"].value == 10 * page_tables(64 * GIB).total_bytes

    @pytest.mark.parametrize("projection", [(0, 10), (GIB, 0), (-1, 1)])
    def test_a_projection_to_nothing_is_refused(self, projection):
        with pytest.raises(InvalidRequest, match="greater than zero"):
            Projection(*projection)

    @given(
        backend=st.sampled_from(["kernel", "simulated"]),
        clients=st.integers(0, 32768),
        span_bytes=st.integers(1, 4 * TIB),
        growth_bytes=st.integers(-MIB, 2 * GIB),
        shared_bytes=st.integers(-GIB, 8 * GIB),
        read=st.booleans(),
    )
    def test_the_saving_is_the_difference_and_never_stronger_than_its_parts(
        self, backend, clients, span_bytes, growth_bytes, shared_bytes, read
    ):
        fields = kernel_status(clients, growth_bytes, shared_bytes, backend=backend, span_bytes=span_bytes)
        fields = fields if read else without(fields, "vm_pte_before_bytes_sum")
        savings = found(fields, probe(span_bytes, off_bytes=0))
        without_, with_, saving = (
            savings.figures[name] for name in ("without_sharing", "with_sharing", "saving")
        )
        assert saving.value == without_.value - with_.value
        assert KINDS.index(saving.kind) == max(KINDS.index(part.kind) for part in (without_, with_))
        assert savings.figures["saving_percent"].value <= 100
        assert savings.figures["with_sharing"].value >= 0
        json.dumps(savings.to_dict())

    @given(clients=st.integers(1, 32768), size_bytes=st.integers(1, 64 * TIB))
    def test_what_the_model_saves_is_what_is_achievable(self, clients, size_bytes):
        figures = found(status(1), projection=Projection(size_bytes, clients)).figures
        saved = figures["projected_saving"].value / figures["projected_without"].value
        assert 100 * saved == pytest.approx(achievable_percent(clients))


# case, status, baseline, thresholds, what the reasons say (none: passed)
VERDICTS = [
    ("simulated", status(), probe(), Thresholds(), []),
    ("kernel", kernel_status(), probe(), Thresholds(), []),
    ("1,500 clients", kernel_status(1500), probe(), Thresholds(min_saving_percent=99.9), []),
    ("two clients", status(2), probe(), Thresholds(), []),
    ("one client", status(1), probe(), Thresholds(), []),
    ("one client on a kernel", kernel_status(1, 8 * KIB), probe(), Thresholds(), []),
    (
        "a region of 1 MiB, whose tables are within what two readings differ by",
        status(2, 8 * KIB, span_bytes=MIB),
        probe(MIB, 0),
        Thresholds(),
        [],
    ),
    (
        "one client asked to save",
        status(1),
        probe(),
        Thresholds(min_saving_percent=90),
        ["saving is 0.00 % (modelled) with 1 client, but 90.00 % is required and 0.00 % is the best"],
    ),
    (
        "a kernel that does not share",
        kernel_status(growth_bytes=ONE),
        probe(),
        Thresholds(),
        ["with 100 clients, but 89.10 % is required and 99.00 % is the best possible; attach more"],
    ),
    (
        "some died",
        status(attached=98, dead=(DeadClient(1, 7, "killed by SIGKILL"),) * 2),
        probe(),
        Thresholds(),
        ["98 of 100 clients attached, 2 died (the first: killed by SIGKILL), but 100 must be"],
    ),
    (
        "some died and may",
        status(attached=98, dead=(DeadClient(1, 7, "killed by SIGKILL"),) * 2),
        probe(),
        Thresholds(min_clients_attached=90),
        [],
    ),
    ("nobody", status(0, requested=5), probe(), Thresholds(), ["0 of 5 clients attached, but 5"]),
    (
        "errors",
        status(errors=["client 4: pattern differs at 2 MiB", "client 5: too"]),
        probe(),
        Thresholds(),
        ["reported 2 errors (the first: client 4: pattern differs at 2 MiB), but at most 0 may be reported"],
    ),
    (
        "errors that are allowed",
        status(errors=["client 4: pattern differs at 2 MiB"]),
        probe(),
        Thresholds(max_client_errors=1),
        [],
    ),
    (
        "huge pages under the probe",
        kernel_status(),
        probe(off_bytes=-60 * MIB),
        Thresholds(),
        ["has 541.2 MiB of page tables where the model says 601.2 MiB, a difference of 9.98 %, but only 5 %"],
    ),
    (
        "a small span is mostly edges",
        status(growth_bytes=16 * KIB, span_bytes=8 * MIB),
        probe(8 * MIB),
        Thresholds(),
        [],
    ),
    (
        "clients that did not touch their span",
        status(growth_bytes=MIB),
        probe(),
        Thresholds(),
        [
            "a client has 1 MiB of its own page tables where the probe had 601.2 MiB, but at most 5 % less",
            "the saving is",
        ],
    ),
    (
        "everything at once",
        status(attached=50, errors=("x",), growth_bytes=MIB),
        probe(off_bytes=-60 * MIB),
        Thresholds(min_saving_percent=100),
        ["50 of 100 clients", "reported 1 error (", "a process of the baseline", "a client has", "saving"],
    ),
]


class TestVerdict:
    @pytest.mark.parametrize(
        ("fields", "baseline", "thresholds", "said"),
        [case[1:] for case in VERDICTS],
        ids=[case[0] for case in VERDICTS],
    )
    def test_reasons(self, fields, baseline, thresholds, said):
        savings = found(fields, baseline, thresholds=thresholds)
        assert savings.passed is (not said)
        assert len(savings.reasons) == len(said), savings.reasons
        for reason, part in zip(savings.reasons, said):
            assert part in reason

    @pytest.mark.parametrize(
        ("clients", "required"), [(0, 0), (1, 0), (2, 45), (10, 81), (100, 89.1), (1500, 89.94)]
    )
    def test_by_default_ninety_percent_of_the_achievable_is_asked(self, clients, required):
        assert Thresholds().required_saving_percent(clients) == pytest.approx(required)

    @pytest.mark.parametrize(
        ("name", "value", "bounds"),
        [
            ("min_saving_percent", 101, "0 to 100"),
            ("min_saving_percent", -1, "0 to 100"),
            ("max_model_error_percent", -0.5, "0 or more"),
            ("min_clients_attached", -1, "0 or more"),
            ("max_client_errors", -1, "0 or more"),
        ],
    )
    def test_a_threshold_out_of_bounds_is_refused(self, name, value, bounds):
        with pytest.raises(InvalidRequest, match=f"{name} is {value:g}, but must be {bounds}"):
            Thresholds(**{name: value})


class TestTable:
    def test_people_see_this(self):
        title, *lines = found(status()).summary_lines()
        assert title == (
            "Region sga, simulated backend (2025-08): window 512 GiB of address space, 300 GiB mapped,"
            " 300 GiB touched by each client"
        )
        assert lines == SEEN.rstrip("\n").split("\n")

    def test_a_failed_validation_says_why(self):
        lines = found(kernel_status(growth_bytes=ONE)).summary_lines()
        assert lines[-2].startswith("Validation failed: saving -602.3 MiB (-1.00 %, projected)")
        assert lines[-1].startswith("- the saving is")

    def test_what_is_not_known_has_no_row(self):
        labels = [row.label for row in found(COMMAND).rows()]
        assert "Attach time, median" not in labels
        assert "Growth of the host's PageTables" not in labels

    def test_a_row_names_the_kinds_of_both_its_figures(self):
        kinds = {row.label: row.kind for row in found(kernel_status()).rows()}
        assert kinds["Page tables without sharing"] == "measured, projected"
        assert kinds["Page tables with sharing"] == "measured"

    def test_the_rows_are_the_figures(self):
        savings = found(status())
        texts = {figure.text for figure in savings.figures.values()} | {""}
        for row in savings.rows():
            assert {row.per_client, row.in_all} <= texts

    def test_the_title_leaves_out_what_is_not_known(self):
        savings = found(replace(COMMAND, region="r", backend="kernel", generation=None))
        assert savings.title == "Region r, kernel backend"

    def test_json_holds_all(self):
        savings = found(status(errors=("x",)))
        fields = json.loads(json.dumps(savings.to_dict()))
        assert fields["schema_version"] == 1
        assert fields["passed"] is False
        assert fields["reasons"] == list(savings.reasons)
        assert fields["figures"]["saving"] == {
            "value": 99 * ONE,
            "unit": "bytes",
            "kind": "modelled",
            "how": "without sharing minus with sharing, in all",
            "per_client": False,
        }
        assert fields["clients"]["errors"] == ["x"]
        assert fields["baseline"]["span_bytes"] == SPAN
        assert fields["projection"] == {"size_bytes": 300 * GIB, "clients": 1500}
        assert fields["thresholds"]["max_client_errors"] == 0

    def test_units_are_said(self):
        figures = found(status()).figures
        assert figures["attach_median"].text == "0.4 ms"
        assert figures["saving_percent"].text == "99.00 %"
        assert figures["clients_attached"].text == "100"
        assert replace(figures["saving"], value=1536).text == format_size(1536) == "1.5 KiB"


SEEN = """
                                          Per client     In all  Figures are
Clients attached, of 100 requested                          100  measured
Attach time, median                           0.4 ms             measured
Attach time, slowest                          3.2 ms             measured
Page tables without sharing                601.2 MiB   58.7 GiB  measured
Page tables with sharing                         0 B  601.2 MiB  modelled
Saving                                     595.2 MiB   58.1 GiB  modelled
Saving in percent                                       99.00 %  modelled
Growth of the host's PageTables                        58.7 GiB  measured
Probe's distance from the model              -12 KiB             measured
300 GiB x 1,500 clients, without sharing   601.2 MiB  880.6 GiB  projected
  of it leaf tables                          600 MiB  878.9 GiB  projected
300 GiB x 1,500 clients, with sharing            0 B  601.2 MiB  projected
300 GiB x 1,500 clients, saving                         880 GiB  projected

Validation passed: saving 58.1 GiB (99.00 %, modelled)
"""
