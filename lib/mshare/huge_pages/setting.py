# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A line that sets huge pages at boot, and the usual names of what can be set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..host.huge_pages import nr_file
from ..host.limits import Host
from ..units import KIB
from .kernel import SHM_GROUP as SHM_GROUP_FILE
from .kernel import TRANSPARENT

COMMAND_LINE = "/proc/cmdline"
DEFAULT_POOL = "vm.nr_hugepages"
SHM_GROUP = "vm.hugetlb_shm_group"
_ALIASES = {
    "vm.nr_hugepages_mempolicy": DEFAULT_POOL,
    "/proc/sys/vm/nr_hugepages": DEFAULT_POOL,
    "/proc/sys/vm/nr_hugepages_mempolicy": DEFAULT_POOL,
    SHM_GROUP_FILE: SHM_GROUP,
}
_SYSCTL_LINE = re.compile(r"^\s*-?\s*([A-Za-z0-9_./-]+)\s*=\s*(.*?)\s*$")
_POOL_FILE = re.compile(r"hugepages-([0-9]+)kB/nr_hugepages\Z")


@dataclass(frozen=True)
class Setting:
    """A line that sets something at boot."""

    file: str
    what: str
    """A sysctl by its dotted name, or a file in /sys."""
    value: str
    """As it is written: a number, a mode, or what a script puts there."""
    by_pattern: bool = False
    """Whether the line has a pattern of paths."""

    @property
    def text(self) -> str:
        return f"{self.file} ({self.what} = {self.value})"


def named(host: Host, setting: Setting, default_bytes: int | None) -> Iterator[Setting]:
    """A setting under the usual names; of a pattern of paths one for each that the host has."""
    paths = [setting.what]
    if setting.what.startswith("/") and any(letter in setting.what for letter in "*?["):
        paths = host.files(setting.what)
    for path in paths:
        what = _ALIASES.get(path, path)
        pool = _POOL_FILE.search(path)
        if pool is not None and not path.startswith("/sys/"):
            # A script has a part of the path in a variable; what is meant at most is the host's pool.
            what = nr_file(int(pool[1]) * KIB)
        if default_bytes is not None and what == nr_file(default_bytes):
            what = DEFAULT_POOL
        yield Setting(setting.file, what, setting.value, path != setting.what)


def is_of_huge_pages(path: str) -> bool:
    """Whether a path is that of a setting of huge pages."""
    return path in (TRANSPARENT, *_ALIASES) or path.endswith("/nr_hugepages")


def sysctl_lines(path: str, text: str | None) -> Iterator[Setting]:
    """The lines of a file in the format of sysctl.d(5), where a pattern never has precedence over a name."""
    for line in (text or "").split("\n"):
        match = _SYSCTL_LINE.match(line)
        if match is None or line.lstrip().startswith(("#", ";")):
            continue
        name = match[1].replace("/", ".")
        if name in (DEFAULT_POOL, SHM_GROUP, *_ALIASES):
            yield Setting(path, name, match[2])
