# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role alerts: the files that it writes, refuses to write, and removes."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from integration.hosts import REPOSITORY, Host, Run
from rig import documents

FILES = REPOSITORY / "roles" / "alerts" / "files"
RULES, DASHBOARD = "/etc/prometheus/mshare.rules.yml", "/etc/grafana/dashboards/mshare.json"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: Debian's package prometheus"
)


def role(host: Host, *flags: str, **variables: Any) -> Run:
    """The play of the role's documentation. The host has no service to reload; a fleet test has one."""
    (play,) = documents.plays(documents.yaml_blocks("roles/alerts/README.md: Role dbmem.mshare.alerts"))
    given = {f"mshare_alerts_{name}": value for name, value in variables.items()}
    return host.play(play["tasks"], *flags, vars={"mshare_alerts_service": "", **given})


@pytest.fixture
def clean(host: Host) -> Host:
    host.do("mkdir", "-p", "/etc/prometheus", "/etc/grafana/dashboards")
    return host


def test_the_rules_and_the_dashboard_come_and_go(clean: Host) -> None:
    before = clean.snapshot()
    everything = {"dashboard": DASHBOARD}
    assert role(clean, "--check", "--diff", **everything).succeeded().recap["changed"] == 2
    assert clean.changed_since(before) == []
    role(clean, **everything).succeeded()
    # What Ansible makes of the template is what is shipped, and what promtool has tested.
    assert clean.inside(RULES).read_text() == (FILES / "mshare.rules.yml").read_text()
    assert clean.inside(DASHBOARD).read_text() == (FILES / "mshare.dashboard.json").read_text()
    assert role(clean, **everything).succeeded().recap["changed"] == 0
    role(clean, state="absent", **everything).succeeded()
    assert clean.changed_since(before) == []
    assert role(clean, state="absent", **everything).succeeded().recap["changed"] == 0


def test_a_threshold_and_labels_of_your_own(clean: Host) -> None:
    role(clean, room_ratio=0.5, labels={"team": "databases"}).succeeded()
    text = clean.inside(RULES).read_text()
    assert "- 0.5 * mshare_instance_page_tables_room_bytes" in text
    assert text.count('team: "databases"') == text.count("- alert:")
    role(clean, state="absent").succeeded()


def test_a_value_that_prometheus_does_not_take_changes_nothing(clean: Host) -> None:
    role(clean).succeeded()
    before = clean.inside(RULES).read_text()
    run = role(clean, room_for="soon")
    assert run.exit_code != 0
    assert run.recap["changed"] == 0
    assert 'not a valid duration string: \\"soon\\"' in run.output
    assert clean.inside(RULES).read_text() == before
    role(clean, state="absent").succeeded()
