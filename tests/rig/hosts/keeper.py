# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of a fleet: makes its network and its hosts, and is what they all die with.

    unshare --mount --net --pid --fork --kill-child ... python keeper.py ROOT SCRATCH CGROUP NAME...

It runs in namespaces of its own, so whatever it mounts and every address it gives exist only there, and the
kernel takes all of it back when this process is killed. Says "ready" when every host answers. With a control
group, a folder of the unified hierarchy, each host has a systemd of its own; "" is none.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_BRIDGE_ADDRESS = "10.77.0.1/16"
# As in rig/patience.py, which a program of its own does not import: counted, and at ever longer intervals.
_READY_LOOKS = 1500

# A host, from the inside: it waits until its network card is there. $1 is its root, $2 its name. What it
# mounts are new instances of kernel file systems, in its own mount namespace; nothing of the machine's.
_HOST = """
set -eu
hostname "$2"
mount -t proc -o nosuid,nodev,noexec proc "$1/proc"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$1/dev/pts"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$1/dev/shm"
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$1/run"
mkdir "$1/run/sshd"
read -r address
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$1/sys"
ip link set lo up
ip link set eth0 up
ip address add "$address" dev eth0
"""
_SSHD = 'exec chroot "$1" /usr/sbin/sshd -D -e -o UseDNS=no -o UsePAM=no -o PidFile=none\n'
# Its own control groups, and the kernel's settings to read only: they are the machine's.
_SYSTEMD = """
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$1/sys/fs/cgroup"
mount --bind "$1/proc/sys" "$1/proc/sys"
mount -o remount,bind,ro "$1/proc/sys"
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
exec env -i container=host-for-tests PATH="$path" chroot "$1" /lib/systemd/systemd --unit=multi-user.target
"""
_IN_CGROUP = 'echo 0 >"$0/cgroup.procs" && exec "$@"'


def address(number: int) -> str:
    """The address of the host of a number, counted from 0."""
    high, low = divmod(number + 1, 254)
    return f"10.77.{high}.{low + 1}"


def main() -> None:
    root, scratch, cgroup, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
    # What hosts write is memory, and gone with them.
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(scratch))
    for name in names:
        _mount_root(root, scratch / name)
    hosts = [_begin(scratch / name / "root", name, cgroup) for name in names]
    _connect(hosts)
    for number, host in enumerate(hosts):
        assert host.stdin is not None
        host.stdin.write(f"{address(number)}/16\n")
        host.stdin.close()
    for number in range(len(hosts)):
        _wait_for_ssh(address(number))
    print("ready", flush=True)
    _reap()


def _mount_root(root: str, folder: Path) -> None:
    for part in ("root", "upper", "work"):
        (folder / part).mkdir(parents=True)
    options = f"lowerdir={root},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    _run("mount", "-t", "overlay", "-o", options, "overlay", str(folder / "root"))


def _begin(root: Path, name: str, cgroup: str) -> subprocess.Popen[str]:
    namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
    script, before = _HOST + _SSHD, []
    if cgroup:
        os.mkdir(f"{cgroup}/{name}")
        before = ["sh", "-c", _IN_CGROUP, f"{cgroup}/{name}"]
        namespaces, script = [*namespaces, "--cgroup"], _HOST + _SYSTEMD
    command = [*before, "unshare", *namespaces, "sh", "-c", script, "host", str(root), name]
    # What a host says goes to the log of the fleet; this process's stdout is for "ready".
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, text=True)


def _connect(hosts: list[subprocess.Popen[str]]) -> None:
    """Give each host a network card whose other end is at the fleet's bridge."""
    lines = ["link set lo up", "link add bridge type bridge", "link set bridge up"]
    lines.append(f"address add {_BRIDGE_ADDRESS} dev bridge")
    for number, host in enumerate(hosts):
        _wait_for_network_namespace(host.pid)
        lines.append(f"link add port{number} type veth peer name eth0 netns {host.pid}")
        lines.append(f"link set port{number} master bridge up")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _wait_for_network_namespace(pid: int) -> None:
    mine, theirs = os.readlink("/proc/self/ns/net"), f"/proc/{pid}/ns/net"
    _wait(lambda: os.readlink(theirs) != mine, f"no network namespace in process {pid}")


def _wait_for_ssh(host: str) -> None:
    def answers() -> bool:
        try:
            with socket.create_connection((host, 22), timeout=1) as greeting:
                return greeting.recv(4) == b"SSH-"
        except OSError:
            return False

    _wait(answers, f"no ssh at {host}")


def _wait(condition: Callable[[], bool], complaint: str) -> None:
    for number in range(_READY_LOOKS):
        if condition():
            return
        time.sleep(min(0.005 + number / 5000, 0.5))
    raise SystemExit(f"{complaint} in {_READY_LOOKS} looks")


def _reap() -> None:
    """Stay, as the first process of this pid namespace, and take leave of what ends in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
