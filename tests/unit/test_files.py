# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in directories that another, real user may write to."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import stat

import pytest

from mshare import files, paths
from mshare.backends import choose
from mshare.backends.simulated.layout import Layout
from mshare.errors import sentence
from mshare.mount import msharefs
from mshare.mount.spec import MountSpec
from rig import apart
from rig.other_user import UID, as_other, directory_of_other, needs_root, running_as_other

pytestmark = needs_root


@pytest.fixture
def theirs(shared):
    return directory_of_other(shared / "theirs")


@pytest.fixture
def victim(shared):
    path = shared / "victim"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


def untouched(victim):
    status = victim.stat()
    return (victim.read_text(), stat.S_IMODE(status.st_mode), status.st_uid) == ("secret\n", 0o600, 0)


# -- reading what somebody else points to


def foreign(path, **other):
    return files.read_foreign(str(path), uids={UID}, **other)


def test_their_own_file_is_read_up_to_the_limit(theirs):
    as_other(lambda: (theirs / "PG_VERSION").write_bytes(b"15\n\xff" + b"x" * 100))
    assert foreign(theirs / "PG_VERSION", limit_bytes=6) == "15\n�xx"
    assert foreign(theirs / "none") is None
    assert foreign(theirs / "PG_VERSION" / "none") is None


def make_device(path):
    os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a directory"),
        (make_device, "a device"),
        (make_socket, "a socket"),
    ],
)
def test_what_is_no_regular_file_is_refused_without_waiting(theirs, make, what):
    path = theirs / "PG_VERSION"
    make(path)
    for read in (foreign, lambda path: files.read_text(str(path))):
        with pytest.raises(files.NotTrusted) as caught:
            read(path)
        assert caught.value.reason == what
        sentence = f"{path} is {what}; remove it, or put a regular file of its owner there"
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("belongs", "name"),
    [(stat.S_IFIFO, "a FIFO"), (stat.S_IFSOCK, "a socket"), (stat.S_IFDIR, "a directory")],
)
def test_what_belongs_there_is_said(tmp_path, belongs, name):
    path = str(tmp_path / "here")
    files.write_text(path, "")
    with pytest.raises(files.NotTrusted) as caught:
        files.open_file(path, os.O_RDONLY, belongs)
    assert str(caught.value) == f"{path} is a regular file where {name} belongs; remove it"
    assert str(caught.value.then("do that")) == f"{path} is a regular file where {name} belongs; do that"


def test_a_directory_in_the_place_of_a_file_that_is_removed(tmp_path):
    path = str(tmp_path / "a.json")
    os.mkdir(path)
    with pytest.raises(IsADirectoryError) as caught:
        files.remove(path)
    assert sentence(caught.value) == (
        f"{path}: a directory is where a file belongs; remove it by hand (rmdir), then run this again"
        " (EISDIR)"
    )
    assert os.path.isdir(path)


@pytest.mark.parametrize("directly", [True, False])
def test_a_link_to_a_secret_is_refused(theirs, victim, directly):
    def point():
        if directly:
            (theirs / "PG_VERSION").symlink_to(victim)
        else:
            (theirs / "data").symlink_to(victim.parent)

    as_other(point)
    path = theirs / "PG_VERSION" if directly else theirs / "data" / "victim"
    with pytest.raises(files.NotTrusted, match=f"a symbolic link of uid {UID}, where others can make links"):
        foreign(path)
    with pytest.raises(files.NotTrusted, match="a symbolic link"):
        files.read_text(str(path))


def test_a_link_of_roots_that_they_could_have_moved_is_refused(theirs, victim):
    (theirs / "PG_VERSION").symlink_to(victim)
    with pytest.raises(files.NotTrusted, match="a symbolic link of uid 0, where others"):
        foreign(theirs / "PG_VERSION")


