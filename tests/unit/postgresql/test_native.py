# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own huge pages: the files, what is refused before they are written, and what is told."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mshare.errors import Conflict, Unavailable
from mshare.host.huge_pages import Pool
from mshare.postgresql import ask, converge, files, native, placement, spec
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.files import Verified
from mshare.postgresql.server import Server
from mshare.postgresql.spec import NATIVE, ClusterSpec
from mshare.units import GIB, KIB, MIB

from .test_postgresql import IN_POOL, SEGMENT, made

WANTED = ClusterSpec(NATIVE, page_bytes=2 * MIB)
NEW = replace(IN_POOL, page_bytes=2 * MIB)


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """A host with pools of both sizes, and a PostgreSQL that cannot be asked."""
    monkeypatch.setattr(native.huge_pages, "sizes_bytes", lambda: [2 * MIB, GIB])
    monkeypatch.setattr(native.procfs, "meminfo_bytes", lambda: {"Hugepagesize": 2 * MIB})
    monkeypatch.setattr(ask, "setting", lambda cluster, name: None)


def pool(monkeypatch, free, total=512):
    monkeypatch.setattr(native.huge_pages, "pool", lambda size: Pool(size, None, total, free, 0, 0, 0))


@pytest.mark.parametrize("text", [None, "", "A = '1'\n", "LD_PRELOAD = 'libjemalloc.so'"])
def test_there_and_back_byte_for_byte(text, etc):
    cluster = made(etc)
    environment = etc / "15/main/environment"
    if text is not None:
        environment.write_text(text)

    def snapshot():
        return {str(path): path.read_text() for path in etc.rglob("*") if path.is_file()}

    before = snapshot()
    files.write(files.different(files.present(cluster, WANTED, None, True)), cluster)
    assert files.different(files.present(cluster, WANTED, None, True)) == {}
    after = snapshot()
    (added,) = set(after) - set(before)
    assert added.endswith("/15/main/conf.d/zz-dbmem-mshare.conf")
    assert after[added].endswith("\nhuge_pages = on\nhuge_page_size = 2048kB\n")
    assert {path: after[path] for path in before} == before
    converge._require_effect(cluster, {}, NATIVE)
    files.write(files.different(files.absent(cluster)), cluster)
    assert snapshot() == before


def test_the_library_goes_when_postgresql_asks_itself(etc):
    cluster = made(etc)
    files.write(files.different(files.present(cluster, ClusterSpec("thp"), None, True)), cluster)
    assert files.recorded() == ["15-main"]
    assert (etc / "15/main/environment").exists()
    files.write(files.different(files.present(cluster, WANTED, None, True)), cluster)
    assert not (etc / "15/main/environment").exists()
    # Nothing of it needs the library any more, which may be removed.
    assert files.recorded() == []
    assert not spec.started_with({"LD_PRELOAD": spec.LIBRARY}, WANTED)
    assert spec.started_with({"LD_PRELOAD": "libjemalloc.so"}, WANTED)


@pytest.mark.parametrize(
    ("version", "asked", "settings", "wanted"),
    [
        ("15", None, "", 2 * MIB),
        ("15", None, "huge_page_size = 1GB\n", GIB),
        ("15", None, "huge_page_size = 1048576\n", GIB),
        ("15", None, "huge_page_size = 0\n", 2 * MIB),
        ("15", GIB, "", GIB),
        ("13", None, "", None),
        ("9.6", 2 * MIB, "", None),
    ],
)
def test_the_size_of_the_pages(version, asked, settings, wanted, etc):
    cluster = made(etc, version, settings=settings)
    assert native.page_bytes(cluster, asked, native.own_size(cluster, files.absent(cluster))) == wanted


def test_our_own_size_is_not_taken_for_the_clusters(etc):
    cluster = made(etc)
    large = replace(WANTED, page_bytes=GIB)
    files.write(files.different(files.present(cluster, large, None, True)), cluster)
    assert native.page_bytes(cluster, None, native.own_size(cluster, files.absent(cluster))) == 2 * MIB


