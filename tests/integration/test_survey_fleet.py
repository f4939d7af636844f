# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook `survey` over real ssh hosts, and its report in a real browser."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from integration.hosts import COLLECTIONS
from mshare.pagetable import page_tables
from mshare.report import files
from mshare.units import MIB
from rig import browser, surveys
from rig.hosts.fleet import HERE as RIG
from rig.hosts.fleet import Fleet, missing, running

HOSTS, PROCESSES = 3, 6
# What each of the hosts shares; so much that the order of the hosts is known.
SHARED_MIB = (2048, 512, 1024)
GONE = "gone ansible_host=10.77.254.254 ansible_ssh_args='-o ConnectTimeout=1'\n"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    if reason := missing():
        pytest.skip(reason)
    with running("test", HOSTS) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def busy(fleet: Fleet) -> Iterator[Fleet]:
    """A fleet on each of whose hosts processes share memory."""
    program = (RIG / "sharers.py").read_text()
    running = [
        subprocess.Popen(
            fleet.ssh_command(number, "python3", "-c", program, f"db{number + 1}", str(PROCESSES), str(size)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # ssh would make ours non-blocking, which Ansible refuses to write to
            text=True,
        )
        for number, size in enumerate(SHARED_MIB)
    ]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        yield fleet
    finally:
        for one in running:
            one.communicate()


def survey(fleet: Fleet, folder: Path, *flags: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/root"),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
        "ANSIBLE_INJECT_FACT_VARS": "False",
        "ANSIBLE_NOCOWS": "True",
    }
    command = [
        *(str(Path(sys.executable).parent / "ansible-playbook"), "dbmem.mshare.survey"),
        *("-i", str(fleet.inventory), "-e", "mshare_hosts=all", "-e", f"mshare_survey_folder={folder}"),
        *flags,
    ]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def report(busy: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on the fleet and a host that cannot be reached, which comes first."""
    folder = tmp_path_factory.mktemp("survey")
    (folder / "gone.ini").write_text(GONE)
    survey(busy, folder / "report", "-i", str(folder / "gone.ini"))
    return folder / "report"


# -- the playbook


def test_every_host_is_surveyed_or_missing(report: Path) -> None:
    found = json.loads((report / "report.json").read_text())
    assert [host["name"] for host in found["hosts"]] != []
    assert {host["name"] for host in found["hosts"]} == {"host1", "host2", "host3"}
    assert [one["host"] for one in found["missing"]] == ["gone"]
    assert found["missing"][0]["reason"].startswith("unreachable: ")
    with (report / "report.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["host"]: row["status"] for row in rows}["gone"] == "missing"


def test_each_host_tells_of_its_own_processes_and_of_no_others(report: Path) -> None:
    found = json.loads((report / "report.json").read_text())["surveys"]
    for number, size_mib in enumerate(SHARED_MIB):
        (instance,) = found[f"host{number + 1}"]["instances"]
        assert instance["processes"] == PROCESSES
        (segment,) = instance["segments"]
        assert segment["size_bytes"] == size_mib * MIB
        modelled = PROCESSES * page_tables(size_mib * MIB).leaf_bytes
        assert segment["page_tables_bytes"] == pytest.approx(modelled, rel=0.02)


def test_a_second_run_in_check_mode_writes_nothing(busy: Fleet, tmp_path: Path) -> None:
    output = survey(busy, tmp_path / "report", "--check")
    assert "3 hosts surveyed" in output
    assert not (tmp_path / "report").exists()


def test_a_limit_is_obeyed_and_still_reported(busy: Fleet, tmp_path: Path) -> None:
    survey(busy, tmp_path, "--limit", "host2")
    assert json.loads((tmp_path / "report.json").read_text())["totals"]["hosts"] == 1


# -- the fleet itself


@pytest.mark.usefixtures("fleet")
def test_a_stopped_fleet_leaves_nothing() -> None:
    # Its name ends with the pid, by which other runs know that it is in use.
    other = Fleet(f"stopped-{os.getpid()}")
    other.start(2)
    kept = int((other.folder / "pid").read_text())
    other.stop()
    other.stop()
    assert not other.folder.exists()
    assert not Path(f"/proc/{kept}").exists()
    assert str(other.folder) not in Path("/proc/self/mountinfo").read_text()


# A run of tests that is waiting for its hosts.
WAITING = """
import time
from rig.hosts.fleet import running
with running("ended", 1) as fleet:
    print(fleet.folder, flush=True)
    time.sleep(600)
"""


def test_a_fleet_ends_with_a_run_that_is_ended() -> None:
    if reason := missing():
        pytest.skip(reason)
    words = [sys.executable, "-c", WAITING]
    with subprocess.Popen(
        words, cwd=RIG.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        kept = int((folder / "pid").read_text())
        run.terminate()
        run.communicate()
    assert run.returncode == -signal.SIGINT
    assert not folder.exists()
    assert not Path(f"/proc/{kept}").exists()


# -- the page, as a browser shows it


class Page(HTMLParser):
    """Tables by their id, as rows of texts, and the text of every other element with an id."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self._table, self._open = "", []
        self.tags: set[str] = set()
        self.feed(document)
        for rows in self.rows.values():
            rows[:] = [[" ".join(cell.split()) for cell in row] for row in rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.add(tag)
        identifier = dict(attrs).get("id")
        if tag == "table":
            self._table = identifier or "missing"
            self.rows[self._table] = []
        elif tag == "tr" and self._table:
            self.rows[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.rows[self._table][-1].append("")
        if tag not in ("br", "wbr", "meta", "link"):
            self._open.append(identifier or "")

    def handle_endtag(self, tag: str) -> None:
        if self._open:
            self._open.pop()
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._table and self.rows[self._table] and self.rows[self._table][-1]:
            self.rows[self._table][-1][-1] += data
        for identifier in filter(None, self._open):
            self.texts[identifier] = self.texts.get(identifier, "") + data


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    if reason := browser.missing():
        pytest.skip(reason)
    return Page(browser.shown(report / "report.html"))


def test_the_page_shows_the_fleet(page: Page) -> None:
    assert "3 hosts surveyed" in page.texts["summary"]
    assert "1 missing; 3 instances" in " ".join(page.texts["summary"].split())
    assert page.texts["verdict"].startswith("All 3 hosts survive their own maxima.")
    assert [row[0] for row in page.rows["missing"][1:]] == ["gone"]
    assert {row[0] for row in page.rows["hosts"][1:]} == {"host1", "host2", "host3"}


def test_the_page_shows_the_instance_with_most_page_tables_first(page: Page) -> None:
    assert [row[1] for row in page.rows["instances"][1:]] == ["host1", "host3", "host2"]


def test_the_page_has_a_chart_with_every_host(page: Page) -> None:
    assert {"host1", "host2", "host3"} <= set(re.findall(r"host\d", page.texts["chart"]))


def test_every_figure_on_the_page_has_a_label(page: Page) -> None:
    for tile in ("total", "maximum", "huge", "mshare"):
        assert re.search("measured|modelled|projected", page.texts[tile]), tile
    for row in page.rows["savings"][1:]:
        assert re.search("measured|modelled|projected", row[4]), row


def test_the_page_has_no_picture_frame_or_link(page: Page) -> None:
    assert page.tags & {"img", "iframe", "link", "object", "svg"} == set()


def test_the_page_prints_and_can_be_looked_at(report: Path, page: Page, tmp_path: Path) -> None:
    browser.printed(report / "report.html", tmp_path / "report.pdf")
    browser.picture(report / "report.html", tmp_path / "report.png")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert (tmp_path / "report.png").stat().st_size > 20_000


def test_five_hundred_hosts_are_shown(tmp_path: Path) -> None:
    if reason := browser.missing():
        pytest.skip(reason)
    files.report(files.Gathered(surveys.fleet(500), ())).write(str(tmp_path))
    page = Page(browser.shown(tmp_path / "report.html"))
    assert len(page.rows["hosts"]) == 1 + 500
    assert page.rows["hosts"][1][0] in page.texts["chart"]
