# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, its owners and its clients on the kernel backend: the FUSE double answers as msharefs.

Every Python process of this world is shown the double's mount as one of type msharefs, and a kernel that
has it; apart from that, what runs is the product. README.md lists what FUSE cannot do as a kernel does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rig.mount import Mount
from rig.world import World

_SITE = """
import os

root = os.environ.get("MSHARE_TEST_MSHAREFS")
if root:
    from mshare.host import mounts, procfs

    def with_msharefs(own=mounts.mounts):
        return [*own(), mounts.Mount(root, "msharefs", "none", "rw", "rw")]

    def known(own=procfs.filesystems):
        return [*own(), "msharefs"]

    mounts.mounts, procfs.filesystems = with_msharefs, known
"""


class KernelWorld(World):
    """A world whose root is a mounted double."""

    def __init__(self, directory: Path, mount: Mount) -> None:
        super().__init__(directory)
        self.mount = mount
        self.root = Path(mount.root)
        site = directory / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_SITE)
        path = os.pathsep.join((str(site), self.environment["PYTHONPATH"]))
        self.environment |= {
            "PYTHONPATH": path,
            "MSHARE_ROOT": mount.root,
            "MSHARE_TEST_MSHAREFS": mount.root,
        }


@contextlib.contextmanager
def new_kernel_world(generation: str = "2025-08", *options: str) -> Iterator[KernelWorld]:
    """Needs what the double needs (`can_mount_fuse`). Fails where a page of a window was forced in."""
    directory = Path(tempfile.mkdtemp(prefix="mshare-kernel-", dir="/dev/shm"))
    directory.chmod(0o755)
    mount = Mount(directory, generation, *options)
    world = KernelWorld(directory, mount)
    try:
        yield world
    finally:
        world.end()
        mount.stop()
        forced = mount.forced_pages()
        shutil.rmtree(directory)
    assert forced == []
