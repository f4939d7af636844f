# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan as a whole: from a survey, from wishes, on the screen, as JSON, and the lines to paste."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mshare.cli.program import mshare
from mshare.errors import InvalidRequest
from mshare.pagetable import page_tables
from mshare.plan import text
from mshare.plan.facts import from_arguments, from_survey
from mshare.plan.paste import HugePages, exact_size, region_name
from mshare.plan.plan import SCHEMA_VERSION, plan
from mshare.survey.record import from_fields
from mshare.units import GIB, KIB, MIB, parse_size
from rig.surveys import PROCESS_BYTES, SUPPORT, instance, pool, segment, survey

SIZE = 8 * GIB
ONE = page_tables(SIZE).total_bytes


def planned(*instances, host=None, **options):
    stored = survey("db1", list(instances))
    stored["host"].update(host or {})
    options.setdefault("generations", True)
    return plan(
        from_survey(from_fields(stored), options.pop("instance", None), options.pop("clients", None)),
        **options,
    )


def wished(size=300 * GIB, clients=1500, **options):
    return plan(from_arguments(size, clients, **options), generations=True)


class TestFromASurvey:
    def test_today_is_measured_and_the_maximum_projected(self):
        (one,) = planned(instance("main", SIZE, 200, maximum=1000)).instances
        assert (one.today_bytes, one.today_kind) == (200 * (ONE + PROCESS_BYTES), "measured")
        assert (one.at_maximum_bytes, one.at_maximum_kind) == (1000 * (ONE + PROCESS_BYTES), "projected")
        assert {row.confidence for row in one.rows} == {"projected"}
        assert all(row.today_bytes == one.today_bytes for row in one.rows)

    def test_without_a_larger_maximum_nothing_is_projected_but_what_no_host_has_shown(self):
        (one,) = planned(instance("main", SIZE, 200)).instances
        assert one.row("nothing").confidence == "measured"
        assert one.row("hugetlb_2m").confidence == "modelled"
        assert one.row("mshare_2025-08").confidence == "projected"
        assert "no larger maximum is known" in one.maximum_source

    def test_the_remainder_stays_with_every_remedy_but_fewer_processes(self):
        (one,) = planned(instance("main", SIZE, 200), pool_to=50).instances
        remainder = 200 * PROCESS_BYTES
        assert one.row("hugetlb_1g").after_bytes == 200 * 4 * KIB + remainder
        assert one.row("mshare_2025-08").after_bytes == ONE + remainder
        assert one.row("pooling").after_bytes == 50 * (ONE + PROCESS_BYTES)

    def test_savings_are_shares_of_the_ram(self):
        (one,) = planned(instance("main", SIZE, 200), host={"memory_total_bytes": 64 * GIB}).instances
        row = one.row("mshare_2025-08")
        assert row.saving_bytes == 199 * ONE
        assert row.saving_percent_of_memory == pytest.approx(100 * 199 * ONE / (64 * GIB))

    def test_a_kernel_with_mshare_needs_no_reboot(self):
        with_it = {"mshare": {**SUPPORT, "kernel_supported": True, "generation": "2025-08"}}
        (one,) = planned(instance("main", SIZE, 200), host=with_it).instances
        newest, older = one.row("mshare_2025-08"), one.row("mshare_2025-04")
        assert (newest.usable, newest.reboot) == (True, "no")
        assert older.usable is False

    def test_several_segments_each_with_what_is_open_to_it(self):
        two = instance("main", 0, 100)
        two["segments"] = [segment(SIZE, 100, name="buffers"), segment(GIB, 100, name="files", kind="file")]
        two["page_tables"]["sum_bytes"] = sum(one["page_tables_bytes"] for one in two["segments"])
        (one,) = planned(two).instances
        row = one.row("hugetlb_2m")
        assert row.usable
        assert row.after_bytes == 100 * (
            page_tables(SIZE, 2 * MIB).total_bytes + page_tables(GIB).total_bytes
        )
        assert [reason.partition(":")[0] for reason in row.reasons] == ["files"]
        assert text.cells(row)[text.HEADS.index("Open")] == "in part"

    def test_one_instance_or_another_maximum_can_be_asked_for(self):
        both = (instance("one", SIZE, 10), instance("two", SIZE, 20, maximum=40))
        (two,) = planned(*both, instance="two", clients=30).instances
        assert (two.name, two.clients_maximum, two.maximum_source) == ("two", 30, "asked for")

    def test_a_maximum_below_what_is_there_is_not_believed(self):
        (one,) = planned(instance("main", SIZE, 106, maximum=100)).instances
        assert one.clients_maximum == 106

    def test_an_instance_without_a_segment_is_told_and_left_out(self):
        made = planned(instance("small", 0, 3), instance("main", SIZE, 10))
        assert [one.name for one in made.instances] == ["main"]
        assert any("small" in note for note in made.notes)

    def test_a_partial_survey_is_called_partial(self):
        made = plan(
            from_survey(from_fields({**survey("db1", [instance("main", SIZE, 10)]), "complete": False}))
        )
        assert any("partial" in note for note in made.notes)

    def test_where_little_was_touched_huge_pages_save_more_than_a_region_would(self):
        little = instance("main", SIZE, 4)
        little["segments"][0]["page_tables_bytes"] = 4 * page_tables(3 * GIB).total_bytes
        little["page_tables"]["sum_bytes"] = little["segments"][0]["page_tables_bytes"]
        (one,) = planned(little).instances
        assert ", more than the 8 MiB that mshare would" in one.verdict[-1]

    def test_huge_pages_already_win(self):
        huge = instance("main", 0, 100)
        huge["segments"] = [segment(SIZE, 100, kind="hugetlb", page_bytes=2 * MIB)]
        huge["page_tables"]["sum_bytes"] = huge["segments"][0]["page_tables_bytes"]
        (one,) = planned(huge).instances
        assert one.verdict == ("Nothing to do: its shared memory is in huge pages already.",)
        assert one.outlook.done == "its shared memory is in huge pages already"
        assert (one.outlook.remedy_id, one.outlook.command, one.outlook.saving_bytes) == (None, None, 0)
        assert not one.row("hugetlb_2m").usable

    @pytest.mark.parametrize(
        ("broken", "sentence"),
        [
            (
                None,
                "x.json is not a survey of this release: its schema_version is None and must be 2; make",
            ),
            ({"schema_version": 1}, "its schema_version is 1 and must be 2"),
            ({"schema_version": 2}, "x.json has no field created_at"),
            ({**survey("x", []), "instances": [{"name": "x"}]}, "x.json has no field instances\\[0\\].kind"),
            ({**survey("x", []), "host": 7}, "x.json has 7 for host where an object is needed"),
            ({**survey("x", []), "vanished": "7"}, "x.json has '7' for vanished where a whole number"),
        ],
    )
    def test_what_is_no_survey(self, broken, sentence):
        with pytest.raises(InvalidRequest, match=sentence):
            from_fields(broken, "x.json")

    def test_an_instance_that_is_not_there(self):
        with pytest.raises(InvalidRequest, match="no instance 'x'; it has: main"):
            planned(instance("main", SIZE, 10), instance="x")


