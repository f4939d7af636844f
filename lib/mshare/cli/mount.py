# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare mount, umount."""

from __future__ import annotations

from typing import Any

import click

from ..backends.choose import Choice, choose
from ..mount import converge
from . import display
from .options import Options, boot_option, check_option, mount_options, mount_spec, where_options
from .screen import Screen


@click.command("mount")
@mount_options
@boot_option
@check_option
@click.pass_obj
def mount_command(
    screen: Screen, /, spec_path: str | None, boot: bool | None, check: bool, **options: Any
) -> None:
    """Mount the kernel's msharefs, or a simulated one.

    An ordinary user can have a simulated msharefs: a directory on a tmpfs.
    """
    reason = ""

    def fill(given: Options) -> Options:
        nonlocal reason
        choice = choose(str(given.get("backend", "auto")))
        reason = choice.reason
        return {"root": choice.root, **given, "backend": choice.backend}

    spec = mount_spec(spec_path, options, fill)
    choice = Choice(spec.backend, spec.root, reason)
    done = converge.mount_present(spec, boot=boot, check=check)
    message = display.outcome(
        screen,
        done,
        converge.result(choice, done),
        check,
        f"The {spec.backend} msharefs is mounted at {spec.root}: {choice.reason}.",
        f"The {spec.backend} msharefs is mounted at {spec.root} already, as requested; nothing to do.",
    )
    if message and done.facts is not None:
        used = converge.used(choice, done)
        screen.fields(
            [
                ("regions", None if used is choice else f"backend {used.backend}: {used.reason}"),
                ("generation", display.generation(done.facts.generation)),
                ("alignment", display.size(done.facts.alignment_bytes)),
                ("access", display.access(done.facts)),
                ("reboot", display.reboot(done.boot)),
            ]
        )


@click.command("umount")
@where_options
@click.option(
    "--force",
    is_flag=True,
    help="End the clients, owners and regions on it first, even those that cannot be read: loses their"
    " content.",
)
@check_option
@click.pass_obj
def umount_command(screen: Screen, backend: str | None, root: str | None, force: bool, check: bool) -> None:
    """Unmount msharefs, unless it is in use."""
    choice = converge.choose_absent(backend or "auto", root)
    done = converge.mount_absent(choice.root, force=force, check=check)
    display.outcome(
        screen,
        done,
        converge.result(choice, done),
        check,
        f"Unmounted {choice.root}.",
        f"There is no msharefs at {choice.root}; nothing to do.",
    )
