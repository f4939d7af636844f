# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Four kinds of errors, and how to print them.

An error of the kernel remains an `OSError` with its errno; errors of the library itself have one of the
classes below. A message says what was tried, on what, what was found, what is needed, and what to do
next.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass


class MshareError(Exception):
    """The host or the situation does not allow the request."""

    kind = "failed"
    exit_code = 1


class InvalidRequest(MshareError, ValueError):
    """The request itself is wrong, on any host."""

    kind = "invalid_request"
    exit_code = 2


class Unavailable(MshareError):
    """This host lacks something: a kernel with mshare, a mount, cffi, root."""

    kind = "unavailable"
    exit_code = 4


class Conflict(MshareError):
    """What exists is not what was requested, or is in use."""

    kind = "conflict"
    exit_code = 5


_KINDS = (InvalidRequest, Unavailable, Conflict)
EXIT_VERDICT_FAILED = 3
"""A validation was completed and missed a threshold."""
# Next steps for errors of a kernel or the simulator, which uses the same errno (see the tables of the
# posted series): what a DBA can do about it.
_NEXT_STEPS = {
    errno.EACCES: "run as the region's owner or group, or widen the region's mode",
    errno.EBUSY: "stop the clients and the owner first",
    errno.EEXIST: "unlink the old region first, or choose another name",
    errno.EFBIG: "raise RLIMIT_FSIZE (ulimit -f)",
    errno.EINVAL: "check size and address against the alignment in mshare_info, and that the owner is alive",
    errno.ENOENT: "check the path; `mshare list` shows the regions",
    errno.ENOMEM: "request less, allow overcommit, raise RLIMIT_AS (ulimit -v), or reserve huge pages",
    errno.ESTALE: "remove its name with `mshare rm` (--force while its owner lives), then create it again",
    errno.ENOSPC: "give the tmpfs more room (mount -o remount,size=...)",
    errno.EOPNOTSUPP: "see `mshare info` for what this generation of the kernel interface can do",
    errno.EPERM: "run as root (become: true)",
}


def sentence(error: BaseException) -> str:
    """An error as one sentence; errors of the kernel get their name and a next step."""
    if isinstance(error, MshareError) or not isinstance(error, OSError) or error.errno is None:
        return str(error)
    name = errno.errorcode.get(error.errno, str(error.errno))
    what = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or os.strerror(error.errno)
    step = _NEXT_STEPS.get(error.errno)
    return f"{what}{reason} ({name})" + (f"; {step}" if step else "")


def exit_code(error: BaseException) -> int:
    """The documented exit code of the command line for an error."""
    return error.exit_code if isinstance(error, MshareError) else 1


def kind(error: BaseException) -> str:
    """The kind of an error in `--json` and in module results."""
    return error.kind if isinstance(error, MshareError) else MshareError.kind


@dataclass(frozen=True)
class Failure:
    """An error as it is written to status files and `--json`."""

    kind: str
    message: str
    exit_code: int

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(kind(error), sentence(error), exit_code(error))

    def to_error(self) -> MshareError:
        """The error, to be raised here with the same kind."""
        kinds = {known.kind: known for known in _KINDS}
        return kinds.get(self.kind, MshareError)(self.message)


def within(where: str, error: BaseException) -> MshareError:
    """An error of the same kind whose message starts with the place."""
    return Failure(kind(error), f"{where}: {sentence(error)}", exit_code(error)).to_error()


def from_exit(code: int, message: str) -> MshareError:
    """The error of an `mshare` command that ended before it could report one."""
    codes = {known.exit_code: known for known in _KINDS}
    return codes.get(code, MshareError)(message)
