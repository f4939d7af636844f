# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners, launchers and clients as processes: how they are started, how they die, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare import __version__
from rig.patience import HANG_SECONDS
from rig.world import COMMAND, World, eventually, new_world

# Our command line as that of another version, which finds what this one runs.
OTHER = ["-c", "import mshare; mshare.__version__ = '7.8.9'; from mshare.cli import main; main()"]


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


class TestOwner:
    def test_create_leaves_an_owner_and_rm_ends_it(self, world):
        said = world.ok("create", "sga", "--size", "64MiB")
        assert "512 GiB of address space" in said
        assert "64 MiB of memory" in said
        assert "simulated: " in said
        owner = world.region()["owner"]
        assert owner["alive"]
        assert world.processes() == [owner["pid"]]
        assert "nothing to do" in world.ok("create", "sga", "--size", "64MiB")
        assert world.ok("rm", "sga") == "Removed region sga.\n"
        assert world.processes() == []
        assert world.files() == []

    def test_a_spec_file_in_yaml(self, world, tmp_path):
        spec = tmp_path / "sga.yml"
        spec.write_text('name: sga\nsize: 64MiB\nmode: "0640"\n')
        answer = world.json("create", "--spec", str(spec))
        assert answer["changed"] is True
        assert answer["region"]["mode"] == "0640"
        assert answer["backend"] == "simulated"

    def test_sigterm_is_a_clean_end(self, world):
        with world.owned() as owner:
            assert world.health() == "healthy"
            owner.terminate()
            said = owner.communicate()
            assert (owner.returncode, *said) == (0, "", "")
        assert world.files() == []

    def test_a_killed_owner_leaves_a_stale_region_that_is_replaced_only_when_told(self, world):
        with world.owned() as owner:
            owner.kill()
            owner.wait()
        assert world.health() == "stale"
        assert "stale" in world.ok("list")
        for words in (["create", "sga"], ["own", "sga"]):
            refused = world.run(*words, "--size", "64MiB")
            assert refused.returncode == 5
            assert "--replace-stale" in refused.stderr
        assert world.run("attach", "sga").returncode != 0
        world.ok("create", "sga", "--size", "64MiB", "--replace-stale")
        assert world.health() == "healthy"
        assert world.ok("attach", "sga")

    def test_a_region_whose_file_somebody_removed(self, world):
        world.ok("create", "sga", "--size", "64MiB")
        (world.root / "sga").unlink()
        refused = world.run("create", "sga", "--size", "64MiB")
        assert refused.returncode == 1
        assert (
            f"region sga at {world.root} was created, but is missing; see `mshare list` and the owner's log"
            in " ".join(refused.stderr.split())
        )
        world.ok("rm", "sga")
        assert world.files() == []
        assert world.processes() == []

    def test_own_replaces_what_is_stale(self, world):
        with world.owned() as owner:
            owner.kill()
            owner.wait()
        with world.started("own", "sga", "--size", "64MiB", "--replace-stale"):
            eventually(lambda: world.health() == "healthy")

    def test_rm_clears_what_is_stale(self, world):
        with world.owned() as owner:
            owner.kill()
            owner.wait()
        world.ok("rm", "sga")
        assert world.files() == []

    def test_never_two_owners_of_one_region(self, world):
        with world.owned() as owner:
            second = world.run("own", "sga", "--size", "64MiB", "--replace-stale")
            assert second.returncode == 5
            assert f"held by process {owner.pid}" in second.stderr
            assert owner.poll() is None
            assert world.health() == "healthy"

    def test_another_size_needs_recreate(self, world):
        world.ok("create", "sga", "--size", "64MiB")
        assert world.run("create", "sga", "--size", "32MiB").returncode == 5
        world.ok("create", "sga", "--size", "32MiB", "--recreate")
        assert world.region()["mapped_bytes"] == 32 << 20

    def test_one_of_another_version_goes_on_unless_told(self, world):
        create = ("create", "sga", "--size", "64MiB")
        world.ok(*create)
        first = world.region()["owner"]["pid"]
        as_other = [sys.executable, *OTHER]
        left = world.run(*create, command=as_other)
        assert left.returncode == 0
        assert (
            f"the owner of region sga runs version {__version__} of the library, and 7.8.9 is installed;"
            " it keeps using that version until replace_outdated: true" in left.stderr
        )
        assert world.region()["owner"]["pid"] == first
        with world.started("attach", "sga", "--hold") as holder:
            assert "attached" in holder.stdout.readline().lower()
            refused = world.run(*create, "--replace-outdated", command=as_other)
            assert refused.returncode == 5
            assert f"recreating region sga would kill 1 attached client: {holder.pid}" in refused.stderr
            holder.kill()
        world.ok(*create, "--replace-outdated", command=as_other)
        assert world.region()["owner"]["pid"] != first

    def test_readiness_is_told_to_systemd(self, world, tmp_path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "notify"))
            listener.settimeout(HANG_SECONDS)
            told = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            with world.started("own", "sga", "--size", "64MiB", "--prefault", env=told):
                messages = []
                while "READY=1" not in "".join(messages):
                    messages.append(listener.recv(4096).decode())
                assert "prefaulted" in messages[0]
                assert "STATUS=region sga is ready" in messages[-1]
                assert world.health() == "healthy"

    def test_json_says_when_it_is_ready(self, world):
        with world.started("own", "sga", "--size", "64MiB", "--json") as owner:
            assert owner.stdout is not None
            lines = []
            while not lines or lines[-1] != "}\n":
                lines.append(owner.stdout.readline())
            answer = json.loads("".join(lines))
            assert answer["region"]["state"] == "ready"
            assert answer["region"]["pid"] == owner.pid

    def test_on_a_terminal_one_sentence_and_ctrl_c_ends_it(self, world):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(COMMAND[0], [*COMMAND, "own", "sga", "--size", "64MiB"], world.environment)
        # A terminal may be narrower than the sentence, and have it in pieces.
        shown = ""
        while not " ".join(shown.split()).endswith("Ctrl-C ends it."):
            shown += os.read(terminal, 4096).decode()
        assert shown.startswith("Region sga is ready at ")
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(terminal)
        assert world.files() == []


