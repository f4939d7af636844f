# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one call answers, as data: rows of arguments, the errno, and where that was seen.

Each row is a case of its own. After a refusal the region works as before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from conformance.actors import ADDRESS, ANONYMOUS
from mshare.kernel import abi
from mshare.units import GIB, KIB, MIB

PAGE, WINDOW = abi.PAGE_BYTES, abi.X86_64_ALIGNMENT_BYTES
SHARED, PRIVATE, FIXED = abi.MAP_SHARED, abi.MAP_PRIVATE, abi.MAP_FIXED
BOOTED = "tried on a booted 6.12 kernel with the 2025-08 series"
READ, WRITE = abi.PROT_READ, abi.PROT_WRITE
_ACCESS = {os.O_RDONLY: "read-only", os.O_WRONLY: "write-only"}
_PROTECTION = {0: "no access", READ: "reading", WRITE: "writing", READ | WRITE: "reading and writing"}


class Answer(NamedTuple):
    """A call, and what it answers."""

    says: str
    options: dict[str, int]
    code: int
    source: str = BOOTED


def _at(address: int) -> str:
    return f"{address:#x}"


def sizes() -> Iterator[Answer]:
    """ftruncate of a fresh region."""
    for size in (
        1,
        PAGE,
        64 * KIB,
        2 * MIB,
        GIB,
        256 * GIB,
        WINDOW - PAGE,
        WINDOW + 1,
        WINDOW + PAGE,
        3 * WINDOW // 2,
    ):
        yield Answer(f"{size:,} bytes, no multiple of the alignment", {"window_bytes": size}, errno.EINVAL)


