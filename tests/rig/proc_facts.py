# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the FUSE msharefs looks up about its clients in /proc, since FUSE does not tell it."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from dataclasses import dataclass

from rig.msharefs_rules import ClientFile, Host, refuse

FILE_SYSTEM_TYPE = "fuse.msharefs"


def read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


@dataclass(frozen=True)
class Task:
    """A thread, told apart from a later one with the same number by its start time."""

    tid: int
    start_ticks: str

    @classmethod
    def find(cls, tid: int) -> Task | None:
        """None if it has ended; a zombie has, its memory is gone already."""
        try:
            state, *rest = read_text(f"/proc/{tid}/stat").rpartition(")")[2].split()
        except OSError:
            return None
        return None if state in "ZX" else cls(tid, rest[18])

    def is_alive(self) -> bool:
        return Task.find(self.tid) == self


def commit_limit_bytes() -> int:
    """What the kernel's heuristic overcommit refuses to exceed in one mapping."""
    if read_text("/proc/sys/vm/overcommit_memory").strip() == "1":
        return Host().commit_limit_bytes
    meminfo = dict(re.findall(r"(\w+): +(\d+) kB", read_text("/proc/meminfo")))
    return (int(meminfo["MemTotal"]) + int(meminfo["SwapTotal"])) * 1024


def open_client_file(pid: int, fd: int) -> ClientFile:
    """The file behind a descriptor of process `pid`, or EBADF.

    Nothing may touch a file of our own mount here: this server would have to answer itself.
    """
    link = f"/proc/{pid}/fd/{fd}"
    try:
        fdinfo = dict(re.findall(r"(\w+):\s+(\d+)", read_text(f"/proc/{pid}/fdinfo/{fd}")))
    except OSError:
        refuse(errno.EBADF)
    if FILE_SYSTEM_TYPE in (mount_type(where, fdinfo["mnt_id"]) for where in (str(pid), "self")):
        return ClientFile(is_on_msharefs=True)
    access_mode = int(fdinfo["flags"], 8) & os.O_ACCMODE
    if access_mode == os.O_WRONLY or not stat.S_ISREG(os.stat(link).st_mode):
        return ClientFile(is_mappable=False)
    is_writable = access_mode == os.O_RDWR
    return ClientFile(
        is_writable=is_writable,
        contents=io.FileIO(os.open(link, access_mode), "r+" if is_writable else "r"),
    )


def mount_type(pid: str, mount_id: str) -> str:
    """The file system type of one mount as process `pid` sees it; empty if it sees no such mount.

    Pipes and memfds have none; a client that came through /proc/PID/root sees the mount only in
    the mount namespace of this server.
    """
    for line in read_text(f"/proc/{pid}/mountinfo").splitlines():
        if line.startswith(f"{mount_id} "):
            return line.partition(" - ")[2].split()[0]
    return ""


def device_of_mount(mountpoint: str) -> str:
    """major:minor of what is mounted there, as mountinfo writes it; no call into the mount."""
    device = ""
    for line in read_text("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if fields[4].encode().decode("unicode_escape") == mountpoint:
            device = fields[2]
    return device


def shared_mapping(pid: int, device: str, inode: int) -> tuple[int, int] | None:
    """(start, length in bytes) where process `pid` has mapped that file MAP_SHARED."""
    major, minor = (int(number) for number in device.split(":"))
    wanted = [f"{major:02x}:{minor:02x}", str(inode)]
    try:
        lines = read_text(f"/proc/{pid}/maps").splitlines()
    except OSError:
        return None
    for line in lines:
        addresses, permissions, _offset, *file = line.split()[:5]
        if file == wanted and permissions[3] == "s":
            start, end = (int(address, 16) for address in addresses.split("-"))
            return start, end - start
    return None


SYSCALLS_THAT_FAULT_PAGES_IN = {
    9: "mmap",
    25: "mremap",
    28: "madvise",
    101: "ptrace",
    149: "mlock",
    151: "mlockall",
    310: "process_vm_readv",
    311: "process_vm_writev",
    325: "mlock2",
    440: "process_madvise",
}
"""x86-64 system calls that have the kernel fetch pages by itself (get_user_pages)."""
READS_AND_WRITES = {0: "read", 1: "write", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev"}
READS_AND_WRITES |= {295: "preadv", 296: "pwritev", 327: "preadv2", 328: "pwritev2"}
"""Those that do so for a descriptor of /proc/PID/mem, or one opened with O_DIRECT."""


def forced_by(task: int) -> str | None:
    """What makes the kernel itself fetch a page for a thread that waits for one; None for a plain touch.

    In a window of a kernel with mshare this makes the kernel warn, and taints it.
    """
    try:
        number, first, *_rest = [*read_text(f"/proc/{task}/syscall").split(), ""]
    except OSError:
        return None
    if not number.isdigit():
        # "-1" or "running": a load or store of the program's own.
        return None
    named = SYSCALLS_THAT_FAULT_PAGES_IN.get(int(number))
    if named is not None or int(number) not in READS_AND_WRITES:
        return named
    try:
        fd = int(first, 16)
        path = os.readlink(f"/proc/{task}/fd/{fd}")
        flags = re.search(r"flags:\s+(\d+)", read_text(f"/proc/{task}/fdinfo/{fd}"))
    except OSError:
        return None
    if re.fullmatch(r"/proc/\d+(?:/task/\d+)?/mem", path):
        return f"{READS_AND_WRITES[int(number)]} of {path}"
    is_direct = flags is not None and int(flags.group(1), 8) & os.O_DIRECT
    return f"{READS_AND_WRITES[int(number)]} with O_DIRECT" if is_direct else None
