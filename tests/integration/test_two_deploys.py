# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two people type `make deploy` on one host at once."""

from __future__ import annotations

from integration.hosts import Host

SMALL = {
    "mshare_region_size": "64MiB",
    "mshare_clients_count": 3,
    "mshare_runtime_packages_managed": False,
}


def test_two_deploys_at_once(host: Host) -> None:
    before = host.snapshot()
    both = [host.start_playbook("dbmem.mshare.deploy", variables=SMALL) for __ in range(2)]
    runs = [one.finish() for one in both]
    done = [run for run in runs if run.exit_code == 0]
    # Either both succeed, or one says who was faster.
    assert done, [run.output for run in runs]
    for run in runs:
        assert run in done or "is held by process" in run.said
    # One owner, one launcher, and the clients once.
    assert len(host.processes()) == SMALL["mshare_clients_count"] + 2
    again = host.playbook("dbmem.mshare.deploy", variables=SMALL).succeeded()
    assert again.recap["changed"] == 0
    host.playbook("dbmem.mshare.teardown").succeeded()
    assert host.changed_since(before) == []


def test_deploy_and_teardown_at_once(host: Host) -> None:
    before = host.snapshot()
    host.playbook("dbmem.mshare.deploy", variables=SMALL).succeeded()
    for one in [
        host.start_playbook("dbmem.mshare.deploy", variables=SMALL),
        host.start_playbook("dbmem.mshare.teardown"),
    ]:
        one.finish()
    # Whatever the two made of it, each of them puts it right when it runs alone.
    host.playbook("dbmem.mshare.deploy", variables=SMALL).succeeded()
    host.playbook("dbmem.mshare.teardown").succeeded()
    assert host.changed_since(before) == []
