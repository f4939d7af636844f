# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who manages a cluster: decided by tables, and found out about real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.host import procfs
from mshare.postgresql import clusters
from mshare.postgresql.managers import choose, evidence, patroni, pg_ctlcluster
from mshare.postgresql.managers.evidence import Ancestor, Evidence
from rig.other_user import UID, directory_of_other, needs_root

DEBIAN = Evidence("/var/lib/postgresql/15/main", "/etc/postgresql/15/main", 7)
EL = Evidence("/var/lib/pgsql/16/data", "/var/lib/pgsql/16/data", 7)
DEBIAN_START = "{ path=/usr/bin/pg_ctlcluster ; argv[]=/usr/bin/pg_ctlcluster 15-main start ; pid=0 }"
EL_START = "{ path=/usr/pgsql-16/bin/postgres ; argv[]=/usr/pgsql-16/bin/postgres -D ${PGDATA} ; pid=0 }"
PATRONI_START = "{ path=/usr/bin/patroni ; argv[]=/usr/bin/patroni /etc/patroni/15-main.yml ; pid=0 }"
CONTAINER_ID = "0a" * 32
PATRONI_TITLE = "/usr/bin/python3 /usr/bin/patroni /etc/patroni/15-main.yml"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and control groups: root only")


@pytest.fixture(autouse=True)
def no_patroni(tmp_path, monkeypatch):
    """No Patroni of the machine's own."""
    monkeypatch.setattr(patroni, "CONFIGURATIONS", (str(tmp_path / "patroni" / "*.yml"),))


def parents(*titles):
    return tuple(Ancestor(100 + number, title) for number, title in enumerate(titles))


