# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain systemd unit's PostgreSQL under a real systemd: to huge pages and back, and refused where somebody
else decides.

Its layout is PGDG's on EL, its programs are Debian's. One story, told in the order of this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fleet.plain_unit import ACCOUNT, DATA, DROP_IN, DROP_INS, JEMALLOC, PROGRAMS, REAL, UNIT, PlainUnit
from fleet.world import name, world
from integration.hosts import Run, differences
from rig import huge_pages
from rig.hosts.base import PATRONI
from rig.hosts.fleet import missing_systemd

MOVE = "Put PostgreSQL where it should be"
POOL_PAGES = 100 + huge_pages.OF_AN_INITDB
SHELL = "/usr/local/bin/sh-{umask}"
# Everything on the host is done with that umask.
_SHELL = '#!/bin/sh\numask {umask}\nexec /bin/sh "$@"\n'

pytestmark = pytest.mark.skipif(missing_systemd() is not None, reason=missing_systemd() or "")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainUnit]:
    with world(tmp_path_factory.mktemp("unit"), 1, PATRONI) as hosts:
        one = PlainUnit(hosts)
        one.make()
        for umask in ("027", "077"):
            one.write(SHELL.format(umask=umask), _SHELL.format(umask=umask))
            one.do(f"chmod 755 {SHELL.format(umask=umask)}")
        yield one


@pytest.fixture(scope="module")
def before(cluster: PlainUnit) -> str:
    """All that was configured, which the way back has to restore."""
    return cluster.files()


def move(cluster: PlainUnit, umask: str = "077", **options: Any) -> Run:
    wanted = {"restart_ok": True, "probes": 2, **options}
    return cluster.world.playbook(
        "dbmem.mshare.postgresql",
        ansible_shell_executable=SHELL.format(umask=umask),
        mshare_runtime_packages_managed=False,
        **{f"mshare_postgresql_{key}": value for key, value in wanted.items()},
    )


def test_without_permission_nothing_is_restarted(cluster: PlainUnit, before: str) -> None:
    postmaster = cluster.postmaster
    moved = move(cluster, restart_ok=False).succeeded().on(name(0))[MOVE]
    assert moved["cluster"]["name"] == "postgresql-17"
    assert (moved["changed"], moved["restart_required"], moved["restarted"]) == (True, True, False)
    assert cluster.postmaster == postmaster
    assert "libmshare-preload" not in cluster.maps()


def test_its_unit_is_moved(cluster: PlainUnit) -> None:
    """What its unit preloaded before stays, and so does everything else that was set."""
    moved = move(cluster).succeeded().on(name(0))[MOVE]
    assert moved["restarted"]
    assert moved["segment"]["huge_bytes"] > 64 << 20
    maps = cluster.maps()
    assert "libmshare-preload.so" in maps
    assert JEMALLOC in maps
    assert cluster.sql("SHOW huge_pages") == "off"
    # Neither by ALTER SYSTEM, nor for others than the server's user.
    assert "huge_pages" not in cluster.do(f"cat {REAL}/postgresql.auto.conf")
    modes = cluster.do(f"stat -c '%a %U' {REAL}/postgresql.conf /etc/mshare/postgresql/*.conf")
    assert modes.split("\n") == [f"600 {ACCOUNT}", "644 root"]
    assert cluster.do("find /usr/local/lib/mshare ! -perm -o+r ! -type l") == ""
    status = cluster.do(f"systemctl show --property=DropInPaths,ActiveState {UNIT}")
    assert "ActiveState=active" in status
    assert f"{DROP_INS}/override.conf {DROP_IN}" in status


def test_a_second_run_changes_nothing(cluster: PlainUnit) -> None:
    postmaster = cluster.postmaster
    assert move(cluster).succeeded().recaps[name(0)]["changed"] == 0
    assert cluster.postmaster == postmaster


def test_the_way_back(cluster: PlainUnit, before: str) -> None:
    assert move(cluster, "027", state="absent").succeeded().on(name(0))[MOVE]["restarted"]
    require_as_before(cluster, before)


