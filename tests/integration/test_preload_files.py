# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that map files, with and without `mshare run --files`: they never see the difference.

With MSHARE_PROVE=1 hundreds of LMDB's tools run side by side, without it some dozens.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mshare.preload import keeper
from mshare.preload.settings import Settings
from rig import documents, mapped
from rig.kernel_world import new_kernel_world
from rig.mount import NEEDS, can_mount_fuse
from rig.patience import HANG_SECONDS, eventually
from rig.world import NOBODY, World, new_world

PROVE = os.environ.get("MSHARE_PROVE") == "1"
READERS = 400 if PROVE else 40
WINDOW_BYTES = 1 << 30
# FUSE keeps pages of its own of what the double's regions show, so that a change of the file is seen late.
UNCHANGING = (
    *("whole", "odd_size", "part", "two_parts", "closed", "longer", "deleted", "replaced", "read_only"),
    *("unmap_parts", "map_over", "moved", "in_memory", "locked", "other_kinds", "beyond", "child"),
    *("descriptors", "watched", "piped", "sandboxed", "killed"),
)
AS_ANOTHER_USER = f"""
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
print(mmap.mmap(fd, {mapped.PAGES * mapped.PAGE_BYTES}, mmap.MAP_SHARED, mmap.PROT_READ)[8192])
"""

WRITER = """
import mmap, os, sys
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), os.path.getsize(sys.argv[1]), mmap.MAP_SHARED)
memory[0:5], memory[-6:] = b"first", b"second"
print("written", flush=True)
sys.stdin.read()
"""


