# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units and cron entries: bounded, sandboxed, and spread over a fleet."""

from __future__ import annotations

import configparser

import pytest

from mshare.errors import InvalidRequest, Unavailable
from mshare.host import commands
from mshare.monitoring import units
from mshare.monitoring.spec import MonitoringSpec

SERVICE, TIMER = (
    "/etc/systemd/system/mshare-monitoring.service",
    "/etc/systemd/system/mshare-monitoring.timer",
)


def parsed(text):
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    return unit


def test_a_timer_with_jitter_starts_a_bounded_survey():
    texts = units.systemd_files(MonitoringSpec(interval_seconds=300))
    assert set(texts) == {SERVICE, TIMER}
    timer, service = parsed(texts[TIMER])["Timer"], parsed(texts[SERVICE])["Service"]
    assert (timer["OnUnitActiveSec"], timer["RandomizedDelaySec"]) == ("300", "30")
    assert (service["Type"], service["TimeoutStartSec"], service["MemoryMax"]) == ("oneshot", "60", "512M")
    assert service["ExecStart"].endswith("--output /var/lib/mshare-monitoring/mshare.prom --interval 300")
    assert "Restart" not in service


def test_a_service_that_stays_is_watched():
    texts = units.systemd_files(MonitoringSpec(interval_seconds=15))
    assert set(texts) == {SERVICE}
    unit = parsed(texts[SERVICE])
    assert unit["Service"]["ExecStart"].endswith("--watch 15")
    assert (unit["Service"]["Type"], unit["Service"]["WatchdogSec"]) == ("notify", "120")
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize("seconds", [15, 60])
def test_its_rights_are_two_capabilities_and_one_folder(seconds):
    service = parsed(units.systemd_files(MonitoringSpec(interval_seconds=seconds))[SERVICE])["Service"]
    assert service["User"] == "mshare-monitoring"
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert service[name] == "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"
    assert (service["ProtectSystem"], service["ReadWritePaths"]) == ("strict", "/var/lib/mshare-monitoring")
    assert service["NoNewPrivileges"] == "yes"


@pytest.mark.parametrize(
    ("seconds", "when"),
    [(60, "* * * * *"), (120, "*/2 * * * *"), (1800, "*/30 * * * *"), (3600, "0 * * * *")],
)
def test_cron_says_when(seconds, when):
    (text,) = units.cron_file(MonitoringSpec(interval_seconds=seconds), "db1").values()
    assert text.endswith("\n")
    assert text.splitlines()[-1].startswith(f"{when} root sleep ")
    assert "%" not in text


@pytest.mark.parametrize("seconds", [15, 90, 420, 3000])
def test_cron_cannot_do_every_interval(seconds):
    with pytest.raises(InvalidRequest) as refused:
        units.cron_file(MonitoringSpec(interval_seconds=seconds), "db1")
    assert f"cannot do that every {seconds} s" in str(refused.value)


def test_a_fleet_does_not_begin_at_once():
    texts = {units.cron_file(MonitoringSpec(), f"db{number}")[units.CRON] for number in range(100)}
    assert len(texts) > 10


def test_hosts_without_cron_are_told(monkeypatch):
    there = {"cron", "setpriv", "prlimit", "ionice", "timeout"}
    monkeypatch.setattr(commands, "find", lambda name: f"/usr/bin/{name}" if name in there else None)
    units.require_cron()
    there.remove("cron")
    there.add("crond")
    units.require_cron()
    there -= {"crond", "setpriv"}
    with pytest.raises(Unavailable) as missing:
        units.require_cron()
    assert "is missing: cron, setpriv; install it" in str(missing.value)
