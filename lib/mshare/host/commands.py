# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the host that are run for what they do."""

from __future__ import annotations

import shutil
import subprocess

from ..errors import MshareError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where an administrator's programs are, also for a root whose PATH is that of other users."""


def find(program: str) -> str | None:
    """Where a program of the host is; None without one."""
    return shutil.which(program, path=_PATH)


def run(*command: str, next_step: str) -> None:
    """Run a program to its end; MshareError, with its own message and the next step, if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = done.stdout.strip() or f"exit code {done.returncode}"
        raise MshareError(f"`{' '.join(command)}` failed: {reason}; {next_step}")
