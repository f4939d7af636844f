# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload from the controller: whole, of this architecture, and of a libc that this host has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mshare.errors import InvalidRequest, Unavailable
from mshare.preload import library, shipped

OWN = Path(sys.executable).read_bytes()


def test_what_is_packed_arrives_as_it_was():
    contents = {product.file_name: OWN[: 5000 + at] for at, product in enumerate(library.PRODUCTS)}
    assert shipped.unpack(shipped.pack(contents)) == contents


def test_what_did_not_arrive_is_named():
    with pytest.raises(InvalidRequest, match=r"^mshare-client did not arrive; run this again"):
        shipped.unpack(shipped.pack({"libmshare-preload.so": OWN[:5000]}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "arrived with digest|arrived damaged"),
        ("nonsense", "arrived damaged"),
        ("00:!!!", "arrived damaged"),
        ("lib.so:00:!!!", "lib.so arrived damaged"),
        (
            shipped.pack({"lib.so": b"one"}).rpartition(":")[0]
            + ":"
            + shipped.pack({"lib.so": b"two"}).rpartition(":")[2],
            "lib.so arrived with digest",
        ),
    ],
)
def test_what_was_changed_on_the_way_is_refused(text, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        shipped.unpack(text)


@pytest.mark.parametrize(
    ("content", "needed"),
    [
        (b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0", (2, 34)),
        (b"\0GLIBC_2.9\0GLIBC_2.10\0", (2, 10)),
        (b"\0GLIBC_PRIVATE\0", (0, 0)),
    ],
)
def test_the_newest_symbols_decide(content, needed):
    assert shipped.glibc_needed(content) == needed


def test_a_newer_glibc_is_refused():
    content = OWN[:64] + b"\0GLIBC_2.38\0"
    with pytest.raises(
        Unavailable, match=r"it needs 2.38, and this host has 2.34; run Ansible where glibc is not newer"
    ):
        shipped.require_fits(content, here=(2, 34))
    shipped.require_fits(content, here=(2, 38))


def test_another_architecture_is_refused():
    other = OWN[:18] + bytes([OWN[18] ^ 0xFF]) + OWN[19:64]
    with pytest.raises(Unavailable, match="built for another architecture than this host's"):
        shipped.require_fits(other)


def test_a_library_that_is_built_here_fits_here(tmp_path):
    if not library.compilers():
        pytest.skip("no C compiler")
    path = tmp_path / "libmshare-preload.so"
    library.build(str(path), library.own_sources())
    content = path.read_bytes()
    shipped.require_fits(content)
    assert (0, 0) < shipped.glibc_needed(content) <= shipped.glibc_here()
    library.put(content, str(tmp_path / "put" / "libmshare-preload.so"))
    assert (tmp_path / "put" / "libmshare-preload.so").read_bytes() == content


def test_the_program_of_lean_clients_fits_every_host_of_its_architecture(tmp_path):
    if not library.compilers():
        pytest.skip("no C compiler")
    path = tmp_path / "mshare-client"
    library.build(str(path), library.own_sources(), library.CLIENT)
    shipped.require_fits(path.read_bytes(), "mshare-client", here=(2, 17))
