# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that come in the worst instant, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

from mshare.services import signals
from rig.patience import HANG_SECONDS
from rig.world import LIBRARY


def says(script: str) -> str:
    start = "import os, select, signal\nfrom mshare.services import signals\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(script)],
        env={"PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_one_that_came_before_the_wait():
    assert (
        says(
            """
            signal.signal(signal.SIGUSR1, lambda number, frame: None)
            inbox = signals.inbox()
            signal.raise_signal(signal.SIGUSR1)
            print(signals.wait(inbox) == bytes([signal.SIGUSR1]))
            """
        )
        == "True"
    )


def test_a_handler_that_raises_does_so_in_the_wait():
    assert (
        says(
            """
            inbox = signals.inbox()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            os.kill(os.getpid(), signal.SIGINT)
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
                signals.wait(inbox)
            except KeyboardInterrupt:
                print("interrupted")
            """
        )
        == "interrupted"
    )


def test_a_child_signalled_at_once_ends_by_it_and_its_parent_hears_nothing():
    assert (
        says(
            """
            numbers = [signal.SIGTERM, signal.SIGHUP]
            for number in numbers:
                signal.signal(number, lambda number, frame: None)
            inbox = signals.inbox()
            for _ in range(50):
                with signals.held(numbers):
                    child = os.fork()
                    if child == 0:
                        signals.leave(numbers)
                        signal.pause()
                    os.kill(child, signal.SIGTERM)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            print(select.select([inbox], [], [], 0)[0])
            """
        )
        == "[]"
    )


def test_what_was_held_comes_afterwards():
    assert says(
        """
            signal.signal(signal.SIGTERM, lambda number, frame: print("SIGTERM"))
            with signals.held([signal.SIGTERM]):
                os.kill(os.getpid(), signal.SIGTERM)
                print("held")
            print("over")
            """
    ).split() == ["held", "SIGTERM", "over"]


def test_a_launcher_hears_what_comes_as_soon_as_it_has_a_handler():
    assert (
        says(
            """
            from mshare.clients import client, launcher

            def install(number, handler, real=signal.signal):
                real(number, handler)
                signal.raise_signal(number)

            signal.signal = install
            print(set(os.read(launcher._Launcher._catch_signals(), 99)) == set(client.CAUGHT))
            """
        )
        == "True"
    )


def test_what_was_blocked_before_stays_blocked():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with signals.held([signal.SIGUSR1, signal.SIGUSR2]):
            assert {signal.SIGUSR1, signal.SIGUSR2} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
        after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert after == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
