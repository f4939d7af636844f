# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL in namespaces of its own, in the control groups of container runtimes: left alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration.hosts import Host, Task
from rig.hosts.base import PATRONI, ensure_base
from rig.hosts.fleet import missing, unified_cgroups

# A container's way in: its root is an image that is read only, and a layer of its own.
CONTAINER = """
set -eu
mkdir -p /run/container
mount -t tmpfs host-for-tests /run/container
mkdir /run/container/upper /run/container/work /run/container/root
mount -t overlay -o lowerdir="$1",upperdir=/run/container/upper,workdir=/run/container/work overlay \\
  /run/container/root
mount -t proc proc /run/container/root/proc
exec chroot /run/container/root /usr/bin/setpriv --reuid=postgres --regid=postgres --clear-groups sh -eu -c '
  cd /tmp
  bin=/usr/lib/postgresql/17/bin
  # The pool of huge pages belongs to other tests.
  $bin/initdb -D /tmp/data --set huge_pages=off --no-sync --locale=C.UTF-8 --encoding=UTF8 >/dev/null
  exec $bin/postgres -D /tmp/data -c listen_addresses= -c unix_socket_directories=/tmp -c fsync=off
'
"""
CONTAINER_ID = "0123456789abcdef" * 4
# As the runtimes name theirs: who is named in the refusal, and what is to be set there.
MANAGERS = {
    f"docker-{CONTAINER_ID}.scope": ("a container of Docker", "where the container is made"),
    f"libpod-{CONTAINER_ID}.scope": ("a container of Podman", "where the container is made"),
    f"kubepods-pod1-{CONTAINER_ID}.slice": ("a container of Kubernetes", "in the operator's resource"),
    # Of a runtime that nobody knows.
    "anything": ("a container (", "where the container is made"),
}

pytestmark = pytest.mark.skipif(
    missing() is not None or unified_cgroups() is None,
    reason=missing() or "control groups of version 2 are not mounted",
)


@pytest.fixture(scope="module")
def postmaster(host: Host) -> Iterator[int]:
    """Its pid on this machine."""
    root = ensure_base(PATRONI).root
    # Without the clusters that this machine may have.
    host.do("sh", "-c", "mkdir -p /etc/postgresql && mount -t tmpfs host-for-tests /etc/postgresql")
    namespaces = ("--pid", "--mount", "--uts", "--net", "--ipc", "--fork", "--kill-child")
    script = ("sh", "-c", CONTAINER, "container", str(root))
    words = host.command(
        "unshare", *namespaces, *script, environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as container:
        assert container.stdout is not None
        try:
            lines = []
            for line in container.stdout:
                lines.append(line)
                if "ready to accept connections" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield postgres_below(container.pid)
        finally:
            # From the inside to the outside: some of them end with the one before.
            for pid in reversed([container.pid, *below(container.pid)]):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def postgres_below(pid: int) -> int:
    """The postmaster among a process's descendants."""
    for child in below(pid):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/{child}/exe").endswith("/postgres"):
                return child
    raise AssertionError(f"no postgres among the descendants of process {pid}")


def below(pid: int) -> Iterator[int]:
    """The descendants of a process, from the outside to the inside. A server's come and go."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from below(child)


@pytest.fixture(params=MANAGERS)
def cgroup(request: pytest.FixtureRequest, postmaster: int) -> Iterator[str]:
    """The postmaster and all its processes are in a control group of that name."""
    top = unified_cgroups()
    assert top is not None
    place = top / f"mshare-test-{os.getpid()}" / request.param
    place.mkdir(parents=True)
    home = top / Path(f"/proc/{postmaster}/cgroup").read_text().rpartition("::/")[2].strip()
    (place / "cgroup.procs").write_text(str(postmaster))
    yield request.param
    (home / "cgroup.procs").write_text(str(postmaster))
    place.rmdir()
    place.parent.rmdir()


def test_it_is_left_alone(host: Host, cgroup: str) -> None:
    move: Task = {
        "name": "move",
        "dbmem.mshare.mshare_postgresql": {"restart": True},
        "ignore_errors": True,
    }
    before = host.snapshot()
    refused = host.play([move]).succeeded()["move"]
    manager, advice = MANAGERS[cgroup]
    assert f"is managed by {manager}" in refused["msg"]
    assert "so nothing was changed" in refused["msg"]
    assert advice in refused["msg"]
    assert host.changed_since(before) == []


@pytest.mark.usefixtures("postmaster")
def test_the_role_installs_nothing_for_it(host: Host) -> None:
    before = host.snapshot()
    run = host.playbook("dbmem.mshare.postgresql", variables={"mshare_postgresql_restart_ok": True})
    assert "is managed by a container" in run.said
    assert run.recap["changed"] == 0
    assert host.changed_since(before) == []
