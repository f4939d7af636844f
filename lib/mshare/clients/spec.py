# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a region's clients, checked."""

from __future__ import annotations

from collections.abc import Mapping as Fields
from dataclasses import dataclass
from typing import Any

from ..backends.choose import BACKENDS
from ..converge.spec import (
    Converter,
    Spec,
    absolute_path,
    command_words,
    convert,
    flag,
    nonempty_text,
    one_of,
    parse_number,
)
from ..errors import InvalidRequest
from ..pagetable import BASE_PAGE_BYTES, STRIDE_BYTES
from ..region import rules
from ..units import KIB, MIB, parse_size
from .status import Kind

CLIENTS_MAXIMUM = 32768
CLIENT_BYTES: dict[Kind, int] = {"lean": 256 * KIB, "python": 4 * MIB, "program": 4 * MIB}
"""What one takes at most, besides the region's page tables; docs/figures.md has what was measured."""


def client_count(count: int) -> int:
    """How many clients to run; InvalidRequest outside 1..32768."""
    if isinstance(count, bool) or not 1 <= count <= CLIENTS_MAXIMUM:
        raise InvalidRequest(
            f"{count} clients cannot be started; request 1 to {CLIENTS_MAXIMUM}, or use state absent"
            " (`mshare clients stop`) for none"
        )
    return count


@dataclass(frozen=True)
class ClientsSpec(Spec):
    """Processes that should be attached to a region."""

    region: str
    count: int
    command: tuple[str, ...] = ()
    """The program of each client; by default the library's own client: attach, touch, verify, wait."""
    touch: bool = True
    span_bytes: int | None = None
    """Bytes that each client touches; None fits it to the host's free memory."""
    stride_bytes: int = STRIDE_BYTES
    settle_seconds: int = 1
    """A command that ends within this time counts as failed."""
    backend: str = "auto"
    root: str | None = None

    @classmethod
    def from_dict(cls, given: Fields[str, object], what: str = "clients") -> ClientsSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "region": lambda value, what: rules.region_name(value),
            "count": lambda value, what: client_count(_whole(value, what)),
            "command": command_words,
            "touch": flag,
            "span": parse_size,
            "stride": parse_size,
            "settle_seconds": parse_number,
            "backend": one_of(BACKENDS),
            "root": absolute_path,
            "comment": nonempty_text,
        }
        values = convert(given, converters, what)
        values.pop("comment", None)
        rules.region_name(values.get("region", ""))
        if "count" not in values:
            raise InvalidRequest(f"{what} of region {values['region']} need a count, like 100")
        spec = cls(**values)
        if spec.span_bytes is not None and (spec.command or not spec.touch):
            raise InvalidRequest(
                f"{what}'s span is how much of region {spec.region} the library's clients touch; omit it with"
                " a command or with touch: false"
            )
        if spec.stride_bytes % BASE_PAGE_BYTES:
            raise InvalidRequest(f"{what}'s stride {spec.stride_bytes} is not a multiple of a page (4096)")
        return spec


def _whole(value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{what} {value!r} is not a whole number") from None
