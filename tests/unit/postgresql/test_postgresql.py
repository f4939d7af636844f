# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written for a PostgreSQL cluster and what is decided about it; a real server is in integration."""

from __future__ import annotations

import errno
import grp
import mmap
import os
import pwd
import re
import signal
import tempfile
from dataclasses import replace

import pytest

from mshare.errors import Conflict, InvalidRequest, MshareError, Unavailable
from mshare.files import NotTrusted
from mshare.host import huge_pages, procfs
from mshare.host.huge_pages import Pool
from mshare.postgresql import account, ask, clusters, converge, files, placement, probe, server, spec
from mshare.postgresql.facts import Costs
from mshare.postgresql.managers import pg_ctlcluster
from mshare.postgresql.placement import Segment
from mshare.postgresql.server import Server
from mshare.postgresql.spec import ClusterSpec
from mshare.preload import settings as preload_settings
from mshare.record import Malformed
from mshare.units import GIB, KIB, MIB
from rig import apart

THP = ClusterSpec("thp")
REGION = ClusterSpec(
    "4k", backend="simulated", root="/run/msharefs", region="sga", region_bytes=GIB, require=True
)
REGIONS_UNITS = [
    "Wants=mshare-mounts.target",
    "After=mshare-mounts.target mshare-region@sga.service",
    "PartOf=mshare-region@sga.service",
    "RestartForceExitStatus=SIGSEGV SIGBUS",
]
SEGMENT = Segment(1, "anonymous", "inode 1", 256 * MIB, 4096, 6 * MIB, True, False, 256 * MIB)
IN_REGION = replace(SEGMENT, kind="msharefs", name="/run/msharefs/sga", huge_bytes=0, region="sga")
IN_POOL = replace(SEGMENT, kind="hugetlb", address=GIB, aligned_1gib=True, huge_bytes=0)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of other users: root only")


def made(etc, version="15", name="main", settings=""):
    """A cluster's files."""
    folder, data = etc / version / name, etc.parent / "data" / version / name
    (folder / "conf.d").mkdir(parents=True)
    data.mkdir(parents=True)
    (folder / "postgresql.conf").write_text(f"data_directory = '{data}'\ninclude_dir = 'conf.d'\n{settings}")
    return clusters.find(version, name)


# -- which cluster


def test_the_only_cluster_needs_no_name(etc):
    cluster = made(etc)
    assert clusters.find(None, None) == cluster
    assert (cluster.id, cluster.unit) == ("15-main", "postgresql@15-main.service")
    assert cluster.data_directory == str(etc.parent / "data/15/main")
    assert (cluster.uid, cluster.gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    ("which", "error", "sentence"),
    [
        ((None, None), Conflict, r"3 PostgreSQL clusters \(13/main, 15/main, 15/test\) and more than one"),
        (("15", None), Conflict, "set version and cluster"),
        (("14", None), Unavailable, r"no PostgreSQL cluster 14/\* on this host, which has 13/main, 15/main"),
        (("13", "test"), Unavailable, "no PostgreSQL cluster 13/test"),
    ],
)
def test_several_clusters(which, error, sentence, etc):
    for one in (("13", "main"), ("15", "main"), ("15", "test")):
        made(etc, *one)
    with pytest.raises(error, match=sentence):
        clusters.find(*which)
    assert clusters.find("13", None).id == "13-main"
    assert clusters.find(None, "test").id == "15-test"


def test_no_cluster(etc, monkeypatch):
    # Other tests of this machine may have servers running.
    monkeypatch.setattr(clusters, "_others", lambda known: [])
    with pytest.raises(Unavailable, match=r"no PostgreSQL cluster was found in .*pg_createcluster"):
        clusters.find(None, None)


def test_a_data_directory_that_is_gone(etc):
    cluster = made(etc)
    os.rmdir(cluster.data_directory)
    with pytest.raises(Unavailable, match=r"cannot be read \(No such file or directory\)"):
        clusters.find(None, None)


def test_its_log(etc):
    cluster = made(etc)
    assert cluster.log == "/var/log/postgresql/postgresql-15-main.log"
    os.symlink("/somewhere/else.log", os.path.join(cluster.configuration, "log"))
    assert cluster.log == "/somewhere/else.log"


