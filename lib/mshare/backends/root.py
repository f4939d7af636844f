# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked of a root, and done to it, without attaching a region: nothing here needs cffi.

Code outside `backends/` asks here what exists, and need not know whose msharefs it is.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from dataclasses import dataclass
from typing import Literal

from .. import files, paths
from ..errors import Conflict, MshareError, Unavailable
from ..host import mounts
from ..kernel import abi, probe
from ..kernel.generations import DESCRIBED, NEWEST, PLAYED, Generation
from .mapping import Mapping
from .simulated.layout import Files, Layout

BackendName = Literal["kernel", "simulated"]


def backend_at(root: str) -> BackendName | None:
    """Who laid out the msharefs at a root; None where there is none."""
    mount = mounts.mount_at(root)
    if mount is not None and mount.filesystem == abi.FILESYSTEM:
        return "kernel"
    return "simulated" if simulated(root) else None


def called(root: str) -> bool:
    """Whether the kernel's calls make the regions at a root, of which only the names are there then."""
    if probe.why_no_calls() is not None:
        return False
    with contextlib.suppress(MshareError, OSError):
        return simulated(root) and Layout.read(root).generation_id in DESCRIBED
    return False


def used_at(root: str) -> BackendName | None:
    """The backend of regions at a root, unless the simulated one is asked for; None without an msharefs."""
    return "kernel" if called(root) else backend_at(root)


def roots() -> list[str]:
    """Every msharefs there is, real or simulated, mounted or an ordinary user's directory."""
    in_use = {
        mount.path
        for mount in mounts.mounts()
        if mount.filesystem == abi.FILESYSTEM or mount.source == paths.SIMULATED_SOURCE
    }
    own = paths.simulated_root()
    return sorted(in_use | ({own} if simulated(own) or unfinished(own) else set()))


def simulated(root: str) -> bool:
    """Whether a root holds a simulated msharefs, damaged or not."""
    return Layout.present(root) and not unfinished(root)


def unfinished(root: str) -> bool:
    """Whether a process was killed while it laid out a simulated msharefs here: nothing is in it yet."""
    return Files(root).unfinished()


def generation(root: str, backend: BackendName, probing: bool = True) -> Generation | None:
    """Which posted interface a root has. A kernel is probed with a scratch file that is unlinked before
    it is asked, and None without `probing`. Unavailable where it is none that is known."""
    if backend == "simulated" or simulated(root):
        return PLAYED[Layout.read(root).generation_id]
    return probe.generation(root) if probing else None


def alignment_bytes(root: str) -> int:
    """To what the address and the size of a region are aligned."""
    return probe.alignment_bytes(root)


def free_bytes(root: str) -> int | None:
    """What the file system of a root may still take; None where it has no limit of its own, and where the
    regions' memory is in no file system."""
    if not simulated(root) or PLAYED[Layout.read(root).generation_id].features.nameless:
        return None
    return Files(root).free_bytes()


def names(root: str) -> list[str]:
    """The regions that have a file, sorted; none if there is no such root or this user may not read it."""
    try:
        return Files(root).names()
    except OSError:
        return []


def directories(root: str) -> list[str]:
    """The directories of regions, sorted, as far as this user may read; none if there is no such root."""
    try:
        return Files(root).directories()
    except OSError:
        return []


def status(root: str, name: str) -> os.stat_result:
    """The status of a region's file, or of a directory. Raises OSError as stat(2) does, and NotTrusted where
    a link was put in the place of a directory; a link in the place of the file is not followed."""
    return files.status(os.path.join(root, name))


def mapped_file(root: str, name: str) -> tuple[int, int]:
    """Device and inode of what processes have mapped that have a region attached. Raises as `status`."""
    record = Files(root).record(name) if simulated(root) else None
    if record is not None and record.memory is not None:
        return record.memory.device, record.memory.inode
    file = status(root, name)
    return file.st_dev, file.st_ino


def require_place(root: str, name: str) -> None:
    """Raise for a region that cannot be made at a root: Unavailable without its directory, Conflict for a
    name that is a directory's."""
    directory = os.path.dirname(name)
    if directory and not _is_directory(root, directory):
        raise Unavailable(
            f"region {name} lies in directory {directory}, which is not at {root}; make it with `mshare mount"
            f" --root {root} --directory name={directory}`, or with `directories` of the role"
            " dbmem.mshare.msharefs"
        )
    if _is_directory(root, name):
        raise Conflict(f"{os.path.join(root, name)} is a directory of regions; choose another name")


