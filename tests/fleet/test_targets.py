# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that are each unlike the others in one way, deployed to in one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fleet import interpreters
from fleet.world import SMALL, World, name
from integration.hosts import Run

HOSTS = 6
OLDEST, NEWEST, ORDINARY_USER, NO_SFTP, NO_CFFI, NO_NETWORK = range(HOSTS)
PYTHONS = {OLDEST: "3.9", NEWEST: "3.13"}
REMOVE = (
    "dpkg --purge --force-depends python3-cffi-backend python3-cffi python3-click python3-psutil python3-rich"
    " python3-yaml"
)
TOOLS = ("dbmem.mshare.mshare_info", "dbmem.mshare.mshare_survey")


def python_of(hosts: World, number: int) -> str | None:
    """Have a host see an interpreter of the machine's, and a venv with what the library imports."""
    folder = interpreters.find(PYTHONS[number])
    if folder is None:
        return None
    venv = interpreters.venv(PYTHONS[number], *interpreters.LIBRARY)
    for shown in (folder, venv):
        hosts.fleet.show(number, shown)
    return str(venv / "bin" / "python")


@dataclass
class Deployed:
    there: set[int]
    looks: Run
    first: Run
    second: Run
    owners: dict[int, str]
    """The program that keeps the region, where a Python was named."""
    teardown: Run


@pytest.fixture(scope="module")
def deployed(hosts: World) -> Iterator[Deployed]:
    pythons = {number: python_of(hosts, number) for number in PYTHONS}
    for number in (NO_CFFI, NO_NETWORK):
        hosts.do(number, REMOVE)
        # apt's lists are fresh there, as far as Ansible can see: its retries would take most of a minute.
        hosts.do(number, "mkdir -p /var/lib/apt/periodic && touch /var/lib/apt/periodic/update-success-stamp")
    hosts.do(NO_NETWORK, "rm /var/cache/apt/archives/*.deb")
    hosts.do(NO_SFTP, "rm /usr/lib/openssh/sftp-server")
    variables = {
        **{
            number: f"ansible_python_interpreter={python} mshare_runtime_python={python}"
            for number, python in pythons.items()
        },
        ORDINARY_USER: "ansible_user=dba",
        NO_SFTP: "ansible_pipelining=false ansible_ssh_transfer_method=smart"
        " ansible_ssh_extra_args='-o SetEnv=LC_ALL=de_DE'",
    }
    inventory = hosts.scratch / "targets.ini"
    inventory.write_text("".join(f"{name(number)} {said}\n" for number, said in variables.items()))
    flags = ("-i", str(inventory))
    there = set(range(HOSTS)) - {number for number, python in pythons.items() if python is None}
    before = hosts.snapshots()
    looks = hosts.play(sorted(there), *({"name": tool, tool: {}} for tool in TOOLS), flags=flags, become=True)
    first = hosts.deploy(*flags, on=sorted(there))
    second = hosts.deploy(*flags, on=sorted(there - {NO_NETWORK}))
    for number in there - {NO_NETWORK}:
        assert first.on(name(number)).recap["failures"] == 0, first.output
    owners = {
        number: hosts.do(number, f"readlink /proc/{hosts.status(number, 'owner')['pid']}/exe")
        for number, python in pythons.items()
        if python is not None
    }
    yield Deployed(there, looks, first, second, owners, hosts.teardown(*flags, on=sorted(there)))
    left = hosts.changed_since(before)
    # The packages that were installed stay.
    brought = left.pop(name(NO_CFFI), [])
    assert [line for line in brought if "mshare" in line] == []
    assert left == {}


@pytest.mark.parametrize("number", sorted(set(range(HOSTS)) - {NO_NETWORK}), ids=name)
def test_a_deployment_a_second_one_and_a_teardown(deployed: Deployed, number: int) -> None:
    if number not in deployed.there:
        pytest.skip(f"no Python {PYTHONS[number]} on this machine")
    first = deployed.first.on(name(number))
    assert first.recap["failures"] == first.recap["unreachable"] == 0, deployed.first.output
    assert first["Attach the clients"]["clients"]["attached"] == SMALL["mshare_clients_count"]
    assert deployed.second.on(name(number)).recap["changed"] == 0
    assert deployed.teardown.on(name(number)).recap["changed"] == 4


@pytest.mark.parametrize("number", PYTHONS, ids=PYTHONS.values())
def test_everything_runs_under_the_python_that_was_named(deployed: Deployed, number: int) -> None:
    if number not in deployed.there:
        pytest.skip(f"no Python {PYTHONS[number]} on this machine")
    assert deployed.owners[number].endswith(f"/bin/python{PYTHONS[number]}")


def test_without_cffi_and_without_a_network_a_sentence_says_what_is_missing(deployed: Deployed) -> None:
    first = deployed.first.on(name(NO_NETWORK))
    assert first.recap["failures"] == 1
    assert "python3-cffi" in first.said


def test_packages_that_are_not_managed_are_asked_for(hosts: World, deployed: Deployed) -> None:
    run = hosts.deploy(on=[NO_NETWORK], mshare_runtime_packages_managed=False)
    assert run.exit_code == 2
    lacks = "/usr/bin/python3 lacks cffi, click, psutil, rich, yaml, which the library needs; install"
    assert lacks in run.said


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("number", range(HOSTS), ids=name)
def test_a_look_needs_nothing_but_python(deployed: Deployed, number: int, tool: str) -> None:
    if number not in deployed.there:
        pytest.skip(f"no Python {PYTHONS[number]} on this machine")
    assert deployed.looks.on(name(number))[tool].status == "ok"
