# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How root reads, makes, replaces and changes files in directories that somebody else may write to.

A path is walked one name at a time, each opened by the directory above it, so that nothing can be swapped
on the way. A symbolic link is followed only if root or this user made it, in a directory that nobody else
can change. What is at the end is opened without effect (O_PATH), examined by fstat, and only then opened
for real; access is changed on that open file. A new file has its content, owner and mode before it gets its
name. All other modules go through this one: a check refuses path-based calls elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .errors import Conflict

LIMIT_BYTES = 1 << 20
"""How much of a file is read by default."""
_OWN_LIMIT_BYTES = 64 << 20
_PLACE = os.O_PATH | os.O_CLOEXEC
_LINKS_MAXIMUM = 40
_TRIES = 10
# What the kernel resolves by itself: a process's directory or root, wherever that is.
_MAGIC = re.compile(r"(/proc/(?:\d+|self)/)(?:cwd|root)(?=/|\Z)")
_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotTrusted(Conflict):
    """A file that is not what it should be, or that somebody put there who is not trusted with it."""

    def __init__(
        self, path: str, reason: str, *, kind_bits: int | None = None, next_step: str | None = None
    ) -> None:
        """`reason` is what it is; `kind_bits` the kind of file that belongs there, if it is of another."""
        what = reason
        if kind_bits is not None and (next_step is not None or kind_bits != stat.S_IFREG):
            what = f"{reason} where {_KINDS[kind_bits]} belongs"
        if next_step is None:
            regular = kind_bits in (None, stat.S_IFREG)
            next_step = "remove it, or put a regular file of its owner there" if regular else "remove it"
        super().__init__(f"{path} is {what}; {next_step}")
        self.path = path
        self.reason = reason
        self.kind_bits = kind_bits

    def then(self, next_step: str) -> NotTrusted:
        """The same, with another next step."""
        return NotTrusted(self.path, self.reason, kind_bits=self.kind_bits, next_step=next_step)


@dataclass(frozen=True)
class Access:
    """Who may open a file; -1 for a user or group that stays as it is."""

    mode: int
    uid: int = -1
    gid: int = -1


# -- finding


def _trusted(link: os.stat_result, above: os.stat_result) -> bool:
    """Whether nobody but root and this user can have made a link."""
    ours = (0, os.geteuid())
    others_write = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
    return link.st_uid in ours and above.st_uid in ours and not others_write


def _find(path: str, *, follow: bool = True, make_mode: int | None = None) -> int:
    """What is at a path, open with O_PATH.

    With `follow` a trusted link at the end is followed as well; with `make_mode` directories that are
    missing are made. Raises NotTrusted for a link somebody else made, OSError as open(2) does.
    """
    magic = _MAGIC.match(path)
    base = magic.group() if magic else "/"
    names = (path[len(base) :] if magic else os.path.abspath(path)).split("/")[::-1]
    opened = [os.open(base, _PLACE | os.O_DIRECTORY)]
    links = 0
    try:
        while names:
            name = names.pop()
            if name == ".." and len(opened) > 1:
                os.close(opened.pop())
            if name in ("", ".", ".."):
                continue
            fd = _step(opened[-1], name, path, make_mode)
            if not stat.S_ISLNK(os.fstat(fd).st_mode) or not (follow or names):
                opened.append(fd)
                continue
            links += 1
            if links > _LINKS_MAXIMUM:
                os.close(fd)
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = _target(fd, opened[-1], f"{path} ({name})" if names else path)
            if target.startswith("/"):
                opened.append(os.open(magic.group(1) + "root" if magic else "/", _PLACE | os.O_DIRECTORY))
                while len(opened) > 1:
                    os.close(opened.pop(0))
            names.extend(target.split("/")[::-1])
        return opened.pop()
    finally:
        for fd in opened:
            os.close(fd)


