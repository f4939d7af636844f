# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni: its configuration, its REST API as a server answers it, and when a member may be restarted.

Real members are in tests/fleet/test_patroni.py.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mshare.errors import Conflict, MshareError, Unavailable
from mshare.postgresql import clusters, converge, files
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.managers import evidence, patroni, pg_ctlcluster, units
from mshare.postgresql.patroni import api, local, restart
from mshare.postgresql.patroni.local import Member, RestApi
from mshare.postgresql.spec import ClusterSpec
from rig import certificates

UNIT = "patroni@17-main.service"
CONFIGURATION = {
    "scope": "17-main",
    "name": "pg1",
    "restapi": {"listen": "0.0.0.0:8008", "connect_address": "10.0.0.1:8008"},
    "postgresql": {"data_dir": "/var/lib/postgresql/17/main"},
}


def status(name, role="replica", state="streaming", **more):
    lag = {} if role == "leader" else {"lag": 0}
    return {"name": name, "role": role, "state": state, "timeline": 3, **lag, **more}


WHOLE = (status("pg1", "leader", "running"), status("pg2", "sync_standby"), status("pg3"))


class Patroni:
    """A server that answers as the members of a cluster do; each member has a path of its own."""

    def __init__(self, context=None):
        self.answers, self.asked, self.does = {}, [], {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                outer.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
                does = outer.does.get((self.command, self.path))
                code, text = does(body) if does else outer.answers.get(self.path, (404, "nothing"))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PATCH = answer

            def log_message(self, *args):
                pass

        self.scheme = "http" if context is None else "https"
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.say("/config", {"ttl": 30})
        self.say("/patroni", {"state": "running", "role": "replica"})

    def say(self, path, answer, code=200):
        self.answers[path] = (code, answer if isinstance(answer, str) else json.dumps(answer))

    def members(self, *members, **more):
        """What the store says, and each member by itself: the same."""
        named = [{"api_url": f"{self.scheme}://{self.address}/of/{each['name']}", **each} for each in members]
        for each in members:
            self.say(f"/of/{each['name']}", {"state": "running", "role": each["role"]})
        self.say("/cluster", {"members": named, "scope": "17-main", **more})


@contextmanager
def serving(context=None):
    one = Patroni(context)
    thread = threading.Thread(target=one.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        thread.join()
        one.server.server_close()


@pytest.fixture
def server():
    with serving() as one:
        yield one


def member(server, name="pg1", **how):
    return Member("17-main", name, UNIT, RestApi(server.address, **how))


# -- its configuration


def test_what_the_configuration_says():
    found = local.of_configuration(CONFIGURATION, {}, "/etc/patroni/17-main.yml", UNIT)
    assert found == Member("17-main", "pg1", UNIT, RestApi("10.0.0.1:8008"))
    assert found.rest.url == "http://10.0.0.1:8008"


def test_authentication_and_certificates():
    fields = {
        **CONFIGURATION,
        "restapi": {
            "connect_address": "pg1:8008",
            "certfile": "/c",
            "cafile": "/ca",
            "authentication": {"username": "u", "password": 1},
        },
        "ctl": {"certfile": "/own", "keyfile": "/key", "keyfile_password": "k", "insecure": True},
    }
    rest = local.of_configuration(fields, {}, "x.yml", UNIT).rest
    assert rest == RestApi("pg1:8008", True, "u", "1", "/ca", "/own", "/key", "k", verified=False)
    assert rest.url == "https://pg1:8008"


def test_patronictl_s_own_login_comes_first():
    """As in Patroni's own client (patroni/request.py)."""
    fields = {
        **CONFIGURATION,
        "restapi": {"connect_address": "a:1", "authentication": {"username": "u", "password": "p"}},
        "ctl": {"authentication": {"username": "ctl", "password": "c"}},
    }
    rest = local.of_configuration(fields, {}, "x.yml", UNIT).rest
    assert (rest.user, rest.password) == ("ctl", "c")
    environment = {"PATRONI_CTL_PASSWORD": "e", "PATRONI_RESTAPI_USERNAME": "r"}
    rest = local.of_configuration(fields, environment, "x.yml", UNIT).rest
    assert (rest.user, rest.password) == ("ctl", "e")


@pytest.mark.parametrize(
    ("sections", "login"),
    [
        ({"restapi": {"auth": "u:p:q"}}, ("u", "p:q")),
        ({"restapi": {"auth": "u:p"}, "ctl": {"auth": "ctl:c"}}, ("ctl", "c")),
        # Patroni makes the one of the other.
        ({"restapi": {"auth": "u:p", "authentication": {"username": "a", "password": "b"}}}, ("a", "b")),
        ({"restapi": {"auth": None}}, (None, None)),
    ],
)
def test_a_login_in_one_text(sections, login):
    fields = {**CONFIGURATION, **sections}
    fields["restapi"] = {**CONFIGURATION["restapi"], **sections["restapi"]}
    rest = local.of_configuration(fields, {}, "x.yml", UNIT).rest
    assert (rest.user, rest.password) == login


def test_a_name_where_old_configurations_have_it():
    fields = {key: value for key, value in CONFIGURATION.items() if key != "name"}
    fields["postgresql"] = {**CONFIGURATION["postgresql"], "name": "pg7"}
    assert local.of_configuration(fields, {}, "x.yml", UNIT).name == "pg7"


def test_the_environment_wins():
    environment = {"PATRONI_NAME": "pg9", "PATRONI_SCOPE": "s", "PATRONI_RESTAPI_CONNECT_ADDRESS": "a:1"}
    found = local.of_configuration(CONFIGURATION, environment, "x.yml", UNIT)
    assert (found.name, found.scope, found.rest.address) == ("pg9", "s", "a:1")
    assert local.of_configuration({}, environment, "x.yml", UNIT) == found


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("scope", "x.yml has no scope, which is needed to reach Patroni; add it"),
        ("name", "x.yml has no name"),
        ("restapi", "x.yml has no restapi.connect_address"),
    ],
)
def test_what_is_missing_is_named(key, sentence):
    fields = {name: value for name, value in CONFIGURATION.items() if name != key}
    with pytest.raises(Unavailable, match=sentence):
        local.of_configuration(fields, {}, "x.yml", UNIT)


