# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PostgreSQL itself says its settings are (`postgres -C`), whether it runs or not."""

from __future__ import annotations

import os
import subprocess

from .clusters import Cluster

_BLOCK_BYTES = 8192


def setting(cluster: Cluster, name: str) -> str | None:
    """A setting as the next start would have it, in PostgreSQL's own unit; None where it cannot say.

    Asked as the cluster's owner: PostgreSQL refuses root, and root does not run what others may change.
    """
    words = [
        cluster.server_program,
        *("-D", cluster.data_directory),
        *("-c", f"config_file={cluster.main}"),
        *("-C", name),
    ]
    try:
        asked = subprocess.run(
            words,
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            user=cluster.uid,
            group=cluster.gid,
            extra_groups=os.getgrouplist(cluster.owner, cluster.gid),
        )
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def shared_buffers_bytes(cluster: Cluster) -> int | None:
    """How large the buffers will be, nearly all of the segment; None where PostgreSQL cannot say."""
    blocks = setting(cluster, "shared_buffers")
    block_bytes = setting(cluster, "block_size")
    if blocks is None or not blocks.isdigit():
        return None
    return int(blocks) * (int(block_bytes) if block_bytes and block_bytes.isdigit() else _BLOCK_BYTES)
