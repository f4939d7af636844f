# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chart of page tables by host and instance, as SVG that stands in a page without anything beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import Unavailable
from ..units import format_size
from .fleet import Fleet, Host

MOST_HOSTS = 20
_RANKS = ("largest instance", "second", "third", "further instances", "in no instance")
# Readable in black and white too: each is lighter than the one before it, and what is in no instance is grey.
_COLOURS = ("#0b4f6c", "#2a8fbd", "#85c1de", "#c5e1ef", "#d9d9d9")
_TEXT_COLOURS = ("#ffffff", "#ffffff", "#12222b", "#12222b", "#12222b")
_WIDTH, _BARS_WIDTH, _ROW_HEIGHT, _AROUND_HEIGHT = 980, 780, 30, 110
_TICKS = 8
_CHARACTER = 6.4
"""About the width of one at the size of the labels."""


def chart(fleet: Fleet) -> str:
    """SVG, or nothing where there is no host to show."""
    hosts = fleet.hosts[:MOST_HOSTS]
    if not hosts:
        return ""
    pygal = _library()
    drawing = pygal.HorizontalStackedBar(
        width=_WIDTH,
        height=_AROUND_HEIGHT + _ROW_HEIGHT * len(hosts),
        style=_style(pygal),
        disable_xml_declaration=True,
        legend_at_bottom=True,
        legend_at_bottom_columns=len(_RANKS),
        legend_box_size=11,
        print_labels=True,
        show_y_guides=False,
        show_x_guides=True,
        truncate_label=28,
        truncate_legend=-1,
        value_formatter=format_size,
        margin=4,
        margin_right=32,
    )
    # A name of its own each time would make two reports of the same fleet differ.
    drawing.uuid = "page-tables"
    # Bars are drawn from below.
    drawn = list(reversed(hosts))
    drawing.x_labels = [host.name for host in drawn]
    axis = _axis(max(_drawn_bytes(host) for host in hosts))
    drawing.y_labels, drawing.range = axis, (0, axis[-1])
    for number, rank in enumerate(_RANKS):
        drawing.add(rank, [_bar(host, number, axis[-1]) for host in drawn])
    return _bare(drawing)


def _drawn_bytes(host: Host) -> int:
    return max(host.page_tables_bytes, sum(one.page_tables_bytes for one in host.instances))


def _axis(most_bytes: int) -> list[int]:
    """Round figures in binary units, from nothing to the first that is not below the longest bar."""
    step_bytes = 1
    while step_bytes * _TICKS < most_bytes:
        step_bytes *= 2
    return list(range(0, -(-max(1, most_bytes) // step_bytes) * step_bytes + 1, step_bytes))


def _bar(host: Host, rank: int, most_bytes: int) -> dict[str, Any] | None:
    name, size_bytes = _parts(host)[rank]
    if not size_bytes:
        return None
    # A name that does not fit its bar would lie over the next.
    room = _BARS_WIDTH * size_bytes / most_bytes
    return {"value": size_bytes, "label": name if (len(name) + 2) * _CHARACTER < room else ""}


def _parts(host: Host) -> Sequence[tuple[str, int]]:
    """Name and bytes for each of the ranks."""
    named = [(one.name, one.page_tables_bytes) for one in host.instances[:3]]
    named += [("", 0)] * (3 - len(named))
    further = sum(one.page_tables_bytes for one in host.instances[3:])
    return [*named, (f"{len(host.instances) - 3} more", further), ("", host.outside_bytes)]


def _style(pygal: Any) -> Any:
    return pygal.style.Style(
        background="transparent",
        plot_background="transparent",
        foreground="#12222b",
        foreground_strong="#12222b",
        foreground_subtle="#8a949a",
        guide_stroke_color="#d5dade",
        major_guide_stroke_color="#d5dade",
        guide_stroke_dasharray="0",
        major_guide_stroke_dasharray="0",
        opacity="1",
        opacity_hover="1",
        transition="0s",
        colors=_COLOURS,
        value_label_font_size=11,
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=12,
        value_colors=_TEXT_COLOURS,
        font_family="system-ui, 'DejaVu Sans', sans-serif",
    )


def _bare(drawing: Any) -> str:
    """Without what the library adds: scripts for tool tips, one of them from the network, and the date."""
    from xml.etree import ElementTree

    root = drawing.render_tree()
    for parent in root.iter():
        for child in list(parent):
            # A comment's tag is no text.
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def _library() -> Any:
    try:
        import pygal
        import pygal.style
    except ImportError as error:
        raise Unavailable(
            f"the report's chart is drawn by pygal, which cannot be imported here ({error}); install it where"
            " Ansible runs: pip install pygal"
        ) from None
    return pygal