def test_every_cluster_of_the_host(etc, monkeypatch):
    monkeypatch.setattr(clusters, "_others", lambda known: [])
    for name in ("main", "second"):
        made(etc, name=name)
    # Its data directory is not there.
    (etc / "15/gone").mkdir()
    (etc / "15/gone/postgresql.conf").write_text(f"data_directory = '{etc}/nowhere'\n")
    assert [cluster.id for cluster in clusters.every()] == ["15-main", "15-second"]


# -- the server


@pytest.mark.parametrize("content", ["", "nonsense\n", "1\n/data\n1\n5432\n/run\n\n\nready\n", "4194304\n"])
def test_a_file_of_a_server_that_is_gone(content, etc):
    cluster = made(etc)
    (etc.parent / "data/15/main/postmaster.pid").write_text(content)
    assert server.running(cluster) is None


@pytest.mark.parametrize(
    ("state", "ready"),
    # A standby that takes no connections is up for good in state "standby".
    [("ready   ", True), ("standby ", True), ("starting", False), ("stopping", False)],
)
def test_a_server_that_runs(state, ready, etc):
    cluster = made(etc)
    lines = (os.getpid(), cluster.data_directory, 1700000000, 5433, "/run/postgresql", "*", "1 2", state)
    (etc.parent / "data/15/main/postmaster.pid").write_text("\n".join(map(str, lines)) + "\n")
    before = os.getcwd()
    os.chdir(cluster.data_directory)
    try:
        found = server.running(cluster)
    finally:
        os.chdir(before)
    assert found is not None
    assert found.connects == (state != "standby ")
    assert (found.pid, found.port, found.sockets, found.ready) == (
        os.getpid(),
        "5433",
        "/run/postgresql",
        ready,
    )


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("/usr/lib/postgresql/*/bin/postgres (enforce)\n", "/usr/lib/postgresql/*/bin/postgres"),
        ("postgres (kill)", "postgres"),
        ("postgres (complain)\n", None),
        ("unconfined\n", None),
        # Of SELinux: what it does to the loader is in AT_SECURE.
        ("system_u:system_r:postgresql_t:s0\0", None),
        ("", None),
        (None, None),
    ],
)
def test_a_server_that_apparmor_confines(text, profile, monkeypatch):
    monkeypatch.setattr(server.procfs, "read", lambda path: text if path == "/proc/7/attr/current" else "")
    assert Server(7, 1, "5432", "/run", ready=True).profile() == profile


def test_a_kernel_without_security_modules_confines_nobody(monkeypatch):
    def no(path):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(server.procfs, "read", no)
    assert Server(7, 1, "5432", "/run", ready=True).profile() is None


def test_the_rule_that_a_profile_needs_is_told_before_a_restart(etc, monkeypatch):
    monkeypatch.setattr(Server, "is_secure", lambda self: False)
    monkeypatch.setattr(Server, "profile", lambda self: "postgres")
    monkeypatch.setattr(converge.loader, "require", lambda *given, **more: None)
    move = converge._Move(made(etc), THP, {}, server=Server(7, 1, "5432", "/run", ready=True))
    converge._require_loader(move, True)
    assert move.warnings == []
    move.why_restart = "the server was started with another environment"
    converge._require_loader(move, True)
    assert move.warnings == [
        "AppArmor confines postmaster 7 of PostgreSQL cluster 15-main by profile postgres, which has to let"
        f" it map the library (a rule `{THP.library} mr,`); otherwise the server starts without it, and is"
        " put back"
    ]


# -- the wish


