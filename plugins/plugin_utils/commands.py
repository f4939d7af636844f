# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the library that do what a module does: which ones, and how a task is put to them.

The tables at the end are all that differs between the modules. `action.py` decides with them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.dbmem.mshare.plugins.module_utils import _results
from ansible_collections.dbmem.mshare.plugins.module_utils._verdict import verdict

Fields = dict[str, Any]
# The types of values that mean the same in a spec and in a module. Of other values a module makes texts and
# numbers in its own way.
TEXT = (str,)
NUMBER = (int, str)
SEQUENCE = (list,)
TRUTH = (bool,)


@dataclass(frozen=True)
class Command:
    """A command of the library, and how the options of a module are put to it."""

    words: tuple[str, ...]
    spec: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    """The options that go into a spec under the same name, with their types."""
    argument: str | None = None
    """The option that is the command's argument."""
    values: tuple[str, ...] = ()
    """The options that become --NAME VALUE."""
    flags: tuple[str, ...] = ()
    """The options that become --NAME where they are true."""
    switches: tuple[str, ...] = ()
    """The options that become --NAME or --no-NAME."""

    def line(self, executable: str, arguments: Fields, *more: str) -> str | None:
        """The shell command for a module's arguments; None where it cannot take all of them."""
        words = [executable, "--json", *self.words, *more]
        spec = {}
        given = {name: value for name, value in arguments.items() if value not in (None, [])}
        # In paths a module replaces variables of the host's environment.
        if "$" in str(given):
            return None
        for name, value in given.items():
            option = name.replace("_", "-")
            if _has_type(value, self.spec.get(name, ())):
                spec[name] = value
            elif name == self.argument:
                words.append(str(value))
            elif name in self.values:
                words += [f"--{option}", str(value)]
            elif name in (*self.flags, *self.switches) and isinstance(value, bool):
                no = [f"--no-{option}"] if name in self.switches else []
                words += [f"--{option}"] if value else no
            else:
                return None
        if not self.spec:
            return shlex.join(words)
        return f"printf %s {shlex.quote(json.dumps(spec))} | {shlex.join([*words, '--spec', '/dev/stdin'])}"


def _has_type(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, bool) == (types == TRUTH) and isinstance(value, types)


@dataclass(frozen=True)
class Regions:
    """A module for one region or a list of them."""

    name: str
    """The option for one region."""
    many: str
    """The option for the list."""
    facts: str
    """What a region's facts are called."""
    settled: Callable[[Fields], bool]
    """Whether facts show that nothing is wrong with what is there."""
    alternatives: tuple[str, ...] = ()
    """Alternative options of a region: an entry that gives one of them does not take the others."""


@dataclass(frozen=True)
class Commands:
    """What stands in for a module."""

    present: Command
    absent: Command | None = None
    """For state=absent; None for a module that changes nothing and has no state."""
    regions: Regions | None = None
    result: Callable[[Fields, Fields], Fields] | None = None
    """The module's result for its arguments and the answer; None where `regions` says how."""


MOUNT = Commands(
    present=Command(
        ("mount",),
        spec={
            **dict.fromkeys(("backend", "root", "generation", "mode", "group"), TEXT),
            "size": NUMBER,
            "create_group": TRUTH,
            "directories": SEQUENCE,
        },
        switches=("boot",),
    ),
    absent=Command(("umount",), values=("backend", "root"), flags=("force",)),
    result=lambda arguments, answer: _results.converged(answer, f"msharefs at {answer['root']}"),
)

REGION = Commands(
    present=Command(
        ("create",),
        spec={
            **dict.fromkeys(("name", "backend", "root", "mode", "owner", "group"), TEXT),
            **dict.fromkeys(("size", "window", "address", "memory_max"), NUMBER),
            **dict.fromkeys(("mappings", "before"), SEQUENCE),
            **dict.fromkeys(("overcommit", "prefault", "pattern"), TRUTH),
        },
        flags=("recreate", "replace_stale", "replace_outdated", "force"),
        switches=("boot",),
    ),
    absent=Command(("rm",), argument="name", values=("backend", "root"), flags=("force",)),
    regions=Regions(
        *("name", "regions", "region"),
        settled=lambda facts: not facts or facts["health"] == "healthy",
        alternatives=("size", "mappings"),
    ),
)

CLIENTS = Commands(
    present=Command(
        ("clients", "start"),
        spec={
            **dict.fromkeys(("region", "backend", "root"), TEXT),
            **dict.fromkeys(("count", "span", "stride", "settle_seconds"), NUMBER),
            "command": SEQUENCE,
            "touch": TRUTH,
        },
        flags=("restart_dead", "restart_outdated", "require_all"),
        switches=("boot",),
    ),
    absent=Command(("clients", "stop"), argument="region", values=("backend", "root")),
    regions=Regions(
        *("region", "clients", "clients"),
        settled=lambda facts: (
            not facts
            or (
                facts["launcher_alive"]
                and facts["state"] == "ready"
                and not facts["dead"]
                and facts["attached"] == facts["requested"]
            )
        ),
    ),
)

# Several regions in one result are the module's: the command has no list.
SAVINGS = Commands(
    present=Command(
        ("validate",),
        argument="region",
        values=(
            *("backend", "root", "span", "probes", "min_saving_percent", "max_model_error_percent"),
            *("min_clients_attached", "max_client_errors", "project_size", "project_clients"),
        ),
    ),
    result=lambda arguments, answer: verdict([arguments["region"]], answer),
)
