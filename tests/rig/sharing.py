# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program with shared memory, for the preload to take over: run as `python sharing.py STEP...`.

It knows nothing of mshare. Each step prints one JSON value a line. Calls go through the program's own
symbols, as a C program's do, so that a preloaded library has its say.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import mmap
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory
from typing import Any

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
IPC_CREAT, IPC_EXCL, IPC_RMID, IPC_STAT = 0o1000, 0o2000, 0, 2
MAP_NORESERVE = 0x4000
FAILED = ctypes.c_void_p(-1).value

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
libc.shmget.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_size_t,
)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def name_of(result: int) -> str:
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def vm_pte_kib() -> int:
    with open("/proc/self/status") as status:
        (kib,) = re.findall(r"VmPTE:\s+(\d+)", status.read())
        return int(kib)


def mapping(address: int) -> dict[str, Any]:
    """What lies at an address: where it begins and ends, its file, and how much of it is in huge pages."""
    largest: dict[str, Any] = {}
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+\s*(.*)", line)
            if head:
                if largest:
                    break
                start, end = int(head[1], 16), int(head[2], 16)
                if start <= address < end:
                    largest = {"start": start, "size": end - start, "file": head[3].strip(), "huge_kib": 0}
            elif largest and (
                value := re.match(
                    r"(?:ShmemPmdMapped|FilePmdMapped|Shared_Hugetlb|Private_Hugetlb):\s+(\d+)", line
                )
            ):
                largest["huge_kib"] += int(value[1])
            elif largest and (value := re.match(r"KernelPageSize:\s+(\d+)", line)):
                largest["page_kib"] = int(value[1])
    return largest


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def zeroes(memory: mmap.mmap) -> bool:
    return memory[:].count(0) == len(memory)


def in_child(step: Callable[[], Any]) -> Any:
    """What a step answers in a forked child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, json.dumps(step()).encode())
        os._exit(0)
    os.close(writing)
    text = os.read(reading, 65536)
    os.close(reading)
    os.waitpid(pid, 0)
    return json.loads(text)


def touched(memory: mmap.mmap) -> int:
    for offset in range(0, len(memory), 4096):
        memory[offset]
    return vm_pte_kib()


# -- steps


def anonymous() -> None:
    """Map, look, fork, write from the child, unmap; and once more: the memory is fresh."""
    for _round in range(2):
        memory = mmap.mmap(-1, SIZE_BYTES)
        fresh = zeroes(memory)
        memory[5] = 7

        def child(memory: mmap.mmap = memory) -> dict[str, Any]:
            seen = memory[5]
            memory[6] = 9
            return {"seen": seen, "vm_pte_kib": touched(memory)}

        below = in_child(child)
        address = address_of(memory)
        answer({"fresh": fresh, "child": below, "written": memory[6], **mapping(address), "address": address})
        files()
        memory.close()
        answer({"left": bool(mapping(address))})


def child_lets_go() -> None:
    """A child unmaps the segment; the parent's stays."""
    memory = mmap.mmap(-1, SIZE_BYTES)
    memory[0] = 1

    def child() -> bool:
        memory.close()
        return True

    in_child(child)
    files()
    answer(memory[0])


def files() -> None:
    root = os.environ.get("MSHARE_PRELOAD_ROOT")
    answer(sorted(os.listdir(root)) if root else [])


def small() -> None:
    memory = mmap.mmap(-1, 8 * MIB)
    answer(mapping(address_of(memory)))


