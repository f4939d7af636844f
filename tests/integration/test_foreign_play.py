# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles in a play of somebody else's, and everything at places of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.hosts import Host, Run

ONE_VARIABLE = {
    "name": "A region for my database",
    "ansible.builtin.include_role": {"name": "dbmem.mshare.region"},
    "vars": {"mshare_region_size": "64MiB"},
}
ELSEWHERE = {
    "mshare_runtime_directory": "/run/elsewhere/library",
    "mshare_runtime_executable": "/run/elsewhere/bin/mshare",
    "mshare_msharefs_root": "/run/elsewhere/msharefs",
    "mshare_msharefs_generation": "2025-01",
    "mshare_msharefs_group": "daemon",
    "mshare_msharefs_size": "256MiB",
    "mshare_region_name": "pool",
    "mshare_region_size": "64MiB",
    "mshare_region_prefault": True,
    "mshare_clients_count": 3,
}


@pytest.fixture(autouse=True)
def nothing_is_left(host: Host) -> Iterator[None]:
    """Teardown, which is given what deploy was given, takes everything away."""
    before = host.snapshot()
    yield
    assert host.changed_since(before) == []


def test_one_variable_is_enough(host: Host) -> None:
    run = host.play([ONE_VARIABLE, ONE_VARIABLE | {"name": "Once more"}]).succeeded()
    created, repeated = (one for one in run.results if one.task.endswith(" : Create the region"))
    region = created["region"]
    assert (region["name"], region["health"], region["mapped_bytes"]) == ("sga", "healthy", 64 << 20)
    assert region["mode"] == "0660"
    assert (created["changed"], repeated["changed"]) == (True, False)
    host.playbook("dbmem.mshare.teardown").succeeded()


def test_roles_with_a_play_of_their_own(host: Host) -> None:
    names = ("region", "clients")
    wanted = {"mshare_region_size": "64MiB", "mshare_clients_count": 2}
    roles = [f"dbmem.mshare.{name}" for name in names]
    run = host.play([], roles=roles, vars=wanted).succeeded()
    assert run["Attach the clients"]["clients"]["attached"] == 2
    host.playbook("dbmem.mshare.teardown").succeeded()


def test_everything_elsewhere(host: Host) -> None:
    run = host.playbook("dbmem.mshare.deploy", variables=ELSEWHERE).succeeded()
    assert run["Create the region"]["region"]["root"] == "/run/elsewhere/msharefs"
    assert run["Create the region"]["region"]["health"] == "healthy"
    assert run["Mount msharefs"]["mount"]["generation"] == "2025-01"
    assert "/run/elsewhere/bin/mshare" in "".join(host.processes().values())
    assert not host.inside("/usr/local/bin/mshare").exists()
    again = host.playbook("dbmem.mshare.deploy", variables=ELSEWHERE).succeeded()
    assert again.recap["changed"] == 0
    host.playbook("dbmem.mshare.teardown", variables=ELSEWHERE).succeeded()
    assert "daemon" in host.inside("/etc/group").read_text()
    host.do("rmdir", "/run/elsewhere/bin", "/run/elsewhere")


REFUSED = {
    "a region without a size": (
        {},
        "needs either a size, like 300GiB, or mappings|mshare_region_size",
    ),
    "a size of the wrong kind": ({"mshare_region_size": "300 gigs"}, "is not a size"),
    "more than RAM without consent": ({"mshare_region_size": "100TiB"}, "overcommit: true"),
    "an interpreter that lacks packages": (
        {
            "mshare_region_size": "64MiB",
            "mshare_runtime_python": "{{ playbook_dir }}/bare/bin/python",
            "mshare_runtime_packages_managed": False,
        },
        "lacks cffi",
    ),
    "a tmpfs that is too small": (
        {"mshare_region_size": "64MiB", "mshare_msharefs_size": "8MiB", "mshare_region_prefault": True},
        "the tmpfs at /run/msharefs has .* left",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusal(host: Host, what: str) -> None:
    wanted, sentence = REFUSED[what]
    host.do("/usr/bin/python3", "-m", "venv", "--without-pip", str(host.scratch / "bare"))
    run: Run = host.play([], roles=["dbmem.mshare.region"], vars=wanted)
    assert run.exit_code != 0
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(run.said)
    assert host.processes() == {}
    host.playbook("dbmem.mshare.teardown").succeeded()