def test_a_link_of_roots_in_a_directory_of_roots_is_followed(shared, theirs):
    as_other(lambda: (theirs / "a").write_text("1"))
    (shared / "there").symlink_to(theirs)
    (shared / "relative").symlink_to("./../" + shared.name + "/there")
    assert foreign(shared / "there" / "a") == foreign(shared / "relative" / "a") == "1"
    (shared / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        foreign(shared / "loop")


@pytest.mark.parametrize(
    ("mode", "gid", "readable"),
    [(0o644, 0, True), (0o640, 7, True), (0o640, 0, False), (0o600, 7, False)],
)
def test_a_file_of_roots_is_read_only_where_they_may_read_it(theirs, mode, gid, readable):
    path = theirs / "postgresql.conf"
    path.write_text("port = 5433\n")
    os.chown(path, 0, gid)
    path.chmod(mode)
    if readable:
        assert foreign(path, gids={7}) == "port = 5433\n"
    else:
        with pytest.raises(files.NotTrusted, match=r"a file of root's that this user may not read"):
            foreign(path, gids={7})


def test_hard_links_and_strangers_files_are_refused(theirs, victim):
    victim.chmod(0o644)
    os.link(victim, theirs / "linked")
    with pytest.raises(files.NotTrusted, match=r"a file of root's with 2 hard links"):
        foreign(theirs / "linked")
    os.chown(theirs / "linked", UID + 1, -1)
    with pytest.raises(files.NotTrusted, match=f"a file of uid {UID + 1}, who is not trusted with it"):
        foreign(theirs / "linked")


def test_a_process_directory_is_read_through_proc(theirs, victim):
    def stay():
        os.chdir(theirs)
        (theirs / "PG_VERSION").write_text("15\n")
        (theirs / "up").symlink_to("../victim")
        os.write(ready[1], b"x")
        os.read(wait[0], 1)

    ready, wait = os.pipe(), os.pipe()
    with running_as_other(stay) as pid:
        os.read(ready[0], 1)
        assert foreign(f"/proc/{pid}/cwd/PG_VERSION") == "15\n"
        assert foreign(f"/proc/{pid}/root{theirs}/PG_VERSION") == "15\n"
        assert foreign(f"/proc/{pid}/root/../../{theirs}/PG_VERSION") == "15\n"
        with pytest.raises(files.NotTrusted):
            foreign(f"/proc/{pid}/cwd/up")
    assert foreign(f"/proc/{pid}/cwd/PG_VERSION") is None


# -- writing where somebody else may write


def test_writing_replaces_a_link_and_leaves_its_target(theirs, victim):
    as_other(lambda: (theirs / "environment").symlink_to(victim))
    files.write_text(str(theirs / "environment"), "new\n", 0o640, UID, UID)
    assert untouched(victim)
    assert not (theirs / "environment").is_symlink()
    assert files.access_of(str(theirs / "environment")) == files.Access(0o640, UID, UID)


def test_writing_below_a_link_of_theirs_is_refused(theirs, shared):
    as_other(lambda: (theirs / "conf.d").symlink_to(shared))
    with pytest.raises(files.NotTrusted, match="a symbolic link"):
        files.write_text(str(theirs / "conf.d" / "victim"), "new\n")
    with pytest.raises(files.NotTrusted, match="a symbolic link"):
        files.write_text(str(theirs / "conf.d" / "new" / "victim"), "new\n")
    assert sorted(os.listdir(shared)) == ["theirs"]


def test_no_swap_between_replacing_and_changing_the_owner_wins(theirs, victim):
    """As PostgreSQL's user, who owns its configuration directory, would try it."""
    path = theirs / "environment"

    def swap():
        link = theirs / "link"
        for __ in itertools.count():
            try:
                link.symlink_to(victim)
                os.rename(link, path)
            except OSError:
                continue

    with running_as_other(swap):
        for __ in range(300):
            files.write_text(str(path), "new\n", 0o644, UID, UID, durable=False)
            try:
                files.set_access(str(path), files.Access(0o666, UID, UID))
            except (files.NotTrusted, FileNotFoundError):
                continue
        assert untouched(victim)


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_access_never_goes_where_a_link_leads(theirs, victim, make):
    make(victim, theirs / "sga")
    with pytest.raises(files.NotTrusted, match=r"a symbolic link|2 hard links"):
        files.set_access(str(theirs / "sga"), files.Access(0o666, UID, UID))
    assert untouched(victim)


def test_access_is_given_to_the_file_that_was_meant(theirs):
    as_other(lambda: (theirs / "sga").write_text(""))
    inode = (theirs / "sga").stat().st_ino
    with pytest.raises(files.NotTrusted, match="not the file that was created there"):
        files.set_access(str(theirs / "sga"), files.Access(0o666), inode + 1)
    files.set_access(str(theirs / "sga"), files.Access(0o640, 0, 7), inode)
    assert files.access_of(str(theirs / "sga")) == files.Access(0o640, 0, 7)
    files.set_access(str(theirs), files.Access(0o711))
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o711


def test_what_a_killed_writer_left_goes_with_the_next_write_and_links_to_it_stay(theirs, victim):
    left = [theirs / ".a.new", theirs / ".a.0123456789abcdef.new"]
    for path in left:
        path.touch()
    (theirs / ".a.0000000000000000.new").symlink_to(victim)
    (theirs / ".a.txt.new").touch()
    files.write_text(str(theirs / "a"), "1")
    assert sorted(os.listdir(theirs)) == [".a.0000000000000000.new", ".a.txt.new", "a"]
    assert untouched(victim)


@pytest.mark.parametrize("step", ["open", "write", "fchown", "fchmod", "rename"])
def test_a_kill_leaves_the_old_or_the_new_file_with_its_right_owner(theirs, step):
    """Killed before each step of replacing a file."""
    path = theirs / "environment"
    files.write_text(str(path), "old", 0o640, UID, UID)
    child = apart.fork()
    if child == 0:
        original = getattr(os, step)

        def killed(*words, **named):
            if step == "open" and not words[1] & os.O_CREAT:
                return original(*words, **named)
            os._exit(9)

        setattr(os, step, killed)
        files.write_text(str(path), "new", 0o640, UID, UID)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_text() == "old"
    assert files.access_of(str(path)) == files.Access(0o640, UID, UID)
    files.remove(str(path))
    assert os.listdir(theirs) == []


def test_a_writer_that_lives_is_not_swept_away(theirs):
    """Many write one file at once: each succeeds, and nothing is left."""
    children = []
    for number in range(6):
        if (child := apart.fork()) == 0:
            with contextlib.suppress(OSError):
                for __ in range(50):
                    files.write_text(str(theirs / "x"), str(number) * 5000, durable=False)
                os._exit(0)
            os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert os.listdir(theirs) == ["x"]
    assert len(set((theirs / "x").read_text())) == 1


def test_a_writer_that_is_taken_for_dead_writes_again(theirs, monkeypatch):
    """Whoever sweeps opens the new file and locks it, before its writer does."""
    answers = [BlockingIOError(errno.EAGAIN, "locked by who sweeps"), None]
    tried = []

    def flock(fd, operation):
        tried.append(operation)
        if answer := answers.pop(0):
            raise answer

    monkeypatch.setattr(files.fcntl, "flock", flock)
    files.write_text(str(theirs / "x"), "whole")
    assert len(tried) == 2
    assert os.listdir(theirs) == ["x"]
    assert (theirs / "x").read_text() == "whole"


def test_what_dead_writers_left_is_swept_away_and_nothing_else(theirs):
    for name in (".x.0123456789abcdef.new", ".y.0123456789abcdef.new", "x", ".x.new.conf"):
        (theirs / name).touch()
    files.sweep(str(theirs / "x"), str(theirs / "none" / "x"))
    assert sorted(os.listdir(theirs)) == [".x.new.conf", ".y.0123456789abcdef.new", "x"]


def test_removing_stays_in_the_directory_that_was_meant(theirs, shared, victim):
    as_other(lambda: (theirs / "conf.d").symlink_to(shared))
    with pytest.raises(files.NotTrusted):
        files.remove(str(theirs / "conf.d" / "victim"))
    files.remove_empty(str(theirs / "conf.d" / "theirs"))
    assert untouched(victim)
    files.remove(str(theirs / "conf.d"))
    assert os.listdir(theirs) == []


# -- directories of ours


def test_making_a_directory_twice_is_fine(shared):
    for __ in range(2):
        files.make_directory(str(shared / "a" / "b"), 0o750)
    assert stat.S_IMODE((shared / "a" / "b").stat().st_mode) == 0o750
    (shared / "link").symlink_to("a")
    files.make_directory(str(shared / "link" / "b"))
    files.make_directory(str(shared / "link"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), f"belongs to uid {UID}"),
        (lambda path: path.symlink_to("theirs"), "is a symbolic link"),
        (lambda path: path.write_text(""), "is a regular file"),
    ],
)
def test_a_directory_that_somebody_else_made_first_is_refused(shared, theirs, make, reason):
    """As in /dev/shm, where everybody may make one by the name that root's will have."""
    shared.chmod(0o1777)
    as_other(lambda: make(shared / "msharefs-0"))
    with pytest.raises(files.NotOurs) as caught:
        files.make_directory(str(shared / "msharefs-0"))
    assert str(caught.value) == (
        f"{shared}/msharefs-0 {reason}, so mshare does not use it; remove it, or choose another place"
        " (MSHARE_STATE_DIR, MSHARE_CACHE_DIR, --root)"
    )


def test_an_ordinary_user_s_msharefs_that_somebody_else_made(shared, monkeypatch):
    """/dev/shm/msharefs-UID is a name that everybody knows."""
    shared.chmod(0o1777)
    trap = shared / f"msharefs-{UID}"
    trap.mkdir()
    Layout.create(str(trap), "2025-08").set_access(0o777)
    os.chown(trap, UID + 1, UID + 1)
    trap.chmod(0o777)
    monkeypatch.setattr(paths, "simulated_root", lambda: str(trap))

    def attach():
        with pytest.raises(files.NotOurs, match=f"belongs to uid {UID + 1}, so mshare does not use it"):
            choose.locate("simulated")
        os_spec = MountSpec("simulated", str(trap), generation="2025-08")
        with pytest.raises(files.NotOurs):
            msharefs.mount(os_spec)

    as_other(attach)


def test_a_directory_of_ours_that_others_may_write_to_is_refused(shared):
    (shared / "state").mkdir()
    (shared / "state").chmod(0o777)
    with pytest.raises(files.NotOurs, match=r"may be changed by others \(mode 0777\)"):
        files.make_directory(str(shared / "state"))
