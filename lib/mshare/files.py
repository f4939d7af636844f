# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text files, replaced and removed in one step."""

from __future__ import annotations

import contextlib
import os


def read_text(path: str) -> str | None:
    """A file's text, or None where there is none. `write_text` writes those bytes again."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _temporary(path: str) -> str:
    """The temporary file for a new version. The name is fixed, so that leftovers can be found."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.new")


def write_text(path: str, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: readers see the old or the new text, never a part."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _temporary(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            stream.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove(*files: str) -> None:
    """Remove files and leftovers of writing them; missing ones are fine."""
    for path in files:
        for each in (path, _temporary(path)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(each)


def remove_empty(*directories: str) -> None:
    """Remove directories if they are empty."""
    for path in directories:
        with contextlib.suppress(OSError):
            os.rmdir(path)
