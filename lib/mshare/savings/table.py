# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of savings for people."""

from __future__ import annotations

from dataclasses import dataclass

HEADS = ("", "Per client", "In all", "Figures are")
RIGHT = HEADS[1:3]
TABLE = (
    # label, the figure per client, the figure in all
    ("Clients attached, of {requested} requested", "", "clients_attached"),
    ("Attach time, median", "attach_median", ""),
    ("Attach time, slowest", "attach_slowest", ""),
    ("Page tables without sharing", "without_sharing_per_client", "without_sharing"),
    ("Page tables with sharing", "with_sharing_per_client", "with_sharing"),
    ("Saving", "saving_per_client", "saving"),
    ("Saving in percent", "", "saving_percent"),
    ("Growth of the host's PageTables", "", "host_page_tables_growth"),
    ("Probe's distance from the model", "model_difference", ""),
    ("{size} x {clients} clients, without sharing", "projected_without_per_client", "projected_without"),
    ("  of it leaf tables", "projected_leaf_per_client", "projected_leaf"),
    ("{size} x {clients} clients, with sharing", "projected_with_per_client", "projected_with"),
    ("{size} x {clients} clients, saving", "", "projected_saving"),
)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    label: str
    per_client: str
    in_all: str
    kind: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of HEADS."""
        return (self.label, self.per_client, self.in_all, self.kind)
