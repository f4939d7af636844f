# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that put a cluster on a region: their texts, and writing them so that all can be undone.

The library goes into Debian's own file `environment`, with systemd as without: pg_ctlcluster gives a
server what stands there and nothing else, so a unit's Environment= would reach pg_ctlcluster only.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from .. import files, paths
from ..preload.settings import FILE_NAME, preloaded
from ..record import Place, build, load
from ..record import to_fields as record_fields
from ..services import systemd
from ..services.choose import systemd_runs
from ..units import KIB
from . import unit_files
from .clusters import COMMON, Cluster
from .managers import evidence, pg_ctlcluster
from .server import Server
from .spec import NATIVE, ClusterSpec

_HEAD = "# Managed by dbmem.mshare; changes made here are overwritten.\n"
_BEGIN, _END = "# BEGIN dbmem.mshare", "# END dbmem.mshare"
# The empty line is ours as well: what ends without a newline is given back like that.
_BLOCK = re.compile(rf"\n{re.escape(_BEGIN)}\n.*?\n{re.escape(_END)}\n", re.DOTALL)
_NEXT_STEP = "put the file back from a backup, or remove it and run this again"
Changes = dict[str, "str | None"]
"""Path -> what it is to hold; None for a file that is not to be there."""


def environment_file(cluster: Cluster) -> str:
    return files.behind_link(os.path.join(cluster.configuration, "environment"))


def configuration_file(cluster: Cluster) -> str:
    """Last in its folder: of a setting that two files set, the last one counts."""
    if cluster.plain_unit is not None:
        return unit_files.configuration_file(cluster)
    return os.path.join(cluster.configuration, "conf.d", "zz-dbmem-mshare.conf")


def drop_in_file(cluster: Cluster) -> str:
    if cluster.own_unit:
        return unit_files.drop_in_file(cluster)
    return systemd.unit_path(f"{cluster.unit}.d/dbmem-mshare.conf")


def record_file(cluster: Cluster) -> str:
    """What the last run asked for, for later runs, and what a rollback has to take back."""
    return paths.spec_file("postgresql", cluster.id)


@dataclass(frozen=True)
class Verified:
    """A server in which a cluster's memory was where it should be."""

    pages: str
    pid: int
    started_ticks: int

    def is_of(self, server: Server) -> bool:
        """Whether it is about exactly that server, and not a server that was started since."""
        return (self.pid, self.started_ticks) == (server.pid, server.started_ticks)


@dataclass(frozen=True)
class Recorded:
    """The record of the last run."""

    pages: str
    group_added: str | None
    """The group that the cluster's owner joined; None if there was no need."""
    verified: Verified | None = None
    """Missing until the server was started and verified."""


def present(cluster: Cluster, spec: ClusterSpec, group_added: str | None, under_systemd: bool) -> Changes:
    """What the files are to hold for a spec."""
    fields: dict[str, object] = {**spec.to_dict(), "group_added": group_added}
    known = stored(cluster) or {}
    # It is of use as long as the same is wanted.
    if "verified" in known and {**known, "verified": None} == {**fields, "verified": None}:
        fields["verified"] = known["verified"]
    record_change: Changes = {record_file(cluster): _record_text(fields)}
    if not spec.needs_library:
        settings = _native(spec)
        if cluster.patroni is not None:
            # Its settings are in the store of its cluster (patroni/huge_pages.py).
            return {**unit_files.absent(cluster), **record_change}
        if cluster.plain_unit is not None:
            return {**unit_files.native(cluster, settings), **record_change}
        return {**absent(cluster), configuration_file(cluster): settings, **record_change}
    if cluster.own_unit:
        parts = unit_files.Parts(_HEAD, _drop_in_sections(spec), _configuration())
        return {**unit_files.present(cluster, spec, parts), **record_change}
    return {
        environment_file(cluster): _with_block(cluster, _without_block(_environment(cluster)), spec),
        configuration_file(cluster): _configuration(),
        drop_in_file(cluster): _drop_in(spec) if under_systemd else None,
        **record_change,
    }


def absent(cluster: Cluster) -> Changes:
    """What the files were before."""
    if cluster.own_unit:
        return {**unit_files.absent(cluster), record_file(cluster): None}
    own = _own_environment(cluster)
    text = None if own is None else _without_block(own)
    if own != text and text == (_common() or ""):
        text = None
    return {
        environment_file(cluster): text,
        configuration_file(cluster): None,
        drop_in_file(cluster): None,
        record_file(cluster): None,
    }


def _environment(cluster: Cluster) -> str:
    # The cluster's file, once it is there, hides the one for all clusters, even if it is empty.
    own = _own_environment(cluster)
    return (_common() or "") if own is None else own


def _own_environment(cluster: Cluster) -> str | None:
    # Its text is written again: it must not be that of a file that the cluster's owner may not read.
    return files.read_foreign(environment_file(cluster), uids={cluster.uid}, gids={cluster.gid})


def _common() -> str | None:
    return files.read_text(os.path.join(COMMON, "environment"))


def _without_block(text: str) -> str:
    return unit_files.without_block(_BLOCK, text)


def _with_block(cluster: Cluster, text: str, spec: ClusterSpec) -> str:
    def included(path: str) -> str:
        return evidence.text_of(path, {cluster.uid}, {cluster.gid})

    path = os.path.join(cluster.configuration, "environment")
    others = preloaded(pg_ctlcluster.environment(text, path, included))
    variables = {
        "LD_PRELOAD": " ".join(
            [spec.library, *(each for each in others if os.path.basename(each) != FILE_NAME)]
        ),
        **spec.environment(),
        "PGCTLTIMEOUT": str(spec.start_seconds),
    }
    lines = [f"{name} = '{pg_ctlcluster.escaped(value)}'" for name, value in variables.items()]
    return "\n".join([text, _BEGIN, *lines, _END, ""])


