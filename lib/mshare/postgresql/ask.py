# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PostgreSQL itself says its settings are (`postgres -C`), whether it runs or not, and whether it would
start with them."""

from __future__ import annotations

import os
import re
import subprocess

from ..errors import Conflict
from ..kernel.abi import HUGE_PAGE_BYTES
from . import clusters, server, sizing
from .clusters import Cluster
from .managers import pg_ctlcluster

_BLOCK_BYTES = 8192
_VERSION = re.compile(r"\) ([0-9]+(?:\.[0-9]+)?)")
# What -C answers for itself, and where the files are, which is known better here.
_PLACES = ("data_directory", "config_file")
# Of a server that is asked aside, only these are no matter of where it is asked: a certificate may be.
_CANNOT_LOAD = re.compile(r"could not access file|could not load library|incompatible")


def setting(cluster: Cluster, name: str) -> str | None:
    """A setting as the next start would have it, in PostgreSQL's own unit; None where it cannot say.

    Asked as the cluster's owner: PostgreSQL refuses root, and root does not run what others may change.
    """
    asked = _run(cluster, cluster.server_program, *_asking(cluster, name))
    return None if asked is None or asked.returncode != 0 else asked.stdout.strip()


def shared_buffers_bytes(cluster: Cluster) -> int | None:
    """How large the buffers will be, nearly all of the segment; None where PostgreSQL cannot say."""
    blocks = setting(cluster, "shared_buffers")
    block_bytes = setting(cluster, "block_size")
    if blocks is None or not blocks.isdigit():
        return None
    return int(blocks) * (int(block_bytes) if block_bytes and block_bytes.isdigit() else _BLOCK_BYTES)


def require_startable(cluster: Cluster, pid: int) -> None:
    """Conflict where its postmaster `pid`, once stopped, would not start again: for what somebody else has
    changed since it was started."""
    program = cluster.next_program
    reason = _version_problem(cluster, program) or _problem(cluster, program, pid)
    if cluster.is_debian and cluster.plain_unit is None:
        reason = reason or pg_ctlcluster.problem(cluster.version, cluster.name)
    if reason is not None:
        raise Conflict(
            f"PostgreSQL cluster {cluster.id} runs, but would not start again ({reason}), so it was not"
            " restarted, and nothing was changed; put that right, and run this again"
        )


def _version_problem(cluster: Cluster, program: str) -> str | None:
    asked = _run(cluster, program, "-V")
    if asked is None:
        return f"{program} cannot be run"
    version = _VERSION.search(asked.stdout)
    parts = 1 if int(cluster.version.partition(".")[0]) >= 10 else 2
    if version is None or version[1].split(".")[:parts] == cluster.version.split(".")[:parts]:
        return None
    return f"{program} is of version {version[1]}, and its data is of version {cluster.version}"


def _problem(cluster: Cluster, program: str, pid: int) -> str | None:
    asked = _run(cluster, program, *_asking(cluster, "shared_buffers"))
    if asked is not None and asked.returncode != 0:
        lines = [line for line in asked.stderr.split("\n") if line.strip()]
        return f"`{program} -C shared_buffers` says: {' / '.join(lines[-3:]) or 'nothing'}"
    try:
        sizing.require_counting(cluster.version)
        # This loads its shared_preload_libraries as well.
        sizing.huge_pages(sizing.Server(pid, program, cluster.data_directory), HUGE_PAGE_BYTES)
    except sizing.Unanswered as error:
        return str(error) if _CANNOT_LOAD.search(str(error)) else None
    return None


def _asking(cluster: Cluster, name: str) -> list[str]:
    given = [
        word
        for each, (value, __) in clusters.started_with(cluster).items()
        if each not in _PLACES
        for word in ("-c", f"{each}={value}")
    ]
    return ["-D", cluster.data_directory, "-c", f"config_file={cluster.main}", *given, "-C", name]


def loaded(cluster: Cluster, program: str, library: str) -> subprocess.CompletedProcess[str] | None:
    """What the loader answers that it loads for a program, with a library preloaded; None where it cannot be
    asked. The program itself is not run (LD_TRACE_LOADED_OBJECTS of ld.so(8))."""
    return _run(cluster, program, "-V", LD_PRELOAD=library, LD_TRACE_LOADED_OBJECTS="1")


def _run(
    cluster: Cluster, program: str, *words: str, **variables: str
) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            [program, *words],
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", **server.library_path(cluster), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            user=cluster.uid,
            group=cluster.gid,
            extra_groups=os.getgrouplist(cluster.owner, cluster.gid),
        )
    except OSError:
        return None
