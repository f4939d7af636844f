# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who starts a cluster: programs above its postmaster, or the unit it runs in."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mshare.postgresql.managers import keepers
from mshare.postgresql.managers.evidence import Ancestor, Evidence
from mshare.postgresql.managers.keepers import KEEPERS
from mshare.postgresql.managers.manager import Manager
from mshare.postgresql.managers.systemd_unit import SYSTEMD_UNIT

REPMGRD, EFM = (keeper for keeper in KEEPERS if keeper.name in ("repmgrd", "EDB Failover Manager"))
HAND = "hand (pg_ctl in a login or a script)"
RUNNING = Evidence("/srv/pg", "/srv/pg", postmaster=4711)


def recognised(evidence: Evidence) -> list[str]:
    return [keeper.name for keeper in KEEPERS if keeper.recognise(evidence) is not None]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("/usr/sbin/pacemakerd", "Pacemaker"),
        ("/usr/bin/pg_autoctl run", "pg_auto_failover"),
        ("stolon-keeper --cluster-name x", "Stolon"),
        ("repmgrd -f /etc/repmgr.conf", "repmgr"),
        ("/usr/bin/python3 /usr/bin/supervisord -n", "supervisord"),
        ("/usr/bin/python3 -s -E -u /usr/bin/supervisord", "supervisord"),
        ("/usr/bin/perl -T /usr/sbin/pacemakerd", "Pacemaker"),
        ("runsv postgres", "a runit, s6 or daemontools supervisor"),
        ("supervise postgres", "a runit, s6 or daemontools supervisor"),
        ("supervise-daemon postgresql --start /usr/bin/postgres", "OpenRC's supervise-daemon"),
    ],
)
def test_each_by_its_process(title, name):
    parents = (Ancestor(30, "sh -c start"), Ancestor(20, title))
    assert recognised(replace(RUNNING, parents=parents)) == [name]
    (keeper,) = [keeper for keeper in KEEPERS if keeper.name == name]
    assert keeper.recognise(replace(RUNNING, parents=parents)) == (
        f"its postmaster 4711 was started by process 20, {title}"
    )
    assert keeper.advice, "its clusters are left alone"


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("pacemaker.service", ["Pacemaker"]),
        ("pgautofailover.service", ["pg_auto_failover"]),
        ("pg_auto_failover@16.service", ["pg_auto_failover"]),
        ("pg_autoctl.service", ["pg_auto_failover"]),
        ("supervisor.service", ["supervisord"]),
        ("session-3.scope", [HAND]),
        ("run-r0123.scope", [HAND]),
        ("user@1000.service", [HAND]),
        ("sshd@3-10.0.0.1:22.service", [HAND]),
        ("crond.service", [HAND]),
        ("atd.service", [HAND]),
        ("rc-local.service", [HAND]),
        ("supervisor-exporter.service", []),
        ("repmgr15.service", []),
        ("repmgrd.service", ["repmgr"]),
        ("repmgr-15.service", ["repmgr"]),
        ("postgresql.service", []),
    ],
)
def test_by_its_unit(unit, names):
    assert recognised(replace(RUNNING, unit=unit)) == names


def test_a_word_far_behind_in_a_command_line_is_no_program():
    far = Ancestor(20, "vi -R /etc/hosts /usr/bin/supervisord")
    assert recognised(replace(RUNNING, parents=(far,))) == []


def test_a_unit_that_starts_postgresql_itself():
    starts = "{ path=/usr/pgsql-15/bin/postgres ; argv[]=/usr/pgsql-15/bin/postgres -D /srv/pg ; }"
    own = replace(RUNNING, unit="postgresql-15.service", starts=starts)
    assert SYSTEMD_UNIT.recognise(own) == "its postmaster 4711 is in unit postgresql-15.service"
    assert SYSTEMD_UNIT.recognise(replace(own, postmaster=None)) == "unit postgresql-15.service starts it"
    assert SYSTEMD_UNIT.recognise(replace(own, starts="/opt/start")) is None
    assert SYSTEMD_UNIT.recognise(RUNNING) is None
    assert SYSTEMD_UNIT.advice is None, "it is supported"


# -- what they leave, while nothing runs


@pytest.fixture
def stopped(tmp_path):
    """The cluster of a data directory beside which nobody has written anything."""
    (tmp_path / "keeper/data").mkdir(parents=True)
    return Evidence(str(tmp_path / "keeper/data"), str(tmp_path / "keeper/data"))


