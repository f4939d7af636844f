# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that should stay in huge pages: collapsed now, and by a service of its own after each restart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .. import files, paths
from ..converge.outcome import (
    ABSENT,
    Boot,
    Outcome,
    Undo,
    chosen,
    one_at_a_time,
    other_version,
    remove_spec,
    spec_written,
)
from ..errors import Conflict, Unavailable
from ..services import status_file
from ..services.choose import current
from ..services.status_file import Unread
from ..services.supervisor import no_progress as no_start_progress
from . import collapse as collapsing
from . import service, target
from .collapse import Progress, Result, no_progress
from .service import FOLLOWER, ROOT, FollowerStatus
from .spec import KIND, FollowSpec, name_of, spec_file


@dataclass(frozen=True)
class ServiceFacts:
    """The service that keeps a server in huge pages."""

    target: str
    running: bool
    pid: int | None
    kept_by: str
    """systemd, or detached: a process of its own, which nobody starts after a reboot."""
    interval_seconds: float | None
    rate_bytes: int | None
    """None: it works at most a quarter of the time; 0: without a limit."""
    news: str | None
    """What came of its last collapse."""


@dataclass(frozen=True)
class Kept:
    """What was, or in a check run would be, done."""

    result: Result
    service: Outcome[ServiceFacts]

    @property
    def changed(self) -> bool:
        return self.result.changed or self.service.changed


def keep(
    spec: FollowSpec,
    program: Sequence[str],
    *,
    minimum_percent: int = 0,
    check: bool = False,
    progress: Progress = no_progress,
) -> Kept:
    """Put a server into huge pages now, and see to it that a service does so again after each restart.

    While the service runs as wanted, and `minimum_percent` of the memory in use is in huge pages, nothing
    is done: what the server touches later is the service's. `program` is the installed command line.
    Raises what stands in the way before anything is changed.
    """
    _require_root(spec.target)
    wanted = set_up(spec, program, check=True)
    result = collapsing.collapse(spec.target, check=True)
    small = 100 * result.after.huge_bytes < minimum_percent * result.after.used_bytes
    if wanted.changed or small:
        result = collapsing.collapse(spec.target, rate_bytes=spec.rate_bytes, check=check, progress=progress)
    else:
        result = replace(result, check=False, collapsed_bytes=0)
    return Kept(result, set_up(spec, program, check=check))


def set_up(spec: FollowSpec, program: Sequence[str], *, check: bool = False) -> Outcome[ServiceFacts]:
    """See to it that a service keeps a server in huge pages, whether or not that server runs now."""
    with one_at_a_time(check):
        keeper = current()
        status = _readable(spec.name)
        alive = isinstance(status, FollowerStatus) and status.alive
        running = status.spec if isinstance(status, FollowerStatus) and alive else None
        outdated = other_version(status.version) if isinstance(status, FollowerStatus) and alive else None
        path = spec_file(spec.target)
        boot = Boot.of(keeper, FOLLOWER, spec.name, None)
        replaced = running is not None and (running != spec or outdated is not None)
        write = files.read_text(path) != spec.to_json()
        what = f"the service that keeps {spec.target} in huge pages"
        actions = chosen(
            (
                (write, f"write {path}"),
                (replaced, f"stop {what}, which {outdated or 'was set up differently'}"),
                (running is None or replaced, f"start {what}"),
                boot.step(what),
            )
        )
        before = _side(path)
        with Undo() as undo:
            if actions and not check:
                undo.enter_context(spec_written(path, spec.to_json()))
                if replaced:
                    keeper.stop(FOLLOWER, spec.name, ROOT)
                if running is None or replaced:
                    argv = [*program, KIND, "--spec", path]
                    first = service.starting(spec)
                    keeper.start(FOLLOWER, spec.name, ROOT, argv, first, no_start_progress)
                    undo.add(lambda: keeper.stop(FOLLOWER, spec.name, ROOT))
                if boot.enabled != boot.wanted:
                    keeper.set_enabled(FOLLOWER, spec.name, boot.wanted)
                    undo.add(lambda: keeper.set_enabled(FOLLOWER, spec.name, boot.enabled))
            facts = _facts(spec.target, keeper.kind)
        after = {path: spec.to_json().split("\n")} if actions else before
        warnings = []
        if not keeper.survives_reboot:
            warnings.append(
                f"systemd does not run on this host, so nobody starts {what} after a reboot; run this again"
                " then"
            )
        return Outcome(bool(actions), actions, before, after, facts, boot.facts(), warnings=warnings)


def let_go(server: str, *, check: bool = False) -> Outcome[ServiceFacts]:
    """See to it that no service keeps a server in huge pages. Its memory stays as it is until a restart."""
    target.require_lasting(server)
    _require_root(server)
    with one_at_a_time(check):
        keeper, name, path = current(), name_of(server), spec_file(server)
        status = _readable(name)
        enabled = keeper.enabled(FOLLOWER, name)
        alive = status is not None and status.alive
        what = f"the service that keeps {server} in huge pages"
        actions = chosen(
            (
                (alive, f"stop {what}"),
                (status is not None and not alive, f"forget {what}, which ended"),
                (files.left_at(path), f"remove {path}"),
                (enabled, f"disable {what} at boot"),
            )
        )
        before = _side(path)
        if actions and not check:
            if enabled:
                keeper.set_enabled(FOLLOWER, name, False)
            keeper.stop(FOLLOWER, name, ROOT)
            remove_spec(path)
            files.remove_empty(status_file.directory(ROOT))
        facts = _facts(server, keeper.kind)
        return Outcome(bool(actions), actions, before, {path: ABSENT}, facts, {"enabled": False})


def _require_root(server: str) -> None:
    if not paths.is_root():
        raise Unavailable(
            f"keeping {server} in huge pages needs root and this is uid {os.geteuid()}; run as root (become:"
            " true)"
        )


def _readable(name: str) -> FollowerStatus | Unread | None:
    """Conflict for a service of another version of the library that cannot be read; a damaged file can be."""
    status = status_file.peek(ROOT, name, FOLLOWER)
    if isinstance(status, Unread) and status.state == "unknown" and status.alive:
        raise Conflict(status.reason)
    return status


def _side(path: str) -> Mapping[str, object]:
    text = files.read_text(path)
    return {path: ABSENT if text is None else text.split("\n")}


def _facts(server: str, kept_by: str) -> ServiceFacts:
    status = status_file.peek(ROOT, name_of(server), FOLLOWER)
    if not isinstance(status, FollowerStatus) or not status.alive:
        return ServiceFacts(server, False, None, kept_by, None, None, None)
    return ServiceFacts(
        server, True, status.pid, kept_by, status.interval_seconds, status.rate_bytes, status.news
    )
