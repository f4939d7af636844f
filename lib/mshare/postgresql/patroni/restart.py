# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarting a member of a Patroni cluster, while all its other members are up.

PostgreSQL has the environment of the Patroni that starts it, and `patronictl restart` does not change that:
for another environment Patroni itself is started again, which stops and starts its PostgreSQL. For other
settings only, Patroni restarts PostgreSQL. A leader hands over first, and is restarted as the replica that it
then is.

Patroni is never paused for it. Paused, it would adopt the server that runs, and PostgreSQL would have to be
restarted all the same; meanwhile nobody in the cluster would fail over, and a run that was killed would leave
it so (docs/postgresql.md, "Why Patroni is not paused").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...errors import Conflict, MshareError, Unavailable
from ...services import systemd
from .. import server
from ..clusters import Cluster
from ..server import LogPosition, Server
from ..spec import START_SECONDS
from .api import RUNNING, Api, Health, NotNow, Settings, View
from .local import Member

_POLL_SECONDS = 0.5
_SETTLE_SECONDS = 120
"""How long a member may take to hear of what has changed in the store: several times its loop_wait."""
_FAILURES = 20
"""How often a member may be seen that did not start: Patroni tries again by itself, and rewinds it first."""
_FOLLOW_SECONDS = 600
"""How long a member may take to follow its leader after a switchover, or after its PostgreSQL has started."""
_ASKED = 6
_ASKED_AGAIN_SECONDS = 5
"""How often Patroni is asked to switch over while it finds no replica for it: on a host under load one may
not answer Patroni within its 2 s."""


def view_of(member: Member) -> View | None:
    """The cluster as this member sees it; None where its API does not answer."""
    try:
        return Api(member.rest).view()
    except MshareError:
        return None


def leads(member: Member, view: View | None) -> bool | None:
    """Whether a member is its cluster's leader; None where nobody answered."""
    if view is None:
        return None
    own = view.member(member.name)
    return own is not None and own.leads


def require_possible(member: Member) -> list[str]:
    """Conflict or Unavailable, before anything is changed, where a restart would harm the cluster; warnings
    of what it costs it."""
    api = Api(member.rest)
    view, settings = api.view(), api.settings()
    for reason in _obstacles(member, view, settings):
        raise Conflict(
            f"member {member.name} of Patroni cluster {member.scope} may not be restarted now, because"
            f" {reason}; see `patronictl list`, and run this again when it is in order"
        )
    _require_others(member, api, view)
    return list(_costs(member, view, settings))


def _costs(member: Member, view: View, settings: Settings) -> Iterator[str]:
    """A warning where commits wait for a member that is restarted."""
    others = view.others(member.name)
    left = [other for other in others if not other.leads and other.may_be_synchronous]
    own = view.member(member.name)
    # One of a leader's replicas leads while it is restarted.
    replicas = len(left) - (1 if own is not None and own.leads else 0)
    if settings.is_strict and others and replicas < 1:
        yield (
            f"Patroni cluster {member.scope} has synchronous_mode_strict, and no other replica can be"
            f" synchronous while member {member.name} is restarted, so commits wait until it is back"
        )


def _obstacles(member: Member, view: View, settings: Settings) -> Iterator[str]:
    """Clauses that say why not, by what the cluster's store says."""
    own = view.member(member.name)
    if own is None:
        yield f"the cluster has no member {member.name}"
        return
    if view.pause:
        # It would leave PostgreSQL as it is.
        yield "the cluster is paused (maintenance mode)"
    if view.scheduled_switchover is not None:
        yield "a switchover is scheduled"
    if not own.runs:
        yield f"its own state is {own.state}"
    if view.leader is None:
        yield "the cluster has no leader"
    for other in view.others(member.name):
        if not other.runs:
            yield f"member {other.name} is in state {other.state}, and two would be down at once"
        if other.restarts_at is not None:
            yield (
                f"a restart of member {other.name} is scheduled (at {other.restarts_at}; `patronictl flush"
                f" {member.scope} {other.name} restart` cancels it), and two could be down at once"
            )
    others = view.others(member.name)
    if own.leads and others and not any(view.can_take_over(other.name, settings) for other in others):
        which = "synchronous replica" if settings.is_synchronous else "replica"
        yield f"it is the leader, and no {which} is near enough to it and free to take over"


def _require_others(member: Member, api: Api, view: View) -> None:
    """Ask every other member itself: the store still knows one as running for a while after it is gone."""
    for other in view.others(member.name):
        if other.api_url is None:
            reason = "has no REST API"
        else:
            try:
                state = api.health(other.api_url).state
                reason = "" if state in RUNNING else f"says that it is in state {state}"
            except MshareError as error:
                reason = f"cannot be asked: {error}"
        if reason:
            raise Unavailable(
                f"member {member.name} of Patroni cluster {member.scope} may not be restarted now, because"
                f" member {other.name} {reason}; two would be down at once"
            )


def step_down(cluster: Cluster, member: Member) -> Server | None:
    """Have a leader hand over to a replica; the server that runs then, which Patroni has started with the
    settings of its store. None for one that does not lead, and for one that is its cluster's only member.

    MshareError where it does not follow the new leader, or does not start.
    """
    api = Api(member.rest)
    view = api.view()
    own = view.member(member.name)
    if own is None or not own.leads or not view.others(member.name):
        return None
    position = server.log_position(cluster)
    _hand_over(api, member)
    lag_bytes = api.settings().lag_bytes
    failures: list[str] = []

    def follows() -> bool:
        failures.extend(_failure(api))
        if len(failures) > _FAILURES:
            raise MshareError(
                f"PostgreSQL of member {member.name} does not start after it handed over (Patroni says"
                f" {failures[-1]!r})"
            )
        return _view(api, lambda view: view.follows(member.name, lag_bytes))

    with _log_told(cluster, position):
        _wait(
            follows, _FOLLOW_SECONDS, f"member {member.name} handed over, and does not follow the new leader"
        )
    return server.running(cluster)


