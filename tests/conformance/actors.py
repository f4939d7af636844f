# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that do what a test tells them, one call at a time: real forks, execs, threads and deaths.

The test process itself attaches nothing, so a case can kill whoever it likes.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Callable, NoReturn

from mshare.backends import root
from mshare.backends.base import Backend, RegionFile, Window
from mshare.backends.kernel import KernelBackend
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.backends.simulated.watch import WATCHER
from mshare.kernel import abi, syscalls
from mshare.kernel.syscalls import NewMapping
from rig import patience
from rig.apart import die_with

_CROWD_LOOKS = 12000
_PR_SET_CHILD_SUBREAPER = 36

BACKENDS = {"kernel": KernelBackend, "simulated": SimulatedBackend}
SHARED_FIXED = abi.MAP_SHARED | abi.MAP_FIXED
ANONYMOUS = SHARED_FIXED | abi.MAP_ANONYMOUS
READ_WRITE = abi.PROT_READ | abi.PROT_WRITE
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
# Where regions of the generations with one address for all lie in these tests.
ADDRESS = 2 << 40


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether something becomes true while there is patience."""
    try:
        patience.eventually(is_so)
    except AssertionError:
        return False
    return True


class Worker:
    """What an actor can do, on one region file and the windows it attached."""

    def __init__(self, backend: str, root: str) -> None:
        self.backend: Backend = BACKENDS[backend](root)
        self.file: RegionFile | None = None
        self.windows: list[Window] = []

    # -- names and files

    def open(self, name: str = "r", flags: int = os.O_RDWR, mode: int = 0o600) -> None:
        self.file = self.backend.open(name, flags, mode)

    def close(self) -> None:
        self.file.close()

    def unlink(self, name: str = "r") -> None:
        self.backend.unlink(name)

    def names(self) -> list[str]:
        return self.backend.names()

    def make_directory(self, name: str, mode: int = 0o700, gid: int = -1) -> None:
        root.make_directory(self.backend.root, name, mode, gid)

    def remove_directory(self, name: str) -> None:
        root.remove_directory(self.backend.root, name)

    def set_access(self, mode: int, uid: int = -1, gid: int = -1) -> None:
        self.file.set_access(mode, uid, gid)

    def stat(self) -> os.stat_result:
        return os.fstat(self.file.fd)

    def generation(self) -> str:
        return self.backend.generation.id

    # -- size and mappings

    def set_size(self, window_bytes: int | None = None, address: int | None = None) -> None:
        if not self.backend.generation.features.any_address:
            address = ADDRESS if address is None else address
        window_bytes = self.backend.alignment_bytes if window_bytes is None else window_bytes
        self.file.set_size(window_bytes, address)

    def geometry(self) -> tuple:
        return tuple(self.file.geometry())

    def map(
        self,
        offset: int = 0,
        size: int = 1 << 20,
        prot: int = READ_WRITE,
        flags: int = ANONYMOUS,
        fd: int = -1,
    ) -> None:
        self.file.create_mapping(NewMapping(offset, size, prot, flags, fd))

    def map_file(
        self,
        path: str,
        offset: int = 0,
        size: int = 1 << 20,
        prot: int = READ_WRITE,
        access: int = os.O_RDWR,
        flags: int = SHARED_FIXED,
        file_offset: int = 0,
    ) -> None:
        fd = os.open(path, access | os.O_CLOEXEC)
        try:
            self.file.create_mapping(NewMapping(offset, size, prot, flags, fd, file_offset))
        finally:
            os.close(fd)

    def map_pipe(self) -> None:
        ends = os.pipe()
        try:
            self.map(flags=SHARED_FIXED, fd=ends[0])
        finally:
            for end in ends:
                os.close(end)

    def map_itself(self) -> None:
        self.map(flags=SHARED_FIXED, fd=self.file.fd)

    def unmap(self, offset: int = 0, size: int = 1 << 20) -> None:
        self.file.unmap(offset, size)

    def protect(self, offset: int = 0, size: int = 1 << 20, prot: int = abi.PROT_READ) -> None:
        self.file.protect(offset, size, prot)

    def advise(self, offset: int = 0, size: int = 1 << 20, advice: int = abi.MADV_DONTNEED) -> None:
        self.file.advise(offset, size, advice)

    # -- the window

    def attach(
        self,
        address: int | None = None,
        length: int | None = None,
        prot: int = READ_WRITE,
        flags: int = abi.MAP_SHARED,
    ) -> int:
        fixed_address, window_bytes = self.file.geometry()
        where = fixed_address if address is None else address
        window = self.file.attach(window_bytes if length is None else length, prot, flags, where)
        self.windows.append(window)
        return window.address

    def attach_part(self, offset: int, size: int) -> int:
        window = self.file.attach(size, READ_WRITE, abi.MAP_SHARED, None, offset)
        self.windows.append(window)
        return window.address

    def flags_of(self, offset: int = 0) -> list[str]:
        """VmFlags of what is mapped there."""
        return self._smaps(offset, "VmFlags:")

    def present(self, offset: int = 0) -> int:
        """How many KiB of what is mapped there are in this process's own page tables."""
        return int(self._smaps(offset, "Rss:")[0])

    def _smaps(self, offset: int, key: str) -> list[str]:
        """What smaps says of what is mapped at an offset of the window."""
        wanted = self.windows[-1].address + offset
        with open("/proc/self/smaps", encoding="ascii") as file:
            for line in file:
                word, *rest = line.split()
                if "-" in word:
                    start, end = (int(each, 16) for each in word.split("-"))
                elif word == key and start <= wanted < end:
                    return rest
        raise LookupError(f"{wanted:#x} is not mapped")

    def detach(self, index: int = -1) -> None:
        self.windows[index].detach()

    def view(self, offset: int, size: int, index: int = -1) -> memoryview:
        return syscalls.memory(self.windows[index].address + offset, size)

    def read(self, offset: int = 0, size: int = 5, index: int = -1) -> bytes:
        return bytes(self.view(offset, size, index))

    def write(self, offset: int, data: bytes, index: int = -1) -> None:
        self.view(offset, len(data), index)[:] = data

    def reads(self, data: bytes, offset: int = 0) -> bool:
        """Whether `data` is there, now or soon."""
        return eventually(lambda: self.read(offset, len(data)) == data)

    def write_for_long(self, offset: int, data: bytes) -> None:
        """Write until that is not allowed any more."""

        def never() -> bool:
            self.write(offset, data)
            return False

        eventually(never)

    def cut_off(self) -> None:
        """Take the region's memory away without asking the library."""
        os.ftruncate(self.file.fd, 0)

    def reopen_for_writing(self) -> None:
        os.close(os.open(f"/proc/self/fd/{self.file.fd}", os.O_RDWR))

    def follow(self) -> None:
        """See now what others changed: a kernel shows it at once, the simulator within milliseconds."""
        if self.backend.name == "simulated":
            WATCHER.refresh()

    def mapped(self) -> list[int] | None:
        """The numbers of the pages that are mapped, as far as the backend lists them."""
        mappings = self.file.mappings()
        if mappings is None:
            return None
        size = abi.PAGE_BYTES
        return [page for each in mappings for page in range(each.offset // size, each.end // size)]

    def touch_for_long(self, offset: int = 0) -> None:
        """Touch until there is nothing to touch any more."""
        eventually(lambda: self.read(offset, 1) == b"never this")

    def is_mapped(self, address: int) -> bool:
        with open("/proc/self/maps", encoding="ascii") as file:
            ranges = [line.split()[0].split("-") for line in file]
        return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)

    def occupy(self, address: int) -> int:
        flags = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_FIXED_NOREPLACE
        return syscalls.mmap(address, abi.PAGE_BYTES, READ_WRITE, flags, -1)

    # -- the window's memory as a buffer of system calls

    def read_file_into(self, path: str, offset: int, size: int, flags: int = 0) -> int:
        fd = os.open(path, os.O_RDONLY | flags)
        try:
            return os.preadv(fd, [self.view(offset, size)], 0)
        finally:
            os.close(fd)

    def write_file_from(self, path: str, offset: int, size: int) -> int:
        with open(path, "wb", buffering=0) as file:
            return file.write(self.view(offset, size))

    def through_a_pipe(self, source: int, target: int, size: int) -> int:
        reader, writer = os.pipe()
        try:
            os.write(writer, self.view(source, size))
            return os.readv(reader, [self.view(target, size)])
        finally:
            os.close(reader)
            os.close(writer)

    def make_mutex(self, offset: int) -> None:
        pthread = ctypes.CDLL(None)
        attributes = ctypes.create_string_buffer(64)
        pthread.pthread_mutexattr_init(attributes)
        pthread.pthread_mutexattr_setpshared(attributes, 1)
        pthread.pthread_mutex_init(ctypes.c_void_p(self.windows[-1].address + offset), attributes)

    def add_under_mutex(self, offset: int, count: int) -> None:
        pthread = ctypes.CDLL(None)
        mutex = ctypes.c_void_p(self.windows[-1].address + offset)
        number = self.view(offset + 64, 8).cast("Q")
        for __ in range(count):
            pthread.pthread_mutex_lock(mutex)
            number[0] = number[0] + 1
            pthread.pthread_mutex_unlock(mutex)

    # -- many things at once

    def change_until_told(self, offset: int = 1 << 30) -> None:
        """Map and unmap one object for ever."""
        while True:
            self.map(offset)
            self.unmap(offset)

    def fork_and_read(self, count: int, while_changing: bool = False) -> list[int]:
        """Fork often; each child reads through the window it inherited. Returns how they ended."""
        if while_changing:
            threading.Thread(target=self.change_until_told, daemon=True).start()

        def look(_number: int) -> None:
            assert self.read() == b"hello"

        return [status for __ in range(count) for status in crowd(1, look)]

    def own_two_regions(self) -> list[bytes]:
        """Both attached by one process; each has its own memory and its own end."""
        for number, name in enumerate(("one", "two")):
            self.open(name, NEW)
            self.set_size(address=ADDRESS + number * self.backend.alignment_bytes)
            if self.backend.generation.features.explicit_mappings:
                self.map()
            self.attach()
            self.write(0, name.encode())
        return [self.read(0, 3, index) for index in (0, 1)]

    # -- life and death

    def reap(self, pid: int) -> int:
        return os.waitpid(pid, 0)[1]

    def become(self, uid: int, gid: int) -> None:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)

    def in_a_thread(self, *calls: tuple) -> None:
        """Make calls, each (name, arguments), in a thread that has ended on return."""

        def work() -> None:
            for name, arguments in calls:
                getattr(self, name)(**arguments)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        # join() returns when Python is done with the thread; the kernel's task may end a little later.
        eventually(lambda: not os.path.exists(f"/proc/self/task/{thread.native_id}"))


