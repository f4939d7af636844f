# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deployment survives on hosts without systemd: each test has a host of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fleet.world import INFO, MOUNT, RUNTIME, SMALL, STATE, World, clients, name, region
from integration.hosts import Run, Task, differences

HOSTS = 7
SAFE, KILLED, FULL, TWICE = range(4)
# Hosts on which a connection is cut: the path whose existence is the moment, and what becomes of the module.
CUTS = {
    4: ("/usr/local/lib/mshare/mshare/c*", "dies"),
    5: (f"{STATE}/sga.owner.json", "lives"),
    6: (f"{STATE}/sga.clients.json", "dies"),
}
COUNT = SMALL["mshare_clients_count"]


@pytest.fixture(scope="module", autouse=True)
def left_as_it_was(hosts: World) -> Iterator[None]:
    before = hosts.snapshots()
    yield
    hosts.teardown().succeeded()
    assert hosts.changed_since(before) == {}


@pytest.fixture(scope="module")
def deployed(hosts: World) -> World:
    hosts.deploy(on=[SAFE, KILLED]).succeeded()
    return hosts


def said(run: Run) -> str:
    """The sentence with which it failed, on the one host that it was run on."""
    assert run.exit_code == 2, run.output
    return run.said


GONE: Task = {"name": "sga", "state": "absent"}


# -- safe mode


def test_a_region_with_clients_goes_only_when_somebody_says_so(deployed: World) -> None:
    before = deployed.snapshot(SAFE), deployed.status(SAFE, "clients"), deployed.status(SAFE, "owner")
    run = deployed.play(
        SAFE,
        region("resize", size="128MiB"),
        region("recreate", size="128MiB", recreate=True),
        {"name": "remove", "dbmem.mshare.mshare_region": GONE, "ignore_errors": True},
        {"name": "unmount", "dbmem.mshare.mshare_mount": {"state": "absent"}, "ignore_errors": True},
    ).succeeded()
    assert {one["error_kind"] for one in run.results} == {"conflict"}
    assert "recreate: true" in run["resize"]["msg"]
    for task in ("recreate", "remove"):
        assert f"{COUNT} attached clients" in run[task]["msg"]
        assert "force: true" in run[task]["msg"]
    assert "region sga (owner" in run["unmount"]["msg"]
    # All of it was refused before anything was done.
    after = deployed.snapshot(SAFE), deployed.status(SAFE, "clients"), deployed.status(SAFE, "owner")
    assert after == before
    by_name = region("recreate", size="128MiB", recreate=True, force=True)
    run = deployed.play(SAFE, by_name, clients("attach")).succeeded()
    assert run["recreate"]["region"]["mapped_bytes"] == 128 << 20
    assert run["attach"]["clients"]["attached"] == COUNT


# -- kill -9 of the owner


def test_clients_that_died_with_their_owner_are_reported_and_never_counted(deployed: World) -> None:
    deployed.do(KILLED, f"kill -9 {deployed.status(KILLED, 'owner')['pid']}")
    deployed.eventually(lambda: len(deployed.dead(KILLED)) == COUNT, "the launcher counts the dead")
    run = deployed.play(
        KILLED,
        INFO,
        region("refuse"),
        region("repair", replace_stale=True),
        clients("start"),
        clients("again"),
    ).succeeded()
    (found,) = run["look"]["regions"]
    assert (found["health"], found["clients"]["attached"]) == ("stale", 0)
    reasons = [one["reason"] for one in found["clients"]["dead"]]
    assert reasons == ["was killed by SIGSEGV, after the region's owner had ended"] * COUNT
    assert "replace_stale: true" in run["refuse"]["msg"]
    assert run["repair"]["region"]["health"] == "healthy"
    assert run["start"]["clients"]["attached"] == COUNT
    assert run["again"]["changed"] is False


def test_clients_that_died_of_sigsegv_are_started_again_if_asked(deployed: World) -> None:
    deployed.do(KILLED, f"kill -SEGV {deployed.status(KILLED, 'clients')['pids'][0]}")
    deployed.eventually(lambda: len(deployed.dead(KILLED)) == 1, "the launcher counts the dead")
    role = {"ansible.builtin.include_role": {"name": "dbmem.mshare.clients"}}
    sentence = said(deployed.play(KILLED, role))
    assert f"{COUNT - 1} of {COUNT} clients are attached" in sentence
    assert "was killed by SIGSEGV" in sentence
    run = deployed.play(KILLED, clients("unasked"), clients("asked", restart_dead=True)).succeeded()
    assert [run[task]["clients"]["attached"] for task in ("unasked", "asked")] == [COUNT - 1, COUNT]
    assert run["asked"]["actions"] == ["start 1 dead client of region sga again"]


