# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits as they are written on a host, below a root that tests can choose."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob

from ..units import KIB
from .mounts import Mount, parse_mounts

# Without a limit, cgroup v1 says a number near 2**63 that depends on the page size.
_NO_LIMIT_BYTES = 1 << 60
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True)
class CgroupLimit:
    """What a cgroup, or one above it, may take."""

    path: str
    """The file the limit is written in."""
    limit_bytes: int


@dataclass(frozen=True)
class Host:
    """Where the files are: the host's own, or a tree that looks like one."""

    root: str = "/"

    def path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def read(self, path: str) -> str | None:
        """A file's text, or None where it is missing or not ours to read."""
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def number(self, path: str) -> int:
        """A file's one number; 0 where it is missing."""
        text = (self.read(path) or "").strip()
        return int(text) if text.isdigit() else 0

    def memory_bytes(self, field: str) -> int:
        """A size in /proc/meminfo."""
        found = re.search(rf"^{field}:\s+(\d+) kB$", self.read("/proc/meminfo") or "", re.MULTILINE)
        return int(found[1]) * KIB if found else 0

    def address_space_bytes(self) -> int | None:
        """RLIMIT_AS (soft) of this process, which what it starts inherits; None without a limit."""
        found = re.search(r"^Max address space\s+(\S+)", self.read("/proc/self/limits") or "", re.MULTILINE)
        return int(found[1]) if found and found[1].isdigit() else None

    def may_mount(self) -> bool:
        """Whether this process has CAP_SYS_ADMIN."""
        found = re.search(r"^CapEff:\s+([0-9a-f]+)$", self.read("/proc/self/status") or "", re.MULTILINE)
        return found is None or bool(int(found[1], 16) >> _CAP_SYS_ADMIN & 1)

    def container(self) -> str | None:
        """What kind of container this is; None outside of one."""
        environment = (self.read("/proc/1/environ") or "").split("\0")
        said = [line.partition("=")[2] for line in environment if line.startswith("container=")]
        if said or self.read("/run/systemd/container"):
            return (said or [(self.read("/run/systemd/container") or "").strip()])[0]
        files = {"/run/.containerenv": "podman", "/.dockerenv": "docker"}
        return next((kind for path, kind in files.items() if os.path.exists(self.path(path))), None)

    def runs_systemd(self) -> bool:
        """sd_booted(3)."""
        return os.path.isdir(self.path("/run/systemd/system"))

    def files(self, pattern: str) -> list[str]:
        """The files that a pattern names, as paths on the host."""
        above = self.root.rstrip("/")
        return sorted(found[len(above) :] for found in glob(above + pattern))

    def setting(self, name: str, key: str) -> tuple[str, str] | None:
        """KEY=value in /etc/systemd/NAME.conf or its drop-ins, and the file that says it.

        A file as it is shipped has its defaults as comments, so those of this build are known as well.
        """
        main = [f"/usr/lib/systemd/{name}.conf", f"/etc/systemd/{name}.conf"]
        drop_ins = [
            file
            for top in ("/usr/lib", "/run", "/etc")
            for file in self.files(f"{top}/systemd/{name}.conf.d/*.conf")
        ]
        return self._said([*main, *drop_ins], key) or self._said(main, f"#{key}")

    def _said(self, files: Iterable[str], key: str) -> tuple[str, str] | None:
        lines = [
            (value, file)
            for file in files
            for value in re.findall(rf"^{key}=(\S+)", self.read(file) or "", re.MULTILINE)
        ]
        return lines[-1] if lines else None

    def cgroup_limits(
        self, controller: str, v1_file: str, v2_file: str, below: str | None = None
    ) -> list[CgroupLimit]:
        """The limits of a cgroup and of those above it: of this process's, or of one by its path."""
        return [
            CgroupLimit(file, int(text))
            for folder, name in self._hierarchies(controller, v1_file, v2_file, below)
            for file in _upwards(folder, name)
            for text in [(self.read(file) or "").strip()]
            if text.isdigit() and int(text) < _NO_LIMIT_BYTES
        ]

    def _hierarchies(
        self, controller: str, v1_file: str, v2_file: str, below: str | None
    ) -> Iterator[tuple[tuple[str, str], str]]:
        """(mount point, path in it) of the cgroup where the controller is, and the file with its limit."""
        mounts = parse_mounts(self.read("/proc/self/mountinfo"))
        for line in (self.read("/proc/self/cgroup") or "").splitlines():
            number, controllers, path = line.split(":", 2)
            for mount in mounts:
                if number == "0" and mount.filesystem == "cgroup2":
                    yield (mount.path, below or path), v2_file
                elif controller in controllers.split(",") and _has(mount, controller):
                    yield (mount.path, below or path), v1_file


def _has(mount: Mount, controller: str) -> bool:
    return mount.filesystem == "cgroup" and controller in mount.super_options.split(",")


def _upwards(folder: tuple[str, str], name: str) -> list[str]:
    """A file in a cgroup and in each above it. In a container the path may not exist; the topmost does."""
    top, path = folder
    parts = [part for part in path.split("/") if part]
    return ["/".join([top, *parts[:count], name]) for count in range(len(parts), -1, -1)]