@pytest.mark.parametrize("text", ["a: [", "- a\n", "a: 2026-99-99\n"])
def test_a_configuration_that_cannot_be_read(text):
    with pytest.raises(Unavailable, match="correct it first"):
        local._fields(text, "x.yml")


def test_a_host_without_pyyaml(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Unavailable, match=r"x\.yml cannot be read without PyYAML; install python3-yaml"):
        local._fields("", "x.yml")


# -- the process of this host


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A process whose command line is Patroni's, with a configuration; nothing else of Patroni's."""
    monkeypatch.setattr(patroni, "CONFIGURATIONS", ())
    data, program = tmp_path / "data", tmp_path / "patroni"
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    configuration = tmp_path / "17-main.yml"
    configuration.write_text(
        f"scope: demo\nname: pg1\nrestapi: {{connect_address: 10.0.0.1:8008}}\npostgresql:\n"
        f"  data_dir: {data}\n"
    )
    program.write_text("print(flush=True)\ninput()\n")
    words = [sys.executable, str(program), str(configuration)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running.pid, data
        running.kill()


def test_a_patroni_that_no_unit_starts(process):
    pid, data = process
    with pytest.raises(
        Conflict,
        match=rf"no systemd unit starts \(process {pid}\), so nothing was changed;.*"
        r"set LD_PRELOAD and MSHARE_PRELOAD_PAGES in the environment",
    ):
        local.member("demo", "it says so", str(data))


def test_the_member_of_this_host(process, monkeypatch):
    monkeypatch.setattr(evidence, "unit_of_process", lambda pid: UNIT)
    monkeypatch.setattr(units, "describe", lambda name: units.Unit(name, "{ path=/usr/bin/patroni ; }"))
    found = local.member("demo", "it says so", str(process[1]))
    assert found == Member("demo", "pg1", UNIT, RestApi("10.0.0.1:8008"))


@pytest.mark.parametrize("way", ["a file of another name", "a folder", "a relative path"])
def test_a_configuration_by_whatever_path(way, tmp_path, monkeypatch):
    """Patroni takes a file of any name, and all YAML files of a folder."""
    monkeypatch.setattr(patroni, "CONFIGURATIONS", ())
    monkeypatch.setattr(evidence, "unit_of_process", lambda pid: UNIT)
    monkeypatch.setattr(units, "describe", lambda name: units.Unit(name, "{ path=/usr/bin/patroni ; }"))
    data, folder, program = tmp_path / "data", tmp_path / "conf", tmp_path / "patroni"
    for path in (data, folder):
        path.mkdir()
    program.write_text("print(flush=True)\ninput()\n")
    first = "scope: demo\nname: other\nrestapi: {connect_address: 10.0.0.1:8008, certfile: /c}\n"
    second = f"name: pg1\npostgresql:\n  data_dir: {data}\n"
    if way == "a folder":
        (folder / "10-all.yml").write_text(first)
        (folder / "20-own.yaml").write_text(second + "restapi: {cafile: /ca}\n")
        (folder / "30-notes.txt").write_text("name: [")
        given = str(folder)
    else:
        (folder / "settings").write_text(first.replace("name: other\n", "") + second)
        given = str(folder / "settings") if way == "a file of another name" else "conf/settings"
    words = [sys.executable, str(program), "--ignore-listen-port", given]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        found = local.member("demo", "it says so", str(data))
        running.kill()
    authority = "/ca" if way == "a folder" else None
    assert found == Member("demo", "pg1", UNIT, RestApi("10.0.0.1:8008", True, authority=authority))
    assert found.configuration == given


def test_no_patroni_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(patroni, "CONFIGURATIONS", ())
    with pytest.raises(Conflict, match=r"is managed by Patroni \(a reason\), and no Patroni runs for it"):
        local.member("17-main", "a reason", str(tmp_path))


def test_its_cluster_is_found_by_its_scope(process, tmp_path, monkeypatch):
    """While PostgreSQL does not run, too."""
    monkeypatch.setattr(pg_ctlcluster, "CONFIGURATION", str(tmp_path / "none"))
    monkeypatch.setattr(evidence, "postmasters", list)
    monkeypatch.setattr(units, "of_postgresql", list)
    found = [each for each in clusters._others(set()) if each.data_directory == str(process[1])]
    monkeypatch.setattr(clusters, "_others", lambda known: found)
    cluster = clusters.find("17", None)
    assert cluster.data_directory == str(process[1])
    assert cluster.id == cluster.name
    (process[1] / "PG_VERSION").unlink()
    with pytest.raises(Conflict, match="is managed by Patroni"):
        clusters.find(None, None)


# -- its REST API


def test_a_view(server):
    server.members(*WHOLE, pause=True)
    view = api.Api(RestApi(server.address)).view()
    assert [each.name for each in view.members] == ["pg1", "pg2", "pg3"]
    assert view.pause
    assert view.leader == view.member("pg1")
    assert [each.name for each in view.others("pg1")] == ["pg2", "pg3"]


@pytest.mark.parametrize(
    ("change", "follows"),
    [
        ({}, True),
        ({"state": "running"}, True),
        ({"lag": 1 << 20}, True),
        ({"lag": (1 << 20) + 1}, False),
        ({"lag": "unknown"}, False),
        ({"state": "starting"}, False),
        ({"timeline": 2}, False),
        ({"role": "leader"}, False),
    ],
)
def test_who_follows(change, follows, server):
    server.members(WHOLE[0], {**WHOLE[1], **change})
    assert api.Api(RestApi(server.address)).view().follows("pg2", 1 << 20) == follows


def test_a_member_that_is_not_in_order_says_so(server):
    server.say("/patroni", {"state": "starting", "role": "replica"}, 503)
    assert api.Api(RestApi(server.address)).health().state == "starting"


def test_how_far_behind_a_replica_may_be(server):
    one = api.Api(RestApi(server.address))
    assert one.settings().lag_bytes == 1 << 20
    for given, lag_bytes in ((7, 7), ("7", 7), ("7 of them", 1 << 20), (True, 1 << 20), (None, 1 << 20)):
        server.say("/config", {"maximum_lag_on_failover": given})
        assert one.settings().lag_bytes == lag_bytes


@pytest.mark.parametrize(
    ("code", "text", "sentence"),
    [
        (200, "nonsense", "is not valid JSON"),
        (200, '{"state": 1}', "has 1 for state"),
        (200, "{}", "has no field state"),
        (401, "no auth header received", "answered with HTTP 401: no auth header received"),
    ],
)
def test_answers_that_are_none(code, text, sentence, server):
    server.say("/patroni", text, code)
    with pytest.raises(MshareError, match=sentence):
        api.Api(RestApi(server.address)).health()


def test_nobody_answers(server):
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:1/cluster does not answer \(.*refused"):
        api.Api(RestApi("127.0.0.1:1")).view()
    with pytest.raises(Unavailable, match="file:///etc/passwd is no address"):
        api.Api(RestApi(server.address)).health("file:///etc/passwd")


def test_a_switchover_is_authorised_and_a_look_is_not(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.say("/switchover", "Successfully switched over")
    one = api.Api(RestApi(server.address, user="u", password="p"))
    one.switch_over("pg1")
    one.health()
    assert server.asked == [
        ("POST", "/switchover", '{"leader": "pg1"}', "Basic dTpw"),
        ("GET", "/patroni", "", None),
    ]


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (503, "Switchover failed", api.NotNow),
        (412, "switchover is not possible: can not find sync_standby", api.NotNow),
        (400, "Switchover could be performed only from a specific leader", MshareError),
        (401, "no auth header received", MshareError),
    ],
)
def test_a_switchover_that_fails(code, text, kind, server):
    server.say("/switchover", text, code)
    with pytest.raises(
        MshareError, match=rf"\(HTTP {code}: {text}\), so this server was not restarted"
    ) as raised:
        api.Api(RestApi(server.address)).switch_over("pg1")
    assert raised.type is kind


# -- its REST API with TLS


@dataclass(frozen=True)
class Files:
    """PEM files of one authority, and of another that signed nothing here."""

    authority: str
    stranger: str
    server: str
    elsewhere: str
    client: str
    locked_key: str


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    # As many a private one: what Patroni's own client accepts has to do.
    authority = certificates.authority("authority", strict=False)
    stranger = certificates.authority("stranger")
    server = certificates.issued("pg1", authority, "127.0.0.1")
    elsewhere = certificates.issued("pg2", authority, "127.0.0.2")
    client = certificates.issued("client", authority)

    def write(name, *parts):
        (folder / name).write_text("".join(parts))
        return str(folder / name)

    return Files(
        write("authority", authority.certificate_text),
        write("stranger", stranger.certificate_text),
        write("server", server.certificate_text, server.key_text()),
        write("elsewhere", elsewhere.certificate_text, elsewhere.key_text()),
        write("client", client.certificate_text),
        write("key", client.key_text("secret")),
    )


@contextmanager
def encrypted(pem, certificate, clients=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if clients:
        # Patroni's restapi.verify_client: required
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pem.authority)
    with serving(context) as one:
        yield one


def test_an_own_authority(pem):
    """Of this member, and of the others at the addresses that the store has."""
    with encrypted(pem, pem.server) as server:
        server.members(*WHOLE)
        restart.require_possible(member(server, encrypted=True, authority=pem.authority))


def test_an_authority_that_patroni_accepts_and_new_pythons_refuse(pem, monkeypatch):
    """Its certificate has no Authority Key Identifier, which Python wants by default since 3.13."""
    usual = ssl.create_default_context

    def strict(**how):
        context = usual(**how)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    with encrypted(pem, pem.server) as server:
        server.members(*WHOLE)
        host, __, port = server.address.partition(":")
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection((host, int(port))) as plain,
        ):
            strict(cafile=pem.authority).wrap_socket(plain, server_hostname=host)
        monkeypatch.setattr(ssl, "create_default_context", strict)
        one = api.Api(RestApi(server.address, True, authority=pem.authority))
        assert len(one.view().members) == 3


@pytest.mark.parametrize("how", [{}, {"authority": "stranger"}])
def test_a_certificate_of_nobody_who_is_known(pem, how):
    how = {name: getattr(pem, value) for name, value in how.items()}
    with encrypted(pem, pem.server) as server:
        server.members(*WHOLE)
        with pytest.raises(
            Unavailable, match=r"/cluster does not answer \(.*certificate verify failed.*name the authority"
        ):
            restart.require_possible(member(server, encrypted=True, **how))
        assert server.asked == []
        insecure = member(server, encrypted=True, verified=False, **how)
        restart.require_possible(insecure)


def test_a_certificate_for_another_host(pem):
    sentence = "IP address mismatch.*names the host of restapi.connect_address"
    with encrypted(pem, pem.elsewhere) as server, pytest.raises(Unavailable, match=sentence):
        api.Api(RestApi(server.address, True, authority=pem.authority)).view()


def test_a_member_that_wants_a_certificate(pem):
    shown = {"certificate": pem.client, "key": pem.locked_key}
    with encrypted(pem, pem.server, clients=True) as server:
        server.members(*WHOLE)
        own = RestApi(server.address, True, authority=pem.authority)
        with pytest.raises(Unavailable, match=r"does not answer \("):
            api.Api(own).view()
        assert len(api.Api(replace(own, **shown, key_password="secret")).view().members) == 3
        # It is not asked for at a terminal either.
        for password in ("wrong", None):
            with pytest.raises(Unavailable, match=rf"{pem.locked_key}, which Patroni's configuration names"):
                api.Api(replace(own, **shown, key_password=password)).view()


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        (
            ssl.SSLCertVerificationError(1, "certificate verify failed"),
            "name the authority of its certificate",
        ),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "it does not accept the certificate that this host shows"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca"), "it does not accept"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "or wants one; "),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", ""),
        (ConnectionRefusedError(111, "Connection refused"), ""),
    ],
)
def test_what_to_do_about_a_certificate(reason, hint):
    assert (hint in api._hint(reason)) if hint else api._hint(reason) == ""


@pytest.mark.parametrize(
    ("key", "path", "sentence"),
    [
        ("authority", "/nowhere/ca", "cannot be read as certificates .*: No such file or directory"),
        ("authority", __file__, r"cannot be read as certificates \(ctl.cacert or restapi.cafile\)"),
        ("certificate", "/nowhere/own", r"cannot be read as a certificate with its key \(ctl.certfile"),
    ],
)
def test_files_of_certificates_that_are_none(key, path, sentence):
    with pytest.raises(Unavailable, match=f"{path}, which Patroni's configuration names.*{sentence}"):
        api.Api(RestApi("127.0.0.1:1", True, **{key: path})).view()


def test_a_member_without_tls_at_an_address_with_it(server):
    with pytest.raises(Unavailable, match="does not answer"):
        api.Api(RestApi(server.address, True)).view()


# -- when a member may be restarted


@pytest.mark.parametrize(
    ("members", "more", "sentence"),
    [
        (WHOLE, {"pause": True}, "the cluster is paused"),
        (WHOLE, {"scheduled_switchover": {"at": "2026"}}, "a switchover is scheduled"),
        (WHOLE[1:], {}, "the cluster has no member pg1"),
        ((status("pg1", state="stopped"), *WHOLE[1:]), {}, "its own state is stopped"),
        ((status("pg1"), *WHOLE[1:]), {}, "the cluster has no leader"),
        (
            (*WHOLE[:2], status("pg3", state="crashed")),
            {},
            "member pg3 is in state crashed, and two would be down at once",
        ),
        (
            (WHOLE[0], status("pg2", lag=1 << 30), status("pg3", timeline=2)),
            {},
            "it is the leader, and no replica is near enough to it and free to take over",
        ),
        (
            (*WHOLE[:2], {**status("pg3"), "scheduled_restart": {"schedule": "2026-11-29T03:00:00+00:00"}}),
            {},
            r"a restart of member pg3 is scheduled \(at 2026-11-29T03:00:00\+00:00; `patronictl flush 17-main"
            r" pg3 restart` cancels it\), and two could be down at once",
        ),
    ],
)
def test_what_stands_in_the_way(members, more, sentence, server):
    server.members(*members, **more)
    with pytest.raises(Conflict, match=f"member pg1 of Patroni cluster 17-main may not.*because {sentence}"):
        restart.require_possible(member(server))


STANDBY_LEADER = {**status("pg1", "standby_leader", "streaming"), "lag": 0}
FROM_ARCHIVE = {**status("pg1", "standby_leader", "in archive recovery"), "lag": "unknown"}


@pytest.mark.parametrize(
    "members",
    [
        WHOLE,
        (WHOLE[0],),
        # Before Patroni 3.1, replicas that stream say "running".
        (WHOLE[0], status("pg2", state="running"), status("pg3", "sync_standby", "running")),
        # A standby cluster, whose leader follows a primary elsewhere.
        (STANDBY_LEADER, *WHOLE[1:]),
        (STANDBY_LEADER,),
        (FROM_ARCHIVE, *WHOLE[1:]),
        # A scheduled restart of its own is one less to do.
        ({**WHOLE[0], "scheduled_restart": {"schedule": "2026-11-29T03:00:00+00:00"}},),
    ],
)
def test_nothing_stands_in_the_way(members, server):
    server.members(*members)
    for each in members:
        restart.require_possible(member(server, each["name"]))
    assert leads(server, "pg1")


def leads(server, name):
    one = member(server, name)
    return restart.leads(one, restart.view_of(one))


@pytest.mark.parametrize("role", ["master", "primary", "replica", "standby_leader"])
def test_what_versions_call_a_member_itself(role, server):
    """ "master" until Patroni 3, "primary" since 4: what counts is the store's word, which never changed."""
    server.say("/patroni", {"state": "running", "role": role, "patroni": {"version": "2.1.4"}})
    assert api.Api(RestApi(server.address)).health().state == "running"


