# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare create, rm."""

from __future__ import annotations

from typing import Any

import click

from ..backends.choose import choose, locate
from ..converge.request import apply
from ..region.converge import RegionAbsent, RegionPresent
from . import display
from .options import (
    boot_option,
    check_option,
    program,
    region_argument,
    region_options,
    region_spec,
    where_options,
)
from .screen import Screen


@click.command("create")
@region_options
@click.option("--recreate", is_flag=True, help="Replace a region that differs; its content is lost.")
@click.option("--replace-stale", is_flag=True, help="Replace a region whose owner was killed.")
@click.option(
    "--replace-outdated",
    is_flag=True,
    help="Replace a region whose owner runs another version of the library; its content is lost.",
)
@click.option("--force", is_flag=True, help="Recreate or replace even if clients are attached.")
@boot_option
@check_option
@click.pass_obj
def create_command(
    screen: Screen,
    /,
    spec_path: str | None,
    recreate: bool,
    replace_stale: bool,
    replace_outdated: bool,
    force: bool,
    boot: bool | None,
    check: bool,
    **options: Any,
) -> None:
    """Create a region, with an owner in the background.

    The owner runs under systemd if that runs, otherwise as a detached process. A region that exists as
    requested stays as it is; if it differs, the command refuses.

    \b
      mshare create sga --size 300GiB --group dba --mode 0660 --prefault
      mshare create files --map kind=file,path=/data/a,size=10GiB --map kind=file,path=/data/b,size=10GiB
    """
    spec = region_spec(spec_path, options)
    with screen.waiting(f"Creating region {spec.name}") as progress:
        request = RegionPresent(
            spec, program(), recreate, replace_stale, replace_outdated, force, boot, progress
        )
        done = apply(request, check=check)
    backend = choose(spec.backend) if check else locate(spec.backend, spec.root)
    shown = display.outcome(
        screen,
        done,
        {**done.to_dict("region"), "backend": backend.backend, "reason": backend.reason},
        check,
        f"Region {spec.name} is ready.",
        f"Region {spec.name} exists already as requested; nothing to do.",
    )
    if shown and done.facts is not None:
        screen.fields(
            [
                ("path", done.facts.path),
                *display.sizes(done.facts),
                ("backend", f"{backend.backend}: {backend.reason}"),
                ("owner", f"process {done.facts.owner.pid}, {display.reboot(done.boot)}"),
            ]
        )


@click.command("rm")
@region_argument
@where_options
@click.option("--force", is_flag=True, help="Remove it even if clients are attached; they are killed.")
@check_option
@click.pass_obj
def rm_command(
    screen: Screen, name: str, backend: str | None, root: str | None, force: bool, check: bool
) -> None:
    """Remove a region and end its owner; its content is lost."""
    done = apply(RegionAbsent(name, backend or "auto", root, force), check=check)
    display.outcome(
        screen,
        done,
        done.to_dict("region"),
        check,
        f"Removed region {name}.",
        f"There is no region {name}; nothing to do.",
    )
