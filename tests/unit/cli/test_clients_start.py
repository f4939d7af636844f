# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `mshare clients start` says of what it has started."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mshare.cli import clients_start
from mshare.cli.program import mshare
from mshare.converge.outcome import Outcome
from mshare.info.facts import ClientsFacts


@pytest.mark.parametrize(("attached", "shown"), [(None, "An unknown number of 2"), (2, "2 of 2")])
def test_how_many_are_attached(attached, shown, monkeypatch):
    why = ("its status may not be read",)
    facts = ClientsFacts("sga", "ready", 1, True, None, 2, attached, (), why, "/run/msharefs")
    outcome = Outcome(True, ["start 2 clients of region sga"], {}, {}, facts)
    monkeypatch.setattr(clients_start, "apply", lambda request, check: outcome)
    done = CliRunner().invoke(mshare, ["clients", "start", "sga", "--count", "2"])
    assert done.exit_code == 0, done.output
    assert f"{shown} clients are attached to region sga." in " ".join(done.output.split())
