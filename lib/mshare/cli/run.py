# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare run: start any program with its shared memory in a region or in huge pages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import click

from ..backends.choose import kernel_has_msharefs, locate
from ..errors import InvalidRequest, MshareError, Unavailable
from ..host import huge_pages
from ..kernel.abi import HUGE_PAGE_BYTES
from ..pagetable import BASE_PAGE_BYTES
from ..preload.library import check_loads, library
from ..preload.loader import program
from ..preload.settings import PAGES, Settings
from ..region.rules import region_name
from ..units import counted, format_size, parse_size, round_up
from .options import program as own_program
from .options import where_options
from .screen import Screen

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_KILLED = 128


@click.command("run")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--region", metavar="NAME", help="Put the segments into this existing region.")
@click.option("--size", metavar="SIZE", help="Create a region of SIZE for as long as COMMAND runs.")
@click.option(
    "--pages",
    type=click.Choice(PAGES),
    help="4k: in a region. thp, hugetlb: huge pages on any kernel. Default: 4k with a region or a kernel that"
    " has msharefs, else thp.",
)
@where_options
@click.option("--threshold", metavar="SIZE", help="Leave smaller segments alone (default 16MiB).")
@click.option(
    "--prefault/--no-prefault",
    default=None,
    help="Touch a whole segment first (the default, except for hugetlb).",
)
@click.option(
    "--huge-directory", metavar="DIR", help="thp: a tmpfs mounted with huge=always, for anonymous memory."
)
@click.option(
    "--files",
    is_flag=True,
    help="Put mapped files into regions as well: one set of page tables for all processes that map them.",
)
@click.option("--require", is_flag=True, help="Refuse a segment that cannot be taken over.")
@click.option("--verbose", is_flag=True, help="One line on stderr for each segment.")
@click.pass_obj
def run_command(
    screen: Screen,
    command: tuple[str, ...],
    region: str | None,
    size: str | None,
    pages: str | None,
    backend: str | None,
    root: str | None,
    threshold: str | None,
    prefault: bool | None,
    huge_directory: str | None,
    files: bool,
    require: bool,
    verbose: bool,
) -> int:
    """Run a program with its shared memory in a region or huge pages.

    Segments are taken over when the program requests them: mmap of anonymous shared memory, SysV and POSIX
    shared memory. What cannot be taken over stays as it is, and a line on stderr says why.

    With --files, large files that are mapped MAP_SHARED are seen through regions, which `mshare keep-files`
    makes: content, size, SIGBUS and writing back are the file's. Where a region cannot do what the program
    does, the mapping becomes the kernel's own again, at the same address. Without mshare, files stay as
    they are.
    """
    path = program(command[0])
    size_bytes = None if size is None else parse_size(size)
    settings = replace(
        _placed(region, size_bytes, pages, backend, root),
        huge_directory=huge_directory,
        threshold_bytes=None if threshold is None else parse_size(threshold, "threshold"),
        prefault=prefault,
        require=require or None,
        verbose=verbose or None,
    ).check()
    if files:
        settings = _with_files(screen, settings)
    if size_bytes is None:
        # From here on this process is the program: its pid, signals and exit code.
        _become(path, command, settings)
    with _temporary_region(settings, size_bytes) as within:
        return _run(path, command, within)


def _placed(
    region: str | None, size_bytes: int | None, pages: str | None, backend: str | None, root: str | None
) -> Settings:
    """Where the segments go: pages, and the msharefs and region where these are needed."""
    if size_bytes is not None and region is not None:
        raise InvalidRequest(
            f"--region {region} uses an existing region, and --size creates one; use only one of them"
        )
    wants_region = size_bytes is not None or region is not None
    wants_msharefs = wants_region or bool(backend or root or kernel_has_msharefs())
    settings = Settings(pages=pages or ("4k" if wants_msharefs else "thp"))
    # A root alone may come from the environment, and asks for nothing.
    if settings.pages == "4k" or wants_region or backend:
        choice = locate(backend or "auto", root)
        settings = replace(settings, backend=choice.backend, root=choice.root)
    return settings if region is None else _in_region(settings, region)


