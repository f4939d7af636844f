# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a host's huge pages, checked before the host is examined.

Everything is optional: what is not asked for is left as it is, or put back if it was asked for before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import InvalidRequest
from ..units import KIB, format_size, parse_size

AUTO = "auto"
THP_MODES = ("always", "madvise", "never")
DEFAULT_SPARE_PAGES = 8
DEFAULT_SHARE_OF_RAM = 0.7
_PAGES_MAXIMUM = 1 << 40
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]+\.service\Z")
# What useradd takes, and limits.conf(5) does not take for a group or a wildcard.
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?\Z")
_GROUP = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10})\Z")
_WANT = re.compile(r"(?:(?P<size>[^=@]+)(?:@(?P<node>[^=]+))?=)?(?P<wanted>[^=]+)\Z")


@dataclass(frozen=True)
class PoolRequest:
    """The pool of one page size: how many pages it has in all, those in use included."""

    page_bytes: int
    wanted: int | None
    """Pages; None: as many as the host needs (auto)."""
    node: int | None = None
    """A NUMA node; None: the host as a whole, spread by the kernel."""

    @property
    def text(self) -> str:
        return pool_text(self.page_bytes, self.node)


def pool_text(page_bytes: int, node: int | None) -> str:
    """A pool, for a sentence."""
    where = "" if node is None else f" on NUMA node {node}"
    return f"pool of {format_size(page_bytes)} pages{where}"


@dataclass(frozen=True)
class MemlockRequest:
    """How much memory the processes of a unit, or of a user, may lock."""

    unit: str | None
    user: str | None
    limit_bytes: int | None
    """None: no limit."""

    @property
    def text(self) -> str:
        return f"unit {self.unit}" if self.unit else f"user {self.user}"