def _target(link: int, above: int, path: str) -> str:
    """Where a link leads, which is closed then; NotTrusted for a link that another user may have made."""
    try:
        status = os.fstat(link)
        if not _trusted(status, os.fstat(above)):
            raise NotTrusted(path, f"a symbolic link of uid {status.st_uid}, where others can make links")
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _step(above: int, name: str, path: str, make_mode: int | None) -> int:
    """One name further; OSErrors name the whole path."""
    for __ in range(_TRIES):
        try:
            return os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=above)
        except FileNotFoundError as error:
            if make_mode is None:
                raise _at(error, path) from None
        except OSError as error:
            raise _at(error, path) from None
        try:
            os.mkdir(name, make_mode, dir_fd=above)
        except FileExistsError:
            continue
        except OSError as error:
            raise _at(error, path) from None
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _at(error: OSError, path: str) -> OSError:
    return OSError(error.errno, error.strerror, path)


@contextlib.contextmanager
def _place(path: str, *, follow: bool = True, make_mode: int | None = None) -> Iterator[int]:
    fd = _find(path, follow=follow, make_mode=make_mode)
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(fd: int, flags: int, path: str) -> int:
    """Open for real what is open as a place: the very same file, whatever has its name by now."""
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _at(error, path) from None


def kind(status: os.stat_result) -> str:
    """What sort of file something is, with its article."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")


def require_regular(fd: int, path: str, *, links_maximum: int = 1) -> os.stat_result:
    """The status of an open file; NotTrusted for anything but a regular file with one name.

    A file with two names is somebody else's as well: a change would reach that, too.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise NotTrusted(path, kind(status), kind_bits=stat.S_IFREG)
    if status.st_nlink > links_maximum:
        raise NotTrusted(path, f"a file with {status.st_nlink} hard links")
    return status


# -- reading


def _read(fd: int, limit_bytes: int) -> bytes:
    parts = []
    while limit_bytes > 0:
        part = os.read(fd, min(limit_bytes, 1 << 16))
        if not part:
            break
        parts.append(part)
        limit_bytes -= len(part)
    return b"".join(parts)


def read_text(path: str) -> str | None:
    """As `read_bytes`, as text. `write_text` writes those bytes again."""
    data = read_bytes(path)
    return None if data is None else data.decode("utf-8", "surrogateescape")


