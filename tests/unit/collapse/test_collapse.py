# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Huge pages for the shared memory of real processes that run."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mshare.cli.program import mshare
from mshare.collapse import collapse, follow, preflight, ranges, spec, target
from mshare.errors import InvalidRequest, MshareError, Unavailable
from mshare.host import processes
from mshare.kernel import madvise
from mshare.units import GIB, KIB, MIB
from rig.survey_parts import map_shared, running, sysv, touch

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root changes the memory of other processes"),
    pytest.mark.skipif(not madvise.can_collapse(), reason="this kernel has no MADV_COLLAPSE"),
]

SIZE = 16 * MIB
AT = 0x7E0000000000
"""A multiple of 2 MiB that nothing else uses."""
PR_SET_THP_DISABLE = 41


def mapped(number=0, address=AT, size=SIZE, touched=SIZE, stride=4 * KIB):
    touch(map_shared(-1, size, address=address), touched, stride)


def shared_by(count, touched=SIZE):
    """A parent that has a segment mapped, and children that have it from the parent."""

    def work(number):
        memory = map_shared(-1, SIZE, address=AT)
        touch(memory, touched, 4 * KIB)
        for __ in range(count):
            reads, writes = os.pipe()
            if os.fork() == 0:
                madvise._LIBC.prctl(1, signal.SIGKILL)
                touch(memory, touched, 4 * KIB)
                os.write(writes, b"1")
                while True:
                    signal.pause()
            assert os.read(reads, 1) == b"1"

    return work


def test_all_processes_lose_their_page_tables():
    with running(shared_by(3)) as (pid,):
        result = collapse.collapse(str(pid))
        assert (result.before.huge_bytes, result.before.used_bytes) == (0, SIZE)
        assert (result.after.huge_bytes, result.collapsed_bytes) == (SIZE, SIZE)
        assert (result.changed, result.left, result.before.processes) == (True, {}, 4)
        # Each of the four had a table for every 2 MiB.
        saved = result.before.page_tables_bytes - result.after.page_tables_bytes
        assert saved >= 4 * (SIZE // (2 * MIB) - 1) * 4 * KIB


def test_a_second_run_changes_nothing():
    with running(mapped) as (pid,):
        collapse.collapse(str(pid))
        again = collapse.collapse(str(pid))
        assert (again.changed, again.collapsed_bytes, again.left) == (False, 0, {})
        assert again.lines()[0].startswith("Nothing to do: 16 MiB of process")


def test_a_check_run_changes_nothing():
    with running(mapped) as (pid,):
        result = collapse.collapse(str(pid), check=True)
        assert (result.changed, result.collapsed_bytes, result.after) == (True, SIZE, result.before)
        assert not re.search(rb"(Shmem|File)PmdMapped: +[1-9]", processes.read(f"/proc/{pid}/smaps"))


def test_what_nobody_uses_stays_without_memory():
    with running(lambda number: mapped(touched=6 * MIB)) as (pid,):
        result = collapse.collapse(str(pid))
        assert (result.after.used_bytes, result.after.huge_bytes) == (6 * MIB, 6 * MIB)
        smaps = processes.read(f"/proc/{pid}/smaps").decode()
        (rss,) = [part for part in smaps.split("\n7e") if part.startswith("0000000000")] or [smaps]
        assert "Rss:                6144 kB" in rss


def test_what_another_process_uses_counts():
    """The postmaster touches little of what its backends fill."""

    def work(number):
        memory = map_shared(-1, SIZE, address=AT)
        reads, writes = os.pipe()
        if os.fork() == 0:
            madvise._LIBC.prctl(1, signal.SIGKILL)
            touch(memory, SIZE, 4 * KIB)
            os.write(writes, b"1")
            while True:
                signal.pause()
        assert os.read(reads, 1) == b"1"

    with running(work) as (pid,):
        result = collapse.collapse(str(pid))
        assert (result.before.used_bytes, result.after.huge_bytes) == (SIZE, SIZE)


def test_memory_stays_as_it_was():
    reads, writes = os.pipe()

    def work(number):
        memory = (ctypes.c_char * SIZE).from_address(map_shared(-1, SIZE, address=AT))
        for at in range(0, SIZE, 4 * KIB):
            memory[at : at + 8] = at.to_bytes(8, "big")

        def checked(*_):
            same = all(memory[at : at + 8] == at.to_bytes(8, "big") for at in range(0, SIZE, 4 * KIB))
            os.write(writes, b"1" if same else b"0")

        signal.signal(signal.SIGUSR1, checked)

    with running(work) as (pid,):
        assert collapse.collapse(str(pid)).collapsed_bytes == SIZE
        os.kill(pid, signal.SIGUSR1)
        assert os.read(reads, 1) == b"1"


def test_several_segments():
    def work(number):
        mapped()
        mapped(address=AT + GIB)

    with running(work) as (pid,):
        result = collapse.collapse(str(pid))
        assert (result.segments, result.after.huge_bytes) == (2, 2 * SIZE)


def test_an_interrupted_run_is_resumed(monkeypatch):
    with running(mapped) as (pid,):

        def interrupted(done_bytes, total_bytes):
            if done_bytes == 6 * MIB:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            collapse.collapse(str(pid), progress=interrupted)
        result = collapse.collapse(str(pid))
        assert (result.before.huge_bytes, result.collapsed_bytes) == (6 * MIB, 10 * MIB)
        assert result.after.huge_bytes == SIZE


def test_it_works_a_quarter_of_the_time_by_default(monkeypatch):
    """It rests three times as long as each range took, whether that was huge then or was not."""
    now, slept = [0.0], []

    def collapsed(pidfd, address):
        now[0] += 2.0
        return errno.EINVAL if address == AT else 0

    monkeypatch.setattr(collapse, "_collapsed", collapsed)
    monkeypatch.setattr(collapse.time, "sleep", slept.append)
    monkeypatch.setattr(collapse.time, "monotonic", lambda: now[0])
    with running(mapped) as (pid,):
        collapse.collapse(str(pid))
        assert slept == [6.0] * (SIZE // (2 * MIB))
        slept.clear()
        collapse.collapse(str(pid), rate_bytes=spec.UNLIMITED)
    assert slept == []


@pytest.mark.parametrize(
    ("text", "rate"),
    [(None, None), ("unlimited", 0), (" Unlimited", 0), ("0", 0), ("200MiB", 200 * MIB), ("1024", 1024)],
)
def test_rates(text, rate):
    assert spec.rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "-1", "0MiB", ""])
