# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The FUSE msharefs, mounted in a mount namespace of its own and reached through /proc/PID/root."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rig.patience import HANG_SECONDS, eventually

RIG = Path(__file__).with_name("fuse_msharefs.py")
NEEDS = "needs root, /dev/fuse, mfusepy and libfuse3"


def can_mount_fuse() -> bool:
    """Whether this machine has what NEEDS names."""
    return (
        os.geteuid() == 0
        and os.access("/dev/fuse", os.R_OK | os.W_OK)
        and importlib.util.find_spec("mfusepy") is not None
        and ctypes.util.find_library("fuse3") is not None
    )


class Mount:
    """A running FUSE msharefs."""

    def __init__(self, directory: Path, generation: str, *options: str) -> None:
        mountpoint = directory / "mnt"
        mountpoint.mkdir()
        self.log = directory / "requests.jsonl"
        server = [sys.executable, RIG, mountpoint, "--generation", generation, "--log", self.log]
        # It ends with a pytest that is killed, and with it its namespace and its mount.
        with_parent = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount"]
        self.server = subprocess.Popen([*with_parent, *map(str, server), *options])
        self.root = f"/proc/{self.server.pid}/root{mountpoint}"
        eventually(lambda: os.path.exists(self.path("mshare_info")))

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def create(self, name: str = "sga") -> int:
        return os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def requests(self, operation: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [record for record in records if record["op"] == operation]

    def forced_pages(self) -> list[dict[str, Any]]:
        """The accesses at which a kernel with mshare would warn: there must be none."""
        return self.requests("forced_page")

    def stop(self) -> int:
        self.server.terminate()
        return self.server.wait(HANG_SECONDS)