@pytest.mark.parametrize("synchronous", [True, "on", "quorum"])
def test_a_synchronous_leader_hands_over_to_a_synchronous_replica_only(synchronous, server):
    server.say("/config", {"synchronous_mode": synchronous})
    for role in ("sync_standby", "quorum_standby"):
        server.members(WHOLE[0], status("pg2", role), status("pg3"))
        restart.require_possible(member(server))
    server.members(WHOLE[0], status("pg2"), status("pg3"))
    with pytest.raises(Conflict, match="no synchronous replica is near enough to it and free to take over"):
        restart.require_possible(member(server))
    # A replica may be restarted all the same.
    restart.require_possible(member(server, "pg2"))


@pytest.mark.parametrize(
    "tags",
    [
        {"nofailover": True},
        {"nofailover": "true"},
        {"failover_priority": 0},
        {"failover_priority": "-1"},
        {"nofailover": True, "failover_priority": 7},
    ],
)
def test_a_replica_that_may_not_lead_takes_nothing_over(tags, server):
    server.members(WHOLE[0], status("pg2", tags=tags))
    with pytest.raises(Conflict, match="no replica is near enough to it and free to take over"):
        restart.require_possible(member(server))


@pytest.mark.parametrize(
    "tags",
    [
        {"clonefrom": True, "failover_priority": 1},
        {"noloadbalance": True},
        # Contradictory: Patroni takes nofailover.
        {"nofailover": False, "failover_priority": 0},
        {"failover_priority": "none"},
        "nonsense",
    ],
)
def test_a_replica_that_may_lead_whatever_its_other_tags(tags, server):
    server.members(WHOLE[0], status("pg2", tags=tags))
    assert restart.require_possible(member(server)) == []


