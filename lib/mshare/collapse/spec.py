# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which server a service keeps in huge pages: its spec file, and the names of its files and its unit."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .. import files, paths, record
from ..errors import InvalidRequest
from ..units import parse_size
from . import target

KIND = "collapse"
"""Of the spec files: /etc/mshare/collapse."""
SECONDS = 30.0
"""Between two looks, by default."""
SHARE = 0.25
"""How much of the time a collapse works, by default: it rests three times as long as each 2 MiB took."""
UNLIMITED = 0
"""A rate: without any rest."""
_NEXT_STEP = "set it up again with the module mshare_collapse (follow: true)"


@dataclass(frozen=True)
class FollowSpec:
    """Which server is kept in huge pages, and how."""

    target: str
    """A data directory or a systemd unit."""
    rate_bytes: int | None = None
    """At most so much in a second; see `rate`."""
    interval_seconds: float = SECONDS

    def __post_init__(self) -> None:
        target.require_lasting(self.target)
        if self.interval_seconds < 1:
            raise InvalidRequest(f"interval {self.interval_seconds:g} is too short; use 1 second or more")

    @property
    def name(self) -> str:
        """By which its files and its unit are called: one service per server."""
        return name_of(self.target)

    def to_json(self) -> str:
        """The text of its spec file."""
        comment = "Managed by dbmem.mshare; changes made here are overwritten."
        return record.to_json(self, comment=comment) + "\n"


def rate(text: str | None) -> int | None:
    """A rate as it is asked for, in bytes a second; UNLIMITED, or None for a bounded share of the time."""
    if text is None:
        return None
    if text.strip().lower() in ("unlimited", "0"):
        return UNLIMITED
    try:
        return parse_size(text, "rate")
    except InvalidRequest as error:
        raise InvalidRequest(f"{error}; or unlimited") from None


def name_of(server: str) -> str:
    """The name of the service for a data directory or a unit."""
    return paths.escape(os.path.normpath(server) if server.startswith("/") else server)


def spec_file(server: str) -> str:
    return paths.spec_file(KIND, name_of(server))


def read_spec(path: str) -> FollowSpec:
    """A spec file; Malformed, or FileNotFoundError, with what to do."""
    text = files.read_text(path)
    if text is None:
        raise FileNotFoundError(2, os.strerror(2), path)
    return record.parse(FollowSpec, text, path, _NEXT_STEP)


def followed() -> list[str]:
    """The servers that are kept in huge pages, by the spec files."""
    folder = os.path.dirname(paths.spec_file(KIND, "any"))
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except OSError:
        return []
    return [read_spec(os.path.join(folder, name)).target for name in names]