def _configuration() -> str:
    why = "# The preloaded library requests huge pages, so PostgreSQL itself must not."
    return f"{_HEAD}{why}\nhuge_pages = off\n"


def _native(spec: ClusterSpec) -> str:
    lines = ["# `try`, the default, would fall back to small pages in silence.", "huge_pages = on"]
    if spec.page_bytes is not None:
        lines.append(f"huge_page_size = {spec.page_bytes // KIB}kB")
    return _HEAD + "\n".join(lines) + "\n"


def _drop_in(spec: ClusterSpec) -> str | None:
    """What has to be there before the server: only a region's msharefs, and the region itself."""
    sections = _drop_in_sections(spec)
    return None if sections is None else _HEAD + "\n".join(filter(None, sections))


def _drop_in_sections(spec: ClusterSpec) -> tuple[str, str] | None:
    """The sections [Unit] and [Service] that a region needs; None for pages that need none."""
    if spec.pages != "4k":
        return None
    mounts = "mshare-mounts.target"
    if spec.region is None:
        return f"[Unit]\nWants={mounts}\nAfter={mounts}\n", ""
    # A region takes the server's memory along. PartOf= has the server stopped before a region that is
    # stopped, and started again with one that systemd starts again because its owner was killed. A server
    # that died of that is started again as well: not by Restart=, for Debian's ExecStop= fails after every
    # end, one that somebody asked for too. With BindsTo= it would be stopped, and nothing would start it.
    region = f"mshare-region@{paths.file_name(spec.region)}.service"
    needs = "Requires" if spec.require else "Wants"
    unit = f"[Unit]\nWants={mounts}\n{needs}={region}\nPartOf={region}\nAfter={mounts} {region}\n"
    return unit, "[Service]\nRestartForceExitStatus=SIGSEGV SIGBUS\n"


def different(wanted: Changes) -> Changes:
    """Those that do not hold what they should."""
    return {path: text for path, text in wanted.items() if files.read_text(path) != text}


def write(changes: Changes, cluster: Cluster) -> None:
    """Write and remove files; what was there keeps its owner and mode, what is new is the cluster's."""
    if cluster.plain_unit is not None and changes.get(configuration_file(cluster)) is not None:
        # PostgreSQL reads it there, whatever the umask is.
        for folder in (paths.config_dir(), os.path.dirname(configuration_file(cluster))):
            files.make_directory(folder)
            files.set_access(folder, files.Access(0o755))
    for path, text in changes.items():
        if text is None:
            files.remove(path)
        else:
            _replace(path, text, cluster)
    _remove_folders(cluster)
    if drop_in_file(cluster) in changes and systemd_runs():
        systemd.systemctl("daemon-reload")


def sweep(wanted: Changes, cluster: Cluster) -> None:
    """Remove what a run that was killed has left of writing these files."""
    files.sweep(*wanted)
    _remove_folders(cluster)


def _remove_folders(cluster: Cluster) -> None:
    folders = {os.path.dirname(path) for path in (drop_in_file(cluster), record_file(cluster))}
    files.remove_empty(*sorted(folders), paths.config_dir())


def _replace(path: str, text: str, cluster: Cluster) -> None:
    mode, uid, gid = 0o644, 0, 0
    if path.startswith(cluster.configuration + "/"):
        uid, gid = cluster.uid, cluster.gid
    access = files.access_of(path)
    if access is not None:
        if access.uid not in (0, cluster.uid):
            raise files.NotTrusted(path, f"a file of uid {access.uid}, who is not the cluster's owner")
        mode, uid, gid = access.mode & 0o777, access.uid, access.gid
    files.write_text(path, text, mode, uid, gid, keep_attributes=True)


def recorded() -> list[str]:
    """The clusters that are started with the library, as their files say."""
    folder = os.path.dirname(paths.spec_file("postgresql", "any"))
    try:
        names = sorted(name[: -len(".json")] for name in os.listdir(folder) if name.endswith(".json"))
    except OSError:
        return []
    return [name for name in names if _needs_library(name)]


def _needs_library(name: str) -> bool:
    path = paths.spec_file("postgresql", name)
    text = files.read_text(path)
    place = Place(path, _NEXT_STEP)
    return text is None or build(_Pages, load(text, path, _NEXT_STEP), place).pages != NATIVE


@dataclass(frozen=True)
class _Pages:
    pages: str


def _record_text(fields: dict[str, object]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def write_verified(cluster: Cluster, verified: Verified) -> None:
    """Note that a cluster's memory was where it should be, and in which server."""
    fields = {**(stored(cluster) or {}), "verified": record_fields(verified)}
    files.write_text(record_file(cluster), _record_text(fields))


def record(cluster: Cluster) -> Recorded | None:
    """What the last run left for this run; None if there was none. Malformed for a damaged file."""
    known = stored(cluster)
    return None if known is None else build(Recorded, known, _place(cluster))


def recorded_group(cluster: Cluster) -> str | None:
    """The group that the last run made the cluster's owner join."""
    recorded = record(cluster)
    return recorded.group_added if recorded is not None else None


def stored(cluster: Cluster) -> dict[str, object] | None:
    """The whole record, with the keys of the spec that it was written for; None if there is none."""
    text = files.read_text(record_file(cluster))
    place = _place(cluster)
    return None if text is None else load(text, place.source, place.next_step)


def _place(cluster: Cluster) -> Place:
    return Place(record_file(cluster), _NEXT_STEP)