def private() -> None:
    memory = mmap.mmap(-1, SIZE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    answer(mapping(address_of(memory)))


def special() -> None:
    """Sparse memory, and memory that may not be touched yet."""
    shared = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    for prot, flags in ((3, shared | MAP_NORESERVE), (0, shared), (1, shared)):
        address = libc.mmap(None, SIZE_BYTES, prot, flags, -1, 0)
        answer([mapping(address)["file"], name_of(libc.munmap(address, SIZE_BYTES))])


def several() -> None:
    """Three segments of half the size, one behind the other; the last may not fit."""
    held = [mmap.mmap(-1, SIZE_BYTES // 2) for _index in range(3)]
    for index, memory in enumerate(held):
        memory[0] = index + 1
    answer([[memory[0], mapping(address_of(memory))["file"]] for memory in held])


def partial() -> None:
    """Unmapping a part of a segment."""
    address = libc.mmap(None, SIZE_BYTES, 3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
    answer(name_of(libc.munmap(address, SIZE_BYTES // 2)))
    answer(name_of(libc.munmap(address, SIZE_BYTES)))


def from_a_thread() -> None:
    def step() -> None:
        memory = mmap.mmap(-1, SIZE_BYTES)
        answer(mapping(address_of(memory))["file"])

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()


def refused() -> None:
    try:
        mmap.mmap(-1, SIZE_BYTES)
        answer("ok")
    except OSError as error:
        answer(errno.errorcode[error.errno or 0])


def hold() -> None:
    """Map, write, say so, wait for the end."""
    memory = mmap.mmap(-1, SIZE_BYTES)
    memory[:5] = b"hello"
    answer(os.getpid())
    sys.stdin.readline()
    answer(memory[4096:4100].decode())


def stay() -> None:
    memory = mmap.mmap(-1, SIZE_BYTES)
    answer(address_of(memory))
    signal.pause()


def fill_and_stay() -> None:
    memory = mmap.mmap(-1, SIZE_BYTES)
    touched(memory)
    answer(address_of(memory))
    signal.pause()


def _attached(id: int) -> int:
    buffer = ctypes.create_string_buffer(256)
    libc.shmctl(id, IPC_STAT, buffer)
    # struct shmid_ds: ipc_perm (48 bytes), segsz, three times, two pids, nattch
    return int.from_bytes(buffer.raw[88:96], "little")


def _segment_size(id: int) -> int:
    buffer = ctypes.create_string_buffer(256)
    libc.shmctl(id, IPC_STAT, buffer)
    return int.from_bytes(buffer.raw[48:56], "little")


def sysv() -> None:
    """Create, attach, fork, detach, attach again, remove; counting as the kernel counts."""
    id = libc.shmget(0, SIZE_BYTES - 100, IPC_CREAT | 0o600)
    address = libc.shmat(id, None, 0)
    answer({"segment_size": _segment_size(id), "attached": _attached(id), **mapping(address)})
    ctypes.memset(address, 7, 1)

    def child() -> dict[str, Any]:
        seen = ctypes.string_at(address, 1)[0]
        ctypes.memset(address + 1, 9, 1)
        attached = _attached(id)
        return {
            "seen": seen,
            "attached": attached,
            "detached": name_of(libc.shmdt(address)),
            "then": _attached(id),
        }

    answer({**in_child(child), "written": ctypes.string_at(address + 1, 1)[0]})
    answer([name_of(libc.shmdt(address)), _attached(id), bool(mapping(address))])
    address = libc.shmat(id, None, 0)
    answer([ctypes.string_at(address, 2)[index] for index in range(2)])
    answer([name_of(libc.shmctl(id, IPC_RMID, None)), _attached(id)])
    files()
    answer(name_of(libc.shmdt(address)))
    answer(name_of(libc.shmctl(id, IPC_STAT, ctypes.create_string_buffer(256))))
    files()


def sysv_errnos() -> None:
    """What a program gets that asks wrongly."""
    key = 0x6D730000 | os.getpid() & 0xFFFF
    results = [name_of(libc.shmget(key, SIZE_BYTES, 0o600))]
    id = libc.shmget(key, SIZE_BYTES, IPC_CREAT | IPC_EXCL | 0o600)
    results.append(name_of(libc.shmget(key, SIZE_BYTES, IPC_CREAT | IPC_EXCL | 0o600)))
    results.append(name_of(libc.shmget(key, SIZE_BYTES * 2, 0o600)))
    results.append("same" if libc.shmget(key, SIZE_BYTES, 0o600) == id else "another")
    libc.shmctl(id, IPC_RMID, None)
    results.append(name_of(-1 if libc.shmat(id, None, 0) == FAILED else 0))
    results.append(name_of(libc.shmdt(0x1000)))
    answer(results)


def sysv_attach(id: str) -> None:
    """Attach a segment that another process made, say what is there, write, wait."""
    address = libc.shmat(int(id), None, 0)
    if address == FAILED:
        answer(name_of(-1))
        return
    answer(
        {"seen": ctypes.string_at(address, 5).decode(), **mapping(address), "attached": _attached(int(id))}
    )
    ctypes.memset(address + 8, 66, 1)
    sys.stdin.readline()


def sysv_make() -> None:
    id = libc.shmget(0, SIZE_BYTES, IPC_CREAT | 0o600)
    address = libc.shmat(id, None, 0)
    ctypes.memmove(address, b"hello", 5)
    answer(id)
    sys.stdin.readline()
    answer(ctypes.string_at(address + 8, 1).decode())
    libc.shmctl(id, IPC_RMID, None)


def posix() -> None:
    """shm_open twice, by name; the second time in a process of its own."""
    made = shared_memory.SharedMemory(create=True, size=SIZE_BYTES)
    memory = made.buf
    assert memory is not None
    memory[0] = 7
    answer(mapping(ctypes.addressof(ctypes.c_char.from_buffer(memory)))["file"])
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, __file__, "posix_attach", made.name])
    os.waitpid(pid, 0)
    answer(memory[1])
    files()
    os.unlink(f"/dev/shm/{made.name}")
    # Its unlinking is noticed at the next segment.
    mmap.mmap(-1, SIZE_BYTES)
    os._exit(0)


def posix_attach(name: str) -> None:
    segment = shared_memory.SharedMemory(name=name)
    # Else Python's tracker removes the name some time after this process, which is its maker's to do.
    resource_tracker.unregister(f"/{segment.name}", "shared_memory")
    memory = segment.buf
    assert memory is not None
    answer([memory[0], mapping(ctypes.addressof(ctypes.c_char.from_buffer(memory)))["file"]])
    memory[1] = 9
    os._exit(0)


def posix_used() -> None:
    """A file that holds data before it is mapped."""
    path = f"/dev/shm/mshare-test-{os.getpid()}"
    with open(path, "w+b") as file:
        file.write(b"x" * 10)
        file.truncate(SIZE_BYTES)
        memory = mmap.mmap(file.fileno(), SIZE_BYTES)
        answer([memory[:1].decode(), mapping(address_of(memory))["file"] == path])
    os.unlink(path)


def dsm() -> None:
    path = f"/dev/shm/PostgreSQL.{os.getpid()}"
    with open(path, "w+b") as file:
        file.truncate(SIZE_BYTES)
        memory = mmap.mmap(file.fileno(), SIZE_BYTES)
        answer(mapping(address_of(memory))["file"] == path)
    os.unlink(path)


def orphan() -> None:
    """A parent that ends while its child has the segment still."""
    memory = mmap.mmap(-1, SIZE_BYTES)
    memory[0] = 1
    if os.fork():
        os._exit(0)
    answer(os.getpid())
    # Until nobody reads its answers any more: the test has ended.
    reader = select.poll()
    reader.register(sys.stdout, 0)
    reader.poll()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
