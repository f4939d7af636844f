# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own huge pages for a member of Patroni: the store, restarts, and what a failure puts back.

Its Patroni is an HTTP server that behaves as one; real members are in tests/fleet/test_patroni.py.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace

import pytest

from mshare.errors import Conflict, MshareError
from mshare.host.huge_pages import Pool
from mshare.postgresql import clusters, converge, files, native
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.files import Verified
from mshare.postgresql.patroni import huge_pages, restart, store
from mshare.postgresql.server import Server
from mshare.postgresql.spec import NATIVE, ClusterSpec
from mshare.units import MIB

from .test_patroni import member, serving, status
from .test_patroni_store import patched
from .test_postgresql import IN_POOL, SEGMENT

WANTED = ClusterSpec(NATIVE)
BEFORE = {"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB"}}}
REPLICA = (status("pg2", "leader", "running"), status("pg1"), status("pg3"))
LEADER = (status("pg1", "leader", "running"), status("pg2"), status("pg3"))


class Member:
    """A member of Patroni on this host: what its store says, its server is started with."""

    def __init__(self, patroni, folder):
        self.patroni, self.folder = patroni, folder
        self.store = copy.deepcopy(BEFORE)
        self.can_start, self.hears = True, True
        self.pid, self.started_with, self.state = 100, "try", "running"
        self.configured = "try"
        self.restarts = []
        patroni.does["GET", "/config"] = lambda body: (200, json.dumps(self.store))
        patroni.does["GET", "/patroni"] = lambda body: (200, json.dumps(self.health()))
        patroni.does["PATCH", "/config"] = self.patch
        patroni.does["POST", "/restart"] = self.restart
        patroni.does["POST", "/switchover"] = self.hand_over
        patroni.members(*REPLICA)

    def health(self):
        pending = self.started_with != self.configured
        return {"state": self.state, "role": "replica", **({"pending_restart": True} if pending else {})}

    def patch(self, body):
        self.store = patched(self.store, json.loads(body))
        if self.hears:
            self.hear()
        return 200, json.dumps(self.store)

    def hear(self):
        value = store.parameters(self.store).get("huge_pages", "try")
        self.configured = {True: "on", False: "off"}.get(value, value)

    def start(self):
        self.hear()
        self.pid, self.started_with = self.pid + 1, self.configured
        self.state = "running" if self.can_start or self.configured != "on" else "start failed"

    def restart(self, body):
        self.restarts.append("patroni")
        self.start()
        return (200, "restarted successfully") if self.state == "running" else (503, "restart failed")

    def unit(self, what, unit):
        self.restarts.append(f"systemctl {what}")
        self.start()

    def hand_over(self, body):
        self.restarts.append("switchover")
        self.patroni.members(*REPLICA)
        self.start()
        return 200, "Successfully switched over"

    def running(self, cluster):
        return Server(self.pid, self.pid, "5432", "/run", True) if self.state == "running" else None

    def segment(self, pid):
        return replace(IN_POOL, page_bytes=2 * MIB) if self.started_with == "on" else SEGMENT

    def setting(self, cluster, name):
        return self.configured if name == "huge_pages" else None


