# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual pages say what the command line does, and roff has nothing against them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from checks import manuals


def test_the_manual_is_fresh() -> None:
    assert manuals.differences() == []


def test_there_is_a_page_of_each_command() -> None:
    assert {
        "mshare.1",
        "mshare-survey.1",
        "mshare-huge-pages.1",
        "mshare-clients-start.1",
    } <= manuals.pages().keys()


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("a-b", "a\\-b"),
        (".so /etc/passwd", "\\&.so /etc/passwd"),
        ("'quoted'", "\\&'quoted'"),
        ("back\\slash", "back\\eslash"),
        ("see `mshare info`", "see \\fBmshare info\\fR"),
    ],
)
def test_text_is_no_request(text: str, roff: str) -> None:
    assert manuals._inline(text) == roff


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff of Debian's package groff-base")
def test_roff_renders_them_without_a_warning() -> None:
    paths = sorted(map(str, manuals.FOLDER.glob("*.1")))
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--prometheus" in done.stdout.replace("\u2010", "-")
