# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else sets huge pages at boot: files of an administrator, of packages, of tuned, and the kernel's
command line, in the order in which they take effect. The last one wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Callable

from ..host.huge_pages import nr_file
from ..host.limits import Host
from ..units import GIB, KIB, MIB, parse_size
from .kernel import TRANSPARENT

_COMMAND_LINE = "/proc/cmdline"
_SYSCTL_FOLDERS = (
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
)
_TMPFILES_FOLDERS = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")
_SYSCTL_CONF = "/etc/sysctl.conf"
_TUNED_FOLDERS = ("/etc/tuned", "/etc/tuned/profiles", "/usr/lib/tuned", "/usr/lib/tuned/profiles")
_TUNED_DEPTH = 5
# Of units, those of an administrator: such as write a pool at boot have no other way.
_SCRIPTS = (
    "/etc/rc.local",
    "/etc/rc.d/rc.local",
    "/etc/crontab",
    "/etc/cron.d/*",
    "/var/spool/cron/root",
    "/var/spool/cron/crontabs/root",
    "/etc/systemd/system/*.service",
    "/etc/systemd/system/*.service.d/*.conf",
)
# Debian's sysfsutils writes these at boot, by paths below /sys; its dpdk writes pools of two sizes.
_SYSFS = ("/etc/sysfs.conf", "/etc/sysfs.d/*.conf")
_SYSFS_LINE = re.compile(r"^\s*/?(?:sys/)?([\w./-]+)\s*=\s*(\S+)\s*$")
_DPDK = "/etc/dpdk/dpdk.conf"
_DPDK_LINE = re.compile(r"^\s*NR_(2M|1G)_PAGES=[\"']?([0-9]+)")
# libhugetlbfs: hugeadm --pool-pages-min 2MB:512, --thp-never.
_HUGEADM_POOL = re.compile(r"\bhugeadm\b.*?--pool-pages-min[\s=]+(\w+):([+-]?\w+)")
_HUGEADM_THP = re.compile(r"\bhugeadm\b.*?--thp-(always|madvise|never)\b")
_HUGEADM_SIZE = re.compile(r"([0-9]+)([KMG])B?\Z", re.IGNORECASE)
_SYSCTL_LINE = re.compile(r"^\s*-?\s*([A-Za-z0-9_./-]+)\s*=\s*(.*?)\s*$")
_SCRIPT_PLACE = re.compile(r"(/(?:proc/)?sys/[\w./-]+|vm\.nr_hugepages)")
_SCRIPT_VALUE = re.compile(r"(?:^|[\s='\"])([0-9]+|always|madvise|never)(?=$|[\s'\">;])")

_BINARY = {"K": KIB, "M": MIB, "G": GIB}

DEFAULT_POOL = "vm.nr_hugepages"
SHM_GROUP = "vm.hugetlb_shm_group"
_ALIASES = {"vm.nr_hugepages_mempolicy": DEFAULT_POOL}


@dataclass(frozen=True)
class Setting:
    """A line that sets something at boot."""

    file: str
    what: str
    """A sysctl by its dotted name, or a file in /sys."""
    value: str

    @property
    def text(self) -> str:
        return f"{self.file} ({self.what} = {self.value})"


def settings(host: Host, default_bytes: int | None, ours: Iterable[str] = ()) -> list[Setting]:
    """Everything that sets huge pages at boot, in order of effect, without files that are `ours`."""
    known = set(ours)
    sources: tuple[Callable[[Host, int | None], Iterator[Setting]], ...] = (
        _command_line,
        _sysctl,
        _tmpfiles,
        _sysfs,
        _dpdk,
        _scripts,
        _tuned,
    )
    every = (setting for source in sources for setting in source(host, default_bytes))
    return [_named(setting, default_bytes) for setting in every if setting.file not in known]


def _named(setting: Setting, default_bytes: int | None) -> Setting:
    """The pool of the default size under one name, whoever sets it by which."""
    what = _ALIASES.get(setting.what, setting.what)
    if default_bytes is not None and what in (nr_file(default_bytes), "/proc/sys/vm/nr_hugepages"):
        what = DEFAULT_POOL
    return Setting(setting.file, what, setting.value)