def read_bytes(path: str) -> bytes | None:
    """The content of an mshare file, or None if there is none. NotTrusted for anything but a regular
    file: it never waits, as a FIFO's reader would."""
    try:
        with _place(path) as place:
            require_regular(place, path, links_maximum=1 << 30)
            fd = _opened(place, os.O_RDONLY, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return _read(fd, _OWN_LIMIT_BYTES)
    finally:
        os.close(fd)


def read_foreign(
    path: str,
    *,
    uids: Collection[int],
    gids: Collection[int] = (),
    limit_bytes: int = LIMIT_BYTES,
    start: int = 0,
) -> str | None:
    """The first bytes, from `start` on, of a file in somebody else's directory; None where there is none.

    `path` may begin with /proc/PID/cwd or /proc/PID/root; links then lead to places below that root.
    Read is what belongs to one of `uids`, and a file of root's that they may read as well: one that
    everybody may read, or one of `gids`, and that has one name. So nobody learns from a reader with more
    rights what he could not read himself. Bytes that are no UTF-8 become U+FFFD. It never waits.

    Raises NotTrusted (`reason` is a part of a sentence) for a link that somebody else made, a file of
    somebody else's, and anything but a regular file; OSError as open(2) does.
    """
    try:
        with _place(path) as place:
            status = require_regular(place, path, links_maximum=1 << 30)
            if status.st_uid not in uids:
                _require_readable(status, path, gids)
            fd = _opened(place, os.O_RDONLY, path)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None
    try:
        os.lseek(fd, start, os.SEEK_SET)
        return _read(fd, limit_bytes).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _require_readable(status: os.stat_result, path: str, gids: Collection[int]) -> None:
    if status.st_uid != 0:
        raise NotTrusted(path, f"a file of uid {status.st_uid}, who is not trusted with it")
    if status.st_nlink > 1:
        raise NotTrusted(path, f"a file of root's with {status.st_nlink} hard links")
    readable = status.st_mode & 0o004 or (status.st_mode & 0o040 and status.st_gid in gids)
    if not readable:
        raise NotTrusted(path, "a file of root's that this user may not read")


def open_file(path: str, flags: int, kind_bits: int = stat.S_IFREG) -> int:
    """Open a file that is there, the last name no link: with one name, and of one kind.

    NotTrusted for any other; OSError as open(2) does. A FIFO is opened without waiting for its other end.
    """
    with _place(path, follow=False) as place:
        _require_kind(os.fstat(place), path, kind_bits)
        return _opened(place, flags, path)


def _require_kind(status: os.stat_result, path: str, kind_bits: int) -> None:
    """NotTrusted for a file of another kind, or with more than one name."""
    if stat.S_IFMT(status.st_mode) != kind_bits:
        raise NotTrusted(path, kind(status), kind_bits=kind_bits)
    if status.st_nlink > 1:
        raise NotTrusted(path, f"a file with {status.st_nlink} hard links")


@contextlib.contextmanager
def socket_at(path: str) -> Iterator[str]:
    """A path for connect(2) that leads to the socket that is there, whatever has its name by then, and is
    short enough. NotTrusted for a link, or anything else that is no socket."""
    with _place(path, follow=False) as place:
        _require_kind(os.fstat(place), path, stat.S_IFSOCK)
        yield f"/proc/self/fd/{place}"


def make_socket(path: str, mode: int) -> socket.socket:
    """Make a socket in the place of whatever has its name; nobody else may connect before it has its mode."""
    directory, name = os.path.split(os.path.abspath(path))
    # By the name's end: a socket's path is short, and the name need not be.
    temporary = f".{name.rpartition('.')[2]}.{secrets.token_hex(8)}.new"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with _place(directory) as above:
            try:
                # What is bound gets the mode of the socket itself.
                os.fchmod(made.fileno(), 0o600)
                made.bind(f"/proc/self/fd/{above}/{temporary}")
                with _place(os.path.join(directory, temporary), follow=False) as place:
                    _require_kind(os.fstat(place), path, stat.S_IFSOCK)
                    _set_access(place, Access(mode), path)
                os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
            except OSError as error:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=above)
                raise _at(error, path) from None
    except BaseException:
        made.close()
        raise
    return made


def create_file(path: str, flags: int, mode: int) -> int:
    """Make a file that is not there yet, and open it; OSError as open(2) does (EEXIST for a link as well)."""
    directory, name = os.path.split(os.path.abspath(path))
    with _place(directory) as above:
        try:
            new = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, flags | new, mode, dir_fd=above)
        except OSError as error:
            raise _at(error, path) from None


def make_link(target: str, path: str) -> None:
    """Make a symbolic link that is not there yet; OSError as symlink(2) does."""
    directory, name = os.path.split(os.path.abspath(path))
    with _place(directory) as above:
        try:
            os.symlink(target, name, dir_fd=above)
        except OSError as error:
            raise _at(error, path) from None