def require_as_before(cluster: PlainUnit, before: str) -> None:
    maps = cluster.maps()
    assert "libmshare-preload.so" not in maps
    assert JEMALLOC in maps
    # The library stays, and with it its units.
    changed = differences(before.split("\n"), cluster.files().split("\n"))
    assert [line for line in changed if "/mshare-" not in line] == []
    assert cluster.sql("SELECT count(*) FROM kept") == "1000"


def test_pages_of_a_pool(cluster: PlainUnit, before: str) -> None:
    with huge_pages.reserved(POOL_PAGES):
        moved = move(cluster, "027", pages="hugetlb").succeeded().on(name(0))[MOVE]
        assert (moved["restarted"], moved["segment"]["kind"]) == (True, "hugetlb")
        assert JEMALLOC in cluster.maps()
        # Its pages are given back before the pool is.
        assert move(cluster, "027", state="absent").succeeded().on(name(0))[MOVE]["restarted"]
    require_as_before(cluster, before)


@dataclass(frozen=True)
class Layout:
    """How a unit starts the cluster otherwise: what its drop-in sets, after what was done."""

    lines: tuple[str, ...]
    make: str = "true"
    undo: str = "true"
    data: str = REAL


_OTHER = "/srv/etc/pg 17"
LAYOUTS = {
    # systemd does not wait for these: at first there is no server.
    "Type=simple": Layout(("Type=simple", "Restart=always", "RestartSec=1")),
    "pg_ctl": Layout(
        (
            "Type=forking",
            f"PIDFile={DATA}/postmaster.pid",
            "ExecStart=",
            f"ExecStart={PROGRAMS}/pg_ctl -D ${{PGDATA}} -s -w start",
            f"ExecStop={PROGRAMS}/pg_ctl -D ${{PGDATA}} -s -m fast stop",
        )
    ),
    "sockets in a /tmp of its own": Layout(
        (
            "PrivateTmp=yes",
            *("NoNewPrivileges=yes", "MemoryDenyWriteExecute=yes", "RestrictAddressFamilies=AF_UNIX AF_INET"),
            "ExecStart=",
            f"ExecStart={PROGRAMS}/postgres -D ${{PGDATA}} -c unix_socket_directories=/tmp",
        )
    ),
    "configuration elsewhere": Layout(
        (
            "EnvironmentFile=/srv/etc/environment",
            "ExecStart=",
            f"ExecStart={PROGRAMS}/postgres -D ${{PGDATA}}",
        ),
        f"mkdir -p '{_OTHER}' && cp -a {REAL}/*.conf '{_OTHER}' && rm '{_OTHER}/postgresql.auto.conf'"
        f" && printf \"\\ndata_directory = '{DATA}'\" >>'{_OTHER}/postgresql.conf'"
        f" && echo 'PGDATA=\"{_OTHER}\"' >/srv/etc/environment",
    ),
    "a directory with a blank": Layout(
        ('ReadWritePaths="/srv/my data"', "ExecStart=", f"ExecStart={PROGRAMS}/postgres -D '/srv/my data'"),
        f"cp -a {REAL} '/srv/my data'",
        undo="rm -r '/srv/my data'",
        data="/srv/my data",
    ),
    "configuration of another name": Layout(
        ("ExecStart=", f"ExecStart={PROGRAMS}/postgres -D ${{PGDATA}} -c config_file=/srv/etc/db.conf"),
        f"mkdir -p /srv/etc && cp -a {REAL}/postgresql.conf /srv/etc/db.conf",
    ),
}


def require_running(cluster: PlainUnit, data: str = REAL) -> None:
    state = f"sed -n 8p '{data}/postmaster.pid' || true"
    cluster.world.eventually(lambda: cluster.do(state).strip() == "ready", "the server runs")