def test_what_is_no_rate(text):
    with pytest.raises(InvalidRequest, match=r"^rate .*; or unlimited$"):
        spec.rate(text)


def test_no_more_than_the_rate(monkeypatch):
    slept = []
    monkeypatch.setattr(collapse.time, "sleep", slept.append)
    monkeypatch.setattr(collapse.time, "monotonic", lambda: 0.0)
    with running(mapped) as (pid,):
        collapse.collapse(str(pid), rate_bytes=4 * MIB)
    assert slept == [0.5 * number for number in range(1, 9)]


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EINVAL, errno.EAGAIN])
def test_what_stays_is_told_with_its_reason(code, monkeypatch):
    tries = []

    def refuse(pidfd, address, size_bytes):
        tries.append(address)
        if address == AT + 4 * MIB:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(madvise, "collapse", refuse)
    monkeypatch.setattr(madvise, "can_collapse", lambda: True)
    with running(mapped) as (pid,):
        result = collapse.collapse(str(pid))
    assert (sum(result.left.values()), result.collapsed_bytes) == (2 * MIB, SIZE - 2 * MIB)
    assert tries.count(AT + 4 * MIB) == (3 if code == errno.EAGAIN else 1)
    assert result.lines()[-1].startswith("2 MiB stay in small pages: ")


# -- what stands in the way


def refusal(pid, **options):
    with pytest.raises(MshareError) as caught:
        collapse.collapse(str(pid), **options)
    return caught.value


def test_not_congruent():
    with running(lambda number: mapped(address=AT + 64 * KIB)) as (pid,):
        error = refusal(pid)
    assert isinstance(error, Unavailable)
    assert "its address 0x7e0000010000 is not congruent to its offset modulo 2 MiB" in str(error)
    assert "mshare run --pages thp --no-prefault" in str(error)


def test_no_shared_memory():
    with running(lambda number: None) as (pid,):
        assert "has no shared memory; name the pid of a server" in str(refusal(pid))


def test_a_sysv_segment_is_collapsed_too():
    def work(number):
        key = 0x6D736800 + os.getpid() % 256
        address = sysv(SIZE, key)
        if address % (2 * MIB) == 0:
            touch(address, SIZE, 4 * KIB)

    with running(work) as (pid,):
        subject = collapse.subject_of(target.find(str(pid)))
        assert [segment.kind for segment in subject.segments] == ["sysv"]


def test_shmem_denied(monkeypatch):
    monkeypatch.setattr(preflight.procfs, "read_line", lambda path: "always advise never [deny] force")
    with running(mapped) as (pid,):
        assert "shmem_enabled is deny" in str(refusal(pid))


def test_an_old_kernel(monkeypatch):
    monkeypatch.setattr(madvise, "can_collapse", lambda: False)
    with running(mapped) as (pid,):
        assert "has no MADV_COLLAPSE, which exists since Linux 6.1" in str(refusal(pid))


def test_a_process_with_thp_disabled():
    def work(number):
        assert madvise._LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
        mapped()

    with running(work) as (pid,):
        assert "transparent huge pages switched off" in str(refusal(pid))


def test_too_little_memory(monkeypatch):
    monkeypatch.setattr(preflight.procfs, "meminfo_bytes", lambda: {"MemAvailable": MIB})
    with running(mapped) as (pid,):
        error = str(refusal(pid, check=True))
    assert "may take 16 MiB more memory" in error
    assert "has 1 MiB available" in error


def test_a_process_that_ends_meanwhile(monkeypatch):
    def gone(pidfd, address, size_bytes):
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    monkeypatch.setattr(madvise, "collapse", gone)
    monkeypatch.setattr(madvise, "can_collapse", lambda: True)
    with running(mapped) as (pid,):
        assert "the process ended meanwhile" in str(refusal(pid))


