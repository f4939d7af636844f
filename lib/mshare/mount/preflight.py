# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this process may mount at all."""

from __future__ import annotations

import os

from .. import paths
from ..errors import Unavailable
from ..host.limits import Host


def require(root: str, host: Host | None = None) -> None:
    """Raise Unavailable, with the reason, if this process may not mount at a root."""
    host = host or Host()
    if not paths.is_root():
        raise Unavailable(
            f"mounting msharefs at {root} needs root (CAP_SYS_ADMIN), but this is uid"
            f" {os.geteuid()}; run as root (become: true), or use backend simulated, which gives an"
            f" ordinary user a directory of their own"
        )
    if not host.may_mount():
        kind = host.container()
        where = f"this container ({kind})" if kind else "the process that started this"
        raise Unavailable(
            f"mounting msharefs at {root} needs the capability CAP_SYS_ADMIN, which {where} does not give"
            " root; add it (podman and docker: --cap-add SYS_ADMIN), or run as an ordinary user with backend"
            " simulated, which needs no mount"
        )