def make_fifo(path: str, mode: int) -> int:
    """Make a FIFO in the place of whatever has its name, and open it for both ends without waiting."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = f".{name}.{secrets.token_hex(8)}.new"
    with _place(directory) as above:
        try:
            os.mkfifo(temporary, 0o600, dir_fd=above)
        except OSError as error:
            raise _at(error, path) from None
        beside = os.path.join(directory, temporary)
        fd = -1
        try:
            fd = open_file(beside, os.O_RDWR, stat.S_IFIFO)
            os.fchmod(fd, mode)
            os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=above)
            raise
    return fd


def behind_link(path: str) -> str:
    """Where a file is that is to be written again: behind a link, which stays. NotTrusted for a link that
    somebody else may have made."""
    if not os.path.islink(path):
        return path
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _place(path):
        pass
    return os.path.realpath(path)


def access_of(path: str) -> Access | None:
    """Mode, user and group of a regular file with a single name; None if there is none."""
    try:
        with _place(path, follow=False) as place:
            status = require_regular(place, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Access(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


# -- making and replacing


def write_text(
    path: str,
    text: str,
    mode: int = 0o644,
    uid: int = -1,
    gid: int = -1,
    *,
    durable: bool = True,
    keep_attributes: bool = False,
) -> None:
    """Replace a file in one step: readers see the old or the new one, never a half, and never a new one
    that is not yet its owner's. Directories above are made where they are missing.

    A `durable` file survives a power failure: it is on the disk before this returns. With `keep_attributes`
    the new file has the extended attributes of the old one, as access lists (ACLs) and SELinux's label.
    """
    data = text.encode("utf-8", "surrogateescape")
    write_bytes(path, data, Access(mode, uid, gid), durable=durable, keep_attributes=keep_attributes)


def write_bytes(
    path: str, data: bytes, access: Access, *, durable: bool = True, keep_attributes: bool = False
) -> None:
    """As `write_text`, for any content."""
    directory, name = os.path.split(os.path.abspath(path))
    with _place(directory, make_mode=0o755) as above:
        _sweep(above, name)
        for last in [False] * _TRIES + [True]:
            try:
                _put(above, name, data, access, durable, _attributes(above, name) if keep_attributes else {})
                return
            except (FileNotFoundError, BlockingIOError) as error:
                # Another process removed it as a leftover of a killed process, or is about to: it was quicker
                # to lock it.
                if last:
                    raise _at(error, path) from None
            except OSError as error:
                raise _at(error, path) from None


def _attributes(above: int, name: str) -> dict[str, bytes]:
    """The extended attributes of a file; none for one that is not there, or where there are none."""
    try:
        fd = os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=above)
    except FileNotFoundError:
        return {}
    try:
        place = f"/proc/self/fd/{fd}"
        return {key: os.getxattr(place, key) for key in os.listxattr(place)}
    except OSError:
        return {}
    finally:
        os.close(fd)


def _put(
    above: int, name: str, data: bytes, access: Access, durable: bool, attributes: dict[str, bytes]
) -> None:
    temporary = f".{name}.{secrets.token_hex(8)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=above)
    try:
        # Held while it is being written: who finds it unlocked knows that its writer is gone.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if (access.uid, access.gid) != (-1, -1):
            os.fchown(fd, access.uid, access.gid)
        os.fchmod(fd, access.mode)
        for key, value in attributes.items():
            # Whoever may not set a label leaves it to the security module, which has one for each place.
            with contextlib.suppress(*([PermissionError] if key.startswith("security.") else [])):
                os.setxattr(fd, key, value)
        if durable:
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
        if durable:
            with _listing(above) as names:
                os.fsync(names)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=above)
        raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def beneath(root: str, directory: str) -> Iterator[int]:
    """A directory below a root, open with O_PATH; "" for the root itself. No part below the root may be a
    link (ENOTDIR), whoever made it."""
    above = _find(root)
    try:
        for part in directory.split("/") if directory else ():
            try:
                below = os.open(part, _PLACE | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=above)
            except OSError as error:
                raise _at(error, os.path.join(root, directory)) from None
            os.close(above)
            above = below
        yield above
    finally:
        os.close(above)


def walk(root: str, depth: int, skipped: str) -> Iterator[tuple[str, bool]]:
    """What is below a root, by name relative to it, and whether it is a directory: in no order.

    Directories are entered down to a depth, but not `skipped` ones, and no link is followed. One that this
    user may not read, or that is gone meanwhile, is as if it were empty. OSError for the root itself.
    """
    with beneath(root, "") as place:
        yield from _walk(place, "", depth, skipped)


def _walk(place: int, above: str, depth: int, skipped: str) -> Iterator[tuple[str, bool]]:
    with _listing(place) as listing, os.scandir(listing) as entries:
        inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in inside:
        if name == skipped:
            continue
        yield above + name, is_directory
        if is_directory and depth > 0:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                below = os.open(name, _PLACE | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=place)
                try:
                    yield from _walk(below, f"{above}{name}/", depth - 1, skipped)
                finally:
                    os.close(below)


@contextlib.contextmanager
def _listing(above: int) -> Iterator[int]:
    """A directory that is open as a place, open for its names."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        yield fd
    finally:
        os.close(fd)


