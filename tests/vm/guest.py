# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest of the VM tests: commands, playbooks and modules on a machine that has a real systemd."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rig.debian import exclusive
from rig.patience import HANG_SECONDS, eventually
from rig.vm.image import Image, cache_dir, missing_tools
from rig.vm.machine import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
VM = REPOSITORY / "tests" / "rig" / "vm" / "vm.py"
NAME = "mshare-test"
_PROGRAMS = Path(sys.executable).parent


def why_not() -> str | None:
    """Why this machine cannot run the VM, if it cannot."""
    if os.geteuid() != 0:
        return "the VM tests run as root"
    missing = ", ".join(missing_tools())
    return f"the VM tests need QEMU and more; not installed: {missing}" if missing else None


def _vm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(VM), words[0], "--name", NAME, *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def started(scratch: Path, say: Callable[[str], object]) -> Iterator[Guest]:
    """A guest on which nothing of ours ever was; it ends with the block, whatever happens in there."""
    # Another clone's test run has a guest of the same name: one after the other.
    with exclusive(cache_dir() / "test.lock", say):
        try:
            guest = Guest(scratch)
            guest.renew()
            yield guest
        finally:
            _vm("stop")


class Guest:
    """A machine of its own, reached by ssh."""

    def __init__(self, scratch: Path) -> None:
        self._machine = Machine(NAME, Image(cache_dir() / "image"))
        self._scratch = scratch
        # One connection for commands and Ansible: to log in costs the guest more than most commands do.
        self._sharing = f"-o ControlMaster=auto -o ControlPersist=600 -o ControlPath={scratch}/ssh"

    # -- life

    def renew(self) -> None:
        """Start it from its image, whatever was."""
        self._disconnect()
        # What a killed run left is no guest on which nothing was.
        _vm("stop")
        start = _vm("start")
        assert start.returncode == 0, start.stderr
        # What plays install is in the image; indexes that count as old would be fetched.
        self.do("touch /var/lib/apt/lists")

    def reboot(self) -> None:
        self._disconnect()
        done = _vm("reboot")
        assert done.returncode == 0, done.stderr

    def _disconnect(self) -> None:
        words = ["ssh", *self._sharing.split(), "-O", "exit", "any"]
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    # -- commands

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command."""
        return subprocess.run(
            ["ssh", *self._sharing.split(), *self._machine.ssh_command(command)[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=HANG_SECONDS,
        )

    def do(self, command: str) -> str:
        """Run a shell command that has to succeed."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        self.do(f"cat > {path} <<'END'\n{text}END")

    # -- Ansible

    def playbook(self, name: str, /, *flags: str, **variables: Any) -> str:
        """Run a playbook of the collection, which has to succeed; returns its output."""
        return self.play(f"dbmem.mshare.{name}", *flags, mshare_hosts="all", **variables)

    def play(self, playbook: str, /, *flags: str, **variables: Any) -> str:
        """Run any playbook, which has to succeed; returns its output."""
        done = self._ansible("ansible-playbook", playbook, *flags, "-e", json.dumps(variables))
        assert done.returncode == 0, done.stdout
        print(done.stdout)  # For who reads a failure that comes later.
        return done.stdout

    def module(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Run a module; returns its result, failed or not."""
        words = ["all", "--one-line", "-m", f"dbmem.mshare.{name}", "-a", json.dumps(arguments)]
        done = self._ansible("ansible", *words)
        __, arrow, result = done.stdout.partition(" => ")
        assert arrow, done.stdout
        fields: dict[str, Any] = json.JSONDecoder().raw_decode(result)[0]
        return fields

    def _ansible(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".venv" / "collections"),
            "ANSIBLE_LOCAL_TEMP": str(self._scratch),
            "ANSIBLE_NOCOWS": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_ARGS": self._sharing,
            "LC_ALL": "C.UTF-8",
        }
        log = self._scratch / "ansible.log"
        with log.open("w") as output:
            try:
                done = subprocess.run(
                    [str(_PROGRAMS / program), "-i", str(self._machine.inventory), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    env=environment,
                    timeout=HANG_SECONDS,
                )
            except BaseException:
                # What it did last, for who reads why it did not end.
                print(log.read_text())
                raise
        return subprocess.CompletedProcess(done.args, done.returncode, log.read_text())

    # -- looks

    def units(self, *names: str) -> dict[str, dict[str, str]]:
        """What `systemctl show` says of units, by their names."""
        found = {}
        for block in self.do(f"systemctl show {' '.join(names)}").split("\n\n"):
            fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            found[fields["Id"]] = fields
        return found

    def region(self, name: str) -> dict[str, Any] | None:
        """A region as the command line lists it; None where there is none."""
        listed: list[dict[str, Any]] = json.loads(self.do("mshare list --json"))["regions"]
        return next((region for region in listed if region["name"] == name), None)

    def traces(self) -> list[str]:
        """Everything on the machine that is ours, by its name."""
        return self.do(
            "find / \\( -path /proc -o -path /sys -o -path /root/.ansible \\) -prune"
            " -o -name '*mshare*' -print;"
            " systemctl list-unit-files --no-legend '*mshare*';"
            " systemctl list-units --all --plain --no-legend '*mshare*';"
            " pgrep -af 'bin/[m]share'; grep mshare /proc/self/mountinfo /etc/group; true"
        ).splitlines()

    def journal(self, unit: str) -> str:
        """What a unit said since the last boot."""
        return self.do(f"journalctl --boot --no-pager --output=cat --unit={unit}")

    def eventually(self, condition: Any, what: str, seconds: float = 60) -> None:
        """Wait for what the guest does by itself."""
        # A look takes an ssh connection: so many of them are at least so many seconds.
        eventually(condition, lambda: f"waited in vain: {what}\n{self._said()}", looks=int(2 * seconds))

    def _said(self) -> str:
        return self.do(
            "journalctl --boot --no-pager --lines=60; tail -n 20 /var/log/postgresql/*.log || true"
        )
