# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that have pages of a pool, in the mounts of a host of files."""

from __future__ import annotations

from pathlib import Path

from mshare.host.hugetlbfs import HugeFile, huge_files
from mshare.host.limits import Host
from mshare.units import GIB, MIB

MOUNTS = """\
22 1 0:20 / / rw - ext4 /dev/vda1 rw
31 22 0:29 / /dev/hugepages rw,relatime shared:15 - hugetlbfs hugetlbfs rw,pagesize=2M
32 22 0:29 / /mnt/again rw,relatime shared:15 - hugetlbfs hugetlbfs rw,pagesize=2M
33 22 0:30 / /mnt/large rw,relatime - hugetlbfs none rw,gid=7,pagesize=1024M
"""


def write(root: Path, name: str, size_bytes: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size_bytes)


def test_files_of_a_page_size_once_and_the_largest_first(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert huge_files(host, 2 * MIB) == []
    write(tmp_path, "proc/self/mountinfo", 0)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    # The same file system is mounted twice; of it the last mount is looked at.
    write(tmp_path, "mnt/again/small", 2 * MIB)
    write(tmp_path, "mnt/again/libvirt/qemu/guest", 6 * MIB)
    write(tmp_path, "mnt/again/empty", 0)
    assert huge_files(host, 2 * MIB) == [
        HugeFile("/mnt/again/libvirt/qemu/guest", 3),
        HugeFile("/mnt/again/small", 1),
    ]
    assert huge_files(host, GIB) == []
    (tmp_path / "mnt/again/gone").symlink_to("nowhere")
    assert len(huge_files(host, 2 * MIB)) == 2
