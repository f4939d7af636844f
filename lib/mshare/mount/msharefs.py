# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts and unmounts msharefs: the kernel's, or the simulator's tmpfs.

A mount is recognized by type and source in mountinfo, never by option strings. Its record is written
before it is mounted and removed after it is unmounted.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import grp
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .. import files, paths
from ..backends import root as roots
from ..backends.choose import choose, require_entry
from ..converge.outcome import Undo, spec_written
from ..converge.spec import load
from ..errors import Conflict, InvalidRequest, MshareError, Unavailable
from ..host import commands, mounts, procfs
from ..host import users as mount_users
from ..info.living import living_roles
from ..kernel import abi
from ..kernel.generations import NEWEST
from ..pagetable import BASE_PAGE_BYTES
from ..record import Malformed
from ..services import status_file
from ..services.lock import locked
from ..units import format_size, round_up
from . import directories, preflight
from .directories import DirectorySeen
from .spec import DirectorySpec, MountSpec

# As in `MountSeen.source`.
_TMPFS = f"tmpfs:{paths.SIMULATED_SOURCE}"


_BUSY_LOOKS = 40
_BUSY_SECONDS = 0.05
_SHOWN = 10
_STAYS = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class MountSeen:
    """What exists at a root."""

    root: str
    kind: str
    """ "missing", "file", "symlink", "directory" or "mount" """
    backend: str | None
    """The backend of an msharefs; None for anything else."""
    source: str | None
    generation: str | None
    """Of a simulated root; for a kernel it has to be probed."""
    mode: int | None
    gid: int | None
    empty: bool
    """But for a layout that was begun and not ended."""
    size_bytes: int | None = None
    """Of a simulated root's tmpfs: the most memory it may use."""
    used_bytes: int = 0
    """How much of that it uses."""
    reason: str | None = None
    """Why a simulated root cannot be read."""
    unfinished: bool = False
    """Whether a process was killed while it laid out a simulated msharefs here."""
    directories: Mapping[str, DirectorySeen] = field(default_factory=dict)
    """Of those that are asked about, the ones that are there."""


def needs_mount(spec: MountSpec) -> bool:
    """Whether this needs mount(2): an ordinary user's simulated root is a directory on a tmpfs."""
    return spec.backend == "kernel" or paths.is_root()


def observe(root: str, names: Sequence[str] = ()) -> MountSeen:
    """Examine a root and directories in it, changing nothing; Unavailable if this user may not."""
    try:
        status = os.lstat(root)
    except (FileNotFoundError, NotADirectoryError):
        return MountSeen(root, "missing", None, None, None, None, None, True)
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    if stat.S_ISLNK(status.st_mode):
        kind = "symlink"
    mount = mounts.mount_at(root)
    require_entry(root)
    source = f"{mount.filesystem}:{mount.source}" if mount else None
    backend = roots.backend_at(root) if kind == "directory" else None
    generation = reason = None
    if backend == "simulated":
        try:
            known = roots.generation(root, backend)
            generation = known.id if known is not None else None
        except (Malformed, Unavailable) as error:
            reason = str(error)
    try:
        empty = kind == "directory" and (not os.listdir(root) or roots.unfinished(root))
    except PermissionError:
        empty = False
    size_bytes, used_bytes = _room(root) if source == _TMPFS else (None, 0)
    return MountSeen(
        root,
        "mount" if mount else kind,
        backend,
        source,
        generation,
        stat.S_IMODE(status.st_mode),
        status.st_gid,
        empty,
        size_bytes,
        used_bytes,
        reason,
        kind == "directory" and roots.unfinished(root),
        directories.observe(root, names) if backend is not None else {},
    )


def _room(root: str) -> tuple[int, int]:
    """How much memory a tmpfs may use and how much it does use, in bytes."""
    room = os.statvfs(root)
    return room.f_blocks * room.f_frsize, (room.f_blocks - room.f_bfree) * room.f_frsize