class Kept:
    """A world with a keeper, which is a child of ours, and what programs are started with."""

    def __init__(self, world: World, library: str, backend: str, process: subprocess.Popen[str]) -> None:
        self.world = world
        self.process = process
        assert process.stdout is not None
        self.socket = process.stdout.readline().strip()
        self._library = library
        self._backend = backend

    def environment(self, **fields: object) -> dict[str, str]:
        given: dict[str, object] = {"threshold_bytes": mapped.THRESHOLD_BYTES, "verbose": True, **fields}
        settings = Settings("4k", self._backend, str(self.world.root), files=self.socket, **given)  # type: ignore[arg-type]
        return settings.environment(self._library)

    def regions(self) -> list[str]:
        return [name for name in os.listdir(self.world.root) if name.startswith("files.")]

    @contextlib.contextmanager
    def reader(self, path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
        """A program that has the file mapped until it is told to go on."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [mapped.program(), "waits", str(path)]
        with subprocess.Popen(command, env={**os.environ, **environment}, text=True, **pipes) as process:  # type: ignore[call-overload]
            try:
                assert process.stdout.readline() == "1024 of 1024 pages are right\n"
                process.stdout.readline()
                yield process
            finally:
                process.kill()


@contextlib.contextmanager
def keeping(world: World, library: str, backend: str = "simulated", **options: object) -> Iterator[Kept]:
    with world.started("keep-files", "--backend", backend, **options) as process:
        yield Kept(world, library, backend, process)


@pytest.fixture
def kept(library: str) -> Iterator[Kept]:
    with new_world() as world, keeping(world, library) as made:
        yield made


without = functools.cache(lambda step, directory: mapped.run(step, directory).result)


def differences(kept: Kept, steps: Iterable[str], environment: dict[str, str]) -> list[str]:
    """The programs that answer otherwise, or of which not all mappings that can be are in regions."""
    directory = kept.world.directory

    def difference(step: str) -> str | None:
        run = mapped.run(step, directory, environment)
        strange = [line for line in run.lines if not line.startswith("mshare preload[")]
        if run.result == without(step, directory) and not strange and run.taken == mapped.STEPS[step]:
            return None
        return f"{step}: {without(step, directory)} {run}"

    with ThreadPoolExecutor(2) as pool:
        return [text for text in pool.map(difference, steps) if text is not None]


def test_programs_do_what_they_are_for(tmp_path: Path) -> None:
    """Else two of them could fail alike."""
    assert mapped.run("truncated", tmp_path).result.output.count("signal 7") == 2
    assert "seen 42" in mapped.run("twice", tmp_path).result.output
    assert mapped.run("killed", tmp_path).result.code == -signal.SIGKILL


def test_programs_behave_alike(kept: Kept) -> None:
    assert differences(kept, mapped.STEPS, kept.environment()) == []
    eventually(lambda: not kept.regions())


@pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)
def test_programs_behave_alike_over_the_kernels_interface(library: str) -> None:
    """Each region is asked for by its ioctl, down to the bytes; no page of a window is forced in."""
    with (
        new_kernel_world("2025-08", "--alignment", str(WINDOW_BYTES)) as world,
        keeping(world, library, "kernel") as kept,
    ):
        assert differences(kept, UNCHANGING, kept.environment()) == []
        eventually(lambda: not kept.regions())
        kept.process.terminate()
        assert kept.process.wait(HANG_SECONDS) == 0
        asked = [record["fields"] for record in world.mount.requests("ioctl") if record.get("errno") == 0]
        first = next(fields for fields in asked if fields.get("flags"))
        assert {**first, "fd": 0} == {
            "region_offset": 0,
            "size": 4 << 20,
            "offset": 0,
            "prot": 1,
            "flags": 0x100011,
            "fd": 0,
        }


def test_one_region_for_all_readers(kept: Kept) -> None:
    path = mapped.make_file(kept.world.directory / "shared")
    os.link(path, kept.world.directory / "another name")
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(kept.reader(path.with_name(name), kept.environment()))
            for name in ("shared", "another name", "shared")
        ]
        assert len(kept.regions()) == 1
        (region,) = kept.regions()
        listed = kept.world.region(region)
        assert (listed["mode"], listed["mapped_bytes"]) == ("0600", 4 << 20)
        for reader in readers[:2]:
            reader.kill()
            reader.wait()
        (left,) = readers[2:]
        print(file=left.stdin, flush=True)
        assert left.stdout.readline() == "1024 of 1024 pages are right\n"
        assert kept.regions() == [region]
        left.kill()
        eventually(lambda: not kept.regions())


def test_what_is_not_the_same_has_a_region_of_its_own(kept: Kept) -> None:
    """Who may only read never gets the region of one that writes."""
    path = mapped.make_file(kept.world.directory / "shared")
    again = mapped.make_file(kept.world.directory / "alike")
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept.reader(path, kept.environment()))
        stack.enter_context(kept.reader(again, kept.environment()))
        assert len(kept.regions()) == 2
        os.replace(mapped.make_file(kept.world.directory / "new"), path)
        stack.enter_context(kept.reader(path, kept.environment()))
        assert len(kept.regions()) == 3


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
def test_an_overlay_is_left_alone(kept: Kept, tmp_path: Path) -> None:
    """A file that was opened there before the first write shows other pages than one opened later."""
    path = mapped.make_file(kept.world.directory / "file")
    script = """
        mount -t tmpfs none "$1" && cd "$1" && mkdir lower upper work merged && cp "$2" lower/file &&
        mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged &&
        exec "$3" whole merged/file
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), str(path), mapped.program()],
        env={**os.environ, **kept.environment()},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1024 of 1024 pages are right\n")
    (line,) = done.stderr.splitlines()
    assert "its file system (type 0x794c7630) is not one of ext, xfs, btrfs, f2fs and tmpfs" in line


