# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources on their way to a host."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest

from mshare import paths
from mshare.errors import InvalidRequest
from mshare.runtime import sources


def test_what_is_packed_comes_out_the_same():
    read = sources.read(paths.PACKAGE)
    packed = sources.pack(read)
    assert sources.unpack(packed) == read
    assert sources.pack(dict(reversed(list(read.items())))) == packed
    # It travels as an argument: less than half of what is read.
    assert len(packed) * 2 < sum(map(len, read.values()))


def test_all_that_a_host_needs_is_read_and_nothing_else(tmp_path: Path):
    for name in ("a.py", "b/c.py", "b/src/d.c", "b/src/d.h", "e.html.j2"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")
    for name in ("a.pyc", "py.typed", ".clang-format", "a.py~"):
        (tmp_path / name).write_text("not for a host\n")
    assert sources.read(str(tmp_path)) == {
        name: f"text of {name}\n" for name in ("a.py", "b/c.py", "b/src/d.c", "b/src/d.h", "e.html.j2")
    }


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        ("not base64!", "cannot be unpacked"),
        (base64.b64encode(b"not zlib").decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(b"not json")).decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(b"{}")).decode(), "sources of the library are missing"),
        (base64.b64encode(zlib.compress(b"[1]")).decode(), "sources of the library are missing"),
        ("", "sources of the library are missing"),
    ],
)
def test_anything_else_is_refused(packed, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        sources.unpack(packed)
