# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of several commands, and the specifications made from them.

Values go into a spec as they were written: the spec checks them, with the same sentences as for a
module's parameters and a spec file.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .. import paths
from ..backends import root as root_files
from ..backends.choose import BACKENDS
from ..clients.spec import ClientsSpec
from ..converge.spec import load
from ..errors import InvalidRequest
from ..mount.spec import MountSpec
from ..region.spec import RegionSpec

_Function = TypeVar("_Function", bound=Callable[..., Any])
Options = dict[str, object]
"""Values as they were written, by the names of the options; a spec checks them."""
_ROOT_VARIABLE = "MSHARE_ROOT"
# A comma in a path is a comma; a comma before a key begins that key.
_BETWEEN_KEYS = re.compile(r",(?=[a-z_]+=)")


def program() -> list[str]:
    """The start of a command line that runs this library, in any folder and environment."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "mshare" and os.path.isfile(script) and os.access(script, os.X_OK):
        return [script]
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, paths.PACKAGE]


def _together(*options: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    """Several decorators as one, in the order of `--help`."""

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _complete_region(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from ..info import inventory

    root = ctx.params.get("root")
    roots = root_files.roots() if root is None else [root]
    names = {name for root in roots for name in inventory.region_names(root)}
    return sorted(name for name in names if name.startswith(incomplete))


def _name_argument(required: bool) -> Callable[[_Function], _Function]:
    # EL 9 has click 7.1, which does not complete values.
    can_complete = hasattr(click.Parameter, "shell_complete")
    # Any: a keyword argument of click's, or none.
    completes: dict[str, Any] = {"shell_complete": _complete_region} if can_complete else {}
    return click.argument("name", metavar="NAME", required=required, **completes)


region_argument = _name_argument(required=True)
where_options = _together(
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        help="auto (the default) takes the kernel's mshare where there is one, else the simulated one.",
    ),
    click.option(
        "--root", metavar="DIR", envvar=_ROOT_VARIABLE, show_envvar=True, help="Where msharefs is mounted."
    ),
)
check_option = click.option("--check", is_flag=True, help="Only show what would be done.")
boot_option = click.option(
    "--boot/--no-boot",
    default=None,
    help="Whether it comes back after a reboot (systemd only, where it is the default).",
)
_spec_option = click.option(
    "--spec",
    "spec_path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Read everything from a YAML or JSON file whose keys are the names of the options.",
)
region_options = _together(
    _name_argument(required=False),
    _spec_option,
    click.option("--size", metavar="SIZE", help="One mapping of memory, like 300GiB."),
    click.option(
        "--map",
        "mappings",
        metavar="KEY=VALUE,...",
        multiple=True,
        help="A mapping; repeat it for more. Keys: kind (anonymous, hugetlb, file), size, offset,"
        " protection (r, rw), path, file_offset. Like --map kind=file,path=/data/a,size=10GiB",
    ),
    click.option("--window", metavar="SIZE", help="Address space, if larger than the mapped size."),
    click.option(
        "--address", metavar="ADDR", help="Where all processes attach, in generations that need one address."
    ),
    click.option("--mode", metavar="MODE", help="Permissions of the region's file (default 0600)."),
    click.option("--owner", metavar="USER", help="User of the region's file."),
    click.option("--group", metavar="GROUP", help="Group of the region's file."),
    click.option(
        "--overcommit", is_flag=True, help="Allow more than this host's RAM; only part will be used."
    ),
    click.option("--prefault", is_flag=True, help="Touch every page before anybody attaches."),
    click.option("--pattern", is_flag=True, help="Write bytes for clients to verify; not for a database."),
    click.option("--memory-max", metavar="SIZE", help="The most memory it may use (systemd only)."),
    click.option(
        "--before", metavar="UNIT", multiple=True, help="A unit that starts after it (systemd only)."
    ),
    where_options,
)
clients_options = _together(
    _name_argument(required=False),
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]"),
    _spec_option,
    click.option("--count", metavar="N", help="How many processes attach."),
    click.option("--span", metavar="SIZE", help="How much each client touches (default: as much as fits)."),
    click.option("--stride", metavar="SIZE", help="Touch a page in every SIZE (default 2MiB)."),
    click.option("--no-touch", is_flag=True, help="Attach only."),
    click.option(
        "--settle-seconds", metavar="N", help="A COMMAND that ends within N seconds has failed (default 1)."
    ),
    where_options,
)
mount_options = _together(
    _spec_option,
    where_options,
    click.option("--generation", metavar="ID", help="Which posted interface to imitate (simulated only)."),
    click.option("--size", metavar="SIZE", help="The most memory it may use (simulated only)."),
    click.option("--mode", metavar="MODE", help="Permissions of the root (default 1770)."),
    click.option("--group", metavar="GROUP", help="Group of the root."),
    click.option(
        "--directory",
        "directories",
        metavar="KEY=VALUE,...",
        multiple=True,
        help="A directory of regions; repeat it for more. Keys: name, mode (default 3770), group, state"
        " (present, absent). Like --directory name=sales,group=sales",
    ),
)


def region_spec(spec_path: str | None, options: Options) -> RegionSpec:
    """The spec that `region_options` describe."""
    given = _given(spec_path, options)
    mappings = given.get("mappings")
    if spec_path is None and isinstance(mappings, tuple):
        example = "kind=file,path=/data/a,size=10GiB"
        given["mappings"] = [_key_values("--map", text, example) for text in mappings]
    return RegionSpec.from_dict(given, spec_path or "region")


def clients_spec(spec_path: str | None, options: Options) -> ClientsSpec:
    """The spec that `clients_options` describe."""
    given = _given(spec_path, options)
    if spec_path is None:
        given["region"] = given.pop("name", "")
        given["touch"] = not given.pop("no_touch", False)
    return ClientsSpec.from_dict(given, spec_path or "clients")


def mount_spec(spec_path: str | None, options: Options, fill: Callable[[Options], Options]) -> MountSpec:
    """The spec that `mount_options` describe; `fill` adds defaults."""
    given = _given(spec_path, options)
    directories = given.get("directories")
    if spec_path is None and isinstance(directories, tuple):
        given["directories"] = [
            _key_values("--directory", text, "name=sales,group=sales") for text in directories
        ]
    return MountSpec.from_dict(fill(given), spec_path or "mount")


def _given(spec_path: str | None, options: Options) -> Options:
    """The keys of a spec, either from the file or from the options."""
    chosen = {key: value for key, value in options.items() if value not in (None, (), False)}
    if spec_path is None:
        return chosen
    root = chosen.pop("root", None)
    if chosen:
        key, value = chosen.popitem()
        raise InvalidRequest(
            f"--spec takes everything from {spec_path}, and {key} {value!r} was given as well; write it into"
            " the file"
        )
    given = load(spec_path)
    # A file without a root works for any.
    if root is not None and given.setdefault("root", root) != root != os.environ.get(_ROOT_VARIABLE):
        raise InvalidRequest(f"--root is {root}, and {spec_path} says {given['root']}; use only one of them")
    return given


def _key_values(option: str, text: str, example: str) -> dict[str, str]:
    parts = [part.partition("=") for part in _BETWEEN_KEYS.split(text)]
    if not all(equals for __, equals, __ in parts):
        raise InvalidRequest(f"{option} {text!r} is not a list of KEY=VALUE pairs; write it like {example}")
    return {key: value for key, __, value in parts}
