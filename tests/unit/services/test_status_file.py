# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Status files that are never half written, and locks that name their holder."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

from mshare import __version__, files
from mshare.errors import Conflict, MshareError
from mshare.host import procfs
from mshare.services import lock, status_file


@pytest.fixture(autouse=True)
def state_dir(tmp_path, monkeypatch):
    directory = tmp_path / "state"
    monkeypatch.setenv("MSHARE_STATE_DIR", str(directory))
    return directory


def test_names_of_files(state_dir):
    assert status_file.file("/run/msharefs", "sga", "owner") == f"{state_dir}/run-msharefs/sga.owner.json"
    assert (
        status_file.file("/run/msharefs", "sga", "clients", "log")
        == f"{state_dir}/run-msharefs/sga.clients.log"
    )


def test_what_is_written_is_read(state_dir):
    path = status_file.file("/m", "sga", "owner")
    status_file.write(path, {"pid": 7})
    assert status_file.read(path) == {
        "pid": 7,
        "schema_version": status_file.SCHEMA_VERSION,
        "version": __version__,
    }
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    assert status_file.names("/m", "owner") == ["sga"]
    assert status_file.names("/m", "clients") == []
    assert status_file.names("/none", "owner") == []


@pytest.mark.parametrize("text", [None, json.dumps({"schema_version": 99}), "{}"])
def test_no_status_of_a_known_version(tmp_path, text):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    assert status_file.read(str(path)) is None


def other_schema(path, schema):
    """A status file as another version of the library would write it, of this very process."""
    lasting = {"pid": os.getpid(), "started_ticks": procfs.start_ticks(os.getpid()), "version": "9.9.9"}
    path.write_text(json.dumps({"schema_version": schema, **lasting, "news": True}))
    return str(path)


@pytest.mark.parametrize("schema", [0, 2])
def test_a_process_that_another_schema_tells_of_is_left_alone(tmp_path, schema):
    path = other_schema(tmp_path / "x.json", schema)
    with pytest.raises(Conflict) as caught:
        status_file.read(path)
    assert str(caught.value) == (
        f"{path} was written by process {os.getpid()} of version 9.9.9 of the library in schema {schema}, and"
        f" this is version {__version__}, which reads schema 1 only; nothing is changed: use version"
        " 9.9.9 for what runs, or end it with that"
    )
    seen = status_file.look(path)
    assert (seen["pid"], seen["version"], seen["state"]) == (os.getpid(), "9.9.9", "unknown")
    assert seen["error"]["message"] == str(caught.value)
    assert "news" not in seen


def test_a_look_at_a_schema_that_is_known(tmp_path):
    path = str(tmp_path / "x.json")
    assert status_file.look(path) is None
    status_file.write(path, {"value": 1})
    assert status_file.look(path) == status_file.read(path)


def test_readers_never_see_a_half(tmp_path):
    path = str(tmp_path / "x.json")
    texts = [{"value": letter * 20000} for letter in "ab"]
    status_file.write(path, texts[0])
    ended = threading.Event()

    def write() -> None:
        for number in range(200):
            status_file.write(path, texts[number % 2])
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        assert len(set(status_file.read(path)["value"])) == 1
    thread.join()
    assert os.listdir(tmp_path) == ["x.json"], "nothing temporary is left"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = str(tmp_path / "x.json")
    status_file.write(path, {"value": "old"})
    with pytest.raises(TypeError):
        status_file.write(path, {"value": object()})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\ud800")
    assert status_file.read(path)["value"] == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_a_killed_writer_left_is_written_over_or_removed(tmp_path, monkeypatch):
    path = str(tmp_path / "x.json")
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", lambda *names: os._exit(9))
        if (writer := os.fork()) == 0:
            status_file.write(path, {"value": "half"})
        assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == 9
    assert os.listdir(tmp_path) == [".x.json.new"]
    status_file.write(path, {"value": "whole"})
    assert os.listdir(tmp_path) == ["x.json"]
    (tmp_path / ".x.json.new").touch()
    files.remove(path)
    assert os.listdir(tmp_path) == []


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
    path = status_file.file("/m", "sga", "owner", "lock")
    ready, go = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        with lock.locked(path, "region sga"):
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    with pytest.raises(Conflict) as caught, lock.locked(path, "region sga"):
        pytest.fail("two hold one lock")
    assert str(caught.value) == f"region sga is held by process {holder}; wait for it to end, or stop it"
    waited = pytest.raises(Conflict, match=rf"held by process {holder} for more than 0\.1 s;")
    with waited, lock.locked(path, "region sga", wait_seconds=0.1):
        pytest.fail("two hold one lock")
    os.write(go[1], b"x")
    with lock.locked(path, "region sga", wait_seconds=10):
        assert int((state_dir / "m" / "sga.owner.lock").read_text()) == os.getpid()
    os.waitpid(holder, 0)
    for end in (*ready, *go):
        os.close(end)


def test_a_killed_holder_leaves_no_lock(state_dir):
    path = status_file.file("/m", "sga", "owner", "lock")
    holder = os.fork()
    if holder == 0:
        with lock.locked(path, "region sga"):
            os.kill(os.getpid(), 9)
    os.waitpid(holder, 0)
    with lock.locked(path, "region sga"):
        pass


def test_whether_the_writer_of_a_status_lives():
    started = procfs.start_ticks(os.getpid())
    assert status_file.process_alive({"pid": os.getpid(), "started_ticks": started})
    assert not status_file.process_alive({"pid": os.getpid(), "started_ticks": started - 1})
    assert not status_file.process_alive(None)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_state_directory_that_somebody_else_made(state_dir):
    state_dir.mkdir()
    os.chown(state_dir, 65534, 65534)
    refused = pytest.raises(MshareError, match="belongs to somebody else, so nothing of ours goes there")
    with refused, lock.locked(status_file.file("/m", "sga", "owner", "lock"), "region sga"):
        pytest.fail("used it")
