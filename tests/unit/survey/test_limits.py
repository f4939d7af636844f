# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sampled against exact, processes that end, ordinary users, namespaces, hidepid, regions of ours."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from mshare.host import processes
from mshare.survey.record import SCHEMA_VERSION, from_fields
from mshare.survey.survey import changes
from mshare.units import KIB, MIB
from rig import surveys
from rig.patience import LOOKS
from rig.survey_parts import instance_of, map_shared, python, running, surveyed, touch
from rig.survey_parts import survey_fields as survey

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
SIZE = 256 * MIB
NOBODY = 65534


def attached(fd, work=None):
    """What a child does: map the segment, touch of it what `work` says, and have memory of its own."""
    random_of = random.Random(7)
    shares = [random_of.random() for __ in range(64)]

    def child(number):
        touch(map_shared(fd, SIZE), int(SIZE * (shares[number] if work is None else work)))
        own = map_shared(os.memfd_create("own"), 512 * KIB)
        assert own

    return child


@pytest.fixture
def segment():
    fd = os.memfd_create("sga")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


INSIDE = """
import json, os, subprocess
from mshare.survey.survey import survey
subprocess.run({mount!r}, shell=True, check=True)
if {user}:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(json.dumps(survey(threshold_bytes=1).to_dict()))
"""


@pytest.mark.parametrize("work", [None, 1.0])
def test_sampled_is_within_a_percent_of_exact(segment, work):
    with running(attached(segment, work), 60) as pids:
        __, sampled = surveyed(pids[0])
        __, exact = surveyed(pids[0], exact=True)
    assert sampled["pids"] == exact["pids"] == sorted(pids)
    one, two = (each["page_tables"] for each in (sampled, exact))
    assert one["sum_bytes"] == two["sum_bytes"] == one["segments_bytes"] + one["remainder_bytes"]
    assert abs(one["segments_bytes"] - two["segments_bytes"]) <= two["segments_bytes"] / 100
    assert two["segments_bytes"] > 60 * 4096


def test_tables_that_outlive_their_pages_are_in_the_remainder(segment):
    def work(number):
        address = map_shared(segment, SIZE)
        touch(address, SIZE)

    with running(work) as (pid,):
        __, before = surveyed(pid)
        os.ftruncate(segment, 0)
        __, after = surveyed(pid)
    assert before["page_tables"]["segments_bytes"] >= 128 * 4096
    assert after["page_tables"]["segments_bytes"] == 0
    assert after["page_tables"]["remainder_bytes"] >= 128 * 4096


# Processes with a segment that come and go as fast as they can, each of them alive for a moment.
CHURN = """
import mmap, os, sys
memory = mmap.mmap(-1, 16 << 20)
for at in range(0, 16 << 20, 4096):
    memory[at] = 1
print("ready", flush=True)
while os.getppid() == {parent}:
    children = []
    for __ in range(20):
        pid = os.fork()
        if pid == 0:
            memory[0] = 1
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
"""


def test_processes_that_end_during_the_survey_are_counted(segment):
    command = [sys.executable, "-S", "-c", CHURN.format(parent=os.getpid())]
    with (
        running(attached(segment, 1.0), 3) as pids,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as churn,
    ):
        try:
            assert churn.stdout.readline() == "ready\n"
            for __ in range(LOOKS):
                found = survey(threshold_bytes=1, exact=True)
                if found["vanished"]:
                    break
            assert found["vanished"], "no process ended during any survey"
        finally:
            churn.kill()
    # Who stayed is there whole; who went is no gap that somebody could close.
    one = instance_of(found, pids[0])
    assert set(pids) <= set(one["pids"])
    assert one["page_tables"]["segments_bytes"] >= 3 * 128 * 4096
    # Others may be read no better than before: what they lack is none of this test's.
    gaps = [gap for gap in found["missing"] if gap["what"] in ("status", "maps", "pagemap")]
    assert [gap for gap in gaps if not os.path.exists(f"/proc/{gap['pid']}")] == []


# A small parent, so that two thousand fit: an interpreter of pytest's size would take gigabytes.
MANY = """
import mmap, os, sys
ended, ends = os.pipe()
memory = mmap.mmap(-1, {size})
for at in range(0, {size}, 2 << 20):
    memory[at] = 1
for __ in range({count}):
    if os.fork() == 0:
        for at in range(0, {size}, 2 << 20):
            memory[at]
        os.write(1, b".")
        # Nobody writes: this ends when the parent does, and the parent with the tests.
        os.close(ends)
        os.read(ended, 1)
        os._exit(0)
sys.stdin.read()
"""


def test_two_thousand_processes():
    count = 2000
    code = MANY.format(size=64 * MIB, count=count)
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    ) as parent:
        try:
            touched = 0
            while touched < count:
                touched += len(parent.stdout.read(count))
            __, sampled = surveyed(parent.pid)
            __, exact = surveyed(parent.pid, exact=True)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert sampled["processes"] == exact["processes"] == count + 1
    assert sampled["page_tables"]["sum_bytes"] == exact["page_tables"]["sum_bytes"]
    one, two = (each["page_tables"]["segments_bytes"] for each in (sampled, exact))
    assert two >= count * 32 * 4096
    assert abs(one - two) <= two / 100


