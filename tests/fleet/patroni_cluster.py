# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Patroni cluster of Debian's packages on hosts with a systemd: etcd and a member on each."""

from __future__ import annotations

import json
import shlex
from typing import Any

from fleet.world import World, name
from rig import certificates
from rig.hosts.keeper import address

UNIT = "patroni@17-main.service"
DATA = "/var/lib/postgresql/17/main"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/zz-dbmem-mshare.conf"
_API = 8008
# Patroni runs its loop more often than by its defaults, and gives a busy machine more time for everything
# else: nobody fails over because etcd was slow. With a synchronous standby no failover loses acknowledged
# rows. Other tests of this machine may have filled its pool of huge pages, which PostgreSQL would take.
_SETTINGS = {
    "ttl: 30": "ttl: 120",
    "loop_wait: 10": "loop_wait: 2",
    "retry_timeout: 10": "retry_timeout: 50",
    "    check_timeline: true": "    check_timeline: true\\n    synchronous_mode: true",
    "      parameters:": "      parameters:\\n        huge_pages: 'off'",
}
_ETCD = """\
ETCD_NAME={name}
ETCD_INITIAL_CLUSTER={peers}
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{address}:2380
ETCD_LISTEN_PEER_URLS=http://{address}:2380
ETCD_LISTEN_CLIENT_URLS=http://{address}:2379,http://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=http://{address}:2379
ETCD_UNSAFE_NO_FSYNC=true
ETCD_HEARTBEAT_INTERVAL=1000
ETCD_ELECTION_TIMEOUT=10000
"""
_PATRONI = """\
set -eu
printf 'etcd3:\\n  hosts: 127.0.0.1:2379\\n' >/etc/patroni/dcs.yml
pg_createconfig_patroni --hostip={address} --network=10.77.0.0/16 17 main
sed -i {changes} /etc/patroni/17-main.yml
# A leader comes back from a failover as a replica by pg_rewind, which needs a user with a password.
sed -i '/^#    rewind:/,/^#      password/s/^#//' /etc/patroni/17-main.yml
"""
_TLS = "/etc/patroni/tls"
_ENCRYPTED = f"""\
import yaml
path = "/etc/patroni/17-main.yml"
fields = yaml.safe_load(open(path))
files = {{"certfile": "{_TLS}/certificate", "keyfile": "{_TLS}/key"}}
login = {{"username": "patroni", "password": "secret"}}
# "optional" wants a certificate for changes only.
fields["restapi"].update(files, cafile="{_TLS}/authority", verify_client="optional", authentication=login)
fields["ctl"] = {{**(fields.get("ctl") or {{}}), **files, "cacert": "{_TLS}/authority"}}
yaml.safe_dump(fields, open(path, "w"))
"""
# Each row that was acknowledged is written down; after an error, whoever takes writes is found again.
_CLIENT = """\
import os, psycopg2, time
written, connection, number = open("/root/acknowledged", "w", buffering=1), None, 0
while os.path.exists("/root/going"):
    number += 1
    try:
        if connection is None:
            connection = psycopg2.connect(
                "host=@HOSTS@ port=5432 user=client password=client dbname=postgres connect_timeout=3"
                " target_session_attrs=read-write"
            )
            connection.autocommit = True
        connection.cursor().execute("INSERT INTO entries VALUES (%s)", (number,))
        written.write(f"{number}\\n")
    except psycopg2.Error:
        connection = None
        time.sleep(0.1)
    time.sleep(0.02)
"""


