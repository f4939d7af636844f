# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the active profile of tuned sets: tuned-profiles(7), tuned.conf(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..host.limits import Host
from . import scripts
from .kernel import TRANSPARENT
from .setting import Setting, is_of_huge_pages, sysctl_lines

_ACTIVE = ("/etc/tuned/active_profile", "/etc/tuned/post_loaded_profile")
_FOLDERS = ("/etc/tuned", "/etc/tuned/profiles", "/usr/lib/tuned", "/usr/lib/tuned/profiles")
_DEPTH = 5
_OWN_FOLDER = "${i:PROFILE_DIR}"
_Section = dict[str, str]


def settings(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    """Everything that the active profile sets, what it includes first."""
    for name in " ".join(host.read(path) or "" for path in _ACTIVE).split():
        yield from _profile(host, name, default_bytes, _DEPTH)


def _profile(host: Host, name: str, default_bytes: int | None, depth: int) -> Iterator[Setting]:
    folder = next((path for path in (f"{top}/{name}" for top in _FOLDERS) if _text(host, path)), None)
    if folder is None or not depth:
        return
    sections = dict(_sections(_text(host, folder)))
    for included in re.split(r"[,\s]+", sections.get("main", {}).get("include", "")):
        if included:
            yield from _profile(host, included, default_bytes, depth - 1)
    for section, options in sections.items():
        # An instance of a plugin may have a name of its own.
        yield from _section(host, folder, options.get("type", section), options, default_bytes)


def _text(host: Host, folder: str) -> str:
    return host.read(f"{folder}/tuned.conf") or ""


def _sections(text: str) -> Iterator[tuple[str, _Section]]:
    name, options = "", _Section()
    for line in (line.strip() for line in text.split("\n")):
        if line.startswith("["):
            yield name, options
            name, options = line.strip("[]"), _Section()
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and not key.startswith(("#", ";")):
            options[key] = value
    yield name, options


def _section(
    host: Host, folder: str, kind: str, options: _Section, default_bytes: int | None
) -> Iterator[Setting]:
    path = f"{folder}/tuned.conf"
    for key, value in options.items():
        if kind == "vm" and key in ("transparent_hugepages", "transparent_hugepage"):
            yield Setting(path, TRANSPARENT, value)
        elif kind == "sysfs" and is_of_huge_pages(key):
            yield Setting(path, key, value)
        elif kind == "sysctl":
            yield from sysctl_lines(path, f"{key} = {value}")
        elif kind == "script" and key == "script":
            script = value.replace(_OWN_FOLDER, folder)
            yield from scripts.of_text(script, host.read(script) or "", default_bytes)
