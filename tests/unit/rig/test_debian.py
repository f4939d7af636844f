# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test machines' lock: who waits, perhaps for minutes, says so."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from rig.debian import exclusive


def test_who_has_to_wait_says_for_whom(tmp_path):
    path, said = tmp_path / "lock", []

    def second():
        with exclusive(path, said.append):
            return time.monotonic()

    with ThreadPoolExecutor() as pool:
        with exclusive(path, said.append):
            assert said == []
            waiting = pool.submit(second)
            while not said:
                assert not waiting.done()
                time.sleep(0.01)
            left = time.monotonic()
        assert waiting.result() >= left
    assert said == [f"waiting for process {os.getpid()} to let go of {path} ..."]