def test_the_environment_says_all_that_was_wanted():
    said = ClusterSpec(
        "4k", backend="kernel", root="/m", region="sga", region_bytes=MIB, require=True
    ).environment()
    assert said == {
        "MSHARE_PRELOAD_PAGES": "4k",
        "MSHARE_PRELOAD_BACKEND": "kernel",
        "MSHARE_PRELOAD_ROOT": "/m",
        "MSHARE_PRELOAD_REGION": "sga",
        "MSHARE_PRELOAD_REGION_BYTES": str(MIB),
        "MSHARE_PRELOAD_THRESHOLD": str(16 * MIB),
        "MSHARE_PRELOAD_REQUIRE": "1",
        "MSHARE_PRELOAD_VERBOSE": "1",
    }


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pages": "1g"}, "pages '1g' is unknown; write one of 4k, thp, hugetlb"),
        ({"pages": "thp", "region": "sga"}, "region sga cannot be used with pages thp"),
    ],
)
def test_wishes_that_make_no_sense(fields, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        ClusterSpec(**fields)


def test_what_a_server_was_started_with():
    environment = {"LD_PRELOAD": f"{THP.library}:/lib/jemalloc.so", **THP.environment(), "LANG": "C"}
    assert spec.started_with(environment, THP)
    assert not spec.started_with(environment, REGION)
    assert not spec.started_with({**environment, "MSHARE_PRELOAD_REGION": "sga"}, THP)
    assert not spec.started_with({**environment, "LD_PRELOAD": "/lib/jemalloc.so"}, THP)
    assert preload_settings.requested_pages(environment) == "thp"
    assert preload_settings.requested_pages({**environment, "LD_PRELOAD": ""}) is None
    assert (
        preload_settings.requested_pages(
            {"LD_PRELOAD": "/elsewhere/libmshare-preload.so", **REGION.environment()}
        )
        == "4k"
    )


# -- the files


@pytest.mark.parametrize(
    "text", [None, "", "# nothing\n", "LANG = C", "A = 'b'\n\nLD_PRELOAD = '/lib/a.so /lib/b.so'\n"]
)
def test_the_environment_file_comes_back_as_it_was(text, etc):
    cluster = made(etc)
    path = etc / "15/main/environment"
    if text is not None:
        path.write_text(text)
    for wanted in (THP, REGION):
        files.write(files.different(files.present(cluster, wanted, None, False)), cluster)
        assert files.different(files.present(cluster, wanted, None, False)) == {}
    assert path.read_text().startswith(text or "")
    files.write(files.different(files.absent(cluster)), cluster)
    assert files.different(files.absent(cluster)) == {}
    # An empty file says as much as none.
    assert (path.read_text() if path.exists() else "") == (text or "")
    assert sorted(one.name for one in (etc / "15/main").iterdir()) == sorted(
        ["conf.d", "postgresql.conf", *(["environment"] if text else [])]
    )
    assert not (etc.parent / "mshare").exists()


def variables(text):
    pairs = (line.partition(" = ") for line in text.split("\n") if " = " in line)
    return {name: value.strip("'") for name, __, value in pairs}


def test_what_is_preloaded_already_stays_preloaded(etc):
    cluster = made(etc)
    (etc / "15/main/environment").write_text("LD_PRELOAD = '/lib/jemalloc.so'\n")
    (text,) = (
        t for path, t in files.present(cluster, THP, None, False).items() if path.endswith("environment")
    )
    assert variables(text)["LD_PRELOAD"] == f"{THP.library} /lib/jemalloc.so"
    assert int(variables(text)["PGCTLTIMEOUT"]) > 60


@pytest.mark.parametrize(
    ("text", "preloaded"),
    [
        ("LD_PRELOAD '/lib/a.so:/lib/b.so'  # two\n", "/lib/a.so /lib/b.so"),
        ("LD_PRELOAD = '/lib/a#1.so'\n", "/lib/a#1.so"),
        ("LD_PRELOAD=libjemalloc.so.2\n", "libjemalloc.so.2"),
        ("LD_PRELOAD = 'a.so'\nLD_PRELOAD = 'b.so'\n", "b.so"),
        ("#LD_PRELOAD = 'a.so'\nMY_LD_PRELOAD = 'b.so'\nld_preload = 'c.so'\n", ""),
        ("LD_PRELOAD = '/opt/it''s.so'\n", "/opt/it's.so"),
        # Written there by hand, once: the loader would take it twice.
        ("LD_PRELOAD = '/opt/libmshare-preload.so a.so'\n", "a.so"),
        # What is included counts as well, in this order.
        ("include 'more'\n", "/lib/more.so"),
        ("LD_PRELOAD = 'a.so'\nINCLUDE_IF_EXISTS = 'more' # jemalloc\n", "/lib/more.so"),
        ("include 'more'\nLD_PRELOAD = 'a.so'\n", "a.so"),
        ("include 'missing'\ninclude_dir 'nowhere'\nLD_PRELOAD = 'a.so'\n", "a.so"),
        # PgCommon.pm makes names of *.conf small.
        ("LD_PRELOAD = 'a.so'\ninclude_dir 'more.d'\n", "a.so"),
        ("LD_PRELOAD = 'a.so'\ninclude 'itself'\n", "a.so"),
    ],
)
def test_what_pg_ctlcluster_would_preload_stays_preloaded(etc, text, preloaded):
    cluster = made(etc)
    folder = etc / "15/main"
    (folder / "more").write_text("LD_PRELOAD = '/lib/more.so'\n")
    (folder / "itself").write_text("include 'itself'\n")
    (folder / "more.d").mkdir()
    (folder / "more.d/x.conf").write_text("LD_PRELOAD = 'x.so'\n")
    (folder / "environment").write_text(text)
    (written,) = (
        t for path, t in files.present(cluster, THP, None, False).items() if path.endswith("environment")
    )
    block = written[len(text) :]
    found = pg_ctlcluster.environment(block, str(folder / "environment"), lambda path: "")
    assert found["LD_PRELOAD"].split() == [THP.library, *preloaded.split()]


def test_files_that_include_each_other_many_times_are_read_a_few_times():
    reads = []

    def read(path):
        reads.append(path)
        return "include 'a'\ninclude 'b'\n" * 20 + "LD_PRELOAD = 'a.so'\n"

    assert pg_ctlcluster.environment(read("x"), "/etc/x", read) == {"LD_PRELOAD": "a.so"}
    assert len(reads) == 1 + 2 * pg_ctlcluster._INCLUDE_DEPTH


def test_an_empty_environment_still_hides_the_one_for_all_clusters(etc):
    cluster = made(etc)
    path = etc / "15/main/environment"
    (etc.parent / "common").mkdir()
    (etc.parent / "common/environment").write_text("LANG = C\n")
    path.write_text("")
    files.write(files.present(cluster, THP, None, False), cluster)
    assert "LANG" not in variables(path.read_text())
    files.write(files.absent(cluster), cluster)
    assert path.read_text() == ""


def test_the_file_for_all_clusters_is_not_hidden(etc):
    cluster = made(etc)
    (etc.parent / "common").mkdir()
    (etc.parent / "common/environment").write_text("LANG = C\n")
    files.write(files.present(cluster, THP, None, False), cluster)
    assert variables((etc / "15/main/environment").read_text())["LANG"] == "C"
    files.write(files.absent(cluster), cluster)
    assert not (etc / "15/main/environment").exists()


@as_root
def test_files_keep_their_owner_and_mode(etc):
    cluster = replace(made(etc), uid=65534, gid=65534)
    path = etc / "15/main/environment"
    path.write_text("")
    os.chown(path, 65534, 1)
    path.chmod(0o640)
    files.write(files.present(cluster, THP, None, False), cluster)
    status = path.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 65534, 1)
    status = (etc / "15/main/conf.d/zz-dbmem-mshare.conf").stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o644, 65534, 65534)


