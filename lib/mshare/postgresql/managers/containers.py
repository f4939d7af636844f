# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers: what is written on the host does not reach them, and they are recreated from an image."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .evidence import Evidence
from .manager import Manager

_POD = r"kubepods"
_WHERE_MADE = "set huge_pages and the environment where the container is made"
_IN_ROOT = (
    "set huge_pages = on in its postgresql.conf, for which PostgreSQL needs no library, and restart the unit,"
    " once the host has a pool that is large enough"
)
_INSIDE = "run the role inside the container, as on a host of its own"


@dataclass(frozen=True)
class _Runtime:
    """A control group's name tells who made it."""

    name: str
    cgroup: str
    advice: str

    def recognise(self, evidence: Evidence) -> str | None:
        path = next((path for path in evidence.cgroups if re.search(self.cgroup, path)), None)
        return None if path is None else f"its postmaster {evidence.postmaster} is in control group {path}"


@dataclass(frozen=True)
class _Operator:
    """An operator of Kubernetes, by what it runs in its pods or where it has the data there."""

    name: str
    advice: str
    words: tuple[str, ...] = ()
    """How the command line of a process above the postmaster begins."""
    data: str | None = None
    """A pattern for the data directory, as the pod has it."""

    def recognise(self, evidence: Evidence) -> str | None:
        path = next((path for path in evidence.cgroups if re.search(_POD, path)), None)
        for process in evidence.parents:
            if self.words and process.words[: len(self.words)] == self.words:
                return evidence.started_by(process)
        if path is None or self.data is None or not re.match(self.data, evidence.data_directory):
            return None
        return (
            f"its postmaster {evidence.postmaster} is in control group {path}, with its data in"
            f" {evidence.data_directory}"
        )


def _is_apart(evidence: Evidence) -> str | None:
    """Whatever made the container: it has its own processes or its own files."""
    kinds = {"pid": "a pid namespace", "root": "a root file system"}
    own = [text for name, text in kinds.items() if name in evidence.apart]
    if own:
        return f"its postmaster {evidence.postmaster} has {' and '.join(own)} of its own"
    if evidence.is_first:
        return "its postmaster is the first process (pid 1), and the container ends with it"
    return None


def _has_root(evidence: Evidence) -> str | None:
    """What systemd does for a unit with RootDirectory= or RootImage=: the host's own files are not there."""
    if "root" not in evidence.apart or "pid" in evidence.apart:
        return None
    if not evidence.unit_described.starts_postgresql:
        return None
    return f"{evidence.in_unit()}, with a root file system of its own"


_OPERATORS = (
    _Operator(
        "CloudNativePG",
        "set huge_pages in spec.postgresql.parameters, hugepages-2Mi in spec.resources and the environment in"
        " spec.env of the Cluster",
        words=("manager", "instance", "run"),
    ),
    _Operator(
        "postgres-operator of Zalando",
        "set huge_pages in spec.postgresql.parameters, hugepages-2Mi in spec.resources and the environment in"
        " spec.env of the resource postgresql",
        # Of its image Spilo.
        data=r"/home/postgres/pgdata/",
    ),
    _Operator(
        "PGO of Crunchy Data, or that of Percona",
        "set huge_pages in spec.patroni.dynamicConfiguration.postgresql.parameters and hugepages-2Mi in"
        " spec.instances.resources.limits of its resource",
        data=r"/pgdata/pg\d+/?\Z",
    ),
)
# The most telling first: a pod is in a containerd as well.
_RUNTIMES = (
    _Runtime(
        "Kubernetes",
        _POD,
        "set huge_pages and the environment in the operator's resource or the pod's specification",
    ),
    _Runtime("Podman", r"libpod", _WHERE_MADE),
    _Runtime("Docker", r"\bdocker\b", _WHERE_MADE),
    _Runtime("CRI-O", r"\bcrio\b", _WHERE_MADE),
    _Runtime("containerd", r"containerd", _WHERE_MADE),
    _Runtime("LXC", r"\blxc\b", _INSIDE),
    _Runtime("systemd-nspawn", r"\bmachine\.slice\b|systemd-nspawn@", _INSIDE),
)
CONTAINERS = (
    *(Manager(f"the operator {each.name}", each.recognise, each.advice) for each in _OPERATORS),
    *(Manager(f"a container of {each.name}", each.recognise, each.advice) for each in _RUNTIMES),
    Manager("a systemd unit with RootDirectory= or RootImage=", _has_root, _IN_ROOT),
    Manager("a container", _is_apart, _WHERE_MADE),
)
