# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni's REST API: what a member says about itself and its cluster, and a switchover.

Its answers are described in Patroni's documentation, "REST API"; unknown fields are left alone.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ... import record
from ...errors import MshareError, Unavailable
from .local import RestApi
from .store import means

LEADERS = ("leader", "standby_leader")
SYNCHRONOUS = ("sync_standby", "quorum_standby")
RUNNING = ("running", "streaming", "in archive recovery")
"""States of a member whose PostgreSQL runs; before Patroni 3.1 a replica that streams says "running" too. A
standby cluster without replication slots recovers from the archive."""
FAILED = ("start failed", "restart failed")
"""States of a member whose PostgreSQL did not start with the settings that it has."""
_SOURCES = ("host", "port", "restore_command")
_LAG_BYTES = 1 << 20
"""Patroni's own default for maximum_lag_on_failover."""
_ANSWER_BYTES = 1 << 22
_READ_SECONDS = 15
# Patroni answers before that: it waits for the outcome twice its loop_wait, and at least 20 s.
_SWITCHOVER_SECONDS = 600
_UNKNOWN = b"status unknown"
_NEXT = "see whether Patroni's REST API works (`patronictl list`)"
# By what Patroni answers with; anything else is no matter of how this was asked.
_REFUSALS = {
    401: "user and password are those of ctl.authentication or restapi.authentication of its configuration",
    403: "let this host in (restapi.allowlist and restapi.authentication of its configuration)",
    409: "somebody else changed its store at the same moment: run this again",
}
_CERTIFICATE = (
    "name the authority of its certificate in ctl.cacert of Patroni's configuration, and see that the"
    " certificate names the host of restapi.connect_address; "
)
_OWN_CERTIFICATE = (
    "it does not accept the certificate that this host shows (ctl.certfile of Patroni's configuration), or"
    " wants one; "
)
_T = TypeVar("_T")


class NotNow(MshareError):
    """What Patroni could not do at this moment, and has not begun."""


@dataclass(frozen=True)
class Status:
    """A member as the cluster sees it."""

    name: str
    role: str | None = None
    state: str | None = None
    api_url: str | None = None
    timeline: int | None = None
    lag: object | None = None
    """Bytes behind the leader, or "unknown"; a leader has none."""
    tags: object | None = None
    scheduled_restart: object | None = None
    """An object with the time of it (`schedule`)."""

    @property
    def leads(self) -> bool:
        return self.role in LEADERS

    @property
    def runs(self) -> bool:
        return self.state in RUNNING

    @property
    def restarts_at(self) -> str | None:
        """When Patroni is going to restart it, for a sentence; None where no restart is scheduled."""
        planned = self.scheduled_restart
        if planned is None:
            return None
        return str(planned.get("schedule", planned)) if isinstance(planned, dict) else str(planned)

    @property
    def may_lead(self) -> bool:
        """Whether Patroni would make it the leader, by its tags (patroni/tags.py): a nofailover counts more
        than a failover_priority."""
        nofailover, priority = self._tag("nofailover"), _integer(self._tag("failover_priority"))
        if nofailover is not None:
            return not nofailover
        return priority is None or priority > 0

    @property
    def may_be_synchronous(self) -> bool:
        """Whether Patroni would make it a synchronous replica, by its tags."""
        return not self._tag("nosync") and self.streams

    @property
    def streams(self) -> bool:
        """Whether it is to stream from another member; otherwise it recovers from the archive, and is behind
        by what is not archived yet."""
        return means(self._tag("nostream")) is not True

    def _tag(self, name: str) -> object | None:
        return self.tags.get(name) if isinstance(self.tags, dict) else None