def test_a_replica_that_does_not_stream(server):
    """It is behind by what is not archived yet: it takes nothing over, and is in order all the same."""
    behind = status("pg2", state="in archive recovery", lag=9 << 20, tags={"nostream": True})
    server.members(WHOLE[0], behind)
    assert api.Api(RestApi(server.address)).view().follows("pg2", 1 << 20)
    assert restart.require_possible(member(server, "pg2")) == []
    with pytest.raises(Conflict, match="no replica is near enough to it and free to take over"):
        restart.require_possible(member(server))


SOURCE = {"host": "10.0.0.9", "port": 5432, "primary_slot_name": "second"}


@pytest.mark.parametrize(
    ("config", "synchronous"),
    [
        ({"synchronous_mode": True}, True),
        ({"synchronous_mode": "quorum"}, True),
        ({"synchronous_mode": True, "standby_cluster": SOURCE}, False),
        ({"synchronous_mode": True, "standby_cluster": {"restore_command": "cp a b"}}, False),
        # As Patroni has it after `patronictl edit-config -s standby_cluster=null`, or with nothing in it.
        ({"synchronous_mode": True, "standby_cluster": None}, True),
        ({"synchronous_mode": True, "standby_cluster": {"create_replica_methods": ["x"]}}, True),
        ({"synchronous_mode": "off"}, False),
        ({}, False),
    ],
)
def test_a_standby_cluster_is_never_synchronous(config, synchronous, server):
    server.say("/config", config)
    assert api.Api(RestApi(server.address)).settings().is_synchronous == synchronous
    server.members(WHOLE[0], status("pg2"), status("pg3"))
    if synchronous:
        with pytest.raises(Conflict, match="no synchronous replica"):
            restart.require_possible(member(server))
    else:
        restart.require_possible(member(server))