@pytest.mark.parametrize(
    ("found", "name"),
    [
        # Debian's clusters, with systemd and without.
        (DEBIAN, "pg_ctlcluster"),
        (replace(DEBIAN, postmaster=None), "pg_ctlcluster"),
        (replace(DEBIAN, unit="postgresql@15-main.service", starts=DEBIAN_START), "pg_ctlcluster"),
        (replace(DEBIAN, parents=parents("/lib/systemd/systemd --user")), "pg_ctlcluster"),
        # A unit may have /tmp of its own.
        (
            replace(DEBIAN, unit="postgresql@15-main.service", starts=DEBIAN_START, apart=("mnt",)),
            "pg_ctlcluster",
        ),
        (replace(EL, unit="postgresql-16.service", starts=EL_START), "a systemd unit"),
        (replace(DEBIAN, unit="mydb.service", starts=EL_START), "a systemd unit"),
        # Patroni, whose helper ends: the parent is an init, the unit tells.
        (replace(DEBIAN, unit="patroni.service", starts=PATRONI_START), "Patroni"),
        (replace(DEBIAN, unit="patroni@15-main.service", starts=PATRONI_START), "Patroni"),
        (replace(EL, unit="postgres-patroni.service", starts=PATRONI_START), "Patroni"),
        (replace(DEBIAN, parents=parents(PATRONI_TITLE)), "Patroni"),
        (replace(DEBIAN, parents=parents("/opt/patroni/bin/patroni /etc/p.yml", "sh")), "Patroni"),
        # Its name among the options of something else means nothing.
        (
            replace(DEBIAN, parents=parents("vim /a /b patroni")),
            "something that this collection does not know",
        ),
        (replace(EL, unit="pacemaker.service"), "Pacemaker"),
        (replace(EL, parents=parents("pg_autoctl: start/stop postgres")), "pg_auto_failover"),
        (replace(EL, parents=parents("/usr/bin/stolon-keeper --uid a")), "Stolon"),
        (replace(EL, parents=parents("/usr/bin/python3 /usr/bin/supervisord -n")), "supervisord"),
        (replace(EL, parents=parents("runsv postgres")), "a runit, s6 or daemontools supervisor"),
        # systemd has no way to start these again as they were.
        (replace(DEBIAN, unit="session-4.scope"), "hand (pg_ctl"),
        (replace(EL, unit="ssh.service", starts="{ path=/usr/sbin/sshd ; }"), "hand (pg_ctl"),
        (replace(EL, unit="pg.service", starts=EL_START, transient=True), "systemd-run"),
        (replace(EL, of_user="user@1000.service/app.slice/postgresql-16.service"), "a user's own systemd"),
        (replace(DEBIAN, of_user="user@1000.service/a.scope"), "a user's own systemd"),
        # A restart would be one of others, too, or of others only.
        (
            replace(EL, unit="pg.service", starts=EL_START, beside=("/srv/b",)),
            "a unit of several servers",
        ),
        (
            replace(EL, unit="pg.service", starts=EL_START, unit_is_for="/srv/b"),
            "the unit of another cluster",
        ),
        (replace(EL, parents=parents("/controller/manager instance run")), "the operator CloudNativePG"),
        # Containers, seen from the host. What is inside does not matter.
        (replace(EL, cgroups=(f"docker/{CONTAINER_ID}",)), "a container of Docker"),
        (replace(EL, cgroups=(f"system.slice/docker-{CONTAINER_ID}.scope",)), "a container of Docker"),
        (
            replace(EL, cgroups=(f"machine.slice/libpod-{CONTAINER_ID}.scope/container",)),
            "a container of Podman",
        ),
        (
            replace(EL, cgroups=(f"kubepods.slice/kubepods-pod1.slice/cri-containerd-{CONTAINER_ID}.scope",)),
            "a container of Kubernetes",
        ),
        (replace(EL, cgroups=(f"kubepods/burstable/pod1/{CONTAINER_ID}",)), "a container of Kubernetes"),
        (replace(EL, cgroups=(f"default/cri-containerd-{CONTAINER_ID}",)), "a container of containerd"),
        (replace(EL, cgroups=("lxc/db1",)), "a container of LXC"),
        (replace(EL, cgroups=("machine.slice/systemd-nspawn@db.service",)), "a container of systemd-nspawn"),
        (
            replace(EL, cgroups=("kubepods/pod1",), parents=parents(PATRONI_TITLE)),
            "a container of Kubernetes",
        ),
        (replace(EL, apart=("pid", "mnt", "root")), "a container"),
        (replace(DEBIAN, apart=("mnt", "root")), "a container"),
        (
            replace(EL, unit="pg.service", starts=EL_START, apart=("mnt", "root")),
            "a systemd unit with RootDirectory= or RootImage=",
        ),
        (replace(EL, unit="pg.service", starts=EL_START, apart=("pid", "mnt", "root")), "a container"),
        (replace(EL, unit="pg.service", starts="{ path=/opt/run ; }", apart=("root",)), "a container"),
        (replace(DEBIAN, is_first=True), "a container"),
        # What nobody knows.
        (
            replace(DEBIAN, parents=parents("-bash", "sshd: dba")),
            "something that this collection does not know",
        ),
        (replace(DEBIAN, apart=("mnt",)), "something that this collection does not know"),
        (replace(EL, unit="app.service", starts="{ path=/opt/app/run }"), "something that this collection"),
        (EL, "something that this collection does not know"),
        (replace(EL, postmaster=None), "something that this collection does not know"),
    ],
)
def test_who_manages_it(found, name):
    manager, reason = choose.manager_of(found)
    assert manager.name.startswith(name)
    assert reason


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            replace(EL, cgroups=("kubepods/burstable/pod1/abc",)),
            r"a container of Kubernetes \(its postmaster 7 is in control group kubepods/burstable/pod1/abc"
            r"\).*operator's resource or the pod's specification",
        ),
        (
            replace(EL, apart=("pid", "root")),
            r"\(its postmaster 7 has a pid namespace and a root file system of its own\)",
        ),
        (
            replace(EL, unit="pg.service", starts=EL_START, apart=("mnt", "root")),
            r"\(its postmaster 7 is in unit pg.service, with a root file system of its own\), so nothing was"
            r" changed; set huge_pages = on in its postgresql.conf",
        ),
        (replace(EL, is_first=True), r"is the first process \(pid 1\), and the container ends with it"),
        (replace(EL, unit="pacemaker.service"), "have Pacemaker manage it again"),
        (
            replace(DEBIAN, parents=parents("/opt/keep-alive")),
            r"something that this collection does not know \(its postmaster 7 was started by process 100,"
            r" /opt/keep-alive\).*set huge_pages and the environment where it is started from",
        ),
        (replace(EL, unit="app.service"), "in unit app.service, which runs no program"),
        (EL, "is in no systemd unit"),
    ],
)
def test_a_refusal_says_who_and_what_to_set_there(found, sentence):
    with pytest.raises(Conflict, match=sentence):
        choose.require_supported("15-main", found)


