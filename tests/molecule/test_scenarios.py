# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""molecule: the scenarios of this repository, and the one that users copy.

The scenario `vm` takes minutes and has a stage of its own (`tests/run molecule_vm`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from rig import documents, patience
from rig.hosts.fleet import Fleet
from rig.wheels import wheels

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


@pytest.fixture
def galaxy(tmp_path: Path) -> Iterator[str]:
    """The address of an Ansible Galaxy that has this collection."""
    build = run(REPOSITORY, tmp_path, "ansible-galaxy", "collection", "build", f"--output-path={tmp_path}")
    assert build.returncode == 0, build.stdout
    (tarball,) = tmp_path.glob("dbmem-mshare-*.tar.gz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = REPOSITORY / "tests" / "rig" / "galaxy.py"
    with subprocess.Popen([sys.executable, str(program), str(tarball), str(port)]) as server:
        try:
            patience.eventually(lambda: _listens(port), "the Galaxy does not listen")
            yield f"http://127.0.0.1:{port}/api/"
        finally:
            server.kill()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_the_page_about_molecule_as_it_is_typed(tmp_path: Path, host: Fleet, galaxy: str) -> None:
    """A user's copy of the scenario needs the installed collection only."""
    home, state = tmp_path / "home", tmp_path / "state"
    home.mkdir()
    # What a user edits: the name and the address of a host.
    example = REPOSITORY / "examples" / "molecule" / "default" / "inventory.ini"
    named = [line for line in example.read_text().splitlines() if not line.startswith("testhost ")]
    edited = tmp_path / "edited.ini"
    edited.write_text("\n".join([*named, host.inventory.read_text()]))
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\ncase $1 in *.ini) cp {edited} "$1";; esac\n')
    editor.chmod(0o755)

    # The versions that the tests have, from a folder instead of PyPI.
    versions = [f"{name} == {version(name)}" for name in ("molecule", "ansible-core")]
    script = documents.script("docs/molecule.md: Your own scenario")
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=home,
        env={
            "ANSIBLE_GALAXY_SERVER_LIST": "here",
            "ANSIBLE_GALAXY_SERVER_HERE_URL": galaxy,
            "EDITOR": str(editor),
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "MOLECULE_EPHEMERAL_DIRECTORY": str(state),
            "NO_COLOR": "1",
            "PATH": os.environ["PATH"],
            "PIP_FIND_LINKS": str(wheels(f"{sys.version_info[0]}.{sys.version_info[1]}", versions)),
            "PIP_NO_INDEX": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0
    assert steps(done.stdout, "default") == ORDER
    assert str(REPOSITORY / "plugins") not in done.stdout
    assert subprocess.run(host.ssh_command(0, "ls", "/etc/mshare"), check=False).returncode != 0
