# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare map, unmap: objects inside an existing region, for all processes that have it attached."""

from __future__ import annotations

from typing import Any

import click

from .. import record
from ..backends.base import Backend
from ..backends.connect import connect
from ..backends.mapping import Mapping, MappingEntry, protection_name
from ..errors import Conflict, InvalidRequest
from ..region import rules, spec
from ..region.region import Region
from ..units import format_size
from .options import region_argument, where_options
from .screen import Screen


@click.command("map")
@region_argument
@click.option("--offset", metavar="OFFSET", required=True, help="Where in the region: 0, 1GiB, 0x40000000.")
@click.option("--size", metavar="SIZE", required=True, help="How much, like 1GiB.")
@click.option("--kind", metavar="KIND", help="anonymous, hugetlb or file (default: file with a --path).")
@click.option("--path", metavar="FILE", help="The file, by its absolute path.")
@click.option("--file-offset", metavar="OFFSET", help="Where in the file.")
@click.option("--protection", metavar="PROT", help="r or rw (default: r for files, else rw).")
@click.option("--overcommit", is_flag=True, help="Allow more than this host's RAM; only part will be used.")
@click.option("--replace", is_flag=True, help="Replace what is mapped there.")
@where_options
@click.pass_obj
def map_command(
    screen: Screen,
    /,
    name: str,
    overcommit: bool,
    replace: bool,
    backend: str | None,
    root: str | None,
    **options: Any,
) -> None:
    """Map memory or a file into a region."""
    given = {key: value for key, value in options.items() if value is not None}
    mapping = spec.mapping_from_dict(given, "mapping")
    connected = connect(backend or "auto", root)
    with Region.open(rules.region_name(name), backend=connected) as region:
        _check(region, mapping, connected)
        try:
            unrecorded = region.map(mapping, overcommit=overcommit, replace=replace)
        except FileExistsError as error:
            raise Conflict(
                f"something is mapped in region {name} between offset {mapping.offset:#x} and"
                f" {mapping.end:#x} already; choose another offset, unmap it (`mshare unmap`), or use"
                " --replace"
            ) from error
    screen.answer(
        {"region": name, "mapping": record.to_fields(MappingEntry.of(mapping)), "unrecorded": unrecorded}
    )
    screen.sentence(f"Mapped {_described(mapping)} in region {name}.")
    _warn(screen, name, unrecorded)


@click.command("unmap")
@region_argument
@click.option("--offset", metavar="OFFSET", required=True, help="Where in the region: 0, 1GiB, 0x40000000.")
@click.option("--size", metavar="SIZE", required=True, help="How much, like 1GiB.")
@where_options
@click.pass_obj
def unmap_command(
    screen: Screen, name: str, offset: str, size: str, backend: str | None, root: str | None
) -> None:
    """Unmap a range of a region.

    It is unmapped for all processes at once; a process that touches it then gets SIGSEGV.
    """
    mapping = spec.mapping_from_dict({"offset": offset, "size": size}, "range")
    connected = connect(backend or "auto", root)
    with Region.open(rules.region_name(name), backend=connected) as region:
        _check(region, mapping, connected)
        unrecorded = region.unmap(mapping.offset, mapping.size_bytes)
    screen.answer(
        {"region": name, "offset": mapping.offset, "size": mapping.size_bytes, "unrecorded": unrecorded}
    )
    screen.sentence(
        f"Unmapped {format_size(mapping.size_bytes)} at offset {mapping.offset:#x} in region {name}."
    )
    _warn(screen, name, unrecorded)


def _warn(screen: Screen, name: str, unrecorded: str | None) -> None:
    if unrecorded is not None:
        screen.warn(
            f"the change is made, but not written down, so `mshare list` and clients take region {name} as it"
            f" was before: {unrecorded}"
        )


def _check(region: Region, mapping: Mapping, backend: Backend) -> None:
    rules.mappings([mapping], region.stat().window_bytes, backend.generation)
    if mapping.kind == "hugetlb" and backend.name == "simulated":
        # The pool's pages are held by the process that maps them, and this process is about to end.
        raise InvalidRequest(
            "huge pages in a simulated region must be there from the beginning; create the region with"
            f" --map kind=hugetlb,offset={mapping.offset},size={mapping.size_bytes}"
        )


def _described(mapping: Mapping) -> str:
    what = {"anonymous": "memory", "hugetlb": "huge pages", "file": f"of {mapping.path}"}[mapping.kind]
    how = "read-only" if protection_name(mapping.prot) == "r" else "writable"
    return f"{format_size(mapping.size_bytes)} {what} at offset {mapping.offset:#x}, {how},"
