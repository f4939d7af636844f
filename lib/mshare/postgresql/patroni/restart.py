# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarting a member of a Patroni cluster, while all its other members are up.

PostgreSQL has the environment of the Patroni that starts it, and `patronictl restart` does not change that:
Patroni itself has to be started again, which stops and starts its PostgreSQL. Patroni is never paused for it,
so it fails over at any time. A leader hands over first, and is restarted as the replica that it then is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ...errors import Conflict, MshareError, Unavailable
from ...services import systemd
from .. import server
from ..clusters import Cluster
from ..server import Server
from ..spec import START_SECONDS
from .api import RUNNING, Api, Settings, View
from .local import Member

_POLL_SECONDS = 0.5
_FOLLOW_SECONDS = 600
"""How long a member may take to follow its leader after a switchover, or after its PostgreSQL has started."""


def leads(member: Member) -> bool | None:
    """Whether a member is its cluster's leader; None where its API does not answer."""
    try:
        own = Api(member.rest).view().member(member.name)
    except MshareError:
        return None
    return own is not None and own.leads


def require_possible(member: Member) -> None:
    """Conflict or Unavailable, before anything is changed, where a restart would harm the cluster."""
    api = Api(member.rest)
    view = api.view()
    for reason in _obstacles(member, view, api.settings()):
        raise Conflict(
            f"member {member.name} of Patroni cluster {member.scope} may not be restarted now, because"
            f" {reason}; see `patronictl list`, and run this again when it is in order"
        )
    _require_others(member, api, view)


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
    """Have a leader hand over to a replica; the server that runs then. None for one that does not lead, and
    for one that is its cluster's only member."""
    api = Api(member.rest)
    view = api.view()
    own = view.member(member.name)
    if own is None or not own.leads or not view.others(member.name):
        return None
    api.switch_over(member.name)
    lag_bytes = api.settings().lag_bytes
    _wait(
        lambda: _view(api, lambda view: view.follows(member.name, lag_bytes)),
        _FOLLOW_SECONDS,
        f"member {member.name} handed over, and does not follow the new leader",
    )
    return server.running(cluster)


def restart(cluster: Cluster, member: Member, before: Server, seconds: float) -> Server:
    """Start Patroni again, and with it PostgreSQL; the new server, once it is a member in order.

    MshareError where another member is down before, or this one does not come back within so many seconds.
    """
    api = Api(member.rest)
    view = api.view()
    _require_others(member, api, view)
    return _start_again(cluster, member, before, seconds, alone=not view.others(member.name))


def put_back(cluster: Cluster, member: Member, before: Server | None) -> Server:
    """The same for a member that does not work as it is: nobody else is waited for."""
    return _start_again(cluster, member, before, START_SECONDS, alone=False)


def _start_again(
    cluster: Cluster, member: Member, before: Server | None, seconds: float, *, alone: bool
) -> Server:
    api = Api(member.rest)
    position = server.log_position(cluster)
    systemd.systemctl("restart", member.unit)
    new: list[Server] = []

    def came_back() -> bool:
        running = server.running(cluster)
        if running is None or not running.ready or server.same(running, before):
            return False
        new[:] = [running]
        return True

    try:
        _wait(came_back, seconds, f"PostgreSQL did not come back after `systemctl restart {member.unit}`")
        lag_bytes = _lag_allowed_bytes(api)
        _wait(
            lambda: _in_order(api, member.name, lag_bytes, alone),
            _FOLLOW_SECONDS,
            f"member {member.name} runs again, and does not follow the leader",
        )
    except MshareError as error:
        log_text = server.log_since(cluster, position)
        raise MshareError(f"{error}; its log says: {log_text}" if log_text else str(error)) from None
    return new[0]


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
