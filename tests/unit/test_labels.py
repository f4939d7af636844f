# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measured, modelled, projected: a sum has the weakest word of its parts."""

from __future__ import annotations

import pytest

from mshare.labels import KINDS, weakest


@pytest.mark.parametrize("kind", KINDS)
def test_one_alone(kind):
    assert weakest(kind, kind) == kind


def test_the_weakest_counts():
    assert weakest("measured", "modelled") == "modelled"
    assert weakest("modelled", "measured", "projected") == "projected"
