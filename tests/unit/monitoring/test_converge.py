# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before anything is changed; tests/fleet sets the surveys up and removes them again."""

from __future__ import annotations

import errno
import os
import pwd

import pytest

from mshare import files, paths
from mshare.errors import Conflict, MshareError, Unavailable
from mshare.monitoring import account, converge, units
from mshare.monitoring.spec import MonitoringSpec
from mshare.runtime import install
from mshare.runtime.manifest import Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what root sets up")
SPEC = MonitoringSpec(directory="/nowhere")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Nothing of the machine's is read or changed but its users."""
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path / "etc"))
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(converge, "systemd_runs", lambda: True)
    monkeypatch.setattr(converge, "_paths", lambda: [str(tmp_path / "unit")])
    monkeypatch.setattr(account, "current", lambda: None)
    monkeypatch.setattr(account, "require_programs", lambda: None)
    (tmp_path / "textfiles").mkdir()
    return tmp_path


def refused(kind, **fields):
    with pytest.raises(kind) as caught:
        converge.present(MonitoringSpec(**fields))
    assert not os.path.exists(paths.monitoring_file())
    return str(caught.value)


def test_without_a_directory():
    assert "/nowhere is not a directory on this host; create it" in refused(Unavailable, directory="/nowhere")


def test_a_file_of_somebody_else_s(own_folders):
    (own_folders / "textfiles" / "mshare.prom").write_text("")
    text = refused(Conflict, directory=str(own_folders / "textfiles"))
    assert "mshare.prom is there and was not made by this role; move it away" in text


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/null", path)])
def test_something_else_in_the_place_of_the_surveys_folder(own_folders, monkeypatch, make):
    folder = str(own_folders / "folder")
    monkeypatch.setattr(converge, "FOLDER", folder)
    make(folder)
    text = refused(files.NotTrusted, directory=str(own_folders / "textfiles"))
    what = "a symbolic link" if os.path.islink(folder) else "a FIFO"
    assert text == f"{folder} is {what} where a directory belongs; remove it"


def test_a_link_of_somebody_else_s_in_its_place(own_folders):
    """The file that it leads to is neither written nor replaced."""
    (own_folders / "textfiles").chmod(0o1777)
    secret = own_folders / "secret"
    secret.write_text("before")
    link = own_folders / "textfiles" / "mshare.prom"
    link.symlink_to(secret)
    os.lchown(link, 4711, 4711)
    text = refused(Conflict, directory=str(own_folders / "textfiles"))
    assert "mshare.prom is there and was not made by this role; move it away" in text
    assert (os.readlink(link), secret.read_text()) == (str(secret), "before")


def test_a_directory_that_somebody_else_chose(own_folders):
    shared = own_folders / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "textfiles").symlink_to(own_folders / "textfiles")
    os.lchown(shared / "textfiles", 4711, 4711)
    text = refused(Conflict, directory=str(shared / "textfiles"))
    assert f"{shared}/textfiles is a symbolic link of uid 4711, where others can make links; remove" in text
    assert os.listdir(own_folders / "textfiles") == []


def test_a_directory_that_others_may_write_to_gets_a_link_of_root_s(own_folders):
    """As some node exporters' are: nothing is read there, and nothing but a link is made."""
    where = own_folders / "textfiles"
    where.chmod(0o1777)
    outcome = converge.present(MonitoringSpec(directory=str(where)), check=True)
    assert f"link {where}/mshare.prom to {units.OUTPUT}" in outcome.actions


def test_an_ordinary_user(monkeypatch):
    monkeypatch.setattr(paths, "is_root", lambda: False)
    for act in (lambda: converge.present(SPEC), converge.absent):
        with pytest.raises(Unavailable) as caught:
            act()
        assert "run as root (become: true)" in str(caught.value)