def test_another_user():
    reads, writes = os.pipe()
    with running(mapped) as (pid,):

        def ask(number):
            os.setuid(65534)
            try:
                collapse.collapse(str(pid))
            except Unavailable as error:
                os.write(writes, str(error).encode())

        with running(ask):
            said = os.read(reads, 500).decode()
    assert said.startswith(f"process {pid} (")
    assert "run as root (become: true)" in said


# -- who is meant


@pytest.mark.parametrize("text", ["postgres", "", "-1", "../data", "sshd.socket", "a b.service"])
def test_a_target_that_names_nothing(text):
    with pytest.raises(InvalidRequest, match="neither a pid, nor an absolute data directory, nor a systemd"):
        target.find(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("4194999", "no process 4194999 with memory of its own runs here"),
        ("/nowhere", "no PostgreSQL server runs in /nowhere"),
        ("nothing@1.service", "no process of unit nothing@1.service runs here"),
    ],
)
def test_a_target_that_does_not_run(text, sentence):
    with pytest.raises(Unavailable, match=sentence):
        target.find(text)


def test_a_data_directory_is_its_postmaster(tmp_path):
    (tmp_path / "postmaster.pid").write_text("1\n")

    def work(number):
        os.chdir(tmp_path)
        reads, writes = os.pipe()
        if os.fork() == 0:
            madvise._LIBC.prctl(1, signal.SIGKILL)
            os.write(writes, b"1")
            while True:
                signal.pause()
        assert os.read(reads, 1) == b"1"

    with running(work) as (pid,):
        assert target.find(str(tmp_path)).pid == pid


def test_a_stranger_in_the_data_directory_is_not_its_postmaster(tmp_path):
    (tmp_path / "postmaster.pid").write_text("1\n")
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.name.startswith("pytest"):
            folder.chmod(0o755)

    def work(number):
        os.chdir(tmp_path)
        os.setuid(65534)

    with running(work), pytest.raises(Unavailable):
        target.find(str(tmp_path))


# -- again and again


def test_following_needs_a_name_that_outlives_a_restart():
    with pytest.raises(InvalidRequest, match="is a pid, which a restart takes away"):
        follow.follow("4711", lambda seconds: True, print)


def test_following_collapses_what_comes_later(tmp_path):
    (tmp_path / "postmaster.pid").write_text("1\n")
    news, looks = [], []

    def work(number):
        os.chdir(tmp_path)
        mapped()

    def wait(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            stack.append(running(work))
            stack[0].__enter__()
        return len(looks) == 4

    stack = []
    try:
        follow.follow(str(tmp_path), wait, news.append, seconds=7)
    finally:
        for each in stack:
            each.__exit__(None, None, None)
    assert looks == [7] * 4
    # A server that is down is told once, its collapse once, and that nothing was to be done not at all.
    assert news[0].startswith("no PostgreSQL server runs in")
    assert news[1].startswith("16 MiB of process")
    assert len(news) == 2


# -- the command


def command(*words):
    return CliRunner().invoke(mshare, ["collapse", *words], obj=None)


def test_the_command():
    with running(mapped) as (pid,):
        done = subprocess.run(
            [sys.executable, "-m", "mshare", "collapse", str(pid), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        fields = json.loads(done.stdout)
    assert (fields["changed"], fields["collapsed_bytes"], fields["left"]) == (True, SIZE, [])
    assert fields["after"] == {**fields["before"], "huge_bytes": SIZE, **_tables(fields["after"])}


def _tables(figures):
    return {"page_tables_bytes": figures["page_tables_bytes"]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("1", "--rate", "0MiB"), "rate '0MiB' must be greater than zero"),
        (("/data", "--follow", "--check"), "use only one of them"),
        (("1", "--interval", "5"), "--interval only takes effect with --follow"),
    ],
)
def test_the_command_refuses(words, sentence):
    done = subprocess.run(
        [sys.executable, "-m", "mshare", "collapse", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_too_little_in_huge_pages_is_a_verdict(monkeypatch):
    figures = collapse.Figures(SIZE, 0, MIB, 1)
    result = collapse.Result(1, "postgres", 1, False, figures, figures, 0, {"no huge page was free": SIZE})
    monkeypatch.setattr("mshare.cli.collapse.collapse", lambda *_, **__: result)
    from mshare.cli.screen import Screen

    done = CliRunner().invoke(mshare.get_command(None, "collapse"), ["1"], obj=Screen(False))
    assert done.exit_code == 3
    assert "0 B of process 1 (postgres) are in huge pages now: 0.0 % of the 16 MiB in use." in done.output


def test_ranges_are_whole_and_aligned():
    with running(lambda number: mapped(size=5 * MIB, touched=5 * MIB)) as (pid,):
        process = target.find(str(pid))
        (segment,) = ranges.of(process)
        found = ranges.ranges(process, segment, ranges.users(segment))
        assert found.small == (AT, AT + 2 * MIB)
