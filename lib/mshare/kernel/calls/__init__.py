# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How each generation of the kernel's interface is called, one file each, and a table of them by id."""

from __future__ import annotations

from .base import Calls
from .v2022_06 import V2022_06
from .v2024_09 import V2024_09
from .v2025_01 import V2025_01
from .v2025_04 import V2025_04
from .v2025_08 import V2025_08

CALLS: dict[str, Calls] = {
    calls.generation.id: calls for calls in (V2022_06(), V2024_09(), V2025_01(), V2025_04(), V2025_08())
}
