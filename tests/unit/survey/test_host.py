# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the host: as the kernel has them, and null for what it does not have."""

from __future__ import annotations

import os

import pytest

from mshare import record
from mshare.host import mounts, procfs
from mshare.host.mounts import Mount
from mshare.info.facts import MountFacts
from mshare.info.facts import Support as Known
from mshare.survey import host
from mshare.survey.record import HostFacts


def test_the_facts_are_this_hosts() -> None:
    facts = host.facts()
    assert (facts.name, facts.kernel) == (os.uname().nodename, os.uname().release)
    assert facts.memory_total_bytes == procfs.meminfo_bytes()["MemTotal"]
    assert 0 < facts.memory_available_bytes <= facts.memory_total_bytes
    assert facts.page_tables_bytes > 0
    # What is written can be read again.
    assert record.build(HostFacts, record.to_fields(facts), record.Place("a survey", "again")) == facts


def test_a_missing_figure_is_an_error_and_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.procfs, "meminfo_bytes", lambda: {"MemTotal": 1, "MemAvailable": 1})
    with pytest.raises(KeyError, match="PageTables"):
        host.facts()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("always [madvise] never", "madvise"),
        ("always within_size advise [never] deny force", "never"),
        ("always", "always"),
        (None, None),
    ],
)
def test_the_chosen_word_is_the_one_in_brackets(line: str | None, word: str | None) -> None:
    assert host._chosen(line) == word


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ("rw", None),
        ("rw,hidepid=invisible", "invisible"),
        ("rw,hidepid=2,gid=7", "2"),
        ("rw,hidepid=0", None),
        ("rw,hidepid=off", None),
    ],
)
def test_hidden_processes_are_noticed(
    monkeypatch: pytest.MonkeyPatch, options: str, value: str | None
) -> None:
    mount = Mount("/proc", "proc", "proc", "rw", options)
    monkeypatch.setattr(mounts, "mount_at", lambda path: mount if path == "/proc" else None)
    assert mounts.hidepid() == value


def test_a_host_without_a_mount_of_proc_hides_nothing_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "mount_at", lambda path: None)
    assert mounts.hidepid() is None


@pytest.mark.parametrize(("mounted", "generation"), [(True, "2025-08"), (False, None)])
def test_the_generation_is_known_once_it_is_mounted(
    monkeypatch: pytest.MonkeyPatch, mounted: bool, generation: str | None
) -> None:
    known = Known(True, True, "kernel", "/sys/fs/mshare", mounted, ("because",))
    monkeypatch.setattr(host.inventory, "support", lambda: known)
    monkeypatch.setattr(host.inventory, "mount_facts", lambda root: MountFacts(root, generation="2025-08"))
    support = host.support()
    assert (support.generation, support.mounted, support.reasons) == (generation, mounted, ("because",))


def test_of_the_simulated_backend_no_generation_is_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(True, False, "simulated", "/run/msharefs", True, ())
    monkeypatch.setattr(host.inventory, "support", lambda: known)
    assert host.support().generation is None
