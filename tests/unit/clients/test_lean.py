# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kind of clients a launcher starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mshare.backends.connect import connect
from mshare.clients import client, starter
from mshare.clients.forked import Forked
from mshare.clients.lean import Lean
from mshare.clients.spec import ClientsSpec
from rig.world import World


@pytest.fixture
def target(here: World) -> Iterator[client.Target]:
    with here.owned():
        yield client.Target.find("sga", connect("simulated", str(here.root)))


def chosen(target: client.Target, **fields: object) -> starter.Starter:
    return starter.choose(ClientsSpec.from_dict({"region": "sga", "count": 1, **fields}), target, 1)


def test_which_kind_is_chosen(target: client.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(chosen(target), Lean)
    program = chosen(target, command=["cat"])
    assert isinstance(program, Forked)
    assert (program.kind, program.why) == ("program", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("MSHARE_CACHE_DIR", "/nonexistent/cache")
    python = chosen(target)
    assert isinstance(python, Forked)
    assert python.kind == "python"
    assert python.why is not None
    assert python.why.startswith("mshare-client is not installed, and this host has no C compiler")