def _hand_over(api: Api, member: Member) -> None:
    """Have another member lead; MshareError where Patroni does not do it."""

    def done() -> bool:
        return _view(api, lambda view: view.leader is not None and view.leader.name != member.name)

    for left in reversed(range(_ASKED)):
        try:
            if not api.switch_over(member.name):
                complaint = f"Patroni began to switch over from {member.name}, the leader, and no other leads"
                _wait(done, _FOLLOW_SECONDS, complaint)
            return
        except NotNow:
            if not left:
                raise
        time.sleep(_ASKED_AGAIN_SECONDS)
        if done():
            return


def _failure(api: Api) -> list[str]:
    """The state of a member whose PostgreSQL does not start, as Patroni itself says; none of any other."""
    try:
        health = api.health()
    except MshareError:
        return []
    return [health.state] if health.failed else []


def settle(member: Member, condition: Callable[[Health], bool], complaint: str) -> None:
    """Wait until Patroni has brought what its store has to this member; MshareError if it does not."""
    api = Api(member.rest)

    def is_settled() -> bool:
        try:
            health = api.health()
        except MshareError:
            return False
        return condition(health)

    _wait(is_settled, _SETTLE_SECONDS, complaint)


def restart(cluster: Cluster, member: Member, before: Server, seconds: float, *, environment: bool) -> Server:
    """Start PostgreSQL again; the new server, once it is a member in order.

    With another `environment` Patroni itself is started again, which takes PostgreSQL along; otherwise it
    restarts PostgreSQL. MshareError where another member is down before, or this one does not come back
    within so many seconds.
    """
    api = Api(member.rest)
    view = api.view()
    _require_others(member, api, view)
    alone = not view.others(member.name)
    had_successor = bool(view.successors(api.settings()))
    if environment:
        after = _start_again(cluster, member, before, seconds, alone=alone)
    else:
        how = f"Patroni had restarted it (POST {member.rest.url}/restart)"
        position = server.log_position(cluster)
        with _log_told(cluster, position):
            api.restart(member.name, seconds)
        after = _awaited(cluster, member, before, seconds, how, position, alone=alone)
    if had_successor:
        _await_successor(api, member)
    return after


def _await_successor(api: Api, member: Member) -> None:
    """Wait until a replica could take over again, as one could before: Patroni makes a replica synchronous
    some time after that runs, and the leader's turn is next."""
    settings = api.settings()
    _wait(
        lambda: _view(api, lambda view: bool(view.successors(settings))),
        _FOLLOW_SECONDS,
        f"member {member.name} runs again, and no replica could take over from the leader, as one could"
        " before",
    )


def put_back(cluster: Cluster, member: Member, before: Server | None) -> Server:
    """The same for a member that does not work as it is: nobody else is waited for."""
    return _start_again(cluster, member, before, START_SECONDS, alone=False)


def _start_again(
    cluster: Cluster, member: Member, before: Server | None, seconds: float, *, alone: bool
) -> Server:
    position = server.log_position(cluster)
    systemd.systemctl("restart", member.unit)
    how = f"`systemctl restart {member.unit}`"
    return _awaited(cluster, member, before, seconds, how, position, alone=alone)


def _awaited(
    cluster: Cluster,
    member: Member,
    before: Server | None,
    seconds: float,
    how: str,
    position: LogPosition,
    *,
    alone: bool,
) -> Server:
    api = Api(member.rest)
    new: list[Server] = []

    def came_back() -> bool:
        running = server.running(cluster)
        if running is None or not running.ready or server.same(running, before):
            return False
        new[:] = [running]
        return True

    with _log_told(cluster, position):
        _wait(came_back, seconds, f"PostgreSQL did not come back after {how}")
        lag_bytes = _lag_allowed_bytes(api)
        _wait(
            lambda: _in_order(api, member.name, lag_bytes, alone),
            _FOLLOW_SECONDS,
            f"member {member.name} runs again, and does not follow the leader",
        )
    return new[0]


@contextmanager
def _log_told(cluster: Cluster, position: LogPosition) -> Iterator[None]:
    """MshareErrors with what the server has written to its log meanwhile."""
    try:
        yield
    except MshareError as error:
        log_text = server.log_since(cluster, position)
        raise MshareError(f"{error}; its log says: {log_text}" if log_text else str(error)) from None


def _in_order(api: Api, name: str, lag_bytes: int, alone: bool) -> bool:
    """Whether a member runs by its own word, and by the cluster's leads it or follows its leader."""
    try:
        if api.health().state not in RUNNING:
            return False
    except MshareError:
        return False

    def is_in_order(view: View) -> bool:
        own = view.member(name)
        leads = own is not None and own.leads and own.runs
        return leads or (not alone and view.follows(name, lag_bytes))

    return _view(api, is_in_order)


def _lag_allowed_bytes(api: Api) -> int:
    """As soon as it answers again."""
    allowed_bytes: list[int] = []

    def answers() -> bool:
        try:
            allowed_bytes[:] = [api.settings().lag_bytes]
        except MshareError:
            return False
        return True

    _wait(answers, _FOLLOW_SECONDS, "Patroni's REST API does not answer after its restart")
    return allowed_bytes[0]


def _view(api: Api, condition: Callable[[View], bool]) -> bool:
    """Whether a condition holds; not while the API does not answer."""
    try:
        return condition(api.view())
    except MshareError:
        return False


def _wait(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MshareError(f"{complaint} within {seconds:.0f} s; see `patronictl list`")
        time.sleep(_POLL_SECONDS)