def test_a_secret_behind_the_cluster_s_environment_is_neither_read_nor_given_away(etc, tmp_path):
    """Its owner may put a link there, or a second name of another user's file."""
    cluster = replace(made(etc), uid=65534, gid=65534)
    secret = tmp_path / "secret"
    secret.write_text("SECRET = 1\n")
    secret.chmod(0o600)
    path = etc / "15/main/environment"
    os.chown(path.parent, 65534, 65534)
    for make in (os.symlink, os.link):
        make(secret, path)
        with pytest.raises(NotTrusted):
            files.write(files.present(cluster, THP, None, False), cluster)
        path.unlink()
    assert secret.read_text() == "SECRET = 1\n"
    assert (secret.stat().st_uid, secret.stat().st_mode & 0o777) == (0, 0o600)


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        (THP, None),
        (
            ClusterSpec("4k", backend="kernel", root="/sys/fs/mshare"),
            ["Wants=mshare-mounts.target", "After=mshare-mounts.target"],
        ),
        (REGION, [*REGIONS_UNITS, "Requires=mshare-region@sga.service"]),
        (replace(REGION, require=False), [*REGIONS_UNITS, "Wants=mshare-region@sga.service"]),
    ],
)
def test_the_drop_in_has_a_region_there_first(wanted, lines, etc):
    cluster = made(etc)
    text = files.present(cluster, wanted, None, True)[files.drop_in_file(cluster)]
    said = None if text is None else {line for line in text.splitlines() if "=" in line}
    assert said == (lines if lines is None else set(lines))
    assert files.present(cluster, wanted, None, False)[files.drop_in_file(cluster)] is None


# -- huge_pages


