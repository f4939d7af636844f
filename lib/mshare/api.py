# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public Python API; `import mshare` offers the same names."""

from __future__ import annotations

from .backends import choose, locate
from .backends.base import Backend, Mapping
from .backends.connect import connect
from .calls import mcreate, mshare, mshare_unlink
from .errors import Conflict, InvalidRequest, MshareError, Unavailable
from .pagetable import PageTables, page_tables, totals
from .region import Attachment, Region, RegionStat, list_regions, unlink
from .units import format_size, parse_size

__all__ = [
    "Attachment",
    "Backend",
    "Conflict",
    "InvalidRequest",
    "Mapping",
    "MshareError",
    "PageTables",
    "Region",
    "RegionStat",
    "Unavailable",
    "choose",
    "connect",
    "format_size",
    "list_regions",
    "locate",
    "mcreate",
    "mshare",
    "mshare_unlink",
    "page_tables",
    "parse_size",
    "totals",
    "unlink",
]
