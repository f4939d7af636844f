# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from .backends import choose as choose
from .backends import locate as locate
from .backends.base import Backend as Backend
from .backends.base import Mapping as Mapping
from .backends.connect import connect as connect
from .calls import mcreate as mcreate
from .calls import mshare as mshare
from .calls import mshare_unlink as mshare_unlink
from .errors import Conflict as Conflict
from .errors import InvalidRequest as InvalidRequest
from .errors import MshareError as MshareError
from .errors import Unavailable as Unavailable
from .pagetable import PageTables as PageTables
from .pagetable import page_tables as page_tables
from .pagetable import totals as totals
from .region import Attachment as Attachment
from .region import Region as Region
from .region import RegionStat as RegionStat
from .region import list_regions as list_regions
from .region import unlink as unlink
from .units import format_size as format_size
from .units import parse_size as parse_size

__version__: str
