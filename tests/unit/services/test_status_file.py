# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Status files that are never half written, and locks that name their holder."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mshare import __version__, files, record
from mshare.clients import status as clients_status
from mshare.clients.status import CLIENTS
from mshare.errors import Conflict, MshareError, Unavailable
from mshare.host import procfs
from mshare.region import status as region_status
from mshare.region.status import OWNER
from mshare.services import detached, lock, status_file
from rig import apart
from rig.other_user import as_other, needs_root, shared_directory


@pytest.fixture(autouse=True)
def state_dir(tmp_path, monkeypatch):
    directory = tmp_path / "state"
    monkeypatch.setenv("MSHARE_STATE_DIR", str(directory))
    return directory


@dataclass(frozen=True)
class Loud(status_file.Status):
    """A status with a field of its own."""

    value: str


LOUD = status_file.Role("loud", Loud)


def loud(value: str, region: str = "sga") -> Loud:
    version = (status_file.SCHEMA_VERSION, __version__)
    return status_file.of_process(Loud(*version, 0, 0, "ready", region, "/m", None, value), os.getpid())


@pytest.fixture
def path(state_dir: Path) -> Path:
    """Where the status file of the region of these tests is."""
    return Path(status_file.file("/m", "sga", LOUD))


def test_names_of_files(state_dir):
    assert status_file.file("/run/msharefs", "sga", OWNER) == f"{state_dir}/run-msharefs/sga.owner.json"
    assert (
        status_file.file("/run/msharefs", "sga", CLIENTS, "log")
        == f"{state_dir}/run-msharefs/sga.clients.log"
    )


def test_what_is_written_is_read(path):
    status_file.write(str(path), loud("here"))
    assert status_file.read("/m", "sga", LOUD) == loud("here")
    assert json.loads(path.read_text())["schema_version"] == status_file.SCHEMA_VERSION
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert status_file.names("/m", LOUD) == ["sga"]
    assert status_file.names("/m", CLIENTS) == []
    assert status_file.names("/none", OWNER) == []


@pytest.mark.parametrize(
    "status",
    [
        region_status.starting("sga", "/m", {"name": "sga"}),
        clients_status.starting("sga", "/m", {"region": "sga"}, 7, 4096),
    ],
)
def test_what_an_owner_and_a_launcher_write_first_is_read(state_dir, status):
    role = OWNER if isinstance(status, region_status.OwnerStatus) else CLIENTS
    status_file.write(status_file.file("/m", "sga", role), status)
    assert status_file.read("/m", "sga", role) == status
    assert status.alive


def test_no_status(path):
    assert status_file.read("/m", "sga", LOUD) is None
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema_version": 99}))
    assert status_file.read("/m", "sga", LOUD) is None, "its writer ended"


def other_schema(path, schema):
    """A status file as another version of the library would write it, of this very process."""
    lasting = {"pid": os.getpid(), "started_ticks": procfs.start_ticks(os.getpid()), "version": "9.9.9"}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema_version": schema, **lasting, "news": True}))


