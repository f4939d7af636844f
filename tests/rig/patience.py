# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting in tests: counted in looks, not by the clock.

A machine that is paused or oversubscribed meanwhile has lost nothing: it is looked at as often as ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOKS = 1500
HANG_SECONDS = 1800
"""For calls that take a limit in seconds: it ends what hangs, and says nothing about speed."""


def eventually(
    is_so: Callable[[], object], what: str | Callable[[], str] = "waited in vain", looks: int = LOOKS
) -> None:
    """Wait until something is so; AssertionError, with what it is, where it does not come."""
    for number in range(looks):
        if is_so():
            return
        time.sleep(min(0.02 + number / 5000, 0.5))
    raise AssertionError(what if isinstance(what, str) else what())
