# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is built of the C in preload/src: the preload, and the program that lean clients are.

The preload is a library that puts an unmodified program's shared memory into a region or huge pages. This
file finds and builds both.
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
from dataclasses import dataclass

from .. import files, paths
from ..errors import Unavailable
from ..host import procfs
from .settings import FILE_NAME

COMPILERS = ("cc", "gcc", "clang")
COMPILE = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-c")
_DIGITS = 16
"""Of the digest, in a name in the cache."""
_CLIENT_UNITS = ("client.c", "calls.c", "memory.c", "text.c")


@dataclass(frozen=True)
class Product:
    """A file that is built of the C sources."""

    file_name: str
    links: tuple[tuple[str, ...], ...]
    """Options for the linker; the next ones are tried where the first are not possible."""
    units: tuple[str, ...] = ()
    """The .c files; empty: all that are of no other product alone."""

    def units_of(self, sources: Mapping[str, str]) -> list[str]:
        return sorted(
            name
            for name in sources
            if name.endswith(".c") and (name in self.units if self.units else name != _CLIENT_UNITS[0])
        )


PRELOAD = Product(FILE_NAME, (("-shared", "-pthread"),))
# Static where that is possible: it starts sooner, and writes to fewer pages of its own.
CLIENT = Product("mshare-client", (("-static", "-s"), ("-s",)), _CLIENT_UNITS)
PRODUCTS = (PRELOAD, CLIENT)


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
    """A checksum that identifies a version of what is built: the sources and how they are built."""
    recipe = repr((sorted(sources.items()), COMPILE, PRODUCTS))
    return hashlib.sha256(recipe.encode()).hexdigest()


def compilers() -> list[str]:
    """The C compilers of this host, the preferred one first."""
    paths_or_none = (shutil.which(name) for name in COMPILERS)
    return [path for path in paths_or_none if path is not None]


def compiler(product: Product = PRELOAD) -> str:
    """The host's C compiler; Unavailable, with the packages to install, if there is none."""
    available = compilers()
    if available:
        return available[0]
    raise Unavailable(
        f"building {product.file_name} needs a C compiler, but this host has none ({', '.join(COMPILERS)});"
        " install gcc and libc6-dev (Debian) or gcc and glibc-devel (Fedora)"
    )


def build(path: str, sources: Mapping[str, str], product: Product = PRELOAD) -> None:
    """Build a product from the sources and put it at a path in one step. Raises Unavailable."""
    program = compiler(product)
    with tempfile.TemporaryDirectory(prefix="mshare-preload.") as directory:
        for name, text in sources.items():
            files.write_text(os.path.join(directory, name), text)
        units = product.units_of(sources)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            refusals = pool.map(lambda unit: _refusal(directory, [program, *COMPILE, unit]), units)
        _require_built(program, product, next(filter(None, refusals), None))
        objects = [f"{os.path.splitext(unit)[0]}.o" for unit in units]
        links = ([program, *link, "-o", product.file_name, *objects] for link in product.links)
        refused = [_refusal(directory, next(links))]
        while refused[-1] is not None and len(refused) < len(product.links):
            refused.append(_refusal(directory, next(links)))
        _require_built(program, product, refused[-1])
        with open(os.path.join(directory, product.file_name), "rb") as file:
            put(file.read(), path)


def _refusal(directory: str, command: Sequence[str]) -> str | None:
    """Run a compiler or linker; None where it succeeded, else its first error."""
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    return next((line for line in lines if "error" in line), "without a message") if done.returncode else None


def _require_built(program: str, product: Product, refusal: str | None) -> None:
    if refusal is not None:
        raise Unavailable(
            f"{program} cannot build {product.file_name} ({refusal}); install gcc and libc6-dev (Debian) or"
            " gcc and glibc-devel (Fedora), or build it on a similar host with `mshare preload`"
        )


def put(content: bytes, path: str) -> None:
    """Install a library in one step: a program that has the old one loaded keeps it."""
    files.write_bytes(path, content, files.Access(0o755), durable=False)


def installed(product: Product = PRELOAD) -> str | None:
    """What the module mshare_runtime put next to this package, if it has this version."""
    directory = os.path.dirname(paths.PACKAGE)
    path = os.path.join(directory, product.file_name)
    text = files.read_text(os.path.join(directory, "manifest.json"))
    return path if text is not None and digest(own_sources()) in text and os.path.exists(path) else None


def _cache_name(product: Product, version: str) -> str:
    stem, dot, suffix = product.file_name.partition(".")
    return f"{stem}-{version}{dot}{suffix}"


def cached() -> list[str]:
    """What has been built into the cache, of all versions."""
    directory = glob.escape(paths.cache_dir())
    patterns = (os.path.join(directory, _cache_name(product, "?" * _DIGITS)) for product in PRODUCTS)
    return [path for pattern in patterns for path in glob.glob(pattern)]


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


def built(sources: Mapping[str, str], product: Product = PRELOAD) -> str:
    """The product of these sources in the cache, built there when it is missing."""
    path = os.path.join(paths.cache_dir(), _cache_name(product, digest(sources)[:_DIGITS]))
    if not os.path.exists(path):
        compiler(product)
        files.make_directory(paths.cache_dir())
        build(path, sources, product)
    return path