@pytest.mark.parametrize(
    ("settings", "auto", "source"),
    [
        ("", "", None),
        ("huge_pages = on\n", "", "postgresql.conf"),
        ("", "huge_pages = 'try'\n", "postgresql.auto.conf"),
        ("", "huge_pages = 'off'\n", None),
    ],
)
def test_huge_pages_are_the_library_s(settings, auto, source, etc):
    cluster = made(etc, settings=settings)
    (etc.parent / "data/15/main/postgresql.auto.conf").write_text(auto)
    wanted = files.present(cluster, THP, None, False)
    if source is None:
        converge._require_effect(cluster, wanted, THP.pages)
        return
    with pytest.raises(Conflict, match=f"because of {source}"):
        converge._require_effect(cluster, wanted, THP.pages)


def test_a_folder_that_is_not_read(etc):
    cluster = made(etc)
    (etc / "15/main/postgresql.conf").write_text("")
    with pytest.raises(Conflict, match=r"15-main does not read .*; add include_dir = 'conf.d' at the end"):
        converge._require_effect(cluster, files.present(cluster, THP, None, False), THP.pages)


# -- before a restart


@pytest.mark.parametrize(
    ("buffers_bytes", "seconds"), [(None, 3600), (MIB, 610), (GIB, 610), (GIB + 1, 620), (300 * GIB, 3600)]
)
def test_a_start_has_time_for_all_of_its_memory(buffers_bytes, seconds, etc):
    assert spec.start_seconds(buffers_bytes) == seconds
    cluster = made(etc)
    wanted = replace(THP, start_seconds=seconds)
    text = files.present(cluster, wanted, None, False)[files.environment_file(cluster)]
    assert variables(text)["PGCTLTIMEOUT"] == str(seconds)


@pytest.mark.parametrize(("free_bytes", "warned"), [(255 * MIB, True), (256 * MIB, False), (None, False)])
def test_memory_without_blocks_for_huge_pages_is_a_warning(free_bytes, warned, etc, monkeypatch):
    monkeypatch.setattr(converge.fragmentation, "free_huge_bytes", lambda: free_bytes)
    small = replace(SEGMENT, huge_bytes=0)
    sentences = list(converge._fragmented(converge._Move(made(etc), THP, {}, segment=small)))
    assert bool(sentences) == warned
    if warned:
        assert "needs 256 MiB of huge pages, and only 255 MiB of free memory are in blocks" in sentences[0]
        assert "compact memory before the restart" in sentences[0]


def test_what_it_has_in_huge_pages_comes_free(etc, monkeypatch):
    monkeypatch.setattr(converge.fragmentation, "free_huge_bytes", lambda: 0)
    assert list(converge._fragmented(converge._Move(made(etc), THP, {}, segment=SEGMENT))) == []


def test_the_simulated_backend_has_to_be_asked_for_by_name(monkeypatch):
    simulated = converge.choose("simulated")
    monkeypatch.setattr(converge, "locate", lambda backend, root: simulated)
    for backend in (None, "auto"):
        with pytest.raises(Unavailable, match="ask for backend simulated by name"):
            converge._placed(ClusterSpec("4k", backend=backend), False)
    assert converge._placed(ClusterSpec("4k", backend="simulated"), False).backend == "simulated"


@as_root
def test_postgresql_is_asked_as_the_cluster_s_owner(etc, monkeypatch):
    """Through the real program where it is, for all that its files say."""
    if not os.path.exists(f"{clusters.PROGRAMS}/15/bin/postgres"):
        pytest.skip("PostgreSQL 15 is not installed (Debian: postgresql-15)")
    monkeypatch.setattr(clusters, "CONTROL", "")
    account_of = pwd.getpwnam("postgres")
    with tempfile.TemporaryDirectory(prefix="mshare-ask.") as directory:
        os.chmod(directory, 0o755)
        os.makedirs(f"{directory}/15/main")
        data = f"{directory}/data"
        os.mkdir(data, 0o700)
        os.chown(data, account_of.pw_uid, account_of.pw_gid)
        with open(f"{directory}/15/main/postgresql.conf", "w", encoding="utf-8") as file:
            file.write(f"data_directory = '{data}'\nshared_buffers = 32MB\nhuge_pages = off\n")
        monkeypatch.setattr(pg_ctlcluster, "CONFIGURATION", directory)
        cluster = clusters.find(None, None)
        assert cluster.owner == "postgres"
        assert ask.setting(cluster, "huge_pages") == "off"
        assert ask.shared_buffers_bytes(cluster) == 32 * MIB
        assert ask.setting(cluster, "no_such_setting") is None
    assert ask.setting(cluster, "huge_pages") is None


