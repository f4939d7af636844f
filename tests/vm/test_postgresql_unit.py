# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role postgresql under a real systemd on a cluster laid out as PGDG's packages do on EL, and back.

The programs are Debian's. One story on one guest, told in the order of this file.
"""

from __future__ import annotations

import re

import pytest

from vm.guest import Guest

UNIT = "postgresql-15.service"
DATA = "/var/lib/pgsql/15/data"
PROGRAMS = "/usr/pgsql-15/bin"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/zz-dbmem-mshare.conf"
POSTMASTER = f"$(head -1 {DATA}/postmaster.pid)"
AS_POSTGRES = "cd / && runuser -u postgres --"
# As in PGDG's postgresql-15.service, without its comments and its check for a missing data directory.
UNIT_TEXT = f"""\
[Unit]
Description=PostgreSQL 15 database server
After=network-online.target

[Service]
Type=notify
User=postgres
Group=postgres
Environment=PGDATA={DATA}/
OOMScoreAdjust=-1000
Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj
Environment=PG_OOM_ADJUST_VALUE=0
ExecStart={PROGRAMS}/postgres -D ${{PGDATA}}
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
KillSignal=SIGINT
TimeoutSec=0
TimeoutStartSec=0
TimeoutStopSec=1h

[Install]
WantedBy=multi-user.target
"""
FILES = (
    f"find {DATA} /etc/systemd/system /etc/mshare -maxdepth 2 \\( -name '*.conf' -o -name '*.service*' \\)"
    " -printf '%p %m %u %g %y ' -exec sh -c 'sha256sum <$1 2>/dev/null || echo' - {} \\; 2>/dev/null | sort"
)


@pytest.fixture(scope="module")
def server(guest: Guest) -> Guest:
    """A cluster with a table, in a unit of its own; nothing of Debian's."""
    guest.do("sed -i '1i create_main_cluster = false' /etc/postgresql-common/createcluster.conf")
    guest.do(
        "test -x /usr/lib/postgresql/15/bin/postgres ||"
        " DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet postgresql-15 >/dev/null"
    )
    guest.do("sed -i 1d /etc/postgresql-common/createcluster.conf")
    guest.do("pg_lsclusters --no-header | grep -q . && pg_dropcluster --stop 15 main; true")
    guest.do("mkdir -p /usr/pgsql-15 /var/lib/pgsql/15 && cp -a /usr/lib/postgresql/15/. /usr/pgsql-15/")
    guest.do("chown -R postgres: /var/lib/pgsql")
    guest.do(f"{AS_POSTGRES} {PROGRAMS}/initdb -D {DATA} >/dev/null")
    guest.write(f"/etc/systemd/system/{UNIT}", UNIT_TEXT)
    guest.do(f"systemctl daemon-reload && systemctl enable --now --quiet {UNIT}")
    guest.do(
        f'{AS_POSTGRES} {PROGRAMS}/psql -qc "create table kept as select n from generate_series(1, 1000) n"'
    )
    return guest


@pytest.fixture(scope="module")
def files(server: Guest) -> str:
    """All that is configured, which the way back has to bring back."""
    return server.do(FILES)


def move(guest: Guest, **options: object) -> str:
    wanted = {"restart_ok": True, "probes": 2, **options}
    return guest.playbook(
        "postgresql", **{f"mshare_postgresql_{name}": value for name, value in wanted.items()}
    )


def is_preloaded(guest: Guest) -> bool:
    return "libmshare-preload.so" in guest.do(f"cat /proc/{POSTMASTER}/maps")


def test_the_server_is_moved(server: Guest, files: str) -> None:
    output = move(server)
    assert "PostgreSQL cluster postgresql-15, postmaster" in output
    assert is_preloaded(server)
    huge = re.findall(r"ShmemPmdMapped: +([1-9][0-9]*) kB", server.do(f"cat /proc/{POSTMASTER}/smaps"))
    assert sum(map(int, huge)) >= 128 << 10
    assert server.do(f'{AS_POSTGRES} {PROGRAMS}/psql -Atc "show huge_pages"') == "off"
    # Not by ALTER SYSTEM.
    assert "huge_pages" not in server.do(f"cat {DATA}/postgresql.auto.conf")
    unit = server.units(UNIT)[UNIT]
    assert unit["DropInPaths"] == DROP_IN
    assert unit["ActiveState"] == "active"


def test_a_second_run_changes_nothing(server: Guest) -> None:
    before = server.do(f"echo {POSTMASTER}")
    assert re.search(r"changed=0\b", move(server))
    assert server.do(f"echo {POSTMASTER}") == before


def test_a_restart_by_somebody_else_keeps_it(server: Guest) -> None:
    server.do(f"systemctl restart {UNIT}")
    assert is_preloaded(server)


def test_a_restart_without_it_is_told_and_put_right(server: Guest) -> None:
    text = server.do(f"cat {DROP_IN}")
    server.do(f"mv {DROP_IN} /root/kept && systemctl daemon-reload && systemctl restart {UNIT}")
    assert not is_preloaded(server)
    server.do(f"mv /root/kept {DROP_IN} && systemctl daemon-reload")
    assert "since then it was started anew, as postmaster" in move(server, restart_ok=False)
    move(server)
    assert is_preloaded(server)
    assert server.do(f"cat {DROP_IN}") == text


def test_the_way_back(server: Guest, files: str) -> None:
    move(server, state="absent")
    assert not is_preloaded(server)
    assert "DropInPaths" not in server.units(UNIT)[UNIT]
    server.playbook("teardown")
    assert server.do(FILES) == files
    assert server.do(f'{AS_POSTGRES} {PROGRAMS}/psql -Atc "select count(*) from kept"') == "1000"
    assert server.traces() == []
    # The guest is for other stories too.
    server.do(f"systemctl disable --now --quiet {UNIT} && rm /etc/systemd/system/{UNIT}")
    server.do("systemctl daemon-reload")
