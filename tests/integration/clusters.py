# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL cluster as Debian's packages keep it, on a host for tests: its files are in memory."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from integration.hosts import Host
from mshare.units import GIB, MIB
from rig.initdb import data_directory
from rig.patience import HANG_SECONDS

VERSION = "15"
NAME = "main"
_FOLDERS = ("/etc/postgresql", "/var/lib/postgresql", "/var/log/postgresql")
_ACCOUNT = "postgres"
_PROGRAMS = Path(f"/usr/lib/postgresql/{VERSION}/bin")
_SETTINGS = {
    # Nothing here outlives the test.
    "fsync": "off",
    "autovacuum": "off",
    # On a host with a pool, what is there before would be in huge pages as well.
    "huge_pages": "off",
    # The hosts of two files of tests share the machine's ports.
    "listen_addresses": "",
}
# pg_dump from 15.14 on makes a new word for each dump.
_RESTRICT = re.compile(r"^\\(un)?restrict .*\n", re.M)
_TOUCHED = re.compile(r"^Rss: +(\d+) kB", re.M)
_HUGE = re.compile(r"^(?:ShmemPmdMapped|FilePmdMapped|Shared_Hugetlb|Private_Hugetlb): +(\d+) kB", re.M)


def missing() -> str | None:
    """What a cluster needs and isn't here, for a test to skip with."""
    for path in ("/usr/bin/pg_createcluster", f"{_PROGRAMS}/postgres"):
        if not os.path.exists(path):
            return f"{path} is not here (Debian: postgresql-{VERSION})"
    return None


@dataclass(frozen=True)
class Mapped:
    """The largest shared mapping of a process, by its maps and smaps."""

    address: int
    size_bytes: int
    path: str
    touched_bytes: int
    """What this process has mapped of it, but for pages of a pool."""
    huge_bytes: int


def mapped(host: Host, pid: int) -> Mapped:
    """Nothing of the library's own, which would agree with itself."""
    found = []
    for part in re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", host.inside(f"/proc/{pid}/smaps").read_text(), flags=re.M
    ):
        fields = part.split("\n")[0].split(None, 5)
        if len(fields) > 5 and fields[1].endswith("s"):
            start, end = (int(one, 16) for one in fields[0].split("-"))
            huge, touched = (sum(map(int, pattern.findall(part))) << 10 for pattern in (_HUGE, _TOUCHED))
            found.append(Mapped(start, end - start, fields[5], touched, huge))
    return max(found, key=lambda one: one.size_bytes)


def _is_thp(one: Mapped) -> bool:
    return one.address % (2 * MIB) == 0 and one.huge_bytes >= 0.95 * one.touched_bytes > 16 * MIB


def _is_hugetlb(one: Mapped) -> bool:
    return one.address % GIB == 0 and "hugepage" in one.path


def _is_in_region(one: Mapped) -> bool:
    return one.path.startswith("/run/msharefs/preload.")


def _is_native(mapping: Mapped) -> bool:
    return "anon_hugepage" in mapping.path


PLACED: dict[str, Callable[[Mapped], bool]] = {
    "thp": _is_thp,
    "hugetlb": _is_hugetlb,
    "4k": _is_in_region,
    "native": _is_native,
}
"""Whether a mapping lies where it should, by pages."""


