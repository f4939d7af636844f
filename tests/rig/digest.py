# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What failed, in a few lines: for the end of a long log, where a reader looks first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

_LINES = 25
_OUTCOMES = ("failed", "error")


def append(path: str, stats: Mapping[str, Sequence[pytest.TestReport]]) -> None:
    """Add to a file the name of each such test, with the last lines of what pytest says of it."""
    with open(path, "a", encoding="utf-8") as file:
        for outcome in _OUTCOMES:
            for report in stats.get(outcome, ()):
                lines = report.longreprtext.splitlines()[-_LINES:]
                said = [f"{outcome.upper()} {report.nodeid}", *(f"    {line}" for line in lines)]
                print(*said, sep="\n", file=file)
