# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door of a region without a file: who gets the descriptor, and what hostile visitors and doors do."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import threading
from types import SimpleNamespace

import pytest

from conformance.actors import crowd
from mshare import files
from mshare.backends import root as roots
from mshare.backends.simulated import door
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.backends.simulated.layout import Layout
from mshare.errors import Conflict, sentence
from mshare.units import MIB
from rig import patience
from rig.apart import die_with
from rig.faults import open_files
from rig.other_user import UID, as_other, needs_root, running_as_other

MEMBER = 54322
"""A user in the group UID."""
WINDOW = 2 * MIB


@pytest.fixture
def root(shared):
    path = shared / "msharefs"
    path.mkdir()
    gid = UID if os.geteuid() == 0 else -1
    Layout.create(str(path), "2026-05", WINDOW).set_access(0o1770, gid)
    return path


@pytest.fixture
def backend(root):
    return SimulatedBackend(str(root))


@pytest.fixture
def region(backend):
    """As an owner makes it for a group."""
    made = backend.open("sga", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if os.geteuid() == 0:
        made.set_access(0o660, -1, UID)
    made.set_size(WINDOW)
    yield made
    made.close()


def path_of(root):
    return str(root / ".simulated" / "sga.door")


ACCESS = (
    # uid, gids, mode of a file of 1000:2000, how it may be opened
    (0, {0}, 0o000, os.O_RDWR),
    (1000, {1000}, 0o600, os.O_RDWR),
    (1000, {1000}, 0o400, os.O_RDONLY),
    (1000, {2000}, 0o066, None),
    (1001, {2000}, 0o660, os.O_RDWR),
    (1001, {1001, 2000}, 0o640, os.O_RDONLY),
    (1001, {2000}, 0o606, None),
    (1001, {1001}, 0o660, None),
    (1001, {1001}, 0o604, os.O_RDONLY),
    (1001, {1001}, 0o606, os.O_RDWR),
    # For writing alone there is nothing to give.
    (1001, {2000}, 0o620, None),
)


@pytest.mark.parametrize(("uid", "gids", "mode", "access"), ACCESS)
def test_the_mode_decides(uid, gids, mode, access):
    file = SimpleNamespace(st_mode=stat.S_IFREG | mode, st_uid=1000, st_gid=2000)
    assert door.Peer(uid, frozenset(gids)).access(file) == access


def test_nothing_is_left_open(backend, root):
    # The first starts the threads, which stay.
    for number in range(4):
        if number == 1:
            before = open_files()
        made = backend.open("sga", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        made.set_size(WINDOW)
        again = backend.open("sga", os.O_RDONLY)
        again.attach(WINDOW, 1).detach()
        again.close()
        made.close()
    # The doorman lets a visitor go some moments after it was answered.
    patience.eventually(lambda: len(open_files()) == len(before))
    assert os.listdir(root / ".simulated") == ["layout.json"]


@pytest.mark.parametrize(("mode", "door_mode"), [(0o600, 0o600), (0o660, 0o660), (0o640, 0o660), (0o000, 0)])
def test_no_others_may_come_than_those_that_the_region_is_for(region, root, mode, door_mode):
    region.set_access(mode)
    status = os.stat(path_of(root))
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == door_mode
    roots.set_region_access(str(root), "sga", 0o600, -1, -1)
    assert stat.S_IMODE(os.stat(path_of(root)).st_mode) == 0o600


def test_a_door_is_made_closed_to_others_whatever_the_umask(backend, root):
    before = os.umask(0)
    try:
        made = backend.open("sga", os.O_RDWR | os.O_CREAT, 0o600)
        assert stat.S_IMODE(os.stat(path_of(root)).st_mode) == 0o600
    finally:
        os.umask(before)
    made.close()


def test_a_name_longer_than_a_socket_s_path(backend):
    name = "a" * 128
    made = backend.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    backend.open(name, os.O_RDWR).close()
    made.close()
    assert backend.names() == []


# -- who gets it


@needs_root
def test_a_member_of_the_group_by_a_supplementary_group(region, backend):
    def member() -> None:
        with contextlib.closing(backend.open("sga", os.O_RDWR)) as mine:
            mine.attach(WINDOW).detach()

    as_other(member, MEMBER, (UID,))


@needs_root
def test_the_mode_of_the_name_decides_and_not_that_of_the_door(region, root):
    """Somebody came to the door before the region was closed to its group."""
    os.chmod(root / "sga", 0o600)

    def member() -> None:
        with pytest.raises(PermissionError) as caught:
            door.call(path_of(root), "sga", 0)
        assert (caught.value.errno, caught.value.filename) == (errno.EACCES, path_of(root))

    as_other(member, MEMBER, (UID,))


@needs_root
def test_a_stranger_does_not_get_as_far_as_the_door(region, root):
    (root).chmod(0o777)
    (root / ".simulated").chmod(0o777)

    def stranger() -> None:
        with pytest.raises(PermissionError):
            door.call(path_of(root), "sga", 0)

    as_other(stranger, MEMBER)


@needs_root
def test_who_may_only_read_is_given_what_cannot_be_written_to(region, root):
    region.set_access(0o640)

    def member() -> None:
        fd = door.call(path_of(root), "sga", 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted"):
            os.ftruncate(fd, 0)

    as_other(member, MEMBER, (UID,))


# -- hostile visitors


def connected(path):
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.connect(path)
    return made


@pytest.fixture
def visit(root):
    """Come to the door, and take nothing."""
    with contextlib.ExitStack() as visitors:
        yield lambda: visitors.enter_context(connected(path_of(root)))
    patience.eventually(lambda: not counted())


def counted():
    """The doorman's ends of the connections of those who have not taken what they were given."""
    return [visitor for visitor, __ in list(door.DOORMAN._visitors.values())]


@pytest.mark.parametrize("sent", [b"", b"\0", b"+" * 4096, b"\xff" * 100])
def test_what_visitors_say_is_not_read(region, backend, visit, sent):
    visitors = [visit() for __ in range(10)]
    for visitor in visitors:
        with contextlib.suppress(OSError):
            for __ in range(100):
                visitor.send(sent, socket.MSG_DONTWAIT)
    backend.open("sga", os.O_RDWR).close()
    for visitor in visitors:
        visitor.close()
    patience.eventually(lambda: not counted())


@needs_root
def test_visitors_that_take_nothing_are_in_nobody_else_s_way(region, backend, root):
    """A member of the group comes again and again, and takes nothing: it is told to come later."""
    reader, writer = os.pipe()

    def hostile() -> None:
        held = []
        while len(held) < 3 * door._VISITORS_OF_A_USER:
            held.append(connected(path_of(root)))
        answers = [visitor.recv(1) for visitor in held[-door._VISITORS_OF_A_USER :]]
        os.write(writer, b"1" if set(answers) == {door.BUSY} else b"0")
        signal.pause()

    with running_as_other(hostile, MEMBER, (UID,)):
        assert os.read(reader, 1) == b"1"
        assert len(counted()) == door._VISITORS_OF_A_USER
        for __ in range(3):
            backend.open("sga", os.O_RDWR).close()
    patience.eventually(lambda: not counted())
    os.close(reader)
    os.close(writer)


def test_a_visitor_that_hangs_up_without_taking_it_is_still_counted(region, root, visit):
    """What it was given is on its way as long as it does not take it, or go."""
    visitor = visit()
    patience.eventually(counted)
    (first,) = counted()
    visitor.shutdown(socket.SHUT_RDWR)
    # Answered after the doorman was told of it.
    os.close(door.call(path_of(root), "sga", os.geteuid()))
    patience.eventually(lambda: counted() == [first])
    visitor.close()
    patience.eventually(lambda: not counted())


def test_a_visitor_that_takes_it_late_is_let_go(region, visit):
    visitor = visit()
    patience.eventually(counted)
    answer, (fd,), __, __ = socket.recv_fds(visitor, 1, 1)
    assert answer == door.GIVEN
    os.close(fd)
    patience.eventually(lambda: not counted())


def test_too_many_altogether_are_told_to_come_again(region, root, visit, monkeypatch):
    monkeypatch.setattr(door, "_VISITORS", 2)
    visitors = [visit() for __ in range(3)]
    assert visitors[2].recv(1) == door.BUSY
    got = []
    calling = threading.Thread(target=lambda: got.append(door.call(path_of(root), "sga", os.geteuid())))
    calling.start()
    for visitor in visitors:
        visitor.close()
    calling.join()
    assert len(got) == 1
    os.close(got[0])


def test_descriptors_that_are_on_their_way_in_too_large_a_number(region, root, monkeypatch):
    """ETOOMANYREFS, which root does not get: it is told to come again, and the doorman goes on."""
    real, failed = socket.send_fds, []

    def send_fds(*arguments: object) -> int:
        if not failed:
            failed.append(arguments)
            raise OSError(errno.ETOOMANYREFS, "")
        return real(*arguments)

    monkeypatch.setattr(door.socket, "send_fds", send_fds)
    os.close(door.call(path_of(root), "sga", os.geteuid()))
    assert failed


def test_an_owner_without_descriptors_answers_once_it_has_some(root):
    """Its door stays, and so does its thread."""
    told, tell = os.pipe()
    ready, say = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            die_with(parent)
            made = SimulatedBackend(str(root)).open("sga", os.O_RDWR | os.O_CREAT, 0o600)
            made.set_size(WINDOW)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            os.write(say, b"x")
            os.read(told, 1)
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            os.read(told, 1)
            code = 0
        finally:
            os._exit(code)
    os.read(ready, 1)
    got = []
    calling = threading.Thread(target=lambda: got.append(door.call(path_of(root), "sga", os.geteuid())))
    calling.start()
    os.write(tell, b"x")
    calling.join()
    assert len(got) == 1
    os.write(tell, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (*got, told, tell, ready, say):
        os.close(fd)


def test_a_client_without_descriptors_is_told_so_and_keeps_none(region, backend):
    """With every number of free descriptors that is too small, from none on."""

    def few(free: int) -> int | None:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        holes = [os.dup(0) for __ in range(highest + 1 - len(os.listdir("/proc/self/fd")))]
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = len(open_files())
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest + 1, count) + free, before[1]))
        try:
            backend.open("sga", os.O_RDWR).close()
        except OSError as error:
            return error.errno
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert len(open_files()) == count
            for fd in holes:
                os.close(fd)
        return None

    def client(_number: int) -> None:
        answers = [few(free) for free in range(20)]
        assert answers[-1] is None
        assert {answer for answer in answers if answer is not None} == {errno.EMFILE}

    # Apart from the owner, whose thread opens and closes descriptors as well.
    assert crowd(1, client) == [0]


def test_an_owner_that_forked_and_is_killed_leaves_nobody_waiting(root, backend):
    """The child has a copy of the socket, and would never answer."""
    ready, say = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with(parent)
            SimulatedBackend(str(root)).open("sga", os.O_RDWR | os.O_CREAT, 0o600).set_size(WINDOW)
            child = os.fork()
            if child == 0:
                die_with(os.getppid())
                os.write(say, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="ended with its owner") as caught:
        backend.open("sga", os.O_RDWR)
    assert sentence(caught.value) == (
        f"{root}/sga: the region ended with its owner (ESTALE); remove its name with `mshare rm` (--force"
        " while its owner lives), then create it again"
    )
    backend.unlink("sga")
    os.close(ready)
    os.close(say)


# -- hostile doors


@contextlib.contextmanager
def another_door(path, answer):
    """Somebody else's socket in the place of a door, which answers in a way of its own."""
    os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, __ = listener.accept()
                answer(visitor)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        serving.join()


def with_fds(count):
    def answer(visitor: socket.socket) -> None:
        fds = [os.memfd_create("other") for __ in range(count)]
        socket.send_fds(visitor, [door.GIVEN], fds)
        for fd in fds:
            os.close(fd)
        visitor.close()

    return answer


def with_bytes(data):
    def answer(visitor: socket.socket) -> None:
        if data:
            visitor.send(data)
        visitor.close()

    return answer


@pytest.mark.parametrize(
    "answer",
    [with_bytes(b""), with_bytes(b"x"), with_bytes(door.GIVEN), with_bytes(b"x" * 5000), with_fds(2)],
    ids=["nothing", "garbage", "no descriptor", "a lot", "two descriptors"],
)
def test_a_door_that_answers_nonsense_is_nobody_s(region, backend, root, answer):
    before = len(open_files())
    with another_door(path_of(root), answer), pytest.raises(OSError, match="nobody answers") as caught:
        backend.open("sga", os.O_RDWR)
    assert caught.value.errno == errno.ESTALE
    patience.eventually(lambda: len(open_files()) == before)


def test_a_door_that_gives_another_file(region, backend, root):
    not_this = pytest.raises(files.NotTrusted, match="not the door of this region; `mshare rm sga --force`")
    with another_door(path_of(root), with_fds(1)), not_this:
        backend.open("sga", os.O_RDWR)


def test_a_door_that_never_answers(region, backend, root, monkeypatch):
    """As an owner that is stopped."""
    monkeypatch.setattr(door, "_ANSWER_SECONDS", 0.05)
    held = []
    with another_door(path_of(root), held.append), pytest.raises(Conflict) as caught:
        backend.open("sga", os.O_RDWR)
    assert str(caught.value) == (
        f"the owner of region sga does not answer at {path_of(root)}; see whether it is stopped"
    )
    for visitor in held:
        visitor.close()


def test_a_door_that_is_always_busy(region, backend, root, monkeypatch):
    monkeypatch.setattr(door, "_CALLS", 3)
    monkeypatch.setattr(door, "_CALL_SECONDS", 0)
    with another_door(path_of(root), with_bytes(door.BUSY)), pytest.raises(Conflict) as caught:
        backend.open("sga", os.O_RDWR)
    assert str(caught.value) == (
        f"the owner of region sga has been busy for too long at {path_of(root)}; see who else asks it"
    )


@needs_root
def test_another_user_s_door(region, backend, root):
    """Who may write beside the regions puts a socket of its own in a door's place."""
    path = path_of(root)
    os.unlink(path)
    ready, say = os.pipe()

    def hostile() -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen()
        os.write(say, b"x")
        signal.pause()

    with running_as_other(hostile):
        os.read(ready, 1)
        with pytest.raises(files.NotTrusted, match="a socket of neither root nor the region's owner"):
            backend.open("sga", os.O_RDWR)
    os.close(ready)
    os.close(say)


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda path, elsewhere: os.symlink(elsewhere, path), "a symbolic link where a socket belongs"),
        (lambda path, elsewhere: os.link(elsewhere, path), "a file with 2 hard links"),
        (lambda path, elsewhere: os.mkfifo(path), "a FIFO where a socket belongs"),
        (lambda path, elsewhere: os.mkdir(path), "a directory where a socket belongs"),
        (lambda path, elsewhere: open(path, "w").close(), "a regular file where a socket belongs"),
    ],
    ids=["link", "hard link", "fifo", "directory", "file"],
)
def test_something_else_in_the_place_of_a_door(region, backend, root, shared, put, said):
    elsewhere = str(shared / "elsewhere")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(elsewhere)
    mode = os.stat(elsewhere).st_mode
    os.unlink(path_of(root))
    put(path_of(root), elsewhere)
    for use in (
        lambda: backend.open("sga", os.O_RDWR),
        lambda: roots.set_region_access(str(root), "sga", 0o666, -1, -1),
    ):
        with pytest.raises(files.NotTrusted) as caught:
            use()
        assert str(caught.value) == (
            f"{path_of(root)} is {said}; `mshare rm sga --force` ends what is left of the region"
        )
    assert os.stat(elsewhere).st_mode == mode
    if os.path.isdir(path_of(root)):
        os.rmdir(path_of(root))
    listener.close()


