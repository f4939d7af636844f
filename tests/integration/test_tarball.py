# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user gets it: built, installed into an empty folder, and run from there by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.hosts import REPOSITORY, Host

SMALL = {"mshare_region_size": "64MiB", "mshare_clients_count": 3}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    galaxy = str(Path(sys.executable).parent / "ansible-galaxy")
    # What is installed already does not matter, and neither does the network.
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    collection = ("collection", "build", "--output-path", str(tmp_path), str(REPOSITORY))
    subprocess.run([galaxy, *collection], check=True, stdout=subprocess.PIPE, env=environment)
    (tarball,) = tmp_path.glob("dbmem-mshare-*.tar.gz")
    install = ("collection", "install", "--offline", str(tarball), "-p", str(tmp_path / "collections"))
    subprocess.run([galaxy, *install], check=True, stdout=subprocess.PIPE, env=environment)
    return tmp_path / "collections"


def test_deploy_and_teardown_from_the_tarball(host: Host, installed: Path) -> None:
    before = host.snapshot()
    deployed = host.playbook("dbmem.mshare.deploy", variables=SMALL, collections=installed).succeeded()
    assert str(REPOSITORY / "plugins") not in deployed.output
    assert deployed["Attach the clients"]["clients"]["attached"] == 3
    again = host.playbook("dbmem.mshare.deploy", variables=SMALL, collections=installed).succeeded()
    assert again.recap["changed"] == 0
    # The clone and the tarball install the same library.
    from_clone = host.playbook("dbmem.mshare.deploy", variables=SMALL).succeeded()
    assert from_clone.recap["changed"] == 0
    host.playbook("dbmem.mshare.teardown", collections=installed).succeeded()
    assert host.changed_since(before) == []