# -- what was verified


def test_what_was_verified_is_kept_while_the_same_is_wanted(etc):
    cluster = made(etc)
    files.write(files.present(cluster, THP, None, False), cluster)
    files.write_verified(cluster, files.Verified("thp", 7, 1))
    assert files.different(files.present(cluster, THP, None, False)) == {}
    other = files.present(cluster, replace(THP, require=True), None, False)[files.record_file(cluster)]
    assert "verified" not in other


@pytest.mark.parametrize(
    ("verified", "clause"),
    [
        (files.Verified("thp", 7, 1), "since then it was restarted, as postmaster 8"),
        (
            files.Verified("thp", 8, 2),
            r"the same postmaster 8 allocated new memory \(a crash",
        ),
        (None, None),
    ],
)
def test_what_is_lost_is_told(verified, clause, etc):
    cluster = made(etc)
    files.write(files.present(cluster, THP, None, False), cluster)
    if verified is not None:
        files.write_verified(cluster, verified)
    running = server.Server(8, 2, "5432", "/run", True)
    move = converge._Move(cluster, THP, {}, server=running, why_restart="it has no shared segment at all")
    lost = converge._lost(move)
    if clause is None:
        assert lost is None
    else:
        assert lost is not None
        assert re.search(clause, lost)
        assert lost.endswith("and that is lost: it has no shared segment at all")
        move.lost, move.segment = lost, SEGMENT
        assert f"{lost}." in move.facts().summary
    move.why_restart = None
    assert converge._lost(move) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not valid JSON"),
        ("{}", "has no field pages"),
        ('{"pages": "thp", "group_added": 7}', "has 7 for group_added where a text is needed"),
        ('{"pages": "thp", "group_added": null, "verified": {"pid": 7}}', "has no field verified.pages"),
    ],
)
def test_a_damaged_record_is_a_sentence_with_file_and_field(text, reason, etc):
    cluster = made(etc)
    path = files.record_file(cluster)
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(Malformed, match=re.escape(f"{path} {reason}") + ".*put the file back"):
        files.record(cluster)


# -- the summary


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        (SEGMENT, "(anonymous, 256 MiB at 0x600000, 256 MiB of it in huge pages)"),
        (replace(IN_REGION, window_bytes=GIB), "(msharefs, 256 MiB in a window of 1 GiB at 0x600000)"),
        (
            replace(IN_REGION, size_bytes=GIB, window_bytes=GIB, size_known=False),
            "(msharefs, window of 1 GiB at 0x600000)",
        ),
    ],
)
def test_a_region_s_size_is_its_memory_and_not_its_window(segment, text):
    assert segment.text.endswith(text)


@pytest.mark.parametrize(
    ("wanted", "shared_bytes", "line"),
    [
        (replace(REGION, backend="kernel"), 8 * MIB, "And 8 MiB of page tables that all of them share, once"),
        (REGION, 0, "nothing is saved. `mshare validate sga` shows what sharing them would save."),
        (replace(REGION, region=None), 0, "page tables of its own, and nothing is saved."),
    ],
)
def test_shared_tables_are_in_the_summary(wanted, shared_bytes, line, etc):
    cost = probe.Cost(10, GIB, 40 * KIB, 4 * KIB, shared_bytes)
    move = converge._Move(made(etc), wanted, {}, restarted=True, segment=IN_REGION)
    move.server, move.costs = server.Server(8, 2, "5432", "/run", True), Costs(after=cost)
    summary = move.facts().summary
    assert sum(line in each for each in summary) == 1
    assert not any("validate preload." in each for each in summary)


# -- where it lies