class Cluster:
    """A cluster of a host, 15/main if nothing else is said."""

    def __init__(self, host: Host, name: str = NAME, port: int = 5432) -> None:
        self.host = host
        self.name = name
        self.port = port
        self.configuration = f"/etc/postgresql/{VERSION}/{name}"
        self.data = f"/var/lib/postgresql/{VERSION}/{name}"

    # -- from its beginning to its end

    def create(self, **settings: str) -> None:
        uid = self.host.do("id", "-u", _ACCOUNT).strip()
        if self.name == NAME:
            # The same for all clusters of the host.
            for path in _FOLDERS:
                self.host.do("mkdir", "-p", path)
                self.host.do("mount", "-t", "tmpfs", "-o", f"mode=0755,uid={uid}", "host-for-tests", path)
        self.host.do("install", "-d", "-o", _ACCOUNT, os.path.dirname(self.data))
        # As pg_createcluster has initdb do it; of one that is there already it makes a cluster of Debian's.
        data_directory(
            self.host.inside(self.data), _PROGRAMS, "--auth-local=peer", "--auth-host=scram-sha-256"
        )
        self.host.do("pg_createcluster", "--port", str(self.port), VERSION, self.name)
        self.set("tests.conf", **{**_SETTINGS, **settings})
        self.control("start")

    def fill(self, scale: int) -> None:
        """pgbench's tables, with few rows on many pages, and all of it in shared_buffers."""
        self.run("pgbench", "-i", "-q", "-F", "10", "-s", str(scale))
        self.sql("CREATE EXTENSION pg_prewarm")

    def set(self, file: str, **settings: str) -> None:
        text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        self.host.inside(f"{self.configuration}/conf.d/{file}").write_text(text)

    def unset(self, file: str) -> None:
        self.host.inside(f"{self.configuration}/conf.d/{file}").unlink()

    def control(self, what: str, *flags: str) -> str:
        return self.host.do("pg_ctlcluster", *flags, VERSION, self.name, what)

    # -- looks

    def files(self) -> dict[str, tuple[str, int, int, int]]:
        """Everything in its configuration: text, mode and owner."""
        top = self.host.inside(self.configuration)
        found = {}
        for path in sorted(top.rglob("*")):
            status = path.lstat()
            text = path.read_text() if path.is_file() else ""
            found[str(path.relative_to(top))] = (text, status.st_mode, status.st_uid, status.st_gid)
        return found

    @property
    def pid(self) -> int:
        """Its postmaster's pid on the host."""
        return int(self.host.inside(f"{self.data}/postmaster.pid").read_text().split("\n")[0])

    def log(self) -> str:
        return self.host.inside(f"/var/log/postgresql/postgresql-{VERSION}-{self.name}.log").read_text()

    def command(self, program: str, *words: str) -> list[str]:
        return self.host.command(
            *("setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--init-groups"),
            *("env", "-C", "/", f"{_PROGRAMS}/{program}", *words),
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGPORT": str(self.port)},
        )

    def run(self, program: str, *words: str, said: str | None = None) -> str:
        done = subprocess.run(
            self.command(program, *words),
            input=said,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, query: str, database: str = "postgres") -> str:
        return self.run("psql", "-XAtqd", database, "-c", query).strip()

    def dump(self, database: str = "postgres") -> str:
        """All that is in a database, as SQL."""
        return _RESTRICT.sub("", self.run("pg_dump", database))

    @contextmanager
    def backend(self, query: str = "SELECT 1") -> Iterator[int]:
        """A connection that stays after a query; its backend's pid on the host."""
        with subprocess.Popen(
            self.command("psql", "-XAtq"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as psql:
            assert psql.stdin is not None
            assert psql.stdout is not None
            psql.stdin.write(f"{query};\nSELECT 'pid', pg_backend_pid();\n")
            psql.stdin.flush()
            line = next((line for line in psql.stdout if line.startswith("pid|")), "pid|")
            yield int(line.partition("|")[2])
            psql.stdin.close()


class Load:
    """Transactions that go on whatever happens: each number that was acknowledged is written down."""

    SCRIPT = r"""
cd /dev/shm
number=0
while [ -e going ]; do
  number=$((number + 1))
  psql -XAtqw -d ledger -c "INSERT INTO entries VALUES ($number)" 2>/dev/null && echo "$number" >>acknowledged
  sleep 0.05
done
"""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # Where the server's user may write.
        self._going = cluster.host.inside("/dev/shm/going")
        self._acknowledged = cluster.host.inside("/dev/shm/acknowledged")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Load:
        self._cluster.run("createdb", "ledger")
        self._cluster.sql("CREATE TABLE entries (number int)", "ledger")
        for path in (self._going, self._acknowledged):
            path.write_text("")
        self._acknowledged.chmod(0o666)
        account = ["setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--init-groups"]
        script = ["bash", "-c", self.SCRIPT]
        words = self._cluster.host.command(*account, *script, environment={"PATH": "/usr/bin:/bin"})
        self._process = subprocess.Popen(words)
        return self

    def __exit__(self, *error: object) -> None:
        self._going.unlink()
        assert self._process is not None
        self._process.wait(HANG_SECONDS)

    def acknowledged(self) -> set[int]:
        return {int(line) for line in self._acknowledged.read_text().split()}

    def kept(self) -> set[int]:
        return {int(line) for line in self._cluster.sql("SELECT number FROM entries", "ledger").split()}
