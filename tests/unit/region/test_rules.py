# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that make no sense on any host: each is answered with a sentence before anything is done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare import paths
from mshare.backends import mapping as backends_mapping
from mshare.backends.mapping import Mapping
from mshare.clients import spec
from mshare.converge import memory
from mshare.errors import InvalidRequest, MshareError
from mshare.kernel import abi
from mshare.kernel.generations import GENERATIONS
from mshare.region import rules
from mshare.units import GIB, KIB, MIB, TIB

NEWEST, OLDEST = GENERATIONS["2025-08"], GENERATIONS["2022-06"]
WINDOW = 512 * GIB


def sentence(call, *arguments) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["sga", "a", "0", "SGA_1.prod", "x" * 128, "a..b", "sales/sga", "a/b/c/d", "a./b."]
)
def test_names(name):
    assert rules.region_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/",
            "/etc/passwd",
            "..",
            ".",
            "../x",
            ".hidden",
            "-rf",
            "a b",
            "a\n",
            "a\0",
            "é",
            "mshare_info",
            "layout",
        ),
        *(
            "a/",
            "/a",
            "a//b",
            "a/../b",
            "a/.",
            "a/.simulated",
            "a/mshare_info",
            "a/layout",
            "layout/a",
            "a:b",
            "a\\b",
        ),
    ],
)
def test_names_that_cannot_be_used(name):
    assert sentence(rules.region_name, name) == (
        f"region name {name!r} cannot be used; write letters, digits, '_' and '.', each part beginning with a"
        " letter or digit, and not mshare_info or layout, like sga or sales/sga"
    )


@pytest.mark.parametrize("name", ["", None, 7, []])
def test_no_name(name):
    assert (
        sentence(rules.region_name, name)
        == "a region needs a name, like sga or sales/sga, but the name is empty"
    )


def test_a_name_of_300_characters():
    assert sentence(rules.region_name, "x" * 300) == (
        "region name 'xxxxxxxxxxxxxxxxxxxx'... has 300 characters; at most 128 are allowed"
    )


def test_a_name_below_too_many_directories():
    assert sentence(rules.region_name, "a/b/c/d/e") == (
        "region name 'a/b/c/d/e' has 4 directories above it; at most 3 are allowed"
    )


@given(st.text())
def test_what_passes_as_a_name_is_plain_and_one_file_name(name):
    try:
        rules.region_name(name)
    except InvalidRequest:
        return
    assert name.isascii()
    assert not set(name) & set("\\%@ \n\0-:")
    assert not {*name.split("/")} & {"", ".", "..", "mshare_info", "layout"}
    assert paths.region_name(paths.file_name(name)) == name
    assert "/" not in paths.file_name(name)


@pytest.mark.parametrize(("text", "prot"), [("r", abi.PROT_READ), ("rw", abi.PROT_READ | abi.PROT_WRITE)])
def test_protections(text, prot):
    assert backends_mapping.protection(text) == prot
    assert backends_mapping.protection_name(prot) == text


@pytest.mark.parametrize("text", ["", "w", "x", "rwx", "RW", None])
def test_protections_that_are_unknown(text):
    assert sentence(backends_mapping.protection, text) == f"protection {text!r} is unknown; write r or rw"


@given(st.integers(1, 127 * TIB))
def test_a_window_is_the_smallest_that_holds_what_ends_there(end):
    window = rules.window_bytes(end, WINDOW)
    assert window % WINDOW == 0
    assert window - WINDOW < end <= window


@pytest.mark.parametrize("end", [127 * TIB + 512 * GIB + 1, 128 * TIB, 1 << 60])
def test_a_window_above_the_address_space(end):
    said = sentence(rules.window_bytes, end, WINDOW)
    assert "a process has 128 TiB of address space; request less than 127.5 TiB" in said


def test_addresses():
    assert rules.address(None, WINDOW) is None
    assert rules.address(2 * TIB, WINDOW) == 2 * TIB


@pytest.mark.parametrize("address", [0, -WINDOW, 4096, WINDOW + 1, 128 * TIB, 1 << 63])
def test_addresses_that_cannot_hold_a_region(address):
    assert sentence(rules.address, address, WINDOW) == (
        f"address {address:#x} cannot hold a region; use a multiple of 512 GiB (0x8000000000) between"
        " that and 128 TiB, or omit it"
    )


def test_mappings_are_sorted_by_offset():
    first, second = Mapping(0, 2 * GIB), Mapping(2 * GIB, GIB, "file", path="/x")
    assert rules.mappings([second, first], WINDOW, NEWEST) == [first, second]