@pytest.mark.parametrize(
    ("name", "keeper"),
    [
        ("data/postgresql-auto-failover.conf", "pg_auto_failover"),
        ("data/postgresql-auto-failover-standby.conf", "pg_auto_failover"),
        ("keeperstate", "Stolon"),
    ],
)
def test_by_what_they_leave(stopped, tmp_path, name, keeper):
    assert recognised(stopped) == []
    (tmp_path / "keeper" / name).write_text("")
    assert recognised(stopped) == [keeper]
    (manager,) = [each for each in KEEPERS if each.name == keeper]
    assert manager.recognise(stopped) == (
        f"{tmp_path}/keeper/{name} is its own; remove it if {keeper} no longer runs this cluster"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('<nvpair name="datadir" value="{data}"/>', True),
        ('<nvpair name="pgdata" value="{data}/"/>', True),
        ('<nvpair name="datadir" value="{data}2"/>', False),
        ('<nvpair name="datadir" value="{data}/base"/>', False),
        ('<nvpair name="datadir" value="/srv{data}"/>', False),
        ("", False),
    ],
)
def test_by_a_configuration_that_names_it(stopped, tmp_path, monkeypatch, text, named):
    """A Pacemaker resource's data directory is in the cluster's information base."""
    path = tmp_path / "cib.xml"
    path.write_text(text.format(data=stopped.data_directory))
    found = keepers._named((str(tmp_path / "*.xml"),), stopped)
    assert found == (f"{path} names its directory {stopped.data_directory}" if named else None)
    (pacemaker,) = [each for each in keepers._KEEPERS if each.configurations]
    monkeypatch.setattr(keepers, "_KEEPERS", ())
    moved = replace(pacemaker, configurations=(str(path),))
    assert moved.recognise(stopped) == found


def test_a_data_directory_that_is_a_link(stopped, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(stopped.data_directory)
    path = tmp_path / "repmgr.conf"
    for text in (str(link), stopped.data_directory):
        path.write_text(f"data_directory='{text}'\n")
        assert keepers._named((str(path),), replace(stopped, data_directory=str(link))) is not None


def test_the_drop_in_that_pacemaker_makes_for_a_unit_that_it_starts():
    path = "/run/systemd/system/postgresql-16.service.d/50-pacemaker.conf"
    (pacemaker,) = [each for each in KEEPERS if each.name == "Pacemaker"]
    found = replace(RUNNING, unit="postgresql-16.service", drop_ins=("/etc/own.conf", path))
    assert pacemaker.recognise(found) == f"{path} is its own, for a unit that it starts"
    assert recognised(replace(found, drop_ins=("/etc/own.conf",))) == []


DEBIAN = Evidence("/var/lib/postgresql/15/main", "/etc/postgresql/15/main")
UNIT = replace(RUNNING, unit="postgresql-16.service")
AGENT = replace(RUNNING, data_directory="/var/lib/pgsql/data")
PGDATA = '<instance_attributes><nvpair id="a" name="pgdata" value="/srv/x"/></instance_attributes>'


@pytest.mark.parametrize(
    ("resource", "found", "is_it"),
    [
        ('<primitive id="db" class="systemd" type="postgresql-16"/>', UNIT, True),
        ("<primitive class='systemd' id='db' type='postgresql-16.service'></primitive>", UNIT, True),
        ('<primitive id="db" class="lsb" type="postgresql-16"/>', UNIT, True),
        ('<primitive id="db" class="systemd" type="postgresql-15"/>', UNIT, False),
        ('<primitive id="db" class="stonith" type="postgresql-16"/>', UNIT, False),
        ('<primitive id="db" class="systemd" type="postgresql@15-main"/>', DEBIAN, True),
        ('<primitive id="db" class="systemd" type="postgresql"/>', DEBIAN, True),
        ('<primitive id="db" class="systemd" type="postgresql@15-other"/>', DEBIAN, False),
        # Without a parameter the agents have the same directory.
        ('<primitive id="db" class="ocf" provider="heartbeat" type="pgsql"/>', AGENT, True),
        ('<primitive id="db" class="ocf" provider="heartbeat" type="pgsqlms">\n</primitive>', AGENT, True),
        (f'<primitive id="db" class="ocf" type="pgsql">{PGDATA}</primitive>', AGENT, False),
        ('<primitive id="db" class="ocf" type="pgsql"/>', UNIT, False),
        ('<primitive id="db" class="ocf" type="apache"/>', AGENT, False),
    ],
)
def test_a_resource_of_pacemaker_that_names_no_directory(resource, found, is_it):
    cib = f'<cib>\n<primitive id="ip" class="ocf" type="IPaddr2"/>\n{resource}\n</cib>'
    clause = keepers._pacemaker_resource(found, cib)
    assert (clause is not None) == is_it
    assert clause is None or clause.startswith("resource db (")


# -- programs that start nothing, and watch


WAITS = "print(flush=True)\ninput()"


@contextlib.contextmanager
def running(*words: str) -> Iterator[int]:
    """The pid of a process with this command line, whose program WAITS."""
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def require_alone(keeper: Manager, stopped: Evidence, sentence: str) -> None:
    """That a cluster is recognised by the directory that is named, and no other is."""
    assert keeper.recognise(stopped) == f"{sentence} {stopped.data_directory}"
    elsewhere = replace(stopped, data_directory="/srv/other", configuration="/srv/other")
    assert keeper.recognise(elsewhere) is None


# -- Monit


@pytest.fixture
def monit(tmp_path, monkeypatch):
    """A process whose command line is Monit's, and its Watcher for files of this test."""
    program = tmp_path / "monit"
    program.write_text(WAITS)
    (watcher,) = [each for each in keepers._WATCHERS if each.name == "Monit"]
    with running(sys.executable, str(program), "-c", "/etc/monit/monitrc"):
        yield replace(watcher, configurations=(str(tmp_path / "conf.d/*"),))


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ('check process pg with pidfile {pid}\n  start program = "/bin/systemctl start pg"\n', True),
        ("CHECK PROCESS pg PIDFILE {pid}\n  START = /bin/x\n", True),
        # It sends mail only.
        ("check process pg with pidfile {pid}\n  if failed port 5432 then alert\n", False),
        (
            "check process pg with pidfile {pid}\ncheck process web with pidfile /run/web.pid\n"
            "  start program = /bin/web\n",
            False,
        ),
        ("check process web with pidfile /run/web.pid\n  start program = /bin/web\n", False),
        ("", False),
    ],
)
def test_monit_that_would_start_it(monit, stopped, tmp_path, text, starts):
    (tmp_path / "conf.d").mkdir()
    path = tmp_path / "conf.d/postgresql"
    pid_file = f"{stopped.data_directory}/postmaster.pid"
    path.write_text(text.format(pid=pid_file))
    clause = monit.recognise(stopped)
    assert (clause is not None) == starts
    assert clause is None or clause.endswith(f"and {path} has it start what {pid_file} is for")


