# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is at a root, what of it differs from what is wanted, and what is refused there."""

from __future__ import annotations

import grp
import os

import pytest

from mshare.errors import InvalidRequest, MshareError, Unavailable
from mshare.host.limits import Host
from mshare.mount import converge, msharefs, preflight, units
from mshare.mount.spec import MountSpec
from mshare.services import systemd


def spec(root: object, **fields: object) -> MountSpec:
    return MountSpec.from_dict({"backend": "simulated", "root": str(root), **fields})


def test_what_may_be_at_a_root(here, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    kinds = {name: msharefs.observe(str(tmp_path / name)).kind for name in ("missing", "file", "link")}
    assert kinds == {"missing": "missing", "file": "file", "link": "symlink"}
    seen = msharefs.observe(str(here.root))
    assert (seen.kind, seen.backend, seen.generation) == ("directory", "simulated", "2025-08")
    assert not msharefs.observe(str(tmp_path)).empty


def test_access_that_differs(here):
    seen = msharefs.observe(str(here.root))
    assert msharefs.differences(spec(here.root, mode="1777", generation="2025-08"), seen) == []
    assert msharefs.differences(spec(here.root, mode="0770", generation="2025-08"), seen) == ["access"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"backend": "auto"}, "backend 'auto' is unknown; write one of kernel, simulated"),
        ({"root": "run"}, "'run' is not an absolute path"),
        ({"backend": "kernel", "size": "1GiB"}, "size is for the simulated backend"),
        ({"backend": "kernel", "generation": "2025-08"}, "generation is for the simulated backend"),
        ({"generation": "2030-01"}, "generation '2030-01' is unknown"),
        (
            {"generation": "2026-05", "size": "1GiB"},
            "size limits the files of regions, and a region of generation 2026-05 has none; omit size",
        ),
        ({"mode": "rwx"}, "'rwx' is not a file mode"),
    ],
)
def test_a_spec_that_makes_no_sense(fields, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        MountSpec.from_dict({"backend": "simulated", "root": "/run/x", **fields})


def test_a_group_that_is_not_there():
    with pytest.raises(InvalidRequest, match="nosuchgroup"):
        msharefs.group_id(spec("/run/x", group="nosuchgroup"))
    assert msharefs.group_missing(spec("/run/x", group="nosuchgroup", create_group=True))
    assert msharefs.group_id(spec("/run/x", group=grp.getgrgid(0).gr_name)) == 0
    assert msharefs.group_id(spec("/run/x")) == -1


def test_a_root_in_use_is_refused_with_who_uses_it(here):
    msharefs.refuse_in_use(str(here.root))
    with here.owned() as process, pytest.raises(MshareError, match=f"owner {process.pid}"):
        msharefs.refuse_in_use(str(here.root))


def test_nothing_is_to_be_removed_where_nothing_is(here, tmp_path):
    done = converge.mount_absent(str(tmp_path / "missing"))
    assert (done.changed, done.actions) == (False, [])


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user mounts nothing")
def test_a_check_run_announces_a_mount_and_makes_none(here, tmp_path):
    announced = converge.mount_present(spec(tmp_path / "root"), check=True)
    assert announced.actions[0] == f"mount the simulated msharefs at {tmp_path / 'root'}"
    assert not (tmp_path / "root").exists()
    choice = converge.choose_absent("simulated", str(tmp_path / "root"))
    answer = converge.result(choice, announced)
    assert (answer["backend"], answer["root"]) == ("simulated", str(tmp_path / "root"))
    assert answer["backend_reason"] == "the simulated backend was requested"


def test_a_mount_unit_has_what_mount_would_be_told():
    (text,) = units.mount_file(spec("/run/x y", size="1GiB")).values()
    assert "Where=/run/x y\n" in text
    assert f"Options=mode=0700,size={1 << 30}\n" in text
    (text,) = units.mount_file(MountSpec("kernel", "/sys/fs/mshare")).values()
    assert "Type=msharefs\n" in text
    assert "Options" not in text


def tree(tmp_path, capabilities: str, environment: str = "") -> Host:
    for path, text in {
        "proc/self/status": f"CapEff:\t{capabilities}\n",
        "proc/1/environ": environment,
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Host(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is refused before that")
def test_root_without_the_capability_is_told_who_takes_it_away(tmp_path):
    preflight.require("/run/x", tree(tmp_path, "000001ffffffffff"))
    with pytest.raises(Unavailable, match="the process that started this does not give root"):
        preflight.require("/run/x", tree(tmp_path, "0000000000000000"))
    with pytest.raises(
        Unavailable, match=r"this container \(podman\) does not give root.*--cap-add SYS_ADMIN"
    ):
        preflight.require("/run/x", tree(tmp_path, "0000000000000000", "container=podman\0"))


def test_an_ordinary_user_is_told_of_the_other_backend(monkeypatch):
    monkeypatch.setattr(preflight.paths, "is_root", lambda: False)
    with pytest.raises(Unavailable, match=r"needs root .*or use backend simulated"):
        preflight.require("/run/x")


@pytest.mark.parametrize("before", [None, "[Mount]\n"], ids=["none", "another"])
def test_units_are_put_back_where_what_follows_fails(tmp_path, monkeypatch, before):
    folder = tmp_path / "units"
    folder.mkdir()
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", str(folder))
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    unit = folder / "run-x.mount"
    if before is not None:
        unit.write_text(before)

    def change():
        with units.restored_on_failure("/run/x"):
            units.enable_mount(spec("/run/x"))
            assert "Where=/run/x" in unit.read_text()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change()
    assert (unit.read_text() if unit.exists() else None) == before
    calls = [call.removeprefix("--quiet ") for call in (tmp_path / "calls").read_text().splitlines()]
    # Neither was enabled before.
    assert "disable run-x.mount mshare-msharefs@run-x.service" in calls
    assert calls.index("disable run-x.mount mshare-msharefs@run-x.service") > calls.index(
        "enable run-x.mount mshare-msharefs@run-x.service"
    )
