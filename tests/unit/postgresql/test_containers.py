# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers by the names of their control groups, and by what they have of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mshare.postgresql.managers.containers import CONTAINERS
from mshare.postgresql.managers.evidence import Evidence

HOST = Evidence("/srv/data", "/srv/data", postmaster=7, cgroups=("system.slice/postgresql.service",))


def recognised(evidence: Evidence) -> list[tuple[str, str]]:
    """Every kind of container that takes a cluster for its own, with the reason."""
    clauses = [(manager.name, manager.recognise(evidence)) for manager in CONTAINERS]
    return [(name, clause) for name, clause in clauses if clause is not None]


def test_a_cluster_of_the_host_is_in_no_container() -> None:
    assert recognised(HOST) == []


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        ("kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice", "Kubernetes"),
        ("machine.slice/libpod-0123.scope", "Podman"),
        ("docker/0123", "Docker"),
        ("system.slice/docker-0123.scope", "Docker"),
        ("crio/crio-0123", "CRI-O"),
        ("default/cri-containerd-0123", "containerd"),
        ("lxc/db1", "LXC"),
        ("machine.slice/systemd-nspawn@db.service", "systemd-nspawn"),
        ("machine.slice/machine-db.scope", "systemd-nspawn"),
    ],
)
def test_a_runtime_is_named_by_its_control_group(cgroup: str, name: str) -> None:
    first, *__ = recognised(replace(HOST, cgroups=("user.slice", cgroup)))
    assert first == (f"a container of {name}", f"its postmaster 7 is in control group {cgroup}")


@pytest.mark.parametrize("cgroup", ["system.slice/dockerd-like.service", "lxcfs.service", "crond.service"])
def test_a_name_that_only_looks_alike_is_no_runtime(cgroup: str) -> None:
    assert recognised(replace(HOST, cgroups=(cgroup,))) == []


@pytest.mark.parametrize(
    ("fields", "clause"),
    [
        ({"apart": ("pid", "mnt", "root")}, "has a pid namespace and a root file system of its own"),
        ({"apart": ("root",)}, "has a root file system of its own"),
        ({"is_first": True}, "is the first process (pid 1), and the container ends with it"),
        # PrivateTmp= and the like: a mount namespace alone is no container.
        ({"apart": ("mnt",)}, None),
    ],
)
def test_what_it_has_of_its_own_makes_a_container_of_any_kind(
    fields: dict[str, object], clause: str | None
) -> None:
    found = recognised(replace(HOST, **fields))  # type: ignore[arg-type]
    if clause is None:
        assert found == []
    else:
        ((name, sentence),) = found
        assert name == "a container"
        assert sentence.endswith(clause)


def test_every_container_has_advice_instead_of_a_change() -> None:
    assert all(manager.advice for manager in CONTAINERS)
