# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the host that are run for what they do."""

from __future__ import annotations

import subprocess

from ..errors import MshareError


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