_LAYOUT = f"/etc/systemd/system/{UNIT}.d/a-layout.conf"
# Five starts in ten seconds are all that systemd allows, and on a fast machine these tests need more.
_START = f"systemctl daemon-reload && systemctl reset-failed && systemctl start {UNIT}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_there_and_back(cluster: PlainUnit, layout: str) -> None:
    one = LAYOUTS[layout]
    text = "".join(f"{line}\n" for line in ("[Service]", *one.lines))
    cluster.do(f"systemctl stop {UNIT}; {one.make}")
    cluster.write(_LAYOUT, text)
    cluster.do(_START)
    require_running(cluster, one.data)
    configured = f"find /srv {DROP_INS} -name '*.conf' -type f -exec sha256sum {{}} + | sort"
    maps = f"cat /proc/$(head -1 '{one.data}/postmaster.pid')/maps"
    before = cluster.do(configured)
    assert cluster.do("mshare postgresql present --restart --probes 2").startswith("Done.")
    moved = cluster.do(maps)
    assert cluster.do("mshare postgresql present --restart --probes 0").startswith("Nothing to do.")
    assert cluster.do("mshare postgresql absent --restart --probes 0").startswith("Done.")
    assert "libmshare-preload.so" in moved
    assert JEMALLOC in moved
    assert "libmshare-preload.so" not in cluster.do(maps)
    assert cluster.do(configured) == before
    cluster.do(f"systemctl stop {UNIT}; rm -rf {_LAYOUT} /srv/etc; {one.undo}")
    cluster.do(_START)


def test_nothing_is_left(cluster: PlainUnit, before: str) -> None:
    cluster.world.teardown().succeeded()
    assert differences(before.split("\n"), cluster.files().split("\n")) == []
    cluster.do("! test -e /usr/local/lib/mshare && ! test -e /etc/mshare")


# -- somebody else decides


@dataclass(frozen=True)
class Case:
    """How the server is started, and what is said of that."""

    start: str
    sentence: str
    stop: str = ""
    flags: tuple[str, ...] = ()


_PG_CTL = f"runuser -u {ACCOUNT} -- {PROGRAMS}/pg_ctl -D {DATA} -w -l /tmp/log"
_SERVER = f"{PROGRAMS}/postgres -D {DATA}"


def _unit(unit: str, *lines: str) -> str:
    """Write a unit that is not to outlive the case, and start it."""
    text = "".join(f"{line}\\n" for line in ("[Service]", f"User={ACCOUNT}", *lines))
    return f"printf '{text}' >/run/systemd/system/{unit} && systemctl daemon-reload && systemctl start {unit}"


def _drop_in(*lines: str, name: str = "case.conf") -> str:
    text = "".join(f"{line}\\n" for line in ("[Service]", *lines))
    where = f"/run/systemd/system/{UNIT}.d"
    return (
        f"mkdir -p {where} && printf '{text}' >{where}/{name} && systemctl daemon-reload"
        f" && systemctl start {UNIT}"
    )


def _changed_since(line: str) -> tuple[str, str]:
    """A line of postgresql.conf that the server which runs has never read, and its end."""
    main = f"{REAL}/postgresql.conf"
    change = f"systemctl start {UNIT} && cp -a {main} {main}.before && printf '\\n%s\\n' \"{line}\" >>{main}"
    return change, f"mv {main}.before {main}"


