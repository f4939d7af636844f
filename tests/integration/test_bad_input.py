# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules refuse: with a sentence, and with nothing half-done."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.bad_input import NEVER_PROVISIONED, PROVISIONED, Case
from integration.hosts import Host, Run


@dataclass(frozen=True)
class Refusals:
    run: Run
    left_behind: list[str]


WITHOUT_CFFI = {
    "directory": "/run/without-cffi/library",
    "executable": "/run/without-cffi/mshare",
    "require_imports": False,
}
PACKAGES = "import click, rich, yaml; print(*{m.__path__[0].rpartition('/')[0] for m in (click, rich, yaml)})"


def without_cffi(host: Host) -> str:
    return str(host.scratch / "without-cffi/bin/python")


def make_without_cffi(host: Host) -> None:
    """An interpreter that has all that the library imports but cffi."""
    packages = host.scratch / "packages"
    packages.mkdir()
    system = "/usr/bin/python3"
    for folder in subprocess.check_output([system, "-c", PACKAGES], text=True).split():
        for found in Path(folder).iterdir():
            if "cffi" not in found.name:
                (packages / found.name).symlink_to(found)
    host.do(system, "-m", "venv", "--without-pip", str(host.scratch / "without-cffi"))
    (site,) = (host.scratch / "without-cffi/lib").glob("*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")


def refuse(host: Host, cases: dict[str, Case]) -> Refusals:
    before = host.snapshot()
    python = {"python_without_cffi": without_cffi(host)}
    run = host.play([one.task(name) for name, one in cases.items()], vars=python).succeeded()
    return Refusals(run, host.changed_since(before))


@pytest.fixture(scope="module")
def never_provisioned(host: Host) -> Refusals:
    host.do("mkdir", "/run/full", "/run/full/something", "/run/taken")
    host.do("touch", "/run/file")
    host.do("install", "--directory", "--owner=nobody", "/run/nobody")
    host.do("ln", "-s", "/run", "/run/link")
    host.do("mount", "-t", "tmpfs", "other", "/run/taken")
    make_without_cffi(host)
    return refuse(host, NEVER_PROVISIONED)


@pytest.fixture(scope="module")
def provisioned(host: Host, never_provisioned: Refusals) -> Refusals:
    host.play(
        [
            {"dbmem.mshare.mshare_runtime": {}},
            {"dbmem.mshare.mshare_mount": {}},
            {"dbmem.mshare.mshare_runtime": {**WITHOUT_CFFI, "python": without_cffi(host)}},
            {"dbmem.mshare.mshare_mount": {"root": "/run/tiny", "size": "8MiB"}},
            {"dbmem.mshare.mshare_mount": {"root": "/run/old", "generation": "2025-01"}},
            {"dbmem.mshare.mshare_region": {"name": "sga", "size": "64MiB"}},
        ]
    ).succeeded()
    return refuse(host, PROVISIONED)


def check(refusals: Refusals, name: str, expected: Case) -> None:
    result = refusals.run[name]
    assert result.failed
    assert result.fields.get("changed", False) is False
    assert result.fields.get("error_kind") == expected.kind
    assert re.search(expected.says, result["msg"])
    assert "Traceback" not in result["msg"]


@pytest.mark.parametrize("name", NEVER_PROVISIONED)
def test_on_a_host_never_provisioned(never_provisioned: Refusals, name: str) -> None:
    check(never_provisioned, name, NEVER_PROVISIONED[name])


@pytest.mark.parametrize("name", PROVISIONED)
def test_on_a_host_that_is_provisioned(provisioned: Refusals, name: str) -> None:
    check(provisioned, name, PROVISIONED[name])


def test_nothing_half_done(never_provisioned: Refusals, provisioned: Refusals) -> None:
    assert never_provisioned.left_behind == []
    assert provisioned.left_behind == []