def _command_line(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    size_bytes = default_bytes
    for word in (host.read(_COMMAND_LINE) or "").split():
        name, __, value = word.partition("=")
        if name in ("hugepagesz", "default_hugepagesz"):
            size_bytes = _size(value)
        elif name == "hugepages" and size_bytes is not None:
            # 512, or 0:256,1:256 by NUMA node.
            for node, count in _by_node(value):
                yield Setting(_COMMAND_LINE, nr_file(size_bytes, node), count)
        elif name == "transparent_hugepage":
            yield Setting(_COMMAND_LINE, TRANSPARENT, value)


def _by_node(value: str) -> Iterator[tuple[int | None, str]]:
    for part in value.split(","):
        node, colon, count = part.partition(":")
        yield (int(node), count) if colon and node.isdigit() else (None, part)


def _size(value: str) -> int | None:
    try:
        return parse_size(value)
    except ValueError:
        return None


def _sysctl(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for path in _by_name(host, _SYSCTL_FOLDERS):
        # Debian has a link to sysctl.conf among them; it is read in its own place, which is the last.
        if os.path.realpath(host.path(path)) != os.path.realpath(host.path(_SYSCTL_CONF)):
            yield from _sysctl_lines(path, host.read(path))
    yield from _sysctl_lines(_SYSCTL_CONF, host.read(_SYSCTL_CONF))


def _by_name(host: Host, folders: tuple[str, ...]) -> list[str]:
    """The files in effect: by their names, of which a folder listed earlier hides those of later ones."""
    names: dict[str, str] = {}
    for folder in folders:
        for path in host.files(f"{folder}/*.conf"):
            names.setdefault(os.path.basename(path), path)
    return [names[name] for name in sorted(names)]


def _sysctl_lines(path: str, text: str | None) -> Iterator[Setting]:
    for line in (text or "").split("\n"):
        match = _SYSCTL_LINE.match(line)
        if match is None or line.lstrip().startswith(("#", ";")):
            continue
        name = match[1].replace("/", ".")
        if name in (DEFAULT_POOL, SHM_GROUP, *_ALIASES):
            yield Setting(path, name, match[2])


def _tmpfiles(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for path in _by_name(host, _TMPFILES_FOLDERS):
        for line in (host.read(path) or "").split("\n"):
            fields = line.split(None, 6)
            if len(fields) == 7 and fields[0][:1] == "w" and _of_huge_pages(fields[1]):
                yield Setting(path, fields[1], fields[6])


def is_earlier(setting: Setting, than: str) -> bool:
    """Whether a setting takes effect before a file of sysctl.d or tmpfiles.d."""
    if setting.file == _COMMAND_LINE:
        return True
    folder, name = os.path.split(setting.file)
    # Which of systemd-sysctl and systemd-tmpfiles comes first is not defined; what differs may win.
    same = os.path.basename(folder) == os.path.basename(os.path.dirname(than))
    return same and name < os.path.basename(than)


def _of_huge_pages(path: str) -> bool:
    return path == TRANSPARENT or path.endswith("/nr_hugepages")


def _scripts(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for path in (path for pattern in _SCRIPTS for path in host.files(pattern)):
        for line in (host.read(path) or "").split("\n"):
            place, value = _SCRIPT_PLACE.search(line), _SCRIPT_VALUE.search(line)
            if line.lstrip().startswith("#"):
                continue
            yield from _hugeadm(path, line, default_bytes)
            if place is None or value is None:
                continue
            if _of_huge_pages(place[1]) or place[1] == DEFAULT_POOL:
                yield Setting(path, place[1], value[1])


def _hugeadm(path: str, line: str, default_bytes: int | None) -> Iterator[Setting]:
    for size, count in _HUGEADM_POOL.findall(line):
        match = _HUGEADM_SIZE.match(size)
        # Its units are binary: 2MB is 2 MiB.
        size_bytes = int(match[1]) * _BINARY[match[2].upper()] if match else default_bytes
        if size_bytes is not None:
            yield Setting(path, nr_file(size_bytes), count)
    for mode in _HUGEADM_THP.findall(line):
        yield Setting(path, TRANSPARENT, mode)


def _sysfs(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for path in (path for pattern in _SYSFS for path in host.files(pattern)):
        for line in (host.read(path) or "").split("\n"):
            match = _SYSFS_LINE.match(line)
            if match is not None and _of_huge_pages(f"/sys/{match[1]}"):
                yield Setting(path, f"/sys/{match[1]}", match[2])


def _dpdk(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for line in (host.read(_DPDK) or "").split("\n"):
        match = _DPDK_LINE.match(line)
        # 0 is what it ships with, and does nothing.
        if match is not None and int(match[2]):
            size_bytes = 2 * _BINARY["M"] if match[1] == "2M" else _BINARY["G"]
            yield Setting(_DPDK, nr_file(size_bytes), match[2])


def _tuned(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for name in (host.read("/etc/tuned/active_profile") or "").split():
        yield from _tuned_profile(host, name, _TUNED_DEPTH)


def _tuned_profile(host: Host, name: str, depth: int) -> Iterator[Setting]:
    path = next(
        (path for path in (f"{top}/{name}/tuned.conf" for top in _TUNED_FOLDERS) if host.read(path)), None
    )
    if path is None or not depth:
        return
    section = ""
    for line in (host.read(path) or "").split("\n"):
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped.strip("[]")
            continue
        key, equals, value = (part.strip() for part in stripped.partition("="))
        if not equals or key.startswith(("#", ";")):
            continue
        if section == "main" and key == "include":
            for included in re.split(r"[,\s]+", value):
                yield from _tuned_profile(host, included, depth - 1)
        elif section == "vm" and key in ("transparent_hugepages", "transparent_hugepage"):
            yield Setting(path, TRANSPARENT, value)
        elif section == "sysfs" and _of_huge_pages(key):
            yield Setting(path, key, value)
        else:
            yield from _sysctl_lines(path, f"{key} = {value}") if section == "sysctl" else ()
