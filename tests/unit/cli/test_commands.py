# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line says: help, screens, JSON, and a sentence with an exit code for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mshare import paths
from mshare.backends import choose
from mshare.cli.info import _each_once
from mshare.cli.program import mshare
from mshare.pagetable import totals
from mshare.units import GIB
from rig.world import COMMAND, World, new_world

is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="needs root")
needs_no_kernel = pytest.mark.skipif(choose.kernel_has_msharefs(), reason="this kernel has msharefs")


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """For what changes nothing, or is refused: one region `here`, with an owner."""
    with new_world() as made, made.owned("here"):
        yield made


def commands(group: click.Command = mshare, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command there is, as the words that call it."""
    context = click.Context(group, obj=None)
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = {
    "attach", "clients", "clients count", "clients restart", "clients run", "clients start",
    "clients status", "clients stop", "collapse",
    "completion", "create", "huge-pages", "info", "keep-files", "list", "map", "model", "mount",
    "own", "plan", "postgresql", "postgresql absent", "postgresql present", "postgresql status", "preload",
    "report", "rm", "run", "stat", "survey", "umount", "unmap", "validate",
}  # fmt: skip


class TestHelp:
    def test_the_commands_are_those_that_are_promised(self):
        assert {" ".join(words) for words in commands()} == COMMANDS

    @pytest.mark.parametrize("words", list(commands()), ids=" ".join)
    def test_every_command_explains_itself_and_its_options(self, words):
        said = CliRunner().invoke(mshare, [*words, "--help"])
        assert said.exit_code == 0
        assert said.output.startswith(f"Usage: mshare {' '.join(words)} ")
        assert "--json" in said.output
        command: click.Command = mshare
        for word in words:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), word)
            assert found is not None
            command = found
        assert command.help
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert [option.name for option in options if not option.help] == []

    def test_no_first_sentence_is_cut(self):
        for words in ([], ["clients"]):
            listed = CliRunner().invoke(mshare, [*words, "--help"]).output
            assert "..." not in listed.partition("\nCommands:\n")[2]

    def test_exit_codes_are_documented(self):
        said = CliRunner().invoke(mshare, ["--help"]).output
        assert all(f"\n  {code:>5}  " in said for code in (0, 1, 2, 3, 4, 5, 130))

    def test_version(self):
        assert CliRunner().invoke(mshare, ["--version"]).output == "mshare 0.1.0\n"
        assert json.loads(CliRunner().invoke(mshare, ["--json", "--version"]).output)["version"] == "0.1.0"

    @pytest.mark.parametrize("words", [["lst"], ["list", "--rot", "/x"], ["stat"], ["clients", "starrt"]])
    def test_a_wrong_word_is_a_usage_error(self, words):
        said = CliRunner().invoke(mshare, words)
        assert said.exit_code == 2
        assert "\nError: " in said.output

    def test_a_wrong_word_is_answered_in_json_too(self):
        said = CliRunner().invoke(mshare, ["list", "--json", "--rot"])
        assert said.exit_code == 2
        error = json.loads(said.stdout)["error"]
        assert error["kind"] == "invalid_request"
        assert error["exit_code"] == 2
        assert "--rot" in error["message"]


class TestArithmetic:
    def test_model_says_what_it_is(self):
        said = CliRunner().invoke(mshare, ["model"]).output
        assert "880.6 GiB" in said
        assert "878.9 GiB" in said
        assert "601.2 MiB" in said
        assert "modelled" in said

    @pytest.mark.parametrize(("pages", "bytes_"), [("4KiB", 4096), ("2MiB", 2 << 20), ("1GiB", 1 << 30)])
    def test_model_is_the_library_s(self, pages, bytes_):
        words = ["model", "--size", "64GiB", "--clients", "500", "--page-size", pages, "--json"]
        answer = json.loads(CliRunner().invoke(mshare, words).output)
        without, with_ = totals(64 * GIB, 500, bytes_)
        assert answer["kind"] == "modelled"
        assert answer["without_sharing"]["total_bytes"] == without
        assert answer["with_sharing"]["total_bytes"] == with_
        assert answer["saving_bytes"] == without - with_

    @pytest.mark.parametrize("wrong", [["--size", "0"], ["--clients", "0"], ["--page-size", "8KiB"]])
    def test_model_refuses(self, wrong):
        assert CliRunner().invoke(mshare, ["model", *wrong]).exit_code == 2


class TestScreens:
    def test_info_says_whether_and_why(self, shared):
        said = shared.ok("info")
        assert "Supported: yes, by the simulated backend" in said
        assert "here" in said
        assert "alignment_bytes" in json.dumps(shared.json("info"))

    def test_info_lists_the_interfaces_that_are_known(self, shared):
        known = {each["id"]: each for each in shared.json("info", "--generations")["generations"]}
        assert known["2025-08"]["status"] == "posted"
        assert known["2026-05"]["status"] == "described, not posted"
        assert known["2026-05"]["features"]["nameless"] is True
        assert shared.json("info")["generations"] == list(known.values())
        said = " ".join(shared.ok("info", "--generations").split())
        assert "2026-05 described, not posted LSFMM+BPF, May 2026" in said
        assert "No kernel has 2026-05; the simulated backend plays it." in said
        assert "No kernel has 2025-08" not in said

    def test_info_gives_each_reason_once(self):
        kernel = "kernel 6.12 has no msharefs, so the simulated backend is used"
        mounted = f"no msharefs is mounted ({kernel}; tried /run/msharefs); run `mshare mount`"
        assert _each_once([kernel, mounted]) == [mounted]
        assert _each_once([kernel, "another"]) == [kernel, "another"]

    def test_list_is_not_cut_when_it_is_piped(self, world):
        name = "long" * 32
        with world.owned(name, "--size", "1MiB"):
            lines = world.ok("list").splitlines()
        assert name in lines
        assert lines[-1].endswith(name)
        assert not any("\x1b" in line for line in lines)

    def test_window_and_mapped_size_are_two_figures(self, shared):
        said = shared.ok("stat", "here")
        assert "512 GiB of address space" in said
        assert "64 MiB of memory" in said
        region = shared.json("stat", "here")["region"]
        assert (region["window_bytes"], region["mapped_bytes"]) == (512 * GIB, 64 << 20)

    def test_attach_touches_and_verifies(self, shared):
        said = shared.ok("attach", "here", "--touch", "64MiB")
        assert "32 of 32 pages hold what the owner wrote" in said
        answer = shared.json("attach", "here", "--touch", "64MiB", "--address", "0x80000000000")
        assert answer["address"] == 0x80000000000
        assert (answer["verified_pages"], answer["wrong_pages"]) == (32, 0)
        assert answer["vm_pte_after_bytes"] > answer["vm_pte_before_bytes"]

    def test_json_is_taken_before_and_after_the_command(self, shared):
        for words in (["--json", "list"], ["list", "--json"], ["clients", "--json", "count", "here"]):
            assert json.loads(shared.ok(*words))["schema_version"] == 1

    def test_json_of_a_client_s_command_is_its_own(self, shared):
        done = shared.run("clients", "start", "here", "--count", "0", "--", "true", "--json")
        assert done.stdout == ""
        assert done.stderr.startswith("Error: 0 clients")

    def test_map_shows_in_stat_and_to_clients(self, shared):
        shared.ok("map", "here", "--offset", "1GiB", "--size", "2MiB")
        with_it = shared.json("stat", "here")["region"]["mappings"]
        assert [(one["offset"], one["size"]) for one in with_it] == [(0, 64 << 20), (GIB, 2 << 20)]
        assert shared.json("attach", "here", "--touch", "66MiB")["mapped_bytes"] == 66 << 20
        shared.ok("unmap", "here", "--offset", "1GiB", "--size", "2MiB")
        assert len(shared.json("stat", "here")["region"]["mappings"]) == 1

    def test_a_file_is_mapped_read_only_unless_told(self, shared):
        data = shared.directory / "data"
        data.write_bytes(b"x" * 4096)
        said = shared.ok("map", "here", "--offset", "2GiB", "--size", "4096", "--path", str(data))
        assert "read-only" in said
        shared.ok("unmap", "here", "--offset", "2GiB", "--size", "4096")
        data.unlink()

    def test_check_says_what_would_be_done_and_does_nothing(self, shared):
        before = shared.files()
        said = shared.ok("create", "new", "--size", "1MiB", "--check")
        assert "Would create region new" in said
        assert "Would " in shared.ok("clients", "start", "here", "--count", "2", "--check")
        assert "Would end region here." in shared.ok("rm", "here", "--check")
        assert shared.files() == before

    def test_what_is_not_there_is_nothing_to_do(self, shared):
        assert shared.ok("rm", "gone") == "There is no region gone; nothing to do.\n"
        assert shared.ok("clients", "stop", "here") == "No clients of region here run; nothing to do.\n"
        assert shared.json("rm", "gone")["changed"] is False

    def test_completion_completes(self, shared):
        for shell in ("bash", "zsh", "fish"):
            assert "_MSHARE_COMPLETE" in shared.ok("completion", shell)
        asked = {"_MSHARE_COMPLETE": "bash_complete", "COMP_WORDS": "mshare stat he", "COMP_CWORD": "2"}
        assert shared.ok(env=asked) == "plain,here\n"
        asked.update(COMP_WORDS="mshare cre", COMP_CWORD="1")
        assert shared.ok(env=asked) == "plain,create\n"

    def test_a_closed_pipe_is_no_error_worth_a_word(self, shared):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [*COMMAND, "model"],
            env=shared.environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writer)
        assert done.stderr == b""

    def test_the_folder_itself_is_a_program(self, shared):
        folder = Path(shared.environment["PYTHONPATH"]) / "mshare"
        done = shared.run(command=[COMMAND[0], str(folder), "--version"], env={"PYTHONPATH": ""})
        assert done.stdout == "mshare 0.1.0\n"


LONG = "x" * 300
NAMES = [("a//b", "cannot be used"), ("..", "cannot be used"), ("", "empty"), (LONG, "300 characters")]
CREATE = ("create", "new", "--size", "1MiB")
BAD = [
    *((("create", name, "--size", "1MiB"), 2, why) for name, why in NAMES),
    *((("own", name, "--size", "1MiB"), 2, why) for name, why in NAMES),
    *((("rm", name), 2, why) for name, why in NAMES),
    *((("stat", name), 2, why) for name, why in NAMES),
    *((("attach", name), 2, why) for name, why in NAMES),
    *((("map", name, "--offset", "0", "--size", "1"), 2, why) for name, why in NAMES),
    *((("validate", name), 2, why) for name, why in NAMES),
    *((("clients", "start", name, "--count", "1"), 2, why) for name, why in NAMES),
    *((("clients", "stop", name), 2, why) for name, why in NAMES),
    (("create", "new", "--size", "0"), 2, "greater than zero"),
    (("create", "new", "--size", "-5GiB"), 2, "is not a size"),
    (("create", "new", "--size", "300 gigs"), 2, "'300 gigs' is not a size"),
    (("create", "new", "--size", "200TiB", "--overcommit"), 2, "address space"),
    (("own", "new", "--size", "200TiB", "--overcommit"), 2, "address space"),
    (("create", "new", "--size", "100TiB"), 2, "--overcommit"),
    (("own", "new", "--size", "100TiB"), 2, "--overcommit"),
    (("create", "new"), 2, "needs either a size"),
    ((*CREATE, "--mode", "0999"), 2, "is not a file mode"),
    ((*CREATE, "--group", "no-such-group"), 2, "no group 'no-such-group'"),
    ((*CREATE, "--owner", "no-such-user"), 2, "no user 'no-such-user'"),
    ((*CREATE, "--backend", "magic"), 2, "magic"),
    ((*CREATE, "--root", "relative"), 2, "not an absolute path"),
    ((*CREATE, "--address", "here"), 2, "address"),
    (("create", "new", "--map", "size=1MiB,protection=rwx"), 2, "protection 'rwx' is unknown"),
    (("create", "new", "--map", "size=1MiB,offset=100"), 2, "not aligned"),
    (("create", "new", "--map", "size=1MiB,offset=0", "--map", "size=1MiB,offset=4096"), 2, "overlaps"),
    (("create", "new", "--map", "sise=1MiB"), 2, "did you mean size?"),
    (("create", "new", "--map", "1MiB"), 2, "KEY=VALUE"),
    (("create", "new", "--map", "kind=file,size=1MiB"), 2, "path"),
    (("create", "new", "--map", "size=1MiB,path=/no/such/file"), 1, "/no/such/file"),
    (("map", "here", "--offset", "1GiB", "--size", "1TiB"), 2, "beyond the region's window"),
    (("map", "here", "--offset", "100", "--size", "1MiB"), 2, "not aligned"),
    (("map", "here", "--offset", "0", "--size", "1MiB"), 5, "--replace"),
    (("map", "here", "--offset", "1GiB", "--size", "1MiB", "--protection", "x"), 2, "write r or rw"),
    (("map", "here", "--offset", "1GiB", "--size", "1MiB", "--kind", "odd"), 2, "'odd' is unknown"),
    (("map", "here", "--offset", "1GiB", "--size", "1MiB", "--path", "/no/such/file"), 1, "/no/such/file"),
    (("map", "here", "--offset", "0", "--size", "2MiB", "--kind", "hugetlb"), 2, "from the beginning"),
    (("unmap", "here", "--offset", "1TiB", "--size", "1MiB"), 2, "beyond the region's window"),
    (("attach", "here", "--address", "0x1000"), 2, "cannot hold a region"),
    (("attach", "here", "--touch", "1GiB"), 2, "cannot be touched"),
    (("attach", "gone"), 1, "ENOENT"),
    (("stat", "gone"), 1, "there is no region gone"),
    (("create", "here", "--size", "128MiB", "--pattern"), 5, "--recreate"),
    (("own", "here", "--size", "64MiB"), 5, "held by process"),
    (("clients", "start", "here", "--count", "0"), 2, "0 clients cannot be started"),
    (("clients", "start", "here", "--count", "-1"), 2, "-1 clients cannot be started"),
    (("clients", "start", "here", "--count", "10000000"), 2, "10000000 clients cannot be started"),
    (("clients", "start", "here", "--count", "some"), 2, "not a whole number"),
    (("clients", "start", "here"), 2, "need a count"),
    (("clients", "start", "here", "--count", "2", "--stride", "100"), 2, "stride"),
    (("clients", "start", "gone", "--count", "2"), 1, "has no running owner"),
    (("clients", "start", "here", "--count", "2", "--", "/no/such"), 1, "/no/such cannot be started"),
    (("clients", "start", "here", "--count", "2", "--", "false"), 1, "exit code 1"),
    (("clients", "run", "here", "--count", "2", "--", "/bin/false"), 1, "exit code 1"),
    (("clients", "status", "here"), 1, "no clients of region here"),
    (("clients", "restart", "here"), 1, "no launcher of region here"),
    (("validate", "here"), 1, "nothing to validate"),
    (("validate", "here", "--min-saving-percent", "200"), 2, "must be 0 to 100"),
    (("create", "--spec", "/no/such/spec.yml"), 2, "does not exist"),
    (("mount", "--generation", "2022-01"), 2, "system calls"),
    (("mount", "--generation", "1999-12"), 2, "is unknown"),
    (("mount", "--group", "no-such-group"), 2, "no-such-group"),
    (("list", "--root", "/proc"), 4, "/proc holds no msharefs"),
]  # fmt: skip


def identify(value: Any) -> str | None:
    return " ".join(value).replace(LONG, "300-times-x") if isinstance(value, tuple) else None


class TestBadInput:
    @pytest.mark.parametrize(("words", "code", "why"), BAD, ids=identify)
    def test_a_sentence_an_exit_code_and_nothing_half_done(self, shared, words, code, why):
        files, processes = shared.files(), shared.processes()
        done = shared.run(*words)
        assert done.returncode == code, done.stderr
        last = done.stderr.rstrip("\n").splitlines()[-1]
        assert last.startswith("Error: ")
        assert why in last
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert shared.files() == files
        assert shared.processes() == processes

    @pytest.mark.parametrize("code", sorted({code for __, code, __ in BAD}))
    def test_the_same_in_json(self, shared, code):
        words, __, why = next(one for one in BAD if one[1] == code)
        done = shared.run("--json", *words)
        assert done.returncode == code
        assert done.stderr == ""
        error = json.loads(done.stdout)["error"]
        assert error["exit_code"] == code
        assert why in error["message"]

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("name: new\nsise: 1GiB\n", "unknown key 'sise'; did you mean size?"),
            ("name: new\nsize: 1GiB\ncolour: red\n", "unknown key 'colour'; known keys are"),
            ("name: new\nsize: [1\n", "is not YAML"),
            ("- new\n", "holds no keys and values"),
            ("name: new\nsize: 1GiB\nprefault: maybe\n", "neither true nor false"),
            ("name: new\nmappings:\n  - sice: 1\n", "unknown key 'sice'"),
        ],
    )
    @pytest.mark.parametrize("command", ["own", "create"])
    def test_a_spec_file_is_read_closely(self, shared, tmp_path, command, text, why):
        spec = tmp_path / "new.yml"
        spec.write_text(text)
        done = shared.run(command, "--spec", str(spec))
        assert done.returncode == 2
        assert why in done.stderr
        assert str(spec) in done.stderr

    def test_a_spec_file_is_the_only_truth(self, shared, tmp_path):
        spec = tmp_path / "new.yml"
        spec.write_text("name: new\nsize: 1GiB\n")
        for beside in (["other"], ["--size", "2GiB"], ["--prefault"]):
            done = shared.run("create", "--spec", str(spec), *beside)
            assert done.returncode == 2
            assert "write it into the file" in done.stderr
        spec.write_text("name: new\nsize: 1GiB\nroot: /one\n")
        done = shared.run("create", "--spec", str(spec), "--root", "/two")
        assert done.returncode == 2
        assert "use only one of them" in done.stderr

    @needs_no_kernel
    @pytest.mark.parametrize("words", [CREATE, ("own", "new", "--size", "1MiB"), ("list",), ("mount",)])
    def test_a_kernel_that_is_missing_is_said(self, shared, words):
        root = [] if words == ("mount",) else ["--root", str(shared.root)]
        done = shared.run(*words, "--backend", "kernel", *root)
        assert done.returncode == 4
        assert "kernel" in done.stderr

    def test_an_unaligned_address_in_a_generation_that_has_one(self):
        with new_world("2025-01") as old:
            for command in ("create", "own"):
                done = old.run(command, "new", "--size", "1MiB", "--address", "0x1000")
                assert done.returncode == 2
                assert "cannot hold a region" in done.stderr
            assert old.files() == []

    def test_no_cffi(self, shared, tmp_path):
        (tmp_path / "_cffi_backend.py").write_text("raise ImportError('no _cffi_backend here')")
        without = {"PYTHONPATH": f"{tmp_path}:{shared.environment['PYTHONPATH']}"}
        files = shared.files()
        for words in (CREATE, ("own", "new", "--size", "1MiB"), ("attach", "here")):
            done = shared.run(*words, env=without)
            assert done.returncode == 4
            assert "python3-cffi" in done.stderr
            assert shared.files() == files
        assert shared.ok("list", env=without)
        assert shared.ok("info", env=without)

    def test_a_mount_point_that_cannot_be_one(self, world):
        file, link, full = world.directory / "file", world.directory / "link", world.directory / "full"
        file.write_text("mine")
        link.symlink_to(world.root)
        full.mkdir()
        (full / "mine").write_text("mine")
        for path, why in ((file, "is a file"), (link, "is a symlink"), (full, "is not empty")):
            done = world.run("mount", "--backend", "simulated", "--root", str(path))
            assert done.returncode == 5
            assert why in done.stderr
        assert not world.config.exists()

    def test_not_root(self, monkeypatch):
        monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: True)
        monkeypatch.setattr(paths, "is_root", lambda: False)
        with new_world() as made:
            monkeypatch.setenv("MSHARE_CONFIG_DIR", str(made.config))
            monkeypatch.setenv("MSHARE_STATE_DIR", str(made.state))
            done = CliRunner().invoke(
                mshare, ["mount", "--backend", "kernel", "--root", str(made.directory / "mnt")]
            )
            assert done.exit_code == 4
            assert "needs root" in done.output
            assert not (made.directory / "mnt").exists()
            assert made.files() == []


@needs_root
class TestOtherUsers:
    def test_a_private_region_is_refused_with_a_sentence(self, shared):
        done = shared.run_as_nobody("attach", "here")
        assert done.returncode == 1
        assert "EACCES" in done.stderr
        assert "Traceback" not in done.stderr

    def test_everybody_may_look(self, shared):
        done = shared.run_as_nobody("list")
        assert done.returncode == 0
        assert "here" in done.stdout

    def test_nobody_else_may_remove(self, shared):
        done = shared.run_as_nobody("rm", "here")
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert shared.health("here") == "healthy"


@needs_root
class TestMounts:
    """Real ones, in a mount namespace of their own."""

    def test_there_and_back(self, world):
        root = str(world.directory / "mnt")
        done = world.run_in_mount_namespace(
            ["mshare", "mount", "--backend", "simulated", "--root", root, "--check"],
            ["mshare", "mount", "--backend", "simulated", "--root", root, "--json"],
            ["mshare", "mount", "--backend", "simulated", "--root", root],
            ["mshare", "mount", "--backend", "simulated", "--root", root, "--generation", "2025-04"],
            ["mshare", "own", "sga", "--root", root, "--size", "0"],
            ["mshare", "umount", "--root", root],
            ["mshare", "umount", "--root", root],
        )
        assert [one.returncode for one in done] == [0, 0, 0, 5, 2, 0, 0], [one.stderr for one in done]
        assert f"Would mount the simulated msharefs at {root}." in done[0].stdout
        assert json.loads(done[1].stdout)["changed"] is True
        assert "nothing to do" in done[2].stdout
        assert "unmount it" in done[3].stderr
        assert done[5].stdout == f"Unmounted {root}.\n"
        assert "nothing to do" in done[6].stdout
        assert world.files() == []
        assert not os.path.exists(root)

    def test_no_room_on_the_tmpfs(self, world):
        root = str(world.directory / "mnt")
        done = world.run_in_mount_namespace(
            ["mshare", "mount", "--backend", "simulated", "--root", root, "--size", "8MiB"],
            ["mshare", "create", "sga", "--root", root, "--size", "64MiB", "--prefault"],
            ["mshare", "own", "sga", "--root", root, "--size", "64MiB", "--prefault"],
            ["mshare", "create", "sga", "--root", root, "--size", "64MiB"],
            ["mshare", "umount", "--root", root],
            ["mshare", "rm", "sga", "--root", root],
            ["mshare", "umount", "--root", root],
        )
        assert [one.returncode for one in done] == [0, 1, 1, 0, 5, 0, 0], [one.stderr for one in done]
        for refused in done[1:3]:
            assert "the tmpfs at" in refused.stderr
            assert "larger size" in refused.stderr
        assert f"{root} is in use by region sga (owner " in done[4].stderr
        assert world.files() == []
        assert world.processes() == []

    def test_somebody_who_has_it_otherwise(self, world, tmp_path):
        """A program on the host that undoes what is done: here one that swallows each remount."""
        swallows = tmp_path / "mount"
        real = shutil.which("mount")
        swallows.write_text(f'#!/bin/sh\ncase "$*" in *remount*) ;; *) exec {real} "$@" ;; esac\n')
        swallows.chmod(0o755)
        world.environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        root = str(world.directory / "mnt")
        done = world.run_in_mount_namespace(
            ["mshare", "mount", "--backend", "simulated", "--root", root, "--size", "8MiB"],
            ["mshare", "mount", "--backend", "simulated", "--root", root, "--size", "16MiB"],
            ["mshare", "umount", "--root", root],
        )
        assert [one.returncode for one in done] == [0, 1, 0], [one.stderr for one in done]
        assert (
            f"{root} was changed as requested, but still differed in size, so it was put back; something else"
            " may be changing it; run this again" in " ".join(done[1].stderr.split())
        )

    def test_in_use_by_somebody_else(self, world):
        root = str(world.directory / "mnt")
        os.mkdir(root)
        done = world.run_in_mount_namespace(
            ["mount", "-t", "tmpfs", "not-ours", root],
            ["mshare", "mount", "--backend", "simulated", "--root", root],
            ["mshare", "umount", "--root", root],
        )
        assert [one.returncode for one in done] == [0, 5, 0]
        assert "has tmpfs:not-ours mounted on it" in done[1].stderr
        assert "nothing to do" in done[2].stdout
