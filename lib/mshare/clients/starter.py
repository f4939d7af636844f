# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a launcher starts its clients, and which kind they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..errors import Unavailable, sentence
from ..preload.client import program
from .client import Report, Target
from .forked import Forked
from .lean import Lean
from .spec import ClientsSpec
from .status import Kind


class Starter(Protocol):
    """Starts clients of one kind, and understands what they report."""

    @property
    def kind(self) -> Kind: ...

    @property
    def why(self) -> str | None:
        """Why they are not lean, where they could have been."""

    @property
    def client_bytes(self) -> int:
        """What a client costs at most, besides the region's page tables."""

    @property
    def changes(self) -> int | None:
        """A descriptor that is readable once the region has changed, where clients have to be told."""

    def prepare(self, target: Target, span_bytes: int, stride_bytes: int) -> None:
        """What those that are started from now on are to attach and to touch."""

    def start(self, number: int) -> int:
        """Start a client; its pid. OSError where the host has no room for another process."""

    def reports(self, received: bytes) -> list[Report]:
        """What came through the pipe: whole reports."""

    def tell(self, pids: Collection[int]) -> None:
        """Have running clients follow a change of the region, or its end."""


def choose(spec: ClientsSpec, target: Target, report_fd: int) -> Starter:
    """The user's programs, or lean clients, or, where those cannot run, forks of this process."""
    if spec.command:
        return Forked("program", None, spec.command, report_fd)
    try:
        return Lean(program(), target, report_fd)
    except (Unavailable, OSError) as error:
        return Forked("python", sentence(error), (), report_fd)
