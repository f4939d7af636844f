# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures and the rows in which people read them."""

from __future__ import annotations

import pytest

from mshare.savings.figure import Figure
from mshare.savings.table import Row


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4096, "bytes", "4 KiB"),
        (99.5, "percent", "99.50 %"),
        (1.25, "ms", "1.2 ms"),
        (1500, "clients", "1,500"),
    ],
)
def test_a_figure_has_its_unit(value, unit, text):
    assert Figure("x", value, unit, "measured", "how").text == text


def test_a_row_says_what_its_figures_are():
    assert Row("Saving", "1 MiB", "100 MiB", "modelled").kind == "modelled"
