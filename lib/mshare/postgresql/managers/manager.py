# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manager: how it is recognised, and what it takes to change a cluster of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .evidence import Evidence


@dataclass(frozen=True)
class Manager:
    """Who starts a cluster, and whose configuration counts."""

    name: str
    """As in "PostgreSQL cluster 15-main is managed by NAME"."""
    recognise: Callable[[Evidence], str | None]
    """A clause that says by what it was recognised; None where it was not."""
    advice: str | None
    """What to set there instead, if its clusters are left alone; None for a supported manager."""
