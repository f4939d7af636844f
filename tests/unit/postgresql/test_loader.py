# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a server would have the library: found out before the server is stopped, with the real loader."""

from __future__ import annotations

import os
import re
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.host import procfs
from mshare.postgresql import loader
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.managers.units import Unit
from mshare.postgresql.patroni.local import Member, RestApi
from mshare.postgresql.server import Server

LIBC = re.compile(r" (/\S*/libc\.so\.6)$", re.M)
_INTERPRETER, _X86, _ARM = 3, 62, 183


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster whose postgres is a program that runs here."""
    (tmp_path / "bin").mkdir()
    shutil.copy(shutil.which("true") or "", tmp_path / "bin/postgres")
    (tmp_path / "data").mkdir()
    return Cluster(
        *("16", "main", str(tmp_path / "data"), os.geteuid(), os.getegid()),
        *("/etc/postgresql/16/main", str(tmp_path / "bin")),
    )


@pytest.fixture
def library(tmp_path: Path) -> str:
    """Some library that the loader takes."""
    found = LIBC.search(Path("/proc/self/maps").read_text())
    assert found is not None
    return str(shutil.copy(found[1], tmp_path / "library.so"))


def this_server() -> Server:
    """This process, which sees what it sees."""
    return Server(os.getpid(), procfs.start_ticks(os.getpid()) or 0, "5432", "/run", ready=True)


def refused(
    cluster: Cluster, library: str, *, root: str | None = None, will_be_installed: bool = False
) -> str:
    """What is said; empty where nothing is."""
    try:
        loader.require(cluster, this_server(), library, root=root, will_be_installed=will_be_installed)
    except Conflict as conflict:
        return str(conflict)
    return ""


def test_a_library_that_the_loader_takes(cluster: Cluster, library: str) -> None:
    assert refused(cluster, library) == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot open shared object file"), (b"", "file too short"), (b"#" * 4096, "ELF")],
)
def test_one_that_it_would_start_the_server_without(
    cluster: Cluster, library: str, content: bytes | None, reason: str
) -> None:
    """It says so in the server's log only, and goes on."""
    Path(library).unlink()
    if content is not None:
        Path(library).write_bytes(content)
    sentence = refused(cluster, library)
    assert "so nothing was changed in PostgreSQL cluster 16-main; set pages to native" in sentence
    assert f"the loader does not preload {library} into {cluster.server_program} for user" in sentence
    assert "cannot be preloaded" in sentence
    assert reason in sentence
    assert refused(cluster, library, will_be_installed=True) == "", "it would be another by then"


def elf(bits: int, machine: int, interpreter: str | None) -> bytes:
    """A program of that kind, as far as its headers say (elf(5))."""
    name = (interpreter or "").encode() + b"\0"
    kind = _INTERPRETER if interpreter else 1
    magic = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    if bits == 64:
        header = struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        table = struct.pack("<IIQQQQQQ", kind, 4, 120, 0, 0, len(name), len(name), 1)
    else:
        header = struct.pack("<HHIIIIIHHHHHH", 3, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        table = struct.pack("<IIIIIIII", kind, 84, 0, 0, len(name), len(name), 4, 1)
    return magic + header + table + name


@pytest.mark.parametrize(
    ("bits", "machine", "interpreter", "reason"),
    [
        (64, None, None, "is linked statically"),
        (
            64,
            None,
            "/lib/ld-musl-x86_64.so.1",
            r"has another C library \(ld-musl-x86_64.so.1, this host's is ",
        ),
        (32, None, "/lib/ld-linux.so.2", r"is a program of 32 bits"),
        (64, _ARM, "/lib/ld-linux-aarch64.so.1", rf"is a program of 64 bits \(machine {_ARM}\)"),
    ],
)
def test_programs_into_which_it_cannot_be_preloaded(
    cluster: Cluster, library: str, bits: int, machine: int | None, interpreter: str | None, reason: str
) -> None:
    own = loader._program("/proc/self/exe")
    assert own is not None
    if machine == own.machine:
        pytest.skip("this machine is of that kind")
    Path(cluster.server_program).write_bytes(elf(bits, machine or own.machine, interpreter))
    sentence = refused(cluster, library, will_be_installed=True)
    assert re.search(rf"{cluster.server_program} {reason}.* the loader cannot preload the library", sentence)


def test_what_a_program_s_headers_say(cluster: Cluster) -> None:
    own = loader._program(sys.executable)
    assert own == loader._program(cluster.server_program), "programs of one host"
    assert own is not None
    assert own.bits == 8 * struct.calcsize("P")


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01", b"\x7fELF" + b"\xff" * 60]
)
def test_what_is_no_program_says_nothing(cluster: Cluster, content: bytes) -> None:
    """A script may run anything: the loader is asked once the library is there."""
    Path(cluster.server_program).write_bytes(content)
    assert loader._program(cluster.server_program) is None
    assert loader._program(cluster.data_directory) is None
    assert loader._program("/nowhere") is None