POD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-0a.scope"
SPILO = replace(EL, data_directory="/home/postgres/pgdata/pgroot/data", cgroups=(POD,))
PGO = replace(EL, data_directory="/pgdata/pg16", cgroups=(POD,), is_first=False)
EPAS_START = (
    "{ path=/usr/edb/as16/bin/edb-postgres ; argv[]=/usr/edb/as16/bin/edb-postgres -D /data ; pid=0 }"
)
# How each of them starts a postmaster, by its source or documentation, and what the refusal has to say.
FOREIGN = {
    # internal/postgresql/postgresql.go, start: the keeper itself runs postgres.
    "Stolon": (
        replace(
            EL, parents=parents("/usr/local/bin/stolon-keeper --data-dir /stolon"), unit="stolon.service"
        ),
        "is managed by Stolon",
        "stolonctl update --patch",
    ),
    # A supervisor process runs postgres: "pg_autoctl: start/stop postgres".
    "pg_auto_failover": (
        replace(
            EL,
            parents=parents("pg_autoctl: start/stop postgres", "/usr/bin/pg_autoctl run"),
            unit="pgautofailover.service",
        ),
        "is managed by pg_auto_failover",
        "pg_autoctl enable maintenance",
    ),
    # ocf:heartbeat:pgsql and PAF's pgsqlms use pg_ctl, so that the postmaster's parent is the first process.
    "Pacemaker": (replace(EL, unit="pacemaker.service"), "is managed by Pacemaker", "pcs resource unmanage"),
    # It daemonises PostgreSQL through pg_ctl, or has service_start_command do so.
    "repmgr": (
        replace(EL, unit="repmgr-16.service", starts="{ path=/usr/pgsql-16/bin/repmgrd ; }"),
        "is managed by repmgr",
        "service_start_command in repmgr.conf",
    ),
    "runit": (
        replace(EL, parents=parents("runsv postgres", "runsvdir /etc/service")),
        "is managed by a runit, s6 or daemontools supervisor",
        "its run script",
    ),
    "s6": (
        replace(EL, parents=parents("s6-supervise postgres", "s6-svscan /run/service")),
        "is managed by a runit, s6 or daemontools supervisor",
        "its run script",
    ),
    "supervisord": (
        replace(EL, parents=parents("/usr/bin/python3 /usr/bin/supervisord -c /etc/supervisord.conf")),
        "is managed by supervisord",
        "environment= in its program section",
    ),
    # /controller/manager is the first process of the container, and runs postgres.
    "CloudNativePG": (
        replace(EL, cgroups=(POD,), parents=parents("/controller/manager instance run --status-port-tls")),
        "is managed by the operator CloudNativePG",
        "spec.postgresql.parameters, hugepages-2Mi in spec.resources .* spec.env of the Cluster",
    ),
    # Its image Spilo runs Patroni under runit; the postmaster's parent is the container's first process.
    "Zalando": (
        replace(SPILO, parents=parents("/usr/bin/dumb-init -c --rewrite 1:0 -- /bin/sh /launch.sh init")),
        "is managed by the operator postgres-operator of Zalando",
        "spec.env of the resource postgresql",
    ),
    "Zalando, Patroni as a parent": (
        replace(
            SPILO, parents=parents("/usr/bin/python3 /usr/local/bin/patroni /home/postgres/postgres.yml")
        ),
        "is managed by the operator postgres-operator of Zalando",
        "spec.env of the resource postgresql",
    ),
    # Patroni is the first process of the container, with its configuration in a directory.
    "Crunchy": (
        replace(PGO, parents=parents("/usr/bin/python3 /usr/local/bin/patroni /etc/patroni")),
        "is managed by the operator PGO of Crunchy Data",
        "spec.patroni.dynamicConfiguration.postgresql.parameters",
    ),
    "another operator": (
        replace(EL, cgroups=(POD,), parents=parents("/usr/bin/tini -- postgres")),
        "is managed by a container of Kubernetes",
        "the operator's resource or the pod's specification",
    ),
}


