# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The labels of figures: measured, modelled or projected."""

from __future__ import annotations

from typing import Literal

Kind = Literal["measured", "modelled", "projected"]
KINDS: tuple[Kind, ...] = ("measured", "modelled", "projected")
"""From the strongest to the weakest."""


def weakest(*kinds: Kind) -> Kind:
    return max(kinds, key=KINDS.index)