@pytest.mark.parametrize(
    ("wanted", "found", "touched_bytes", "clause"),
    [
        (THP, SEGMENT, 256 * MIB, None),
        (THP, None, 0, "no shared segment at all"),
        (THP, replace(SEGMENT, congruent_2mib=False), 0, "does not begin where huge pages can be mapped"),
        (
            THP,
            replace(SEGMENT, huge_bytes=10 * MIB),
            256 * MIB,
            "should be in huge pages for all of the 256 MiB that were touched",
        ),
        (THP, replace(SEGMENT, huge_bytes=60 * MIB), 64 * MIB, None),
        (ClusterSpec("hugetlb"), IN_POOL, 256 * MIB, None),
        (
            ClusterSpec("hugetlb"),
            replace(SEGMENT, huge_bytes=0),
            256 * MIB,
            "not in pages of a huge page",
        ),
        (ClusterSpec("hugetlb"), replace(IN_POOL, aligned_1gib=False), 0, "multiple of 1 GiB"),
        (REGION, IN_REGION, 0, None),
        (REGION, SEGMENT, 0, "is not on the msharefs at /run/msharefs"),
        (REGION, replace(IN_REGION, name="/other/sga"), 0, "is not on the msharefs at /run/msharefs"),
        (
            REGION,
            replace(IN_REGION, name="/run/msharefs/preload.7.1", region="preload.7.1"),
            0,
            "is not region sga",
        ),
        (
            replace(REGION, region=None),
            replace(IN_REGION, name="/run/msharefs/preload.7.1", region="preload.7.1"),
            0,
            None,
        ),
    ],
)
def test_where_a_segment_should_be(wanted, found, touched_bytes, clause):
    clauses = list(placement.wrong(wanted, found, touched_bytes))
    if clause is None:
        assert clauses == []
    else:
        assert len(clauses) == 1
        assert clause in clauses[0]


def test_this_process_s_own_segment():
    with mmap.mmap(-1, 64 * MIB) as memory:
        memory[0] = 1
        found = placement.of(os.getpid())
    assert found is not None
    assert (found.kind, found.size_bytes, found.huge_bytes, found.region) == ("anonymous", 64 * MIB, 0, None)


# -- what it costs