def group_id(spec: MountSpec) -> int:
    """The gid that the root should have, -1 for any; InvalidRequest for an unknown group."""
    if spec.group is None:
        return -1
    try:
        return grp.getgrnam(spec.group).gr_gid
    except KeyError:
        raise InvalidRequest(
            f"{spec.root} should belong to group {spec.group!r}, which does not exist; create it first"
        ) from None


def group_missing(spec: MountSpec) -> bool:
    """Whether the group has to be created."""
    return spec.create_group and spec.group not in {group.gr_name for group in grp.getgrall()}


def _group_record(root: str) -> str:
    """A file with the name of the group created for a root: only that group is removed later."""
    return os.path.join(os.path.dirname(_record(root)), f"{paths.escape(root)}.group")


def _make_group(spec: MountSpec) -> None:
    assert spec.group is not None
    files.write_text(_group_record(spec.root), f"{spec.group}\n")
    try:
        _run("groupadd", "--system", spec.group)
    except BaseException:
        files.remove(_group_record(spec.root))
        raise


def _remove_group(root: str) -> None:
    name = (files.read_text(_group_record(root)) or "").strip()
    if name and name in {group.gr_name for group in grp.getgrall()}:
        _run("groupdel", name)
    files.remove(_group_record(root))


def complete(spec: MountSpec) -> MountSpec:
    """A specification with the defaults of this host, checked; Unavailable as in `backends.choose`."""
    if spec.backend == "kernel":
        choose("kernel")
    root = os.path.normpath(spec.root)
    generation = (spec.generation or NEWEST) if spec.backend == "simulated" else None
    named = {directory.name for directory in spec.directories}
    kept = [directory for directory in _recorded(root) if directory.name not in named]
    every = tuple(sorted((*spec.directories, *kept), key=lambda directory: directory.name))
    return replace(spec, root=root, generation=generation, directories=every)


def _recorded(root: str) -> tuple[DirectorySpec, ...]:
    """The directories that were requested before: each stays until it is requested to be absent."""
    try:
        return MountSpec.from_dict(load(_record(root))).directories
    except (MshareError, OSError):
        # There is none, or it is damaged, and is written anew.
        return ()


def _record(root: str) -> str:
    return paths.spec_file("mounts", paths.escape(root))


def record_text(spec: MountSpec) -> str:
    """What is written down of a complete specification, for the next boot and the next request."""
    kept = tuple(directory for directory in spec.directories if directory.present)
    return replace(spec, directories=kept).to_json()


def is_ours(seen: MountSeen) -> bool:
    """Whether there is an msharefs, or its beginning: a simulator's tmpfs that is not laid out (yet, after
    a boot), a layout that was begun."""
    return seen.backend is not None or _bare(seen) or seen.unfinished


def _bare(seen: MountSeen) -> bool:
    return seen.source == _TMPFS and seen.empty


def directory_steps(spec: MountSpec, seen: MountSeen) -> list[directories.Step]:
    """What has to be done to directories; raises as `directories.plan`."""
    new_group = spec.group if group_missing(spec) else None
    return directories.plan(spec.root, spec.directories, seen.directories, new_group)


def differences(spec: MountSpec, seen: MountSeen) -> list[str]:
    """What has to be done: some of "mount", "size", "layout", "access". Raises Conflict if it cannot be done.

    Pure: `spec` is complete, and only `seen` is examined.
    """
    if seen.kind in ("file", "symlink"):
        raise Conflict(
            f"{spec.root} is a {seen.kind}, but msharefs needs its own directory; remove it, or choose"
            " another mount point"
        )
    free = seen.kind == "missing" or (seen.kind == "directory" and seen.empty)
    bare = (_bare(seen) or seen.unfinished) and spec.backend == "simulated"
    if seen.backend is None and not free and not bare:
        what = f"has {seen.source} mounted on it" if seen.kind == "mount" else "is not empty"
        raise Conflict(f"{spec.root} is in use: it {what}; choose another mount point")
    if seen.backend is not None and seen.backend != spec.backend:
        raise Conflict(
            f"{spec.root} holds the {seen.backend} msharefs, but the {spec.backend} one is requested;"
            f" unmount it first (`mshare umount`), if its regions are no longer needed"
        )
    if seen.reason is not None:
        raise Conflict(seen.reason)
    if seen.backend == "simulated" and seen.generation != spec.generation:
        raise Conflict(
            f"{spec.root} uses generation {seen.generation}, but {spec.generation} is requested; unmount it"
            " first (`mshare umount`), if its regions are no longer needed"
        )
    steps = [] if is_ours(seen) else ["mount"]
    if _size_differs(spec, seen):
        steps.append("size")
    if seen.backend is None and spec.backend == "simulated":
        steps.append("layout")
    return [*steps, "access"] if _access_differs(spec, seen) else steps


