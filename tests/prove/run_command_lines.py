# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a machine: run many command lines, each in a fork of this warm process.

Prints a JSON list of exit code and output. One that stays is told to end, as with Ctrl-C.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import time
import traceback
from typing import NoReturn

import mshare
from mshare.cli.program import mshare as program

LOOKS = 300
PATIENCE = 3000
SECONDS = 0.01
TOLD = 130


def answer(line: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        pid = os.fork()
        if pid == 0:
            be(line, output.fileno())
        code = wait(pid)
        output.seek(0)
        return code, output.read(1 << 16).decode(errors="replace")


def be(line: list[str], output: int) -> NoReturn:
    os.setsid()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code: object = 70
    try:
        program(line)
    except SystemExit as error:
        code = error.code
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def wait(pid: int) -> int:
    for look in range(LOOKS + PATIENCE):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return TOLD if look > LOOKS else os.waitstatus_to_exitcode(status)
        if look == LOOKS:
            os.killpg(pid, signal.SIGINT)
        time.sleep(SECONDS)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL


for module in pkgutil.walk_packages(mshare.__path__, "mshare."):
    if not module.name.endswith((".build_libc", ".__main__")):
        importlib.import_module(module.name)
with open(sys.argv[1], encoding="utf-8") as stream:
    wanted = json.load(stream)
print(json.dumps([answer(line) for line in wanted]))