@pytest.fixture
def one(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "postgresql.conf").write_text("# It will be overwritten by Patroni\n")
    owner = (os.geteuid(), os.getegid())
    cluster = Cluster("17", "demo", str(data), *owner, str(data), "/usr/lib/postgresql/17/bin")
    with serving() as patroni:
        made = Member(patroni, tmp_path)
        own = replace(member(patroni), scope="demo", configuration="/etc/patroni/demo.yml")
        monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "state"))
        monkeypatch.setattr(clusters, "find", lambda version, name: cluster)
        monkeypatch.setattr(Cluster, "managed", lambda self: replace(self, patroni=own))
        monkeypatch.setattr(converge.paths, "is_root", lambda: True)
        monkeypatch.setattr(files.paths, "config_dir", lambda: str(tmp_path / "mshare"))
        monkeypatch.setattr(files.systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
        monkeypatch.setattr(files, "systemd_runs", lambda: False)
        monkeypatch.setattr(converge, "systemd_runs", lambda: False)
        monkeypatch.setattr(converge.ask, "setting", made.setting)
        monkeypatch.setattr(converge.server, "running", made.running)
        monkeypatch.setattr(converge.server, "log_since", lambda *rest: "")
        monkeypatch.setattr(converge.placement, "of", made.segment)
        monkeypatch.setattr(Server, "environment", lambda self: {})
        monkeypatch.setattr(Server, "children", lambda self: [self.pid])
        monkeypatch.setattr(restart.systemd, "systemctl", made.unit)
        monkeypatch.setattr(restart, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(restart, "_ASKED_AGAIN_SECONDS", 0.001)
        monkeypatch.setattr(native.huge_pages, "sizes_bytes", lambda: [2 * MIB])
        monkeypatch.setattr(native.procfs, "meminfo_bytes", lambda: {"Hugepagesize": 2 * MIB})
        monkeypatch.setattr(native.huge_pages, "pool", lambda size: Pool(size, None, 512, 512, 0, 0, 0))
        made.own, made.cluster = own, replace(cluster, patroni=own)
        yield made


def present(restart=True, check=False, members_ready=True, wanted=WANTED):
    return converge.postgresql_present(
        wanted, restart=restart, probes=0, members_ready=members_ready, check=check
    )


def absent(restart=True, check=False):
    return converge.postgresql_absent(restart=restart, probes=0, check=check)


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_there_and_back(one, tmp_path):
    before = written(tmp_path)
    done = present()
    assert (done.changed, one.restarts) == (True, ["patroni"])
    assert done.actions[1:] == [
        "set postgresql.parameters.huge_pages to on in the store of Patroni cluster demo (before: not set)",
        "restart PostgreSQL cluster demo, because segment inode 1 (anonymous, 256 MiB at 0x600000, 256 MiB of"
        " it in huge pages) is not in the pool of huge pages",
    ]
    place = "postgresql.parameters in the store of Patroni cluster demo"
    assert (done.before[place], done.after[place]) == ([], ['huge_pages: "on"'])
    assert store.parameters(one.store) == {"work_mem": "4MB", "huge_pages": "on"}
    assert (done.facts.restarted, done.facts.restart_required) == (True, False)
    assert done.facts.cluster.patroni.members == ("pg2", "pg1", "pg3")
    url = f"http://{one.patroni.address}/of/"
    assert done.facts.cluster.patroni.api_urls == tuple(f"{url}{name}" for name in ("pg2", "pg1", "pg3"))
    assert done.facts.cluster.patroni.api_url == f"{url}pg1"
    # Only the record; the settings are nowhere on the host.
    assert sorted({*written(tmp_path)} - {*before}) == ["mshare/postgresql/demo.json"]
    assert not present().changed

    back = absent()
    assert (back.changed, one.restarts, one.store) == (True, ["patroni", "patroni"], BEFORE)
    assert (back.before[place], back.after[place]) == (['huge_pages: "on"'], [])
    assert written(tmp_path) == before
    assert not absent().changed


def test_a_check_shows_the_store_and_changes_nothing(one, tmp_path):
    before = written(tmp_path)
    place = "postgresql.parameters in the store of Patroni cluster demo"
    one.store["postgresql"]["parameters"]["huge_pages"] = "off"
    done = present(check=True)
    assert (done.before[place], done.after[place]) == (['huge_pages: "off"'], ['huge_pages: "on"'])
    assert done.changed
    assert (one.restarts, written(tmp_path)) == ([], before)
    assert {command for command, *__ in one.patroni.asked} == {"GET"}


def test_without_permission_the_store_is_left_alone(one, tmp_path):
    thp = files.different(files.present(one.cluster, ClusterSpec("thp"), None, False))
    files.write(thp, one.cluster)
    files.write_verified(one.cluster, Verified("thp", one.pid, one.pid))
    before = written(tmp_path)
    done = present(restart=False)
    assert not done.changed
    # Other pages were verified than are asked for now.
    assert done.facts.lost is None
    assert done.facts.restart_required
    assert done.facts.summary[1] == (
        "The store of Patroni cluster demo was left as it is, without permission to restart: huge_pages"
        " counts for all of its members, also when somebody else restarts them."
    )
    assert (one.store, one.restarts, written(tmp_path)) == (BEFORE, [], before)


def test_a_member_for_which_another_one_has_changed_the_store(one):
    """It is restarted only once it has heard of it."""
    one.store = store.change(BEFORE, "demo", {"huge_pages": "on"}).after
    looks = []

    def health(body):
        looks.append(body)
        if len(looks) == 3:
            one.hear()
        return 200, json.dumps(one.health())

    one.patroni.does["GET", "/patroni"] = health
    present()
    assert (one.restarts, one.started_with) == (["patroni"], "on")
    assert len(looks) >= 3
    # The way back was begun by another one as well.
    one.store = BEFORE
    one.hear()
    done = absent()
    assert (one.restarts, one.started_with) == (["patroni", "patroni"], "try")
    assert "the server still runs with huge_pages = on" in done.actions[-1]


def test_the_library_after_another_member_has_put_the_store_back(one, monkeypatch):
    """This one has the old setting for a moment, which is no reason to refuse the library."""
    present()
    one.hears = False
    one.patch(json.dumps(store.change(one.store, "demo", {}).patch))
    looks = []

    def health(body):
        looks.append(body)
        if len(looks) == 3:
            one.hear()
        return 200, json.dumps(one.health())

    one.patroni.does["GET", "/patroni"] = health
    monkeypatch.setattr(Server, "is_secure", lambda self: False)
    done = present(wanted=replace(ClusterSpec("thp"), prefault=True), check=True)
    assert len(looks) >= 3
    assert "restart PostgreSQL cluster demo" in done.actions[-1]


def test_a_leader_hands_over_and_is_not_restarted_twice(one):
    one.patroni.members(*LEADER)
    done = present()
    # Patroni has started it again as a replica, with the settings of its store.
    assert (one.restarts, one.started_with, done.facts.restarted) == (["switchover"], "on", True)
    one.patroni.members(*LEADER)
    absent()
    assert (one.restarts, one.started_with) == (["switchover", "switchover"], "try")


def test_a_member_alone_is_restarted_as_the_leader(one):
    one.patroni.members(status("pg1", "leader", "running"))
    present(members_ready=False)
    assert (one.restarts, one.started_with) == (["patroni"], "on")


def test_from_the_library_and_to_it(one, monkeypatch):
    """Another environment takes another Patroni, and the library does not go with huge pages on demand."""
    environment = {"LD_PRELOAD": WANTED.library, "MSHARE_PRELOAD_PAGES": "thp"}
    monkeypatch.setattr(Server, "environment", lambda self: environment if self.pid == 100 else {})
    present()
    assert (one.restarts, one.started_with) == (["systemctl restart"], "on")
    thp = replace(ClusterSpec("thp"), library=__file__, prefault=True)
    monkeypatch.setattr(Server, "environment", lambda self: {"LD_PRELOAD": __file__, **thp.environment()})
    monkeypatch.setattr(converge.settings, "has_ours", lambda environment: True)
    monkeypatch.setattr(converge.spec, "started_with", lambda environment, wanted: one.pid > 101)
    monkeypatch.setattr(Server, "is_secure", lambda self: False)
    present(wanted=thp)
    assert (one.restarts, one.started_with, one.store) == (["systemctl restart"] * 2, "try", BEFORE)


@pytest.mark.parametrize("by_another", [False, True])
@pytest.mark.parametrize("members", [REPLICA, LEADER])
def test_one_that_does_not_start_with_them(one, members, by_another, tmp_path, monkeypatch):
    """Whoever has set them: with them in the store it would stay down."""
    monkeypatch.setattr(restart, "_FAILURES", 2)
    before = written(tmp_path)
    if by_another:
        one.store = store.change(BEFORE, "demo", {"huge_pages": "on"}).after
        one.hear()
    one.patroni.members(*members)
    one.can_start = False
    if members is LEADER:
        # It does not stream while it is down.
        one.patroni.does["POST", "/switchover"] = lambda body: (
            one.hand_over(body),
            one.patroni.members(REPLICA[0], status("pg1", state="start failed"), REPLICA[2]),
        )[0]
    with pytest.raises(MshareError, match="the store of Patroni cluster demo was put back; members that run"):
        present()
    assert (one.store, written(tmp_path)) == (BEFORE, before)
    if members is REPLICA:
        assert one.restarts == ["patroni", "systemctl restart"]
        assert (one.state, one.started_with) == ("running", "try")


@pytest.mark.parametrize("by_another", [False, True])
def test_one_that_may_not_be_restarted_takes_nothing_from_the_others(one, by_another):
    """It runs as before, so only what this run has changed is put back."""
    before = store.change(BEFORE, "demo", {"huge_pages": "on"}).after if by_another else BEFORE
    one.store = before
    one.hear()
    one.patroni.members(*LEADER)
    one.patroni.does["POST", "/switchover"] = lambda body: (412, "no good candidates have been found")
    with pytest.raises(MshareError, match="did not switch over from pg1"):
        present()
    assert (one.store, one.restarts, one.pid) == (before, [], 100)


def test_a_member_that_does_not_hear_of_it(one, tmp_path, monkeypatch):
    monkeypatch.setattr(restart, "_SETTLE_SECONDS", 0.02)
    before = written(tmp_path)
    one.hears = False
    with pytest.raises(
        MshareError,
        match=r"member pg1 does not have a pending restart for huge_pages from the store of its Patroni"
        r" cluster within 0 s; see `patronictl list`; the store of Patroni cluster demo was put back",
    ):
        present()
    assert (one.store, one.restarts, written(tmp_path)) == (BEFORE, [], before)


def test_what_somebody_has_changed_since_is_told(one):
    present()
    one.patch(json.dumps({"postgresql": {"parameters": {"huge_pages": "off"}}}))
    done = absent()
    assert done.warnings == [
        "postgresql.parameters.huge_pages in the store of Patroni cluster demo is off, and not on, to which"
        " this collection set it: somebody has changed it since, so it stays as it is (before, it was not"
        " set)"
    ]
    assert store.parameters(one.store) == {"work_mem": "4MB", "huge_pages": "off"}
    assert huge_pages.read(one.own) == one.store
    assert store.NOTE not in one.store
    assert one.started_with == "off"


def test_a_store_that_demands_them_by_somebody_elses_word(one):
    """What we have not set, we do not put back; and its server stays where it is."""
    one.patch(json.dumps({"postgresql": {"parameters": {"huge_pages": True}}}))
    there = dict(one.store)
    present()
    assert (one.started_with, one.store) == ("on", there)
    done = absent()
    assert (one.restarts, one.store) == (["patroni"], there)
    assert not done.facts.restart_required


def test_the_hosts_of_all_members_have_to_be_asked(one):
    with pytest.raises(
        Conflict,
        match=r"counts for all of its members, also for pg2, pg3, and PostgreSQL does not start.*so nothing"
        r" was changed; move all members with the playbook.*mshare_postgresql_members_ready",
    ):
        present(members_ready=False)
    assert (one.store, one.restarts) == (BEFORE, [])


def test_what_a_member_has_for_itself_counts_more(one, monkeypatch):
    own = replace(one.own, parameters={"huge_pages": False})
    monkeypatch.setattr(Cluster, "managed", lambda self: replace(self, patroni=own))
    with pytest.raises(
        Conflict,
        match=r"postgresql.parameters in /etc/patroni/demo.yml sets huge_pages to False for member pg1, which"
        r" counts more than the store of Patroni cluster demo, so nothing was changed; remove it there, run"
        r" `patronictl reload`, and run this again",
    ):
        present()
    monkeypatch.setattr(Cluster, "managed", lambda self: replace(self, patroni=one.own))
    (one.folder / "data/postgresql.auto.conf").write_text("huge_pages = 'try'\n")
    with pytest.raises(
        Conflict,
        match=r"postgresql.auto.conf sets huge_pages to try .* ALTER SYSTEM RESET huge_pages, and run",
    ):
        present()
    assert (one.store, one.restarts) == (BEFORE, [])


def test_a_paused_cluster_is_refused_before_its_store_is_changed(one):
    one.patroni.members(*REPLICA, pause=True)
    with pytest.raises(Conflict, match="the cluster is paused"):
        present()
    assert one.store == BEFORE


def test_the_size_of_the_pages(one):
    present(wanted=ClusterSpec(NATIVE, page_bytes=2 * MIB))
    assert store.parameters(one.store)["huge_page_size"] == "2048kB"
    absent()
    assert one.store == BEFORE


def test_the_way_back_without_permission(one):
    """It demands nothing of any member; the server goes back when it is restarted."""
    present()
    done = absent(restart=False)
    assert (done.facts.restart_required, one.store, one.restarts) == (True, BEFORE, ["patroni"])
    assert done.facts.summary[-1] == "`patronictl restart demo pg1` is enough; replicas first."
