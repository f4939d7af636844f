# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files for a cluster that a systemd unit starts: what is Debian's own elsewhere, by systemd here.

The environment is a drop-in's Environment=, which reaches PostgreSQL because the unit runs it, or runs the
Patroni that passes it on. Settings are in a file of ours, included by a marked block at the end of
postgresql.conf: later lines win, and postgresql.auto.conf stays PostgreSQL's. That file is not beside
postgresql.conf: a copy of the data directory on another host, as pg_basebackup and pg_rewind make one, would
have huge_pages off there, without the library. There the block includes nothing.

For the library Patroni's settings stay as they are. One in its store counts for every member, those as well
that do not have the library yet or are new: with huge_pages off they would be in small pages. With `try`,
PostgreSQL's default, the library places what PostgreSQL does not get from a pool. PostgreSQL's own huge pages
are such a setting, and need no file on the host (patroni/huge_pages.py).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import glob

from .. import files, paths
from ..errors import Conflict
from ..preload.settings import FILE_NAME, PREFIX, preloaded
from ..services import systemd
from .clusters import Cluster
from .managers import units
from .spec import ClusterSpec

_BEGIN, _END = "# BEGIN dbmem.mshare", "# END dbmem.mshare"
_BLOCK = re.compile(rf"\n{re.escape(_BEGIN)}\n.*?\n{re.escape(_END)}\n", re.DOTALL)
_DROP_IN = "zz-dbmem-mshare.conf"
_FORMER = "dbmem-mshare.conf"
"""Beside postgresql.conf, where it was at first: a host that was moved then has it there."""
_ENVIRONMENT = re.compile(r"^\s*Environment\s*=(.*)$", re.M)


def drop_in_file(cluster: Cluster) -> str:
    """Last among the unit's drop-ins: of a variable that two set, the last one counts."""
    return systemd.unit_path(f"{cluster.unit}.d/{_DROP_IN}")


def configuration_file(cluster: Cluster) -> str:
    return paths.spec_file("postgresql", cluster.id).removesuffix(".json") + ".conf"


def _former_file(cluster: Cluster) -> str:
    return os.path.join(cluster.configuration, _FORMER)


def main_file(cluster: Cluster) -> str:
    """Its postgresql.conf; behind a link, as into a directory under version control, what that leads to."""
    return files.behind_link(cluster.main)


def _include(cluster: Cluster) -> str:
    # A unit's name may have backslashes, which PostgreSQL takes out of a quoted value.
    path = configuration_file(cluster).replace("\\", "\\\\").replace("'", "''")
    return f"\n{_BEGIN}\ninclude_if_exists = '{path}'\n{_END}\n"


@dataclass(frozen=True)
class Parts:
    """What the files have in common with those of Debian's clusters."""

    head: str
    sections: tuple[str, str] | None
    """[Unit] and [Service] lines that a region needs."""
    settings: str


def present(cluster: Cluster, spec: ClusterSpec, parts: Parts) -> dict[str, str | None]:
    """The files with a spec."""
    unit_section, service_section = parts.sections or ("", "")
    sections = (unit_section, service_section, _service_section(cluster, spec))
    drop_in = parts.head + "\n".join(filter(None, sections))
    if cluster.patroni is not None:
        return {drop_in_file(cluster): drop_in}
    main = _without_block(_main(cluster))
    return {
        drop_in_file(cluster): drop_in,
        configuration_file(cluster): parts.settings,
        main_file(cluster): main + _include(cluster),
        _former_file(cluster): None,
    }


def native(cluster: Cluster, settings: str) -> dict[str, str | None]:
    """The files for PostgreSQL's own huge pages: settings, and no environment."""
    main = _without_block(_main(cluster))
    return {
        drop_in_file(cluster): None,
        configuration_file(cluster): settings,
        main_file(cluster): main + _include(cluster),
        _former_file(cluster): None,
    }


def _main(cluster: Cluster) -> str:
    text, access = files.read_text(cluster.main), files.access_of(main_file(cluster))
    if access is not None and access.uid not in (0, cluster.uid):
        reason = f"a file of uid {access.uid}, who is not the cluster's owner"
        raise files.NotTrusted(main_file(cluster), reason)
    if text is None:
        raise Conflict(
            f"{cluster.main}, which should be the configuration of PostgreSQL cluster {cluster.id}, is not"
            " there, so nothing was changed; name it by an absolute path in the unit (-c config_file=),"
            " restart the server once, and run this again"
        )
    return text


