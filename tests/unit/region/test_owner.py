# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The owner's process: what it writes down, what it leaves, what it refuses."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mshare.backends.simulated.layout import Layout
from mshare.errors import Conflict, InvalidRequest, MshareError, Unavailable
from mshare.region import filling, owner
from mshare.region.spec import RegionSpec
from mshare.region.status import OWNER
from mshare.services import status_file
from mshare.units import MIB
from rig import apart
from rig.world import eventually


def spec(here, **fields) -> RegionSpec:
    given = {"name": "sga", "size": "64MiB", "backend": "simulated", "root": str(here.root), **fields}
    return RegionSpec.from_dict(given)


def status(here):
    return status_file.read(str(here.root), "sga", OWNER)


def owned(here, **fields) -> int:
    """A process that owns the region; it ends with 0, or with 9 where the owner raised."""
    pid = apart.fork()
    if pid == 0:
        os.setsid()
        try:
            owner.run(spec(here, **fields))
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(9)
    eventually(lambda: getattr(status(here), "state", None) in ("ready", "failed"))
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_it_writes_down_begins_as_who_starts_it_wrote_it(here):
    pid = owned(here, pattern=True)
    written = status(here)
    assert (written.pid, written.state, written.region) == (pid, "ready", "sga")
    assert dict(written.spec) == spec(here, pattern=True).to_dict()
    assert written.pattern.span_bytes == 64 * MIB
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 0


def test_it_takes_the_region_and_its_status_along(here):
    pid = owned(here)
    assert (here.root / "sga").exists()
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 0
    assert not (here.root / "sga").exists()
    assert status(here) is None
    assert Layout.read(str(here.root)).record("sga") is None


def test_a_second_owner_is_refused_and_the_first_stays(here):
    pid = owned(here)
    with pytest.raises(Conflict, match=f"the ownership of region sga is held by process {pid}"):
        owner.run(spec(here))
    assert status(here).pid == pid
    os.kill(pid, signal.SIGTERM)
    assert ended(pid) == 0


def test_what_a_killed_owner_left_is_replaced_only_on_request(here):
    pid = owned(here)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    before = (here.root / "sga").stat().st_ino
    with pytest.raises(Conflict, match="sga"):
        owner.run(spec(here), supervised=False)
    assert (here.root / "sga").stat().st_ino == before


def test_why_it_failed_stays_for_whoever_started_it(here):
    missing = [{"kind": "file", "path": "/no/such/file", "size": "8MiB"}]
    given = {"name": "sga", "mappings": missing, "backend": "simulated", "root": str(here.root)}
    with pytest.raises((MshareError, OSError)):
        owner.run(RegionSpec.from_dict(given))
    left = status(here)
    assert left.state == "failed"
    assert "/no/such/file" in left.error.message
    assert not (here.root / "sga").exists()


def _no_program():
    raise Unavailable("mshare-client cannot be had here")


@pytest.mark.parametrize("in_python", [False, True])
def test_memory_that_is_not_there_is_explained_and_ends_no_owner(here, monkeypatch, in_python):
    if in_python:
        monkeypatch.setattr(filling.client, "program", _no_program)
    short = here.directory / "short"
    short.write_bytes(bytes(4 * MIB))
    mapped = [{"kind": "file", "path": str(short), "size": "8MiB"}]
    given = {"name": "sga", "mappings": mapped, "backend": "simulated", "root": str(here.root)}
    with pytest.raises(MshareError, match=r"region sga cannot be touched at offset 0x400000: .*\(SIGBUS\)"):
        owner.run(RegionSpec.from_dict({**given, "prefault": True}))
    left = status(here)
    assert (left.state, left.error.message[:24]) == ("failed", "region sga cannot be tou")
    assert (left.filler_reason is not None) is in_python
    assert not (here.root / "sga").exists()


def test_a_prefault_without_the_program_in_c_is_warned_of(here):
    here.environment.update(PATH="/nonexistent", MSHARE_CACHE_DIR=str(here.directory / "cache"))
    done = here.run("create", "sga", "--size", "64MiB", "--prefault")
    assert done.returncode == 0
    assert "Warning: region sga was prefaulted by Python and not by the program in C" in done.stderr
    assert "this host has no C compiler" in done.stderr
    here.ok("rm", "sga")
    assert here.run("create", "sga", "--size", "64MiB", "--pattern").stderr == ""
    here.ok("rm", "sga")


def test_a_thread_cannot_own(here):
    caught: list[BaseException] = []

    def run() -> None:
        try:
            owner.run(spec(here))
        except InvalidRequest as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "use the main thread" in str(caught[0])
    assert status(here) is None


@pytest.fixture(autouse=True)
def signals_as_before():
    """The owner installs handlers, in this process too where it is refused."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
