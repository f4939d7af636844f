# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the keeper of files' regions answers, and to whom it gives a region."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare import paths
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.backends.simulated.layout import Files, Layout
from mshare.errors import Conflict, InvalidRequest, Unavailable
from mshare.preload import keeper
from mshare.preload.keeper import ANSWER, QUESTION, VERSION, Answer, Keeper
from mshare.services import lock
from rig import killed
from rig.faults import fail_at, open_files

SIZE = 4 << 20
C_SIZES = r"""
#include <stdio.h>
#include "abi.h"
int main(void)
{
    printf("%zu %zu %d\n", sizeof(struct keeper_question), sizeof(struct keeper_answer), KEEPER_VERSION);
}
"""


@pytest.fixture
def backend(tmp_path: Path) -> SimulatedBackend:
    root = tmp_path / "root"
    root.mkdir()
    Layout.create(str(root), "2025-08", 1 << 30)
    return SimulatedBackend(str(root))


def test_what_a_killed_keeper_was_making_or_removing_is_cleared_away(backend: SimulatedBackend) -> None:
    """Wherever it was killed: the next one leaves the root as it was, and what is not a keeper's alone."""
    others = backend.open("files.of.others", os.O_RDWR | os.O_CREAT, 0o600)
    untouched = sorted(Path(backend.root).rglob("*"))

    def make_and_remove() -> None:
        name = f"files.{os.getpid()}.1"
        file = backend.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        file.set_size(backend.alignment_bytes)
        backend.unlink(name)
        file.close()

    calls = []
    for call in killed.at_each_call(make_and_remove):
        calls.append(call)
        keeper._clear_away(backend)
        assert sorted(Path(backend.root).rglob("*")) == untouched, call
    assert len(calls) > 8
    others.close()


def test_a_region_that_is_just_being_made_is_not_cleared_away(
    backend: SimulatedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LOOKS", 2)
    name = Path(backend.root) / "files.1.1"
    with Files(backend.root).names_locked("files.1.1"):
        name.write_text("")
        keeper._clear_away(backend)
        assert name.exists()
    keeper._clear_away(backend)
    assert not name.exists()


@pytest.fixture
def asked(backend: SimulatedBackend, tmp_path: Path) -> Iterator[Asked]:
    with Asked(backend, tmp_path) as made:
        yield made


class Asked(contextlib.ExitStack):
    """A keeper that is asked from here, and a file."""

    def __init__(self, backend: SimulatedBackend, directory: Path) -> None:
        super().__init__()
        self.backend = backend
        self.path = directory / "file"
        self.path.write_bytes(bytes(SIZE))
        users_fd = os.open(directory / "users", os.O_RDWR | os.O_CREAT)
        self.callback(os.close, users_fd)
        self.keeper = Keeper(backend, users_fd)
        self.program, self.other_end = (self.enter_context(end) for end in socket.socketpair(socket.AF_UNIX))

    def ask(
        self,
        flags: int = os.O_RDONLY,
        writable: int = 0,
        offset: int = 0,
        size: int = SIZE,
        version: int = VERSION,
    ) -> tuple[Answer, int | None]:
        fd = os.open(self.path, flags)
        try:
            return self.about(fd, QUESTION.pack(version, writable, offset, size))
        finally:
            os.close(fd)

    def about(self, fd: int, question: bytes) -> tuple[Answer, int | None]:
        answer, region_fd = self.keeper.answer(self.program, question, [fd])
        if region_fd is not None:
            self.callback(os.close, region_fd)
        return answer, region_fd


def test_the_messages_are_those_of_the_preload(tmp_path: Path) -> None:
    (tmp_path / "sizes.c").write_text(C_SIZES)
    source = os.path.join(paths.PACKAGE, "preload", "src")
    command = ["cc", "-I", source, "-o", str(tmp_path / "sizes"), str(tmp_path / "sizes.c")]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(QUESTION.size), str(ANSWER.size), str(VERSION)]


def test_an_answer_there_and_back() -> None:
    answer = Answer(0, "files.1.2", 1 << 39, 1 << 39)
    assert Answer.unpack(answer.pack()) == answer
    assert Answer.unpack(Answer(1, "é" * 400).pack()).text.startswith("ééé")


@pytest.mark.parametrize("message", [b"", b"x" * ANSWER.size, b"x"])
def test_the_answer_of_another_version(message: bytes) -> None:
    with pytest.raises(Conflict, match="is of another version of the library"):
        Answer.unpack(message)


def test_the_same_part_is_the_same_region(asked: Asked) -> None:
    first, fd = asked.ask()
    again, other_fd = asked.ask(os.O_RDWR)
    assert (first.code, first.window_bytes, first.alignment_bytes) == (0, 1 << 30, 1 << 30)
    assert first == again
    assert fd != other_fd
    names = {first.text, asked.ask(os.O_RDWR, writable=1)[0].text, asked.ask(offset=4096, size=8192)[0].text}
    assert sorted(names) == asked.backend.names()
    assert len(names) == 3


def test_a_region_shows_the_file_with_its_protection(asked: Asked) -> None:
    answer, __ = asked.ask(size=8192, offset=4096)
    (mapping,) = asked.backend.open(answer.text, os.O_RDONLY).mappings() or []
    assert (mapping.kind, mapping.prot, mapping.path) == ("file", 1, str(asked.path))
    assert (mapping.offset, mapping.size_bytes, mapping.object_offset) == (0, 8192, 4096)


