# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else sets huge pages at boot: files of an administrator, of packages, of tuned, and the kernel's
command line, in the order in which they take effect. The last one wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator

from ..host.huge_pages import nr_file
from ..host.limits import Host
from ..units import GIB, MIB, parse_size
from . import scripts, tuned
from .kernel import TRANSPARENT
from .setting import COMMAND_LINE, Setting, is_of_huge_pages, named, sysctl_lines

_SYSCTL_FOLDERS = (
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
)
_TMPFILES_FOLDERS = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")
_SYSCTL_CONF = "/etc/sysctl.conf"
# Debian's sysfsutils writes these at boot, by paths below /sys; its dpdk writes pools of two sizes.
_SYSFS = ("/etc/sysfs.conf", "/etc/sysfs.d/*.conf")
_SYSFS_LINE = re.compile(r"^\s*/?(?:sys/)?([\w./-]+)\s*=\s*(\S+)\s*$")
_DPDK = "/etc/dpdk/dpdk.conf"
_DPDK_LINE = re.compile(r"^\s*NR_(2M|1G)_PAGES=[\"']?([0-9]+)")


def settings(host: Host, default_bytes: int | None, ours: Iterable[str] = ()) -> list[Setting]:
    """Everything that sets huge pages at boot, in order of effect, without files that are `ours`."""
    known = set(ours)
    sources: tuple[Callable[[Host, int | None], Iterator[Setting]], ...] = (
        _command_line,
        _sysctl,
        _tmpfiles,
        _sysfs,
        _dpdk,
        scripts.settings,
        tuned.settings,
    )
    every = (setting for source in sources for setting in source(host, default_bytes))
    return [
        each for setting in every if setting.file not in known for each in named(host, setting, default_bytes)
    ]


def _command_line(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    size_bytes = default_bytes
    for word in (host.read(COMMAND_LINE) or "").split():
        name, __, value = word.partition("=")
        if name in ("hugepagesz", "default_hugepagesz"):
            size_bytes = _size(value)
        elif name == "hugepages" and size_bytes is not None:
            # 512, or 0:256,1:256 by NUMA node.
            for node, count in _by_node(value):
                yield Setting(COMMAND_LINE, nr_file(size_bytes, node), count)
        elif name == "transparent_hugepage":
            yield Setting(COMMAND_LINE, TRANSPARENT, value)
        elif name.startswith(("sysctl.", "sysctl/")):
            yield from sysctl_lines(COMMAND_LINE, f"{name[len('sysctl.') :]} = {value}")


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
    is_linked = False
    for path in _by_name(host, _SYSCTL_FOLDERS):
        # Debian and EL have a link to sysctl.conf among them, 99-sysctl.conf.
        if os.path.realpath(host.path(path)) != os.path.realpath(host.path(_SYSCTL_CONF)):
            yield from sysctl_lines(path, host.read(path))
        elif host.runs_systemd():
            is_linked = True
            yield from sysctl_lines(_SYSCTL_CONF, host.read(_SYSCTL_CONF))
    if not is_linked:
        # `sysctl --system`, which is what reads them without systemd, reads it last.
        yield from sysctl_lines(_SYSCTL_CONF, host.read(_SYSCTL_CONF))


def _by_name(host: Host, folders: tuple[str, ...]) -> list[str]:
    """The files in effect: by their names, of which a folder listed earlier hides those of later ones."""
    names: dict[str, str] = {}
    for folder in folders:
        for path in host.files(f"{folder}/*.conf"):
            names.setdefault(os.path.basename(path), path)
    return [names[name] for name in sorted(names)]


def _tmpfiles(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    """Of lines for the same path, the first is applied and others are ignored, which are given first here."""
    applied: dict[str, Setting] = {}
    for path in _by_name(host, _TMPFILES_FOLDERS):
        for line in (host.read(path) or "").split("\n"):
            fields = line.split(None, 6)
            if len(fields) == 7 and fields[0][:1] == "w" and is_of_huge_pages(fields[1]):
                setting = Setting(path, fields[1], fields[6].strip())
                if applied.setdefault(fields[1], setting) is not setting:
                    yield setting
    yield from applied.values()


def is_earlier(setting: Setting, than: str) -> bool:
    """Whether a setting has no effect after a file of sysctl.d or tmpfiles.d that sets the same."""
    if setting.file == COMMAND_LINE:
        return True
    folder, name = os.path.split(setting.file)
    our_folder, our_name = os.path.split(than)
    # Which of systemd-sysctl and systemd-tmpfiles comes first is not defined; what differs may win.
    if os.path.basename(folder) != os.path.basename(our_folder):
        return False
    if os.path.basename(folder) == "tmpfiles.d" and not setting.by_pattern:
        return name > our_name
    return name < our_name


def _sysfs(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for path in (path for pattern in _SYSFS for path in host.files(pattern)):
        for line in (host.read(path) or "").split("\n"):
            match = _SYSFS_LINE.match(line)
            if match is not None and is_of_huge_pages(f"/sys/{match[1]}"):
                yield Setting(path, f"/sys/{match[1]}", match[2])


def _dpdk(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    for line in (host.read(_DPDK) or "").split("\n"):
        match = _DPDK_LINE.match(line)
        # 0 is what it ships with, and does nothing.
        if match is not None and int(match[2]):
            size_bytes = 2 * MIB if match[1] == "2M" else GIB
            yield Setting(_DPDK, nr_file(size_bytes), match[2])
