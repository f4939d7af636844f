# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the host that page tables are paid on."""

from __future__ import annotations

import os

from ..errors import Unavailable
from ..host import huge_pages, procfs
from ..host.mounts import hidepid
from ..host.pagemap import scan_available
from ..host.procfs import read_line
from ..info import inventory
from ..pagetable import BASE_PAGE_BYTES
from ..units import format_size
from .record import HostFacts, Support, TransparentHugePages

_THP = "/sys/kernel/mm/transparent_hugepage"
# A table of s390x is for 1 MiB, and one of POWER is a part of a page.
_OTHER_TABLES = ("s390", "ppc")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def facts() -> HostFacts:
    """Memory, huge pages, settings, and whether mshare can be used.

    Raises Unavailable where pages or tables have another size than those which are counted.
    """
    memory = procfs.meminfo_bytes()
    kernel = os.uname()
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    if page_bytes != BASE_PAGE_BYTES:
        raise Unavailable(
            f"kernel {kernel.release} ({kernel.machine}) has pages of {format_size(page_bytes)}, and page"
            f" tables can be counted for pages of {format_size(BASE_PAGE_BYTES)} only, so nothing was"
            " surveyed; boot a kernel with such pages"
        )
    if kernel.machine.startswith(_OTHER_TABLES):
        raise Unavailable(
            f"kernel {kernel.release} is one for {kernel.machine}, whose page tables have another shape than"
            " those of x86-64 and arm64, which can be counted, so nothing was surveyed; survey such a host"
        )
    return HostFacts(
        name=kernel.nodename,
        kernel=kernel.release,
        boot_id=read_line(_BOOT_ID),
        page_tables_bytes=memory["PageTables"],
        memory_total_bytes=memory["MemTotal"],
        memory_available_bytes=memory["MemAvailable"],
        huge_page_default_bytes=memory.get("Hugepagesize"),
        huge_page_pools=tuple(huge_pages.pools()),
        thp=TransparentHugePages(
            anonymous=_chosen(read_line(f"{_THP}/enabled")),
            shmem=_chosen(read_line(f"{_THP}/shmem_enabled")),
        ),
        overcommit_memory=procfs.sysctl("vm.overcommit_memory"),
        hidepid=hidepid(),
        mshare=support(),
        pagemap_scan=scan_available(),
    )


def support() -> Support:
    """What mshare_info answers about the host; the generation where msharefs is mounted."""
    known = inventory.support()
    generation = None
    if known.kernel_supported and known.mounted and known.root is not None:
        generation = inventory.mount_facts(known.root).generation
    return Support(
        supported=known.supported,
        kernel_supported=known.kernel_supported,
        backend=known.backend,
        root=known.root,
        mounted=known.mounted,
        generation=generation,
        reasons=known.reasons,
    )


def _chosen(line: str | None) -> str | None:
    """The word in brackets: "always [madvise] never"."""
    if line is None or "[" not in line:
        return line
    return line[line.index("[") + 1 : line.index("]")]