class PatroniCluster:
    """The cluster 17-main, a member on each host of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.numbers = range(world.count)
        self._scheme = "http"

    # -- made

    def start(self) -> None:
        peers = ",".join(f"{name(number)}=http://{address(number)}:2380" for number in self.numbers)
        for number in self.numbers:
            here = {"name": name(number), "address": address(number)}
            self.write(number, "/etc/default/etcd", _ETCD.format(**here, peers=peers))
            changes = {**_SETTINGS, "^#\\(.*host .*all .*all .*10.77\\)": "\\1"}
            flags = " ".join(shlex.quote(f"-es/{old}/{new}/") for old, new in changes.items())
            self.world.do(number, _PATRONI.format(**here, changes=flags))
            self.world.do(number, "systemctl start --no-block etcd")
        for number in self.numbers:
            self.world.do(number, f"systemctl start {UNIT}")
            # The first one makes the cluster, the others are its replicas.
            self._wait_until_it_runs(number)
        self.world.eventually(self.is_whole, "a leader and replicas that stream")
        self.sql("CREATE ROLE client LOGIN PASSWORD 'client'")
        self.sql("CREATE TABLE entries (number int); GRANT ALL ON entries TO client")

    def _wait_until_it_runs(self, number: int) -> None:
        self.world.eventually(lambda: self.runs(number), f"{name(number)} is a member that runs")

    def write(self, number: int, path: str, text: str) -> None:
        self.world.do(number, f"printf %s {shlex.quote(text)} >{path}")

    def encrypt(self) -> None:
        """Have the REST API of each member use TLS, and let in for a change only who has a certificate, a
        user and a password."""
        authority = certificates.authority("authority")
        for number in self.numbers:
            own = certificates.issued(name(number), authority, address(number))
            self.world.do(number, f"install -d -o postgres -m 700 {_TLS}")
            self.write(number, f"{_TLS}/authority", authority.certificate_text)
            self.write(number, f"{_TLS}/certificate", own.certificate_text)
            self.write(number, f"{_TLS}/key", own.key_text())
            self.world.do(number, f"chown postgres {_TLS}/* && chmod 600 {_TLS}/*")
            self.world.do(number, f"python3 -c {shlex.quote(_ENCRYPTED)}")
        for number in self.numbers:
            self.world.do(number, f"systemctl reload {UNIT}")
        self._scheme = "https"
        self.world.eventually(self.is_whole, "a leader and replicas that answer with TLS")

        def known() -> bool:
            urls = [str(member["api_url"]) for member in self.members().values()]
            return all(url.startswith("https://") for url in urls)

        self.world.eventually(known, "all members know one another by https")

    # -- seen

    def ask(self, number: int, path: str) -> dict[str, Any]:
        """What a member's REST API answers; empty while it does not."""
        code = (
            "import http.client, ssl, urllib.request, urllib.error\n"
            f"url = '{self._scheme}://{address(number)}:{_API}/{path}'\n"
            "context = ssl._create_unverified_context()\n"
            "try: print(urllib.request.urlopen(url, timeout=10, context=context).read().decode())\n"
            "except urllib.error.HTTPError as error: print(error.read().decode())\n"
            "except (OSError, http.client.HTTPException): print('{}')\n"
        )
        # One that is just starting or ending may answer with nothing.
        text = self.world.do(number, f"python3 -c {shlex.quote(code)}")
        answer: dict[str, Any] = json.loads(text or "{}")
        return answer

    def members(self, asked: int = 0) -> dict[str, dict[str, Any]]:
        return {member["name"]: member for member in self.ask(asked, "cluster").get("members", [])}

    def runs(self, number: int) -> bool:
        return self.ask(number, "patroni").get("state") == "running"

    def is_whole(self, asked: int = 0) -> bool:
        members = self.members(asked).values()
        states = sorted(str(member["state"]) for member in members)
        roles = sorted(str(member["role"]) for member in members)
        return states == ["running", "streaming", "streaming"] and roles == [
            "leader",
            "replica",
            "sync_standby",
        ]

    @property
    def leader(self) -> int:
        """Its number; the cluster has one."""
        found: list[int] = []

        def known() -> bool:
            found[:] = [
                number
                for number in self.numbers
                if self.ask(number, "patroni").get("role") in ("primary", "master")
            ]
            return len(found) == 1

        self.world.eventually(known, "there is one leader")
        return found[0]

    def crash(self, number: int) -> None:
        """Have a member's server lose its memory, and wait until it has new memory."""
        checkpointer = f"pgrep -P {self.postmaster(number)} -f checkpointer"
        before = self.world.do(number, checkpointer)
        self.world.do(number, f"kill -9 {before}")
        self.world.eventually(
            lambda: self.world.do(number, f"{checkpointer} || true") not in ("", before),
            "the server has allocated new memory",
        )

    def synchronous(self) -> str:
        """The member to which a failover loses no row."""
        names: list[str] = []

        def known() -> bool:
            names[:] = [each["name"] for each in self.members().values() if each["role"] == "sync_standby"]
            return bool(names)

        self.world.eventually(known, "there is a synchronous standby")
        return names[0]

    def is_preloaded(self, number: int) -> bool:
        return "libmshare-preload.so" in self.world.do(number, f"cat /proc/{self.postmaster(number)}/maps")

    def postmaster(self, number: int) -> int:
        return int(self.world.do(number, f"head -1 {DATA}/postmaster.pid"))

    def require_preloaded(self, *numbers: int) -> None:
        """The postmasters have the library mapped, and their segments in huge pages."""
        for number in numbers or self.numbers:
            process = f"/proc/{self.postmaster(number)}"
            log = f"journalctl --unit={UNIT} --output=cat --no-pager --lines=400 | grep preload | tail -3"
            told = f"{name(number)}: {self.world.do(number, log + ' || true')}"
            assert "libmshare-preload.so" in self.world.do(number, f"cat {process}/maps"), told
            sizes = self.world.do(
                number, f"sed -n 's/^ShmemPmdMapped: *\\([0-9]*\\) kB/\\1/p' {process}/smaps"
            )
            assert sum(map(int, sizes.split())) > 64 << 10, told

    def sql(self, query: str, number: int | None = None) -> str:
        words = ("psql", "-XAtqc", query)
        on = self.leader if number is None else number
        return self.world.do(on, f"cd / && runuser -u postgres -- {shlex.join(words)}")

    def patronictl(self, *words: str) -> str:
        return self.world.do(0, f"patronictl -c /etc/patroni/17-main.yml {shlex.join(words)}")

    # -- a client that writes all the time

    def begin_to_write(self) -> None:
        hosts = ",".join(map(address, self.numbers))
        self.write(0, "/root/client.py", _CLIENT.replace("@HOSTS@", hosts))
        self.world.do(0, "touch /root/going && (setsid python3 /root/client.py </dev/null >/dev/null 2>&1 &)")

    def end_of_writing(self) -> tuple[set[int], set[int]]:
        """The rows that were acknowledged, and those that are there."""
        self.world.do(0, "rm -f /root/going")
        self.world.eventually(
            lambda: not self.world.do(0, "pgrep -f /root/client[.]py || true"), "the client's end"
        )
        acknowledged = self.world.do(0, "cat /root/acknowledged").split()
        return set(map(int, acknowledged)), set(map(int, self.sql("SELECT number FROM entries").split()))
