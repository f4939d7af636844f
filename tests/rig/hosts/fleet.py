# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One running fleet: the process that keeps it, its inventory, and its end."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rig.debian import remove_tree
from rig.hosts.base import BARE, Base, Kind, cache_dir, ensure_base, missing_tools, ssh_key
from rig.hosts.keeper import address
from rig.patience import HANG_SECONDS

HERE = Path(__file__).resolve().parent
_CGROUP_LOOKS = 1000
_CONNECTION = "to-"
# The ways of ssh that make a throw-away host quiet, and quick to reach again.
_SSH_OPTIONS = (
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "IdentitiesOnly=yes",
    "LogLevel=ERROR",
    # What is proof against the computers of tomorrow would take most of a connection's time.
    "KexAlgorithms=curve25519-sha256",
    "ProxyUseFdpass=yes",
)


def missing() -> str | None:
    """Why this machine cannot have a fleet."""
    if os.geteuid() != 0:
        return "hosts with namespaces of their own need root"
    tools = missing_tools()
    return f"not installed: {', '.join(tools)}" if tools else None


def unified_cgroups() -> Path | None:
    """Where control groups of version 2 are mounted."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((Path(fields[1]) for fields in lines if fields[2] == "cgroup2"), None)


def missing_systemd() -> str | None:
    """Why this machine cannot have hosts with a systemd."""
    top = unified_cgroups()
    if top is None:
        return "hosts with a systemd need control groups of version 2 (none are mounted)"
    writable = not os.statvfs(top).f_flag & os.ST_RDONLY
    return missing() or (None if writable else f"hosts with a systemd need to write to {top}")


@dataclass(frozen=True)
class Fleet:
    name: str = "hosts"

    @property
    def folder(self) -> Path:
        return cache_dir() / "runs" / self.name

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.ini"

    @property
    def scratch(self) -> Path:
        """Empty but for what the fleet sees there."""
        return self.folder / "scratch"

    @property
    def _cgroup(self) -> Path | None:
        """Where the control groups of hosts with a systemd are; None on a machine without that hierarchy."""
        top = unified_cgroups()
        return None if top is None else top / f"dbmem-mshare-{self.name}"

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    # -- life ------------------------------------------------------------------------------

    def start(
        self, count: int, mirror: str | None = None, kind: Kind = BARE, outlives_us: bool = True
    ) -> None:
        base = ensure_base(kind, mirror)
        self.stop()  # what a killed run left
        self.scratch.mkdir(parents=True)
        names = [f"host{number}" for number in range(1, count + 1)]
        try:
            pid = self._keep(base, names, outlives_us, self._made_cgroup() if kind.has_systemd else "")
            self.inventory.write_text(self._inventory(names, pid))
        except BaseException:
            self.stop()
            raise

    def _made_cgroup(self) -> str:
        assert self._cgroup is not None, missing_systemd()
        self._cgroup.mkdir()
        return str(self._cgroup)

    def _keep(self, base: Base, names: list[str], outlives_us: bool, cgroup: str) -> int:
        namespaces = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
        keeper = [sys.executable, str(HERE / "keeper.py"), str(base.root), str(self.scratch), cgroup, *names]
        tie = [] if outlives_us else ["setpriv", "--pdeathsig", "KILL"]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [*tie, "unshare", *namespaces, "--propagation", "private", *keeper],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for who started it
            )
        self._pid_file.write_text(str(process.pid))
        assert process.stdout is not None
        with process.stdout as output:
            if output.readline() != b"ready\n":
                raise SystemExit(f"the hosts did not start:\n{self._log.read_text(errors='replace')}")
        return process.pid

    def stop(self) -> None:
        # Of a host that is killed no word comes to who is connected with it.
        for connection in self.folder.glob(f"{_CONNECTION}*"):
            words = ["ssh", "-o", f"ControlPath={connection}", "-O", "exit", "any"]
            subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        for pid in self._processes():
            _kill(pid)
        if self._cgroup is not None and self._cgroup.exists():
            _remove_cgroups(self._cgroup)
        if self.folder.exists():
            remove_tree(self.folder)

    def _processes(self) -> list[int]:
        """Ours, if it lives, and the first one in its pid namespace, with which all others end."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (OSError, ValueError):
            return []
        # A pid that has come to mean another process is not ours to end.
        return [pid, *map(int, children)] if os.fsencode(self.scratch) in command else []

    def show(self, number: int, folder: Path) -> None:
        """Have a host see a folder of the machine's, at the same path and to read only, while it lives."""
        inside = f"{self.scratch}/host{number + 1}/root{folder}"
        script = 'mkdir -p "$2" && mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"'
        namespace = f"--mount=/proc/{self._hosts()[number]}/ns/mnt"
        words = ["nsenter", namespace, "sh", "-c", script, "show", str(folder), inside]
        subprocess.run(words, check=True)

    def open_pools(self, number: int) -> None:
        """Let a host change the machine's pools of huge pages, which hosts can only look at otherwise."""
        pools = "/sys/kernel/mm/hugepages"
        inside = f"{self.scratch}/host{number + 1}/root{pools}"
        namespace = f"--mount=/proc/{self._hosts()[number]}/ns/mnt"
        subprocess.run(["nsenter", namespace, "mount", "--bind", pools, inside], check=True)

    def _hosts(self) -> list[int]:
        """The processes that hold the hosts, in their order."""
        __, first = self._processes()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return sorted(map(int, children))

    # -- the way in ------------------------------------------------------------------------

    def ssh_command(self, number: int, *command: str) -> list[str]:
        """A command line that runs another one on the host of a number, counted from 0."""
        options = self._ssh_options(int(self._pid_file.read_text()), ControlMaster="no")
        return ["ssh", "-i", str(ssh_key()), *options, f"root@{address(number)}", shlex.join(command)]

    def in_network(self, *command: str) -> list[str]:
        """A command line that runs another one on this machine, in the network of the hosts."""
        return ["nsenter", f"--net=/proc/{self._pid_file.read_text()}/ns/net", *command]

    def _ssh_options(self, pid: int, **more: str) -> list[str]:
        connect = f"nsenter --net=/proc/{pid}/ns/net {sys.executable} -IS {HERE / 'connect.py'} %h %p"
        options = [*_SSH_OPTIONS, f"ProxyCommand={connect}", *map("=".join, more.items())]
        return [word for option in options for word in ("-o", option)]

    def _inventory(self, names: list[str], pid: int) -> str:
        # As Ansible does it by default.
        sharing = {
            "ControlMaster": "auto",
            "ControlPersist": "60s",
            "ControlPath": f"{self.folder}/{_CONNECTION}%h-%r",
        }
        variables = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": ssh_key(),
            "ansible_ssh_args": shlex.join(self._ssh_options(pid, **sharing)),
            # Not Ansible's 10 s: a busy machine is not unreachable.
            "ansible_ssh_timeout": 300,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        hosts = [f"{name} ansible_host={address(number)}" for number, name in enumerate(names)]
        common = [f"{key}={value}" for key, value in variables.items()]
        return "\n".join(["[fleet]", *hosts, "", "[fleet:vars]", *common, ""])


@contextlib.contextmanager
def running(purpose: str, count: int, kind: Kind = BARE) -> Iterator[Fleet]:
    """A fleet that ends with the block, also where that is ended by Ctrl-C or SIGTERM; at the latest it ends
    with this process, and the next one clears up."""
    for folder in (cache_dir() / "runs").glob(f"{purpose}-*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():
            Fleet(folder.name).stop()
    fleet = Fleet(f"{purpose}-{os.getpid()}")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        fleet.start(count, kind=kind, outlives_us=False)
        yield fleet
    finally:
        fleet.stop()
        signal.signal(signal.SIGTERM, before)


def _remove_cgroups(top: Path) -> None:
    """Control groups are directories whose files come and go with them; what is killed leaves them soon."""
    for folder, *__ in os.walk(top, topdown=False):
        for ___ in range(_CGROUP_LOOKS):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
                break
            time.sleep(0.01)
        else:
            raise SystemExit(f"control group {folder} is in use")


def _kill(pid: int) -> None:
    """End a process, and wait until it and, if it is a namespace's first, all with it are gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        if not waiting.poll(HANG_SECONDS * 1000):
            raise SystemExit(f"process {pid} did not end within {HANG_SECONDS} s")
    finally:
        os.close(pidfd)