def _is_directory(root: str, name: str) -> bool:
    try:
        return stat.S_ISDIR(status(root, name).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_directory(root: str, name: str, mode: int, gid: int) -> None:
    """Make a directory for regions (gid -1: the group it gets by itself); OSError as mkdir(2) does."""
    access = files.Access(mode, gid=gid)
    if simulated(root):
        Files(root).make_directory(name, access)
    else:
        files.make_shared_directory(os.path.join(root, name), access)


def set_directory_access(root: str, name: str, mode: int, gid: int) -> None:
    """Give a directory another mode and group (-1: as it is). NotOurs for one of another user's."""
    access = files.Access(mode, gid=gid)
    if simulated(root):
        Files(root).set_directory_access(name, access)
    else:
        files.set_directory_access(os.path.join(root, name), access)


def remove_directory(root: str, name: str) -> None:
    """Remove a directory without regions; OSError (ENOTEMPTY) for any other."""
    if simulated(root):
        Files(root).remove_directory(name)
    else:
        files.rmdir(os.path.join(root, name))


@dataclass(frozen=True)
class RegionSeen:
    """A region as its root knows it."""

    window_bytes: int
    address: int | None
    mappings: tuple[Mapping, ...]
    """In the order of their offsets."""
    owner_pid: int | None
    """None in a generation without owners."""
    owner_alive: bool


def peek(root: str, name: str) -> RegionSeen | None:
    """A region, without opening it; None if the root cannot tell: a kernel does not list what is mapped.

    Malformed for a region whose files are damaged.
    """
    record = Files(root).record(name) if simulated(root) else None
    if record is None:
        return None
    return RegionSeen(
        record.window_bytes,
        record.address,
        tuple(sorted((entry.mapping for entry in record.placed), key=lambda mapping: mapping.offset)),
        None if record.owner is None else record.owner.pid,
        record.owner is not None and not record.dead,
    )


def attachable(root: str, name: str) -> bool | None:
    """Whether a region can be attached, as its root answers; None where it cannot be asked.

    A kernel is asked by mapping the window, and touching nothing in it: EINVAL once the owner is gone. None
    for a user who may not open the file, for a region without a size, and where the size is not the file's.
    """
    if simulated(root):
        seen = peek(root, name)
        return None if seen is None or seen.owner_pid is None else seen.owner_alive
    if backend_at(root) != "kernel":
        return None
    try:
        fd = files.open_file(os.path.join(root, name), os.O_RDONLY)
    except (OSError, files.NotTrusted):
        return None
    try:
        window_bytes = os.fstat(fd).st_size
        if not window_bytes:
            return None
        mmap.mmap(fd, window_bytes, mmap.MAP_SHARED, mmap.PROT_READ).close()
    except (OSError, ValueError) as error:
        # Anything else, such as a limit of the address space, is about this process.
        return False if getattr(error, "errno", None) in (errno.EINVAL, errno.ENODEV) else None
    finally:
        os.close(fd)
    return True


def window_bytes(root: str, name: str) -> int | None:
    """The window of a kernel's region by its file's size; None where that is not known."""
    if backend_at(root) != "kernel":
        return None
    with contextlib.suppress(OSError, files.NotTrusted):
        return status(root, name).st_size or None
    return None


def unlink(root: str, name: str) -> None:
    """Remove a region's name and what belongs to it; missing files are fine."""
    if simulated(root):
        Files(root).unlink(name)
    else:
        files.remove(os.path.join(root, name))


def set_region_access(root: str, name: str, mode: int, uid: int, gid: int) -> None:
    """Give a region another mode, user or group (-1: as it is)."""
    if simulated(root):
        Files(root).set_region_access(name, mode, uid, gid)
        return
    files.set_access(os.path.join(root, name), files.Access(mode, uid, gid))


def set_access(root: str, mode: int, gid: int) -> None:
    """Give a root another mode and group (-1: as it is)."""
    if simulated(root):
        Files(root).set_access(mode, gid)
        return
    files.set_access(root, files.Access(mode, gid=gid))


def lay_out(root: str, generation_id: str | None) -> None:
    """Make a simulated msharefs in a directory that is empty, or in which that was begun."""
    Layout.create(root, generation_id or NEWEST)


def take_down(root: str) -> None:
    """Take a simulated msharefs out of a directory, with the names that killed owners left behind."""
    layout = Files(root)
    for name in layout.names():
        layout.unlink(name)
    layout.remove()
