# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare preload: build the library of `mshare run`, ahead of time or for another host."""

from __future__ import annotations

import os

import click

from ..preload import library
from ..preload.settings import FILE_NAME
from .screen import Screen


@click.command("preload")
@click.option("--output", metavar="DIR", help="Build it into this folder.")
@click.pass_obj
def preload_command(screen: Screen, output: str | None) -> None:
    """Build the library of `mshare run`.

    It is built unless it exists, and its path is printed.
    """
    if output is None:
        path = library.library()
    else:
        path = os.path.join(os.path.abspath(output), FILE_NAME)
        library.build(path, library.own_sources())
    screen.sentence(path)
    screen.answer({"path": path, "sha256": library.digest(library.own_sources())})
