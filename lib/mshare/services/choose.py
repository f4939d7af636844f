# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who keeps our processes on this host."""

from __future__ import annotations

import os

from ..host.limits import Host
from .detached import Detached
from .supervisor import Supervisor
from .systemd import Systemd


def systemd_runs() -> bool:
    """sd_booted(3)."""
    return Host().runs_systemd()


def current() -> Supervisor:
    """systemd where it runs and this is root; else detached processes."""
    return Systemd() if systemd_runs() and os.geteuid() == 0 else Detached()