def test_monit_and_debian_s_file_of_the_process_s_number(monit, tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/pg").write_text(
        "check process a pidfile /var/run/postgresql/15-main.pid\n start = /b\n"
    )
    assert monit.recognise(DEBIAN) is not None
    assert monit.recognise(replace(DEBIAN, configuration="/etc/postgresql/15/other")) is None


# -- repmgrd


@pytest.fixture
def repmgrd(stopped, tmp_path):
    """A process whose command line is repmgrd's, with a configuration for the cluster."""
    configuration = tmp_path / "repmgr.conf"
    configuration.write_text(f"node_id=2\ndata_directory='{stopped.data_directory}'\n")
    program = tmp_path / "repmgrd"
    program.write_text(WAITS)
    with running(sys.executable, str(program), "-f", str(configuration)) as pid:
        yield f"repmgrd runs as process {pid}, and {configuration} names its directory"


def test_repmgrd_that_runs(stopped, repmgrd):
    require_alone(REPMGRD, stopped, repmgrd)


@pytest.mark.parametrize(
    ("state", "paused"), [("2:1\0", True), ("2:1", True), ("2:0\0", False), ("", False), ("2", False)]
)
def test_repmgrd_that_is_paused_does_nothing(stopped, repmgrd, tmp_path, state, paused):
    """As the extension writes it (repmgr.c, repmgrd_pause), with a null byte behind."""
    (tmp_path / "keeper/data/pg_stat").mkdir()
    (tmp_path / "keeper/data/pg_stat/repmgrd_state.txt").write_text(state)
    assert (REPMGRD.recognise(stopped) is None) == paused


# -- EDB Failover Manager


@pytest.fixture
def agent(stopped, tmp_path):
    """A process whose command line is that of its agent, with properties for the cluster."""
    properties = tmp_path / "efm.properties"
    properties.write_text(f"db.service.name=edb-as-16\ndb.data.dir={stopped.data_directory}\n")
    java = tmp_path / "java"
    java.symlink_to(sys.executable)
    program = ("-cp", "/usr/edb/efm-4.9/lib/EFM-4.9.jar", "com.enterprisedb.efm.main.ServiceCommand")
    with running(str(java), "-c", WAITS, *program, "__int_start", str(properties)) as pid:
        yield f"EDB Failover Manager runs as process {pid}, and {properties} names its directory"


def test_failover_manager_that_runs(stopped, agent):
    require_alone(EFM, stopped, agent)


def test_failover_manager_that_was_stopped_is_none_of_its_managers(stopped):
    assert EFM.recognise(stopped) is None
