# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload: a C library that puts an unmodified program's shared memory into a region or huge pages.

Its sources are in preload/src. Here: where it is, how it is built, and for which programs the loader would
ignore it.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from . import paths, state
from .errors import InvalidRequest, MshareError, Unavailable
from .preload_settings import FILE_NAME

COMPILERS = ("cc", "gcc", "clang")
COMPILE = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-c")
LINK = ("-shared", "-o", FILE_NAME)

_INTERPRETER_SEGMENT = 3  # PT_INTERP
_SCRIPT_DEPTH = 4
_IDENT_BYTES = 20  # magic, class, data, ..., type, machine


# -- the library


@functools.cache
def own_sources() -> dict[str, str]:
    """The C sources that lie in this package: file name -> text."""
    return sources_in(os.path.join(os.path.dirname(os.path.abspath(__file__)), "preload", "src"))


def sources_in(directory: str) -> dict[str, str]:
    """The C sources in a folder: file name -> text."""
    found = {}
    for name in os.listdir(directory):
        if name.endswith((".c", ".h")):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                found[name] = file.read()
    return found


def digest(sources: Mapping[str, str]) -> str:
    """What tells one version of the built library from another: its sources, and how they are built."""
    told = repr((sorted(sources.items()), COMPILE, LINK))
    return hashlib.sha256(told.encode()).hexdigest()


def compilers() -> list[str]:
    """The C compilers of this host, the one to use first."""
    found = (shutil.which(name) for name in COMPILERS)
    return [path for path in found if path is not None]


def compiler() -> str:
    """The host's C compiler; Unavailable, naming the packages, where there is none."""
    found = compilers()
    if found:
        return found[0]
    raise Unavailable(
        f"building {FILE_NAME} needs a C compiler and this host has none ({', '.join(COMPILERS)}); install"
        " gcc and libc6-dev (Debian) or gcc and glibc-devel (Fedora)"
    )


def build(path: str, sources: Mapping[str, str]) -> None:
    """Build the library of its sources at a path, in one step for whoever looks. Raises Unavailable."""
    program = compiler()
    with tempfile.TemporaryDirectory(prefix="mshare-preload.") as directory:
        for name, text in sources.items():
            state.write_text(os.path.join(directory, name), text)
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
        said = next((line for line in lines if "error" in line), "it says nothing")
        raise Unavailable(
            f"{command[0]} cannot build {FILE_NAME} ({said}); install gcc and libc6-dev (Debian) or gcc and"
            " glibc-devel (Fedora), or build it on a host like this one with `mshare preload`"
        )


def _put(built: str, path: str) -> None:
    """Copy beside the target, then rename: a program that has the old library loaded keeps it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd, beside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    os.close(fd)
    try:
        shutil.copyfile(built, beside)
        os.chmod(beside, 0o755)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def installed() -> str | None:
    """The library that the module mshare_runtime built beside this package, if it is of this version."""
    directory = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.path.join(directory, FILE_NAME)
    text = state.read_text(os.path.join(directory, "manifest.json"))
    return path if text is not None and digest(own_sources()) in text and os.path.exists(path) else None


def cached() -> list[str]:
    """The libraries in the cache, of whatever version."""
    stem = FILE_NAME.partition(".")[0]
    return glob.glob(os.path.join(glob.escape(paths.cache_dir()), f"{stem}-*.so"))


def library() -> str:
    """The library: the one that is installed, else one in the cache, built there when it is missing."""
    found = installed()
    if found is not None:
        return found
    sources = own_sources()
    stem, __, suffix = FILE_NAME.partition(".")
    path = os.path.join(paths.cache_dir(), f"{stem}-{digest(sources)[:16]}.{suffix}")
    if not os.path.exists(path):
        compiler()
        paths.make_directory(paths.cache_dir())
        build(path, sources)
    return path


# -- the program


def program(name: str) -> str:
    """The path of a command that the library works for.

    MshareError for one that is not there; InvalidRequest for one for which the loader ignores LD_PRELOAD.
    """
    path = shutil.which(name)
    if path is None:
        raise MshareError(
            f"command {name} cannot be run: there is no such program, or it is not executable; check its name"
            " and PATH"
        )
    _check_loader(path, path, _SCRIPT_DEPTH)
    return path


def _check_loader(name: str, path: str, depth: int) -> None:
    _check_privileges(name, path)
    try:
        with open(path, "rb") as file:
            head = file.read(256)
            if head.startswith(b"#!") and depth:
                words = head[2:].split(b"\n", 1)[0].split()
                if words:
                    _check_loader(name, os.fsdecode(words[0]), depth - 1)
            elif head.startswith(b"\x7fELF"):
                _check_elf(name, path, head, _segment_types(file, head))
    except OSError:
        # Who may run a program need not be allowed to read it.
        return


def _check_privileges(name: str, path: str) -> None:
    """What makes the kernel start a program in secure mode, in which the loader takes no LD_PRELOAD."""
    found = os.stat(path)
    reason = None
    if found.st_mode & 0o4000 and found.st_uid != os.getuid():
        reason = "setuid"
    elif found.st_mode & 0o2010 == 0o2010 and found.st_gid != os.getgid():
        reason = "setgid"
    elif os.getuid() != 0 and _has_capabilities(path):
        reason = "given file capabilities"
    if reason is not None:
        raise InvalidRequest(
            f"{name} is {reason}, so the loader ignores LD_PRELOAD and its memory stays as it is; run the"
            " program it starts, as the user it runs as"
        )


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _segment_types(file: BinaryIO, head: bytes) -> list[int]:
    """The types of an ELF file's segments; empty for a class that is not 64 bits."""
    if head[4] != 2:
        return []
    offset, size, count = struct.unpack_from("<32xQ14xHH", head)
    file.seek(offset)
    table = file.read(size * count)
    return [struct.unpack_from("<I", table, index * size)[0] for index in range(count)]


def _check_elf(name: str, path: str, head: bytes, segments: list[int]) -> None:
    with open(sys.executable, "rb") as file:
        own = file.read(_IDENT_BYTES)
    if (head[4], head[18:20]) != (own[4], own[18:20]):
        raise InvalidRequest(
            f"{name} is for another architecture than the preload ({path}), so its memory stays as it is; run"
            " a program of this host's own architecture"
        )
    if _INTERPRETER_SEGMENT not in segments:
        raise InvalidRequest(
            f"{name} is linked statically ({path}), so no loader can give it the preload; use a dynamically"
            " linked build"
        )
