# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is built of the C sources, on its way from the host that built it to a host without a compiler."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Mapping

from ..errors import InvalidRequest, Unavailable
from .library import PRODUCTS
from .settings import FILE_NAME

# ELF: magic, class, data, ..., type, machine.
_IDENT_BYTES = 20
_SYMBOL_VERSION = re.compile(rb"GLIBC_([0-9]+)\.([0-9]+)(?:\.[0-9]+)?\0")


def pack(contents: Mapping[str, bytes]) -> str:
    """Built files, by name, as one argument of a module; the digest of each is checked on arrival."""
    return " ".join(f"{name}:{_packed(content)}" for name, content in contents.items())


def _packed(content: bytes) -> str:
    packed = base64.b64encode(zlib.compress(content, 9)).decode()
    return f"{hashlib.sha256(content).hexdigest()}:{packed}"


def unpack(text: str) -> dict[str, bytes]:
    """What `pack` packed. InvalidRequest for anything else, for content of another digest, and for fewer
    files than there are products."""
    contents = dict(_unpacked(part) for part in text.split(" "))
    missing = sorted({product.file_name for product in PRODUCTS} - contents.keys())
    if missing:
        raise InvalidRequest(f"{', '.join(missing)} did not arrive; run this again")
    return contents


def _unpacked(part: str) -> tuple[str, bytes]:
    name, __, rest = part.partition(":")
    digest, __, packed = rest.partition(":")
    try:
        content = zlib.decompress(base64.b64decode(packed, validate=True))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise InvalidRequest(
            f"{name or FILE_NAME} arrived damaged ({error}); leave the option preload_built to the"
            " collection, which sets it itself, and run this again"
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise InvalidRequest(
            f"{name} arrived with digest {actual}, and {digest or 'none'} was sent; run this again"
        )
    return name, content


def glibc_needed(content: bytes) -> tuple[int, int]:
    """The newest version of glibc's symbols that a library uses."""
    return max(
        ((int(major), int(minor)) for major, minor in _SYMBOL_VERSION.findall(content)), default=(0, 0)
    )


def glibc_here() -> tuple[int, int]:
    """This host's glibc; (0, 0) for another libc."""
    name, __, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    parts = version.split(".")
    return (int(parts[0]), int(parts[1])) if name == "glibc" and len(parts) > 1 else (0, 0)


def require_fits(content: bytes, name: str = FILE_NAME, here: tuple[int, int] | None = None) -> None:
    """Unavailable for a library or program of another architecture, or of a newer glibc than this host's."""
    with open(sys.executable, "rb") as file:
        own = file.read(_IDENT_BYTES)
    if (content[:6], content[18:20]) != (own[:6], own[18:20]):
        raise Unavailable(
            f"{name} was built for another architecture than this host's ({os.uname().machine}); build"
            " it here instead (mshare_runtime_compiler_managed: true installs a compiler)"
        )
    needed, available = glibc_needed(content), here or glibc_here()
    if needed > available:
        raise Unavailable(
            f"{name} was built where glibc is newer: it needs {needed[0]}.{needed[1]}, and this host has"
            f" {available[0]}.{available[1]}; run Ansible where glibc is not newer than here, or build it"
            " here (mshare_runtime_compiler_managed: true installs a compiler)"
        )


def require_all_fit(contents: Mapping[str, bytes]) -> None:
    """Unavailable, as `require_fits`, for the first file that does not run on this host."""
    for name, content in contents.items():
        require_fits(content, name)
