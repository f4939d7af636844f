# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A figure: its value, unit, label and source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..labels import Kind
from ..units import format_milliseconds, format_size

_TEXT = {
    "bytes": format_size,
    "percent": "{:.2f} %".format,
    "ms": format_milliseconds,
    "clients": "{:,.0f}".format,
}


@dataclass(frozen=True)
class Figure:
    """A number with its unit, label and source."""

    name: str
    value: float
    unit: Literal["bytes", "percent", "ms", "clients"]
    kind: Kind
    how: str
    per_client: bool = False

    @property
    def text(self) -> str:
        return _TEXT[self.unit](self.value)
