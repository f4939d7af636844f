# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All numbers of the kernel's interface, in one place.

Sources: the msharefs series as posted (2022-06 v2, 2024-09 RFC v3, 2025-01 v1, 2025-04 v2,
2025-08 v3) and include/uapi/asm-generic/{ioctl,mman-common}.h. ioctl numbers are
_IOC(direction, 'x', number, size): the struct's size is part of the number.
"""

from __future__ import annotations

FILESYSTEM = "msharefs"
FILESYSTEM_MAGIC = 0x4D534852
INFO_FILE = "mshare_info"
PAGE_BYTES = 4096
# The x86-64 user address space with four levels; larger windows can be created but not mapped.
ADDRESS_SPACE_BYTES = 1 << 47
# What mshare_info contains on x86-64: one PGD entry. The simulator's default; for a kernel, read the file.
X86_64_ALIGNMENT_BYTES = 1 << 39


def _ioc(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("x") << 8 | number


_WRITE, _READ = 1, 2
INFO_STRUCT_BYTES = 16
CREATE_STRUCT_BYTES = 40
UNMAP_STRUCT_BYTES = 16
# 2024-09 and 2025-01: geometry by ioctl, mappings by address.
GET_SIZE = _ioc(_READ, 0, INFO_STRUCT_BYTES)
SET_SIZE = _ioc(_WRITE, 1, INFO_STRUCT_BYTES)
CREATE_MAPPING_BY_ADDRESS = _ioc(_WRITE, 2, CREATE_STRUCT_BYTES)
UNMAP_BY_ADDRESS = _ioc(_WRITE, 3, UNMAP_STRUCT_BYTES)
# 2025-04 and 2025-08: geometry by ftruncate/fstat, mappings by offset. UNMAP has the number that
# SET_SIZE had: it must never be sent before the generation is known.
CREATE_MAPPING_BY_OFFSET = _ioc(_WRITE, 0, CREATE_STRUCT_BYTES)
UNMAP_BY_OFFSET = _ioc(_WRITE, 1, UNMAP_STRUCT_BYTES)
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
PROT_ALL = PROT_READ | PROT_WRITE | PROT_EXEC
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
MAP_HUGE_SHIFT = 26
HUGE_PAGE_BYTES = 2 << 20
MAP_HUGE_2MB = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB = 30 << MAP_HUGE_SHIFT
MAP_HUGE_MASK = 0x3F << MAP_HUGE_SHIFT
MADV_DONTNEED = 4
MADV_REMOVE = 9
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_DONTDUMP = 16
# 2026-05: system calls, and their numbers on x86-64. Nothing may be guessed here: a wrong number is another
# call. On the day they are posted, the table is filled in.
NUMBERED_CALLS = ("mshare_create", "mshare_attach", "mshare_map", "mshare_advise", "mshare_protect")
CALL_NUMBERS: dict[str, int] = {}


def huge_page_bytes(flags: int) -> int:
    """The huge page size that mmap flags request: 0 without MAP_HUGETLB, 2 MiB by default."""
    if not flags & MAP_HUGETLB:
        return 0
    code = (flags & MAP_HUGE_MASK) >> MAP_HUGE_SHIFT
    return 1 << code if code else HUGE_PAGE_BYTES
