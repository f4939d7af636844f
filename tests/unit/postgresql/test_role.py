# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role works out of what the hosts of a play answered, as Ansible's own filters have it."""

from __future__ import annotations

import pytest
import yaml
from ansible.plugins.filter import core, mathstuff
from jinja2 import ChainableUndefined
from jinja2.nativetypes import NativeEnvironment

from rig.documents import ROOT


def member(name: str, api_url: str | None, **cluster: str | None) -> dict[str, object]:
    """A host's answer; `cluster` has each member with its REST API."""
    patroni = {
        "scope": "main",
        "member": name,
        "api_url": api_url,
        "members": list(cluster),
        "api_urls": list(cluster.values()),
    }
    return {"__mshare_postgresql_plan": {"cluster": {"patroni": patroni}}}


PROD = {"pg1": "http://10.0.0.1:8008/patroni", "pg2": "http://10.0.0.2:8008/patroni"}
TEST = {"pg1": "http://10.9.0.1:8008/patroni", "pg2": "http://10.9.0.2:8008/patroni"}
PLAIN = {"__mshare_postgresql_plan": {"cluster": {"patroni": None}}}


def unasked(host: str, hosts: dict[str, dict[str, object]]) -> object:
    tasks = yaml.safe_load((ROOT / "roles/postgresql/tasks/check.yml").read_text())
    (texts,) = (task["vars"] for task in tasks if "ansible.builtin.assert" in task)
    # What is below something undefined is undefined for Ansible.
    environment = NativeEnvironment(undefined=ChainableUndefined)
    environment.filters.update({**core.FilterModule().filters(), **mathstuff.FilterModule().filters()})
    variables = {"ansible_play_hosts": list(hosts), "hostvars": hosts, **hosts[host]}
    for name, text in texts.items():
        variables[name] = environment.from_string(text).render(variables)
    return variables["__mshare_postgresql_unasked"]


@pytest.mark.parametrize(
    ("hosts", "missing"),
    [
        ({"a": member("pg1", PROD["pg1"], **PROD), "b": member("pg2", PROD["pg2"], **PROD)}, []),
        ({"a": member("pg1", PROD["pg1"], **PROD)}, ["pg2"]),
        # The scope and names of another cluster, in another store or namespace.
        ({"a": member("pg1", PROD["pg1"], **PROD), "b": member("pg2", TEST["pg2"], **TEST)}, ["pg2"]),
        # Hosts that do not run Patroni, whose check failed, or whose Patroni did not answer.
        ({"a": member("pg1", PROD["pg1"], **PROD), "b": PLAIN, "c": {}}, ["pg2"]),
        ({"a": member("pg1", PROD["pg1"], **PROD), "b": member("pg2", None)}, ["pg2"]),
        # A member without a REST API is no other one of these.
        ({"a": member("pg1", None, pg1=None, pg2=None), "b": member("pg2", None)}, ["pg1", "pg2"]),
    ],
)
def test_whose_hosts_were_not_asked(hosts, missing):
    assert unasked("a", hosts) == missing
