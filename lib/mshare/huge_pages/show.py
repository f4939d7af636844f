# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has in huge pages, what it would need, and who sets it at boot. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from .. import record
from ..errors import MshareError, sentence
from ..host.huge_pages import Pool, nr_file
from ..survey.record import Survey
from ..units import counted, format_size
from . import before, elsewhere, need, oracle
from .converge import Around, available_pages
from .need import Term
from .oracle import OracleFacts
from .result import oracle_lines, term_lines
from .setting import Setting
from .spec import DEFAULT_SPARE_PAGES, make


@dataclass(frozen=True)
class Shown:
    """The pools of a host, measured, and the pages of the default size that it needs."""

    pools: tuple[Pool, ...]
    needed_page_bytes: int | None
    """The page size that is counted in; None on a kernel without huge pages."""
    needed: tuple[Term, ...]
    needed_error: str | None
    """Why it could not be counted."""
    at_boot: tuple[Setting, ...]
    """In the order in which they take effect."""
    changed_here: bool
    """Whether this host's huge pages were changed by mshare, which `--absent` undoes."""
    oracle: tuple[OracleFacts, ...]
    stopped: tuple[str, ...]
    """Databases that do not run and would take pages, a clause each."""
    complete: bool
    """Whether the survey could look at everything."""

    def to_dict(self) -> dict[str, object]:
        return record.to_fields(self)

    def lines(self) -> list[str]:
        """What the host needs, and what its administrators have to do."""
        lines = [
            f"Beyond its pool, the kernel may take {counted(pool.overcommit, 'page')} of"
            f" {format_size(pool.page_bytes)} from free memory, if it finds any"
            f" ({nr_file(pool.page_bytes).replace('/nr_', '/nr_overcommit_')})."
            for pool in self.pools
            if pool.overcommit
        ]
        if self.needed_page_bytes is not None:
            if self.needed_error is not None:
                lines.append(f"What the host needs is not known: {self.needed_error}.")
            else:
                pages = sum(term.pages for term in self.needed)
                size = format_size(pages * self.needed_page_bytes)
                lines.append(
                    f"The databases of this host need {counted(pages, 'page')} of"
                    f" {format_size(self.needed_page_bytes)} ({size}):"
                )
                lines += term_lines(self.needed)
                lines += [f"{text}." for text in self.stopped]
                lines.append(
                    "`mshare huge-pages --want auto --check` shows what reserving them would change."
                )
        if not self.complete:
            lines.append("Not everything could be looked at, so it may be more; run as root.")
        lines += [f"At boot: {setting.text}." for setting in self.at_boot]
        if self.changed_here:
            lines.append("`mshare huge-pages --absent` restores what was there before.")
        return [*lines, *oracle_lines(self.oracle)]


def show(around: Around | None = None) -> Shown:
    """The state of this host."""
    around = around or Around()
    kernel = around.get_kernel()
    pools = kernel.pools()
    default_bytes = around.host.memory_bytes("Hugepagesize") or None
    surveyed = around.survey()
    needed: tuple[Term, ...] = ()
    needed_error = None
    if default_bytes is not None and (default_bytes, None) in pools:
        spec = make([{"size": f"{default_bytes}B"}], spare=DEFAULT_SPARE_PAGES)
        try:
            needed = need.targets(spec, surveyed, pools, around.ask)[0].formula
        except MshareError as error:
            needed_error = sentence(error)
    else:
        default_bytes = None
    return Shown(
        pools=tuple(pools.values()),
        needed_page_bytes=default_bytes,
        needed=needed,
        needed_error=needed_error,
        at_boot=tuple(elsewhere.settings(around.host, default_bytes)),
        changed_here=os.path.exists(before.file_path()),
        oracle=oracle.facts(surveyed, available_pages(kernel, default_bytes)),
        stopped=tuple(_stopped(around, surveyed, default_bytes)),
        complete=surveyed.complete,
    )


def _stopped(around: Around, surveyed: Survey, default_bytes: int | None) -> Iterable[str]:
    sids = [each.sid for each in surveyed.instances if each.sid]
    return () if default_bytes is None else around.stopped(default_bytes, default_bytes, sids)