def mounted_with(monkeypatch: pytest.MonkeyPatch, path: Path, options: str) -> None:
    """Have a path be a mount of its own, with these options, wherever mounts are read."""
    mountinfo = f"1 0 0:1 / / rw - tmpfs a rw\n2 1 0:2 / {path} {options} - tmpfs b rw\n"
    real = procfs.read
    monkeypatch.setattr(
        loader.procfs, "read", lambda of: mountinfo if of.endswith("/mountinfo") else real(of)
    )


@pytest.mark.parametrize("options", ["rw,nosuid,noexec", "rw,nosuid"])
def test_a_place_from_which_the_server_may_run_nothing(
    cluster: Cluster, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    mounted_with(monkeypatch, tmp_path, options)
    sentence = refused(cluster, library, will_be_installed=True)
    expected = f"is mounted noexec for postmaster {os.getpid()} (on {tmp_path})"
    assert (expected in sentence) == ("noexec" in options)


@pytest.mark.parametrize("options", ["ro,nosuid", "rw,nosuid"])
def test_a_root_that_a_unit_makes_read_only(
    cluster: Cluster, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """As with ProtectSystem=strict, for which every mount is one of its own, with other options."""
    mounted_with(monkeypatch, tmp_path, options)
    # Not mounted yet.
    sentence = refused(cluster, library, root=f"{tmp_path}/msharefs", will_be_installed=True)
    expected = (
        f"{tmp_path}/msharefs, where regions are made, is read-only for postmaster {os.getpid()} (on"
        f" {tmp_path}), as ProtectSystem=strict and ReadOnlyPaths= of a unit make it"
        f" (ReadWritePaths={tmp_path}/msharefs lets it write there), so nothing was changed"
    )
    assert (expected in sentence) == ("ro" in options.split(","))
    # Pages that need no region need no place for it.
    assert refused(cluster, library, will_be_installed=True) == ""


@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ("LANG=C\0INVOCATION_ID=7\0", True),
        ("INVOCATION_ID=7\0LANG=C\0", True),
        # sudo, `su -` and env -i.
        ("LANG=C\0MY_INVOCATION_ID=7\0", False),
        ("", False),
        # It has ended meanwhile.
        (None, True),
    ],
)
def test_a_unit_whose_environment_does_not_arrive(
    cluster: Cluster, library: str, monkeypatch: pytest.MonkeyPatch, environment: str | None, kept: bool
) -> None:
    """Nothing but a restart would show it otherwise."""
    patronis = 4194305  # no process has this number
    real = procfs.read
    answers = {f"/proc/{pid}/environ": environment for pid in (os.getpid(), patronis)}
    monkeypatch.setattr(loader.procfs, "read", lambda path: answers[path] if path in answers else real(path))
    monkeypatch.setattr(loader, "systemd_runs", lambda: True)
    monkeypatch.setattr(loader.units, "describe", Unit)
    member = Member("demo", "pg1", "ha.service", RestApi("127.0.0.1:1"), pid=patronis)
    plain = replace(cluster, plain_unit="db.service")
    monkeypatch.setattr(Cluster, "next_program", cluster.server_program)
    for one, pid in ((plain, os.getpid()), (replace(cluster, patroni=member), patronis)):
        expected = (
            f"unit {one.unit} starts process {pid} through something that clears the environment (sudo,"
        )
        sentence = refused(one, library)
        assert (expected in sentence) != kept
        assert (sentence == "") == kept
    # pg_ctlcluster clears it anyway, and has a file of its own.
    assert refused(cluster, library) == ""
    # Somebody takes it out on purpose.
    monkeypatch.setattr(loader.units, "describe", lambda name: Unit(name, unset=("INVOCATION_ID",)))
    assert refused(plain, library) == ""


def test_a_place_that_the_server_does_not_see(
    cluster: Cluster, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with TemporaryFileSystem=: the directory is there, and is another."""
    monkeypatch.setattr(loader, "_same_file", lambda path, other: False)
    sentence = refused(cluster, library, will_be_installed=True)
    assert f"{library}, where the library is, is not what postmaster {os.getpid()} sees there" in sentence


def test_a_library_that_is_not_there_yet_is_looked_for_as_far_as_its_path_goes(
    cluster: Cluster, tmp_path: Path
) -> None:
    assert refused(cluster, f"{tmp_path}/mshare/lib/library.so", will_be_installed=True) == ""
    assert loader._existing(f"{tmp_path}/mshare/lib/library.so") == str(tmp_path)


def test_a_server_that_has_ended_shows_nothing(cluster: Cluster, library: str) -> None:
    gone = Server(os.getpid(), 1, "5432", "/run", ready=True)
    loader.require(cluster, gone, library)