def test_a_program_keeps_a_region_by_its_lock(asked: Asked) -> None:
    __, fd = asked.ask()
    assert fd is not None
    with pytest.raises(BlockingIOError):
        fcntl.flock(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("flags", "writable", "code", "text"),
    [
        (os.O_RDONLY, 1, errno.EACCES, "the program has not opened it for that"),
        (os.O_WRONLY, 0, errno.EACCES, "the program has not opened it for that"),
        (os.O_PATH, 0, errno.EACCES, "the program has not opened it for that"),
    ],
)
def test_a_file_must_be_open_for_what_is_asked(
    asked: Asked, flags: int, writable: int, code: int, text: str
) -> None:
    answer, fd = asked.ask(flags, writable)
    assert (answer.code, answer.text, fd) == (code, text, None)
    assert asked.backend.names() == []


@pytest.mark.parametrize(
    ("question", "code", "text"),
    [
        (QUESTION.pack(VERSION + 1, 0, 0, SIZE), errno.EPROTO, "of another version"),
        (b"", errno.EPROTO, "of another version"),
        (QUESTION.pack(VERSION, 0, 1, SIZE), errno.EINVAL, "no part of a file"),
        (QUESTION.pack(VERSION, 0, 0, 17), errno.EINVAL, "no part of a file"),
        (QUESTION.pack(VERSION, 0, 0, 1 << 60), errno.EFBIG, "cannot make a region of it (File too large)"),
    ],
)
def test_a_question_that_makes_no_sense(asked: Asked, question: bytes, code: int, text: str) -> None:
    with open(asked.path, "rb") as file:
        answer, fd = asked.about(file.fileno(), question)
    assert (answer.code, fd) == (code, None)
    assert text in answer.text
    assert asked.backend.names() == []


def test_what_is_no_file(asked: Asked, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    answer, __ = asked.about(fd, QUESTION.pack(VERSION, 0, 0, SIZE))
    os.close(fd)
    assert (answer.code, answer.text) == (errno.EINVAL, "it is not a regular file")


def test_another_file_under_its_name(asked: Asked, tmp_path: Path) -> None:
    """And one without any: the keeper opens it by itself, or not at all."""
    with open(asked.path, "rb") as file:
        question = QUESTION.pack(VERSION, 0, 0, SIZE)
        (tmp_path / "other").write_bytes(bytes(SIZE))
        os.rename(tmp_path / "other", asked.path)
        gone, __ = asked.about(file.fileno(), question)
        (tmp_path / "file (deleted)").write_bytes(bytes(SIZE))
        other, __ = asked.about(file.fileno(), question)
    assert (gone.code, "the keeper cannot open it (No such file" in gone.text) == (errno.ENOENT, True)
    assert (other.code, other.text) == (errno.ESTALE, "under its name there is another file by now")


def test_it_is_there(asked: Asked) -> None:
    answer, __ = asked.keeper.answer(asked.program, QUESTION.pack(VERSION, 0, 0, 0), [])
    assert answer == Answer(0, str(os.getpid()))


def test_a_place_without_room_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_STATE_DIR", "/run/" + "long" * 30)
    with pytest.raises(InvalidRequest, match="longer than the 107 bytes that the address of a socket has"):
        keeper.socket_path("/run/msharefs")


def test_one_place_for_each_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_STATE_DIR", "/run/mine")
    assert keeper.socket_path("/run/msharefs") == keeper.socket_path("/run/./msharefs/")
    assert keeper.socket_path("/run/msharefs") != keeper.socket_path("/sys/fs/mshare")


def test_nobody_answers(tmp_path: Path) -> None:
    assert keeper.ask(str(tmp_path / "none.sock")) is None


def test_one_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_STATE_DIR", "/run/mshare-test")
    with pytest.raises(Unavailable, match=r"the keeper of files did not start \(no room\)"):
        keeper.ensure("/run/msharefs", ["sh", "-c", "echo no room >&2; exit 1"])


@pytest.mark.parametrize("generation", ["2022-06", "2024-09", "2025-01", "2025-04"])
def test_generations_without_files(tmp_path: Path, generation: str) -> None:
    Layout.create(str(tmp_path), generation, 1 << 30)
    with pytest.raises(Unavailable, match=f"regions of generation {generation} at .* take no files"):
        keeper.require_files(SimulatedBackend(str(tmp_path)))


def test_a_lock_that_cannot_be_had_is_an_answer_and_leaves_nothing_open(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.ask()
    before = open_files()
    with monkeypatch.context() as patch:
        fail_at(patch, fcntl, "flock", range(1, 100), errno.ENOLCK)
        answer, region_fd = asked.ask()
    assert (answer.code, region_fd) == (errno.ENOLCK, None)
    assert "No locks available" in answer.text
    assert open_files() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_as_soon_as_it_is_ready(
    backend: SimulatedBackend, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Whoever reads that it is ready may be quicker than it."""
    monkeypatch.setattr(keeper, "_raise_limits", lambda: None)
    # The path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="keeper.") as place:
        monkeypatch.setenv("MSHARE_STATE_DIR", place)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                keeper.run(backend, lambda path: os.kill(os.getpid(), number))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not os.path.exists(keeper.socket_path(backend.root))
