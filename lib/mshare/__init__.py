# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Share page tables between processes with Linux's mshare, on a kernel that has it or simulated.

    with mshare.Region.create("sga", "300GiB", overcommit=True) as region:
        with region.attach() as attachment:
            attachment.view(0, 5)[:] = b"hello"

Public names are imported at first use, because parts of this package are sent to hosts with Ansible
modules, which must not contain or import what they do not need.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Module -> its public names. `__init__.pyi` has the same for type checkers.
_PUBLIC = {
    "backends.choose": ("choose", "locate"),
    "backends.base": ("Backend",),
    "backends.connect": ("connect",),
    "backends.mapping": ("Mapping",),
    "errors": ("Conflict", "InvalidRequest", "MshareError", "Unavailable"),
    "pagetable": ("PageTables", "page_tables", "totals"),
    "region.mailing_list": ("mcreate", "mshare", "mshare_unlink"),
    "region.region": ("Attachment", "Region", "RegionStat", "list_regions", "unlink"),
    "units": ("format_size", "parse_size"),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
