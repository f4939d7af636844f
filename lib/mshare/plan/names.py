# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names for what a plan proposes."""

from __future__ import annotations

import re


def region_name(name: str) -> str:
    """A name that a region may have, out of an instance's."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[:128] or "sga"
