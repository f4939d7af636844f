# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a cluster, and the environment that a server started with it has."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidRequest
from ..preload.settings import LIBRARY, PAGES, PREFIX, Settings, has_ours, preloaded
from ..units import GIB, MIB

THRESHOLD_BYTES = 16 * MIB
NATIVE = "native"
"""Pages of the pool that PostgreSQL itself asks for, without the library."""
CLUSTER_PAGES = (*PAGES, NATIVE)
ALIGN_ONLY_BYTES = GIB
"""Buffers from this size on are only placed when the server starts, and put into huge pages afterwards."""
START_SECONDS = 3600
"""How long a start may take where the size of the segment is not known."""
# Touching a GiB in huge pages took 3 s on Linux 6.18 (docs/postgresql.md); a busy host takes longer. The rest
# of a start, such as recovery, had at least this long before.
_SECONDS_PER_GIB = 10
_SECONDS_BESIDES = 600


def prefaults(pages: str, prefault: bool | None, buffers_bytes: int | None) -> bool | None:
    """Whether all of a segment is touched at the start, where nobody said; None leaves it to the library.

    In huge pages that takes seconds per GiB, in which the server is down.
    """
    if prefault is None and pages == "thp" and (buffers_bytes or 0) >= ALIGN_ONLY_BYTES:
        return False
    return prefault


def start_seconds(buffers_bytes: int | None) -> int:
    """How long a start with buffers of a size may take before pg_ctl or systemd gives up."""
    if buffers_bytes is None:
        return START_SECONDS
    return _SECONDS_BESIDES + _SECONDS_PER_GIB * -(-buffers_bytes // GIB)


@dataclass(frozen=True)
class ClusterSpec:
    """Where a cluster's memory should lie."""

    pages: str
    library: str = LIBRARY
    backend: str | None = None
    """kernel or simulated; for pages 4k only, as are root and region."""
    root: str | None = None
    region: str | None = None
    """An existing region; None for one of the server's own."""
    region_bytes: int | None = None
    """How much memory that has, which a kernel does not tell the library."""
    threshold_bytes: int = THRESHOLD_BYTES
    prefault: bool | None = None
    """None leaves it to the library: yes, but for hugetlb."""
    require: bool = False
    """Whether the server refuses to start without it; otherwise it starts on ordinary memory."""
    start_seconds: int = START_SECONDS
    """How long a start may take."""
    page_bytes: int | None = None
    """Of native pages; None where the version has no setting for it, and takes the host's default size."""

    def __post_init__(self) -> None:
        if self.pages not in CLUSTER_PAGES:
            raise InvalidRequest(f"pages {self.pages!r} is unknown; write one of " + ", ".join(CLUSTER_PAGES))
        if self.region is not None and self.pages != "4k":
            raise InvalidRequest(
                f"region {self.region} cannot be used with pages {self.pages}: a region keeps the pages"
                " that it was created with; set pages to 4k, or omit the region"
            )

    @property
    def needs_library(self) -> bool:
        return self.pages != NATIVE

    @property
    def align_only(self) -> bool:
        """Whether the server starts in small pages, where huge pages can be collapsed later."""
        return self.pages == "thp" and self.prefault is False

    def environment(self) -> dict[str, str]:
        """What the library reads, without LD_PRELOAD."""
        settings = Settings(
            pages=self.pages,
            backend=self.backend,
            root=self.root,
            region=self.region,
            region_bytes=self.region_bytes,
            threshold_bytes=self.threshold_bytes,
            prefault=self.prefault,
            require=self.require,
            verbose=True,
        )
        values = settings.environment(self.library)
        return {name: value for name, value in values.items() if name.startswith(PREFIX)}

    def to_dict(self) -> dict[str, object]:
        """Its fields, for diffs and files."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in fields.items() if value is not None}


def started_with(environment: dict[str, str], spec: ClusterSpec) -> bool:
    """Whether a server with an environment was started with a spec."""
    if not spec.needs_library:
        return not has_ours(environment)
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    return spec.library in preloaded(environment) and ours == spec.environment()
