# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures as Prometheus reads them: whatever names say, and however many look alike."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.monitoring.asked import Asked
from mshare.monitoring.exposition import ExporterFigures, text
from mshare.monitoring.figures import Figures, figures
from mshare.survey.record import from_fields
from mshare.units import GIB
from rig import surveys

_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? ([0-9.e+-]+)')
ANY_TEXT = st.text(st.characters(blacklist_categories=()), max_size=12) | st.binary(max_size=12).map(
    lambda data: data.decode("utf-8", "surrogateescape")
)
NASTY = st.sampled_from(["\n", '"', "\\", "\\n", '",port="1', "\udcff", "\x1b[2J", "a\r\nb", "{}", "#", "ü"])


def made(*instances: dict, **fields) -> Figures:
    survey = from_fields(surveys.survey("db1", list(instances), **fields))
    return figures(survey, regions=[], asked=Asked())


def samples(content: str) -> dict[tuple[str, str], float]:
    """By name and labels; each line is a comment or a sample, and no series is there twice."""
    found: dict[tuple[str, str], float] = {}
    for line in content.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        key = match[1], match[2] or ""
        assert key not in found, line
        found[key] = float(match[3])
    return found


@given(st.lists(st.tuples(ANY_TEXT | NASTY, ANY_TEXT | NASTY, ANY_TEXT | NASTY), min_size=1, max_size=4))
def test_no_name_forges_or_repeats_a_series(names):
    instances = [
        surveys.instance(f"i{number}", GIB, 3, 10, data_directory=directory, unit=f"{unit}.service", sid=sid)
        for number, (directory, unit, sid) in enumerate(name for name in names if _storable(name))
    ]
    if not instances:
        return
    content = text(made(*instances))
    content.encode("utf-8")
    # A no-break space is harmless, and shown as it is everywhere.
    assert all(character.isprintable() or character in "\n\u00a0" for character in content)
    found = samples(content)
    assert {name for name, __ in found} >= {"mshare_host_memory_bytes", "mshare_instance_processes"}


def _storable(words):
    """What can be in a survey: names of files, as Python decodes them."""
    try:
        for word in words:
            word.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def test_what_is_escaped_is_the_text_again():
    content = text(made(surveys.instance("a", GIB, 3, data_directory='/x "y" \\ z\nw')))
    assert 'data_directory="/x \\"y\\" \\\\ z\\nw"' in content


def test_of_each_metric_one_head_before_its_series():
    content = text(made(surveys.instance("a", GIB, 3, 10), surveys.instance("b", GIB, 3, port=5433)))
    heads = [line.split(" ")[2] for line in content.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))
    names = [line.partition("{")[0].partition(" ")[0] for line in content.splitlines() if line[0] != "#"]
    assert [name for number, name in enumerate(names) if names[number - 1 : number] != [name]] == heads


def test_what_nobody_knows_is_left_out():
    found = samples(text(made(surveys.instance("a", GIB, 3))))
    assert not any(name == "mshare_instance_processes_maximum" for name, __ in found)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool of Debian's package prometheus")
def test_promtool_has_nothing_to_say():
    names = ['/a "b"\n\\c', "/d", "/e\udcff", "/é"]
    instances = [surveys.instance(f"i{n}", GIB, 3, 9, data_directory=name) for n, name in enumerate(names)]
    content = text(made(*instances), ExporterFigures(60.0, 0.2))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=content.encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