class TestFromWishes:
    def test_the_cover_letters_example(self):
        (one,) = wished().instances
        assert round(one.full_touch_leaf_bytes / GIB, 1) == 878.9
        assert round(one.full_touch_bytes / GIB, 1) == 880.6
        assert one.at_maximum_bytes == one.full_touch_bytes
        assert one.today_bytes is None
        newest = one.row("mshare_2025-08")
        assert (newest.window_bytes, newest.memory_bytes) == (512 * GIB, 300 * GIB)

    def test_static_huge_pages_win_most_of_it_and_that_is_said(self):
        (one,) = wished().instances
        assert "99.9 % of the 880 GiB that mshare would" in one.verdict[-1]
        assert "start there" in one.verdict[-1]

    def test_percentages_need_the_ram(self):
        assert {row.saving_percent_of_memory for row in wished().instances[0].rows} == {None}
        row = wished(memory_bytes=512 * GIB).instances[0].row("hugetlb_2m")
        assert row.saving_percent_of_memory == pytest.approx(171.66, abs=0.01)

    @pytest.mark.parametrize("clients", [0, -1, 1 << 40, True])
    def test_clients_that_no_host_has(self, clients):
        with pytest.raises(InvalidRequest, match="cannot be planned for"):
            from_arguments(GIB, clients)

    def test_a_pool_that_serves_nobody(self):
        with pytest.raises(InvalidRequest, match="cannot serve anybody"):
            plan(from_arguments(GIB, 10), 0)

    @settings(deadline=None)
    @given(st.integers(1, 4 << 40), st.integers(1, 100_000), st.none() | st.integers(1, 100_000))
    def test_every_plan_holds_together(self, size, clients, pool_to):
        made = plan(from_arguments(size, clients), pool_to)
        for row in made.instances[0].rows:
            assert row.saving_bytes == row.at_maximum_bytes - row.after_bytes >= 0
            assert row.window_bytes >= row.memory_bytes >= size
            assert row.usable or row.reasons
            assert row.formula
        assert json.loads(json.dumps(made.to_dict()))["instances"][0]["clients_maximum"] == clients
        assert text.lines(made, formula=True)