@pytest.mark.parametrize("schema", [0, 2])
def test_a_process_that_another_schema_tells_of_is_left_alone(path, schema):
    other_schema(path, schema)
    with pytest.raises(Conflict) as caught:
        status_file.read("/m", "sga", LOUD)
    assert str(caught.value) == (
        f"{path} was written by process {os.getpid()} of version 9.9.9 of the library in schema {schema}, and"
        f" this is version {__version__}, which reads schema 1 only; nothing is changed: use version"
        " 9.9.9 for what runs, or end it with that"
    )
    seen = status_file.peek("/m", "sga", LOUD)
    assert isinstance(seen, status_file.Unread)
    assert (seen.pid, seen.version, seen.state, seen.alive) == (os.getpid(), "9.9.9", "unknown", True)
    assert seen.reason == str(caught.value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"", "is not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"[" * 100_000, "is nested too deeply to be read"),
        (b"[3]", "has [3] for the whole file where an object is needed"),
        (b"{}", "has no field schema_version"),
        (
            b'{"schema_version": "1"}',
            "has '1' for schema_version where a whole number of at most 64 bits is needed",
        ),
        (b'{"schema_version": NaN}', "is not valid JSON (NaN is not a number)"),
        (b'{"schema_version": 1e999}', "is not valid JSON (1e999 is too large a number)"),
        (b'{"schema_version": 1}', "has no field version"),
    ],
)
def test_a_damaged_status_is_one_sentence(path, damage, reason):
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(record.Malformed) as caught:
        status_file.read("/m", "sga", LOUD)
    assert str(caught.value) == f"{path} {reason}; `mshare rm sga --force` ends what is left of the region"
    seen = status_file.peek("/m", "sga", LOUD)
    assert isinstance(seen, status_file.Unread)
    assert (seen.state, seen.pid, seen.alive) == ("unreadable", None, False)


def test_a_pid_that_cannot_be(path):
    status_file.write(str(path), replace(loud("x"), started_ticks=1))
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 99999999999'))
    with pytest.raises(
        record.Malformed, match="holds what cannot be: 99999999999 is not the number of a process"
    ):
        status_file.read("/m", "sga", LOUD)


def test_a_look_at_a_schema_that_is_known(path):
    assert status_file.peek("/m", "sga", LOUD) is None
    status_file.write(str(path), loud("x"))
    assert status_file.peek("/m", "sga", LOUD) == status_file.read("/m", "sga", LOUD)


def test_readers_never_see_a_half(path):
    texts = [loud(letter * 20000) for letter in "ab"]
    status_file.write(str(path), texts[0])
    ended = threading.Event()

    def write() -> None:
        for number in range(200):
            status_file.write(str(path), texts[number % 2])
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        assert len(set(status_file.read("/m", "sga", LOUD).value)) == 1
    thread.join()
    assert os.listdir(path.parent) == [path.name], "nothing temporary is left"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path):
    status_file.write(str(path), loud("old"))
    with pytest.raises(TypeError):
        status_file.write(str(path), loud(object()))
    with pytest.raises(UnicodeEncodeError):
        files.write_text(str(path), "\ud800")
    assert status_file.read("/m", "sga", LOUD) == loud("old")
    assert os.listdir(path.parent) == [path.name]


