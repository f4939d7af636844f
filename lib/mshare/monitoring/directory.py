# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the node exporter that runs on this host reads text files, by its command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .. import files
from ..errors import Conflict, Unavailable
from ..host import processes
from ..host.processes import Process, Vanished

_OPTION = "--collector.textfile.directory"
# Debian's is built with a default of its own; all others read no text files unless they are told where.
_DEFAULTS = {"prometheus-node-exporter": "/var/lib/prometheus/node-exporter", "node_exporter": None}
_NAME_CHARACTERS = 15
_GIVE_IT = "give the directory (mshare_monitoring_directory)"


def find(running: Iterable[Process] | None = None) -> str:
    """The directory of the node exporter; Unavailable, with the next step, where none can be found.

    Conflict where several exporters read different ones, or one does not see this host's files.
    """
    found = {}
    exporters = list(_exporters(processes.read_all().processes if running is None else running))
    for process in exporters:
        directory = _directory(process)
        if directory is not None:
            found[directory] = process
    if not exporters:
        raise Unavailable(f"no node exporter runs on this host; start it, or {_GIVE_IT}")
    if not found:
        raise Unavailable(
            f"the node exporter (process {exporters[0].pid}) was started without {_OPTION}, so it reads no"
            f" text files; start it with that, or {_GIVE_IT}"
        )
    if len(found) > 1:
        raise Conflict(
            f"the node exporters of this host read text files from {' and '.join(sorted(found))}; {_GIVE_IT}"
        )
    directory, process = found.popitem()
    require(directory)
    _require_same_files(process, directory)
    return directory


def require(directory: str) -> None:
    """Unavailable for a directory that is not there; Conflict where another user decides which one it is."""
    try:
        is_there = files.is_directory(directory)
    except files.NotTrusted as error:
        raise Conflict(f"{directory} is {error.reason}; remove it, or name another directory") from None
    if not is_there:
        raise Unavailable(f"{directory} is not a directory on this host; create it, or name another one")


def _exporters(running: Iterable[Process]) -> Iterator[Process]:
    names = {name[:_NAME_CHARACTERS] for name in _DEFAULTS}
    return (process for process in running if process.name in names)


def _directory(process: Process) -> str | None:
    words = process.arguments()
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == _OPTION:
            return value if equals else next(iter(words[number + 1 :]), None)
    return _DEFAULTS.get(os.path.basename(words[0])) if words else None


def _require_same_files(process: Process, directory: str) -> None:
    """Conflict for an exporter in a container: it sees other files, or the directory and not what a link in
    it leads to."""
    for path in (directory, "/var/lib"):
        try:
            same = os.path.samestat(os.stat(process.path("root") + path), os.stat(path))
        except (Vanished, OSError):
            same = False
        if not same:
            raise Conflict(
                f"the node exporter (process {process.pid}) does not see {path} of this host, as in a"
                " container; let it see /var/lib at the same place, or use one that runs on the host"
            )