STRICT = {"synchronous_mode": True, "synchronous_mode_strict": True}


@pytest.mark.parametrize(
    ("config", "members", "name", "waits"),
    [
        (STRICT, WHOLE, "pg1", False),
        (STRICT, WHOLE, "pg2", False),
        (STRICT, WHOLE[:2], "pg2", True),
        # Its only replica leads while it is restarted.
        (STRICT, WHOLE[:2], "pg1", True),
        (STRICT, WHOLE[:1], "pg1", False),
        (STRICT, (*WHOLE[:2], status("pg3", tags={"nosync": True})), "pg2", True),
        (STRICT, (*WHOLE[:2], status("pg3", tags={"nostream": True})), "pg2", True),
        ({**STRICT, "synchronous_mode_strict": "off"}, WHOLE[:2], "pg2", False),
        ({**STRICT, "synchronous_mode": False}, WHOLE[:2], "pg2", False),
    ],
)
def test_commits_that_wait_for_a_member(config, members, name, waits, server):
    server.say("/config", config)
    server.members(*members)
    expected = [
        "Patroni cluster 17-main has synchronous_mode_strict, and no other replica can be synchronous while"
        f" member {name} is restarted, so commits wait until it is back"
    ]
    assert restart.require_possible(member(server, name)) == (expected if waits else [])


