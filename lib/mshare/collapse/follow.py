# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeping a server in huge pages: what it touches later, and what a restart took away, is collapsed again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..errors import MshareError, sentence
from . import target
from .collapse import collapse
from .spec import SECONDS


def follow(
    text: str,
    wait: Callable[[float], bool],
    report: Callable[[str], None],
    *,
    seconds: float = SECONDS,
    rate_bytes: int | None = None,
) -> None:
    """Check repeatedly, and collapse what is in small pages, until `wait` returns True.

    `wait` is given the seconds to the next check; True ends this. `report` is given a sentence whenever
    something has changed: a collapse, or a new reason why there is none. InvalidRequest for a pid: after
    a restart it names nothing, or another process.
    """
    target.require_lasting(text)
    reason = ""
    while True:
        before, reason = reason, ""
        try:
            result = collapse(text, rate_bytes=rate_bytes)
        except (MshareError, OSError) as error:
            # The server may be down just now, or somebody may be mending what stands in the way.
            reason = sentence(error)
            news = "" if reason == before else reason
        else:
            news = result.lines()[0] if result.changed else ""
        if news:
            with contextlib.suppress(OSError):
                report(news)
        if wait(seconds):
            return
