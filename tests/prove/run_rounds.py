# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a machine: deploy a mount, a region and clients by the Python interface, and remove all of it."""

from __future__ import annotations

import sys

from mshare.clients.converge import ClientsAbsent, ClientsPresent
from mshare.clients.spec import ClientsSpec
from mshare.converge.request import apply
from mshare.mount.converge import mount_absent, mount_present
from mshare.mount.spec import MountSpec
from mshare.region.converge import RegionAbsent, RegionPresent
from mshare.region.spec import RegionSpec

PROGRAM = [sys.executable, "-m", "mshare"]
ROOT = "/run/msharefs"


def main() -> None:
    region = RegionSpec.from_dict({"name": "sga", "size": "64MiB", "pattern": True, "backend": "simulated"})
    clients = ClientsSpec.from_dict({"region": "sga", "count": 3, "span": "4MiB", "backend": "simulated"})
    mount_present(MountSpec("simulated", ROOT))
    made = apply(RegionPresent(region, PROGRAM)).facts
    attached = apply(ClientsPresent(clients, PROGRAM, require_all=True)).facts
    assert getattr(made, "health", None) == "healthy", made
    assert getattr(attached, "attached", None) == clients.count, attached
    apply(ClientsAbsent("sga"))
    apply(RegionAbsent("sga"))
    mount_absent(ROOT)


if __name__ == "__main__":
    main()
