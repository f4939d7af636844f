# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the preload, in the environment of a program; preload/src/settings.c reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import InvalidRequest

PAGES = ("4k", "thp", "hugetlb")
FILE_NAME = "libmshare-preload.so"
PREFIX = "MSHARE_PRELOAD_"
LIBRARY = f"/usr/local/lib/mshare/{FILE_NAME}"


@dataclass(frozen=True)
class Settings:
    """The settings of the library; None stands for its default."""

    pages: str
    backend: str | None = None
    """"kernel" or "simulated"; None on a stock kernel, without a region."""
    root: str | None = None
    region: str | None = None
    region_bytes: int | None = None
    """How much of the region may be used, if the library cannot find out (on a kernel)."""
    huge_directory: str | None = None
    threshold_bytes: int | None = None
    prefault: bool | None = None
    """Off, with pages thp: a segment is only put at an address of 2 MiB. Nothing of it is touched or copied;
    huge pages can be made later, by its use or by process_madvise(MADV_COLLAPSE) from outside."""
    require: bool | None = None
    verbose: bool | None = None
    files: str | None = None
    """The socket of the keeper of files' regions; None leaves mapped files alone."""

    def check(self) -> Settings:
        """The settings themselves; InvalidRequest for a contradiction."""
        if self.pages not in PAGES:
            raise InvalidRequest(f"pages {self.pages!r} is unknown; write one of " + ", ".join(PAGES))
        if self.backend is None and (self.pages == "4k" or self.region is not None):
            raise InvalidRequest(
                "pages of 4k and regions need msharefs; name its backend, or use pages thp or hugetlb"
            )
        if self.backend is None and self.files is not None:
            raise InvalidRequest("files go into regions only, which need msharefs; name its backend")
        if self.backend is not None and self.pages == "thp":
            raise InvalidRequest("pages thp do not use a region; omit the region, or use pages 4k or hugetlb")
        return self

    def environment(self, library: str) -> dict[str, str]:
        """The environment variables for a program that is started with the library."""
        self.check()
        given: dict[str, object] = {
            "PAGES": self.pages,
            "BACKEND": self.backend,
            "ROOT": self.root,
            "REGION": self.region,
            "REGION_BYTES": self.region_bytes,
            "HUGE_DIRECTORY": self.huge_directory,
            "FILES": self.files,
            "THRESHOLD": self.threshold_bytes,
            "PREFAULT": None if self.prefault is None else int(self.prefault),
            "REQUIRE": None if self.require is None else int(self.require),
            "VERBOSE": None if self.verbose is None else int(self.verbose),
        }
        return {
            "LD_PRELOAD": library,
            **{PREFIX + name: str(value) for name, value in given.items() if value is not None},
        }


def preloaded(environment: dict[str, str]) -> list[str]:
    """The libraries that an environment preloads."""
    return environment.get("LD_PRELOAD", "").replace(":", " ").split()


def has_ours(environment: dict[str, str]) -> bool:
    """Whether an environment preloads our library, wherever it is installed."""
    return os.path.basename(LIBRARY) in map(os.path.basename, preloaded(environment))


def requested_pages(environment: dict[str, str]) -> str | None:
    """Which pages an environment asks the library for; None where it is not preloaded."""
    return environment.get(f"{PREFIX}PAGES") if has_ours(environment) else None