@dataclass(frozen=True)
class HugePagesSpec:
    """What is wanted of a host's huge pages; the defaults want nothing at all."""

    pools: tuple[PoolRequest, ...] = ()
    spare_pages: int | None = DEFAULT_SPARE_PAGES
    """What auto adds; None: `spare_bytes` says it."""
    spare_bytes: int = 0
    share_of_ram_max: float = DEFAULT_SHARE_OF_RAM
    instances: tuple[str, ...] = ()
    """What auto counts, by the names of a survey; empty: the databases that take huge pages at a restart."""
    live: bool = True
    persist: bool = True
    keep_partial: bool = False
    shm_group: str | None = None
    memlock: tuple[MemlockRequest, ...] = field(default=())
    transparent: str | None = None

    def spare_of(self, page_bytes: int) -> int:
        """The spare pages of a pool."""
        if self.spare_pages is not None:
            return self.spare_pages
        return -(-self.spare_bytes // page_bytes)


def make(
    pages: Iterable[Mapping[str, object]] = (),
    *,
    spare: int | str = DEFAULT_SPARE_PAGES,
    share_of_ram_max: float = DEFAULT_SHARE_OF_RAM,
    instances: Iterable[str] = (),
    live: bool = True,
    persist: bool = True,
    keep_partial: bool = False,
    shm_group: str | None = None,
    memlock: Iterable[Mapping[str, object]] = (),
    transparent: str | None = None,
) -> HugePagesSpec:
    """A spec from a module's options or a command line's; InvalidRequest for what no host can do."""
    spare_count, spare_bytes = _count_or_size(spare, "spare", least=0)
    if not 0 < share_of_ram_max <= 1:
        raise InvalidRequest(
            f"share_of_ram_max {share_of_ram_max!r} is not a share; write a number above 0 and up to 1,"
            " like 0.7"
        )
    if transparent is not None and transparent not in THP_MODES:
        raise InvalidRequest(
            f"transparent {transparent!r} is unknown; write one of {', '.join(THP_MODES)}, or leave it out"
        )
    if shm_group is not None and not _GROUP.match(shm_group):
        raise InvalidRequest(f"shm_group {shm_group!r} is neither the name nor the number of a group")
    pools = _distinct([_pool(entry) for entry in pages])
    if (pools or shm_group or transparent) and not live and not persist:
        raise InvalidRequest("live and persist are both false, so nothing would be done; set one of them")
    return HugePagesSpec(
        pools=pools,
        spare_pages=spare_count,
        spare_bytes=spare_bytes,
        share_of_ram_max=share_of_ram_max,
        instances=tuple(instances),
        live=live,
        persist=persist,
        keep_partial=keep_partial,
        shm_group=shm_group,
        memlock=_distinct_memlock([_memlock(entry) for entry in memlock]),
        transparent=transparent,
    )


def parse_want(text: str) -> dict[str, object]:
    """An entry of `pages` from [SIZE[@NODE]=]WANTED, like auto, 24GiB, 1GiB=16 or 2MiB@0=512."""
    match = _WANT.match(text)
    if match is None:
        raise InvalidRequest(f"--want {text!r} is not [SIZE[@NODE]=]PAGES; write it like auto or 2MiB@0=512")
    node = match["node"]
    if node is not None and not node.isdigit():
        raise InvalidRequest(f"--want {text!r}: {node!r} is no NUMA node; write its number, like 2MiB@0=512")
    return {
        "size": match["size"] or "2MiB",
        "node": None if node is None else int(node),
        "wanted": match["wanted"],
    }


def parse_memlock(text: str) -> dict[str, object]:
    """An entry of `memlock` from UNIT_OR_USER[=LIMIT]; what ends in .service is a unit."""
    name, __, limit = text.partition("=")
    kind = "unit" if name.endswith(".service") else "user"
    return {kind: name, "limit": limit or "unlimited"}


def _pool(entry: Mapping[str, object]) -> PoolRequest:
    size, node, wanted = entry.get("size") or "2MiB", entry.get("node"), entry.get("wanted", AUTO)
    page_bytes = parse_size(str(size), "the size of huge pages")
    if page_bytes & (page_bytes - 1) or page_bytes < 64 * KIB:
        raise InvalidRequest(
            f"{size!r} is not a size of huge pages; write one that the kernel has, like 2MiB"
        )
    if node is not None and (isinstance(node, bool) or not isinstance(node, int) or node < 0):
        raise InvalidRequest(f"node {node!r} is not the number of a NUMA node; write it like 0")
    if wanted == AUTO:
        return PoolRequest(page_bytes, None, node)
    count, size_bytes = _count_or_size(wanted, "wanted", least=0)
    return PoolRequest(page_bytes, -(-size_bytes // page_bytes) if count is None else count, node)


def _count_or_size(value: object, what: str, least: int) -> tuple[int | None, int]:
    """(pages, 0) of a bare number, (None, bytes) of a size with its unit."""
    if isinstance(value, int) and not isinstance(value, bool):
        count = value
    elif isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,13}\s*", value):
        count = int(value)
    elif isinstance(value, str) and re.search(r"[A-Za-z]\s*\Z", value):
        try:
            return None, parse_size(value, what)
        except InvalidRequest:
            raise _no_count(value, what) from None
    else:
        raise _no_count(value, what)
    if not least <= count <= _PAGES_MAXIMUM:
        raise InvalidRequest(f"{what} {value!r} is not a number of huge pages that a host can have")
    return count, 0


def _no_count(value: object, what: str) -> InvalidRequest:
    also = ", or auto" if what == "wanted" else ""
    return InvalidRequest(
        f"{what} {value!r} is neither a number of pages nor a size; write it like 512 or 24GiB{also}"
    )


def _distinct(requests: list[PoolRequest]) -> tuple[PoolRequest, ...]:
    seen: set[tuple[int, int | None]] = set()
    for request in requests:
        key = (request.page_bytes, request.node)
        if key in seen:
            raise InvalidRequest(f"the {request.text} is listed more than once; write one entry for each")
        seen.add(key)
    for size in {size for size, __ in seen}:
        nodes = {node for known, node in seen if known == size}
        if None in nodes and len(nodes) > 1:
            raise InvalidRequest(
                f"pages of {format_size(size)} are wanted for the host as a whole and for single NUMA nodes,"
                " which contradict each other; give every entry a node, or none"
            )
    return tuple(sorted(requests, key=lambda request: (request.page_bytes, request.node or 0)))


def _memlock(entry: Mapping[str, object]) -> MemlockRequest:
    unit, user, limit = entry.get("unit"), entry.get("user"), entry.get("limit") or "unlimited"
    if (unit is None) == (user is None):
        raise InvalidRequest("an entry of memlock names a unit or a user, one of them")
    if unit is not None and not _UNIT.match(str(unit)):
        raise InvalidRequest(f"memlock: {unit!r} is not a service; write it like postgresql@15-main.service")
    if user is not None and not _USER.match(str(user)):
        raise InvalidRequest(f"memlock: {user!r} is not the name of a user; write it like oracle")
    if str(limit).strip().isdigit():
        raise InvalidRequest(
            f"memlock's limit {limit!r} has no unit: limits.conf counts in KiB, and systemd in bytes; write"
            " it like 128GiB, or unlimited"
        )
    unlimited = str(limit).lower() in ("unlimited", "infinity")
    limit_bytes = None if unlimited else parse_size(str(limit), "memlock's limit")
    return MemlockRequest(
        None if unit is None else str(unit), None if user is None else str(user), limit_bytes
    )


def _distinct_memlock(requests: list[MemlockRequest]) -> tuple[MemlockRequest, ...]:
    names = [request.text for request in requests]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"memlock names {twice[0]} more than once; write one entry for each")
    return tuple(requests)
