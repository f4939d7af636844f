# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The remedies, as a table, and what each would cost a segment: pure functions of its size and clients.

Tables are counted as in `pagetable`. Where a survey measured less per client than a full touch would
cost, a remedy is not charged more than that: clients that touch little now are not assumed to touch
more after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..collapse import gates
from ..host.segments import ANONYMOUS_KINDS
from ..kernel.generations import GENERATIONS, Features
from ..labels import Kind
from ..pagetable import BASE_PAGE_BYTES, TABLE_BYTES, Layout, PageTables
from ..survey.record import OPCACHE_KINDS
from ..units import GIB, MIB, counted, format_size, round_up
from .facts import Host, Instance, Segment, takes_by_itself, whole_gib

POSTGRESQL_WITH_HUGE_PAGES = (9, 4)
POSTGRESQL_WITH_HUGE_PAGE_SIZE = (14,)
MOST_OF_MEMORY = 0.9
"""Huge pages that take more of the RAM leave too little for everything else."""
_DATABASES = ("postgresql", "oracle", "wish")
OWN_SETTINGS = (
    (re.compile(r"db2sysc"), "db2set DB2_LARGE_PAGE_MEM=DB"),
    (re.compile(r"oninit"), "IFX_LARGE_PAGES=1 in the environment of oninit, and RESIDENT in its onconfig"),
    (re.compile(r"java"), "-XX:+UseLargePages"),
    (
        re.compile(r"qemu-(?:system-.*|kvm)"),
        "hugetlb=on of its memory-backend-memfd; in libvirt, <memoryBacking><hugepages/>",
    ),
)
"""Programs other than the databases that a survey knows, and the setting with which they use the pool."""


@dataclass(frozen=True)
class Case:
    """A segment to be remedied, and all that decides whether it can be."""

    segment: Segment
    instance: Instance
    host: Host
    clients: int
    """Processes that have the segment, without the remedy."""
    pool_to: int


Check = Callable[[Case, "Remedy"], "str | None"]
"""Why a remedy is not open to a case, as a sentence; None if it is."""


@dataclass(frozen=True)
class Remedy:
    """One way to pay less for page tables."""

    id: str
    name: str
    restart: str
    """Whether the database is restarted for it: "no", "yes", "clients" (they reconnect elsewhere)."""
    reboot: str
    """Whether the host is: "no", "rarely", "usually", "yes"."""
    reversible: str
    confidence: Kind
    """Of the arithmetic itself; figures that went into it can make it weaker."""
    checks: tuple[Check, ...] = ()
    page_bytes: int | None = None
    """The page size after it; None: as it is."""
    shares: str | None = None
    """Which tables all clients share after it: None, "pmd" or "all"."""
    transparent: bool = False
    """Its huge pages are transparent: the ends of a segment that fill none stay in small pages."""
    pooled: bool = False
    generation: str | None = None
    takes: str = ""
    """What has to be there or done for it, in one line."""


@dataclass(frozen=True)
class Cost:
    """What a segment costs all its clients together."""

    clients: int
    tables_bytes: int
    memory_bytes: int
    """RAM when all of it is touched, whole pages."""
    waste_bytes: int
    """Of it, what rounding up to whole pages adds."""
    faults_per_client: int
    """First-touch faults of each client, when it touches all of the segment."""
    faults_once: int
    """First-touch faults that one client, or the owner, takes for all."""
    formula: str