def _sweep(above: int, name: str) -> None:
    """Remove what killed writers of a file left beside it."""
    try:
        with _listing(above) as listing:
            names = [entry for entry in os.listdir(listing) if is_left_over(entry, name)]
    except PermissionError:
        return
    for entry in names:
        # A file that may not be opened, or whose writer lives, stays.
        with contextlib.suppress(OSError, NotTrusted):
            _remove_unlocked(above, entry)


def sweep(*files: str) -> None:
    """Remove what killed writers of files left beside them."""
    for path in files:
        directory, name = os.path.split(os.path.abspath(path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _place(directory) as above:
            _sweep(above, name)


def is_left_over(entry: str, name: str) -> bool:
    """Whether a name is that of a file's successor, which a killed writer leaves."""
    return re.fullmatch(rf"\.{re.escape(name)}\.(?:[0-9a-f]{{16}}\.)?new", entry) is not None


def final_name(entry: str) -> str:
    """The name that a file in a listing has, or will have: a successor left by a killed writer has that of
    the file it should have become."""
    successor = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}\.new", entry)
    return successor.group(1) if successor else entry


def final_names(directory: str) -> set[str]:
    """The names of the files in a directory, as `final_name` has them; none where there is none."""
    try:
        return {final_name(entry) for entry in os.listdir(directory)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def left_at(path: str) -> bool:
    """Whether there is a file, or what a killed process left of writing one."""
    directory, name = os.path.split(os.path.abspath(path))
    return name in final_names(directory)


def _remove_unlocked(above: int, name: str) -> None:
    place = os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=above)
    try:
        if stat.S_ISSOCK(os.fstat(place).st_mode):
            # It cannot be locked. Who is just making it fails to give it its name.
            os.unlink(name, dir_fd=above)
            return
        if not stat.S_ISFIFO(os.fstat(place).st_mode):
            require_regular(place, name)
        fd = _opened(place, os.O_RDONLY, name)
    finally:
        os.close(place)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=above)
    finally:
        os.close(fd)


def make_directory(path: str, mode: int = 0o755) -> None:
    """Make a directory of ours, and those above it. One that is there is taken only if nobody else decides
    what is in it: NotOurs for a link, one of another user's, and one that others may write to."""
    above, name = os.path.split(os.path.abspath(path))
    with _place(above, make_mode=0o755) as parent:
        try:
            os.mkdir(name, mode, dir_fd=parent)
            return
        except FileExistsError:
            pass
        except OSError as error:
            raise _at(error, path) from None
        with _place(path, follow=False) as place:
            status = os.fstat(place)
            link = stat.S_ISLNK(status.st_mode)
            if link and _trusted(status, os.fstat(parent)):
                # As /var/run is one: where it leads was root's or this user's decision.
                with _place(path) as target:
                    status = os.fstat(target)
            _require_ours(status, path)


def make_shared_directory(path: str, access: Access) -> None:
    """Make a directory that others may write to, with its access; OSError as mkdir(2) does. Nobody can put
    something else there meanwhile: NotTrusted then."""
    above, name = os.path.split(os.path.abspath(path))
    with _place(above) as parent:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except OSError as error:
            raise _at(error, path) from None
        try:
            set_directory_access(path, access)
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent)
            raise