@pytest.mark.parametrize("put", [lambda path: None, lambda path: socket.socket(socket.AF_UNIX).bind(path)])
def test_a_door_at_which_nobody_listens(region, backend, root, put, monkeypatch):
    """The owner lives, so the region did not end with it."""
    monkeypatch.setattr("mshare.backends.simulated.backend._DOOR_PAUSE_SECONDS", 0)
    os.unlink(path_of(root))
    put(path_of(root))
    with pytest.raises(OSError, match="nobody answers") as caught:
        backend.open("sga", os.O_RDWR)
    assert sentence(caught.value) == (
        f"{root}/sga: its owner (process {os.getpid()}) lives, but nobody answers at {path_of(root)}"
        " (ESTALE); remove its name with `mshare rm` (--force while its owner lives), then create it again"
    )


def test_a_door_that_is_just_being_made_is_waited_for(region, backend, root, monkeypatch):
    kept, looks = f"{path_of(root)}.kept", []

    def pause(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            os.rename(kept, path_of(root))

    os.rename(path_of(root), kept)
    monkeypatch.setattr("mshare.backends.simulated.backend.time.sleep", pause)
    backend.open("sga", os.O_RDWR).close()
    assert len(looks) == 3


def test_what_a_killed_maker_left_goes_with_the_root(backend, root):
    left = root / ".simulated" / ".door.0123456789abcdef.new"
    socket.socket(socket.AF_UNIX).bind(str(left))
    roots.take_down(str(root))
    assert not left.exists()


def test_the_access_of_a_name_without_a_door(region, root):
    """As a killed owner may leave it, whose door somebody took away."""
    os.unlink(path_of(root))
    roots.set_region_access(str(root), "sga", 0o640, -1, -1)
    assert stat.S_IMODE(os.stat(root / "sga").st_mode) == 0o640
