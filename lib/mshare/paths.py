# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths, for root and for ordinary users; the environment can change them for tests."""

from __future__ import annotations

import os

KERNEL_ROOT = "/sys/fs/mshare"
SIMULATED_SOURCE = "mshare-simulated"
"""The source of a simulated root's tmpfs in mountinfo, by which it is recognized."""


PACKAGE = os.path.dirname(os.path.abspath(__file__))
"""The folder of this library. No other file derives it from its own place, which may move."""


def is_root() -> bool:
    return os.geteuid() == 0


def simulated_root() -> str:
    """The default root of the simulated backend; for an ordinary user on /dev/shm."""
    return "/run/msharefs" if is_root() else f"/dev/shm/msharefs-{os.geteuid()}"


def config_dir() -> str:
    """The specifications of regions, clients and mounts. Survives a reboot."""
    if "MSHARE_CONFIG_DIR" in os.environ:
        return os.environ["MSHARE_CONFIG_DIR"]
    if is_root():
        return "/etc/mshare"
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(home, "mshare")


def state_dir() -> str:
    """Status files, locks and logs. Gone after a reboot."""
    if "MSHARE_STATE_DIR" in os.environ:
        return os.environ["MSHARE_STATE_DIR"]
    if is_root():
        return "/run/mshare"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime, "mshare") if runtime else f"/tmp/mshare-{os.geteuid()}"


def cache_dir() -> str:
    """The preload, which can be built again. Root's is readable by other users' programs."""
    if "MSHARE_CACHE_DIR" in os.environ:
        return os.environ["MSHARE_CACHE_DIR"]
    if is_root():
        return "/var/cache/mshare"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "mshare")


def spec_file(what: str, name: str) -> str:
    """The specification of a region, of clients or of a mount ("regions", "clients", "mounts")."""
    return os.path.join(config_dir(), what, f"{name}.json")


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
