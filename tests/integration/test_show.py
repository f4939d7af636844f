# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbooks print where nobody has set anything: no ansible.cfg, no variable of Ansible's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.hosts import COLLECTIONS

# Without the processes of other tests, whose page tables may not fit into this machine.
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc") if os.geteuid() == 0 else ()
WISH = ("-e", "mshare_plan_size=300GiB", "-e", "mshare_plan_clients=1500", "-e", "mshare_become=false")


def run(folder: Path, hosts: int, *words: str, **environment: str) -> list[str]:
    """The lines that a playbook prints for hosts that are all this machine."""
    inventory = folder / "hosts.ini"
    inventory.write_text("".join(f"db{number} ansible_connection=local\n" for number in range(1, hosts + 1)))
    done = subprocess.run(
        [
            *(*ALONE, str(Path(sys.executable).parent / "ansible-playbook"), *words, "-i", str(inventory)),
            *("-e", "mshare_hosts=all", "-e", "ansible_python_interpreter=/usr/bin/python3"),
        ],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


def shown(lines: list[str]) -> list[str]:
    """What is between the head of the last task and the recap."""
    start = max(number for number, line in enumerate(lines) if line.startswith("TASK [Show]"))
    end = next(number for number, line in enumerate(lines) if line.startswith("PLAY RECAP"))
    return [line for line in lines[start + 1 : end] if line]


def test_a_plan_is_printed_as_it_is(tmp_path: Path) -> None:
    lines = shown(run(tmp_path, 1, "dbmem.mshare.plan", *WISH))
    assert any(line.startswith("sga: 300 GiB") for line in lines)
    assert [line for line in lines if line.startswith(('"', " " * 4 + '"')) or "\\n" in line] == []
    # What is to be pasted is never broken.
    pasted = next(number for number, line in enumerate(lines) if line.endswith("to paste:"))
    assert [line for line in lines[:pasted] if len(line) > 80] == []


def test_each_of_several_hosts_has_its_name_before_its_lines(tmp_path: Path) -> None:
    lines = shown(run(tmp_path, 2, "dbmem.mshare.plan", *WISH))
    for host in ("db1", "db2"):
        assert lines.index(f"{host}:") < lines.index(f"ok: [{host}]")


def test_the_fleets_report_is_told_once(tmp_path: Path) -> None:
    lines = shown(run(tmp_path, 2, "dbmem.mshare.survey", "-e", "mshare_become=false"))
    assert lines[0] == "Both hosts survive their own maxima."
    assert lines[1].startswith("2 hosts surveyed")
    assert "db1:" not in lines
    assert lines[-2].endswith("/report.html")


@pytest.mark.parametrize("callback", ["minimal", "oneline"])
def test_another_callback_shows_them_in_its_own_way(tmp_path: Path, callback: str) -> None:
    lines = run(tmp_path, 1, "dbmem.mshare.plan", *WISH, ANSIBLE_STDOUT_CALLBACK=callback)
    assert any('"lines"' in line for line in lines)
    assert not any(line.startswith("sga: 300 GiB") for line in lines)
