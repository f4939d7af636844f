# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare own: the owner of a region, in the foreground. It lives long, so it imports little."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from .. import record
from ..region import owner
from ..region.status import OwnerStatus
from . import display
from .options import region_options, region_spec
from .screen import Screen


@click.command("own")
@region_options
@click.option("--replace-stale", is_flag=True, help="Replace a region whose owner was killed.")
@click.pass_obj
def own_command(screen: Screen, /, spec_path: str | None, replace_stale: bool, **options: Any) -> None:
    """Create a region and keep it until Ctrl-C.

    The region lives and dies with this process, which also ends on SIGTERM. `mshare create` starts it in
    the background. With systemd it reports when it is ready (Type=notify).

    \b
    Example of a spec file:
      name: sga
      size: 300GiB
      mode: "0660"
      group: dba
      prefault: true
    """

    def ready(status: OwnerStatus) -> None:
        # A reader that is gone must not end the region.
        with contextlib.suppress(OSError):
            screen.answer({"region": record.to_fields(status)})
            if sys.stdout.isatty():
                window, mapped = display.size(status.window_bytes), display.size(status.mapped_bytes)
                screen.sentence(
                    f"Region {status.region} is ready at {status.path}: window {window}, mapped"
                    f" {mapped}; Ctrl-C ends it."
                )

    owner.run(
        region_spec(spec_path, options),
        replace_stale=replace_stale,
        # Supervisors start what a file specifies; by hand, the sentence on the screen is enough.
        supervised=spec_path is not None,
        on_ready=ready,
    )
