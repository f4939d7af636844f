# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni: its configuration store decides about settings, and Patroni itself about every restart.

Patroni starts PostgreSQL through a helper that ends at once, so that the postmaster's parent is an init:
it is recognised by what it leaves in the data directory, by its configuration, and by its unit. A server
that it does not run now is its own all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from glob import glob

from ...host import procfs
from .evidence import Evidence, text_for
from .manager import Manager

CONFIGURATIONS = ("/etc/patroni/*.yml", "/etc/patroni/*.yaml", "/etc/patroni.yml", "/etc/patroni.yaml")
"""Where Debian, PGDG and Patroni's own documentation have it."""
DYNAMIC = "patroni.dynamic.json"
"""Patroni's copy of the settings in its store, in each data directory (patroni/config.py, CACHE_FILENAME)."""
_HEADER = "It will be overwritten by Patroni"
_DATA_DIRECTORY = re.compile(r"""^\s*data_dir\s*:\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$""", re.M)
_ENVIRONMENT = "PATRONI_POSTGRESQL_DATA_DIR"
ADVICE = (
    "set huge_pages in its store (`patronictl edit-config`: postgresql.parameters.huge_pages) and restart"
    " with `patronictl restart`; settings and restarts behind its back are undone"
)


def recognise(evidence: Evidence) -> str | None:
    return next(_reasons(evidence), None)


def _reasons(evidence: Evidence) -> Iterator[str]:
    for process in evidence.parents:
        if "patroni" in process.words[:3]:
            yield evidence.started_by(process)
    if re.match(r"(.*-)?patroni\b.*\.service", evidence.unit or ""):
        yield evidence.in_unit()
    for path in configurations():
        if any(
            _same(place, evidence.data_directory)
            for place in _DATA_DIRECTORY.findall(text_for(os.path.realpath(path), evidence.data_directory))
        ):
            yield f"{path} names its data directory {evidence.data_directory}"
    for pid in _processes():
        if _same(_data_directory_of(pid), evidence.data_directory):
            yield f"Patroni runs as process {pid} for its data directory {evidence.data_directory}"
    main = os.path.join(evidence.configuration, "postgresql.conf")
    if _HEADER in text_for(main, evidence.data_directory)[:1000]:
        yield f"{main} says that Patroni overwrites it"
    dynamic = os.path.join(evidence.data_directory, DYNAMIC)
    if os.path.lexists(dynamic):
        yield f"{dynamic} is Patroni's; remove it if Patroni no longer runs this cluster"


def configurations() -> list[str]:
    """Patroni's configuration files: where they usually are, and what running ones were given."""
    paths = {path for pattern in CONFIGURATIONS for path in glob(pattern)}
    for pid in _processes():
        words = (procfs.read(f"/proc/{pid}/cmdline") or "").split("\0")
        paths |= {word for word in words if word.startswith("/") and word.endswith((".yml", ".yaml"))}
    return sorted(paths)


def _processes() -> list[int]:
    """The Patronis that run."""
    pids = []
    for pid in procfs.pids():
        words = (procfs.read(f"/proc/{pid}/cmdline") or "").split("\0")
        if "patroni" in map(os.path.basename, words[:3]):
            pids.append(pid)
    return pids


def _data_directory_of(pid: int) -> str:
    try:
        pairs = (procfs.read(f"/proc/{pid}/environ") or "").split("\0")
    except PermissionError:
        return ""
    return next((pair.partition("=")[2] for pair in pairs if pair.startswith(f"{_ENVIRONMENT}=")), "")


def _same(path: str, other: str) -> bool:
    if not path:
        return False
    return os.path.realpath(path) == os.path.realpath(other)


PATRONI = Manager("Patroni", recognise, ADVICE)
