# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a node exporter reads text files, by the command line of processes that run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from mshare.errors import Conflict, Unavailable
from mshare.host import processes
from mshare.monitoring import directory
from rig.patience import eventually

OPTION = "--collector.textfile.directory"
STAY = "import sys; print(flush=True); sys.stdin.read()"


@pytest.fixture
def exporters(tmp_path):
    """Starts programs that have the name and the arguments of a node exporter; they end with the test."""
    with contextlib.ExitStack() as ended:

        def start(*words, name="node_exporter"):
            program = tmp_path / str(len(os.listdir(tmp_path))) / name
            program.parent.mkdir()
            shutil.copyfile(os.path.realpath(sys.executable), program)
            program.chmod(0o755)
            process = subprocess.Popen(
                [program, "-S", "-c", STAY, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONHOME": sys.base_prefix},
            )
            ended.enter_context(process)
            ended.callback(process.kill)
            assert process.stdout.readline() == b"\n"
            return processes.of_pid(process.pid)

        yield start


@pytest.mark.parametrize(
    "words", [(f"{OPTION}={{}}",), (OPTION, "{}"), ("--web.x=1", f"{OPTION}={{}}", "--y")]
)
def test_by_its_option(exporters, tmp_path, words):
    running = exporters(*(word.format(tmp_path) for word in words))
    assert directory.find([running]) == str(tmp_path)


def test_the_one_that_runs_here(exporters, tmp_path):
    running = exporters(f"{OPTION}={tmp_path}")
    # Among all processes; another test's exporter may run beside it.
    eventually(
        lambda: any(each.pid == running.pid for each in directory._exporters(processes.read_all().processes))
    )


def test_without_any():
    with pytest.raises(Unavailable) as missing:
        directory.find([processes.of_pid(os.getpid())])
    assert str(missing.value).startswith(
        "no node exporter runs on this host; start it, or give the directory"
    )


def test_without_the_option(exporters):
    running = exporters("--web.listen-address=:9100")
    with pytest.raises(Unavailable) as missing:
        directory.find([running])
    assert f"the node exporter (process {running.pid}) was started without {OPTION}" in str(missing.value)


def test_debian_s_has_a_directory_of_its_own(exporters, monkeypatch, tmp_path):
    monkeypatch.setitem(directory._DEFAULTS, "prometheus-node-exporter", str(tmp_path))
    assert directory.find([exporters(name="prometheus-node-exporter")]) == str(tmp_path)


def test_several_that_read_different_ones(exporters, tmp_path):
    running = [exporters(f"{OPTION}={tmp_path}"), exporters(f"{OPTION}=/var/lib")]
    with pytest.raises(Conflict) as refused:
        directory.find(running)
    assert f"read text files from {tmp_path} and /var/lib" in str(refused.value)
    assert directory.find([running[0], running[0]]) == str(tmp_path)


def test_a_directory_that_is_not_there(exporters, tmp_path):
    with pytest.raises(Unavailable) as missing:
        directory.find([exporters(f"{OPTION}={tmp_path}/none")])
    assert f"{tmp_path}/none is not a directory on this host" in str(missing.value)


def test_one_that_sees_other_files(exporters, tmp_path, monkeypatch):
    """As in a container: its root is another one."""
    running = exporters(f"{OPTION}={tmp_path}")
    monkeypatch.setattr(processes.Process, "path", lambda process, name: f"{tmp_path}/elsewhere/{name}")
    monkeypatch.setattr(directory, "_directory", lambda process: str(tmp_path))
    with pytest.raises(Conflict) as refused:
        directory.find([running])
    assert f"(process {running.pid}) does not see {tmp_path} of this host" in str(refused.value)
