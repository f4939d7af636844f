# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role monitoring on a host with a real systemd, and on one that has cron only: there and back."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fleet.world import RUNTIME, World, world
from integration.hosts import Run, Task
from rig import documents
from rig.hosts.base import LIBRARY, PATRONI
from rig.hosts.fleet import missing_systemd

DIRECTORY = "/var/lib/prometheus/node-exporter"
LINK, FILE = f"{DIRECTORY}/mshare.prom", "/var/lib/mshare-monitoring/mshare.prom"
CRON = "/etc/cron.d/mshare-monitoring"
# A program of that name and with those arguments is all that the role knows of a node exporter.
EXPORTER = f"""
mkdir -p {DIRECTORY}
cp "$(readlink -f /usr/bin/python3)" /usr/local/bin/node_exporter
setsid /usr/local/bin/node_exporter -c 'import signal; signal.pause()' \\
  --collector.textfile.directory={DIRECTORY} </dev/null >/dev/null 2>&1 &
"""
DONE, CHECKED = "Survey the host for Prometheus", "Check what would be done"


def role(hosts: World, *flags: str, then: Sequence[Task] = (), **options: Any) -> Run:
    """Run the role, and further tasks in the same play."""
    variables = {f"mshare_monitoring_{name}": value for name, value in options.items()}
    include = {"name": "monitoring", "ansible.builtin.include_role": {"name": "dbmem.mshare.monitoring"}}
    own = {"mshare_runtime_packages_managed": False, **variables}
    return hosts.play(0, {**include, "vars": own}, *then, flags=flags)


def stopped(hosts: World) -> Run:
    """What docs/monitoring.md has a reader type."""
    __, playbook, ___, ____, *flags = shlex.split(documents.script("docs/monitoring.md: Stop it again"))
    return hosts.playbook(playbook, *(flag.replace("=databases", "=all") for flag in flags))


def metric(hosts: World, name: str) -> float:
    return float(hosts.do(0, f"sed -n 's/^{name} //p' {LINK}"))


def require_clean(hosts: World) -> None:
    """What Prometheus itself says about the file."""
    if shutil.which("promtool") is not None:
        content = hosts.do(0, f"cat {LINK}") + "\n"
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=content, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def changes(hosts: World, before: list[list[str]]) -> list[str]:
    """What is other than before, without what systemd writes down of itself and starts when it likes."""
    found = hosts.changed_since(before).get("host1", [])
    own = ("/run/systemd", "/run/log", "/run/user", "/tmp/systemd-private", "/var/tmp/systemd-private")
    return [
        line
        for line in found
        if not any(f" {path}" in line for path in (*own, "/var/lib/systemd"))
        and not ("process " in line and "mshare" not in line)
    ]


def failure(run: Run) -> str:
    (message,) = (result["msg"] for result in run.results if result.status == "failed")
    return str(message)


@pytest.fixture(scope="module")
def with_systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if reason := missing_systemd():
        pytest.skip(reason)
    with world(tmp_path_factory.mktemp("monitoring"), 1, PATRONI) as hosts:
        yield hosts


def test_under_systemd_it_comes_and_goes(with_systemd: World) -> None:
    hosts = with_systemd
    before = hosts.snapshots()
    refused = role(hosts)
    assert "no node exporter runs on this host" in failure(refused)
    assert [recap["changed"] for recap in refused.recaps.values()] == [0]
    assert changes(hosts, before) == []
    hosts.do(0, EXPORTER)
    before = hosts.snapshots()
    assert role(hosts, "--check", "--diff").succeeded().on("host1")[CHECKED]["changed"]
    assert changes(hosts, before) == []

    done = role(hosts).succeeded().on("host1")[DONE]
    assert done["monitoring"] == {
        "directory": DIRECTORY,
        "file": FILE,
        "user": "mshare-monitoring",
        "interval_seconds": 60,
        "kept_by": "systemd timer",
    }
    assert hosts.do(0, f"stat -L -c '%U %a' {LINK}") == "mshare-monitoring 644"
    assert metric(hosts, "mshare_survey_complete") == 1
    assert metric(hosts, "mshare_exporter_interval_seconds") == 60
    require_clean(hosts)
    assert hosts.do(0, "systemctl is-enabled mshare-monitoring.timer") == "enabled"
    assert hosts.do(0, "systemctl is-active mshare-monitoring.timer") == "active"
    bounds = hosts.do(0, "systemctl show mshare-monitoring.service -p MemoryMax -p TimeoutStartUSec -p Nice")
    assert bounds.splitlines() == ["TimeoutStartUSec=1min", "MemoryMax=536870912", "Nice=10"]
    # That a second run changes nothing is seen in test_prometheus.py.
    refused = hosts.teardown()
    assert "(playbook dbmem.mshare.monitoring with mshare_monitoring_state=absent)" in failure(refused)
    assert [recap["changed"] for recap in refused.recaps.values()] == [0]

    # More often, by a service that stays, with an exporter that was stopped meanwhile.
    hosts.do(0, "pid=$(pgrep -x node_exporter) && kill $pid && tail --pid=$pid -f /dev/null")
    assert role(hosts, interval=5).succeeded().on("host1")[DONE]["monitoring"]["kept_by"] == "systemd service"
    hosts.do(0, "! test -e /etc/systemd/system/mshare-monitoring.timer")
    first = metric(hosts, "mshare_survey_timestamp_seconds")
    hosts.eventually(lambda: metric(hosts, "mshare_survey_timestamp_seconds") > first, "it surveys again")
    capabilities = hosts.do(
        0, "grep -h CapEff /proc/$(systemctl show -p MainPID --value mshare-monitoring.service)/status"
    )
    assert int(capabilities.split()[1], 16) == 1 << 19 | 1 << 2

    assert stopped(hosts).succeeded().on("host1")[DONE]["changed"]
    hosts.teardown().succeeded()
    assert changes(hosts, before) == []


def test_without_systemd_cron_repeats_it(tmp_path: Any) -> None:
    with world(tmp_path, 1, LIBRARY) as hosts:
        hosts.do(0, EXPORTER)
        assert "is missing: cron; install it" in failure(role(hosts))
        hosts.do(0, "ln -s /bin/true /usr/sbin/cron")
        before = hosts.snapshots()
        assert role(hosts).succeeded().on("host1")[DONE]["monitoring"]["kept_by"] == "cron"
        assert metric(hosts, "mshare_survey_complete") == 1
        require_clean(hosts)
        # The entry as cron runs it, but for the time that spreads a fleet.
        entry = hosts.do(0, f"tail -n 1 {CRON}")
        when, user, command = entry[:9], entry[10:14], entry[15:]
        assert (when, user, command[:6]) == ("* * * * *", "root", "sleep ")
        hosts.do(0, f"rm {FILE}")
        hosts.do(0, command.partition("; ")[2])
        assert metric(hosts, "mshare_survey_complete") == 1
        assert [recap["changed"] for recap in role(hosts).succeeded().recaps.values()] == [0]
        without_library = {**RUNTIME, "dbmem.mshare.mshare_runtime": {"state": "absent"}}
        role(hosts, state="absent", then=[without_library]).succeeded()
        assert hosts.changed_since(before) == {}