@as_root
def test_touching_for_another_process_gives_it_page_tables():
    size_bytes = 256 * MIB
    with mmap.mmap(-1, size_bytes):
        segment = placement.of(os.getpid())
        assert segment is not None
        child = apart.fork()
        if child == 0:
            signal.pause()
        try:
            before = procfs.vm_pte_bytes(child)
            probe.touch(child, segment, size_bytes)
            grown = procfs.vm_pte_bytes(child) - before
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert grown == pytest.approx(size_bytes // (2 * MIB) * 4 * KIB, abs=16 * KIB)


def test_a_process_that_may_not_be_read(monkeypatch):
    def refuse(*given):
        raise PermissionError

    monkeypatch.setattr(probe.os, "open", refuse)
    with pytest.raises(MshareError, match=r"may not be read by uid \d+ \(/proc/1/mem\)"):
        probe.touch(1, SEGMENT, 4096)


class FakeConnection:
    """A connection of this very process."""

    def __init__(self) -> None:
        self.pid = os.getpid()


def test_a_window_of_a_kernel_is_never_touched_from_outside(monkeypatch):
    opened_paths = []
    real_open = os.open
    monkeypatch.setattr(
        probe.os, "open", lambda path, *rest: opened_paths.append(path) or real_open(path, *rest)
    )
    window = replace(IN_REGION, shares_tables=True)
    cost = probe.cost([FakeConnection()], window, GIB)
    assert [path for path in opened_paths if not str(path).endswith("/status")] == []
    assert cost.sum_bytes > 0
    assert cost.shared_bytes == 512 * 4 * KIB + 2 * 4 * KIB
    assert "the tables of a region are in nobody's" in cost.how
    for refused in (window, replace(SEGMENT, kind="file")):
        with pytest.raises(InvalidRequest, match="is not touched from outside"):
            probe.touch(os.getpid(), refused, 4096)


def test_a_segment_is_touched_no_further_than_it_is_mapped(monkeypatch):
    looked_at = []
    monkeypatch.setattr(probe.os, "pread", lambda fd, size, address: looked_at.append(address))
    simulated = replace(IN_REGION, address=6 * MIB, size_bytes=GIB, window_bytes=6 * MIB)
    probe.touch(os.getpid(), simulated, GIB)
    assert looked_at == [6 * MIB, 8 * MIB, 10 * MIB]


def test_a_connection_that_ended_has_no_page_tables_to_count(monkeypatch):
    monkeypatch.setattr(probe.procfs, "vm_pte_bytes", lambda pid: None)
    with pytest.raises(MshareError, match="ended while its page tables were measured"):
        probe.cost([FakeConnection()], replace(IN_REGION, shares_tables=True), GIB)


def test_the_span_fits_the_host(monkeypatch):
    assert probe.span_bytes(64 * MIB, 10) == 64 * MIB
    monkeypatch.setattr(probe.procfs, "meminfo_bytes", lambda: {"MemAvailable": 8 * GIB})
    assert GIB < probe.span_bytes(300 * GIB, 10) < 300 * GIB


# -- who may


@as_root
@pytest.mark.parametrize(
    ("mode", "gid", "needed"),
    [
        (0o1777, 0, None),
        (0o1770, 2, "bin"),
        (0o1770, 65534, None),
        (0o700, 0, "refused"),
        (0o1750, 65534, "refused"),
    ],
)
def test_the_group_that_is_needed(mode, gid, needed, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, 0, gid)
    root.chmod(mode)
    if needed == "refused":
        with pytest.raises(Conflict, match=r"nobody may not make regions on the msharefs at .* \(mode \d+"):
            account.group_needed("nobody", str(root))
    else:
        assert account.group_needed("nobody", str(root)) == needed


def test_an_msharefs_that_is_not_there_yet_needs_no_group(tmp_path):
    assert account.group_needed("root", str(tmp_path / "missing")) is None


def test_leaving_a_group_that_is_gone():
    account.leave("root", "no-such-group")
    assert "no-such-group" not in {group.gr_name for group in grp.getgrall()}


def test_a_group_that_cannot_be_changed():
    with pytest.raises(
        MshareError, match=r"`gpasswd --add root no-such-group` failed: .*; change the group by hand"
    ):
        account.join("root", "no-such-group")


def test_an_ordinary_user_is_told(etc, monkeypatch):
    made(etc)
    monkeypatch.setattr(converge.paths, "is_root", lambda: False)
    for action in (lambda: converge.postgresql_present(THP), converge.postgresql_absent):
        with pytest.raises(Unavailable, match="can be examined and changed by root only"):
            action()


def test_what_a_killed_run_left_of_writing_is_removed(etc):
    cluster = made(etc)
    left = os.path.join(cluster.configuration, "conf.d", ".zz-dbmem-mshare.conf.0123456789abcdef.new")
    with open(left, "x", encoding="utf-8"):
        pass
    assert not converge.postgresql_absent(check=True).changed
    assert os.path.exists(left)
    assert not converge.postgresql_absent().changed
    assert os.listdir(os.path.dirname(left)) == []


def test_a_kernel_without_pools(etc, monkeypatch):
    monkeypatch.setattr(huge_pages, "sizes_bytes", list)
    move = converge._Move(made(etc), ClusterSpec("hugetlb"), {}, segment=SEGMENT)
    with pytest.raises(Unavailable, match="no pools of huge pages"):
        converge._require_pool(move)


@pytest.mark.parametrize(
    ("free", "reserved", "segment", "enough"),
    [(128, 0, SEGMENT, True), (128, 1, SEGMENT, False), (0, 0, IN_POOL, True), (127, 0, SEGMENT, False)],
)
def test_pages_that_others_reserved_are_not_free(free, reserved, segment, enough, etc, monkeypatch):
    monkeypatch.setattr(huge_pages, "sizes_bytes", lambda: [2 * MIB])
    monkeypatch.setattr(huge_pages, "pool", lambda size: Pool(size, None, 128, free, reserved, 0, 0))
    move = converge._Move(made(etc), ClusterSpec("hugetlb"), {}, segment=segment)
    if enough:
        converge._require_pool(move)
        return
    with pytest.raises(
        Unavailable, match=f"128 huge pages of 2 MiB, but this host has {free - reserved} free"
    ):
        converge._require_pool(move)


def test_who_restarted_it_does_not_matter(etc):
    """Files were written without permission to restart; what another restart came to is noted once."""
    cluster = made(etc)
    move = converge._Move(cluster, THP, {}, server=server.Server(8, 2, "5432", "/run", True))
    assert not converge._verified_first(move), "nothing was written yet"
    files.write(files.present(cluster, THP, None, False), cluster)
    assert not converge._verified_first(replace(move, why_restart="it has no shared segment at all"))
    assert not converge._verified_first(replace(move, server=None))
    assert converge._verified_first(move)
    converge._note(move)
    assert not converge._verified_first(move)
    recorded = files.record(cluster)
    assert recorded is not None
    assert recorded.verified == files.Verified("thp", 8, 2)
