# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni clusters of Debian's packages on hosts with a systemd, whose store is an etcd on the first host."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from fleet.world import World, name
from rig import certificates
from rig.hosts.keeper import address
from rig.wheels import wheels

UNIT = "patroni@17-main.service"
DATA = "/var/lib/postgresql/17/main"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/zz-dbmem-mshare.conf"
OLD = "3.3.11"
"""A Patroni before 4.0, which has other words for roles."""
SCARCE = "free memory is scarce or fragmented"
"""What the library says where the kernel has no huge pages to give."""
_SEGMENT_KIB = 140 << 10
_API = 8008
_NETWORK = "10.77.0.0/16"
_CONFIGURATION = "/etc/patroni/17-main.yml"
_LEADS = ("primary", "master", "standby_leader")
# Patroni looks after its server every second instead of every 10, and has all the time of a busy machine for
# everything else: nobody fails over because it was slow.
_SETTINGS: dict[str, Any] = {
    "ttl": 600,
    "loop_wait": 1,
    "retry_timeout": 290,
    "primary_start_timeout": 3600,
    # No failover loses acknowledged rows.
    "synchronous_mode": True,
    "synchronous_mode_strict": True,
    "postgresql": {
        # Other tests of this machine may have filled its pool of huge pages, which PostgreSQL would take.
        "parameters": {"huge_pages": "off"},
        "pg_hba": [f"host all all {_NETWORK} md5"],
    },
}
# One etcd has no elections that a slow machine could lose.
_ETCD = """\
ETCD_LISTEN_CLIENT_URLS=http://{address}:2379
ETCD_ADVERTISE_CLIENT_URLS=http://{address}:2379
ETCD_UNSAFE_NO_FSYNC=true
"""
_CREATE = """\
set -eu
printf 'etcd3:\\n  hosts: {etcd}:2379\\n' >/etc/patroni/dcs.yml
pg_createconfig_patroni --hostip={address} --network={network} 17 main
mkdir /etc/systemd/system/patroni@.service.d
printf '[Service]\\nTimeoutSec=1h\\n' >/etc/systemd/system/patroni@.service.d/patient.conf
"""
# Lists are added to; null removes a key.
_CHANGE = f"""\
import json, sys, yaml
def merged(fields, changes):
    fields = dict(fields or {{}})
    for key, value in changes.items():
        if value is None:
            fields.pop(key, None)
        elif isinstance(value, dict):
            fields[key] = merged(fields.get(key), value)
        else:
            fields[key] = fields.get(key, []) + value if isinstance(value, list) else value
    return fields
fields = merged(yaml.safe_load(open("{_CONFIGURATION}")), json.loads(sys.argv[1]))
yaml.safe_dump(fields, open("{_CONFIGURATION}", "w"))
"""
_PROGRAM = """\
set -eu
python3 -m zipfile -e {wheel} {folder}
mkdir {folder}/bin
printf '%s\\n' '#!/usr/bin/python3' 'import sys' 'sys.path.insert(0, "{folder}")' \
    'from patroni.__main__ import main' 'if __name__ == "__main__": main()' >{folder}/bin/patroni
chmod 755 {folder}/bin/patroni
printf '[Service]\\nExecStart=\\nExecStart={folder}/bin/patroni {configuration}\\n' \
    >/etc/systemd/system/patroni@.service.d/program.conf
systemctl daemon-reload
"""
_TLS = "/etc/patroni/tls"
_ASK = """\
import http.client, ssl, sys
host, path, *pem = sys.argv[1:]
try:
    if pem:
        context = ssl._create_unverified_context()
        context.load_cert_chain(*pem)
        connection = http.client.HTTPSConnection(host, timeout=60, context=context)
    else:
        connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("GET", path)
    print(connection.getresponse().read().decode())
except (OSError, http.client.HTTPException):
    print("{}")
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
    """The cluster 17-main, a member on each of some hosts of a world."""

    def __init__(self, world: World, numbers: Sequence[int], follows: PatroniCluster | None = None) -> None:
        """With another one to follow it is a standby cluster. Only one that is none uses TLS: that wants a
        certificate of whoever asks, and a user and a password for a change."""
        self.world = world
        self.numbers = numbers
        self._follows = follows
        self._pem: list[str] = []

    # -- made

    def start(self, old: int | None = None, tags: dict[int, dict[str, Any]] | None = None) -> None:
        """Make the cluster and wait until all members are in order; the program of one is an old one."""
        if self._follows is None:
            self.write(0, "/etc/default/etcd", _ETCD.format(address=address(0)))
            self.world.do(0, "systemctl start etcd")
        for number in self.numbers:
            addresses = {"address": address(number), "network": _NETWORK, "etcd": address(0)}
            self.world.do(number, _CREATE.format(**addresses))
            self.configure(number, self._changes((tags or {}).get(number, {})))
        if old is not None:
            self._install_old(old)
        if self._follows is None:
            self._encrypt()
        first, *others = self.numbers
        # The first one makes the cluster, the others are its replicas.
        self.world.do(first, f"systemctl start {UNIT}")
        self.world.eventually(lambda: self.runs(first), f"{name(first)} is a member that runs")
        for number in others:
            self.world.do(number, f"systemctl start {UNIT}")
        self.until_whole("a leader and replicas that stream")
        if self._follows is None:
            self.sql("CREATE ROLE client LOGIN PASSWORD 'client'")
            self.sql("CREATE TABLE entries (number int); GRANT ALL ON entries TO client")

    def _changes(self, tags: dict[str, Any]) -> dict[str, Any]:
        """What differs from Debian's configuration of a member."""
        # A leader comes back from a failover as a replica by pg_rewind, which needs a user with a password.
        rewind = {"username": "rewind", "password": "rewind-pass"}
        changes = {
            "tags": tags,
            "bootstrap": {"dcs": _SETTINGS},
            "postgresql": {"authentication": {"rewind": rewind}},
        }
        if self._follows is None:
            return changes
        source = {
            "host": ",".join(map(address, self._follows.numbers)),
            "port": 5432,
            "create_replica_methods": ["pg_clonecluster"],
        }
        standby = {**_SETTINGS, "standby_cluster": source}
        return {**changes, "namespace": "/standby/", "bootstrap": {"dcs": standby}}

    def configure(self, number: int, changes: dict[str, Any]) -> None:
        """Change a member's own configuration; Patroni reads it when it starts and is told to reload it."""
        self.world.do(number, f"python3 -c {shlex.quote(_CHANGE)} {shlex.quote(json.dumps(changes))}")

    def reload(self, number: int) -> None:
        self.world.do(number, f"systemctl reload {UNIT}")

    def write(self, number: int, path: str, text: str) -> None:
        self.world.do(number, f"printf %s {shlex.quote(text)} >{path}")

    def _install_old(self, number: int) -> None:
        folder = wheels("3.13", [f"patroni=={OLD}"], "--no-deps")
        self.world.fleet.show(number, folder)
        (wheel,) = folder.glob("*.whl")
        program = {"wheel": wheel, "folder": f"/opt/patroni-{OLD}", "configuration": _CONFIGURATION}
        self.world.do(number, _PROGRAM.format(**program))

    def _encrypt(self) -> None:
        authority = certificates.authority("authority")
        login = {"username": "patroni", "password": "secret"}
        files = {"certfile": f"{_TLS}/certificate", "keyfile": f"{_TLS}/key"}
        rest = {**files, "cafile": f"{_TLS}/authority", "verify_client": "required", "authentication": login}
        for number in self.numbers:
            own = certificates.issued(name(number), authority, address(number))
            self.world.do(number, f"install -d -o postgres -m 700 {_TLS}")
            self.write(number, f"{_TLS}/authority", authority.certificate_text)
            self.write(number, f"{_TLS}/certificate", own.certificate_text)
            self.write(number, f"{_TLS}/key", own.key_text())
            self.world.do(number, f"chown postgres {_TLS}/* && chmod 600 {_TLS}/*")
            self.configure(number, {"restapi": rest, "ctl": {**files, "cacert": f"{_TLS}/authority"}})
        client = certificates.issued("client", authority)
        path = self.world.scratch / "client.pem"
        path.write_text(client.certificate_text + client.key_text())
        self._pem = [str(path)]

    # -- seen

    def ask(self, number: int, path: str) -> dict[str, Any]:
        """What a member's REST API answers; empty while it does not."""
        words = [sys.executable, "-IS", "-c", _ASK, f"{address(number)}:{_API}", f"/{path}", *self._pem]
        command = self.world.fleet.in_network(*words)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        # One that is just starting or ending may answer with nothing.
        answer: dict[str, Any] = json.loads(done.stdout.strip() or "{}")
        return answer

    def members(self, asked: int | None = None) -> dict[str, dict[str, Any]]:
        number = self.numbers[0] if asked is None else asked
        return {member["name"]: member for member in self.ask(number, "cluster").get("members", [])}

    def runs(self, number: int) -> bool:
        return self.ask(number, "patroni").get("state") == "running"

    def is_whole(self, asked: int | None = None) -> bool:
        """Whether all members run, by the store's word and by their own."""
        members = self.members(asked).values()
        states = sorted(str(member["state"]) for member in members)
        roles = sorted(str(member["role"]) for member in members)
        wanted = (["running", "streaming", "streaming"], ["leader", "replica", "sync_standby"])
        if self._follows is not None:
            wanted = (["streaming", "streaming"], ["replica", "standby_leader"])
        return (states, roles) == wanted and all(map(self.runs, self.numbers))

    def until_whole(self, what: str, asked: int | None = None) -> None:
        self.world.eventually(lambda: self.is_whole(asked), what)

    def leads(self) -> int | None:
        """The number of the member that says that it leads; None while there is no such."""
        leaders = [number for number in self.numbers if self.ask(number, "patroni").get("role") in _LEADS]
        return leaders[0] if len(leaders) == 1 else None

    @property
    def leader(self) -> int:
        """Its number; the cluster has one."""
        self.world.eventually(lambda: self.leads() is not None, "there is one leader")
        number = self.leads()
        assert number is not None
        return number

    @property
    def others(self) -> list[int]:
        """The numbers of the replicas."""
        leader = self.leader
        return [number for number in self.numbers if number != leader]

    def timeline(self, number: int) -> int:
        """That of a member that runs."""
        known: list[int] = []

        def answers() -> bool:
            timeline = self.ask(number, "patroni").get("timeline")
            known[:] = [] if timeline is None else [timeline]
            return bool(known)

        self.world.eventually(answers, f"{name(number)} knows its timeline")
        return known[0]

    def pending(self) -> list[int]:
        """The members that wait for a restart."""
        return [number for number in self.numbers if self.ask(number, "patroni").get("pending_restart")]

    def synchronous(self) -> str:
        """The member to which a failover loses no row."""
        names: list[str] = []

        def known() -> bool:
            names[:] = [each["name"] for each in self.members().values() if each["role"] == "sync_standby"]
            return bool(names)

        self.world.eventually(known, "there is a synchronous standby")
        return names[0]

    def postmaster(self, number: int) -> int:
        """That of a server that runs, or is about to."""
        pids: list[str] = []

        def known() -> bool:
            pids[:] = self.world.do(number, f"head -1 {DATA}/postmaster.pid 2>/dev/null || true").split()
            return bool(pids)

        self.world.eventually(known, f"{name(number)} has a postmaster")
        return int(pids[0])

    def is_preloaded(self, number: int) -> bool:
        return "libmshare-preload.so" in self.world.do(number, f"cat /proc/{self.postmaster(number)}/maps")

    def is_moved(self, number: int) -> bool:
        """Whether a member has the library mapped, and all of its segment in huge pages."""
        sizes = self.world.do(
            number,
            f"sed -n 's/^ShmemPmdMapped: *\\([0-9]*\\) kB/\\1/p' /proc/{self.postmaster(number)}/smaps",
        )
        return self.is_preloaded(number) and sum(map(int, sizes.split())) >= _SEGMENT_KIB

    def require_moved(self, *numbers: int) -> None:
        """The same, unless the kernel had no huge pages when the server started: the library says so."""
        for number in numbers or self.numbers:
            if self.is_moved(number):
                continue
            log = f"journalctl --unit={UNIT} --output=cat --no-pager --lines=2000 | grep preload | tail -1"
            text = self.world.do(number, log)
            assert self.is_preloaded(number), f"{name(number)} has not mapped the library; {text}"
            assert SCARCE in text, f"{name(number)}: {text}"

    def sql(self, query: str, number: int | None = None) -> str:
        words = ("psql", "-XAtqc", query)
        on = self.leader if number is None else number
        return self.world.do(on, f"cd / && runuser -u postgres -- {shlex.join(words)}")

    # -- what Patroni does

    def patronictl(self, *words: str) -> str:
        return self.world.do(self.numbers[0], f"patronictl -c {_CONFIGURATION} {shlex.join(words)}")

    def restart(self, number: int) -> None:
        """Have Patroni restart a member's PostgreSQL."""
        before = self.postmaster(number)
        self.patronictl("restart", "17-main", name(number), "--force")
        self.world.eventually(lambda: self.postmaster(number) != before, f"{name(number)} was restarted")
        self.until_whole("the restarted member streams")

    def hand_over(self, verb: str, *flags: str) -> None:
        """A switchover or failover; asked for again while Patroni finds its members too slow for one."""
        before = self.leader
        words = shlex.join(["patronictl", "-c", _CONFIGURATION, verb, "17-main", *flags, "--force"])

        def done() -> bool:
            if self.leads() == before:
                self.world.do(self.numbers[0], f"{words} || true")
            return self.leads() not in (None, before)

        self.world.eventually(done, f"another leader after a {verb}")
        self.until_whole(f"all members are in order after a {verb}")

    def crash(self, number: int) -> None:
        """Have a member's server lose its memory, and wait until it has new memory."""
        checkpointer = f"pgrep -P {self.postmaster(number)} -f checkpointer"
        before = self.world.do(number, checkpointer)
        self.world.do(number, f"kill -9 {before}")
        self.world.eventually(
            lambda: self.world.do(number, f"{checkpointer} || true") not in ("", before),
            "the server has allocated new memory",
        )
        self.until_whole("the crashed server is a member in order")

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