@pytest.mark.parametrize(("uid", "ok"), [(0, False), (999, True), (1000, False)])
def test_the_user_is_a_system_user(uid, ok, monkeypatch):
    monkeypatch.undo()
    entry = pwd.struct_passwd(("mshare-monitoring", "x", uid, 7, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entry)
    if ok:
        assert account.current() == account.Account(uid, 7)
        return
    with pytest.raises(Conflict) as caught:
        account.current()
    assert f"(uid {uid}) is no system user" in str(caught.value)


def test_a_check_run_says_what_would_be_done_and_does_nothing(own_folders):
    where = str(own_folders / "textfiles")
    outcome = converge.present(MonitoringSpec(directory=where), check=True)
    assert outcome.changed
    assert outcome.actions[0] == "make user mshare-monitoring"
    assert f"link {where}/mshare.prom to {units.OUTPUT}" in outcome.actions
    assert outcome.after["state"] == "present"
    assert os.listdir(own_folders) == ["textfiles"]
    assert os.listdir(where) == []


def test_it_looks_once_and_does_what_it_told(own_folders, monkeypatch):
    """What is decided twice may be decided differently; so the command line is asked for in between."""
    where = str(own_folders / "textfiles")
    unit, folder = str(own_folders / "unit"), str(own_folders / "folder")
    looks, done = [], []
    monkeypatch.setattr(account, "current", lambda: looks.append("user"))
    monkeypatch.setattr(account, "make", lambda: done.append("make user") or account.Account(0, 0))
    monkeypatch.setattr(converge, "FOLDER", folder)
    monkeypatch.setattr(units, "OUTPUT", f"{folder}/mshare.prom")
    monkeypatch.setattr(units, "systemd_files", lambda spec: {unit: "x"})
    monkeypatch.setattr(converge.systemd, "ask", lambda *words: looks.append(words[0]))
    monkeypatch.setattr(converge.systemd, "systemctl", lambda *words: files.write_text(units.OUTPUT, "x"))
    outcome = converge.present(MonitoringSpec(where), require_program=lambda: done.append("program"))
    assert outcome.changed
    # systemd's second answer, to is-active, does not matter when it is not enabled; both are asked for.
    assert looks == ["user", "is-enabled", "is-active"]
    assert done == ["program", "make user"]


def test_without_the_command_line_nothing_is_changed(own_folders):
    def missing():
        raise Unavailable("no program")

    with pytest.raises(Unavailable, match="no program"):
        converge.present(MonitoringSpec(str(own_folders / "textfiles")), require_program=missing)
    assert os.listdir(own_folders) == ["textfiles"]


def test_with_nothing_to_do_the_command_line_is_not_asked_for(own_folders, monkeypatch):
    where = str(own_folders / "textfiles")
    monkeypatch.setattr(account, "make", lambda: account.Account(0, 0))
    monkeypatch.setattr(converge, "FOLDER", str(own_folders / "folder"))
    monkeypatch.setattr(units, "OUTPUT", str(own_folders / "folder" / "mshare.prom"))
    monkeypatch.setattr(units, "systemd_files", lambda spec: {str(own_folders / "unit"): "x"})
    monkeypatch.setattr(converge.systemd, "systemctl", lambda *words: files.write_text(units.OUTPUT, "x"))
    answers = {"is-enabled": "enabled", "is-active": "active"}
    monkeypatch.setattr(converge.systemd, "ask", lambda *words: answers[words[0]])
    assert converge.present(MonitoringSpec(where)).changed
    monkeypatch.setattr(account, "current", lambda: account.Account(0, 0))
    asked = []
    again = converge.present(MonitoringSpec(where), require_program=lambda: asked.append("program"))
    assert (again.changed, asked) == (False, [])


def test_where_nothing_is_set_up_there_is_nothing_to_remove():
    assert not converge.absent().changed


def test_what_a_killed_run_left_of_writing_its_record_is_removed(own_folders):
    record = paths.monitoring_file()
    unfinished = os.path.join(os.path.dirname(record), f".{os.path.basename(record)}.0123456789abcdef.new")
    files.write_text(unfinished, "{")
    checked = converge.absent(check=True)
    assert (checked.changed, checked.actions) == (True, [f"remove {record}"])
    assert os.path.exists(unfinished)
    assert converge.absent().changed
    assert not os.path.exists(os.path.dirname(record))
    assert not converge.absent().changed


def test_what_fails_is_undone(own_folders, monkeypatch):
    """The user cannot be made: nothing is left, the record included."""
    where = str(own_folders / "textfiles")

    def fail():
        raise MshareError("no user")

    monkeypatch.setattr(account, "make", fail)
    monkeypatch.setattr(converge.systemd, "systemctl", lambda *words: None)
    with pytest.raises(MshareError, match="no user"):
        converge.present(MonitoringSpec(directory=where))
    assert not os.path.exists(paths.monitoring_file())
    assert os.listdir(where) == []


def test_without_room_for_the_link_all_of_it_is_undone(own_folders, monkeypatch):
    where = str(own_folders / "textfiles")

    def full(target, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    made = []
    monkeypatch.setattr(account, "make", lambda: made.append("user") or account.Account(0, 0))
    monkeypatch.setattr(converge, "FOLDER", str(own_folders / "folder"))
    monkeypatch.setattr(units, "OUTPUT", str(own_folders / "folder" / "mshare.prom"))
    monkeypatch.setattr(units, "systemd_files", lambda spec: {str(own_folders / "unit"): "x"})
    monkeypatch.setattr(converge.systemd, "systemctl", lambda *words: None)
    monkeypatch.setattr(converge.systemd, "ask", lambda *words: None)
    monkeypatch.setattr(converge._Decision, "_start", lambda decision: files.write_text(units.OUTPUT, "x"))
    monkeypatch.setattr(files, "make_link", full)
    with pytest.raises(OSError, match="No space left on device"):
        converge.present(MonitoringSpec(directory=where))
    assert made == ["user"]
    assert not os.path.exists(paths.monitoring_file())
    assert not os.path.exists(own_folders / "folder")
    assert not os.path.exists(own_folders / "unit")
    assert os.listdir(where) == []


def test_the_directory_that_was_set_up_stays_while_no_exporter_runs(own_folders, monkeypatch):
    def none():
        raise Unavailable("none runs")

    monkeypatch.setattr(converge.directory, "find", none)
    assert refused(Unavailable) == "none runs"
    where = str(own_folders / "textfiles")
    converge.record.save_kept(converge.Recorded(1, where, True), paths.monitoring_file())
    assert converge.present(MonitoringSpec(), check=True).facts.directory == where


def test_the_library_is_not_removed_from_under_it(own_folders):
    place = Place(str(own_folders / "lib"), str(own_folders / "bin" / "mshare"), "/usr/bin/python3")
    files.write_text(place.manifest, install.manifest_text([place.executable]))
    files.write_text(paths.monitoring_file(), "{}")
    with pytest.raises(Conflict) as caught:
        install.absent(place, check=True)
    assert "surveys this host for Prometheus; stop that first" in str(caught.value)
