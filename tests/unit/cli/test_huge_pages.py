# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare huge-pages on a host of files: what it shows, takes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mshare.cli import huge_pages
from mshare.cli.program import mshare
from mshare.huge_pages import converge, show
from mshare.survey.record import from_fields
from mshare.units import MIB
from rig import surveys
from rig.pools import FakeKernel, Pools

Run = Callable[..., Result]


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    return Pools(tmp_path / "host")


@pytest.fixture
def run(pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path / "etc"))
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "run"))
    instance = surveys.instance("pg", 100 * MIB, 4, data_directory="/data")
    around = converge.Around(
        pools.host,
        lambda: from_fields(surveys.survey("db", [instance])),
        lambda server, page_bytes: 60,
        FakeKernel(pools.host, files=pools, limits={2 * MIB: 100}),
        lambda page_bytes, default_bytes, sids: ["PostgreSQL cluster 15-off does not run"],
    )
    monkeypatch.setattr(
        huge_pages, "present", lambda spec, **how: converge.present(spec, around=around, **how)
    )
    monkeypatch.setattr(huge_pages, "absent", lambda **how: converge.absent(around=around, **how))
    monkeypatch.setattr(huge_pages, "show", lambda: show.show(around))
    return lambda *words: CliRunner().invoke(mshare, ["huge-pages", *words])


def test_without_options_it_shows_and_changes_nothing(run: Run, pools: Pools) -> None:
    pools.set(2 * MIB, nr=20, used=5, resv=7)
    pools.write("etc/sysctl.conf", "vm.nr_hugepages = 20\n")
    untouched = pools.snapshot()
    shown = run()
    assert shown.exit_code == 0
    assert "2 MiB      all     20       5         7        0  40 MiB" in shown.stdout
    assert "The databases of this host need 80 pages of 2 MiB (160 MiB):" in shown.stdout
    assert "      60  pg (configured: postgres -C shared_memory_size_in_huge_pages)" in shown.stdout
    assert "\nPostgreSQL cluster 15-off does not run.\n" in shown.stdout
    assert "At boot: /etc/sysctl.conf (vm.nr_hugepages = 20)." in shown.stdout
    assert pools.snapshot() == untouched
    answer = json.loads(run("--json").stdout)
    assert answer["pools"][0]["total"] == 20
    assert [term["pages"] for term in answer["needed"]] == [60, 12, 8]


def test_pages_beyond_the_pool_are_told(run: Run, pools: Pools) -> None:
    assert "Beyond its pool" not in run().stdout
    place = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages"
    pools.write(place, "64\n")
    assert (
        f"Beyond its pool, the kernel may take 64 pages of 2 MiB from free memory, if it finds any ({place})."
        in run().stdout
    )


def test_what_the_kernel_has_none_of_is_not_counted(run: Run, pools: Pools) -> None:
    pools.write("proc/meminfo", "MemTotal: 1024 kB\n")
    assert "need" not in run().stdout


def test_pools_are_set_and_given_back(run: Run, pools: Pools) -> None:
    checked = run("--want", "auto", "--no-boot", "--check")
    assert "Would reserve 68 more of the pool of 2 MiB pages" in checked.stdout
    assert pools.count("nr") == 0
    done = run("--want", "auto", "--no-boot", "--spare", "2MiB", "--json")
    assert json.loads(done.stdout)["pools"][0]["granted"] == 61
    assert pools.count("nr") == 61
    assert "`mshare huge-pages --absent` restores what was there before." in run().stdout
    assert "Give back 61 of the pool of 2 MiB pages, which then has 0 (0 B)." in run("--absent").stdout
    assert pools.count("nr") == 0
    assert "Nothing to do." in run("--absent").stdout


def test_less_than_asked_for_is_exit_code_1_with_the_figures(run: Run, pools: Pools) -> None:
    failed = run("--want", "128", "--no-boot")
    assert failed.exit_code == 1
    assert "The kernel granted 100 of the 128 pages asked for in the pool of 2 MiB pages" in failed.stdout
    answer = json.loads(run("--want", "128", "--no-boot", "--json").stdout)
    assert answer["error"]["exit_code"] == 1
    assert answer["live"] == {"asked": True, "state": "put back", "missing_pages": 28}
    assert pools.count("nr") == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--check"], "--check was given, and nothing that is wanted; add --want, like --want auto"),
        (["--spare", "5"], "--spare was given, and nothing that is wanted"),
        (["--absent", "--want", "5"], "--absent restores everything, and --want was given as well"),
        (["--want", "many"], "wanted 'many' is neither a number of pages nor a size"),
        (["--want", "auto", "--instance", "x"], "instance 'x' is not on this host; its instances are pg"),
        (["--want", "5", "--no-live", "--no-boot"], "live and persist are both false"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(run: Run, words: list[str], reason: str) -> None:
    refused: Any = run(*words)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ")
    assert reason in refused.stderr
