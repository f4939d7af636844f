# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new region will be, checked before anything is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..backends.base import Backend
from ..backends.mapping import Mapping
from ..errors import InvalidRequest
from ..kernel import abi
from ..units import GIB, Size, parse_size, round_up
from . import rules

# The address of regions in generations that need one address for all processes; far from what a 64-bit
# process maps itself.
FIXED_ADDRESS = 2048 * GIB


@dataclass(frozen=True)
class Blueprint:
    """A region that does not exist yet, as its backend can make it."""

    mappings: tuple[Mapping, ...]
    """In the order in which they are made."""
    window_bytes: int
    address: int | None
    """Where every process must attach; None where each may choose."""


def blueprint(
    name: str,
    backend: Backend,
    size: Size | None,
    mappings: Iterable[Mapping],
    window: Size | None,
    address: int | None,
) -> Blueprint:
    """Place `size` of anonymous memory and the objects in `mappings` in a window that the backend can make.

    InvalidRequest for a name, a size or an address that no region can have.
    """
    rules.region_name(name)
    generation = backend.generation
    wanted = [*mappings]
    if size is not None:
        wanted.insert(0, Mapping(0, round_up(parse_size(size), abi.PAGE_BYTES)))
    if not wanted and window is None:
        raise InvalidRequest(f"region {name} needs a size, mappings or a window, like size 300GiB")
    requested_bytes = None if window is None else parse_size(window, "window")
    placed, window_bytes = rules.place(wanted, requested_bytes, backend.alignment_bytes, generation)
    if not generation.features.any_address:
        address = address or FIXED_ADDRESS
    return Blueprint(tuple(placed), window_bytes, rules.address(address, backend.alignment_bytes))
