# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The FUSE msharefs asked with plain system calls, so that it and the library can't agree on
a mistake. It mounts in a mount namespace of its own and is reached through /proc/PID/root."""

from __future__ import annotations

import ctypes.util
import errno
import fcntl
import mmap
import os
import signal
import stat
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.mount import NEEDS, Mount, can_mount_fuse
from rig.patience import HANG_SECONDS, eventually

MIB = 1 << 20
SIZE = 4 * MIB
GENERATIONS = ("2022-06", "2024-09", "2025-01", "2025-04", "2025-08")
CREATE, UNMAP = 0x40287800, 0x40107801
SET_SIZE, CREATE_OLD, UNMAP_OLD = 0x40107801, 0x40287802, 0x40107803
SHARED_FIXED, ANONYMOUS, NO_FD = 0x11, 0x20, 0xFFFFFFFF


pytestmark = pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator:
    mounts = []

    def start(generation: str = "2025-08", *options: str) -> Mount:
        mounts.append(Mount(tmp_path, generation, *(options or ("--alignment", str(2 * MIB)))))
        return mounts[-1]

    yield start
    for each in mounts:
        each.stop()


def answer(call, *arguments):
    """What the call returns, or the name of its errno."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def ioctl(fd: int, number: int, argument: bytes = bytes(16)):
    return answer(lambda: fcntl.ioctl(fd, number, argument) and "ok")


def mapping(start=0, size=MIB, offset=0, prot=3, flags=SHARED_FIXED | ANONYMOUS, fd=NO_FD) -> bytes:
    return struct.pack("<QQQIII4x", start, size, offset, prot, flags, fd)