_END = (
    f"systemctl stop {UNIT} pacemaker app adhoc supervisor 2>/dev/null; {_PG_CTL} -m fast stop >/dev/null"
    f" 2>&1; rm -rf /run/systemd/system/{UNIT}.d /run/systemd/system/*.service /etc/supervisor/conf.d/pg.conf"
    " && systemctl daemon-reload && systemctl reset-failed"
)
CASES = {
    "by hand": Case(
        f"systemd-run --quiet --scope --unit=session-c7 {_PG_CTL} start >/dev/null",
        r"is managed by hand \(pg_ctl in a login or a script\) \(its postmaster \d+ is in unit"
        r" session-c7\.scope\), so nothing was changed; stop it and have its systemd unit start it",
    ),
    "systemd-run": Case(
        f"systemd-run --quiet --unit=adhoc --property=Type=notify --property=User={ACCOUNT} {_SERVER}",
        r"is managed by systemd-run \(its postmaster \d+ is in unit adhoc\.service\), so nothing",
    ),
    "supervisord": Case(
        "printf '[program:pg]\\ncommand=%s\\nuser=%s\\nstopsignal=INT\\n'"
        f" '{_SERVER}' {ACCOUNT} >/etc/supervisor/conf.d/pg.conf && systemctl start supervisor",
        r"is managed by supervisord \(its postmaster \d+ was started by process \d+, .*supervisord.*\), so"
        r" nothing was changed; set environment= in its program section",
    ),
    # Stand-ins: programs and units of that name, whose PostgreSQL is real.
    "pg_autoctl": Case(
        f"printf '#!/bin/sh\\n{_SERVER} & wait' >/usr/local/bin/pg_autoctl"
        " && chmod 755 /usr/local/bin/pg_autoctl && "
        + _unit("app.service", "ExecStart=/usr/local/bin/pg_autoctl"),
        r"is managed by pg_auto_failover \(its postmaster \d+ was started by process \d+, /bin/sh"
        r" /usr/local/bin/pg_autoctl\), so nothing was changed; set huge_pages in its postgresql.conf or the"
        r" environment on the unit of pg_autoctl",
    ),
    "Pacemaker": Case(
        _unit("pacemaker.service", "Type=forking", f"ExecStart={PROGRAMS}/pg_ctl -D {DATA} -w start"),
        r"is managed by Pacemaker \(its postmaster \d+ is in unit pacemaker\.service\), so nothing",
    ),
    "a shell": Case(
        _unit("app.service", f'ExecStart=/bin/sh -c "exec {_SERVER}"'),
        r"something that this collection does not know \(its postmaster \d+ is in unit app\.service, which"
        r" runs .*/bin/sh",
    ),
    "repmgrd": Case(
        "printf 'import time\\ntime.sleep(10000)\\n' >/usr/local/bin/repmgrd"
        f" && printf 'data_directory={DATA}\\n' >/etc/repmgr.conf"
        f" && systemctl start {UNIT} && systemd-run --quiet --unit=adhoc python3 /usr/local/bin/repmgrd",
        r"is managed by repmgrd \(repmgrd runs as process \d+, and /etc/repmgr\.conf names its directory"
        r" .*\), so nothing was changed; .*run `repmgr service pause`, run this again",
        stop="rm /etc/repmgr.conf",
    ),
    "UnsetEnvironment=": Case(
        _drop_in("UnsetEnvironment=LD_PRELOAD"),
        r"UnsetEnvironment= of unit postgresql-17\.service takes LD_PRELOAD out again",
    ),
    "EnvironmentFile=": Case(
        "echo LD_PRELOAD= >/etc/sysconfig-pg.1 && " + _drop_in("EnvironmentFile=-/etc/sysconfig-pg.*"),
        r"/etc/sysconfig-pg\.1, the EnvironmentFile of unit postgresql-17\.service, sets LD_PRELOAD",
    ),
    "a resource of Pacemaker that is a unit": Case(
        _drop_in("Restart=no", name="50-pacemaker.conf"),
        r"is managed by Pacemaker \(/run/systemd/system/.*/50-pacemaker\.conf is its own, for a unit that it",
    ),
    "Monit": Case(
        "printf 'import time\\ntime.sleep(10000)\\n' >/usr/local/bin/monit"
        f" && printf 'check process pg with pidfile {DATA}/postmaster.pid\\n start = \"/bin/x\"\\n'"
        f" >/etc/monitrc && systemctl start {UNIT}"
        " && systemd-run --quiet --unit=adhoc python3 /usr/local/bin/monit",
        r"is managed by Monit \(Monit runs as process \d+, and /etc/monitrc has it start what .*",
        stop="rm /etc/monitrc",
    ),
    "several servers in a unit": Case(
        f"runuser -u {ACCOUNT} -- cp -a {REAL} /tmp/second && "
        + _unit(
            "app.service",
            "Type=forking",
            f"ExecStart={PROGRAMS}/pg_ctl -D {DATA} -w start",
            f"ExecStartPost={PROGRAMS}/pg_ctl -D /tmp/second -o -p5433 -w start",
        ),
        r"is managed by a unit of several servers \(its postmaster \d+ is in unit app\.service, as is the",
        stop="rm -r /tmp/second",
    ),
    "a drop-in that comes later": Case(
        _drop_in(f"Environment=LD_PRELOAD={JEMALLOC}", name="zzz-site.conf"),
        r"/zzz-site\.conf counts more than zz-dbmem-mshare\.conf",
    ),
    "the command line": Case(
        _drop_in("ExecStart=", f"ExecStart={_SERVER} -c huge_pages=try"),
        r"huge_pages of PostgreSQL cluster postgresql-17 is try on its command line",
    ),
    "RefuseManualStop=": Case(
        _drop_in("[Unit]", "RefuseManualStop=yes"),
        r"unit postgresql-17\.service, which is to restart .* cannot be restarted \(RefuseManualStop=yes\)",
        stop=f"systemctl stop {UNIT}",
        flags=("--check",),
    ),
    "a smart shutdown": Case(
        _drop_in("KillSignal=SIGTERM"),
        r"by a smart shutdown \(KillMode=mixed with SIGTERM\), .* last client has left \(for 3600 s",
        flags=("--check",),
    ),
    "a configuration that is broken": Case(
        _changed_since("nonsense")[0],
        r"17 runs, but would not start again \(`.*/postgres -C shared_buffers` says: .*syntax error",
        stop=_changed_since("nonsense")[1],
        flags=("--check",),
    ),
    "a library that is gone": Case(
        _changed_since("shared_preload_libraries = 'lost'")[0],
        r"would not start again \(.*could not access file \"lost\"",
        stop=_changed_since("shared_preload_libraries = 'lost'")[1],
        flags=("--check",),
    ),
    "a directory that the unit does not see": Case(
        _drop_in("TemporaryFileSystem=/usr/local/lib"),
        r"/usr/local/lib.*, where the library is, is not what postmaster \d+ sees there",
    ),
    "a directory from which nothing is run": Case(
        _drop_in("NoExecPaths=/usr/local/lib"),
        r"/usr/local/lib.*, where the library is, is mounted noexec for postmaster \d+",
    ),
    "what the loader does not take": Case(
        f"systemctl start {UNIT}",
        r"the loader does not preload .*libmshare-preload\.so into .* for user dbadmin \(.*file too short",
    ),
    "capabilities": Case(
        # VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, effective: what setcap writes.
        f'python3 -c \'import os, struct; os.setxattr("{PROGRAMS}/postgres", "security.capability",'
        ' struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))\''
        f" && systemctl start {UNIT}",
        r"the kernel has the loader ignore LD_PRELOAD in postmaster \d+ of PostgreSQL cluster postgresql-17"
        r" \(AT_SECURE\)",
        stop=f'python3 -c \'import os; os.removexattr("{PROGRAMS}/postgres", "security.capability")\'',
    ),
}


