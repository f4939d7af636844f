# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much memory may be locked, which SysV huge pages count as: of a service by a drop-in, of a user by PAM.

Each is a file of its own, whose name sorts last: of several that set the same, the last one counts.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Container, Iterable

from ..errors import Unavailable
from ..host.limits import Host
from ..services import systemd
from ..services.systemd import HEAD
from ..units import KIB
from .spec import MemlockRequest

LIMITS_FOLDER = "/etc/security/limits.d"
_LIMITS_LINE = re.compile(r"^\s*(\S+)\s+(soft|hard|-)\s+memlock\s+(\S+)", re.MULTILINE)


def file_of(request: MemlockRequest) -> str:
    if request.unit is not None:
        return systemd.unit_path(f"{request.unit}.d/zz-mshare-memlock.conf")
    return f"{LIMITS_FOLDER}/zz-mshare-memlock-{request.user}.conf"


def is_drop_in(path: str) -> bool:
    """Whether systemd has to read its units again after a change of this file."""
    return path.startswith(f"{systemd.UNIT_DIRECTORY}/")


def text_of(request: MemlockRequest) -> str:
    if request.unit is not None:
        limit = "infinity" if request.limit_bytes is None else str(request.limit_bytes)
        return f"{HEAD}[Service]\nLimitMEMLOCK={limit}\n"
    kib = "unlimited" if request.limit_bytes is None else str(-(-request.limit_bytes // KIB))
    return HEAD + "".join(f"{request.user} {kind} memlock {kib}\n" for kind in ("soft", "hard"))


def files(requests: Iterable[MemlockRequest]) -> dict[str, str]:
    """Path -> text."""
    return {file_of(request): text_of(request) for request in requests}


def require(host: Host, requests: Iterable[MemlockRequest]) -> None:
    """Unavailable for a service or a user that this host does not have."""
    for request in requests:
        if request.user is not None:
            try:
                pwd.getpwnam(request.user)
            except KeyError:
                raise Unavailable(
                    f"this host has no user {request.user}, whose locked memory is to be limited; create the"
                    " user first"
                ) from None
        else:
            assert request.unit is not None
            if not host.runs_systemd():
                raise Unavailable(
                    f"the limit of unit {request.unit} is a drop-in of systemd, which does not run on this"
                    " host; name the user in its place"
                )
            if systemd.ask("show", "--value", "--property=LoadState", request.unit) != "loaded":
                raise Unavailable(
                    f"systemd has no unit {request.unit} on this host; see `systemctl list-units`"
                )


def warnings(host: Host, requests: Iterable[MemlockRequest], changed: Container[str]) -> list[str]:
    """When a file that is `changed` takes effect, and which limits of others for the same user it hides."""
    texts = []
    for request in requests:
        if file_of(request) in changed:
            when = "it is restarted" if request.user is None else f"{request.user} logs in again"
            texts.append(f"the limit of locked memory of {request.text} takes effect when {when}")
        if request.user is None:
            continue
        for path in ["/etc/security/limits.conf", *host.files(f"{LIMITS_FOLDER}/*.conf")]:
            lines = _LIMITS_LINE.findall(host.read(path) or "")
            mine = [line for line in lines if line[0] == request.user]
            if mine and path != file_of(request):
                values = ", ".join(f"{kind} {value}" for __, kind, value in mine)
                texts.append(
                    f"{path} limits the locked memory of {request.user} as well ({values});"
                    f" {file_of(request)} comes later and wins"
                )
    return texts
