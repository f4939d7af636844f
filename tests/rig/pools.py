# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose pools of huge pages are files in a folder, and a kernel that grants as many as a test says.

It answers a write as the kernel does (set_max_huge_pages in mm/hugetlb.c): what is in use or reserved is
never freed; a number below it makes surplus pages of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mshare.host.limits import Host
from mshare.huge_pages.kernel import Kernel
from mshare.units import GIB, KIB, MIB

_POOLS = "sys/kernel/mm/hugepages"
_NODES = "sys/devices/system/node"
_COUNTS = ("nr", "free", "resv", "surplus", "nr_overcommit")


@dataclass
class Pools:
    """The files of a host."""

    root: Path
    nodes: int = 1
    memory_bytes: int = 16 * GIB
    available_bytes: int = 12 * GIB

    def __post_init__(self) -> None:
        self.write("proc/meminfo", self._meminfo())
        self.write("proc/cmdline", "root=/dev/vda1 ro quiet\n")
        self.write("proc/sys/kernel/random/boot_id", "first\n")
        self.write("proc/sys/vm/hugetlb_shm_group", "0\n")
        self.write("proc/sys/vm/compact_memory", "")
        self.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
        (self.root / "run/systemd/system").mkdir(parents=True)
        for size_bytes in (2 * MIB, GIB):
            self.set(size_bytes)

    def _meminfo(self) -> str:
        return (
            f"MemTotal: {self.memory_bytes // KIB} kB\nMemAvailable: {self.available_bytes // KIB} kB\n"
            "Hugepagesize: 2048 kB\n"
        )

    def restart(self, nr: int) -> None:
        """The host is booted again, and has so many pages of 2 MiB then."""
        self.write("proc/sys/kernel/random/boot_id", "second\n")
        self.set(2 * MIB, nr=nr)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def read(self, name: str) -> str | None:
        path = self.path(name)
        return path.read_text() if path.exists() else None

    def set(self, page_bytes: int, nr: int = 0, used: int = 0, resv: int = 0, surplus: int = 0) -> None:
        """A pool of the host, spread over its nodes from the first on."""
        self._counts(f"{_POOLS}/hugepages-{page_bytes // KIB}kB", nr, nr - used, resv, surplus, 0)
        for node in range(self.nodes):
            share = nr // self.nodes + (node < nr % self.nodes)
            used_here = min(used, share)
            used -= used_here
            surplus_here = min(surplus, used_here)
            surplus -= surplus_here
            self._node(page_bytes, node, share, share - used_here, surplus_here)

    def _node(self, page_bytes: int, node: int, nr: int, free: int, surplus: int) -> None:
        folder = f"{_NODES}/node{node}/hugepages/hugepages-{page_bytes // KIB}kB"
        for name, count in (("nr", nr), ("free", free), ("surplus", surplus)):
            self.write(f"{folder}/{name}_hugepages", f"{count}\n")

    def _counts(self, folder: str, *counts: int) -> None:
        for name, count in zip(_COUNTS, counts):
            self.write(f"{folder}/{name}_hugepages", f"{count}\n")

    def count(self, name: str, page_bytes: int = 2 * MIB, node: int | None = None) -> int:
        place = _POOLS if node is None else f"{_NODES}/node{node}/hugepages"
        text = self.read(f"{place}/hugepages-{page_bytes // KIB}kB/{name}_hugepages")
        return int(text or 0)

    def snapshot(self) -> dict[str, bytes]:
        """Every file, to compare with."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }

    @property
    def host(self) -> Host:
        return Host(str(self.root))


@dataclass(frozen=True)
class FakeKernel(Kernel):
    """Grants pages up to a limit; each compaction of memory finds some more."""

    files: Pools = None  # type: ignore[assignment]
    limits: dict[int, int] = field(default_factory=dict)
    """Page size -> how many pages there can be in all."""
    compaction_gains: int = 0
    log: list[str] = field(default_factory=list)

    def set_pages(self, page_bytes: int, node: int | None, count: int) -> None:
        self.log.append(f"{page_bytes // MIB}MiB{'' if node is None else f'@{node}'}={count}")
        files = self.files
        nr, free = files.count("nr", page_bytes), files.count("free", page_bytes)
        surplus, resv = files.count("surplus", page_bytes), files.count("resv", page_bytes)
        if node is not None:
            rest = (
                nr - surplus - files.count("nr", page_bytes, node) + files.count("surplus", page_bytes, node)
            )
            count += rest
        used = nr - free
        wanted = min(count, self.limits.get(page_bytes, count)) if count > nr - surplus else count
        # First surplus pages become permanent, then pages are made; pages in use or promised are not freed.
        total = max(wanted, used + resv)
        self._spread(page_bytes, node, total, used, resv, max(0, total - wanted))

    def _spread(self, page_bytes: int, node: int | None, nr: int, used: int, resv: int, surplus: int) -> None:
        files = self.files
        before = {each: files.count("nr", page_bytes, each) for each in range(files.nodes)}
        free = {each: files.count("free", page_bytes, each) for each in range(files.nodes)}
        files.set(page_bytes, nr, used, resv, surplus)
        if node is None:
            return
        # Only that node's part changes.
        for each, count in before.items():
            now = nr - sum(before.values()) + before[node] if each == node else count
            files._node(page_bytes, each, now, now - (count - free[each]), 0)

    def compact(self, node: int | None) -> None:
        self.log.append("compact")
        for page_bytes in self.limits:
            self.limits[page_bytes] += self.compaction_gains