def absent(cluster: Cluster) -> dict[str, str | None]:
    """The files as they were before."""
    if cluster.patroni is not None:
        return {drop_in_file(cluster): None}
    main = files.read_text(main_file(cluster))
    return {
        drop_in_file(cluster): None,
        configuration_file(cluster): None,
        main_file(cluster): None if main is None else _without_block(main),
        _former_file(cluster): None,
    }


def _without_block(text: str) -> str:
    return without_block(_BLOCK, text)


def without_block(block: re.Pattern[str], text: str) -> str:
    """A text as it was before a block was put at its end. What somebody has added behind that stays a line of
    its own, also where the text had no newline at its end."""

    def left(found: re.Match[str]) -> str:
        own_line = found.start() == 0 or text[found.start() - 1] == "\n"
        return "" if own_line or found.end() == len(text) else "\n"

    return block.sub(left, text)


def _service_section(cluster: Cluster, spec: ClusterSpec) -> str:
    unit = units.describe(cluster.unit)
    _require_drop_in_wins(unit)
    # What the unit sets replaces what systemd gives to all units.
    environment = {**units.inherited(), **unit.environment}
    others = [path for path in preloaded(environment) if os.path.basename(path) != FILE_NAME]
    variables = {
        "LD_PRELOAD": " ".join([spec.library, *others]),
        **spec.environment(),
    }
    if cluster.patroni is None:
        variables["PGCTLTIMEOUT"] = str(spec.start_seconds)
    lines = [f'Environment="{name}={_escaped(value)}"' for name, value in variables.items()]
    if cluster.patroni is not None:
        # Patroni is up at once, and waits for PostgreSQL as long as that starts.
        return "\n".join(["[Service]", *lines, ""])
    # More than that is left as it is, unless it is ours: our own drop-in is part of what systemd shows.
    allowed = unit.start_seconds
    ours = "TimeoutStartSec=" in (files.read_text(drop_in_file(cluster)) or "")
    if allowed is not None and (ours or allowed < spec.start_seconds):
        lines.append(f"TimeoutStartSec={spec.start_seconds}")
    return "\n".join(["[Service]", *lines, ""])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _require_drop_in_wins(unit: units.Unit) -> None:
    """Conflict for what counts more than our drop-in's Environment=: files, later drop-ins, and names that
    are unset."""
    for path, name in _set_by_files(unit):
        if _is_ours(name):
            raise Conflict(
                f"{path}, the EnvironmentFile of unit {unit.name}, sets {name}, which would hide what a"
                " drop-in sets; move it into Environment= of a drop-in of that unit, and run this again"
            )
    for path in (path for path in unit.drop_ins if os.path.basename(path) > _DROP_IN):
        if any(map(_is_ours, _set_by_drop_in(path))):
            raise Conflict(
                f"{path} counts more than {_DROP_IN}, because its name comes later, and sets LD_PRELOAD or"
                f" resets Environment= of unit {unit.name}; give it a name that comes before, run `systemctl"
                " daemon-reload`, and run this again"
            )
    for name in (entry.partition("=")[0] for entry in unit.unset):
        if _is_ours(name):
            raise Conflict(
                f"UnsetEnvironment= of unit {unit.name} takes {name} out again, whatever a drop-in sets;"
                " remove it there, and run this again"
            )


def _set_by_files(unit: units.Unit) -> Iterator[tuple[str, str]]:
    """Each of a unit's environment files, with each variable that it sets."""
    for pattern in unit.environment_files:
        for path in sorted(glob(pattern)):
            for line in (files.read_text(path) or "").split("\n"):
                yield path, line.partition("=")[0].strip()


def _set_by_drop_in(path: str) -> Iterator[str]:
    """Each variable that a drop-in sets; an empty Environment= takes out all that was set before."""
    for match in _ENVIRONMENT.finditer((files.read_text(path) or "").replace("\\\n", " ")):
        if not match[1].strip():
            yield "LD_PRELOAD"
        with suppress(ValueError):
            yield from (word.partition("=")[0] for word in shlex.split(match[1]))


def require_set(cluster: Cluster, spec: ClusterSpec) -> None:
    """Conflict where systemd, with the drop-in, would not start a cluster with the library all the same."""
    unit = units.describe(cluster.unit)
    if unit.loaded == "loaded" and spec.library not in preloaded(unit.environment):
        shown = unit.environment.get("LD_PRELOAD", "nothing")
        raise Conflict(
            f"unit {unit.name} would start PostgreSQL cluster {cluster.id} with LD_PRELOAD={shown} for all"
            f" that {drop_in_file(cluster)} sets (`systemctl cat {unit.name}` shows what else does); take it"
            " out there, and run this again"
        )


def _is_ours(name: str) -> bool:
    return name == "LD_PRELOAD" or name.startswith(PREFIX)
