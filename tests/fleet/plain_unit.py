# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL laid out as PGDG's packages do on EL, of Debian's programs, on a host with a systemd."""

from __future__ import annotations

import shlex
import subprocess

from fleet.world import World
from integration.hosts import REPOSITORY

UNIT = "postgresql-17.service"
DATA = "/var/lib/pgsql/17/data"
"""A link to another file system, as it often is."""
REAL = "/srv/pgsql17"
PROGRAMS = "/usr/pgsql-17/bin"
ACCOUNT = "dbadmin"
DROP_INS = f"/etc/systemd/system/{UNIT}.d"
DROP_IN = f"{DROP_INS}/zz-dbmem-mshare.conf"
JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
# As PGDG's postgresql-17.service, without its comments and its check for a missing data directory, and
# with another user.
_UNIT = f"""\
[Unit]
Description=PostgreSQL 17 database server
After=network-online.target

[Service]
Type=notify
User={ACCOUNT}
Group={ACCOUNT}
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
# What an administrator may have set before: a variable twice, of which the second counts.
_OVERRIDE = f"""\
[Service]
Environment=LD_PRELOAD=/usr/lib/nothing.so
Environment="LD_PRELOAD={JEMALLOC}"
UMask=0077
ProtectSystem=strict
ReadWritePaths={REAL} /run
"""
_MAKE = f"""\
set -eu
useradd --system --home-dir /var/lib/pgsql {ACCOUNT}
mkdir -p /usr/pgsql-17 /var/lib/pgsql/17 {REAL} {DROP_INS}
cp -a /usr/lib/postgresql/17/. /usr/pgsql-17/
ln -s {REAL} {DATA}
chown {ACCOUNT}: {REAL} /var/lib/pgsql/17 /run/postgresql
runuser -u {ACCOUNT} -- {PROGRAMS}/initdb -D {DATA} --set huge_pages=off --no-sync \\
  --locale=C.UTF-8 --encoding=UTF8 >/dev/null
printf 'fsync = off\nhuge_pages = off # here already' >>{REAL}/postgresql.conf
systemctl daemon-reload
systemctl enable --quiet {UNIT}
systemctl start {UNIT}
"""
# All that is configured: path, mode, owner, group, kind, where a link leads, and the content.
_FILES = (
    f"find {REAL} /etc/systemd/system /etc/mshare /etc/group -maxdepth 2"
    " \\( -name '*.conf' -o -name '*.service*' -o -path '/etc/mshare*' -o -name group \\)"
    " -printf '%p %m %u %g %y %l ' -exec sh -c 'sha256sum <$1 2>/dev/null || echo' - {} \\; 2>/dev/null"
    " | sort"
)


class PlainUnit:
    """The cluster postgresql-17 of the first host of a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def make(self) -> None:
        self.do("mkdir -p " + DROP_INS)
        self.write(f"/etc/systemd/system/{UNIT}", _UNIT)
        self.write(f"{DROP_INS}/override.conf", _OVERRIDE)
        self.do(_MAKE)
        self.sql("CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n")

    def do(self, command: str) -> str:
        return self.world.do(0, command)

    def write(self, path: str, text: str) -> None:
        self.do(f"printf %s {shlex.quote(text)} >{path}")

    def sql(self, query: str) -> str:
        words = shlex.join((f"{PROGRAMS}/psql", "-XAtqd", "postgres", "-c", query))
        return self.do(f"cd / && runuser -u {ACCOUNT} -- {words}")

    def pg_ctl(self, *words: str) -> str:
        """The command line of pg_ctl, as its user."""
        return f"runuser -u {ACCOUNT} -- {PROGRAMS}/pg_ctl -D {DATA} -w {shlex.join(words)}"

    @property
    def postmaster(self) -> int:
        return int(self.do(f"head -1 {REAL}/postmaster.pid"))

    def maps(self) -> str:
        return self.do(f"cat /proc/{self.postmaster}/maps")

    def files(self) -> str:
        return self.do(_FILES)

    def show_library(self) -> None:
        """Have the host see the library where it is on this machine; nothing is installed."""
        self.world.fleet.show(0, REPOSITORY / "lib")

    def move(self, *flags: str) -> tuple[int, str]:
        """Its exit code and what `mshare postgresql present --restart` writes."""
        words = shlex.join(("python3", "-m", "mshare", "postgresql", "present", "--restart", *flags))
        command = f"cd / && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={REPOSITORY}/lib {words}"
        done = subprocess.run(
            self.world.fleet.ssh_command(0, "sh", "-c", command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, " ".join(done.stdout.split())
