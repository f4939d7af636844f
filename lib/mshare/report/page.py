# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one HTML page: nothing in it is fetched from anywhere, and it prints on A4."""

from __future__ import annotations

from typing import Any

from ..errors import Unavailable
from ..units import format_size
from .chart import MOST_HOSTS, chart
from .fleet import Fleet
from .remedies import HUGE, MSHARE
from .template import TEMPLATE

MOST_INSTANCES = 50


def page(fleet: Fleet) -> str:
    return str(
        _template().render(
            fleet=fleet,
            chart=chart(fleet),
            most_hosts=MOST_HOSTS,
            instances=fleet.instances[:MOST_INSTANCES],
            huge=HUGE,
            mshare=MSHARE,
        )
    )


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise Unavailable(
            f"the report's page is filled in by Jinja, which cannot be imported here ({error}); install it"
            " where the report is made: pip install Jinja2"
        ) from None
    # What hosts call themselves and their processes goes into the page: everything is escaped but the chart.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["size"] = format_size
    environment.filters["number"] = "{:,}".format
    environment.filters["percent"] = _percent
    return environment.from_string(TEMPLATE)


def _percent(value: float) -> str:
    return f"{value:.1f} %" if value >= 0.05 or not value else "< 0.1 %"
