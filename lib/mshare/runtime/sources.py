# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library's sources on their way to a host: path below the package -> text."""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib

from ..errors import InvalidRequest

SUFFIXES = (".py", ".c", ".h", ".j2", ".1")
"""What a host needs of the package: its code, the preload's, templates, and manual pages."""


def read(package: str) -> dict[str, str]:
    """The sources in the folder of a package, in the order of their paths."""
    sources = {}
    for folder, __, names in os.walk(package):
        for name in names:
            if name.endswith(SUFFIXES):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    sources[os.path.relpath(path, package)] = file.read()
    return dict(sorted(sources.items()))


def pack(sources: dict[str, str]) -> str:
    """Sources as one short argument of a module; the same sources give the same text."""
    text = json.dumps(sources, sort_keys=True)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(packed: str) -> dict[str, str]:
    """What `pack` packed. Raises InvalidRequest for anything else."""
    if not packed:
        packed = pack({})
    try:
        sources = json.loads(zlib.decompress(base64.b64decode(packed, validate=True)))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise InvalidRequest(
            f"the sources of the library cannot be unpacked ({error}); leave the option sources to the"
            " collection, which sets it itself"
        ) from None
    if not isinstance(sources, dict) or not sources:
        raise InvalidRequest(
            "the sources of the library are missing; call the module by its full name,"
            " dbmem.mshare.mshare_runtime, so that the collection adds them"
        )
    return sources