@pytest.mark.parametrize(
    ("version", "asked", "error", "words"),
    [
        ("13", GIB, Conflict, r"no setting huge_page_size \(14 has\).*default size, 2 MiB, and not 1 GiB"),
        ("15", 16 * MIB, Unavailable, r"no pool of huge pages of 16 MiB; it has: 2 MiB, 1 GiB; set pages to"),
    ],
)
def test_a_size_that_is_not_to_be_had(version, asked, error, words, etc):
    with pytest.raises(error, match=words):
        native.page_bytes(made(etc, version), asked, "")


@pytest.mark.parametrize(
    ("version", "settings", "words"),
    [
        ("9.3", "", r"9.3 has no setting huge_pages \(9.4 has\), so nothing was changed in cluster 9.3-main"),
        (
            "15",
            "shared_memory_type = sysv\n",
            r"does not start with huge_pages = on and .* \(postgresql.conf\)",
        ),
    ],
)
def test_what_would_not_start(version, settings, words, etc):
    cluster = made(etc, version, settings=settings)
    with pytest.raises(Conflict, match=words):
        native.require(cluster)
    with pytest.raises(Conflict, match=words):
        converge._sized(cluster, ClusterSpec(NATIVE))


def test_what_starts(etc):
    native.require(made(etc, "9.4"))
    native.require(made(etc, "15", settings="shared_memory_type = mmap\n"))


@pytest.mark.parametrize(
    ("free", "segment", "planned", "missing"),
    [
        (128, SEGMENT, 0, None),
        (127, SEGMENT, 0, 1),
        (0, NEW, 0, None),
        (0, SEGMENT, 128, None),
        (28, SEGMENT, 50, 50),
        # Pages of another size are of no use.
        (0, replace(IN_POOL, page_bytes=GIB), 0, 128),
        (0, None, 0, None),
    ],
)
def test_the_pool(free, segment, planned, missing, etc, monkeypatch):
    pool(monkeypatch, free)
    cluster = made(etc)
    if missing is None:
        native.require_pool(cluster, segment, 2 * MIB, planned)
        return
    with pytest.raises(Unavailable, match=f"needs 128 huge pages of 2 MiB.*reserve {missing} more"):
        native.require_pool(cluster, segment, 2 * MIB, planned)


def test_buffers_that_the_next_start_will_have_count(etc, monkeypatch):
    pool(monkeypatch, 128)
    monkeypatch.setattr(ask, "shared_buffers_bytes", lambda cluster: 512 * MIB)
    with pytest.raises(Unavailable, match="needs 256 huge pages"):
        native.require_pool(made(etc), SEGMENT, 2 * MIB)


@pytest.mark.parametrize(
    ("settings", "segment", "fell_back"),
    [
        ("", SEGMENT, True),
        ("huge_pages = TRY\n", replace(SEGMENT, kind="sysv"), True),
        ("huge_pages = on\n", SEGMENT, False),
        ("huge_pages = off\n", SEGMENT, False),
        ("", IN_POOL, False),
        ("", None, False),
    ],
)
def test_a_try_that_fell_back_is_told(settings, segment, fell_back, etc):
    cluster = made(etc, settings=settings)
    running = Server(os.getpid(), 1, "5432", "/run", True)
    facts = converge._Move(cluster, None, {}, server=running, segment=segment).facts()
    assert facts.huge_pages.fell_back == fell_back
    source = "postgresql.conf" if settings else "PostgreSQL's default"
    line = f"huge_pages is try ({source}), but the server is in small pages"
    assert any(line in each for each in facts.summary) == fell_back