def _in_region(settings: Settings, region: str) -> Settings:
    """In an existing region, with how much of it is mapped if its owner reports it."""
    from ..backends.connect import connect
    from ..clients.client import Target

    target = Target.find(region_name(region), connect(settings.backend or "auto", settings.root))
    return replace(settings, region=region, region_bytes=target.mapped_bytes or None)


def _with_files(screen: Screen, settings: Settings) -> Settings:
    """With the keeper of files' regions; where there is none, a line says why, and --require refuses."""
    try:
        return replace(settings, files=_keeper(settings))
    except MshareError as error:
        if settings.require:
            raise
        screen.warn(f"mapped files stay as they are: {error}")
        return settings


def _keeper(settings: Settings) -> str:
    """The socket of the keeper, which is started if none runs. Raises MshareError."""
    if settings.backend is None or settings.root is None:
        raise Unavailable(
            "only regions share the page tables of files, and this kernel has no msharefs; boot one that has,"
            " or try it with --backend simulated"
        )
    from ..backends.connect import connect
    from ..preload import keeper

    keeper.require_files(connect(settings.backend, settings.root))
    start = [*own_program(), "keep-files", "--backend", settings.backend, "--root", settings.root]
    return keeper.ensure(settings.root, start)


def _environment(settings: Settings) -> dict[str, str]:
    path = library()
    if settings.require:
        check_loads(path)
    given = settings.environment(path)
    others = os.environ.get("LD_PRELOAD")
    if others:
        given["LD_PRELOAD"] += f":{others}"
    return {**os.environ, **given}


def _become(path: str, command: tuple[str, ...], settings: Settings) -> NoReturn:
    environment = _environment(settings)
    sys.stdout.flush()
    os.execve(path, command, environment)


@contextlib.contextmanager
def _temporary_region(settings: Settings, size_bytes: int) -> Iterator[Settings]:
    """A region that this process owns; its name is removed when the block is left."""
    from ..backends.connect import connect
    from ..backends.mapping import Mapping
    from ..region.region import Region

    mapping = Mapping(0, round_up(size_bytes, BASE_PAGE_BYTES))
    if settings.pages == "hugetlb":
        _check_pool(size_bytes)
        mapping = Mapping(0, round_up(size_bytes, HUGE_PAGE_BYTES), "hugetlb")
    name = f"run.{os.getpid()}"
    backend = connect(settings.backend or "auto", settings.root)
    with Region.create(name, mappings=[mapping], backend=backend) as region:
        try:
            yield replace(settings, region=name, region_bytes=mapping.size_bytes)
        finally:
            region.unlink()


def _check_pool(size_bytes: int) -> None:
    """Raise Unavailable if the pool of 2 MiB pages has too few for a region."""
    pool = huge_pages.pool(HUGE_PAGE_BYTES)
    available = pool.available if pool else 0
    needed = -(-size_bytes // HUGE_PAGE_BYTES)
    if available < needed:
        raise Unavailable(
            f"a region of {format_size(size_bytes)} in huge pages needs {counted(needed, 'page')} of"
            f" {format_size(HUGE_PAGE_BYTES)}, but this host has {available} free; raise vm.nr_hugepages by"
            f" {needed - available}, or use pages 4k"
        )


def _run(path: str, command: tuple[str, ...], settings: Settings) -> int:
    """Run COMMAND as a child and forward signals; returns its exit code as a shell would."""
    waiting: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: object) -> None:
        # A terminal sends its signals to the child as well.
        if number in _FROM_TERMINAL and os.isatty(0):
            return
        if child is None:
            waiting.append(number)
        else:
            child.send_signal(number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    child = subprocess.Popen(command, executable=path, env=_environment(settings))
    for missed in waiting:
        child.send_signal(missed)
    code = child.wait()
    return code if code >= 0 else _KILLED - code
