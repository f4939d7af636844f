# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Share page tables between processes: Linux's mshare, on a kernel that has it or simulated.

    with mshare.Region.create("sga", "300GiB", overcommit=True) as region:
        with region.attach() as attachment:
            attachment.view(0, 5)[:] = b"hello"

The names of `mshare.api` are looked up when they are first used: the same package travels to hosts as
part of Ansible modules, which must not carry, or import, what they do not need.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(name)
    api = importlib.import_module(f"{__name__}.api")
    if name not in api.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(api, name)
