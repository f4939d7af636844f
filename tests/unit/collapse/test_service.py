# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service that keeps a server in huge pages: a real process, for a server that does not run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mshare import files
from mshare.cli.program import mshare
from mshare.collapse import converge, service, spec
from mshare.collapse.spec import FollowSpec, spec_file
from mshare.errors import Conflict, InvalidRequest, Unavailable
from mshare.host import procfs
from mshare.record import Malformed
from mshare.runtime.install import absent
from mshare.runtime.manifest import Place, manifest_text
from rig.faults import fail_at
from rig.patience import eventually

pytestmark = pytest.mark.usefixtures("here")

PROGRAM = (sys.executable, "-m", "mshare")
TARGET = "/no/such/data-directory"


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.setattr("mshare.paths.is_root", lambda: True)


@pytest.fixture
def follower():
    """Stopped in the end, whatever a test did to it."""
    yield FollowSpec(TARGET, interval_seconds=1)
    converge.let_go(TARGET)


def test_there_and_back(follower, here):
    assert converge.set_up(follower, PROGRAM, check=True).changed
    assert not here.config.exists()
    first = converge.set_up(follower, PROGRAM)
    assert first.actions == [
        f"write {spec.spec_file(TARGET)}",
        f"start the service that keeps {TARGET} in huge pages",
    ]
    assert first.facts.running
    assert first.facts.kept_by == "detached"
    assert first.boot == {"managed": False, "enabled": False, "reason": "systemd does not run on this host"}
    assert "nobody starts the service" in first.warnings[0]
    assert spec.followed() == [TARGET]
    again = converge.set_up(follower, PROGRAM)
    assert (again.changed, again.facts.pid) == (False, first.facts.pid)
    eventually(
        lambda: "no PostgreSQL server runs in" in (converge.set_up(follower, PROGRAM).facts.news or "")
    )
    gone = converge.let_go(TARGET)
    assert gone.actions == [
        f"stop the service that keeps {TARGET} in huge pages",
        f"remove {spec.spec_file(TARGET)}",
    ]
    assert not procfs.alive(first.facts.pid, procfs.start_ticks(first.facts.pid) or 0)
    assert not converge.let_go(TARGET).changed
    assert not here.config.exists()
    assert not here.state.exists()


def test_what_a_killed_run_left_of_its_spec_is_removed():
    path = Path(spec_file(TARGET))
    left = path.with_name(f".{path.name}.0123456789abcdef.new")
    files.write_text(str(left), "{")
    assert converge.let_go(TARGET, check=True).actions == [f"remove {path}"]
    assert converge.let_go(TARGET).changed
    assert not left.exists()
    assert not converge.let_go(TARGET).changed


def test_another_interval_starts_it_anew(follower):
    first = converge.set_up(follower, PROGRAM)
    other = converge.set_up(FollowSpec(TARGET, 1 << 20, 2), PROGRAM)
    assert any("which was set up differently" in action for action in other.actions)
    assert (other.facts.interval_seconds, other.facts.rate_bytes) == (2, 1 << 20)
    assert other.facts.pid != first.facts.pid


def test_one_that_was_killed_is_started_again(follower):
    first = converge.set_up(follower, PROGRAM)
    os.kill(first.facts.pid, signal.SIGKILL)
    os.waitpid(first.facts.pid, 0)
    again = converge.set_up(follower, PROGRAM)
    assert again.actions == [f"start the service that keeps {TARGET} in huge pages"]


def test_a_service_that_cannot_start_leaves_nothing(here):
    with pytest.raises(OSError, match="No such file"):
        converge.set_up(FollowSpec(TARGET), ("/no/such/program",))
    assert not here.config.exists()


def test_one_that_cannot_be_examined_after_its_start_is_ended_again(here, monkeypatch):
    nothing = here.files()
    fail_at(monkeypatch, converge, "_facts", {1})
    with pytest.raises(OSError, match="Input/output error"):
        converge.set_up(FollowSpec(TARGET), PROGRAM)
    assert here.files() == nothing
    assert not here.state.exists()


def test_the_library_stays_while_it_keeps_a_server(follower, tmp_path):
    place = Place(str(tmp_path / "lib"), str(tmp_path / "mshare"), sys.executable)
    place_text = manifest_text([place.executable])
    Path(place.manifest).parent.mkdir()
    Path(place.manifest).write_text(place_text)
    assert absent(place, check=True).changed
    converge.set_up(follower, PROGRAM)
    with pytest.raises(Conflict, match="keeps /no/such/data-directory in huge pages; stop that first"):
        absent(place, check=True)


def test_only_root_sets_one_up(monkeypatch):
    monkeypatch.setattr("mshare.paths.is_root", lambda: False)
    for attempt in (lambda: converge.keep(FollowSpec(TARGET), PROGRAM), lambda: converge.let_go(TARGET)):
        with pytest.raises(Unavailable, match=r"needs root.*become: true"):
            attempt()


@pytest.mark.parametrize(
    ("target", "interval", "words"),
    [
        ("4711", 30, "is a pid, which a restart takes away"),
        ("postgres", 30, "neither a pid, nor an absolute data directory, nor a systemd unit"),
        (TARGET, 0.5, "interval 0.5 is too short; use 1 second or more"),
    ],
)
def test_what_cannot_be_kept(target, interval, words):
    with pytest.raises(InvalidRequest, match=words):
        FollowSpec(target, interval_seconds=interval)


def test_what_it_says_before_its_first_look(follower):
    status = service.starting(follower)
    assert (status.state, status.region, status.news) == ("starting", spec.name_of(TARGET), None)
    assert status.spec == follower


def test_names_of_files_and_units():
    assert spec.name_of("/var/lib/postgresql/15/main/") == "var-lib-postgresql-15-main"
    assert spec.name_of("postgresql@15-main.service") == r"postgresql\x4015\x2dmain.service"


def test_a_spec_file_that_is_damaged(here):
    path = spec.spec_file(TARGET)
    os.makedirs(os.path.dirname(path))
    Path(path).write_text('{"target": 7}')
    with pytest.raises(Malformed, match=r"has 7 for target where a text is needed; set it up again"):
        spec.followed()


def test_the_command_line(tmp_path):
    run = CliRunner().invoke
    assert "use it without a TARGET" in run(mshare, ["collapse", "--spec", "/x", "1"]).output
    assert "a TARGET is needed" in run(mshare, ["collapse"]).output
    missing = run(mshare, ["collapse", "--spec", str(tmp_path / "none.json")])
    assert (missing.exit_code, "none.json" in missing.output) == (1, True)


def test_a_status_has_what_its_process_was_started_with() -> None:
    wanted = FollowSpec("/var/lib/postgresql/15/main", 200 << 20, 30.0)
    status = service.starting(wanted, os.getpid())
    assert status.spec == wanted
    assert (status.state, status.region, status.pid) == ("starting", wanted.name, os.getpid())
    assert status.started_ticks > 0
    assert service.starting(wanted).started_ticks == 0