class TestHold:
    def test_stays_attached_until_ctrl_c(self, world):
        with world.owned(), world.started("attach", "sga", "--hold") as client:
            assert client.stdout is not None
            while "Ctrl-C" not in client.stdout.readline():
                pass
            assert client.poll() is None
            assert str(world.root / "sga") in Path(f"/proc/{client.pid}/maps").read_text()
            client.send_signal(signal.SIGINT)
            assert client.wait() == 0
            assert client.communicate()[1] == ""


def client_pids(world: World) -> list[int]:
    launcher = world.json("clients", "status", "sga")["clients"]["launcher_pid"]
    pids: list[int] = []
    for task in os.listdir(f"/proc/{launcher}/task"):
        # A thread may have ended meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pids += map(int, Path(f"/proc/{launcher}/task/{task}/children").read_text().split())
    return pids


@pytest.fixture
def clients(world: World) -> World:
    """A world in which four clients are attached to region sga."""
    world.ok("create", "sga", "--size", "64MiB", "--pattern")
    assert world.ok("clients", "start", "sga", "--count", "4").startswith("4 of 4 clients are attached")
    return world


class TestClients:
    def test_they_are_counted(self, clients):
        assert clients.ok("clients", "count", "sga") == "4\n"
        assert clients.json("clients", "count", "sga")["attached"] == 4
        assert "4 of 4" in clients.ok("list")
        assert "nothing to do" in clients.ok("clients", "start", "sga", "--count", "4")
        assert clients.json("clients", "status", "sga")["clients"]["requested"] == 4

    def test_another_number(self, clients):
        first = client_pids(clients)
        clients.ok("clients", "start", "sga", "--count", "6")
        assert set(first) < set(client_pids(clients))
        clients.ok("clients", "start", "sga", "--count", "2")
        assert len(client_pids(clients)) == 2

    def test_the_dead_are_counted_and_started_again_when_told(self, clients):
        living = client_pids(clients)
        for pid in living[:2]:
            kill(pid)
        eventually(lambda: clients.ok("clients", "count", "sga") == "2\n")
        assert clients.ok("clients", "status", "sga").count("was killed by SIGKILL") == 2
        assert clients.run("validate", "sga").returncode == 3
        clients.ok("clients", "restart", "sga")
        assert clients.ok("clients", "count", "sga") == "4\n"
        assert set(living[2:]) < set(client_pids(clients))

    def test_a_killed_launcher_leaves_no_clients(self, clients):
        pids = client_pids(clients)
        kill(clients.json("clients", "status", "sga")["clients"]["launcher_pid"])
        eventually(
            lambda: not any(os.path.exists(f"/proc/{pid}/exe") and pid in clients.processes() for pid in pids)
        )
        assert clients.ok("clients", "count", "sga") == "0\n"
        assert "gone" in clients.ok("clients", "status", "sga")
        assert clients.health() == "healthy"
        clients.ok("clients", "start", "sga", "--count", "4")
        assert clients.ok("clients", "count", "sga") == "4\n"

    def test_those_of_another_version_go_on_unless_told(self, clients):
        before = clients.json("clients", "status", "sga")["clients"]
        as_other = [sys.executable, *OTHER]
        start = ("clients", "start", "sga", "--count", "4")
        left = clients.run(*start, command=as_other)
        assert left.returncode == 0
        assert (
            f"the launcher of region sga runs version {__version__} of the library, and 7.8.9 is installed;"
            " it keeps using that version until restart_outdated: true" in left.stderr
        )
        assert clients.json("clients", "status", "sga")["clients"] == before
        announced = clients.ok(*start, "--restart-outdated", "--check", command=as_other)
        assert "Would stop the clients of region sga, whose launcher runs version" in announced
        clients.ok(*start, "--restart-outdated", command=as_other)
        after = clients.json("clients", "status", "sga")["clients"]
        assert after["launcher_pid"] != before["launcher_pid"]
        assert after["attached"] == 4

    def test_a_region_in_use_is_not_removed_unless_told(self, clients):
        refused = clients.run("rm", "sga")
        assert refused.returncode == 5
        assert "4 attached clients" in refused.stderr
        clients.ok("rm", "sga", "--force")
        assert clients.processes() == []
        clients.ok("clients", "stop", "sga")
        assert clients.files() == []

    def test_stop(self, clients):
        assert clients.ok("clients", "stop", "sga") == "Stopped the clients of region sga.\n"
        assert clients.processes() == [clients.region()["owner"]["pid"]]

    def test_validate_passes_and_every_figure_says_what_it_is(self, clients):
        said = clients.ok("validate", "sga")
        assert "Validation passed" in said
        assert all(word in said for word in ("measured", "modelled", "projected", "880.6 GiB"))
        assert clients.json("validate", "sga")["passed"] is True

    def test_validate_fails_with_a_code_of_its_own(self, clients):
        failed = clients.run("validate", "sga", "--min-clients-attached", "5")
        assert failed.returncode == 3
        assert failed.stderr == ""
        assert "Validation failed" in failed.stdout
        answer = clients.run("validate", "sga", "--min-clients-attached", "5", "--json")
        assert answer.returncode == 3
        assert json.loads(answer.stdout)["passed"] is False