# -- a full tmpfs


def test_a_host_whose_run_is_full(hosts: World) -> None:
    before = hosts.snapshot(FULL)
    hosts.do(FULL, "mount -o remount,size=1M /run && head -c 2M /dev/zero >/run/full || true")
    sentence = said(hosts.deploy(on=[FULL]))
    assert "No space left on device (ENOSPC); give the tmpfs more room" in sentence
    assert hosts.processes(FULL) == []
    hosts.do(FULL, "rm /run/full")
    hosts.deploy(on=[FULL]).succeeded()
    # What runs goes on when it fills up later, and a client that dies then is not counted either.
    victim = hosts.status(FULL, "clients")["pids"][0]
    hosts.do(FULL, "head -c 2M /dev/zero >/run/full || true")
    hosts.do(FULL, f"kill -9 {victim}")
    found = hosts.region(FULL)
    assert found is not None
    assert (found["health"], found["clients"]["launcher_alive"]) == ("healthy", True)
    assert (found["clients"]["attached"], found["clients"]["dead"]) == (COUNT - 1, [])
    hosts.do(FULL, "rm /run/full")
    hosts.eventually(lambda: len(hosts.dead(FULL)) == 1, "the launcher writes down who died")
    hosts.do(FULL, "head -c 2M /dev/zero >/run/full || true")
    hosts.teardown(on=[FULL]).succeeded()
    hosts.do(FULL, "rm /run/full")
    assert differences(before, hosts.snapshot(FULL)) == []


# -- two controllers


def test_two_controllers_deploy_at_once(hosts: World) -> None:
    both = [hosts.start_playbook("dbmem.mshare.deploy", on=[TWICE]) for __ in range(2)]
    runs = [one.finish() for one in both]
    done = [run for run in runs if run.exit_code == 0]
    # Either both succeed, or one says who was faster.
    assert done, [run.output for run in runs]
    for run in runs:
        assert run in done or "is held by process" in run.said
    assert len(hosts.processes(TWICE)) == COUNT + 2
    again = hosts.play(TWICE, RUNTIME, MOUNT, region("region"), clients("clients")).succeeded()
    assert again.recap["changed"] == 0
    assert again["clients"]["clients"]["attached"] == COUNT


# -- a connection that is cut


@pytest.fixture(scope="module")
def cut(hosts: World) -> Run:
    """The run in which each of the hosts lost its connection, at another moment."""
    running = [hosts.start_program(number, "cut.py", *how) for number, how in CUTS.items()]
    run = hosts.deploy(on=list(CUTS))
    for one in running:
        printed = one.communicate()[0]
        assert one.returncode == 0, printed
        assert int(printed) > 0
    return run


def test_a_cut_connection_is_told_on_every_host(cut: Run) -> None:
    assert {host: recap["unreachable"] for host, recap in cut.recaps.items()} == {
        name(number): 1 for number in CUTS
    }


def test_the_same_run_after_a_cut_converges(cut: Run, deployed: World) -> None:
    again = deployed.deploy(on=list(CUTS)).succeeded()
    for number in CUTS:
        assert again.on(name(number))["Attach the clients"]["clients"]["attached"] == COUNT
    third = deployed.play(list(CUTS), RUNTIME, MOUNT, region("region"), clients("clients")).succeeded()
    assert {recap["changed"] for recap in third.recaps.values()} == {0}


def test_a_cut_connection_leaves_no_orphan(cut: Run, deployed: World) -> None:
    untroubled = shape(deployed.snapshot(KILLED))
    for number in CUTS:
        assert differences(untroubled, shape(deployed.snapshot(number))) == []


def shape(snapshot: list[str]) -> list[str]:
    """A snapshot without what differs between two hosts: sizes of status files, times in byte code."""
    differ = ("file /run/", "file /usr/local/lib/mshare/mshare/")
    return [line.rpartition(" ")[0] if line.startswith(differ) else line for line in snapshot]