BAD_MAPPINGS = [
    (Mapping(0, GIB, "files"), "is of kind 'files' but generation 2025-08 supports anonymous, hugetlb, file"),
    (Mapping(0, 0), "mapping of 0 B at offset 0x0 is empty; give it a size, like 300GiB"),
    (Mapping(0, -GIB), "is empty; give it a size"),
    (Mapping(0, GIB, prot=0x40), "has the unknown protection 0x40; write r or rw"),
    (Mapping(0, GIB, prot=-1), "has the unknown protection"),
    (Mapping(100, GIB), "mapping of 1 GiB at offset 0x64 is not aligned; offsets are multiples of 4 KiB"),
    (Mapping(-4096, GIB), "is not aligned"),
    (Mapping(0, GIB, "file", path="/x", object_offset=1), "is not aligned"),
    (Mapping(0, GIB, "file", path="/x", object_offset=-4096), "is not aligned"),
    (Mapping(4096, 2 * MIB, "hugetlb"), "is not aligned; offsets are multiples of 2 MiB"),
    (Mapping(0, MIB, "hugetlb"), "mapping of 1 MiB at offset 0x0 is not a multiple of pages of 2 MiB"),
    (
        Mapping(511 * GIB, 2 * GIB),
        "reaches beyond the region's window of 512 GiB; move it or request a larger",
    ),
    (Mapping(WINDOW, 4096), "reaches beyond the region's window"),
]


@pytest.mark.parametrize(("mapping", "said"), BAD_MAPPINGS, ids=[said for _mapping, said in BAD_MAPPINGS])
def test_mappings_that_no_region_holds(mapping, said):
    assert said in sentence(rules.mappings, [mapping], WINDOW, NEWEST)


@pytest.mark.parametrize("kind", ["file", "hugetlb"])
@pytest.mark.parametrize("generation", ["2022-06", "2024-09", "2025-01", "2025-04"])
def test_kinds_that_a_generation_lacks(generation, kind):
    said = sentence(rules.mappings, [Mapping(0, 2 * MIB, kind)], WINDOW, GENERATIONS[generation])
    assert said.endswith(
        f"is of kind {kind!r} but generation {generation} supports anonymous; see `mshare info`"
    )


def test_overlapping_mappings():
    said = sentence(rules.mappings, [Mapping(GIB, GIB), Mapping(0, GIB + 4096)], WINDOW, NEWEST)
    end = GIB + 4096
    assert said == (
        f"mapping of 1 GiB at offset {GIB:#x} overlaps the previous mapping, which ends at offset"
        f" {end:#x}; move it behind that"
    )


mapping_lists = st.lists(
    st.builds(
        lambda page, pages: Mapping(page * 4 * KIB, pages * 4 * KIB), st.integers(0, 15), st.integers(1, 5)
    ),
    max_size=4,
)


@given(mapping_lists)
def test_what_passes_lies_inside_and_apart(wanted):
    window = 16 * 4 * KIB
    pages = [page for m in wanted for page in range(m.offset, m.end, 4 * KIB)]
    fits = len(set(pages)) == len(pages) and all(m.end <= window for m in wanted)
    try:
        assert sorted(rules.mappings(wanted, window, NEWEST), key=repr) == sorted(wanted, key=repr)
    except InvalidRequest:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(
    ("mapped", "overcommit", "prefault"),
    [(24 * GIB, False, False), (300 * GIB, True, False), (10 * GIB, False, True), (10 * GIB, True, True)],
)
def test_memory_that_can_be_asked_for(mapped, overcommit, prefault):
    memory.memory_consent(mapped, 24 * GIB, 10 * GIB, overcommit, prefault)


def test_above_ram_without_consent():
    assert sentence(memory.memory_consent, 300 * GIB, 24 * GIB, 10 * GIB, False, False) == (
        "300 GiB is more than this host's 24 GiB of RAM; reduce it, or set overcommit: true"
        " (--overcommit) if only part of it will be touched"
    )


@pytest.mark.parametrize("overcommit", [False, True])
def test_prefaulting_more_than_is_free(overcommit):
    with pytest.raises(MshareError) as caught:
        memory.memory_consent(11 * GIB, 24 * GIB, 10 * GIB, overcommit, True)
    assert str(caught.value) == (
        "prefaulting 11 GiB needs that much free memory, but this host has 10 GiB available; reduce the"
        " size, or turn prefault off"
    )


@pytest.mark.parametrize("count", [1, 100, 1500, 32768])
def test_client_counts(count):
    assert spec.client_count(count) == count


@pytest.mark.parametrize("count", [0, -1, 32769, 10_000_000, True])
def test_client_counts_that_cannot_be_started(count):
    assert sentence(spec.client_count, count) == (
        f"{count} clients cannot be started; request 1 to 32768, or use state absent (`mshare clients"
        f" stop`) for none"
    )