@pytest.mark.parametrize("manager", FOREIGN)
def test_who_manages_a_foreign_cluster_and_where_to_set_it(manager):
    found, who, where = FOREIGN[manager]
    with pytest.raises(Conflict, match=rf"PostgreSQL cluster db1 {who}.*so nothing was changed;.*{where}"):
        choose.require_supported("db1", found)


@pytest.mark.parametrize(
    "found",
    [
        # EDB Postgres Advanced Server, by a systemd unit of its own.
        replace(EL, unit="edb-as-16.service", starts=EPAS_START),
        # A directory of that name on a host is no pod.
        replace(EL, data_directory="/pgdata/pg16", unit="postgresql-16.service", starts=EL_START),
        replace(EL, data_directory=SPILO.data_directory, unit="postgresql-16.service", starts=EL_START),
    ],
)
def test_what_is_supported_beside_them(found):
    assert choose.require_supported("db1", found).name == "a systemd unit"


def test_every_manager_that_is_left_alone_has_advice():
    assert [each.name for each in choose.MANAGERS if each.advice == ""] == []
    assert len({id(each) for each in choose.MANAGERS}) == len(choose.MANAGERS)


@pytest.mark.parametrize(
    ("path", "unit", "of_user"),
    [
        ("/system.slice/postgresql-16.service", "postgresql-16.service", None),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/postgresql-16.service",
            None,
            "user@1000.service/app.slice/postgresql-16.service",
        ),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
    ],
)
def test_units_of_a_user_s_own_systemd_are_none_of_the_host_s(monkeypatch, path, unit, of_user):
    """The host may have a unit of the same name, whose restart would be one of another server."""
    monkeypatch.setattr(evidence.Host, "runs_systemd", lambda _host: True)
    monkeypatch.setattr(evidence, "_path_of_systemd", lambda pid: path)
    assert evidence.unit_of_process(7) == unit
    assert evidence._of_user(7) == of_user


# -- Patroni that does not run


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_a_cluster_that_patroni_s_configuration_names(quote, tmp_path):
    """Whatever started it: patroni/patroni#2293 has a server that systemd and Patroni both start."""
    (tmp_path / "patroni").mkdir()
    path = tmp_path / "patroni" / "db.yml"
    path.write_text(f"scope: a\npostgresql:\n  data_dir: {quote}{tmp_path}/data/{quote}  # here\n  port: 1\n")
    for unit in (None, "postgresql@15-main.service"):
        found = replace(DEBIAN, data_directory=f"{tmp_path}/data", postmaster=None, unit=unit)
        manager, reason = choose.manager_of(found)
        assert (manager.name, reason) == ("Patroni", f"{path} names its data directory {tmp_path}/data")
    assert choose.manager_of(DEBIAN)[0] is pg_ctlcluster.PG_CTLCLUSTER


def test_what_patroni_leaves_in_a_data_directory(tmp_path):
    found = replace(DEBIAN, data_directory=str(tmp_path), postmaster=None)
    assert choose.manager_of(found)[0].name == "pg_ctlcluster"
    (tmp_path / "patroni.dynamic.json").write_text("{}")
    manager, reason = choose.manager_of(found)
    assert manager.name == "Patroni"
    assert reason == f"{tmp_path}/patroni.dynamic.json is Patroni's"


DEBIAN_UNIT = "postgresql@15-main.service"
OWN_UNITS = {
    "pg_ctlcluster": replace(DEBIAN, unit=DEBIAN_UNIT, starts=DEBIAN_START),
    "a systemd unit": replace(EL, unit="postgresql-16.service", starts=EL_START),
}


@pytest.fixture
def left(tmp_path):
    """The files of a cluster that Patroni once ran, as in a backup that was restored on another host."""
    (tmp_path / "patroni.dynamic.json").write_text("{}")
    head = "# Do not edit this file manually!\n# It will be overwritten by Patroni!\n"
    (tmp_path / "postgresql.conf").write_text(head)
    return tmp_path


