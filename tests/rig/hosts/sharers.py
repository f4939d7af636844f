# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes that share memory and have touched all of it: python3 sharers.py NAME PROCESSES MIB

Says "ready" and stays until its standard input ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

name, processes, size_mib = sys.argv[1].encode(), int(sys.argv[2]), int(sys.argv[3])
ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME: what ps shows
memory = mmap.mmap(-1, size_mib << 20)


def touch() -> None:
    for start in range(0, len(memory), 2 << 20):
        memory[start] = 1


touch()
ends: list[int] = []
for __ in range(processes - 1):
    reader, writer = os.pipe()
    if os.fork() == 0:
        touch()
        os.write(writer, b".")
        sys.stdin.read()
        os._exit(0)
    os.read(reader, 1)
print("ready", flush=True)
sys.stdin.read()
