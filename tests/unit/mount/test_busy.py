# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount that somebody uses, in a mount namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rig.patience import HANG_SECONDS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

PROGRAM = """
import os, subprocess, sys
sys.path[:] = {path!r}
from mshare.errors import Conflict
from mshare.host import procfs, users
from mshare.mount import msharefs
root = {root!r}
subprocess.run(["mount", "-t", "tmpfs", "test", root], check=True)
open(root + "/file", "w").truncate(4096)
how = {how!r}
script = "import mmap, os, sys; print(1, flush=True); sys.stdin.read()"
if how == "mapping":
    opened = "import mmap; f = open('%s/file', 'r+b');" % root
    script = opened + "m = mmap.mmap(f.fileno(), 0); f.close();" + script
if how == "file":
    script = "f = open('%s/file');" % root + script
user = subprocess.Popen([sys.executable, "-c", script], cwd=root if how == "cwd" else "/",
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
user.stdout.readline()
assert users.of_filesystem(root) == [user.pid], users.of_filesystem(root)
msharefs._BUSY_LOOKS = 2
try:
    msharefs._unmount(root)
    print("unmounted")
except Conflict as error:
    who = f"{{user.pid}} ({{procfs.command(user.pid)}})"
    expected = f"{{root}} is in use by process {{who}}; end what uses it, then run this again"
    assert str(error) == expected, error
msharefs._BUSY_LOOKS = 400
looks = []
def one_look(seconds):
    looks.append(seconds)
    if len(looks) == 3:
        user.stdin.close()
        user.wait()
msharefs.time = type("Clock", (), dict(sleep=staticmethod(one_look)))
msharefs._unmount(root)
assert len(looks) == 3 and not os.path.ismount(root)
print("good")
"""


@pytest.mark.parametrize("how", ["cwd", "file", "mapping"])
def test_who_uses_a_mount_is_named_and_who_soon_ends_is_waited_for(tmp_path, how):
    program = PROGRAM.format(path=sys.path, root=str(tmp_path), how=how)
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert done.stdout == "good\n", done.stderr