class Died(Exception):
    """An actor ended in the middle of a call."""


class Actor:
    """The test's side of a process: every method of Worker is there to be called."""

    def __init__(self, stage: Stage, connection: Connection, pid: int, parent: Actor | None = None) -> None:
        self.stage = stage
        self.pid = pid
        self._connection = connection
        self._parent = parent
        self._status: int | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._call(name, arguments, options)

    def _call(self, name: str, arguments: tuple, options: dict) -> Any:
        self.start(name, *arguments, **options)
        return self.result()

    def start(self, name: str, *arguments: Any, **options: Any) -> None:
        """Begin a call whose end `result` waits for."""
        try:
            self._connection.send((name, arguments, options))
        except BrokenPipeError:
            raise Died(self.pid) from None

    def result(self) -> Any:
        if self._status is not None:
            raise Died(self.pid)
        try:
            patience.eventually(lambda: self._connection.poll(0.02), f"process {self.pid} hangs")
            worked, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise Died(self.pid) from None
        if not worked:
            raise value
        return value

    def fork(self) -> Actor:
        """A child, with everything this actor has."""
        pid = self._call("fork_to", (self.stage.address,), {})
        return self.stage.add(Actor(self.stage, self.stage.accept(), pid, self))

    def exec(self, backend: str, root: str) -> None:
        """Replace the program; the process and its pid stay."""
        self.start("exec_to", self.stage.address, backend, root)
        self._connection = self.stage.accept()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.ended_by()

    def exit(self) -> None:
        """A normal end, and wait for it."""
        self._connection.close()
        self.ended_by()

    def ended_by(self) -> int:
        """The signal that ended this process (0: none)."""
        if self._status is None:
            self._status = self._reaped()
            self._connection.close()
        return os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0

    def _reaped(self) -> int:
        """Its parent waits for it, or this process, where the parent is gone before it."""
        if self._parent is not None and self._parent._status is None:
            try:
                return self._parent.reap(self.pid)
            except Died:
                self._parent.ended_by()
        return os.waitpid(self.pid, 0)[1]

    def kill_if_alive(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def forget(self) -> None:
        """Leave no zombie behind, however the test went."""
        self._connection.close()
        if self._status is None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)


