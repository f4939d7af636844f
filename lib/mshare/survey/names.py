# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of instances that stay the same from survey to survey, even if other instances come and go.

Container, pod and unit are always part of a name. What else sets two of the same name apart is added to
both: the data directory, the script, the cgroup, and last the oldest process; never a running number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..host.processes import Process
from .record import InstanceRecord

_UNIT_ENDING = ".service"


@dataclass(frozen=True)
class Named:
    """An instance, and the process the others come from."""

    record: InstanceRecord
    leader: Process


def apart(unnamed: Iterable[Named]) -> list[InstanceRecord]:
    """The records with names that differ, in the same order."""
    named = [replace_name(item, _with_place(item.record)) for item in unnamed]
    for more in _MORE:
        same: dict[str, list[int]] = {}
        for index, item in enumerate(named):
            same.setdefault(item.record.name, []).append(index)
        for indexes in same.values():
            words = [more(named[index]) for index in indexes]
            if len(indexes) > 1 and len(set(words)) > 1:
                for index, word in zip(indexes, words):
                    if word:
                        named[index] = replace_name(named[index], f"{named[index].record.name} {word}")
    return [item.record for item in named]


def replace_name(item: Named, name: str) -> Named:
    return replace(item, record=replace(item.record, name=name))


def _with_place(record: InstanceRecord) -> str:
    places = [record.container]
    if record.unit and record.unit.endswith(_UNIT_ENDING) and not record.container:
        places.append(record.unit[: -len(_UNIT_ENDING)])
    words = ", ".join(filter(None, places))
    return f"{record.name} ({words})" if words else record.name


def _data_directory(item: Named) -> str | None:
    return item.record.data_directory


def _script(item: Named) -> str | None:
    """What an interpreter runs: its first argument that is not an option."""
    if item.record.kind != "python":
        return None
    arguments = item.leader.arguments()
    for index, word in enumerate(arguments[1:], 1):
        if word == "-m" and index + 1 < len(arguments):
            return arguments[index + 1]
        if word == "-c":
            return None
        if not word.startswith("-"):
            return os.path.basename(word)
    return None


def _cgroup(item: Named) -> str | None:
    return item.record.cgroup if item.record.cgroup not in (None, "/") else None


def _namespace(item: Named) -> str | None:
    """The host name that a container was given, which is in its processes' environment."""
    inside = item.leader.environment().get("HOSTNAME")
    return f"on {inside}" if inside and inside != os.uname().nodename else None


def _oldest(item: Named) -> str:
    return f"(process {min(item.record.pids)})"


_MORE: tuple[Callable[[Named], str | None], ...] = (_data_directory, _script, _cgroup, _namespace, _oldest)
