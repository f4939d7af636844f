# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare keep-files: the keeper of the regions of mapped files, in the foreground."""

from __future__ import annotations

import os
import sys

import click

from ..backends.choose import locate
from ..backends.connect import connect
from ..preload import keeper
from .options import where_options
from .screen import Screen


@click.command("keep-files")
@where_options
@click.pass_obj
def keep_files_command(screen: Screen, backend: str | None, root: str | None) -> None:
    """Keep the regions of files that programs of this user map.

    `mshare run --files` starts it in the background where none runs, and it ends a minute after the last
    program has gone. A service that sets MSHARE_PRELOAD_FILES itself starts it before: it prints the path of
    its socket, which is the value of that variable.

    A program would die with its region. So on SIGTERM and Ctrl-C it takes no new programs, and ends when the
    last one has gone; the second one ends it at once.
    """
    choice = locate(backend or "auto", root)

    def ready(path: str) -> None:
        screen.answer({"files": {"socket": path, "pid": os.getpid()}})
        screen.sentence(path)
        sys.stdout.flush()

    keeper.run(connect(choice.backend, choice.root), ready)