class TestCutOff:
    """Whoever starts a process is killed in the same instant: what was begun is found at once."""

    @pytest.fixture
    def cut_off(self, world):
        def run(status_file, *words):
            with world.started(*words) as starting:
                eventually(lambda: list(world.state.glob(f"*/{status_file}")))
                starting.kill()
            (found,) = world.state.glob(f"*/{status_file}")
            return json.loads(found.read_text())["pid"]

        return run

    @pytest.fixture
    def launching(self, world, cut_off):
        """The pid of a launcher whose start was cut off."""
        world.ok("create", "sga", "--size", "64MiB")
        return cut_off("sga.clients.json", "clients", "start", "sga", "--count", "4")

    def test_an_owner(self, world, cut_off):
        cut_off("sga.owner.json", "create", "sga", "--size", "64MiB")
        assert world.region()["owner"]["alive"]
        world.ok("rm", "sga")
        assert (world.processes(), world.files()) == ([], [])

    def test_clients(self, world, launching):
        assert world.ok("clients", "stop", "sga") == "Stopped the clients of region sga.\n"
        world.ok("rm", "sga")
        assert (world.processes(), world.files()) == ([], [])

    def test_they_are_taken_over(self, world, launching):
        found = world.json("clients", "start", "sga", "--count", "6")["clients"]
        assert (found["attached"], found["launcher_pid"]) == (6, launching)

    def test_they_are_looked_at(self, world, launching):
        os.kill(launching, signal.SIGSTOP)
        assert "of 4" in world.ok("clients", "status", "sga")
        assert "of 4" in world.ok("list")
        refused = world.run("validate", "sga")
        assert refused.returncode == 1
        assert "are still starting: 0 of 4 are attached" in refused.stderr
        os.kill(launching, signal.SIGCONT)


