# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's configuration files, read as PostgreSQL reads them, and where each setting stands."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Protocol

Settings = dict[str, tuple[str, str]]
"""Name -> value, and where it stands."""
_SETTING = re.compile(r"^\s*([A-Za-z_][\w.$]*)\s*(?:=|\s)\s*('(?:[^'\\]|''|\\.)*'|[^\s#]+)")
_ESCAPED = re.compile(r"''|\\(.)")
COMMAND_LINE = "command line"
_INCLUDES = ("include", "include_if_exists", "include_dir")
_INCLUDE_DEPTH = 10
_LETTERS = {"-B": "shared_buffers", "-N": "max_connections", "-p": "port", "-D": "data_directory"}


class Files(Protocol):
    """Where the files are read from."""

    def content(self, path: str) -> str | None:
        """A file's text; None if the file does not exist or may not be read."""

    def place(self, path: str) -> str:
        """Where a path in a configuration file leads."""

    def listed(self, path: str) -> Sequence[str]:
        """The names in a folder; none where it cannot be read."""


def options(arguments: list[str]) -> Settings:
    """What a command line sets."""
    values: Settings = {}
    rest = iter(arguments[1:])
    for argument in rest:
        letter, value = argument[:2], argument[2:]
        if letter == "--" or letter == "-c":
            name, __, value = (value or next(rest, "")).partition("=")
            values[name.replace("-", "_").lower()] = (value, COMMAND_LINE)
        elif letter in _LETTERS:
            values[_LETTERS[letter]] = (value or next(rest, ""), COMMAND_LINE)
    return values


def started_with(opts: str) -> list[str]:
    """The arguments in postmaster.opts, in which a server notes how it was started."""
    program, *rest = opts.strip().split(' "')
    return [program, *(argument.rstrip('"') for argument in rest)]


def settings(files: Files, main: str, data: str, overrides: Settings) -> Settings:
    """In PostgreSQL's order: its file, what ALTER SYSTEM wrote, the command line (given)."""
    known: dict[tuple[str, int], Settings] = {}
    values = dict(_read(files, files.place(main), os.path.basename(main), _INCLUDE_DEPTH, known))
    values.update(_read(files, f"{data}/postgresql.auto.conf", "postgresql.auto.conf", 0, known))
    values.update(overrides)
    return values


def _read(
    files: Files, path: str, label: str, depth: int, known: dict[tuple[str, int], Settings]
) -> Settings:
    """`known` has what files are known to set at a depth: each may include all others many times."""
    if (path, depth) in known:
        return known[path, depth]
    values: Settings = {}
    for line in (files.content(path) or "").split("\n"):
        # Most lines of a file as shipped are comments.
        match = None if line.startswith("#") else _SETTING.match(line)
        if match is None:
            continue
        name, value = match.group(1).lower(), match.group(2)
        if value.startswith("'"):
            value = _ESCAPED.sub(lambda found: found[1] or "'", value[1:-1])
        if name not in _INCLUDES:
            values[name] = (value, label)
        elif depth:
            beside = value if value.startswith("/") else f"{os.path.dirname(path)}/{value}"
            for each in _included(files, files.place(beside), name):
                values.update(_read(files, each, os.path.basename(each), depth - 1, known))
    known[path, depth] = values
    return values


def _included(files: Files, path: str, how: str) -> list[str]:
    if how != "include_dir":
        return [path]
    names = [name for name in files.listed(path) if name.endswith(".conf") and not name.startswith(".")]
    return sorted(f"{path}/{name}" for name in names)