@dataclass(frozen=True)
class View:
    """A cluster as one of its members sees it."""

    members: tuple[Status, ...]
    pause: bool | None = None
    scheduled_switchover: object | None = None

    def member(self, name: str) -> Status | None:
        return next((each for each in self.members if each.name == name), None)

    @property
    def leader(self) -> Status | None:
        return next((each for each in self.members if each.leads), None)

    def others(self, name: str) -> tuple[Status, ...]:
        return tuple(each for each in self.members if each.name != name)

    def follows(self, name: str, lag_bytes: int) -> bool:
        """Whether a member is a replica that runs on the leader's timeline, and no more behind than that if
        it streams."""
        own, leader = self.member(name), self.leader
        if own is None or leader is None or own.leads or not (own.runs and leader.runs):
            return False
        return own.timeline == leader.timeline and (not own.streams or _is_near(own, lag_bytes))

    def can_take_over(self, name: str, settings: Settings) -> bool:
        """Whether a member could become the leader by a switchover: with synchronous replication only one
        that has every acknowledged row."""
        own = self.member(name)
        if own is None or not own.may_lead or not self.follows(name, settings.lag_bytes):
            return False
        if not _is_near(own, settings.lag_bytes):
            return False
        return not settings.is_synchronous or own.role in SYNCHRONOUS

    def successors(self, settings: Settings) -> list[str]:
        """The members that could take over from the leader."""
        return [each.name for each in self.members if self.can_take_over(each.name, settings)]


def _is_near(member: Status, lag_bytes: int) -> bool:
    return isinstance(member.lag, int) and member.lag <= lag_bytes


@dataclass(frozen=True)
class Health:
    """A member as it sees itself."""

    state: str
    pending_restart: bool | None = None
    """Whether its server was started with other settings than it is to have; missing where it was not."""
    pending_restart_reason: object | None = None
    """Since Patroni 3.3: an object with these settings as names."""

    @property
    def failed(self) -> bool:
        return self.state in FAILED

    def waits_for(self, parameter: str) -> bool:
        """Whether that is one of these settings."""
        reason = self.pending_restart_reason
        return bool(self.pending_restart) and isinstance(reason, dict) and parameter in reason


@dataclass(frozen=True)
class Settings:
    """What the cluster's store says about who may become its leader (patroni/global_config.py)."""

    maximum_lag_on_failover: object | None = None
    """A number, or a text with one; Patroni takes its default instead of anything else."""
    synchronous_mode: object | None = None
    """A truth value, or "quorum"."""
    synchronous_mode_strict: object | None = None
    standby_cluster: object | None = None
    """An object that says whom a standby cluster follows."""

    @property
    def lag_bytes(self) -> int:
        """How far behind a replica may be that is to become the leader."""
        lag_bytes = _integer(self.maximum_lag_on_failover)
        return _LAG_BYTES if lag_bytes is None else lag_bytes

    @property
    def is_standby(self) -> bool:
        """Whether it is a standby cluster, whose leader follows a primary elsewhere."""
        source = self.standby_cluster
        return isinstance(source, dict) and any(source.get(key) for key in _SOURCES)

    @property
    def is_synchronous(self) -> bool:
        """Whether it has synchronous replicas; a standby cluster never has."""
        return means(self.synchronous_mode) in (True, "quorum") and not self.is_standby

    @property
    def is_strict(self) -> bool:
        """Whether its commits wait where there is no synchronous replica."""
        return self.is_synchronous and means(self.synchronous_mode_strict) is True