@pytest.fixture(scope="module")
def library(cluster: PlainUnit, before: str) -> PlainUnit:
    """The library can be run on the host, and is not installed there."""
    cluster.show_library()
    # Whatever it is: it comes to nothing here.
    cluster.do("mkdir -p /usr/local/lib/mshare && touch /usr/local/lib/mshare/libmshare-preload.so")
    return cluster


@pytest.fixture(params=CASES)
def case(library: PlainUnit, request: pytest.FixtureRequest) -> Iterator[Case]:
    one = CASES[request.param]
    library.do(_END)
    library.do(one.start)
    require_running(library)
    yield one
    library.do(_END)
    library.do(one.stop or "true")


def test_it_is_left_alone(library: PlainUnit, case: Case) -> None:
    files, postmaster = library.files(), library.postmaster
    code, output = library.move(*case.flags)
    assert re.search(case.sentence, output), output
    assert code not in (0, 1)
    assert library.files() == files
    assert library.postmaster == postmaster


def test_a_repmgrd_that_is_paused_is_no_obstacle(library: PlainUnit) -> None:
    library.do(CASES["repmgrd"].start)
    library.do(f"printf '1:1' >{REAL}/pg_stat/repmgrd_state.txt && chown {ACCOUNT}: {REAL}/pg_stat/*")
    code, output = library.move("--check")
    assert code == 0, output
    assert f"write {DROP_IN}" in output
    library.do(f"rm {REAL}/pg_stat/repmgrd_state.txt; {CASES['repmgrd'].stop}; {_END}")