def _size_differs(spec: MountSpec, seen: MountSeen) -> bool:
    """Whether the size of a tmpfs differs; Conflict for a size below what is in use."""
    if spec.size_bytes is None or seen.size_bytes is None:
        return False
    if spec.size_bytes < seen.used_bytes:
        raise Conflict(
            f"the tmpfs at {spec.root} should have {format_size(spec.size_bytes)}, but"
            f" {format_size(seen.used_bytes)} of it are in use; request more, or remove regions first"
            f" (`mshare rm`)"
        )
    return round_up(spec.size_bytes, BASE_PAGE_BYTES) != seen.size_bytes


def _access_differs(spec: MountSpec, seen: MountSeen) -> bool:
    if seen.backend is None or seen.mode != spec.mode:
        return True
    return spec.group is not None and (group_missing(spec) or seen.gid != group_id(spec))


def require_access(spec: MountSpec, seen: MountSeen) -> None:
    """Raise Unavailable if a mount is needed and this process may not mount."""
    if not is_ours(seen) and needs_mount(spec):
        preflight.require(spec.root)


def mount(spec: MountSpec) -> list[str]:
    """Bring a root to the state of a complete specification; returns the steps taken."""
    with mounted(spec) as steps:
        return steps


@contextlib.contextmanager
def mounted(spec: MountSpec) -> Iterator[list[str]]:
    """Bring a root to the state of a complete specification; yields the steps taken.

    A failure, here or in the block, is undone: there is no mount without its record, and no record without
    its mount.
    """
    seen = observe(spec.root, [directory.name for directory in spec.directories])
    if seen.kind == "directory" and not needs_mount(spec):
        files.require_own_directory(spec.root)
    steps = differences(spec, seen)
    inside = directory_steps(spec, seen)
    record = _record(spec.root)
    require_access(spec, seen)
    with Undo() as undo:
        if group_missing(spec):
            _make_group(spec)
            undo.add(lambda: _remove_group(spec.root))
        gid = group_id(spec)
        if seen.backend is None:
            # What a mount that was killed began stays known: only then can it be ended as a whole.
            if not files.left_at(record):
                undo.add(lambda: forget(spec.root))
            files.write_text(record, record_text(spec))
            _make(spec, seen, undo)
        if "size" in steps:
            _run("mount", "-o", f"remount,size={spec.size_bytes}", spec.root)
            undo.add(lambda: _run("mount", "-o", f"remount,size={seen.size_bytes}", spec.root))
        if "access" in steps:
            undo.add(lambda: _put_access_back(seen))
            roots.set_access(spec.root, spec.mode, gid)
        for step in inside:
            step.take(spec.root)
            undo.add(functools.partial(step.undo, spec.root))
        if files.read_text(record) != record_text(spec):
            undo.enter_context(spec_written(record, record_text(spec)))
        yield steps


def _make(spec: MountSpec, seen: MountSeen, undo: Undo) -> None:
    """Make an msharefs; `undo` learns of each step that can be undone."""
    if seen.kind == "missing":
        undo.add(lambda: files.remove_empty(spec.root))
        files.make_directory(spec.root, 0o700)
    if spec.backend == "kernel":
        _run("mount", "-t", abi.FILESYSTEM, abi.FILESYSTEM, spec.root)
        undo.add(lambda: _run("umount", spec.root))
        return
    begun = seen.kind == "mount" or seen.unfinished
    if not begun and needs_mount(spec):
        _run("mount", "-t", "tmpfs", "-o", spec.tmpfs_options, paths.SIMULATED_SOURCE, spec.root)
        undo.add(lambda: _run("umount", spec.root))
    elif not begun:
        _require_tmpfs(spec.root)
        undo.add(lambda: roots.take_down(spec.root))
    roots.lay_out(spec.root, spec.generation)


