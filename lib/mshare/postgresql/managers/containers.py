# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers: what is written on the host does not reach them, and they are recreated from an image."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .evidence import Evidence
from .manager import Manager

_WHERE_MADE = "set huge_pages and the environment where the container is made"
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


def _is_apart(evidence: Evidence) -> str | None:
    """Whatever made the container: it has its own processes or its own files."""
    kinds = {"pid": "a pid namespace", "root": "a root file system"}
    own = [text for name, text in kinds.items() if name in evidence.apart]
    if own:
        return f"its postmaster {evidence.postmaster} has {' and '.join(own)} of its own"
    if evidence.is_first:
        return "its postmaster is the first process (pid 1), and the container ends with it"
    return None


# The most telling first: a pod is in a containerd as well.
_RUNTIMES = (
    _Runtime(
        "Kubernetes",
        r"kubepods",
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
    *(Manager(f"a container of {each.name}", each.recognise, each.advice) for each in _RUNTIMES),
    Manager("a container", _is_apart, _WHERE_MADE),
)
