# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits in files of a host, below a root that tests can choose."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from glob import glob

from . import procfs
from .mounts import Mount, parse_mounts

# Without a limit, cgroup v1 has a number near 2**63 that depends on the page size.
_NO_LIMIT_BYTES = 1 << 60
_CAP_SYS_ADMIN = 21
_CAP_SYS_RESOURCE = 24
_INITIAL_UID_MAP = ["0", "0", str((1 << 32) - 1)]


@dataclass(frozen=True)
class CgroupLimit:
    """The limit of a cgroup or of a parent."""

    path: str
    """The file that contains the limit."""
    limit: int
    """Bytes, or processes and threads, as its controller counts."""


@dataclass(frozen=True)
class Host:
    """The files of this host, or of a tree that looks like one."""

    root: str = "/"
    keeps: bool = False
    """Reads each file once: for somebody who asks much about one moment."""

    def path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def read(self, path: str) -> str | None:
        """A file's text, or None if it is missing or unreadable."""
        if not self.keeps:
            return self._read(path)
        if path not in self._kept:
            self._kept[path] = self._read(path)
        return self._kept[path]

    def _read(self, path: str) -> str | None:
        try:
            return procfs.content(self.path(path)).decode("utf-8", "replace")
        except OSError:
            return None

    @cached_property
    def _kept(self) -> dict[str, str | None]:
        return {}

    def number(self, path: str) -> int:
        """The number in a file; 0 if it is missing."""
        text = (self.read(path) or "").strip()
        return int(text) if text.isdigit() else 0

    def memory_bytes(self, field: str) -> int:
        """A size in /proc/meminfo."""
        return procfs.kib_fields(self.read("/proc/meminfo") or "").get(field, 0)

    def address_space_bytes(self) -> int | None:
        """RLIMIT_AS (soft) of this process, which its children inherit; None without a limit."""
        return self._soft_limit("Max address space", "self")

    def processes_limit(self, pid: int | str = "self") -> int | None:
        """RLIMIT_NPROC (soft) of a process, where it holds for its user: how many processes and threads that
        user may have. None without a limit."""
        return None if self._may_exceed(pid) else self._soft_limit("Max processes", pid)

    def _soft_limit(self, name: str, pid: int | str) -> int | None:
        match = re.search(rf"^{name}\s+(\S+)", self.read(f"/proc/{pid}/limits") or "", re.MULTILINE)
        return int(match[1]) if match and match[1].isdigit() else None

    def _may_exceed(self, pid: int | str) -> bool:
        """Whether the kernel lets a process exceed RLIMIT_NPROC: root, or one with a capability, neither of
        which counts in a user namespace."""
        if (self.read(f"/proc/{pid}/uid_map") or "").split() not in ([], _INITIAL_UID_MAP):
            return False
        status = self.read(f"/proc/{pid}/status") or ""
        capabilities = int(_status_field(status, "CapEff") or "0", 16)
        exempt = capabilities >> _CAP_SYS_RESOURCE & 1 or capabilities >> _CAP_SYS_ADMIN & 1
        return bool(exempt) or _status_field(status, "Uid") == "0"

    def threads(self) -> int:
        """How many processes and threads there are on this host; each has a number of its own."""
        words = (self.read("/proc/loadavg") or "").split()
        return int(words[3].partition("/")[2]) if len(words) > 3 else 0

    def threads_of_user(self, pid: int | str) -> int:
        """How many processes and threads a process's user has, as far as /proc shows them."""
        uid = _status_field(self.read(f"/proc/{pid}/status") or "", "Uid")
        statuses = [self.read(f"/proc/{each}/status") or "" for each in self._pids()]
        own = [text for text in statuses if uid and _status_field(text, "Uid") == uid]
        return sum(int(_status_field(text, "Threads") or 1) for text in own)

    def _pids(self) -> list[str]:
        return [entry for entry in os.listdir(self.path("/proc")) if entry.isdigit()]

    def may_mount(self) -> bool:
        """Whether this process has CAP_SYS_ADMIN."""
        match = re.search(r"^CapEff:\s+([0-9a-f]+)$", self.read("/proc/self/status") or "", re.MULTILINE)
        return match is None or bool(int(match[1], 16) >> _CAP_SYS_ADMIN & 1)

    def container(self) -> str | None:
        """The kind of container that this is; None outside of containers."""
        environment = (self.read("/proc/1/environ") or "").split("\0")
        names = [line.partition("=")[2] for line in environment if line.startswith("container=")]
        if names or self.read("/run/systemd/container"):
            return (names or [(self.read("/run/systemd/container") or "").strip()])[0]
        files = {"/run/.containerenv": "podman", "/.dockerenv": "docker"}
        return next((kind for path, kind in files.items() if os.path.exists(self.path(path))), None)

    def runs_systemd(self) -> bool:
        """sd_booted(3)."""
        return os.path.isdir(self.path("/run/systemd/system"))

    def files(self, pattern: str) -> list[str]:
        """The files that match a pattern, as paths on the host."""
        above = self.root.rstrip("/")
        return sorted(path[len(above) :] for path in glob(above + pattern))

    def setting(self, name: str, key: str) -> tuple[str, str] | None:
        """The value of KEY=value in /etc/systemd/NAME.conf or its drop-ins, and the file that sets it.

        The file as shipped has the defaults of this build as comments, so these are known as well.
        """
        main = [f"/usr/lib/systemd/{name}.conf", f"/etc/systemd/{name}.conf"]
        drop_ins = [
            file
            for top in ("/usr/lib", "/run", "/etc")
            for file in self.files(f"{top}/systemd/{name}.conf.d/*.conf")
        ]
        return self._last_setting([*main, *drop_ins], key) or self._last_setting(main, f"#{key}")

    def _last_setting(self, files: Iterable[str], key: str) -> tuple[str, str] | None:
        lines = [
            (value, file)
            for file in files
            for value in re.findall(rf"^{key}=(\S+)", self.read(file) or "", re.MULTILINE)
        ]
        return lines[-1] if lines else None

    def cgroup_limits(
        self,
        controller: str,
        v1_file: str,
        v2_file: str,
        below: str | None = None,
        pid: int | str = "self",
    ) -> list[CgroupLimit]:
        """The limits of a cgroup and its parents: a process's cgroup, or the cgroup at a path."""
        return [
            CgroupLimit(file, int(text))
            for folder, name in self._hierarchies(controller, v1_file, v2_file, below, pid)
            for file in _upwards(folder, name)
            for text in [(self.read(file) or "").strip()]
            if text.isdigit() and int(text) < _NO_LIMIT_BYTES
        ]

    def cgroup_memory_left(self, limit: CgroupLimit) -> int | None:
        """Bytes of memory that a cgroup can still take below its limit, as it can give back the page cache of
        files; None where its use cannot be read."""
        folder, name = os.path.split(limit.path)
        use, prefix = (
            ("memory.usage_in_bytes", "total_") if name.endswith("_in_bytes") else ("memory.current", "")
        )
        used = (self.read(f"{folder}/{use}") or "").strip()
        if not used.isdigit():
            return None
        stat = dict(line.partition(" ")[::2] for line in procfs.lines(self.read(f"{folder}/memory.stat")))
        cache = (stat.get(f"{prefix}{kind}_file", "0") for kind in ("active", "inactive"))
        return max(0, limit.limit - max(0, int(used) - sum(int(each) for each in cache if each.isdigit())))

    @cached_property
    def _cgroup_mounts(self) -> list[Mount]:
        mounts = parse_mounts(self.read("/proc/self/mountinfo"))
        return [mount for mount in mounts if mount.filesystem in ("cgroup", "cgroup2")]

    def _hierarchies(
        self, controller: str, v1_file: str, v2_file: str, below: str | None, pid: int | str
    ) -> Iterator[tuple[tuple[str, str], str]]:
        """(mount point, path in it) of the cgroup with the controller, and the file with its limit."""
        for hierarchy, controllers, path in procfs.cgroups(self.read(f"/proc/{pid}/cgroup")):
            if hierarchy == "0":
                folders = [mount.path for mount in self._cgroup_mounts if mount.filesystem == "cgroup2"]
                name = v2_file
            elif controller in controllers.split(","):
                folders = [mount.path for mount in self._cgroup_mounts if _has(mount, controller)]
                name = v1_file
            else:
                continue
            for folder in folders:
                yield (folder, below or path), name


def _status_field(text: str, name: str) -> str:
    """The first word of a field of /proc/PID/status; empty where it is missing."""
    match = re.search(rf"^{name}:\s+(\S+)", text, re.MULTILINE)
    return match[1] if match else ""


def _has(mount: Mount, controller: str) -> bool:
    return mount.filesystem == "cgroup" and controller in mount.super_options.split(",")


def _upwards(folder: tuple[str, str], name: str) -> list[str]:
    """A file in a cgroup and in each parent. In a container the path may not exist; the topmost does."""
    top, path = folder
    parts = [part for part in path.split("/") if part]
    return ["/".join([top, *parts[:count], name]) for count in range(len(parts), -1, -1)]
