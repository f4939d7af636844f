# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""molecule: the scenarios of this repository, and the one that users copy.

The scenario `vm` takes minutes and has a stage of its own (`tests/run molecule_vm`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rig.hosts.fleet import Fleet

REPOSITORY = Path(__file__).resolve().parents[2]
CLONE = REPOSITORY / ".venv" / "collections"
PROGRAMS = Path(sys.executable).parent
ORDER = ["check", "converge", "idempotence", "verify", "cleanup"]


def run(folder: Path, collections: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of ours in a folder, with nothing of a user's settings."""
    return subprocess.run(
        [str(PROGRAMS / words[0]), *words[1:]],
        cwd=folder,
        env={
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "HOME": os.environ["HOME"],
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def molecule(
    folder: Path, scenario: str, state: Path, collections: Path = CLONE, **environment: str
) -> subprocess.CompletedProcess[str]:
    words = ("molecule", "test", "--no-command-borders", "-s", scenario)
    done = run(folder, collections, *words, MOLECULE_EPHEMERAL_DIRECTORY=str(state), **environment)
    print(done.stdout)
    return done


def steps(output: str, scenario: str) -> list[str]:
    """What molecule did, in its order, of what a scenario is about."""
    done = [line.partition(" > ")[2].partition("]")[0] for line in output.splitlines() if "Executing" in line]
    assert f"[{scenario} > " in output
    return [step for step in done if step in ORDER]


def test_default_on_hosts_of_its_own(tmp_path: Path) -> None:
    done = molecule(REPOSITORY, "default", tmp_path)
    assert done.returncode == 0
    assert steps(done.stdout, "default") == ["check", "verify", *ORDER[1:], "verify"]
    # Two hosts, each compared with nothing twice.
    assert done.stdout.count("TASK [Compare with nothing]") == 2
    assert "no hosts matched" not in done.stdout


def test_kernel_is_skipped_for_one_reason(tmp_path: Path) -> None:
    done = molecule(REPOSITORY, "kernel", tmp_path)
    assert done.returncode == 0
    assert " ".join(done.stdout.split()).count("skipped: no host with mshare is named") == 1


def test_kernel_refuses_an_inventory_without_hosts(tmp_path: Path) -> None:
    done = molecule(REPOSITORY, "kernel", tmp_path, MSHARE_KERNEL_INVENTORY="nowhere.ini")
    assert done.returncode != 0
    assert "Ansible found no host in it" in " ".join(done.stdout.split())


def test_kernel_refuses_a_host_without_mshare(tmp_path: Path, host: Fleet) -> None:
    done = molecule(REPOSITORY, "kernel", tmp_path, MSHARE_KERNEL_INVENTORY=str(host.inventory))
    assert done.returncode != 0
    assert "backend kernel was requested, but kernel" in " ".join(done.stdout.split())


def test_a_users_copy_needs_the_installed_collection_only(tmp_path: Path, host: Fleet) -> None:
    collections, project, state = (tmp_path / name for name in ("collections", "project", "state"))
    build = run(REPOSITORY, collections, "ansible-galaxy", "collection", "build", f"--output-path={tmp_path}")
    assert build.returncode == 0, build.stdout
    (tarball,) = tmp_path.glob("dbmem-mshare-*.tar.gz")
    words = ("collection", "install", "--offline", str(tarball), "-p", str(collections))
    installed = run(tmp_path, collections, "ansible-galaxy", *words)
    assert installed.returncode == 0, installed.stdout

    example = collections / "ansible_collections" / "dbmem" / "mshare" / "examples" / "molecule"
    shutil.copytree(example, project / "molecule")
    # What a user edits: the name and the address of a host.
    inventory = project / "molecule" / "default" / "inventory.ini"
    named = [line for line in inventory.read_text().splitlines() if not line.startswith("testhost ")]
    inventory.write_text("\n".join([*named, host.inventory.read_text()]))

    done = molecule(project, "default", state, collections)
    assert done.returncode == 0
    assert steps(done.stdout, "default") == ORDER
    assert str(REPOSITORY / "plugins") not in done.stdout
    assert subprocess.run(host.ssh_command(0, "ls", "/etc/mshare"), check=False).returncode != 0
