# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""2025-08 (v3, the newest posted): files and huge pages inside a region, which dies with its creator."""

from __future__ import annotations

from ..generations import GENERATIONS
from .v2025_04 import V2025_04


class V2025_08(V2025_04):
    generation = GENERATIONS["2025-08"]