def test_a_replica_that_becomes_synchronous_again_is_waited_for(server, monkeypatch):
    """Patroni needs some time for it, and the leader's turn is next."""
    monkeypatch.setattr(restart, "_POLL_SECONDS", 0.001)
    server.say("/config", {"synchronous_mode": True})
    looks = []

    def look(body):
        looks.append(body)
        role = "replica" if len(looks) < 4 else "sync_standby"
        return 200, json.dumps({"members": [WHOLE[0], status("pg2", role)]})

    server.does["GET", "/cluster"] = look
    restart._await_successor(api.Api(RestApi(server.address)), member(server, "pg2"))
    assert len(looks) == 4
    monkeypatch.setattr(restart, "_FOLLOW_SECONDS", 0.01)
    server.does.clear()
    server.members(*WHOLE[:1], status("pg2"))
    with pytest.raises(MshareError, match="pg2 runs again, and no replica could take over from the leader"):
        restart._await_successor(api.Api(RestApi(server.address)), member(server, "pg2"))


def test_a_member_that_is_gone_is_still_known_to_the_store(server):
    server.members(*WHOLE)
    server.say("/of/pg3", {"state": "stopping"}, 503)
    with pytest.raises(Unavailable, match="member pg3 says that it is in state stopping; two would be down"):
        restart.require_possible(member(server))
    server.say("/of/pg3", "", 404)
    with pytest.raises(Unavailable, match=r"member pg3 cannot be asked: .*HTTP 404"):
        restart.require_possible(member(server))