class TestOtherUsers:
    pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")

    def test_another_user_gets_nothing(self, kept: Kept) -> None:
        path = mapped.make_file(kept.world.directory / "readable")
        done = self.as_another_user(path, kept.environment())
        assert done.stdout == "2\n"
        assert "no keeper of files answers" in done.stderr
        assert kept.regions() == []

    def test_a_region_widens_no_access(self, library: str) -> None:
        """What a service opened as root, before it became a user, is not for that user's other programs."""
        with new_world() as world:
            world.state.mkdir()
            os.chown(world.state, NOBODY, NOBODY)
            drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
            tried = [*drop, sys.executable, "-c", "import mshare.preload.keeper, click"]
            if subprocess.run(tried, env=world.environment, cwd="/", check=False).returncode:
                pytest.skip("another user may not run this library with this Python")
            command = [*drop, sys.executable, "-m", "mshare", "keep-files", "--backend", "simulated"]
            pipes = {"stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen(command, env=world.environment, **pipes) as process:  # type: ignore[call-overload]
                kept = Kept(world, library, "simulated", process)
                secret = mapped.make_file(world.directory / "secret", 0o600)
                done = self.as_another_user(secret, kept.environment())
                assert done.stdout == "2\n"
                assert "the keeper cannot open it (Permission denied)" in done.stderr
                assert kept.regions() == []
                public = mapped.make_file(world.directory / "public")
                done = self.as_another_user(public, kept.environment())
                assert (done.stdout, "took over a file mapping" in done.stderr) == ("2\n", True)
                process.terminate()

    @staticmethod
    def as_another_user(path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(path)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=True,
        )


class TestTheKeeper:
    def test_one_that_is_killed_leaves_nothing_for_good(self, library: str) -> None:
        with new_world() as world:
            path = mapped.make_file(world.directory / "file")
            with keeping(world, library) as killed, killed.reader(path, killed.environment()):
                killed.process.kill()
                killed.process.wait()
                run = mapped.run("whole", world.directory, killed.environment())
                assert run.result == without("whole", world.directory)
                assert "no keeper of files answers" in run.lines[0]
                assert len(killed.regions()) == 1
                with keeping(world, library) as kept:
                    assert kept.regions() == []
                    assert mapped.run("whole", world.directory, kept.environment()).taken == 1

    def test_it_and_a_program_that_writes_are_killed_and_no_data_is_lost(self, library: str) -> None:
        with new_world() as world:
            path = mapped.make_file(world.directory / "file")
            before = path.read_bytes()
            with keeping(world, library) as killed:
                command = [sys.executable, "-c", WRITER, str(path)]
                environment = {**os.environ, **killed.environment()}
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
                with subprocess.Popen(command, env=environment, text=True, **pipes) as writer:  # type: ignore[call-overload]
                    try:
                        assert writer.stdout.readline() == "written\n"
                        assert len(killed.regions()) == 1
                        killed.process.kill()
                        killed.process.wait()
                    finally:
                        writer.kill()
                assert world.processes() == []
            after = bytearray(before)
            after[0:5], after[-6:] = b"first", b"second"
            assert path.read_bytes() == after
            with keeping(world, library) as kept:
                assert kept.regions() == []
                kept.process.terminate()
                assert kept.process.wait(HANG_SECONDS) == 0
            assert world.files() == ["file"]

    def test_one_that_is_told_to_end_waits_for_its_programs(self, kept: Kept) -> None:
        path = mapped.make_file(kept.world.directory / "file")
        with kept.reader(path, kept.environment()) as reader:
            kept.process.terminate()
            eventually(lambda: keeper.ask(kept.socket) is None)
            run = mapped.run("whole", kept.world.directory, kept.environment())
            assert run.result == without("whole", kept.world.directory)
            assert (run.taken, len(kept.regions())) == (0, 1)
            assert kept.process.poll() is None
            reader.kill()
            reader.wait()
            assert kept.process.wait(HANG_SECONDS) == 0
        assert kept.regions() == []
        assert kept.world.files() == ["file"]

    def test_it_leaves_the_regions_of_another_one_alone(self, kept: Kept) -> None:
        """One of this user with another state directory."""
        path = mapped.make_file(kept.world.directory / "file")
        elsewhere = {"MSHARE_STATE_DIR": str(kept.world.directory / "elsewhere")}
        with kept.reader(path, kept.environment()), kept.world.started("keep-files", env=elsewhere) as other:
            assert other.stdout is not None
            assert other.stdout.readline() != kept.socket
            assert len(kept.regions()) == 1

    def test_it_stays_as_long_as_programs_may_ask_it(
        self, library: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with new_world() as world:
            monkeypatch.setenv("MSHARE_STATE_DIR", str(world.state))
            world.state.mkdir()
            users = os.open(f"{keeper.socket_path(str(world.root))}.users", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(users, fcntl.LOCK_SH)
            at_once = (
                "import sys; from mshare.backends.connect import connect; from mshare.preload import keeper;"
                "keeper.run(connect('simulated', sys.argv[1]), lambda path: print(path, flush=True), 0.1)"
            )
            command = [sys.executable, "-c", at_once, str(world.root)]
            pipes = {"stdout": subprocess.PIPE, "text": True}
            path = mapped.make_file(world.directory / "file")
            with subprocess.Popen(command, env=world.environment, **pipes) as process:  # type: ignore[call-overload]
                kept = Kept(world, library, "simulated", process)
                environment = {**os.environ, **kept.environment()}
                # It has mapped nothing yet.
                with subprocess.Popen(["cat"], env=environment, stdin=subprocess.PIPE) as program:
                    assert program.stdin is not None
                    eventually(lambda: ".sock.users" in Path(f"/proc/{program.pid}/maps").read_text())
                    os.close(users)
                    time.sleep(1)
                    assert process.poll() is None
                    with kept.reader(path, kept.environment()):
                        assert len(kept.regions()) == 1
                assert process.wait(HANG_SECONDS) == 0
            assert world.files() == ["file"]

    def test_one_that_is_stopped_is_waited_for_once(self, kept: Kept) -> None:
        kept.process.send_signal(signal.SIGSTOP)
        run = mapped.run("two_parts", kept.world.directory, kept.environment())
        kept.process.send_signal(signal.SIGCONT)
        assert run.result == without("two_parts", kept.world.directory)
        first, second = run.lines
        assert "does not answer (Resource temporarily unavailable)" in first
        assert "has not answered before; left to the kernel" in second

    def test_there_is_only_one(self, kept: Kept) -> None:
        done = kept.world.run("keep-files", "--backend", "simulated")
        assert done.returncode == 5
        assert f"the keeper of files is held by process {kept.process.pid}" in done.stderr
        assert keeper.ask(kept.socket) == kept.process.pid

    @pytest.mark.parametrize("generation", ["2025-04"])
    def test_a_generation_without_files(self, generation: str) -> None:
        with new_world(generation) as world:
            done = world.run("keep-files", "--backend", "simulated")
            assert done.returncode == 4
            assert f"regions of generation {generation} at {world.root} take no files" in done.stderr


class TestTheCommand:
    OPTIONS = ("run", "--files", "--verbose", "--threshold", "1MiB")

    def test_it_starts_a_keeper_for_all(self, library: str) -> None:
        """Which is no child of the program, and there for the next command as well."""
        with new_world() as world:
            path = mapped.make_file(world.directory / "file")
            program = (mapped.program(), "whole", str(path))
            first = world.run(*self.OPTIONS, "--backend", "simulated", "--", *program)
            again = world.run(*self.OPTIONS, "--backend", "simulated", "--", *program)
            for done in (first, again):
                assert (done.returncode, done.stdout) == (0, "1024 of 1024 pages are right\n")
                assert "took over a file mapping of 4 MiB: read-only" in done.stderr
            keepers = {line.split("files.")[1].split(".")[0] for line in (first.stderr, again.stderr)}
            assert len(keepers) == 1
            children = ("sh", "-c", "read children < /proc/$$/task/$$/children; echo [$children]")
            assert world.run(*self.OPTIONS, "--backend", "simulated", "--", *children).stdout == "[]\n"

    def test_a_stock_kernel_is_told_about_once(self) -> None:
        with new_world() as world:
            path = mapped.make_file(world.directory / "file")
            done = world.run(
                *("run", "--pages", "thp", "--files", "--threshold", "1MiB", "--"),
                *(mapped.program(), "two_parts", str(path)),
            )
            assert done.returncode == 0
            (line,) = done.stderr.splitlines()
            assert "mapped files stay as they are: only regions share the page tables of files" in line
            refused = world.run("run", "--pages", "thp", "--files", "--require", "--", "true")
            assert (refused.returncode, refused.stdout) == (4, "")
            assert "only regions share the page tables of files" in refused.stderr

    def test_a_generation_without_files_is_told_about_once(self) -> None:
        with new_world("2025-04") as world:
            path = mapped.make_file(world.directory / "file")
            words = (mapped.program(), "two_parts", str(path))
            done = world.run("run", "--files", "--backend", "simulated", "--", *words)
            assert done.returncode == 0
            assert "Warning: mapped files stay as they are: regions of generation 2025-04" in done.stderr
            assert len(done.stderr.splitlines()) == 1


def test_the_variable_alone_on_a_stock_kernel(library: str, tmp_path: Path) -> None:
    environment = Settings("thp", threshold_bytes=mapped.THRESHOLD_BYTES).environment(library)
    run = mapped.run("two_parts", tmp_path, {**environment, "MSHARE_PRELOAD_FILES": "/run/none.sock"})
    assert run.result == mapped.run("two_parts", tmp_path).result
    (line,) = run.lines
    assert "page tables of files are shared in regions only, and there is no msharefs here" in line


def test_one_line_unless_more_are_asked_for(kept: Kept) -> None:
    run = mapped.run("rounds", kept.world.directory, kept.environment(verbose=None))
    assert run.result == without("rounds", kept.world.directory)
    (line,) = run.lines
    assert "this process has 64 files in regions already, which is the maximum" in line


def test_a_keeper_that_is_asked_nonsense(kept: Kept) -> None:
    for message in (b"", b"x", keeper.QUESTION.pack(99, 0, 0, 4096), keeper.QUESTION.pack(1, 0, 5, 7)):
        assert keeper.ask(kept.socket) == kept.process.pid, message
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as program:
            program.connect(kept.socket)
            program.send(message)
            if message:
                assert keeper.Answer.unpack(program.recv(keeper.ANSWER.size)).code != 0
    assert keeper.ask(kept.socket) == kept.process.pid


class TestLmdb:
    """A real program that maps large files: its tools say the same, and all of them have one region."""

    def dump(self, path: Path) -> Path:
        lines = ["VERSION=3", "format=print", "type=btree", f"mapsize={256 << 20}", "maxreaders=4096"]
        lines += ["db_pagesize=4096", "HEADER=END"]
        for number in range(20000):
            lines += [f" key {number:08}", f" value {number}" + "." * 100]
        path.write_text("\n".join([*lines, "DATA=END", ""]))
        return path

    def test_its_tools(self, kept: Kept) -> None:
        directory = kept.world.directory
        text = self.dump(directory / "text")
        environments = {"stock": {}, "ours": kept.environment()}
        answers = {}
        for name, environment in environments.items():
            database = directory / name
            database.mkdir()
            self.run(environment, "mdb_load", "-f", str(text), str(database))
            copy = directory / f"{name} copy"
            copy.mkdir()
            self.run(environment, "mdb_copy", str(database), str(copy))
            answers[name] = [
                self.run(environment, tool, str(place)).stdout
                for place in (database, copy)
                for tool in ("mdb_stat", "mdb_dump")
            ]
            assert len(answers[name][1]) > 2 << 20
        assert answers["stock"] == answers["ours"]
        taken = self.run(environments["ours"], "mdb_stat", str(directory / "ours"))
        assert "took over a file mapping of 256 MiB: read-only" in taken.stderr

        typed = documents.script("docs/run.md: Mapped files").replace("/srv/lmdb", str(directory / "ours"))
        mshare, command, *words = shlex.split(typed)
        done = kept.world.run(command, "--backend", "simulated", *words)
        assert (mshare, done.returncode, done.stdout) == ("mshare", 0, taken.stdout)
        assert "took over a file mapping of 256 MiB: read-only" in done.stderr

        with ThreadPoolExecutor(8) as pool:
            tools = ("mdb_dump", "mdb_stat")
            dones = list(
                pool.map(
                    lambda number: self.run(
                        environments["ours"], tools[number % len(tools)], str(directory / "ours")
                    ),
                    range(READERS),
                )
            )
        for number, done in enumerate(dones):
            assert done.stdout == answers["stock"][1 - number % len(tools)]
            assert "took over a file mapping of 256 MiB" in done.stderr
        eventually(lambda: not kept.regions())

    @staticmethod
    def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=True,
        )
