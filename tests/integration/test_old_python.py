# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts whose Python is too old are refused in a sentence, whichever way Ansible itself fails there."""

from __future__ import annotations

import pytest

from fleet import interpreters
from integration.hosts import Host

# 3.6 does not parse Ansible's own wrapper, 3.8 does, and fails in the library.
VERSIONS = ("3.6", "3.8")
MODULES = ("mshare_postgresql", "mshare_survey", "mshare_runtime", "mshare_remedy", "mshare_plan")


@pytest.mark.parametrize("version", VERSIONS)
def test_it_says_which_python_is_needed(host: Host, version: str) -> None:
    base = interpreters.find(version)
    if base is None:
        pytest.skip(f"this machine has no Python {version}")
    python = f"{base}/bin/python{version}"
    before = host.snapshot()
    tasks = [
        {
            "name": module,
            f"dbmem.mshare.{module}": {},
            "vars": {"ansible_python_interpreter": python},
            "ignore_errors": True,
        }
        for module in MODULES
    ]
    run = host.play(tasks).succeeded()
    for module in MODULES:
        refused = run[module]
        assert f"{python} on this host is Python {version}, and dbmem.mshare needs 3.9" in refused["msg"]
        assert "set ansible_python_interpreter" in refused["msg"]
        assert refused["error_kind"] == "unavailable"
    assert run.recap["changed"] == 0
    assert host.changed_since(before) == []