@pytest.mark.parametrize("name", OWN_UNITS)
def test_what_patroni_left_does_not_keep_a_server_that_its_own_unit_has_started(name, left):
    found = replace(OWN_UNITS[name], data_directory=str(left))
    assert choose.manager_of(found)[0].name == name
    # One that does not run may be that of a Patroni that does not run either.
    assert choose.manager_of(replace(found, postmaster=None))[0].name == "Patroni"
    # A unit that runs Patroni under another name, which has left the server when it was stopped.
    assert choose.manager_of(replace(found, unit="ha.service", starts=PATRONI_START))[0].name == "Patroni"
    assert choose.manager_of(replace(found, unit="session-1.scope", starts=""))[0].name == "Patroni"


@pytest.mark.parametrize(
    ("starts", "state", "name"),
    [
        (PATRONI_START, "enabled", "Patroni"),
        (PATRONI_START, "static", "Patroni"),
        (PATRONI_START, "disabled", "a systemd unit"),
        (PATRONI_START, "masked", "a systemd unit"),
        ("{ path=/usr/bin/python3 ; argv[]=/usr/bin/python3 -u /opt/bin/patroni a ; }", "enabled", "Patroni"),
        ("{ path=/usr/bin/vim ; argv[]=/usr/bin/vim a b /etc/patroni ; }", "enabled", "a systemd unit"),
    ],
)
def test_a_patroni_that_is_stopped_and_would_be_started_at_boot(left, monkeypatch, starts, state, name):
    """Its configuration may be anywhere: it is stopped, and the server's own unit was started meanwhile."""
    shown = (
        "ExecStart={ path=/bin/true ; argv[]=/bin/true ; }\nId=a.service\nUnitFileState=enabled\n\n"
        f"ExecStart={starts}\nId=ha.service\nUnitFileState={state}\n"
    )
    monkeypatch.setattr(patroni.units.Host, "runs_systemd", lambda _host: True)
    monkeypatch.setattr(patroni.units, "_ask", lambda *words: shown)
    found = replace(OWN_UNITS["a systemd unit"], data_directory=str(left))
    assert choose.manager_of(found)[0].name == name


def test_what_is_told_about_what_patroni_left(left, monkeypatch):
    found = replace(OWN_UNITS["pg_ctlcluster"], data_directory=str(left), configuration=str(left))
    cluster = clusters.Cluster("15", "main", str(left), 0, 0, str(left), "/nowhere", "postgresql-15.service")
    found = replace(found, unit="postgresql-15.service", starts=EL_START)
    monkeypatch.setattr(evidence, "gather", lambda *given: found)
    why = (
        "but unit postgresql-15.service started PostgreSQL cluster main, and no Patroni runs for it or"
        " would be started at boot, so it was taken as left over"
    )
    assert cluster.managed().warnings == (
        f"{left}/postgresql.conf says that Patroni overwrites it, {why}; remove these lines at its beginning",
        f"{left}/patroni.dynamic.json is Patroni's, {why}; remove it",
    )
    (left / "patroni.dynamic.json").unlink()
    (left / "postgresql.conf").write_text("")
    assert cluster.managed().warnings == ()


def test_a_configuration_that_patroni_overwrites(tmp_path):
    head = "# Do not edit this file manually!\n# It will be overwritten by Patroni!\n"
    (tmp_path / "postgresql.conf").write_text(head)
    manager, reason = choose.manager_of(replace(EL, configuration=str(tmp_path)))
    assert (manager.name, reason) == (
        "Patroni",
        f"{tmp_path}/postgresql.conf says that Patroni overwrites it",
    )


