# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's page in a real browser: on a desktop, on a phone, in the dark, on paper."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mshare.report import files
from mshare.report.fleet import Missing
from mshare.units import GIB
from rig import browser, surveys

DESKTOP, PHONE = 1100, 360
PAPER = 1031
"""A4 across less its margins, 273 mm, in CSS pixels."""
Found = Callable[[str], dict[str, Any]]
LONG_HOST = "db-frankfurt-production-billing-07.eu-central-1.internal.example.com"
LONG_NAME = "postgresql 15/main in kubepods-burstable-pod7f3c2a1e_9b4d_4c1a_8a51.slice:cri-containerd"

# Everything on the page that has text of its own, with the rectangles of its words.
TEXTS = """
const texts = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const parent = node.parentElement;
  if (!node.textContent.trim() || ["SCRIPT", "STYLE"].includes(parent.tagName)) continue;
  if (!parent.checkVisibility()) continue;
  texts.push([node, parent]);
}
"""
SMALLEST = (
    TEXTS
    + "answer = Math.min(...texts.map(([, parent]) => parseFloat(window.getComputedStyle(parent).fontSize)));"
)
BROKEN = (
    TEXTS
    + r"""
answer = [];
for (const [node, parent] of texts) {
  if (parent.closest(".part")) continue;  // A name that does not fit its bar is hidden whole.
  for (const match of node.textContent.matchAll(/[^\s\-\/_.:,;@=#+]+/g)) {
    const range = document.createRange();
    range.setStart(node, match.index);
    range.setEnd(node, match.index + match[0].length);
    const boxes = [...range.getClientRects()].filter(box => box.width > 0);
    const lines = new Set(boxes.map(box => Math.round(box.top)));
    if (lines.size > 1) answer.push(match[0]);
  }
}
"""
)
OUTSIDE = """
const width = document.documentElement.clientWidth;
answer = [...document.body.querySelectorAll("*")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5) && !one.closest(".part");
}).map(one => one.outerHTML.slice(0, 80));
if (document.documentElement.scrollWidth > width) answer.push("the page scrolls sideways");
"""
OVERLAPS = """
answer = [...document.querySelectorAll("th, td")].filter(cell => cell.scrollWidth > cell.clientWidth + 1)
  .map(cell => cell.textContent.trim());
"""
CONTRAST = (
    TEXTS
    + """
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => numbers(colour).slice(0, 3).map(part => part / 255)
  .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const behind = element => {
  for (let one = element; one; one = one.parentElement) {
    const colour = window.getComputedStyle(one).backgroundColor, parts = numbers(colour);
    if (parts.length < 4 || parts[3] > 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
answer = texts.map(([node, parent]) => {
  const [one, other] = [light(window.getComputedStyle(parent).color), light(behind(parent))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  return [ratio, node.textContent.trim().slice(0, 40)];
}).filter(([ratio]) => ratio < 4.5);
"""
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on hosts in each state, with long names, a missing one, and an earlier report."""
    if reason := browser.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("report")
    found = surveys.fleet(12)
    found[LONG_HOST] = surveys.survey(LONG_HOST, [surveys.instance(LONG_NAME, 300 * GIB, 400, maximum=4000)])
    earlier = copy.deepcopy(found)
    for survey in earlier.values():
        survey["host"]["page_tables_bytes"] //= 2
    reason = "unreachable: ssh: connect to host db99.example.com port 22: No route to host"
    missing = (Missing("db99", reason),)
    files.report(files.Gathered(earlier, missing)).write(str(folder / "earlier"))
    made = files.report(files.Gathered(found, missing), str(folder / "earlier" / "report.json"))
    made.write(str(folder))
    return folder / "report.html"


LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"width": DESKTOP},
    "phone": {"width": PHONE},
    "paper": {"width": PAPER, "printed": True},
    "dark": {"width": DESKTOP, "dark": True},
}
SCRIPTS = {
    "smallest": SMALLEST,
    "broken": BROKEN,
    "outside": OUTSIDE,
    "overlaps": OVERLAPS,
    "contrast": CONTRAST,
    "background": "answer = window.getComputedStyle(document.body).backgroundColor;",
    "verdict": """
    const verdict = document.getElementById("verdict");
    answer = [verdict.textContent, verdict.getBoundingClientRect().bottom];
    """,
    "card": """
    const cell = document.querySelector("#hosts tbody td[data-label='available']");
    const row = window.getComputedStyle(cell.parentElement);
    answer = [window.getComputedStyle(cell, "::before").content, row.display];
    """,
}
"""They look, and change nothing: a browser is started once for all of them."""


@pytest.fixture(scope="module")
def found(page: Path) -> Found:
    """What the scripts find out, by look."""
    return functools.cache(lambda look: browser.measured(page, scripts=SCRIPTS, **LOOKS[look]))


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_is_set_in_less_than_eleven_pixels(found: Found, look: str) -> None:
    assert found(look)["smallest"] >= 11


@pytest.mark.parametrize("look", ["desktop", "phone", "paper"])
def test_no_word_is_broken(found: Found, look: str) -> None:
    assert found(look)["broken"] == []


@pytest.mark.parametrize("look", ["desktop", "phone", "paper"])
def test_nothing_is_clipped_and_the_page_does_not_scroll_sideways(found: Found, look: str) -> None:
    assert found(look)["outside"] == []
    assert found(look)["overlaps"] == []


@pytest.mark.parametrize("look", ["desktop", "paper", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(found: Found, look: str) -> None:
    assert found(look)["contrast"] == []


def test_the_dark_page_is_dark(found: Found) -> None:
    assert found("desktop")["background"] == "rgb(255, 255, 255)"
    assert found("dark")["background"] == "rgb(18, 25, 29)"


def test_a_table_is_sorted_by_the_head_that_is_clicked(page: Path) -> None:
    script = """
    const table = document.getElementById("hosts");
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex(head => head.textContent.trim() === "page tables");
    const button = table.tHead.rows[0].cells[column].querySelector("button");
    const figures = () => [...table.tBodies[0].rows].map(row => Number(row.cells[column].dataset.sort));
    button.click();
    const down = figures();
    button.click();
    answer = [down, figures(), table.tHead.rows[0].cells[column].getAttribute("aria-sort")];
    """
    down, up, order = browser.measured(page, scripts={"sorted": script}, width=DESKTOP)["sorted"]
    assert len(down) == 13
    assert down == sorted(down, reverse=True)
    assert up == sorted(down)
    assert order == "ascending"


def test_on_a_phone_a_row_is_a_card_with_the_heads_beside_its_figures(found: Found) -> None:
    assert found("phone")["card"] == ['"available"', "block"]


def test_the_verdict_is_above_everything(found: Found) -> None:
    text, bottom = found("phone")["verdict"]
    assert text.startswith("3 hosts of 13 do not survive their own maxima: ")
    assert bottom < 640


def test_it_prints(page: Path, tmp_path: Path) -> None:
    browser.printed(page, tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