def _integer(value: object) -> int | None:
    """A whole number, also where it is in a text; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return int(str(value))
    except ValueError:
        return None


class Api:
    """The REST API of a member."""

    def __init__(self, rest: RestApi) -> None:
        self._rest = rest

    def view(self) -> View:
        url, answer = self._get("/cluster")
        return record.parse(View, answer, url, _NEXT)

    def health(self, url: str | None = None) -> Health:
        """Of this member, or of one at a URL that the cluster names. Unavailable without an answer."""
        url, answer = self._get("/patroni", url)
        return record.parse(Health, answer, url, _NEXT)

    def settings(self) -> Settings:
        url, answer = self._get("/config")
        return record.parse(Settings, answer, url, _NEXT)

    def stored(self) -> dict[str, object]:
        """All that the cluster's store has of its configuration."""
        url, answer = self._get("/config")
        return record.load(answer, url, _NEXT)

    def change_store(self, patch: Mapping[str, object]) -> None:
        """Change what the store has; MshareError, with Patroni's words, where it does not take that."""
        url = f"{self._rest.url}/config"
        status, text = self._ask("PATCH", url, json.dumps(patch).encode(), _READ_SECONDS)
        if status != 200:
            raise MshareError(
                f"Patroni did not change its store (PATCH {url}: HTTP {status}: {_short(text)});"
                f" {_REFUSALS.get(status, _NEXT)}"
            )

    def restart(self, name: str, seconds: float) -> None:
        """Have Patroni restart the PostgreSQL of this member, and wait for it that long; MshareError, with
        Patroni's words, if it is not up again."""
        body = json.dumps({"timeout": max(1, int(seconds))}).encode()
        status, text = self._ask("POST", f"{self._rest.url}/restart", body, seconds + _READ_SECONDS)
        if status != 200:
            raise MshareError(
                f"Patroni did not restart PostgreSQL of member {name} (HTTP {status}: {_short(text)});"
                f" {_REFUSALS.get(status, _NEXT)}"
            )

    def switch_over(self, leader: str) -> bool:
        """Have Patroni make a replica of its choice the leader; False where it is not done yet when Patroni
        answers, as with a server that takes long to stop.

        NotNow where Patroni found no replica that could take over; MshareError for any other refusal. Both
        have its words, and the leader is the same.
        """
        body = json.dumps({"leader": leader}).encode()
        status, text = self._ask("POST", f"{self._rest.url}/switchover", body, _SWITCHOVER_SECONDS)
        if status == 200:
            return True
        if status == 503 and _UNKNOWN in text:
            return False
        refused = NotNow if status in (412, 503) else MshareError
        raise refused(
            f"Patroni did not switch over from {leader}, the leader (HTTP {status}: {_short(text)}), so this"
            " server was not restarted; see `patronictl list`, and run this again"
        )

    def _get(self, path: str, url: str | None = None) -> tuple[str, bytes]:
        url = url or f"{self._rest.url}{path}"
        # A member that is not in order answers with 503, and says why all the same.
        status, text = self._ask("GET", url, None, _READ_SECONDS)
        if status not in (200, 503):
            raise Unavailable(f"{url} answered with HTTP {status}: {_short(text)}; {_NEXT}")
        return url, text

    def _ask(self, method: str, url: str, body: bytes | None, seconds: float) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        if self._rest.user is not None and method != "GET":
            pair = f"{self._rest.user}:{self._rest.password or ''}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        if not url.startswith(("http://", "https://")):
            raise Unavailable(f"{url} is no address of a REST API; {_NEXT}")
        request = urllib.request.Request(url, body, headers, method=method)
        # Directly: a proxy of Ansible's environment is for the Internet.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        try:
            if url.startswith("https://"):
                handlers.append(urllib.request.HTTPSHandler(context=self._context()))
            with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as answer:
                return answer.status, answer.read(_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            return error.code, error.read(_ANSWER_BYTES)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unavailable(
                f"{url} does not answer ({reason or type(error).__name__}); {_hint(reason)}{_NEXT}"
            ) from None

    def _context(self) -> ssl.SSLContext:
        rest = self._rest
        context = _loaded(
            rest.authority,
            "certificates (ctl.cacert or restapi.cafile)",
            lambda: ssl.create_default_context(cafile=rest.authority),
        )
        # Python's default since 3.13 refuses certificates of many a private authority (without an Authority
        # Key Identifier). Patroni's own client accepts them.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not rest.verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if rest.certificate is not None:
            certificate, password = rest.certificate, rest.key_password or ""
            _loaded(
                rest.key or certificate,
                "a certificate with its key (ctl.certfile, ctl.keyfile, ctl.keyfile_password)",
                # Without a password it would be asked for at a terminal.
                lambda: context.load_cert_chain(certificate, rest.key, lambda: password),
            )
        return context


def _hint(reason: object) -> str:
    """What to do about a certificate that one of both sides does not accept."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _CERTIFICATE
    # The other side ends TLS with an alert: TLSV1_ALERT_UNKNOWN_CA, SSLV3_ALERT_CERTIFICATE_UNKNOWN.
    text = str(reason).lower()
    return _OWN_CERTIFICATE if "alert" in text and ("certificate" in text or "unknown" in text) else ""


def _loaded(path: str | None, what: str, load: Callable[[], _T]) -> _T:
    """Unavailable, naming the file, for one that holds something else or is not there."""
    try:
        return load()
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"{path}, which Patroni's configuration names for its REST API, cannot be read as {what}:"
            f" {getattr(error, 'strerror', None) or error}; {_NEXT}"
        ) from None


def _short(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split())[:200] or "nothing"
