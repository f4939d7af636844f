# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths, for root and for ordinary users; the environment can change them for tests."""

from __future__ import annotations

import hashlib
import os

from .errors import Unavailable

KERNEL_ROOT = "/sys/fs/mshare"
SIMULATED_SOURCE = "mshare-simulated"
REGION_MEMORY = "mshare-region:"
"""What the memory of a region without a file is called in /proc/PID/maps, before the region's name."""
"""The source of a simulated root's tmpfs in mountinfo, by which it is recognized."""


SYSTEM_RUN_DIR = "/run"
PACKAGE = os.path.dirname(os.path.abspath(__file__))
"""The folder of this library. No other file derives it from its own place, which may move."""


def is_root() -> bool:
    return os.geteuid() == 0


def simulated_root() -> str:
    """The default root of the simulated backend; for an ordinary user on /dev/shm."""
    return "/run/msharefs" if is_root() else f"/dev/shm/msharefs-{os.geteuid()}"


def config_dir() -> str:
    """The specifications of regions, clients and mounts. Survives a reboot."""
    own = _directory("MSHARE_CONFIG_DIR", "/etc", "XDG_CONFIG_HOME")
    return own or os.path.expanduser("~/.config/mshare")


def state_dir() -> str:
    """Status files, locks and logs. Gone after a reboot.

    Unavailable where XDG_RUNTIME_DIR is another user's, as su and sudo leave it.
    """
    if "MSHARE_STATE_DIR" not in os.environ and not is_root():
        _require_own("XDG_RUNTIME_DIR")
    return _directory("MSHARE_STATE_DIR", SYSTEM_RUN_DIR, "XDG_RUNTIME_DIR") or f"/tmp/mshare-{os.geteuid()}"


def _require_own(variable: str) -> None:
    directory = os.environ.get(variable)
    try:
        if not directory or os.stat(directory).st_uid == os.geteuid():
            return
    except PermissionError:
        pass
    except OSError:
        return
    raise Unavailable(
        f"{variable} is {directory}, which belongs to another user than uid {os.geteuid()} (su and sudo keep"
        f" the variable); unset it, set it to /run/user/{os.geteuid()}, or set MSHARE_STATE_DIR"
    )


def system_state_dir() -> str | None:
    """Where root's status files are, for a user who has a directory of their own; None for everybody else."""
    return None if is_root() or "MSHARE_STATE_DIR" in os.environ else os.path.join(SYSTEM_RUN_DIR, "mshare")


def cache_dir() -> str:
    """The preload, which can be built again. Root's is readable by other users' programs."""
    own = _directory("MSHARE_CACHE_DIR", "/var/cache", "XDG_CACHE_HOME")
    return own or os.path.expanduser("~/.cache/mshare")


def _directory(variable: str, of_root: str, of_user: str) -> str | None:
    """What a variable names; else `mshare` below root's directory, or below that of another user, which a
    variable of the XDG specification names. None where that is not set."""
    if variable in os.environ:
        return os.environ[variable]
    above = of_root if is_root() else os.environ.get(of_user)
    return os.path.join(above, "mshare") if above else None


_SPECS = ("regions", "clients", "mounts", "collapse")


def spec_directories() -> list[str]:
    """Where specifications are: a directory for each kind."""
    return [os.path.join(config_dir(), what) for what in _SPECS]


DIRECTORIES_MAXIMUM = 3
"""How many directories a region may be below its root."""


def file_name(region: str) -> str:
    """A region's name as one file name, which is also an instance of a systemd unit: sales/sga -> sales:sga.

    No part of a region's name has a colon, so no two regions get the same file. A dash would not do: in the
    name of a slice it stands for the slice above.
    """
    return region.replace("/", ":")


def region_name(file_name: str) -> str:
    """Undoes `file_name`."""
    return file_name.replace(":", "/")


def spec_file(what: str, name: str) -> str:
    """A specification: of a region, clients, a mount, or what keeps a server collapsed."""
    return os.path.join(config_dir(), what, f"{file_name(name)}.json")


def monitoring_file() -> str:
    """What is written down of the monitoring that was set up on this host."""
    return os.path.join(config_dir(), "monitoring.json")


def keeper_socket(root: str) -> str:
    """Where the keeper of files listens for an msharefs. Beside it are its `.lock` and its `.users`."""
    name = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:12]
    return os.path.join(state_dir(), f"files-{name}.sock")


def escape(path: str) -> str:
    """A path as one file name, the way systemd names mount units: /sys/fs/mshare -> sys-fs-mshare."""
    relative = os.path.normpath(path).strip("/")
    if not relative:
        return "-"
    escaped = []
    for index, character in enumerate(relative):
        plain = character.isascii() and (character.isalnum() or character in ":_.")
        if character == "/":
            escaped.append("-")
        elif plain and not (index == 0 and character == "."):
            escaped.append(character)
        else:
            escaped.extend(f"\\x{byte:02x}" for byte in os.fsencode(character))
    return "".join(escaped)
