# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests reach no systemd of the machine, and their children end with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from mshare.services.choose import current
from mshare.services.detached import Detached
from rig.other_user import needs_root
from rig.patience import eventually

HIDE = """
import os, sys
from rig.apart import hide
hide(sys.argv[1:])
assert os.listdir(sys.argv[1]) == []
open(sys.argv[1] + "/made", "w").close()
"""
PARENT = """
import os, signal
from rig.survey_parts import running
with running(lambda number: None) as pids:
    print(pids[0], flush=True)
    signal.pause()
"""
PATHS = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_processes_are_kept_by_no_systemd():
    """Not even where one runs and this is root."""
    assert isinstance(current(), Detached)


@needs_root
def test_what_is_hidden_is_so_for_the_tests_alone(tmp_path):
    (tmp_path / "real").touch()
    subprocess.run([sys.executable, "-c", HIDE, tmp_path], check=True, env=PATHS)
    assert os.listdir(tmp_path) == ["real"]


def test_a_child_of_tests_that_are_killed_is_killed_too():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=PATHS) as parent:
        child = int(parent.stdout.readline())
        handle = os.pidfd_open(child)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()

    def ended():
        try:
            signal.pidfd_send_signal(handle, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{child}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"

    eventually(ended, f"process {child} lives on")
    os.close(handle)