def test_only_regular_files_are_read(tmp_path):
    """Who owns a data directory may put anything there: nothing hangs, nothing is followed."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "text").write_text("text")
    for name in ("pipe", "directory", "zero", "missing"):
        assert evidence.text_for(str(tmp_path / name), str(tmp_path)) == ""
    assert evidence.text_for(str(tmp_path / "text"), str(tmp_path)) == "text"
    assert evidence.text_for(str(tmp_path / "text"), str(tmp_path / "missing")) == "text"


@needs_root
def test_what_the_owner_of_a_data_directory_may_not_read_is_not_read(tmp_path):
    """He names root's file by a link in his directory, or gives it a second name there."""
    theirs = directory_of_other(tmp_path / "data")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    (theirs / "link").symlink_to(secret)
    os.lchown(theirs / "link", UID, UID)
    os.link(secret, theirs / "second")
    (theirs / "own").write_text("own")
    os.chown(theirs / "own", UID, UID)
    found = {name: evidence.text_for(str(theirs / name), str(theirs)) for name in ("link", "second", "own")}
    assert found == {"link": "", "second": "", "own": "own"}


# -- real processes


@pytest.fixture
def data(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    return place


@pytest.fixture
def postgres(tmp_path):
    """A program of that name that does nothing."""
    return str(shutil.copy(shutil.which("sleep") or "", tmp_path / "postgres"))


@contextmanager
def server(data: Path, command: list[str]) -> Iterator[int]:
    """A stand-in for a postmaster in its data directory, started by a command; its pid here."""
    with subprocess.Popen(
        command, cwd=data, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        try:
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
            (data / "postmaster.pid").write_text(f"{pid}\n{data}\n")
            yield pid
        finally:
            starter.kill()


def started(postgres: str, *prefix: str, title: str = "") -> list[str]:
    """A Python, under a name in its command line, that starts the stand-in and prints its pid."""
    code = (
        "import ctypes, subprocess, sys\n"
        "die = lambda: ctypes.CDLL(None).prctl(1, 9)\n"
        f"child = subprocess.Popen([{postgres!r}, 'infinity'], preexec_fn=die)\n"
        "print(child.pid, flush=True)\nchild.wait()\n"
    )
    return [*prefix, sys.executable, *((title,) if title else ("-c", code))]


def script(place: Path, postgres: str, name: str) -> str:
    """The same as a program of its own, so that its command line is an interpreter and its path."""
    path = place / name
    path.write_text(started(postgres)[-1])
    return str(path)


def test_a_postmaster_whose_parent_is_patroni(data, postgres, tmp_path):
    with server(data, started(postgres, title=script(tmp_path, postgres, "patroni"))) as pid:
        found = evidence.gather(str(data), "/etc/postgresql/15/main")
        assert found.postmaster == pid
        assert found.parents[0].title == f"{sys.executable} {tmp_path}/patroni"
        assert choose.manager_of(found)[0].name == "Patroni"


def test_a_running_patroni_with_a_data_directory_in_its_environment(data, postgres, tmp_path, monkeypatch):
    monkeypatch.setenv("PATRONI_POSTGRESQL_DATA_DIR", str(data))
    with server(data, started(postgres, title=script(tmp_path, postgres, "patroni"))):
        found = replace(DEBIAN, data_directory=str(data), postmaster=None)
        manager, reason = choose.manager_of(found)
    assert manager.name == "Patroni"
    assert "Patroni runs as process" in reason


def test_a_postmaster_that_something_else_keeps(data, postgres, tmp_path):
    with server(data, started(postgres, title=script(tmp_path, postgres, "keep-alive"))):
        manager, reason = choose.manager_of(evidence.gather(str(data), "/etc/postgresql/15/main"))
    assert manager.name == "something that this collection does not know"
    assert f"{tmp_path}/keep-alive" in reason


def test_paths_that_the_kernel_shows_from_outside(data, postgres, tmp_path, monkeypatch):
    """Of a process in a chroot with mounts of its own, these are none on this host; what the server has noted
    and was started with is taken, if it is the same."""
    with server(data, started(postgres)) as pid:
        real = os.readlink
        monkeypatch.setattr(evidence.os, "readlink", lambda path: f"/outside{real(path)}")
        assert evidence._link(pid, "cwd") == f"/outside{data}"
        assert evidence._data_directory(pid) == str(data)
        assert evidence._executable(pid) == os.path.realpath(postgres)
        (data / "postmaster.pid").write_text(f"{pid}\n{tmp_path}\n")
        assert evidence._data_directory(pid) == f"/outside{data}", "another directory"


@pytest.mark.parametrize(
    ("given", "main"),
    [
        (["-D", "{top}/link"], "{top}/data/postgresql.conf"),
        (["-D", "{top}/etc"], "{top}/etc/postgresql.conf"),
        (["-D", "{top}/nothing"], "{top}/data/postgresql.conf"),
        (["-D", "{top}/link", "-c", "config_file={top}/etc/a.conf"], "{top}/etc/a.conf"),
        (["--config-file=etc/a.conf"], "/etc/a.conf"),
        ([], "{top}/data/postgresql.conf"),
    ],
)
def test_where_a_server_has_its_configuration(data, tmp_path, monkeypatch, given, main):
    """The way to the data may have links that its owner has made; the kernel shows where they led."""
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "etc").mkdir()
    for folder in (data, tmp_path / "etc"):
        (folder / "postgresql.conf").write_text("")
    words = ["postgres", *(word.format(top=tmp_path) for word in given)]
    monkeypatch.setattr(evidence, "_arguments", lambda pid: words)
    assert evidence._main(7, str(data)) == main.format(top=tmp_path)


def test_a_file_of_a_postmaster_that_is_gone(data):
    (data / "postmaster.pid").write_text("1\n")
    assert evidence.gather(str(data), "/etc").postmaster is None


@as_root
def test_a_postmaster_that_ends_while_it_is_examined(monkeypatch):
    with subprocess.Popen(["true"]) as ended:
        pid = ended.pid
    monkeypatch.setattr(evidence.procfs, "pids", lambda: [pid])
    monkeypatch.setattr(evidence, "_program", lambda pid: "postgres")
    assert evidence.postmasters() == []


def test_a_postmaster_in_namespaces_of_its_own(data, postgres):
    """It is process 1 there, and is found from here all the same."""
    words = ["unshare", "--pid", "--mount", "--fork", "--kill-child", postgres, "infinity"]
    (data / "postmaster.pid").write_text(f"1\n{data}\n")
    with subprocess.Popen(words, cwd=data) as starter:
        try:
            pid = first_child(starter.pid, postgres)
            found = evidence.gather(str(data), "/etc/postgresql/15/main")
            assert (found.postmaster, found.apart, found.is_first) == (pid, ("pid", "mnt"), True)
            assert choose.manager_of(found)[0].name == "a container"
        finally:
            starter.kill()


def first_child(pid: int, program: str) -> int:
    """Waits until it runs the program."""
    while True:
        for each in procfs.pids():
            if evidence.parent(each) == pid and procfs.command(each).startswith(program):
                return each


CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


@pytest.fixture
def cgroup():
    """A control group as Docker's, below this process's own."""
    top = next((top for top in CGROUPS if os.path.exists(f"{top}/cgroup.procs")), None)
    place = f"{top}/docker-mshare-test-{os.getpid()}"
    try:
        os.mkdir(place)
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    yield place
    while True:
        try:
            os.rmdir(place)
        except OSError:
            continue
        return


@as_root
def test_a_postmaster_in_a_container_s_control_group(data, postgres, tmp_path, cgroup):
    with server(data, started(postgres, title=script(tmp_path, postgres, "runner"))) as pid:
        Path(cgroup, "cgroup.procs").write_text(str(pid))
        found = evidence.gather(str(data), str(data))
        manager, reason = choose.manager_of(found)
    assert manager.name == "a container of Docker"
    assert os.path.basename(cgroup) in reason


@as_root
def test_a_host_without_debian_s_clusters_says_who_manages_what_runs(data, postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(pg_ctlcluster, "CONFIGURATION", str(tmp_path / "none"))
    others = clusters._others
    # Other tests of this machine may have servers running.
    monkeypatch.setattr(
        clusters,
        "_others",
        lambda known: [other for other in others(known) if other.data_directory == str(data)],
    )
    with (
        server(data, started(postgres, title=script(tmp_path, postgres, "patroni"))),
        pytest.raises(Conflict, match=f"PostgreSQL cluster {data} is managed by Patroni"),
    ):
        clusters.find(None, None)
