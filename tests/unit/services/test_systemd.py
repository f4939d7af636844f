# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said to systemd, and what is made of its answers, with a systemctl of the test's own."""

from __future__ import annotations

import socket

import pytest

from mshare.clients.status import CLIENTS
from mshare.errors import MshareError
from mshare.region.status import OWNER, starting
from mshare.services import systemd
from mshare.services.notify import notify
from mshare.services.supervisor import no_progress
from rig.faults import fail_at


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A systemctl that notes what it is called with and answers with a text and an exit code."""
    calls = tmp_path / "calls"
    calls.write_text("")

    def answer(text: str = "", code: int = 0) -> list[str]:
        program = tmp_path / "systemctl"
        program.write_text(f"#!/bin/sh\necho \"$@\" >>{calls}\nprintf '%s\\n' '{text}'\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return calls.read_text().splitlines()

    return answer


def test_an_order(systemctl):
    systemctl()
    systemd.systemctl("daemon-reload")
    (call,) = systemctl()
    assert call.endswith("daemon-reload")


def test_an_order_that_is_refused_says_what_systemd_said(systemctl):
    systemctl("Unit x.service not found.", 5)
    with pytest.raises(MshareError, match=r"Unit x\.service not found"):
        systemd.systemctl("start", "x.service")


def test_a_question_may_be_answered_with_no(systemctl):
    systemctl("disabled", 1)
    assert systemd.ask("is-enabled", "x.service") == "disabled"


def test_files_of_units(tmp_path, monkeypatch, systemctl):
    systemctl()
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
    wanted = {systemd.unit_path("a.service"): "[Unit]\n"}
    assert systemd.files_differ(wanted)
    systemd.write_files(wanted)
    assert not systemd.files_differ(wanted)
    systemd.remove_files(wanted)
    assert systemd.files_differ(wanted)
    assert [call.split()[-1] for call in systemctl()] == ["daemon-reload"] * 2


def test_templates_run_the_program_that_is_installed():
    texts = systemd.templates("/opt/x/mshare")
    services = [text for path, text in texts.items() if path.endswith(".service")]
    assert services
    assert all("/opt/x/mshare" in text for text in services)


def test_an_owner_that_the_oom_killer_ends_is_treated_as_any_that_is_killed():
    """No ExecStop=, which would stop the clients; and Result=oom-kill, for the sentence about it."""
    text = systemd.templates("/opt/x/mshare")[systemd.unit_path("mshare-region@.service")]
    lines = text.splitlines()
    assert "OOMPolicy=kill" in lines
    assert "Restart=on-failure" in lines
    assert sum(line.startswith("ExecStop") for line in lines) == 1


def test_the_units_of_a_region_in_a_directory():
    assert systemd.unit_of(OWNER, "sales/sga") == "mshare-region@sales:sga.service"
    assert systemd.unit_of(CLIENTS, "sales/sga") == "mshare-clients@sales:sga.service"
    assert systemd.unit_of(OWNER, "") == "mshare-region@.service"


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness_is_one_datagram(tmp_path, monkeypatch, abstract):
    address = "@mshare-test-notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notify(READY="1", STATUS="up")
        assert listener.recv(100) == b"READY=1\nSTATUS=up"


def test_nobody_asked_to_be_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY="1")


def test_one_whose_status_cannot_be_read_is_stopped_again(here, tmp_path, monkeypatch, systemctl):
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", str(tmp_path))
    (tmp_path / "mshare-region@.service").touch()
    systemctl()
    fail_at(monkeypatch, systemd, "status_of", range(1, 10**6))
    first = starting("sga", str(here.root), {"name": "sga"})
    with pytest.raises(OSError, match="Input/output error"):
        systemd.Systemd().start(OWNER, "sga", str(here.root), [], first, no_progress)
    unit = "mshare-region@sga.service"
    assert systemctl()[-2:] == [f"stop {unit}", f"reset-failed {unit}"]