def cost(remedy: Remedy, case: Case, layout: Layout | None = None) -> Cost:
    """A segment's cost with a remedy, whether or not the remedy is open to it.

    `layout` has the tables that other segments of the same processes need already.
    """
    segment = case.segment
    layout = layout or Layout()
    clients = min(case.clients, case.pool_to) if remedy.pooled else case.clients
    page_bytes = max(remedy.page_bytes or 0, segment.page_bytes)
    # With small pages, or with huge pages where a program lies, a segment stays where it is.
    stays = page_bytes == segment.page_bytes or remedy.transparent
    memory_bytes = segment.size_bytes if remedy.transparent else round_up(segment.size_bytes, page_bytes)
    if stays:
        add = layout.add_transparent if remedy.transparent and segment.page_bytes == BASE_PAGE_BYTES else None
        tables = _sum(
            add(part.start, part.size_bytes)
            if add
            else layout.add(part.start, part.size_bytes, segment.page_bytes)
            for part in segment.places
        )
        start = segment.places[0].start
    else:
        start = layout.place(segment.places[0].start, memory_bytes, page_bytes)
        tables = layout.add(start, memory_bytes, page_bytes)
    whole = whole_gib(start, memory_bytes)
    pages = _pages(segment, memory_bytes, page_bytes)
    if remedy.shares == "all":
        tables_bytes, formula = _capped(case, clients, tables.total_bytes, f"{_tables(tables)}, once for all")
        faults = (tables.pud_bytes // TABLE_BYTES, pages)
    elif remedy.shares == "pmd":
        own = PageTables(0, tables.pmd_bytes - whole * TABLE_BYTES, tables.pud_bytes)
        shared_formula = f"{_clients(clients)} x {_tables(own)} + {whole:,} PMD x 4 KiB, once for all"
        total_bytes = clients * own.total_bytes + whole * TABLE_BYTES
        tables_bytes, formula = _capped(case, clients, total_bytes, shared_formula)
        faults = (whole + (memory_bytes - whole * GIB) // page_bytes, pages)
    else:
        # A measured figure is better than any model.
        as_is = remedy.page_bytes is None and segment.page_tables_bytes is not None and segment.processes > 0
        total_bytes = clients * tables.total_bytes
        tables_bytes, formula = (
            _scaled(segment, clients)
            if as_is
            else _capped(case, clients, total_bytes, f"{_clients(clients)} x {_tables(tables)}")
        )
        faults = (pages, 0)
    waste_bytes = memory_bytes - segment.size_bytes if remedy.page_bytes else 0
    return Cost(clients, tables_bytes, memory_bytes, waste_bytes, *faults, formula)


def _sum(parts: Iterable[PageTables]) -> PageTables:
    leaf = pmd = pud = 0
    for part in parts:
        leaf, pmd, pud = leaf + part.leaf_bytes, pmd + part.pmd_bytes, pud + part.pud_bytes
    return PageTables(leaf, pmd, pud)


def _clients(count: int) -> str:
    return counted(count, "client")


def _tables(tables: PageTables) -> str:
    levels = (("leaf", tables.leaf_bytes), ("PMD", tables.pmd_bytes), ("PUD", tables.pud_bytes))
    parts = [f"{bytes_ // TABLE_BYTES:,} {level}" for level, bytes_ in levels if bytes_]
    return f"({' + '.join(parts)}) x 4 KiB"


def _scaled(segment: Segment, clients: int) -> tuple[int, str]:
    """The tables measured, by the average, for a number of clients."""
    measured_bytes = segment.page_tables_bytes or 0
    formula = f"{format_size(measured_bytes)} in {counted(segment.processes, 'process', 'processes')} today"
    if clients != segment.processes:
        formula = f"{_clients(clients)} x {formula} / {segment.processes:,}"
    return measured_bytes * clients // segment.processes, formula


def _capped(case: Case, clients: int, modelled_bytes: int, formula: str) -> tuple[int, str]:
    """The model, or what would be paid without the remedy if that is less: ranges nobody touched."""
    segment = case.segment
    if segment.page_tables_bytes is None or not segment.processes:
        return modelled_bytes, formula
    without_bytes, measured_formula = _scaled(segment, clients)
    if modelled_bytes <= without_bytes:
        return modelled_bytes, formula
    return without_bytes, f"{measured_formula} (not {formula}: not all of it is touched)"


def _pages(segment: Segment, memory_bytes: int, page_bytes: int) -> int:
    """Faults of one process that touches every page for the first time, by writing."""
    huge_bytes = 0
    if page_bytes == BASE_PAGE_BYTES:
        huge_bytes = min(segment.huge_bytes, memory_bytes) // (2 * MIB) * (2 * MIB)
    return -(-(memory_bytes - huge_bytes) // page_bytes) + huge_bytes // (2 * MIB)


def _one_process(case: Case, remedy: Remedy) -> str | None:
    if case.clients > 1:
        return None
    if case.instance.threads > 1:
        return (
            f"it is one process with {counted(case.instance.threads, 'thread')}, which share its page"
            " tables already:"
            " no process repeats them"
        )
    return "only one process maps the segment, so its page tables exist only once"


def _pool_is_smaller(case: Case, remedy: Remedy) -> str | None:
    if case.clients > case.pool_to or case.clients <= 1:
        return None
    return f"a pool of {case.pool_to:,} is not smaller than its {_clients(case.clients)}"


def _not_huge_yet(case: Case, remedy: Remedy) -> str | None:
    segment, wanted = case.segment, remedy.page_bytes or BASE_PAGE_BYTES
    if segment.page_bytes > BASE_PAGE_BYTES and segment.page_bytes >= wanted:
        return f"it is in huge pages of {format_size(segment.page_bytes)} already"
    if wanted == 2 * MIB and segment.is_huge:
        return "transparent huge pages map it already"
    return None


def _is_shmem(case: Case, remedy: Remedy) -> str | None:
    # Huge pages are named already.
    return None if case.segment.kind == "hugetlb" else gates.of_kind(case.segment.kind)


def _thp_known(case: Case, remedy: Remedy) -> str | None:
    if not case.host.surveyed or case.host.thp_shmem is not None:
        return None
    return f"kernel {case.host.kernel} has no transparent huge pages for shared memory"


def _thp_allowed(case: Case, remedy: Remedy) -> str | None:
    return gates.of_process(not case.instance.thp_disabled) or gates.of_setting(case.host.thp_shmem)


def _can_collapse(case: Case, remedy: Remedy) -> str | None:
    return gates.of_kernel(case.host.kernel)


def _is_database(case: Case, remedy: Remedy) -> str | None:
    if case.instance.kind in _DATABASES:
        return None
    if case.instance.kind == "other":
        return "it is not known whether its processes are connections, which a pooler could keep"
    return f"{case.instance.kind} workers are not connections that a pooler could keep"


def _has_setting(case: Case, remedy: Remedy) -> str | None:
    """Whether the program can be told to use the pool, and in which setting that fails."""
    instance = case.instance
    if own_setting(instance) is not None or takes_by_itself(instance.kind, case.segment):
        return None
    if case.segment.kind == "hugetlb" and instance.kind in _DATABASES:
        return None
    if instance.kind in OPCACHE_KINDS and case.segment.kind == "anonymous":
        return "OPcache takes whole huge pages only; set opcache.memory_consumption to an even number of MB"
    if instance.kind not in _DATABASES:
        program = "its program" if instance.kind == "other" else instance.kind
        known = f"no setting of {program} is known that puts its shared memory into the pool"
        return known if _can_preload(case, remedy) else f"{known}; the preload can"
    version = instance.major_version
    if instance.kind == "postgresql" and version is not None and version < POSTGRESQL_WITH_HUGE_PAGES:
        return f"PostgreSQL {instance.version} has no setting huge_pages, which exists since 9.4"
    if instance.kind == "postgresql" and instance.settings.get("shared_memory_type") == "sysv":
        return (
            "PostgreSQL does not start with huge_pages = on and shared_memory_type = sysv; set"
            " shared_memory_type = mmap first"
        )
    if instance.kind == "oracle" and uses_amm(instance):
        return (
            "Automatic Memory Management (memory_target) excludes huge pages; set memory_target = 0 and give"
            " sga_target and pga_aggregate_target first"
        )
    return None


def setting_words(instance: Instance) -> str:
    """What it takes beside the pool that a program uses it."""
    if instance.kind in OPCACHE_KINDS:
        return ", of which OPcache takes its pages by itself"
    return f" and the {'database' if instance.kind in _DATABASES else 'program'}'s own setting"


def own_setting(instance: Instance) -> str | None:
    """The setting of a program, other than PostgreSQL and Oracle, with which it takes pages of the pool."""
    return next((setting for name, setting in OWN_SETTINGS if name.fullmatch(instance.program)), None)


def uses_amm(instance: Instance) -> bool:
    """Whether an Oracle manages its memory in /dev/shm, by its parameters or by where its memory is."""
    target = instance.settings.get("memory_target", "0")
    in_files = any(segment.name.startswith("/dev/shm/ora_") for segment in instance.segments)
    return in_files or target.strip("0") != ""


def _can_preload(case: Case, remedy: Remedy) -> str | None:
    instance = case.instance
    if instance.setuid:
        return "its program is setuid, so the loader ignores a preloaded library"
    if instance.in_image:
        return "its program runs from the image of a container, which does not have the library"
    if case.segment.kind not in ("anonymous", "sysv", "hugetlb"):
        return f"the preload takes anonymous and System V memory; this segment is of kind {case.segment.kind}"
    return None


def _congruent(case: Case, remedy: Remedy) -> str | None:
    if case.segment.congruent_2mib is None:
        return "it needs a live segment at a multiple of 2 MiB, and the survey has none"
    return gates.of_place(case.segment.address or 0, case.segment.congruent_2mib)


def _can_be_hugetlb(case: Case, remedy: Remedy) -> str | None:
    if case.segment.kind in (*ANONYMOUS_KINDS, "hugetlb"):
        return None
    return (
        f"a segment of kind {case.segment.kind} has its pages from its file system; the program would have"
        " to put it on hugetlbfs itself"
    )


def _fits(case: Case, remedy: Remedy) -> str | None:
    memory, page_bytes = case.host.memory_total_bytes, remedy.page_bytes or BASE_PAGE_BYTES
    used = case.host.taken_bytes(page_bytes)
    # What it has of the pools is in use already.
    needed = case.instance.huge_bytes(page_bytes)
    if memory is None or needed + used <= MOST_OF_MEMORY * memory:
        return None
    beside = f" beside the {format_size(used)} that other huge pages have" if used else ""
    if needed + used >= memory:
        return (
            f"its huge pages need {format_size(needed)}{beside} and the host has {format_size(memory)} of RAM"
        )
    return (
        f"its huge pages need {format_size(needed)}{beside} of {format_size(memory)} of RAM, which leaves"
        f" {format_size(memory - needed - used)} for everything else"
    )


def _has_pool(case: Case, remedy: Remedy) -> str | None:
    """Whether the kernel has pages of 2 MiB; those of 1 GiB are asked for with what they take."""
    host = case.host
    if not host.surveyed or 2 * MIB in host.pools:
        return None
    sizes = ", ".join(map(format_size, sorted(host.pools)))
    has = f"its sizes are {sizes}" if sizes else "it has none at all (CONFIG_HUGETLBFS, or the hypervisor)"
    return f"kernel {host.kernel} has no huge pages of 2 MiB: {has}"


def _gib_pages(case: Case, remedy: Remedy) -> str | None:
    if case.segment.size_bytes < GIB:
        return f"it has {format_size(case.segment.size_bytes)}, less than one page of 1 GiB"
    if case.host.surveyed and GIB not in case.host.pools:
        return "this host has no pool of 1 GiB pages: the processor, or the hypervisor, has no pdpe1gb"
    return None


def _can_choose(case: Case, remedy: Remedy) -> str | None:
    """Whether a program can have pages of a size: many take those of the default size, whatever it is."""
    instance, default_bytes = case.instance, case.host.huge_page_default_bytes
    version = instance.major_version
    if instance.kind == "postgresql" and version is not None and version < POSTGRESQL_WITH_HUGE_PAGE_SIZE:
        why = f"PostgreSQL {instance.version} has no huge_page_size, which exists since 14, and takes pages"
    elif instance.kind == "oracle":
        why = "Oracle takes pages"
    elif instance.kind in OPCACHE_KINDS:
        why = "OPcache takes pages"
    else:
        return None
    if case.segment.kind == "hugetlb" or default_bytes in (None, remedy.page_bytes):
        return None
    return f"{why} of the default size, which is {format_size(default_bytes or 0)} on this host"


def _shares_pmd(case: Case, remedy: Remedy) -> str | None:
    segment = case.segment
    if segment.page_bytes > 2 * MIB:
        return f"it is in pages of {format_size(segment.page_bytes)}, which have no PMD tables"
    if segment.size_bytes < GIB:
        return f"it has {format_size(segment.size_bytes)}, less than the 1 GiB of one PMD table"
    if segment.aligned_1gib is False:
        start = segment.address or 0
        whole = whole_gib(start, segment.size_bytes)
        return (
            f"it starts at {start:#x}, which is not a multiple of 1 GiB; at a multiple,"
            f" {counted(whole, 'PMD table')} could be shared; have the program map it at a multiple of 1 GiB"
        )
    return None


def _kernel_has_it(case: Case, remedy: Remedy) -> str | None:
    host = case.host
    if not host.kernel_has_mshare:
        here = f"kernel {host.kernel} has no msharefs" if host.surveyed else "no released kernel has mshare"
        return f"{here}; boot one with the posted series"
    if host.generation is None and host.surveyed:
        return (
            f"kernel {host.kernel} has msharefs, and which generation is unknown until it is mounted;"
            " mount it with the role dbmem.mshare.msharefs and survey again"
        )
    if host.generation is not None and host.generation != remedy.generation:
        return f"kernel {host.kernel} has generation {host.generation}"
    return None


def _can_attach(case: Case, remedy: Remedy) -> str | None:
    if case.instance.setuid:
        return (
            "its program is setuid, so the loader ignores a library that would attach the region for it;"
            " the program itself would have to"
        )
    return None


_MAPPED_AS = {"file": "file", "hugetlb": "hugetlb"}
"""The kind of object a segment would be inside a region; others are anonymous memory there."""


def _region_takes(case: Case, remedy: Remedy) -> str | None:
    wanted = _MAPPED_AS.get(case.segment.kind, "anonymous")
    takes = GENERATIONS[remedy.generation or ""].features.mapping_kinds
    if wanted in takes:
        return None
    return f"generation {remedy.generation} takes {', '.join(takes)} and the segment is of kind {wanted}"


def _region(features: Features) -> str:
    """What sets the regions of a generation apart."""
    where = "at any address" if features.any_address else "at one address for all"
    ends = "dies with its owner" if features.owner_bound else "lives as long as it is used"
    kinds = ", ".join(features.mapping_kinds)
    return f"a program that attaches a region of {kinds} memory {where}; the region {ends}"


NOTHING = Remedy("nothing", "nothing", "no", "no", "-", "measured")
_HUGETLB = (_not_huge_yet, _can_be_hugetlb, _fits, _has_setting, _can_choose)
_HUGETLB_2M = (*_HUGETLB, _has_pool)
_TRANSPARENT = (_not_huge_yet, _is_shmem, _thp_known, _thp_allowed)
_HUGETLB_BACK = "huge pages off in the database, restart, smaller pool"
REMEDIES: tuple[Remedy, ...] = (
    NOTHING,
    Remedy(
        "pooling",
        "connection pooling to {pool_to}",
        "clients",
        "no",
        "connect directly again",
        "projected",
        (_one_process, _is_database, _pool_is_smaller),
        pooled=True,
        takes="a pooler between clients and database, in transaction mode",
    ),
    Remedy(
        "thp_shmem",
        "THP for shmem",
        "yes",
        "no",
        "shmem_enabled=never, restart",
        "projected",
        _TRANSPARENT,
        page_bytes=2 * MIB,
        transparent=True,
        takes="shmem_enabled=always, or huge=always of a tmpfs; huge pages come where memory is free",
    ),
    Remedy(
        "collapse",
        "MADV_COLLAPSE, live",
        "no",
        "no",
        "restart",
        "projected",
        (*_TRANSPARENT, _can_collapse, _congruent),
        page_bytes=2 * MIB,
        transparent=True,
        takes="process_madvise by root, Linux 6.1 or later, some seconds per GiB",
    ),
    Remedy(
        "preload_thp",
        "preload, THP",
        "yes",
        "no",
        "without the preload, restart",
        "projected",
        (*_TRANSPARENT, _can_collapse, _can_preload),
        page_bytes=2 * MIB,
        transparent=True,
        takes="our library preloaded, Linux 6.1 or later, and free memory that is not fragmented",
    ),
    Remedy(
        "preload_hugetlb",
        "preload, hugetlb 2 MiB",
        "yes",
        "rarely",
        "without the preload, restart, smaller pool",
        "modelled",
        (_not_huge_yet, _can_preload, _fits, _has_pool),
        page_bytes=2 * MIB,
        takes="our library preloaded, and vm.nr_hugepages: memory set aside, never swapped",
    ),
    Remedy(
        "hugetlb_2m",
        "hugetlb 2 MiB",
        "yes",
        "rarely",
        _HUGETLB_BACK,
        "modelled",
        _HUGETLB_2M,
        page_bytes=2 * MIB,
        takes="vm.nr_hugepages{setting}: memory set aside, never swapped",
    ),
    Remedy(
        "hugetlb_1g",
        "hugetlb 1 GiB",
        "yes",
        "usually",
        _HUGETLB_BACK,
        "modelled",
        (*_HUGETLB, _gib_pages),
        page_bytes=GIB,
        takes="hugepagesz=1G hugepages=N on the kernel's command line, and a database that can ask for them",
    ),
    Remedy(
        "hugetlb_pmd_sharing",
        "hugetlb 2 MiB, PMD sharing",
        "yes",
        "rarely",
        _HUGETLB_BACK,
        "modelled",
        (_can_be_hugetlb, _fits, _has_setting, _can_choose, _has_pool, _one_process, _shares_pmd),
        page_bytes=2 * MIB,
        shares="pmd",
        takes="nothing more than hugetlb 2 MiB: the kernel does it for whole, aligned ranges of 1 GiB",
    ),
    *(
        Remedy(
            f"mshare_{generation}",
            f"mshare {generation}",
            "yes",
            "yes",
            "move back to ordinary memory, restart; playbook teardown",
            "projected",
            (_kernel_has_it, _can_attach, _one_process, _region_takes),
            shares="all",
            generation=generation,
            takes=_region(GENERATIONS[generation].features),
        )
        for generation in GENERATIONS
    ),
)


def refusals(remedy: Remedy, case: Case) -> list[str]:
    """Every reason why a remedy is not open to a segment."""
    reasons = (check(case, remedy) for check in remedy.checks)
    return [reason for reason in reasons if reason is not None]