def test_who_leads(server):
    server.members(*WHOLE)
    assert [leads(server, name) for name in ("pg1", "pg2", "pg9")] == [True, False, False]
    nobody = Member("s", "pg1", UNIT, RestApi("127.0.0.1:1"))
    assert restart.leads(nobody, restart.view_of(nobody)) is None


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(restart, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(restart, "_ASKED_AGAIN_SECONDS", 0.001)


NOBODY = (412, "switchover is not possible: no good candidates have been found")


def test_a_switchover_is_asked_for_again_while_nobody_can_take_over(server, hasty):
    """A member may have been too slow to answer Patroni."""
    answers = [NOBODY, (503, "Switchover failed"), (200, "Successfully switched over")]
    server.members(*WHOLE)
    server.does["POST", "/switchover"] = lambda body: answers.pop(0)
    restart._hand_over(api.Api(RestApi(server.address)), member(server))
    assert answers == []
    asked = []
    server.does["POST", "/switchover"] = lambda body: asked.append(body) or NOBODY
    with pytest.raises(MshareError, match="no good candidates have been found"):
        restart._hand_over(api.Api(RestApi(server.address)), member(server))
    assert len(asked) == restart._ASKED


def test_somebody_else_has_switched_over_meanwhile(server, hasty):
    server.members(WHOLE[1], status("pg2", "leader", "running"), WHOLE[2])
    server.say("/switchover", "leader name does not match", 412)
    restart._hand_over(api.Api(RestApi(server.address)), member(server))
    assert [path for __, path, *__ in server.asked] == ["/switchover", "/cluster"]


def test_a_switchover_that_takes_longer_than_patroni_waits(server, hasty, monkeypatch):
    """It answers after twice its loop_wait, and a server with much to write takes longer to stop."""
    looks = []

    def look(body):
        looks.append(body)
        leader = "pg1" if len(looks) < 3 else "pg2"
        return 200, json.dumps({"members": [status(leader, "leader", "running"), status("pg3")]})

    server.say("/switchover", "Switchover status unknown", 503)
    server.does["GET", "/cluster"] = look
    restart._hand_over(api.Api(RestApi(server.address)), member(server))
    assert len(looks) == 3
    server.does.clear()
    server.members(*WHOLE)
    monkeypatch.setattr(restart, "_FOLLOW_SECONDS", 0.01)
    with pytest.raises(MshareError, match="Patroni began to switch over from pg1, the leader, and no other"):
        restart._hand_over(api.Api(RestApi(server.address)), member(server))


def test_only_a_leader_of_others_steps_down(server):
    cluster = Cluster("17", "main", "/nowhere", 0, 0, "/nowhere", "/nowhere")
    server.members(*WHOLE)
    assert restart.step_down(cluster, member(server, "pg2")) is None
    server.members(WHOLE[0])
    assert restart.step_down(cluster, member(server)) is None
    assert {path for __, path, *__ in server.asked} == {"/cluster"}


# -- its files


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(files.systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
    monkeypatch.setattr(files.paths, "config_dir", lambda: str(tmp_path / "mshare"))
    monkeypatch.setattr(files, "systemd_runs", lambda: False)
    monkeypatch.setattr(units, "describe", lambda name: units.Unit(name, "{ path=/usr/bin/patroni ; }"))
    one = Cluster("17", "demo", str(tmp_path), os.geteuid(), os.getegid(), str(tmp_path), "/usr/lib")
    return replace(one, patroni=Member("demo", "pg1", UNIT, RestApi("127.0.0.1:1")))


def test_only_its_unit_is_given_something(cluster, tmp_path):
    """The settings of its store count for members without the library as well."""
    wanted = ClusterSpec("thp")
    changes = files.present(cluster, wanted, None, True)
    assert (cluster.id, cluster.unit) == ("demo", UNIT)
    assert set(changes) == {
        f"{tmp_path}/units/{UNIT}.d/zz-dbmem-mshare.conf",
        f"{tmp_path}/mshare/postgresql/demo.json",
    }
    drop_in = changes[files.drop_in_file(cluster)]
    assert f'Environment="LD_PRELOAD={wanted.library}"' in drop_in
    assert "TimeoutStartSec" not in drop_in
    assert "PGCTLTIMEOUT" not in drop_in
    files.write(changes, cluster)
    assert files.different(changes) == {}
    files.write(files.absent(cluster), cluster)
    assert not (tmp_path / "units" / f"{UNIT}.d").exists()
    assert not (tmp_path / "mshare").exists()


@pytest.mark.parametrize(("value", "refused"), [("try", False), ("off", False), (None, False), ("on", True)])
def test_huge_pages_that_are_demanded(value, refused, cluster, monkeypatch):
    monkeypatch.setattr(converge.ask, "setting", lambda cluster, name: value)
    if not refused:
        converge._require_effect(cluster, {}, "thp")
        return
    with pytest.raises(
        Conflict, match=r"huge_pages of PostgreSQL cluster demo is on.*patronictl edit-config"
    ):
        converge._require_effect(cluster, {}, "thp")


def test_a_region_would_stop_patroni(cluster):
    with pytest.raises(Conflict, match="region sga would stop Patroni with it"):
        converge._stored(cluster, ClusterSpec("4k", root="/m", region="sga"))


def test_files_are_written_while_patroni_does_not_answer(cluster):
    """Its store is asked for what is in it only; a restart would ask it."""
    assert converge._stored(cluster, ClusterSpec("thp")) is None
    assert converge._stored(cluster, None) is None
    with pytest.raises(Unavailable, match="does not answer"):
        converge._stored(cluster, ClusterSpec("native"), members_ready=True)
    files.write(files.present(cluster, ClusterSpec("native"), None, True), cluster)
    with pytest.raises(Unavailable, match="does not answer"):
        converge._stored(cluster, None)