def test_what_a_killed_writer_left_is_written_over_or_removed(path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(os, "rename", lambda *names, **how: os._exit(9))
        if (writer := apart.fork()) == 0:
            status_file.write(str(path), loud("half"))
        assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == 9
    assert [name for name in os.listdir(path.parent) if not files.is_left_over(name, path.name)] == []
    status_file.write(str(path), loud("whole"))
    assert os.listdir(path.parent) == [path.name]
    (path.parent / f".{path.name}.new").touch()
    files.remove(str(path))
    assert os.listdir(path.parent) == []


def test_a_directory_without_room_for_a_status_file(state_dir, monkeypatch):
    status_file.require_room("/m")
    full = os.statvfs_result((4096, 4096, 256, 4, 4, 9, 9, 9, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        status_file.require_room("/m")
    assert caught.value.filename == f"{state_dir}/m"


def test_removing(tmp_path):
    (tmp_path / "a").touch()
    files.remove(str(tmp_path / "a"), str(tmp_path / "none"), str(tmp_path / "a" / "b"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    files.remove_empty(str(tmp_path / "empty"), str(tmp_path / "full"), str(tmp_path / "none"))
    assert os.listdir(tmp_path) == ["full"]


def test_a_lock_that_is_held_names_its_holder(state_dir):
    path = status_file.file("/m", "sga", OWNER, "lock")
    ready, go = os.pipe(), os.pipe()
    holder = apart.fork()
    if holder == 0:
        with lock.locked(path, "region sga"):
            # Should the test fail, nobody is left who could write: this ends as well.
            os.close(go[1])
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(Conflict) as caught, lock.locked(path, "region sga"):
        pytest.fail("two hold one lock")
    who = f"process {holder} ({procfs.command(holder)})"
    assert str(caught.value) == f"region sga is held by {who}; wait for it to end, or stop it"
    waited = pytest.raises(Conflict, match=rf"held by process {holder} \(.*\) for more than 0\.1 s;")
    with waited, lock.locked(path, "region sga", wait_seconds=0.1):
        pytest.fail("two hold one lock")
    os.write(go[1], b"x")
    with lock.locked(path, "region sga", wait_seconds=10):
        assert int((state_dir / "m" / "sga.owner.lock").read_text()) == os.getpid()
    os.waitpid(holder, 0)
    for end in (*ready, *go):
        os.close(end)


def test_a_killed_holder_leaves_no_lock(state_dir):
    path = status_file.file("/m", "sga", OWNER, "lock")
    holder = apart.fork()
    if holder == 0:
        with lock.locked(path, "region sga"):
            os.kill(os.getpid(), 9)
    os.waitpid(holder, 0)
    with lock.locked(path, "region sga"):
        pass


def test_whether_the_writer_of_a_status_lives():
    status = loud("x")
    assert status.alive
    assert not replace(status, started_ticks=status.started_ticks - 1).alive


def test_who_holds_a_lock_is_asked_of_the_kernel(state_dir):
    path = status_file.file("/m", "sga", OWNER, "lock")
    assert lock.holder(path) is None
    with lock.locked(path, "region sga"):
        Path(path).write_text("garbage")
        assert lock.holder(path) == os.getpid()
    assert lock.holder(path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_state_directory_that_somebody_else_made(state_dir):
    state_dir.mkdir()
    os.chown(state_dir, 65534, 65534)
    refused = pytest.raises(MshareError, match="belongs to uid 65534, so mshare does not use it")
    with refused, lock.locked(status_file.file("/m", "sga", OWNER, "lock"), "region sga"):
        pytest.fail("used it")


@needs_root
def test_a_status_that_this_user_may_not_read(monkeypatch):
    """As of root's launcher, whose clients' command may hold passwords."""
    with shared_directory() as shared:
        monkeypatch.setenv("MSHARE_STATE_DIR", str(shared / "state"))
        path = Path(status_file.file("/m", "sga", LOUD))
        status_file.write(str(path), loud("x"))
        path.chmod(0o600)

        def look():
            found = status_file.peek("/m", "sga", LOUD)
            assert (found.state, found.alive) == ("unknown", False)
            reason = f"{path} may be read by its owner and root only; run as root (become: true)"
            assert found.reason == reason

        as_other(look)


def test_a_look_finds_what_root_deployed(tmp_path, monkeypatch):
    """An ordinary user has a directory of their own; root's is asked second, by who changes nothing."""
    monkeypatch.delenv("MSHARE_STATE_DIR")
    monkeypatch.setattr(status_file.paths, "SYSTEM_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(status_file.paths, "is_root", lambda: True)
    status_file.make_directory("/m")
    status_file.write(status_file.file("/m", "sga", LOUD), loud("root's"))
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(status_file.paths, "is_root", lambda: False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    assert status_file.peek("/m", "sga", LOUD) is None
    assert status_file.observe("/m", "sga", LOUD).value == "root's"
    monkeypatch.setenv("MSHARE_STATE_DIR", str(own))
    assert status_file.observe("/m", "sga", LOUD) is None, "a directory that was named is the only one"


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        (True, f"systemd starts what root deployed, and this is uid {os.geteuid()}"),
        (False, "systemd does not run"),
    ],
)
def test_why_a_detached_process_does_not_come_back(runs, why, monkeypatch):
    monkeypatch.setattr(detached.Host, "runs_systemd", lambda self: runs)
    assert why in detached.Detached().why_no_reboot
    with pytest.raises(Unavailable, match=why):
        detached.Detached().set_enabled(OWNER, "sga", True)