class TestCommands:
    def test_a_command_finds_the_region_in_its_environment(self, world):
        out = world.directory / "out"
        out.mkdir()
        world.ok("create", "sga", "--size", "64MiB")
        script = f"cd {out}; n=$MSHARE_CLIENT_NUMBER; env > .$n; mv .$n $n; exec sleep 60"
        world.ok("clients", "start", "sga", "--count", "2", "--", "sh", "-c", script)
        eventually(lambda: (out / "0").exists() and (out / "1").exists())
        told = (out / "1").read_text()
        assert f"MSHARE_PATH={world.root}/sga\n" in told
        assert "MSHARE_MAPPED_BYTES=67108864\n" in told
        world.ok("clients", "stop", "sga")
        eventually(lambda: len(world.processes()) == 1)

    def test_ctrl_c_while_they_start_leaves_nothing(self, world):
        world.ok("create", "sga", "--size", "64MiB")
        before = world.files()
        start = ["clients", "start", "sga", "--count", "2", "--settle-seconds", "60", "--", "sleep", "60"]
        with world.started(*start) as starting:
            eventually(lambda: len(world.processes()) >= 5)
            starting.send_signal(signal.SIGINT)
            said = starting.communicate()
        assert starting.returncode == 130
        assert "Traceback" not in said[1]
        eventually(lambda: len(world.processes()) == 1)
        assert world.files() == before

    def test_run_tells_systemd_and_ends_cleanly(self, world, tmp_path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, world.owned():
            listener.bind(str(tmp_path / "notify"))
            listener.settimeout(HANG_SECONDS)
            told = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            with world.started("clients", "run", "sga", "--count", "3", env=told) as launcher:
                while "READY=1" not in listener.recv(4096).decode():
                    pass
                assert world.ok("clients", "count", "sga") == "3\n"
                second = world.run("clients", "run", "sga", "--count", "3")
                assert second.returncode == 5
                launcher.terminate()
                assert launcher.wait() == 0
            assert len(world.processes()) == 1

    def test_run_reads_its_spec_again(self, world, tmp_path):
        spec = tmp_path / "clients.yml"
        spec.write_text("region: sga\ncount: 2\n")
        with world.owned(), world.started("clients", "run", "--spec", str(spec)) as launcher:
            eventually(lambda: world.ok("clients", "count", "sga") == "2\n")
            spec.write_text("region: sga\ncount: 3\n")
            launcher.send_signal(signal.SIGHUP)
            eventually(lambda: world.ok("clients", "count", "sga") == "3\n")