class Stage:
    """Where the actors of one test come from and end."""

    def __init__(self, fault: signal.Signals) -> None:
        self.fault = fault
        self._directory = tempfile.mkdtemp(prefix="mshare-stage-")
        self.address = os.path.join(self._directory, "s")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.address)
        os.chmod(self.address, 0o666)
        os.chmod(self._directory, 0o755)
        self._socket.listen(8)
        self._socket.settimeout(patience.HANG_SECONDS)
        self._actors: list[Actor] = []
        # Orphaned grandchildren come to this process, so that it learns how they ended.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def actor(self, backend: str, root: str) -> Actor:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with(parent)
            play(self.address, lambda: Worker(backend, root))
        return self.add(Actor(self, self.accept(), pid))

    def add(self, actor: Actor) -> Actor:
        self._actors.append(actor)
        return actor

    def accept(self) -> Connection:
        accepted, __ = self._socket.accept()
        accepted.settimeout(None)
        return Connection(accepted.detach())

    def clear(self) -> None:
        for actor in self._actors:
            actor.kill_if_alive()
        # Parents first: their children are this process's when they are gone.
        for actor in self._actors:
            actor.forget()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        self._socket.close()
        shutil.rmtree(self._directory)


@contextlib.contextmanager
def stage(fault: signal.Signals = signal.SIGSEGV) -> Iterator[Stage]:
    """A stage on which a touch of nothing ends with this signal."""
    made = Stage(fault)
    try:
        yield made
    finally:
        made.clear()


