# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of a region: what is wanted of them, how much they touch, and what their launcher counts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import replace

import pytest

from mshare.backends.connect import connect
from mshare.clients import client, span
from mshare.clients.converge import ClientsAbsent, ClientsPresent
from mshare.clients.spec import CLIENTS_MAXIMUM, ClientsSpec, client_count
from mshare.converge.request import apply
from mshare.errors import InvalidRequest, MshareError
from mshare.info import inventory
from mshare.savings.validate import validate
from mshare.units import GIB, MIB
from rig.faults import fail_at
from rig.world import COMMAND, eventually


def present(here, count, **consents) -> ClientsPresent:
    given = {"region": "sga", "count": count, "backend": "simulated", "root": str(here.root)}
    return ClientsPresent(ClientsSpec.from_dict(given), COMMAND, **consents)


def absent(here) -> ClientsAbsent:
    return ClientsAbsent("sga", "simulated", str(here.root))


@pytest.mark.parametrize("count", [0, -1, CLIENTS_MAXIMUM + 1, True])
def test_how_many_there_can_be(count):
    with pytest.raises(InvalidRequest, match="cannot be started; request 1 to 32768"):
        client_count(count)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "need a count, like 100"),
        ({"count": "many"}, "'many' is not a whole number"),
        ({"count": 1, "stride": "1KiB"}, "stride 1024 is not a multiple of a page"),
        ({"count": 1, "span": "1GiB", "command": ["x"]}, "span is how much of region sga"),
    ],
)
def test_a_spec_that_makes_no_sense(fields, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        ClientsSpec.from_dict({"region": "sga", **fields})


@pytest.fixture
def target(here):
    with here.owned():
        yield client.Target.find("sga", connect("simulated", str(here.root)))


def test_a_client_learns_of_its_region(target):
    assert target.mapped_bytes == 64 * MIB
    environment = target.environment(7)
    assert environment["MSHARE_CLIENT_NUMBER"] == "7"


@pytest.mark.parametrize(("available_bytes", "spans"), [(16 * GIB, True), (2 * MIB, False)])
def test_what_a_client_touches_fits_the_host(target, monkeypatch, available_bytes, spans):
    monkeypatch.setattr(span.procfs, "meminfo_bytes", lambda: {"MemAvailable": available_bytes})
    if spans:
        fitted = span.fit_span(replace(target, memory_max_bytes=None), 2, MIB)
        assert 0 < fitted <= target.mapped_bytes
    else:
        with pytest.raises(MshareError, match="start fewer clients, or free some memory"):
            span.fit_span(target, 100, MIB)


def test_more_and_fewer_without_starting_the_others_anew(here):
    with here.owned():
        first = apply(present(here, 3)).facts
        assert first.attached == 3
        assert apply(present(here, 5)).facts.attached == 5
        last = apply(present(here, 2)).facts
        assert (last.attached, last.launcher_pid) == (2, first.launcher_pid)
        assert not apply(present(here, 2)).changed
        assert apply(absent(here)).changed
        assert not apply(absent(here)).changed


def test_clients_that_cannot_be_counted_after_their_start_are_ended_again(here, monkeypatch):
    with here.owned():
        alone = here.files(), here.processes()
        fail_at(monkeypatch, inventory, "clients_facts", {1})
        with pytest.raises(OSError, match="Input/output error"):
            apply(present(here, 2))
        assert (here.files(), here.processes()) == alone


@pytest.mark.parametrize("count", [1, 5])
def test_their_number_is_put_back_where_they_cannot_be_counted(here, monkeypatch, count):
    with here.owned():
        first = apply(present(here, 3)).facts
        with monkeypatch.context() as patch:
            fail_at(patch, inventory, "clients_facts", {1})
            with pytest.raises(OSError, match="Input/output error"):
                apply(present(here, count))
        again = apply(present(here, 3))
        assert not again.changed
        assert (again.facts.attached, again.facts.launcher_pid) == (3, first.launcher_pid)
        apply(absent(here))


def test_a_client_that_dies_is_reported_and_started_again_on_request(here):
    with here.owned() as owner:
        apply(present(here, 2))
        before = {*here.processes()}
        clients = sorted(before - {owner.pid, apply(present(here, 2)).facts.launcher_pid})
        os.kill(clients[0], signal.SIGKILL)
        eventually(lambda: apply(present(here, 2), check=True).facts.dead)
        facts = apply(present(here, 2), check=True).facts
        assert [dead.pid for dead in facts.dead] == [clients[0]]
        assert apply(present(here, 2, restart_dead=True)).facts.attached == 2


@contextlib.contextmanager
def not_yet():
    """What a validation says where clients are just coming or going."""
    try:
        yield
    except MshareError as error:
        if not re.search("are still starting|no clients of region sga", str(error)):
            raise


def test_what_is_seen_while_clients_start_and_end_is_never_wrong(here):
    """Status files come and go, and so do processes between two looks at them."""
    seen = set()

    def look() -> None:
        facts = inventory.region_facts(str(here.root), "sga")
        assert facts.health == "healthy"
        if facts.clients is not None:
            attached, dead = facts.clients.attached, facts.clients.dead
            assert 0 <= attached <= 40
            assert dead == ()
            seen.add(attached)
        with not_yet():
            savings = validate("sga", backend="simulated", root=str(here.root), probes=1, span_bytes=2 * MIB)
            assert savings.figures["clients_attached"].value <= 40

    with here.owned():
        for words in (("start", "sga", "--count", "20"), ("start", "sga", "--count", "40"), ("stop", "sga")):
            with here.started("clients", *words) as command:
                while command.poll() is None:
                    look()
                assert command.returncode == 0
        look()
    assert seen <= set(range(41))
    assert seen


class Kernel:
    """A backend on which all clients share the tables of their span."""

    name = "kernel"


@pytest.mark.parametrize(
    ("backend", "count", "alive", "next_bytes"),
    [
        (Kernel(), 1500, 100, 300 * GIB),
        (Kernel(), 50, 100, 300 * GIB),
        (Kernel(), 1500, 0, 150 * GIB),
        (None, 1500, 100, 150 * GIB),
        (None, 1500, 0, 150 * GIB),
    ],
)
def test_more_clients_of_a_kernel_s_region_touch_what_those_that_run_did(
    target, monkeypatch, backend, count, alive, next_bytes
):
    """There the tables exist already; the simulator's clients each pay for their own."""
    monkeypatch.setattr(span, "fit_span", lambda *given: 150 * GIB)
    wanted = replace(target, backend=backend) if backend else target
    assert span.next_span(wanted, None, count, alive, 300 * GIB, 0, MIB) == next_bytes


def test_more_clients_than_the_host_has_room_for_are_refused_on_a_kernel_too(target, monkeypatch):
    monkeypatch.setattr(span.procfs, "meminfo_bytes", lambda: {"MemAvailable": 600 * MIB})
    monkeypatch.setattr(span.roots, "free_bytes", lambda root: None)
    kernel = Kernel()
    kernel.root = "/sys/fs/mshare"
    wanted = replace(target, backend=kernel, memory_max_bytes=None)
    assert span.next_span(wanted, None, 130, 100, GIB, 0, 4 * MIB) == GIB, "room for 30 more"
    with pytest.raises(MshareError, match="1,000 clients need at least"):
        span.next_span(wanted, None, 1100, 100, GIB, 0, 4 * MIB)
