# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters in the store of Patroni: set, noted, put back, and left alone once somebody changed them."""

from __future__ import annotations

import copy
import json

import pytest

from mshare.errors import MshareError
from mshare.postgresql.patroni import api, store
from mshare.postgresql.patroni.local import RestApi
from mshare.record import Malformed

from .test_patroni import serving

ON = {"huge_pages": "on"}


def stored(**parameters):
    return {"ttl": 30, "postgresql": {"use_slots": True, "parameters": {"work_mem": "4MB", **parameters}}}


def patched(config, patch):
    """As Patroni does it (patroni/utils.py, patch_config); the result."""
    config = copy.deepcopy(config)
    for name, value in patch.items():
        if value is None:
            config.pop(name, None)
        elif isinstance(value, dict) and isinstance(config.get(name), dict):
            config[name] = patched(config[name], value)
        elif name not in config or isinstance(value, dict) or str(config[name]) != str(value):
            config[name] = value
    return config


def keeper(before):
    """What PATCH of a store does; the store."""
    kept = [copy.deepcopy(before)]

    def patch(body):
        kept[0] = patched(kept[0], json.loads(body))
        return 200, json.dumps(kept[0])

    return kept, patch


BEFORE = [
    stored(),
    stored(huge_pages="try"),
    stored(huge_pages="off"),
    # `huge_pages: off` without quotes in `patronictl edit-config`.
    stored(huge_pages=False),
    stored(huge_page_size=0),
    stored(Huge_Pages="try"),
    {"ttl": 30},
    {"ttl": 30, "postgresql": {}},
    {"ttl": 30, "postgresql": {"parameters": {}}},
    {},
]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("wanted", [ON, {**ON, "huge_page_size": "2048kB"}])
def test_there_and_back_exactly(before, wanted):
    to = store.change(before, "demo", wanted)
    there = patched(before, to.patch)
    assert there == to.after
    named = {name.lower(): value for name, value in store.parameters(there).items()}
    assert wanted.items() <= named.items()
    # A second time there is nothing to do, and the note has still what was there first.
    assert not store.change(there, "demo", wanted).differs
    assert patched(there, to.reverse) == before
    back = store.change(there, "demo", {})
    assert patched(there, back.patch) == back.after == before
    assert back.kept == ()
    assert not store.change(before, "demo", {}).differs


@pytest.mark.parametrize("value", ["on", True, "ON", "true", 1])
def test_what_is_wanted_already_is_left_as_it_is(value):
    before = stored(huge_pages=value)
    change = store.change(before, "demo", ON)
    assert (change.differs, change.actions(), change.patch) == (False, [], {})


def test_another_size_keeps_what_was_there_first():
    before = stored(huge_page_size="1GB")
    small = store.change(before, "demo", {**ON, "huge_page_size": "2048kB"}).after
    large = store.change(small, "demo", {**ON, "huge_page_size": "32768kB"}).after
    assert store.parameters(large)["huge_page_size"] == "32768kB"
    # It is not asked for any longer.
    default = store.change(large, "demo", ON).after
    assert store.parameters(default) == {"work_mem": "4MB", "huge_page_size": "1GB", "huge_pages": "on"}
    assert store.change(default, "demo", {}).after == before


@pytest.mark.parametrize(("since", "shown"), [("off", "off"), (True, "true"), (None, "not set")])
def test_what_somebody_has_changed_since_stays(since, shown):
    there = copy.deepcopy(store.change(stored(), "demo", {**ON, "huge_page_size": "2048kB"}).after)
    parameters = there["postgresql"]["parameters"]
    if since is None:
        del parameters["huge_pages"]
    else:
        parameters["huge_pages"] = since
    # And what has nothing to do with us.
    there["loop_wait"] = parameters["work_mem"] = 5
    back = store.change(there, "demo", {})
    assert back.kept == (
        f"postgresql.parameters.huge_pages in the store of Patroni cluster demo is {shown}, and not on, to"
        " which this collection set it: somebody has changed it since, so it stays as it is (before, it was"
        " not set)",
    )
    left = patched(there, back.patch)
    assert left["postgresql"]["parameters"] == {
        "work_mem": 5,
        **({} if since is None else {"huge_pages": since}),
    }
    assert (left["loop_wait"], store.NOTE in left) == (5, False)


