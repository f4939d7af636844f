# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Surveys for Prometheus, once or again and again: each replaces the file that the node exporter reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from .. import files
from ..services.notify import notify
from ..survey.survey import Series
from .exposition import ExporterFigures, text
from .figures import figures


def replace(path: str, content: str) -> None:
    """Replace a file of metrics in one step, readable by everybody. It need not survive a power failure."""
    files.write_text(path, content, 0o644, durable=False)


def run(
    series: Series, write: Callable[[str], None], seconds: float | None = None, interval: float | None = None
) -> None:
    """Survey, and write the metrics; every so many seconds from the first on, or once for None.

    `interval` is how many seconds pass between two runs where somebody else repeats it. systemd is told after
    each pass (READY=1, WATCHDOG=1): a pass that hangs has the service started again. Nothing that goes wrong
    is passed over: an error ends this, and the metrics say how old they are.
    """
    began, used = time.monotonic(), 0.0
    while True:
        found = figures(series.survey())
        # The first pass has the start of Python as well; writing some 10 KiB is not seen beside it.
        before, used = used, time.process_time()
        write(text(found, ExporterFigures(seconds or interval or 0.0, round(used - before, 4))))
        notify(READY="1", WATCHDOG="1")
        if seconds is None:
            return
        time.sleep(seconds - (time.monotonic() - began) % seconds)
