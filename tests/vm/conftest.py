# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that the VM tests run on."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vm.guest import Guest, started, why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of them for one reason, said once."""
    reason = why_not()
    for item in items:
        if reason and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> Iterator[Guest]:
    """The one guest of a run."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", file=sys.stderr, flush=True)

    # A run that is ended ends its guest.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Not pytest's folder: the path of ssh's control socket must be short.
    with tempfile.TemporaryDirectory(prefix="mshare-vm.") as scratch:
        try:
            with started(Path(scratch), say) as one:
                yield one
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def guest(machine: Guest) -> Guest:
    """A guest on which nothing of ours is. One boot suffices, unless a story failed and left something."""
    if machine.traces():
        machine.renew()
    return machine
