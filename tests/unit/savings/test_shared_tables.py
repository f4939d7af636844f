# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of a kernel's region: by the owner's cgroup, else by what the host grew."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mshare.host.mounts import Mount
from mshare.host.procfs import Cgroup
from mshare.info import inventory
from mshare.region.pattern import Pattern
from mshare.region.status import Prefault, starting
from mshare.savings import shared_tables
from mshare.units import GIB, KIB, MIB

OWN = 100 * KIB


@pytest.fixture
def owner(monkeypatch):
    status = replace(
        starting("sga", "/m", {}),
        state="ready",
        host_page_tables_before_bytes=20 * MIB,
        pattern=Pattern(1, 0, GIB, 4096),
    )
    monkeypatch.setattr(shared_tables, "running_owner", lambda name, root: status)
    monkeypatch.setattr(shared_tables.procfs, "vm_pte_bytes", lambda pid: OWN)
    monkeypatch.setattr(shared_tables.mounts, "mounts", list)
    return status


@pytest.fixture
def clients(here):
    here.ok("create", "sga", "--size", "4MiB")
    here.ok("clients", "start", "sga", "--count", "1")
    facts = inventory.clients_facts(str(here.root), "sga")
    return replace(facts, vm_pte_after_bytes_sum=OWN, host_page_tables_after_bytes=30 * MIB)


def measured(clients):
    return shared_tables.of_region("/m", "sga", clients)


def test_what_the_host_grew_without_what_is_in_processes(owner, clients):
    found = measured(clients)
    assert found.size_bytes == 10 * MIB - 3 * OWN
    assert found.touched_bytes == GIB
    assert "since before the region was made" in found.how


@pytest.mark.parametrize(
    "missing", ["vm_pte_after_bytes_sum", "host_page_tables_after_bytes", "launcher_pid"]
)
def test_what_was_not_read(owner, clients, missing):
    assert measured(replace(clients, **{missing: None})) is None


def test_an_owner_of_an_earlier_version(owner, clients, monkeypatch):
    before = replace(owner, host_page_tables_before_bytes=None)
    monkeypatch.setattr(shared_tables, "running_owner", lambda name, root: before)
    assert measured(clients) is None
    monkeypatch.setattr(shared_tables, "running_owner", lambda name, root: None)
    assert measured(clients) is None


@pytest.mark.parametrize("alone", [True, False])
def test_an_owner_s_own_cgroup_is_charged_with_them_alone(owner, clients, monkeypatch, tmp_path, alone):
    folder = tmp_path / "mshare.slice"
    folder.mkdir()
    others = "" if alone else "1\n"
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n{others}")
    (folder / "memory.stat").write_text(f"anon 4096\npagetables {50 * MIB}\nsec_pagetables 0\n")
    monkeypatch.setattr(
        shared_tables.mounts, "mounts", lambda: [Mount(str(tmp_path), "cgroup2", "none", "rw", "rw")]
    )
    monkeypatch.setattr(shared_tables.procfs, "cgroups", lambda text: [Cgroup("0", "", "/mshare.slice")])
    found = measured(clients)
    assert found.size_bytes == (50 * MIB - OWN if alone else 10 * MIB - 3 * OWN)
    assert ("cgroup" in found.how) == alone


def test_what_the_owner_touched():
    status = starting("sga", "/m", {})
    assert status.touched_bytes == 0
    assert replace(status, prefault=Prefault(GIB, 2 * GIB)).touched_bytes == GIB
    assert (
        replace(status, prefault=Prefault(GIB, GIB), pattern=Pattern(1, 0, 2 * GIB, 4096)).touched_bytes
        == 2 * GIB
    )
