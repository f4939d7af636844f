# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare clients run: the launcher, in the foreground."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from .. import record
from ..clients import launcher
from ..clients.spec import ClientsSpec
from ..clients.status import LauncherStatus
from ..units import counted
from .options import clients_options, clients_spec
from .screen import Screen


@click.command("run")
@clients_options
@click.pass_obj
def run_command(screen: Screen, /, spec_path: str | None, **options: Any) -> None:
    """Run clients in the foreground until Ctrl-C.

    SIGTERM ends them as well; SIGHUP reads the spec again and starts what is missing. This is what
    `mshare clients start` starts in the background. A COMMAND finds the region's path, address and
    sizes in its environment: MSHARE_REGION, MSHARE_PATH, MSHARE_BACKEND, MSHARE_GENERATION,
    MSHARE_ADDRESS, MSHARE_WINDOW_BYTES, MSHARE_MAPPED_BYTES, MSHARE_CLIENT_NUMBER.

    \b
    A spec file:
      region: sga
      count: 100
      span: 1GiB
    """

    def read_spec() -> ClientsSpec:
        return clients_spec(spec_path, options)

    def ready(status: LauncherStatus) -> None:
        # The clients must not end because nobody reads this.
        with contextlib.suppress(OSError):
            screen.answer({"clients": record.to_fields(status)})
            if sys.stdout.isatty():
                screen.sentence(
                    f"{counted(status.attached, 'client is', 'clients are')} attached to region"
                    f" {status.region}; Ctrl-C ends them all."
                )

    # Supervisors start what a file specifies; by hand, the sentence on the screen is enough.
    launcher.run(read_spec, supervised=spec_path is not None, on_ready=ready)