class TestPaste:
    @pytest.mark.parametrize(
        ("size", "page", "count", "waste"),
        [
            (300 * GIB, 2 * MIB, 153_600, 0),
            (2 * MIB + 1, 2 * MIB, 2, 2 * MIB - 1),
            (1, 2 * MIB, 1, 2 * MIB - 1),
            (300 * GIB + 1, GIB, 301, GIB - 1),
        ],
    )
    def test_huge_pages_are_rounded_up(self, size, page, count, waste):
        pages = HugePages(size, page)
        assert (pages.count, pages.waste_bytes) == (count, waste)

    @given(st.integers(1, 1 << 50))
    def test_a_pasted_size_is_exact(self, size):
        assert parse_size(exact_size(size)) == size

    @pytest.mark.parametrize(
        ("name", "region"),
        [("15/main", "15_main"), ("/x", "x"), ("ORCL", "ORCL"), ("--", "sga"), ("", "sga")],
    )
    def test_a_region_s_name(self, name, region):
        assert region_name(name) == region

    def test_the_pool_holds_what_is_in_use_already(self):
        whole = pool(2 * MIB, total=100, free=60, reserved=10)
        nodes = [pool(2 * MIB, node=number, total=50, free=30, reserved=None) for number in (0, 1)]
        made = planned(
            instance("main", SIZE + 1, 10, unit="postgresql@15-main.service"),
            instance("other", 2 * MIB, 10),
            host={"huge_page_pools": [*nodes, whole]},
        )
        assert f"vm.nr_hugepages = {50 + 4096 + 1 + 1 + 8}" in made.paste.sysctl
        assert any("rounded up: 4,097 pages, 2 MiB wasted" in line for line in made.paste.sysctl)
        assert "huge_pages = on" in made.paste.database
        # No released kernel could follow it.
        assert made.paste.inventory == ()

    def test_more_pages_than_ram_are_not_to_be_pasted(self):
        made = planned(instance("main", 600 * GIB, 10))
        assert not any(line.startswith("vm.") for line in made.paste.sysctl)

    def test_variables_are_those_of_the_role(self):
        defaults = Path(__file__).parents[3] / "roles" / "region" / "defaults" / "main.yml"
        known = {line.partition(":")[0] for line in defaults.read_text().splitlines()}
        with_it = {"mshare": {**SUPPORT, "kernel_supported": True, "generation": "2025-08"}}
        lines = planned(instance("main", SIZE + 1, 10, unit="x.service"), host=with_it).paste.inventory
        assert "mshare_region_size: 8194MiB" in lines
        assert "mshare_region_before: [x.service]" in lines
        assert {line.partition(":")[0] for line in lines if not line.startswith("#")} <= known

    def test_oracle_and_programs_that_cannot_share(self):
        made = planned(instance("ORCL", SIZE, 10, kind="oracle", setuid=True))
        assert "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;" in made.paste.database
        assert made.paste.inventory == ()


def run(*words, **options):
    return CliRunner().invoke(mshare, ["plan", *words], **options)


class TestCommand:
    def test_wishes_on_the_screen(self):
        said = run("--size", "300GiB", "--clients", "1500", "--formula", "--details")
        assert said.exit_code == 0
        for piece in ("878.9 GiB", "880.6 GiB", "78.6 million", "512 GiB", "vm.nr_hugepages = 153600",
                      "(153,600 leaf + 300 PMD + 1 PUD) x 4 KiB", "mshare_region_size: 300GiB",
                      "huge_pages = on", "no released kernel has mshare"):  # fmt: skip
            assert piece in said.output

    def test_formulas_are_shown_on_request(self):
        assert "How After" not in run("--size", "1GiB", "--clients", "2").output

    def test_a_stored_survey_from_a_file_or_standard_input(self, tmp_path):
        stored = json.dumps(survey("db1", [instance("main", SIZE, 200, maximum=400)]))
        (tmp_path / "survey.json").write_text(stored)
        from_file = run(str(tmp_path / "survey.json"), "--json", "--pool-to", "50")
        from_stdin = run("-", "--json", "--pool-to", "50", input=stored)
        answer = json.loads(from_file.output)
        assert json.loads(from_stdin.output) == {**answer, "created_at": ANY}
        assert answer["schema_version"] == SCHEMA_VERSION
        assert answer["instances"][0]["rows"][1]["remedy"] == "connection pooling to 50"

    def test_the_screen_and_the_module_s_summary_say_the_same(self):
        made = plan(from_arguments(300 * GIB, 1500))
        said = [line.rstrip() for line in run("--size", "300GiB", "--clients", "1500").output.splitlines()]
        assert said[:-2] == text.lines(made)
        assert said[-1].endswith("--details")

    @pytest.mark.parametrize(
        ("words", "code", "piece"),
        [
            (["--size", "300GiB"], 2, "--clients"),
            (["--size", "0", "--clients", "2"], 2, "greater than zero"),
            (["-", "--size", "1GiB", "--clients", "2"], 2, "use only one of them"),
            (["-", "--memory", "1GiB"], 2, "--memory goes with --size"),
            (["-"], 2, "is not valid JSON"),
            (["/nonexistent/survey.json"], 1, "ENOENT"),
        ],
    )
    def test_refused_with_a_sentence(self, words, code, piece):
        said = run(*words, input="{")
        assert said.exit_code == code
        assert piece in said.output