def is_directory(path: str) -> bool:
    """Whether a directory is there; NotTrusted where a link that somebody else made is on the way."""
    try:
        with _place(path) as place:
            return stat.S_ISDIR(os.fstat(place).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_directory(path: str) -> int:
    """Open a directory, the last name no link, for its names or its lock; OSError as open(2) does."""
    with _place(path, follow=False) as place:
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
        except OSError as error:
            raise _at(error, path) from None


def status(path: str) -> os.stat_result:
    """The status of what is there, not of what a link at the end leads to; OSError as stat(2) does."""
    with _place(path, follow=False) as place:
        return os.fstat(place)


def require_own_directory(path: str) -> None:
    """NotOurs for a directory of another user's, or a link that he made; OSError for none. Who else may
    write to it is this user's own decision."""
    with _place(path, follow=False) as place:
        _require_ours(os.fstat(place), path, shared=True)


class NotOurs(Conflict):
    """A directory in a shared place that somebody else made first, or may write to."""


def _require_ours(status: os.stat_result, path: str, shared: bool = False) -> None:
    if not stat.S_ISDIR(status.st_mode):
        reason = f"is {kind(status)}"
    elif status.st_uid not in (0, os.geteuid()):
        reason = f"belongs to uid {status.st_uid}"
    elif not shared and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        reason = f"may be changed by others (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    raise NotOurs(
        f"{path} {reason}, so mshare does not use it; remove it, or choose another place"
        " (MSHARE_STATE_DIR, MSHARE_CACHE_DIR, --root)"
    )


# -- changing and removing


def set_access(path: str, access: Access, inode: int | None = None, kind_bits: int = stat.S_IFREG) -> None:
    """Give a file or directory another mode, user or group: the one that is there, never where a link leads.

    NotTrusted for a link, a file with two names, of another kind, or other than `inode`.
    """
    with _place(path, follow=False) as place:
        status = os.fstat(place)
        if kind_bits == stat.S_IFSOCK:
            _require_kind(status, path, kind_bits)
        elif not stat.S_ISDIR(status.st_mode):
            require_regular(place, path)
        if inode not in (None, status.st_ino):
            raise NotTrusted(path, "not the file that was created there")
        _set_access(place, access, path)


def set_directory_access(path: str, access: Access) -> None:
    """As `set_access`, for a directory of root's or this user's: NotOurs for anything else. Who owns a
    directory may read what others put there, and a file in its place could be a program that runs as its
    new group."""
    with _place(path, follow=False) as place:
        _require_ours(os.fstat(place), path, shared=True)
        _set_access(place, access, path)


def _set_access(place: int, access: Access, path: str) -> None:
    # Of the open file, not of the name: a place has no fchown(2) of its own.
    itself = f"/proc/self/fd/{place}"
    try:
        if (access.uid, access.gid) != (-1, -1):
            os.chown(itself, access.uid, access.gid)
        os.chmod(itself, access.mode)
    except OSError as error:
        raise _at(error, path) from None


def unlink(path: str) -> None:
    """Remove a file by name, and what a killed process left of writing it; OSError as unlink(2) does."""
    directory, name = os.path.split(os.path.abspath(path))
    with _place(directory) as above:
        _sweep(above, name)
        try:
            os.unlink(name, dir_fd=above)
        except OSError as error:
            raise _at(error, path) from None


def remove(*files: str) -> None:
    """As `unlink`, for several; missing ones are fine."""
    for path in files:
        try:
            unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except IsADirectoryError as error:
            # It may hold anything, so it is never removed here.
            reason = "a directory is where a file belongs; remove it by hand (rmdir), then run this again"
            raise OSError(error.errno, reason, path) from None


def rmdir(path: str) -> None:
    """Remove an empty directory; OSError as rmdir(2) does, and NotTrusted."""
    directory, name = os.path.split(os.path.abspath(path))
    with _place(directory) as above:
        try:
            os.rmdir(name, dir_fd=above)
        except OSError as error:
            raise _at(error, path) from None


def remove_directory(path: str) -> None:
    """As `rmdir`; a missing one is fine."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        rmdir(path)


def remove_empty(*directories: str) -> None:
    """Remove mshare's directories if they are empty; others stay."""
    for path in directories:
        with contextlib.suppress(OSError, NotTrusted):
            remove_directory(path)
