# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from .backends.base import Backend as Backend
from .backends.choose import choose as choose
from .backends.choose import locate as locate
from .backends.connect import connect as connect
from .backends.mapping import Mapping as Mapping
from .errors import Conflict as Conflict
from .errors import InvalidRequest as InvalidRequest
from .errors import MshareError as MshareError
from .errors import Unavailable as Unavailable
from .pagetable import PageTables as PageTables
from .pagetable import page_tables as page_tables
from .pagetable import totals as totals
from .region.mailing_list import mcreate as mcreate
from .region.mailing_list import mshare as mshare
from .region.mailing_list import mshare_unlink as mshare_unlink
from .region.region import Attachment as Attachment
from .region.region import Region as Region
from .region.region import RegionStat as RegionStat
from .region.region import list_regions as list_regions
from .region.region import unlink as unlink
from .units import format_size as format_size
from .units import parse_size as parse_size

__version__: str
