# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units of a region."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from glob import glob

from .. import paths
from ..files import read_text
from ..services.systemd import HEAD, ask, files_differ, remove_files, unit_of, unit_path, write_files
from .spec import RegionSpec
from .status import OWNER


def _slice(name: str) -> str:
    return f"mshare-{paths.file_name(name)}.slice"


def region_files(spec: RegionSpec) -> dict[str, str]:
    """The slice that limits and accounts a region's memory, and the units that wait for the region."""
    limit = "" if spec.memory_max_bytes is None else f"MemoryMax={spec.memory_max_bytes}\n"
    before = "".join(f"Before={unit}\n" for unit in spec.before)
    return {
        unit_path(_slice(spec.name)): (
            f"{HEAD}[Unit]\nDescription=Memory of mshare region {spec.name}\n\n[Slice]\n{limit}"
        ),
        unit_path(f"{unit_of(OWNER, spec.name)}.d/dbmem.conf"): f"{HEAD}[Unit]\n{before}",
    }


def region_files_differ(spec: RegionSpec) -> bool:
    return files_differ(region_files(spec))


@contextlib.contextmanager
def region_files_written(spec: RegionSpec) -> Iterator[None]:
    """Write a region's files; restore the old ones if the block fails."""
    old_texts = {path: read_text(path) for path in region_files(spec)}
    write_files(region_files(spec))
    try:
        yield
    except BaseException:
        old = {path: text for path, text in old_texts.items() if text is not None}
        if old:
            write_files(old)
        else:
            remove_region_files(spec.name)
        raise


def remove_region_files(name: str) -> None:
    """Remove the files of a region that has ended, and its slice, which would stay active; with the last
    region also the parent slice. The names of the files do not depend on the specification."""
    remove_files(region_files(RegionSpec(name, ())))
    ask("stop", _slice(name))
    if not glob(unit_path("mshare-*.slice")):
        ask("stop", "mshare.slice")


def address_space_limit(name: str) -> tuple[int, str] | None:
    """The LimitAS of a region's owner in bytes, and who sets it; None without a limit."""
    unit = unit_of(OWNER, name)
    limit = ask("show", "--value", "--property=LimitAS", unit)
    where = f"LimitAS of {unit}, or DefaultLimitAS in /etc/systemd/system.conf"
    return (int(limit), where) if limit.isdigit() else None
