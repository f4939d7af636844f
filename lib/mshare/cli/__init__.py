# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line `mshare`: one file per group of commands, imported when a command is used."""

from __future__ import annotations

from .program import mshare


def main() -> None:
    """The entry point of the script `mshare`."""
    mshare.main()