def mmap_at(address: int, size: int, fd: int) -> int:
    """mmap(MAP_SHARED | MAP_FIXED_NOREPLACE), which Python's own mmap can't ask for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *3 * [ctypes.c_int], ctypes.c_long]
    mapped_at = libc.mmap(address, size, 3, 0x100001, fd, 0)
    if mapped_at != address:
        raise OSError(ctypes.get_errno(), "mmap")
    return mapped_at


def munmap(address: int, size: int) -> None:
    ctypes.CDLL(None).munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def start_process(script: str, *arguments: str) -> subprocess.Popen:
    code = "import mmap, os, struct, sys\n" + textwrap.dedent(script)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True, **pipes)


def in_another_process(script: str, *arguments: str) -> subprocess.CompletedProcess:
    with start_process(script, *arguments) as process:
        stdout, stderr = process.communicate(timeout=HANG_SECONDS)
    return subprocess.CompletedProcess(script, process.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("generation", "read", "get_size", "unmap"),
    [
        ("2022-06", bytes(16), "ENOTTY", "ENOTTY"),
        ("2024-09", "EINVAL", "ok", "ENOTTY"),
        ("2025-01", "EINVAL", "ok", "EINVAL"),
        ("2025-04", "EINVAL", "ENOTTY", "ENOTTY"),
        ("2025-08", "EINVAL", "EINVAL", "EINVAL"),
    ],
)
def test_probe_before_the_size_is_set(mount, generation, read, get_size, unmap):
    fd = mount(generation).create()
    assert answer(os.read, fd, 16) == read
    assert ioctl(fd, 0x80107800) == get_size
    assert ioctl(fd, 0x40107803) == unmap
    os.close(fd)


@pytest.mark.parametrize(("generation", "expected"), [("2025-04", "EINVAL"), ("2025-08", "EBADF")])
def test_probe_with_an_unused_file_descriptor(mount, generation, expected):
    fd = mount(generation).create()
    os.ftruncate(fd, 2 * MIB)
    assert ioctl(fd, CREATE, mapping(flags=SHARED_FIXED, fd=999)) == expected
    os.close(fd)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_every_mount_has(mount, generation):
    mounted = mount(generation, "--alignment", str(512 << 30))
    mountinfo = Path(f"/proc/{mounted.server.pid}/mountinfo").read_text()
    assert " - fuse.msharefs msharefs " in mountinfo
    info = mounted.path("mshare_info")
    assert Path(info).read_text() == "549755813888\n"
    assert stat.S_IMODE(os.stat(info).st_mode) == 0o444
    assert answer(os.unlink, info) == "EPERM"
    assert answer(os.rename, info, mounted.path("x")) == "EPERM"
    assert stat.S_IMODE(os.stat(mounted.root).st_mode) == 0o777
    assert os.listdir(mounted.root) == ["mshare_info"]
    for path, flags in ((info, os.O_RDONLY), (mounted.root, os.O_DIRECTORY)):
        fd = os.open(path, flags)
        assert ioctl(fd, 0x40107801) == "ENOTTY"
        os.close(fd)


def test_mshare_info_can_not_be_written_or_mapped(mount):
    fd = os.open(mount().path("mshare_info"), os.O_RDWR)
    assert answer(os.write, fd, b"1") == "EINVAL"
    assert answer(mmap_at, 1 << 41, 4096, fd) == "ENODEV"
    os.close(fd)


def test_names(mount):
    mounted = mount()
    assert answer(os.symlink, "x", mounted.path("link")) == "EPERM"
    assert answer(os.mkfifo, mounted.path("fifo")) == "EPERM"
    assert answer(os.setxattr, mounted.root, "user.x", b"") == "ENOTSUP"
    assert answer(os.open, mounted.path("absent"), os.O_RDWR) == "ENOENT"
    os.chmod(mounted.root, 0o1777)
    assert stat.S_IMODE(os.stat(mounted.root).st_mode) == 0o1777
    os.mkdir(mounted.path("db"))
    fd = mounted.create("db/sga")
    assert answer(mounted.create, "db/sga") == "EEXIST"
    os.close(fd)


def test_region_file_is_no_ordinary_file(mount):
    fd = mount().create()
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    assert os.fstat(fd).st_size == 0
    assert answer(os.write, fd, b"x") == "EINVAL"
    assert answer(os.lseek, fd, 0, os.SEEK_SET) == "ESPIPE"
    assert answer(os.ftruncate, fd, 1) == "EINVAL"
    assert ioctl(fd, CREATE, mapping()) == "EINVAL"
    os.ftruncate(fd, SIZE)
    assert os.fstat(fd).st_size == SIZE
    assert answer(os.read, fd, 16) == "EINVAL"
    assert answer(os.ftruncate, fd, SIZE) == "EINVAL"
    assert answer(os.posix_fallocate, fd, 0, SIZE) == "EINVAL"
    assert ioctl(fd, 0x40107803) == "ENOTTY"
    os.close(fd)


def test_truncating_a_fresh_region_to_nothing_bricks_it(mount):
    mounted = mount()
    os.close(mounted.create())
    fd = os.open(mounted.path("sga"), os.O_RDWR | os.O_TRUNC)
    assert answer(os.ftruncate, fd, SIZE) == "EINVAL"
    assert ioctl(fd, CREATE, mapping()) == "EINVAL"
    os.close(fd)


def test_fallocate_sets_the_size(mount):
    fd = mount().create()
    os.posix_fallocate(fd, 0, SIZE)
    assert os.fstat(fd).st_size == SIZE
    os.close(fd)


def test_log_holds_the_exact_bytes(mount):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    ioctl(fd, CREATE, mapping(start=4096))
    (record,) = mounted.requests("ioctl")
    assert record["command"] == "CREATE_MAPPING"
    assert record["number"] == "0x40287800"
    assert bytes.fromhex(record["bytes"]) == mapping(start=4096)
    assert record["fields"] == {
        "region_offset": 4096,
        "size": MIB,
        "offset": 0,
        "prot": 3,
        "flags": 0x31,
        "fd": NO_FD,
    }
    assert record["errno"] == 0
    assert mounted.requests("truncate") == [{"op": "truncate", "path": "/sga", "size": SIZE, "errno": 0}]
    os.close(fd)


def test_the_same_number_is_set_size_or_unmap(mount):
    fd = mount("2025-01").create()
    start = 1 << 41
    assert ioctl(fd, SET_SIZE, struct.pack("<QQ", start, SIZE)) == "ok"
    assert fcntl.ioctl(fd, 0x80107800, bytes(16)) == struct.pack("<QQ", start, SIZE)
    assert ioctl(fd, CREATE_OLD, mapping(start=start)) == "ok"
    with mmap.mmap(fd, SIZE) as window:
        window[5] = 7
        assert ioctl(fd, UNMAP_OLD, struct.pack("<QQ", start, MIB)) == "ok"
        assert ioctl(fd, CREATE_OLD, mapping(start=start)) == "ok"
        assert window[5] == 0
    os.close(fd)


def test_two_processes_share_512_gib_at_2_tib(mount):
    mounted = mount("2025-08", "--alignment", str(512 << 30))
    script = """
        fd = os.open(sys.argv[1], os.O_RDWR)
        window, at = mmap.mmap(fd, 512 << 30), int(sys.argv[2])
        print(window[at:at + 5])
        window[at:at + 5] = b"there"
    """
    fd = mounted.create()
    os.ftruncate(fd, 512 << 30)
    offset = 300 << 30
    assert ioctl(fd, CREATE, mapping(start=offset)) == "ok"
    start = mmap_at(2 << 40, 512 << 30, fd)
    ctypes.memmove(start + offset, b"hello", 5)
    client = in_another_process(script, mounted.path("sga"), str(offset))
    assert client.stdout == "b'hello'\n", client.stderr
    assert ctypes.string_at(start + offset, 5) == b"there"
    munmap(start, 512 << 30)
    os.close(fd)


def test_touching_a_hole_kills(mount):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    ioctl(fd, CREATE, mapping())
    script = "mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4 << 20)[int(sys.argv[2])]"
    assert in_another_process(script, mounted.path("sga"), "0").returncode == 0
    assert in_another_process(script, mounted.path("sga"), str(MIB)).returncode == -signal.SIGBUS
    os.close(fd)


def test_unmap_frees_for_everybody_and_create_gives_zeroes(mount):
    fd = mount().create()
    os.ftruncate(fd, SIZE)
    ioctl(fd, CREATE, mapping())
    with mmap.mmap(fd, SIZE) as window:
        window[0] = window[MIB - 1] = 7
        assert ioctl(fd, UNMAP, struct.pack("<QQ", 0, 4096)) == "ok"
        assert ioctl(fd, CREATE, mapping(size=4096)) == "ok"
        assert window[0] == 0
        assert window[MIB - 1] == 7
    os.close(fd)


def test_file_mapped_inside(mount, tmp_path):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    data = tmp_path / "data"
    data.write_bytes(b"x" * 8192)
    read_only = os.open(data, os.O_RDONLY)
    pipe, other_end = os.pipe()
    inside = {"flags": SHARED_FIXED, "size": 8192}
    assert ioctl(fd, CREATE, mapping(**inside, fd=read_only)) == "EACCES"
    assert ioctl(fd, CREATE, mapping(**inside, fd=pipe)) == "EACCES"
    assert ioctl(fd, CREATE, mapping(**inside, fd=fd)) == "EINVAL"
    with data.open("r+b") as file:
        assert ioctl(fd, CREATE, mapping(**inside, fd=file.fileno())) == "ok"
    with mmap.mmap(fd, SIZE) as window:
        assert window[4096] == ord("x")
        window[4096] = ord("y")
        window.flush()
        assert data.read_bytes()[4096:4098] == b"yx"
    for each in (fd, read_only, pipe, other_end):
        os.close(each)


def test_memory_which_the_host_does_not_have(mount):
    fd = mount("2025-08", "--alignment", str(2 * MIB), "--ram", str(MIB)).create()
    os.ftruncate(fd, SIZE)
    assert ioctl(fd, CREATE, mapping(size=2 * MIB)) == "ENOMEM"
    assert ioctl(fd, CREATE, mapping(size=2 * MIB, flags=0x4031)) == "ok"
    os.close(fd)


def test_unlinked_region_lives_on(mount):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    ioctl(fd, CREATE, mapping())
    with mmap.mmap(fd, SIZE) as window:
        os.unlink(mounted.path("sga"))
        assert os.listdir(mounted.root) == ["mshare_info"]
        window[9] = 9
        assert os.fstat(fd).st_size == SIZE
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        with mmap.mmap(again, SIZE) as other:
            assert other[9] == 9
        os.close(again)
        os.close(mounted.create())
    os.close(fd)


def test_region_dies_with_its_owner(mount):
    mounted = mount()
    path = mounted.path("sga")
    script = """
        fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 4 << 20)
    """
    assert in_another_process(script, path).returncode == 0
    fd = os.open(path, os.O_RDWR)
    assert os.fstat(fd).st_size == SIZE
    assert ioctl(fd, CREATE, mapping()) == "ok"
    assert answer(mmap.mmap, fd, SIZE) == "ENODEV"
    assert answer(os.read, fd, 16) == "EINVAL"
    assert answer(mounted.create) == "EEXIST"
    os.close(fd)


def test_attached_client_dies_with_the_owner_thread(mount):
    mounted = mount()
    script = """
        window = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4 << 20)
        window[0] = 1
        print("attached", flush=True)
        sys.stdin.read()
        window[0]
    """
    clients = []

    def own_until_a_client_is_attached() -> None:
        fd = mounted.create()
        os.ftruncate(fd, SIZE)
        ioctl(fd, CREATE, mapping())
        clients.append(start_process(script, mounted.path("sga")))
        assert clients[0].stdout.readline() == "attached\n"
        os.close(fd)

    owner = threading.Thread(target=own_until_a_client_is_attached)
    owner.start()
    owner.join()
    eventually(lambda: mounted.requests("owner_gone"))
    clients[0].communicate(timeout=HANG_SECONDS)
    assert clients[0].returncode == -signal.SIGBUS


@pytest.mark.parametrize("generation", ["2022-06", "2024-09", "2025-01", "2025-04"])
def test_older_regions_outlive_their_creator(mount, generation):
    mounted = mount(generation)
    in_another_process("os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)", mounted.path("sga"))
    fd = os.open(mounted.path("sga"), os.O_RDWR)
    if generation == "2025-04":
        os.ftruncate(fd, SIZE)
    mmap.mmap(fd, SIZE).close()
    os.close(fd)


def test_first_mmap_of_2022_06_is_what_others_read(mount):
    mounted = mount("2022-06")
    fd = mounted.create()
    start = mmap_at(1 << 41, SIZE, fd)
    ctypes.memset(start + 100, 7, 1)
    attach = """
        fd = os.open(sys.argv[1], os.O_RDWR)
        print(struct.unpack("<QQ", os.read(fd, 16)))
        print(mmap.mmap(fd, 4 << 20)[100])
    """
    client = in_another_process(attach, mounted.path("sga"))
    assert client.stdout == f"({start}, {SIZE})\n7\n", client.stderr
    munmap(start, SIZE)
    os.close(fd)


def test_ends_cleanly_on_sigterm(mount):
    assert mount().stop() == 0


def test_ends_cleanly_on_umount(mount):
    mounted = mount()
    mountpoint = mounted.root.removeprefix(f"/proc/{mounted.server.pid}/root")
    enter = ["nsenter", f"--mount=/proc/{mounted.server.pid}/ns/mnt"]
    subprocess.run([*enter, "umount", mountpoint], check=True)
    assert mounted.server.wait(HANG_SECONDS) == 0


WINDOW_SCRIPT = """
import ctypes, sys
fd = os.open(sys.argv[1], os.O_RDWR)
window = mmap.mmap(fd, 4 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(window))
libc = ctypes.CDLL(None, use_errno=True)
"""
FORCED = {
    "mlock": "libc.mlock(ctypes.c_void_p(address + 4096), 4096)",
    "madvise": "libc.madvise(ctypes.c_void_p(address + 4096), 4096, 22)",
    "mmap": "mmap.mmap(fd, 4 << 20, flags=mmap.MAP_SHARED | 0x8000)",
}


@pytest.mark.parametrize("by", FORCED)
def test_pages_that_the_kernel_fetches_by_itself_are_logged(mount, by):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    assert ioctl(fd, CREATE, mapping(size=SIZE)) == "ok"
    done = in_another_process(WINDOW_SCRIPT + FORCED[by], mounted.path("sga"))
    assert done.returncode == 0, done.stderr
    assert {record["by"] for record in mounted.forced_pages()} == {by}
    os.close(fd)


@pytest.mark.parametrize("offset", [4096, 3 * MIB], ids=["not present", "not mapped"])
def test_reading_another_process_s_window_is_logged(mount, offset):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    assert ioctl(fd, CREATE, mapping()) == "ok"
    script = WINDOW_SCRIPT + "print(address, flush=True); sys.stdin.read()"
    with start_process(script, mounted.path("sga")) as process:
        address = int(process.stdout.readline())
        memory = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY)
        answer(os.pread, memory, 1, address + offset)
        os.close(memory)
        process.communicate("")
    (record,) = mounted.forced_pages()
    assert record["by"] == f"pread64 of /proc/{process.pid}/mem"
    assert record["offset"] == offset
    os.close(fd)


def test_a_touch_and_a_pipe_into_the_window_are_no_forced_pages(mount):
    mounted = mount()
    fd = mounted.create()
    os.ftruncate(fd, SIZE)
    assert ioctl(fd, CREATE, mapping(size=SIZE)) == "ok"
    script = """
window[4096] = 1
reader, writer = os.pipe()
os.write(writer, window[8192:12288])
os.readv(reader, [memoryview(window)[1 << 20:(1 << 20) + 4096]])
"""
    done = in_another_process(WINDOW_SCRIPT + script, mounted.path("sga"))
    assert done.returncode == 0, done.stderr
    assert mounted.forced_pages() == []
    os.close(fd)
