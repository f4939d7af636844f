# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as one HTML page: nothing in it is fetched from anywhere, and it prints on A4.

The page's template, style and script are the files beside this module.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import Unavailable
from ..printable import printable
from ..units import counted, format_size
from .chart import MOST_HOSTS, RANKS, bars
from .fleet import Fleet, grown
from .remedies import HUGE, MSHARE

MOST_INSTANCES = 50
MOST_CHANGES = 30
# Where a long name may go on in the next line.
_SEPARATORS = re.compile(r"([-/_.:,;@=#+]+)")


def page(fleet: Fleet) -> str:
    """The whole page. Raises Unavailable where Jinja is missing."""
    jinja = _jinja()
    script = _beside("page.js")
    # Names of hosts and processes are text of strangers: everything is escaped that is not ours.
    environment = jinja.Environment(
        autoescape=True,
        finalize=_written_out,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    markup = environment.filters["safe"]
    environment.filters["size"] = format_size
    environment.filters["number"] = "{:,}".format
    environment.filters["percent"] = _percent
    environment.filters["counted"] = counted
    environment.filters["moment"] = _moment
    environment.filters["grown"] = grown
    environment.filters["signed"] = lambda size_bytes: (
        f"{'+' if size_bytes > 0 else ''}{format_size(size_bytes)}"
    )
    environment.filters["breakable"] = lambda text: markup("<wbr>").join(
        _SEPARATORS.sub("\\1\0", printable(str(text))).split("\0")
    )
    return str(
        environment.from_string(_beside("page.html.j2")).render(
            fleet=fleet,
            style=markup(_beside("page.css")),
            script=markup(script),
            script_hash=_hash(script),
            bars=bars(fleet),
            ranks=RANKS,
            most_hosts=MOST_HOSTS,
            instances=fleet.instances[:MOST_INSTANCES],
            huge=HUGE,
            mshare=MSHARE,
            version=__version__,
            most_changes=MOST_CHANGES,
        )
    )


def _written_out(value: Any) -> Any:
    """Text of strangers with its control characters written out; markup is ours, and made of such text."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What the page's own policy lets run: this script and no other."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _jinja() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise Unavailable(
            f"the report's page is filled in by Jinja, which cannot be imported here ({error}); install it"
            " where the report is made: pip install Jinja2"
        ) from None
    return jinja2


def _moment(created_at: str) -> str:
    """2026-11-27T08:12:31Z -> 2026-11-27 08:12 UTC; what is written otherwise stays as it is."""
    written = re.match(r"(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2})\S*(?:Z|\+00:00)$", created_at)
    return f"{written[1]} {written[2]} UTC" if written else created_at


def _percent(value: float) -> str:
    return f"{value:.1f} %" if value >= 0.05 or not value else "< 0.1 %"
