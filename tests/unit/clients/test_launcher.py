# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher itself, in a process of its own: what it starts, refuses, reads again and leaves behind."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mshare.backends.connect import connect
from mshare.clients import launcher, starter
from mshare.clients.lean import Lean
from mshare.clients.roll import Roll
from mshare.clients.spec import ClientsSpec
from mshare.clients.status import CLIENTS, LauncherStatus
from mshare.errors import MshareError, Unavailable
from mshare.host import procfs
from mshare.region.region import Region
from mshare.services import status_file
from rig.apart import die_with
from rig.patience import eventually
from rig.world import World


def spec(here: World, count: int, **fields: object) -> ClientsSpec:
    return ClientsSpec.from_dict(
        {"region": "sga", "count": count, "backend": "simulated", "root": str(here.root), **fields}
    )


def status(here: World) -> LauncherStatus | None:
    return status_file.read(str(here.root), "sga", CLIENTS)


@contextlib.contextmanager
def launched(
    read_spec: Callable[[], ClientsSpec], supervised: bool = True
) -> Iterator[tuple[int, Callable[[], str]]]:
    """The pid of a launcher, and what it wrote by its end: "ready" for the first start, then its error."""
    read_fd, write_fd = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with(parent)
            # A client whose region is gone ends by SIGSEGV, as it should; that is no fault of the tests.
            faulthandler.disable()
            os.close(read_fd)
            launcher.run(
                read_spec,
                supervised=supervised,
                on_ready=lambda ready: os.write(write_fd, f"ready {ready.attached}\n".encode()),
            )
        except BaseException as error:  # noqa: BLE001
            os.write(write_fd, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    waited = False

    def ended() -> str:
        nonlocal waited
        with open(read_fd, "rb", closefd=False) as pipe:
            text = pipe.read().decode()
        os.waitpid(pid, 0)
        waited = True
        return text

    try:
        yield pid, ended
    finally:
        if not waited:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(read_fd)


def attached(here: World) -> int:
    current = status(here)
    return current.attached if current is not None and current.state == "ready" else -1


def _no_program() -> str:
    raise Unavailable("mshare-client cannot be had here")


@pytest.fixture(params=["lean", "python"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the clients, which report, follow and die the same."""
    if request.param == "python":
        monkeypatch.setattr(starter, "program", _no_program)
    return str(request.param)


def test_a_region_without_an_owner_is_refused(here: World) -> None:
    with pytest.raises(MshareError, match=r"region sga at .* has no running owner, so there is nothing"):
        launcher.run(lambda: spec(here, 1))
    assert status(here) is None


def test_it_starts_all_and_ends_all(here: World, kind: str) -> None:
    with here.owned(), launched(lambda: spec(here, 3)) as (pid, ended):
        eventually(lambda: attached(here) == 3)
        current = status(here)
        assert current is not None
        assert (current.pid, current.requested, len(current.pids)) == (pid, 3, 3)
        assert current.attach_ms_median is not None
        assert (current.client_kind, current.span_bytes) == (kind, 64 << 20)
        assert (current.client_kind_reason is None) is (kind == "lean")
        # 64 MiB of the simulator's tables are a leaf table each 2 MiB.
        before_bytes, after_bytes = current.vm_pte_before_bytes_sum, current.vm_pte_after_bytes_sum
        assert before_bytes
        assert after_bytes
        assert after_bytes - before_bytes >= 3 * 32 * 4096
        os.kill(pid, signal.SIGTERM)
        assert ended() == "ready 3\n"
        assert status(here) is None
        assert not any(os.path.exists(f"/proc/{client}") for client in current.pids)


def test_it_is_ready_even_if_all_reported_before_it_waits(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = launcher._Launcher._start

    def slowly(self: launcher._Launcher, number: int) -> None:
        start(self, number)
        select.select([self._reports], [], [])

    monkeypatch.setattr(launcher._Launcher, "_start", slowly)
    with here.owned(), launched(lambda: spec(here, 2)):
        eventually(lambda: attached(here) == 2)


@pytest.mark.parametrize("supervised", [True, False])
def test_a_span_that_is_larger_than_the_region_is_refused(here: World, supervised: bool) -> None:
    with here.owned(), launched(lambda: spec(here, 1, span="65MiB"), supervised) as (__, ended):
        assert ended().startswith(
            "InvalidRequest: clients cannot touch 65 MiB of region sga, of which 64 MiB"
        )
        current = status(here)
    # The reason stays for whoever started it, where that is not the terminal.
    assert (current is not None and current.state == "failed") is supervised


def test_a_program_that_ends_at_once_fails_the_first_start(here: World) -> None:
    with here.owned(), launched(lambda: spec(here, 2, command=["false"], settle_seconds=60)) as (__, ended):
        sentence = ended()
        current = status(here)
    assert "MshareError: the clients of region sga did not start: client" in sentence
    assert "ended with exit code 1 before it was attached" in sentence
    assert sentence.endswith("; run the command by hand to see its messages\n")
    assert current is not None
    assert (current.state, current.error is not None) == ("failed", True)


def test_a_new_spec_is_read_and_a_bad_one_leaves_all_as_it_was(here: World) -> None:
    # The launcher is a fork: what it reads has to be in a file.
    number = here.directory / "number"
    number.write_text("2")
    with here.owned(), launched(lambda: spec(here, int(number.read_text()))) as (pid, __):
        eventually(lambda: attached(here) == 2)
        number.write_text("3")
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: attached(here) == 3)
        number.write_text("0")
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: (status(here) or pytest.fail("it ended")).reloads == 2)
        current = status(here)
        assert current is not None
        assert (current.attached, current.requested) == (3, 3)
        assert any("request 1 to 32768" in error for error in current.errors)


def _no_room(monkeypatch: pytest.MonkeyPatch, beyond: int) -> None:
    """A host that has room for so many clients."""
    start = Lean.start

    def start_if_there_is_room(self: Lean, number: int) -> int:
        if number >= beyond:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(self, number)

    monkeypatch.setattr(Lean, "start", start_if_there_is_room)


def test_more_than_there_is_room_for_leaves_those_that_run(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_room(monkeypatch, 3)
    number = here.directory / "number"
    number.write_text("2")
    with here.owned(), launched(lambda: spec(here, int(number.read_text()))) as (pid, __):
        eventually(lambda: attached(here) == 2)
        first = status(here)
        assert first is not None
        os.kill(first.pids[1], signal.SIGKILL)
        eventually(lambda: (status(here) or first).dead)
        number.write_text("5")
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: (status(here) or pytest.fail("it ended")).reloads == 1)
        current = status(here)
        assert current is not None
        assert (current.state, current.attached, current.requested) == ("ready", 1, 2)
        assert (current.pids, [dead.pid for dead in current.dead]) == (first.pids[:1], [first.pids[1]])
        assert current.errors == (
            "client 3 of region sga cannot be started beside the 3 that run (EAGAIN): there is no room for"
            " another process (memory, kernel.pid_max, kernel.threads-max, RLIMIT_NPROC, pids.max of a"
            " cgroup); raise the limit that was reached, or ask for fewer clients",
        )
        assert not os.path.exists(f"/proc/{first.pids[1]}")


def test_a_first_start_without_room_leaves_nothing(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_room(monkeypatch, 1)
    with here.owned() as owner, launched(lambda: spec(here, 2)) as (__, ended):
        assert "client 1 of region sga cannot be started beside the 1 that run (EAGAIN)" in ended()
        assert here.processes() == [owner.pid]


def test_a_client_that_is_killed_is_reported_and_started_again_on_sighup(here: World, kind: str) -> None:
    with here.owned(), launched(lambda: spec(here, 2)) as (pid, __):
        eventually(lambda: attached(here) == 2)
        first = status(here)
        assert first is not None
        os.kill(first.pids[0], signal.SIGKILL)
        eventually(lambda: (status(here) or first).dead)
        current = status(here)
        assert current is not None
        assert [(dead.pid, dead.reason) for dead in current.dead] == [
            (first.pids[0], "was killed by SIGKILL")
        ]
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: attached(here) == 2)


def test_a_signal_without_a_name_ends_a_client_and_nobody_else(here: World, kind: str) -> None:
    with here.owned(), launched(lambda: spec(here, 2)):
        eventually(lambda: attached(here) == 2)
        first = status(here)
        assert first is not None
        os.kill(first.pids[0], 35)
        eventually(lambda: (status(here) or first).dead)
        current = status(here)
        assert current is not None
        assert current.attached == 1
        assert [dead.reason for dead in current.dead] == ["was killed by signal 35"]


def test_thousands_that_end_one_after_the_other_are_written_down_together() -> None:
    """The file names them all, so that writing it for each of them would be quadratic."""
    written: list[str] = []
    one = launcher._Launcher.__new__(launcher._Launcher)
    one.__dict__.update(
        _spec=SimpleNamespace(command=(), count=0),
        _clients=Roll(),
        _errors=[],
        _first_start=False,
        _touches_left=0,
        _file=SimpleNamespace(current=True),
        _state="ready",
        _news=False,
        _written=time.monotonic(),
        _writing_seconds=1e6,
        write=lambda state: written.append(state) or one.__dict__.update(_news=False),
    )
    for __ in range(3):
        one._news = True
        one._tell()
    assert (written, one._news) == ([], True)
    assert 0 < (one._patience() or 0) <= 9e6
    one._writing_seconds = 0.0
    assert one._patience() == 0
    one._tell()
    one._tell()
    assert (written, one._patience()) == (["ready"], None)
    # What else than ready was written before is not left there.
    one._state, one._writing_seconds = "starting", 1e6
    one._tell()
    assert written == ["ready", "ready"]
    # What could not be written, because the tmpfs was full, is tried again without any news.
    one._state, one._file.current = "ready", False
    assert one._patience() == launcher._UNWRITTEN_SECONDS
    one._tell()
    assert written == ["ready"] * 3


def test_a_client_that_is_stopped_is_not_attached_to_a_region_that_is_gone(here: World, kind: str) -> None:
    with here.owned() as owner, launched(lambda: spec(here, 2)):
        eventually(lambda: attached(here) == 2)
        first = status(here)
        assert first is not None
        os.kill(first.pids[0], signal.SIGSTOP)
        owner.kill()
        eventually(lambda: len((status(here) or first).dead) == 2)
        current = status(here)
        assert current is not None
        assert (current.attached, sorted(dead.pid for dead in current.dead)) == (0, sorted(first.pids))
        assert {dead.reason for dead in current.dead} == {
            "was killed by SIGSEGV, after the region's owner had ended"
        }


def test_the_end_of_the_owner_is_reported(here: World, kind: str) -> None:
    with here.owned() as owner, launched(lambda: spec(here, 1)):
        eventually(lambda: attached(here) == 1)
        owner.kill()
        eventually(lambda: not (status(here) or pytest.fail("it ended")).owner_alive)
        current = status(here)
        assert current is not None
        assert (current.attached, "the region's owner has ended" in current.errors) == (0, True)
        eventually(lambda: len((status(here) or current).dead) == 1)
        killed = "was killed by SIGSEGV, after the region's owner had ended"
        assert [dead.reason for dead in (status(here) or current).dead] == [killed]
        # The last to leave frees what the region held.
        assert os.stat(here.root / "sga").st_size == 0


def maps(pid: int) -> str:
    return "\n".join(procfs.lines(procfs.maps(pid)))


def test_a_client_follows_what_is_mapped_and_unmapped(here: World, kind: str) -> None:
    path = here.directory / "object"
    path.write_bytes(b"o" * 8192)
    with here.owned("sga", "--size", "64MiB", "--window", "512GiB"), launched(lambda: spec(here, 1)):
        eventually(lambda: attached(here) == 1)
        current = status(here)
        assert current is not None
        pid = current.pids[0]
        with Region.open("sga", backend=connect("simulated", str(here.root))) as region:
            mapping = region.map_file(str(path), 1 << 30)
            eventually(lambda: str(path) in maps(pid))
            region.unmap(mapping.offset, mapping.size_bytes)
            eventually(lambda: str(path) not in maps(pid))
        assert attached(here) == 1


def test_a_client_that_does_not_find_the_pattern_fails_the_first_start(here: World, kind: str) -> None:
    with here.owned():
        with open(here.root / "sga", "r+b") as memory:
            memory.seek(2 << 20)
            byte = memory.read(1)
            memory.seek(2 << 20)
            memory.write(bytes([byte[0] ^ 0xFF]))
        with launched(lambda: spec(here, 1)) as (__, ended):
            wanted = "client 0 did not find the owner's pattern in 1 of 32 pages"
            assert wanted in ended()


def test_a_lean_client_takes_little_memory(here: World) -> None:
    with here.owned(), launched(lambda: spec(here, 2)):
        eventually(lambda: attached(here) == 2)
        current = status(here)
        assert current is not None
        for pid in current.pids:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
            assert sum(private) <= 256, "KiB; the region's pages are shared with the owner and each other"


def test_no_client_outlives_a_launcher_that_is_killed(here: World, kind: str) -> None:
    for count in (1, 8):
        with here.owned(f"r{count}"), launched(lambda c=count: spec(here, 30, region=f"r{c}")) as (pid, __):
            eventually(lambda c=count: started(here, f"r{c}") >= c)
            os.kill(pid, signal.SIGKILL)
            left = [number for number in procfs.pids() if procfs.parent(number) == pid]
            eventually(lambda gone=left: not any(os.path.exists(f"/proc/{each}") for each in gone))


def started(here: World, region: str) -> int:
    current = status_file.read(str(here.root), region, CLIENTS)
    return len(current.pids) if current is not None else 0
