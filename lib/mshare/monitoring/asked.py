# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which servers were set up to have the preloaded library, and had it, by the records of the host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .. import files, paths
from ..errors import MshareError, sentence
from ..postgresql import configuration
from ..postgresql.spec import NATIVE
from ..record import Place, build, load
from ..survey.record import InstanceRecord

_DEBIAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)-(.+)\Z")
_CONFIGURATION = "/etc/postgresql"
_NEXT_STEP = "put the file back from a backup, or remove it and run the role dbmem.mshare.postgresql again"


@dataclass(frozen=True)
class Asked:
    """Servers that should have the library, by what a survey knows of them."""

    data_directories: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    def of(self, instance: InstanceRecord) -> bool:
        return instance.data_directory in self.data_directories or instance.unit in self.units

    @classmethod
    def on_this_host(cls) -> Asked:
        """By the records that the module mshare_postgresql keeps: of servers that had the library once."""
        directories, units, unread = set(), set(), []
        try:
            names = _names()
        except OSError as error:
            names, unread = [], [sentence(error)]
        for name in names:
            try:
                if _had_library(name):
                    units.add(_unit(name))
                    directories.add(_data_directory(name))
            except (MshareError, OSError) as error:
                unread.append(sentence(error))
        return cls(frozenset(filter(None, directories)), frozenset(units), tuple(unread))


@dataclass(frozen=True)
class _Known:
    pages: str
    verified: Mapping[str, object] | None = None
    """The server in which the memory was seen where the library puts it; missing until then."""


def _names() -> list[str]:
    folder = os.path.dirname(paths.spec_file("postgresql", "any"))
    return sorted(name[: -len(".json")] for name in files.final_names(folder) if name.endswith(".json"))


def _had_library(name: str) -> bool:
    path = paths.spec_file("postgresql", name)
    text = files.read_text(path)
    if text is None:
        return False
    known = build(_Known, load(text, path, _NEXT_STEP), Place(path, _NEXT_STEP))
    return known.pages != NATIVE and known.verified is not None


def _unit(name: str) -> str:
    return f"postgresql@{name}.service" if _DEBIAN.match(name) else f"{name}.service"


def _data_directory(name: str) -> str | None:
    """Of a cluster of Debian's, by its postgresql.conf."""
    debian = _DEBIAN.match(name)
    if debian is None:
        return None
    main = os.path.join(_CONFIGURATION, debian[1], debian[2], "postgresql.conf")
    default = f"/var/lib/postgresql/{debian[1]}/{debian[2]}"
    return configuration.settings(_Here(), main, "", {}).get("data_directory", (default, ""))[0]


class _Here:
    """Configuration files of this host; that a cluster's data lies elsewhere stands in the main one."""

    def content(self, path: str) -> str | None:
        return files.read_text(path)

    def place(self, path: str) -> str:
        return path

    def listed(self, path: str) -> list[str]:
        return []