def test_sections_that_others_use_meanwhile_stay():
    there = copy.deepcopy(store.change({"ttl": 30}, "demo", ON).after)
    assert there["dbmem_mshare"] == {"parameters": {"huge_pages": {"set": "on"}}, "made": "postgresql"}
    there["postgresql"]["parameters"]["work_mem"] = "8MB"
    back = patched(there, store.change(there, "demo", {}).patch)
    assert back == {"ttl": 30, "postgresql": {"parameters": {"work_mem": "8MB"}}}


def test_what_is_told_of_it():
    change = store.change(stored(huge_pages=False), "demo", {**ON, "huge_page_size": "2048kB"})
    where = "in the store of Patroni cluster demo"
    assert change.actions() == [
        f"set postgresql.parameters.huge_page_size to 2048kB {where} (before: not set)",
        f"set postgresql.parameters.huge_pages to on {where} (before: false)",
    ]
    assert change.place == f"postgresql.parameters {where}"
    assert change.lines(change.before) == ["huge_pages: false"]
    assert change.lines(change.after) == ['huge_page_size: "2048kB"', 'huge_pages: "on"']
    assert store.change(change.after, "demo", {}).actions() == [
        "remove postgresql.parameters.huge_page_size from the store of Patroni cluster demo (before: 2048kB)",
        f"set postgresql.parameters.huge_pages to false {where} (before: on)",
    ]


@pytest.mark.parametrize(
    ("note", "sentence"),
    [
        ([], r"the store of Patroni cluster demo has \[\] for dbmem_mshare where an object is needed"),
        ({}, "has no field dbmem_mshare.parameters; correct it with `patronictl edit-config`"),
        ({"parameters": {"huge_pages": {}}}, "has no field dbmem_mshare.parameters.huge_pages.set"),
    ],
)
def test_a_damaged_note(note, sentence):
    with pytest.raises(Malformed, match=sentence):
        store.change({**stored(), "dbmem_mshare": note}, "demo", {})


# -- its REST API


def test_it_is_written_with_user_and_password():
    before = stored(huge_pages="try")
    kept, patch = keeper(before)
    with serving() as server:
        server.say("/config", before)
        server.does["PATCH", "/config"] = patch
        one = api.Api(RestApi(server.address, user="u", password="p"))
        to = store.change(one.stored(), "demo", ON)
        one.change_store(to.patch)
        assert kept[0] == to.after
        one.change_store(to.reverse)
        assert kept[0] == before
        assert [(asked[0], asked[3]) for asked in server.asked] == [
            ("GET", None),
            ("PATCH", "Basic dTpw"),
            ("PATCH", "Basic dTpw"),
        ]


@pytest.mark.parametrize(
    ("code", "text", "sentence"),
    [
        (401, "no auth header received", r"HTTP 401: no auth.*ctl.authentication or restapi.authentication"),
        (403, "Access is denied", r"HTTP 403: Access is denied\); let this host in \(restapi.allowlist"),
        (409, "", r"HTTP 409: nothing\); somebody else changed its store at the same moment: run this again"),
        (503, "", "see whether Patroni's REST API works"),
    ],
)
def test_a_store_that_is_not_changed(code, text, sentence):
    with serving() as server:
        server.say("/config", text, code)
        with pytest.raises(MshareError, match=f"Patroni did not change its store .*{sentence}"):
            api.Api(RestApi(server.address)).change_store({"ttl": 30})


def test_a_restart_by_patroni():
    with serving() as server:
        server.say("/restart", "restarted successfully")
        one = api.Api(RestApi(server.address, user="u", password="p"))
        one.restart("pg1", 12.5)
        server.say("/restart", "restart failed", 503)
        with pytest.raises(
            MshareError,
            match=r"did not restart PostgreSQL of member pg1 \(HTTP 503: restart failed\); see whether",
        ):
            one.restart("pg1", 1)
        assert server.asked[0] == ("POST", "/restart", '{"timeout": 12}', "Basic dTpw")


@pytest.mark.parametrize(
    ("answer", "pending", "waits"),
    [
        ({}, None, False),
        # Before Patroni 4.0.
        ({"pending_restart": True}, True, False),
        ({"pending_restart": True, "pending_restart_reason": {"huge_pages": {}}}, True, True),
        ({"pending_restart": True, "pending_restart_reason": {"max_connections": {}}}, True, False),
    ],
)
def test_a_restart_that_is_pending(answer, pending, waits):
    with serving() as server:
        server.say("/patroni", {"state": "running", **answer})
        health = api.Api(RestApi(server.address)).health()
    assert (health.pending_restart, health.waits_for("huge_pages")) == (pending, waits)
