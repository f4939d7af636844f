# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload: a C library that puts an unmodified program's shared memory into a region or huge pages.

Its sources are in preload/src. This file finds and builds it.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from .. import files, paths
from ..errors import Unavailable
from ..host import procfs
from .settings import FILE_NAME

COMPILERS = ("cc", "gcc", "clang")
COMPILE = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-c")
LINK = ("-shared", "-pthread", "-o", FILE_NAME)


@functools.cache
def own_sources() -> dict[str, str]:
    """The C sources in this package: file name -> text."""
    return sources_in(os.path.join(paths.PACKAGE, "preload", "src"))


def sources_in(directory: str) -> dict[str, str]:
    """The C sources in a folder: file name -> text."""
    sources = {}
    for name in os.listdir(directory):
        if name.endswith((".c", ".h")):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                sources[name] = file.read()
    return sources


def digest(sources: Mapping[str, str]) -> str:
    """A checksum that identifies a version of the built library: its sources and how they are built."""
    recipe = repr((sorted(sources.items()), COMPILE, LINK))
    return hashlib.sha256(recipe.encode()).hexdigest()


def compilers() -> list[str]:
    """The C compilers of this host, the preferred one first."""
    paths_or_none = (shutil.which(name) for name in COMPILERS)
    return [path for path in paths_or_none if path is not None]


def compiler() -> str:
    """The host's C compiler; Unavailable, with the packages to install, if there is none."""
    available = compilers()
    if available:
        return available[0]
    raise Unavailable(
        f"building {FILE_NAME} needs a C compiler, but this host has none ({', '.join(COMPILERS)}); install"
        " gcc and libc6-dev (Debian) or gcc and glibc-devel (Fedora)"
    )


def build(path: str, sources: Mapping[str, str]) -> None:
    """Build the library from its sources and put it at a path in one step. Raises Unavailable."""
    program = compiler()
    with tempfile.TemporaryDirectory(prefix="mshare-preload.") as directory:
        for name, text in sources.items():
            files.write_text(os.path.join(directory, name), text)
        units = sorted(name for name in sources if name.endswith(".c"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda unit: _compile(directory, [program, *COMPILE, unit]), units))
        objects = [f"{os.path.splitext(unit)[0]}.o" for unit in units]
        _compile(directory, [program, *LINK, *objects])
        _put(os.path.join(directory, FILE_NAME), path)


def _compile(directory: str, command: Sequence[str]) -> None:
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        reason = next((line for line in lines if "error" in line), "without a message")
        raise Unavailable(
            f"{command[0]} cannot build {FILE_NAME} ({reason}); install gcc and libc6-dev (Debian) or gcc and"
            " glibc-devel (Fedora), or build it on a similar host with `mshare preload`"
        )


def put(content: bytes, path: str) -> None:
    """Install a library in one step: a program that has the old one loaded keeps it."""
    files.write_bytes(path, content, files.Access(0o755), durable=False)


def _put(built: str, path: str) -> None:
    """Replace the library in one step: a program that has the old one loaded keeps it."""
    with open(built, "rb") as file:
        put(file.read(), path)


def installed() -> str | None:
    """The library that the module mshare_runtime built next to this package, if it has this version."""
    directory = os.path.dirname(paths.PACKAGE)
    path = os.path.join(directory, FILE_NAME)
    text = files.read_text(os.path.join(directory, "manifest.json"))
    return path if text is not None and digest(own_sources()) in text and os.path.exists(path) else None


def cached() -> list[str]:
    """The libraries in the cache, of all versions."""
    stem = FILE_NAME.partition(".")[0]
    return glob.glob(os.path.join(glob.escape(paths.cache_dir()), f"{stem}-*.so"))


def users(paths: Sequence[str]) -> list[int]:
    """The processes that have one of these files mapped, or a version that has been replaced."""
    names = {*paths, *(f"{path} (deleted)" for path in paths)}
    pids = []
    for pid in procfs.pids():
        mapped = (line.split(None, 5) for line in procfs.lines(procfs.maps(pid)))
        if any(len(fields) == 6 and fields[5] in names for fields in mapped):
            pids.append(pid)
    return pids


def library() -> str:
    """The path of the library: the installed one, else the cached one, which is built if missing."""
    existing = installed()
    if existing is not None:
        return existing
    return built(own_sources())


def check_loads(path: str) -> None:
    """Unavailable if the library cannot be loaded: the loader would start the program without it."""
    import ctypes

    try:
        ctypes.CDLL(path)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be loaded ({error}), and --require asks for it; set MSHARE_CACHE_DIR to a"
            " directory on a file system that is not mounted noexec"
        ) from None


def built(sources: Mapping[str, str]) -> str:
    """The library of these sources in the cache, built there when it is missing."""
    stem, __, suffix = FILE_NAME.partition(".")
    path = os.path.join(paths.cache_dir(), f"{stem}-{digest(sources)[:16]}.{suffix}")
    if not os.path.exists(path):
        compiler()
        files.make_directory(paths.cache_dir())
        build(path, sources)
    return path
