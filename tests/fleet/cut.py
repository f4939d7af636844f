# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: once a path exists there, cut every other ssh connection: python3 cut.py PATH lives|dies

With "dies" what the connection had started ends with it, as where logind kills a session's processes. What
belongs to nobody any more, as an owner does, goes on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from glob import glob

LOOKS = 500_000


def stat(pid):
    """Of a process: its command, its parent, its session."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        before, __, after = stream.read().rpartition(")")
    fields = after.split()
    return before.partition("(")[2], int(fields[1]), int(fields[3])


def processes():
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(entry)] = stat(entry)
        except OSError:
            continue
    return found


def ancestors(pid, known):
    while pid in known:
        yield pid
        pid = known[pid][1]


def cut(ends):
    known = processes()
    mine = set(ancestors(os.getpid(), known))
    servers = {pid for pid, (command, __, __) in known.items() if command == "sshd" and pid not in mine}
    theirs = {pid for pid in known if servers & set(ancestors(pid, known))} - servers
    for pid in [*theirs, *servers] if ends else servers:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(servers)


path, what = sys.argv[1:]
for __ in range(LOOKS):
    if glob(path):
        break
    time.sleep(0.002)
else:
    sys.exit(f"{path}: looked for it {LOOKS} times in vain")
print(cut(what == "dies"))