def _put_access_back(seen: MountSeen) -> None:
    """Give a root its mode and group again; one that was missing is removed instead."""
    if seen.mode is None or seen.gid is None:
        return
    now = os.lstat(seen.root)
    # This user need not be a member of a group that stays.
    roots.set_access(seen.root, seen.mode, -1 if now.st_gid == seen.gid else seen.gid)


def _require_tmpfs(root: str) -> None:
    covering = max(
        (mount for mount in mounts.mounts() if (root + "/").startswith(mount.path.rstrip("/") + "/")),
        key=lambda mount: len(mount.path),
    )
    if covering.filesystem != "tmpfs":
        raise Unavailable(
            f"{root} is on {covering.filesystem}, but a simulated msharefs needs a tmpfs; choose a"
            f" directory on"
            " one, like /dev/shm, or run as root, which mounts one"
        )


def umount(root: str) -> bool:
    """Unmount msharefs; False if there was none. Conflict, with the users, while it is in use."""
    root = os.path.normpath(root)
    seen = observe(root)
    record = _record(root)
    if is_ours(seen):
        refuse_in_use(root)
        if seen.kind == "mount":
            if not paths.is_root():
                raise Unavailable(f"unmounting {root} needs root; run as root (become: true)")
            _unmount(root)
        else:
            roots.take_down(root)
    had_record = files.left_at(record)
    # One that was killed after unmounting left the directory, and the record that says whose it is.
    if root != paths.KERNEL_ROOT and (had_record or (is_ours(seen) and seen.kind != "mount")):
        _remove_root(root)
    forget(root)
    return is_ours(seen) or had_record


def _remove_root(root: str) -> None:
    """Remove the directory of a root; one that is not empty or not this user's to remove stays.

    OSError where removing it fails: then its record stays too, and `umount` can be repeated.
    """
    try:
        files.remove_directory(root)
    except files.NotTrusted:
        return
    except OSError as error:
        if error.errno not in _STAYS:
            raise


def forget(root: str) -> None:
    """Remove the record of a root and the group made for it, and the directories that are empty then."""
    _remove_group(root)
    _forget_keeper(root)
    files.remove(_record(root))
    files.remove_empty(*paths.spec_directories(), paths.config_dir())
    files.remove_empty(status_file.directory(root), paths.state_dir())


def _forget_keeper(root: str) -> None:
    """Remove what a keeper of files that was killed has left; one that lives removes it as it ends."""
    path = paths.keeper_socket(root)
    if any(map(os.path.lexists, (path, f"{path}.users", f"{path}.lock"))):
        with contextlib.suppress(MshareError, OSError), locked(f"{path}.lock", "the keeper of files"):
            files.remove(path, f"{path}.users", f"{path}.lock")


def _unmount(root: str) -> None:
    """Unmount; Conflict, with the processes that use it, where it stays busy.

    A process that examines a new mount, as udev and systemd do, is given the time to end that.
    """
    for __ in range(_BUSY_LOOKS):
        try:
            _run("umount", root)
            return
        except MshareError:
            # Not before umount(8) has failed: a user in another mount namespace may have a mount of its own.
            users = mount_users.of_filesystem(root)
            if not users:
                raise
        time.sleep(_BUSY_SECONDS)
    named = ", ".join(f"{pid} ({procfs.command(pid)})" for pid in users[:_SHOWN])
    more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
    raise Conflict(f"{root} is in use by process {named}{more}; end what uses it, then run this again")


def refuse_in_use(root: str) -> None:
    """Raise Conflict with a list of the owners and clients that use a root."""
    living = living_roles(root)
    if living:
        raise Conflict(
            f"{root} is in use by "
            + ", ".join(living)
            + "; stop them first (`mshare clients stop`, `mshare rm`)"
        )


def _run(*command: str) -> None:
    commands.run(*command, next_step=f"find out who uses it with `fuser -vm {command[-1]}`")