def play(address: str, worker: Callable[[], Worker]) -> NoReturn:
    """The actor's side: answer calls until the test hangs up."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What the parent holds open would keep other actors' connections from ending; Python objects
    # that still know these numbers must not close them once more.
    gc.disable()
    os.closerange(3, 4096)
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    _serve(Connection(client.detach()), worker())


def _serve(connection: Connection, worker: Worker) -> NoReturn:
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            name, arguments, options = connection.recv()
            if name == "exec_to":
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
                os.execve(sys.executable, [sys.executable, __file__, *arguments], environment)
            if name == "fork_to":
                connection = _fork(connection, *arguments)
                continue
            try:
                answer = (True, getattr(worker, name)(*arguments, **options))
            except Exception as error:  # noqa: BLE001 - the test raises it again
                answer = (False, error)
            connection.send(answer)
    os._exit(0)


def _fork(connection: Connection, address: str) -> Connection:
    """Fork; the parent goes on with its connection, the child with one of its own."""
    pid = os.fork()
    if pid:
        connection.send((True, pid))
        return connection
    connection.close()
    client = socket.socket(socket.AF_UNIX)
    client.connect(address)
    return Connection(client.detach())


def crowd(count: int, act: Callable[[int], None], meanwhile: Callable[[], None] = lambda: None) -> list[int]:
    """Fork `count` processes at once that each do `act(number)`; returns how each ended (0: well)."""
    pids = [_forked(number, act) for number in range(count)]
    ended: dict[int, int] = {}
    for __ in range(_CROWD_LOOKS):
        if len(ended) == count:
            break
        meanwhile()
        for pid in [pid for pid in pids if pid not in ended]:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = status
        time.sleep(0.005)
    for pid in [pid for pid in pids if pid not in ended]:
        os.kill(pid, signal.SIGKILL)
        ended[pid] = os.waitpid(pid, 0)[1]
    return [ended[pid] for pid in pids]


def _forked(number: int, act: Callable[[int], None]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with(parent)
        faulthandler.disable()
        code = 1
        try:
            act(number)
            code = 0
        finally:
            os._exit(code)
    return pid


if __name__ == "__main__":
    _address, _backend, _root = sys.argv[1:]
    play(_address, lambda: Worker(_backend, _root))