def test_an_ordinary_user_gets_page_tables_and_is_told_what_is_missing(segment):
    code = INSIDE.format(mount="true", user=True)
    with running(attached(segment, 1.0), 3) as pids:
        done = python(code)
        __, wanted = surveyed(pids[0])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["complete"]
    assert found["method"]["uid"] == NOBODY
    assert set(pids) <= {one["pid"] for one in found["missing"] if one["what"] == "maps"}
    one = instance_of(found, pids[0])
    assert one["segments"] == []
    assert set(pids) <= set(one["pids"])
    assert one["page_tables"]["sum_bytes"] >= wanted["page_tables"]["sum_bytes"]
    assert one["page_tables"]["segments_bytes"] is one["page_tables"]["remainder_bytes"] is None


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("user", [False, True])
def test_hidepid_is_told(user):
    mount = "mount -t proc -o hidepid=invisible proc /proc"
    code = INSIDE.format(mount=mount, user=user)
    done = python(code, "unshare", "--mount", "--pid", "--fork", "--kill-child")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["host"]["hidepid"] in ("invisible", "2")
    # Root sees all of it.
    assert found["complete"] != user
    assert any("hidepid" in one["reason"] for one in found["missing"]) == user


CONTAINER = """
import mmap, os, subprocess, signal
folder = {folder!r}
subprocess.run(["mount", "-t", "tmpfs", "inside", folder], check=True)
subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
file = open(folder + "/sga", "wb+")
file.truncate(8 << 20)
memory = mmap.mmap(file.fileno(), 8 << 20)
for at in range(0, 8 << 20, 2 << 20):
    memory[at] = 1
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_process_in_a_container(tmp_path):
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-c"]
    with subprocess.Popen(
        [*command, CONTAINER.format(folder=str(tmp_path))], stdout=subprocess.PIPE, text=True
    ) as container:
        try:
            assert container.stdout.readline() == "ready\n"
            found = survey(threshold_bytes=1)
        finally:
            container.kill()
    path = str(tmp_path / "sga")
    rows = [segment for one in found["instances"] for segment in one["segments"] if segment["name"] == path]
    (segment,) = rows
    assert (segment["kind"], segment["size_bytes"]) == ("tmpfs", 8 * MIB)


def test_a_region_of_ours_is_recognised():
    folder = f"/dev/shm/msharefs-{NOBODY}"
    if os.path.exists(folder):
        pytest.skip(f"{folder} is in use")
    os.mkdir(folder)
    try:
        with open(f"{folder}/sga", "wb+") as file:
            file.truncate(8 * MIB)
            with running(lambda number: touch(map_shared(file.fileno(), 8 * MIB), 8 * MIB)) as (pid,):
                __, found = surveyed(pid)
    finally:
        os.unlink(f"{folder}/sga")
        os.rmdir(folder)
    assert [segment["kind"] for segment in found["segments"]] == ["msharefs"]


def test_small_children_of_what_was_found_belong_to_it(segment):
    def work(number):
        address = map_shared(segment, SIZE)
        touch(address, SIZE if number == 0 else 2 * MIB)

    with running(work, 3) as pids:
        found = survey(threshold_bytes=500 * KIB)
    one = instance_of(found, pids[0])
    assert set(pids) <= set(one["pids"])
    sizes = [process.vm_pte_bytes for process in processes.read_all().processes]
    assert min(sizes) < 500 * KIB
    assert found["others"]["processes"] > 0
    assert found["schema_version"] == SCHEMA_VERSION


def test_changes_between_two_surveys(segment):
    def only(found, pid):
        return from_fields({**found, "instances": [{**instance_of(found, pid), "name": "sga"}]})

    with running(attached(segment, 0.5), 2) as pids:
        before = only(survey(threshold_bytes=1), pids[0])
        with running(attached(segment, 0.5)):
            after = only(survey(threshold_bytes=1), pids[0])
    (change,) = changes(before, after)
    assert change.processes == 1
    assert change.page_tables_bytes >= 64 * 4096
    (gone,) = changes(after, replace(after, instances=()))
    assert (gone.processes, gone.gone, gone.oldest_pid) == (-3, True, min(pids))


def instance(name, *pids, tables_bytes=0):
    one = surveys.instance(name, 0, len(pids), pids=list(pids))
    one["page_tables"]["sum_bytes"] = tables_bytes
    return one


def of_instances(*instances):
    return from_fields(surveys.survey("db1", list(instances)))


def test_an_instance_keeps_its_change_when_its_number_moves_up():
    before = [
        instance("python #1", 11),
        instance("python #2", 12),
        instance("python #3", 13, tables_bytes=500),
    ]
    after = [instance("python #1", 11), instance("python #2", 13, 14, tables_bytes=700)]
    found = changes(of_instances(*before), of_instances(*after))
    assert [(one.name, one.gone, one.oldest_pid, one.page_tables_bytes) for one in found] == [
        ("python #1", False, 11, 0),
        ("python #2", False, 13, 200),
        ("python #2", True, 12, 0),
    ]


def test_a_server_that_was_restarted_is_the_same():
    before, after = instance("postgresql 5432", 11, 12), instance("postgresql 5432", 21, tables_bytes=300)
    (change,) = changes(of_instances(before), of_instances(after))
    assert (change.gone, change.processes, change.page_tables_bytes) == (False, -1, 300)