def sizes_again() -> Iterator[Answer]:
    """ftruncate of a region that has its size."""
    for size in (0, PAGE, WINDOW // 2, WINDOW, 2 * WINDOW, 4 * WINDOW):
        yield Answer(f"a second time, {size:,} bytes", {"window_bytes": size}, errno.EINVAL)


def mappings() -> Iterator[Answer]:
    """CREATE_MAPPING in a region of one alignment."""
    for offset in (1, 512, PAGE // 2, PAGE - 1, PAGE + 1, WINDOW - 1):
        yield Answer(f"at {_at(offset)}, which is unaligned", {"offset": offset, "size": PAGE}, errno.EINVAL)
    for offset in (WINDOW, WINDOW + PAGE, 2 * WINDOW, 1 << 46, 1 << 62):
        yield Answer(f"at {_at(offset)}, past the end", {"offset": offset, "size": PAGE}, errno.EINVAL)
    for offset, size in (
        (0, WINDOW + PAGE),
        (0, 2 * WINDOW),
        (PAGE, WINDOW),
        (WINDOW // 2, WINDOW),
        (WINDOW - PAGE, MIB),
    ):
        yield Answer(
            f"{_at(size)} bytes at {_at(offset)}, beyond the end",
            {"offset": offset, "size": size},
            errno.EINVAL,
        )
    for offset in (PAGE, GIB, WINDOW - PAGE):
        yield Answer(f"nothing at {_at(offset)}", {"offset": offset, "size": 0}, errno.EINVAL)
    for text, flags in (
        ("no flags but MAP_ANONYMOUS", abi.MAP_ANONYMOUS),
        ("MAP_PRIVATE without MAP_FIXED", abi.MAP_ANONYMOUS | PRIVATE),
        (
            "MAP_PRIVATE, fixed and not to be replaced",
            abi.MAP_ANONYMOUS | PRIVATE | FIXED | abi.MAP_FIXED_NOREPLACE,
        ),
        ("MAP_NORESERVE without MAP_FIXED", abi.MAP_ANONYMOUS | SHARED | abi.MAP_NORESERVE),
    ):
        yield Answer(f"with {text}", {"size": MIB, "flags": flags}, errno.EINVAL)
    for gib in (500, 511):
        yield Answer(f"{gib} GiB without MAP_NORESERVE", {"size": gib * GIB}, errno.ENOMEM)


def overlaps() -> Iterator[Answer]:
    """CREATE_MAPPING with MAP_FIXED_NOREPLACE where eight pages are mapped at page 8."""
    for text, page, pages in (
        ("the same range", 8, 8),
        ("its first page", 8, 1),
        ("its last page", 15, 1),
        ("a page inside", 11, 1),
        ("all of it and more", 4, 16),
        ("its beginning", 4, 5),
        ("its end", 15, 5),
    ):
        options = {"offset": page * PAGE, "size": pages * PAGE, "flags": ANONYMOUS | abi.MAP_FIXED_NOREPLACE}
        yield Answer(f"over {text}, with MAP_FIXED_NOREPLACE", options, errno.EEXIST)


def windows() -> Iterator[Answer]:
    """mmap of the region's file."""
    for length in (
        PAGE,
        2 * MIB,
        GIB,
        WINDOW // 2,
        WINDOW - PAGE,
        WINDOW + PAGE,
        3 * WINDOW // 2,
        2 * WINDOW,
    ):
        yield Answer(f"of {_at(length)} bytes, not the region's length", {"length": length}, errno.EINVAL)
    for offset in (PAGE, 2 * MIB, GIB, 256 * GIB):
        for name, flag in (("MAP_FIXED", FIXED), ("MAP_FIXED_NOREPLACE", abi.MAP_FIXED_NOREPLACE)):
            yield Answer(
                f"{name} at {_at(ADDRESS + offset)}, which is unaligned",
                {"address": ADDRESS + offset, "flags": SHARED | flag},
                errno.EINVAL,
            )
    for name, flags in (
        ("MAP_PRIVATE", PRIVATE),
        ("MAP_PRIVATE and MAP_NORESERVE", PRIVATE | abi.MAP_NORESERVE),
        ("MAP_HUGETLB", SHARED | abi.MAP_HUGETLB),
        ("MAP_HUGETLB of 2 MiB", SHARED | abi.MAP_HUGETLB | abi.MAP_HUGE_2MB),
    ):
        for address in (0, ADDRESS):
            where = f"near {_at(address)}" if address else "anywhere"
            yield Answer(f"with {name}, {where}", {"flags": flags, "address": address}, errno.EINVAL)


def hints() -> Iterator[Answer]:
    """mmap near an address that is not aligned: the next one that is."""
    for offset in (PAGE, 2 * MIB, GIB, 256 * GIB, WINDOW - PAGE):
        yield Answer(f"a hint of {_at(ADDRESS + offset)} is rounded up", {"address": ADDRESS + offset}, 0)


class Opened(NamedTuple):
    """A region opened with an access, and attached with a protection."""

    access: int
    prot: int
    code: int
    source: str = BOOTED

    @property
    def says(self) -> str:
        return f"opened {_ACCESS[self.access]}, for {_PROTECTION[self.prot]}"


OPENED = (
    Opened(os.O_RDONLY, 0, 0),
    Opened(os.O_RDONLY, READ, 0),
    Opened(os.O_RDONLY, WRITE, errno.EACCES),
    Opened(os.O_RDONLY, READ | WRITE, errno.EACCES),
    Opened(os.O_WRONLY, 0, errno.EACCES),
    Opened(os.O_WRONLY, READ, errno.EACCES),
    Opened(os.O_WRONLY, WRITE, errno.EACCES),
    Opened(os.O_WRONLY, READ | WRITE, errno.EACCES),
)


class Unmapped(NamedTuple):
    """Pages of eight, at page 8, that are unmapped; what is left of them stays as it was."""

    page: int
    pages: int
    source: str = BOOTED

    @property
    def says(self) -> str:
        return f"pages {self.page} to {self.page + self.pages - 1} of pages 8 to 15 unmapped"

    @property
    def gone(self) -> list[int]:
        return [page for page in range(8, 16) if self.page <= page < self.page + self.pages]

    @property
    def left(self) -> list[int]:
        return [page for page in range(8, 16) if page not in self.gone]


UNMAPPED = tuple(
    Unmapped(*row) for row in ((8, 1), (15, 1), (11, 2), (8, 4), (12, 4), (4, 6), (13, 20), (0, 32), (9, 6))
)