@pytest.mark.parametrize(
    ("wanted", "segment", "words"),
    [
        (WANTED, NEW, None),
        (ClusterSpec(NATIVE), IN_POOL, None),
        (WANTED, SEGMENT, "is not in the pool of huge pages"),
        (WANTED, replace(NEW, page_bytes=GIB), "is in pages of 1 GiB, not of 2 MiB"),
        (WANTED, None, "no shared segment"),
    ],
)
def test_where_a_segment_should_be(wanted, segment, words):
    clauses = list(placement.wrong(wanted, segment, 256 * MIB))
    assert (words is None and not clauses) or (words and words in clauses[0])


@pytest.mark.parametrize(
    ("settings", "verified", "segment", "restart"),
    [
        # It would not be there without us: the files say so, or it was verified as ours.
        ("huge_pages = off\n", False, NEW, True),
        ("", True, NEW, True),
        # With try, it may have found the pool by itself.
        ("", False, NEW, False),
        ("huge_pages = on\n", False, NEW, False),
        ("huge_pages = off\n", False, SEGMENT, False),
    ],
)
def test_back_needs_a_restart_where_it_is_there_through_us(settings, verified, segment, restart, etc):
    cluster = made(etc, settings=settings)
    running = Server(os.getpid(), 1, "5432", "/run", True)
    files.write(files.different(files.present(cluster, WANTED, None, True)), cluster)
    if verified:
        files.write_verified(cluster, Verified(NATIVE, running.pid, running.started_ticks))
    changes = files.different(files.absent(cluster))
    move = converge._Move(cluster, None, changes, server=running, segment=segment)
    assert converge._is_native_by_us(move) == restart


@pytest.mark.parametrize(
    ("pages", "prefault", "buffers_bytes", "answer"),
    [
        ("thp", None, GIB, False),
        ("thp", None, GIB - 8 * KIB, None),
        ("thp", None, None, None),
        ("thp", True, 300 * GIB, True),
        ("thp", False, 16 * MIB, False),
        ("hugetlb", None, 300 * GIB, None),
    ],
)
def test_large_segments_are_only_placed_at_the_start(
    pages, prefault, buffers_bytes, answer, etc, monkeypatch
):
    monkeypatch.setattr(ask, "shared_buffers_bytes", lambda cluster: buffers_bytes)
    wanted = converge._sized(made(etc), ClusterSpec(pages, prefault=prefault))
    assert wanted.prefault == answer
    assert wanted.align_only == (answer is False)


def test_one_that_is_only_placed_need_not_be_huge_yet():
    wanted = ClusterSpec("thp", prefault=False)
    small = replace(SEGMENT, huge_bytes=0)
    assert not list(placement.wrong(wanted, small, 256 * MIB))
    assert list(placement.wrong(wanted, replace(small, congruent_2mib=False), 256 * MIB))


def test_a_cluster_of_a_plain_unit(etc, tmp_path):
    data = tmp_path / "pgsql"
    data.mkdir()
    main = data / "postgresql.conf"
    main.write_text("shared_buffers = 1GB\n")
    owner = (os.geteuid(), os.getegid())
    cluster = Cluster(
        "16", "postgresql-16", str(data), *owner, str(data), "/usr/bin", "postgresql-16.service"
    )
    changes = files.present(cluster, WANTED, None, True)
    assert changes[files.drop_in_file(cluster)] is None
    files.write(files.different(changes), cluster)
    included = tmp_path / "mshare/postgresql/postgresql-16.conf"
    assert f"include_if_exists = '{included}'" in main.read_text()
    assert "huge_pages = on" in included.read_text()
    converge._require_effect(cluster, {}, NATIVE)
    files.write(files.different(files.absent(cluster)), cluster)
    assert main.read_text() == "shared_buffers = 1GB\n"
    assert [path.name for path in data.iterdir()] == ["postgresql.conf"]


def test_what_is_set_elsewhere_wins_and_is_named(etc):
    cluster = made(etc)
    (etc.parent / "data/15/main/postgresql.auto.conf").write_text("huge_pages = 'off'\n")
    with pytest.raises(Conflict, match=r"would be off .* because of postgresql.auto.conf"):
        converge._require_effect(cluster, files.present(cluster, WANTED, None, True), NATIVE)
