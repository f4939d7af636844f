# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that should run, or should not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import files, paths
from ..backends import choose
from ..converge import processes
from ..converge.outcome import (
    ABSENT,
    Boot,
    Outcome,
    Undo,
    chosen,
    differing_keys,
    locate,
    locate_leftovers,
    other_version,
    outdated_warnings,
    present,
    remove_spec,
    spec_written,
)
from ..converge.request import Request
from ..errors import Conflict, MshareError
from ..info import inventory
from ..info.facts import ClientsFacts
from ..region.rules import region_name
from ..region.status import require_owner
from ..services import status_file, supervisor
from ..services.choose import current
from ..services.status_file import Unread
from ..services.supervisor import Progress, Supervisor, no_progress
from ..units import counted
from .spec import CLIENT_BYTES, ClientsSpec
from .status import CLIENTS, Kind, LauncherStatus, starting


@dataclass(frozen=True)
class ClientsPresent(Request[ClientsFacts]):
    """That the clients of a region run, as many and of the kind specified.

    Another number is started or ended among those that run; anything else that differs starts them
    anew. The dead are started again only with `restart_dead`; otherwise they are in the facts.
    Those of another version of the library go on, unless `restart_outdated`.
    """

    spec: ClientsSpec
    program: Sequence[str]
    restart_dead: bool = False
    restart_outdated: bool = False
    boot: bool | None = None
    progress: Progress = no_progress
    require_all: bool = False
    """Whether clients that died are an error."""

    @property
    def region(self) -> str:
        return self.spec.region

    def require(self) -> None:
        require_owner(self.region, choose.locate(self.spec.backend, self.spec.root).root)

    def converge(self, check: bool) -> Outcome[ClientsFacts]:
        root = locate(self.spec.backend, self.spec.root, check)
        if root is None:
            action = f"start {counted(self.spec.count, 'client')} of region {self.spec.region}"
            return Outcome(True, [action], ABSENT, present(self.spec))
        return self._converge(root, check)

    def _converge(self, root: str, check: bool) -> Outcome[ClientsFacts]:
        spec = self.spec
        name = spec.region
        keeper = current()
        # A launcher that is still starting, at boot or after an interrupted deployment, is not changed.
        if check:
            status = supervisor.status_of(CLIENTS, name, root)
        else:
            status = supervisor.settled(CLIENTS, name, root, self.progress)
        stored = status.spec if status is not None else None
        spec_path = paths.spec_file("clients", name)
        boot = Boot.of(keeper, CLIENTS, name, self.boot)
        different = differing_keys(spec, stored)
        # Clients whose owner has ended live, if at all, attached to nothing.
        orphaned = status is not None and not status.owner_alive
        outdated = other_version(status.version) if status is not None else None
        replace = outdated is not None and self.restart_outdated
        anew = status is not None and (orphaned or replace or different not in ([], ["count"]))
        dead = len(status.dead) if status is not None and self.restart_dead and not anew else 0
        resize = different == ["count"] and not anew
        start = status is None or anew
        starts = self._starts(status, start or resize or dead > 0, keeper.survives_reboot)
        processes.check([starts])
        write = files.read_text(spec_path) != spec.to_json()
        why = f"launcher {outdated}" if replace else f"{', '.join(different)} differ"
        why = "owner has ended" if orphaned else why
        actions = chosen(
            (
                (anew, f"stop the clients of region {name}, whose {why}"),
                (start, f"start {counted(spec.count, 'client')} of region {name}"),
                (resize, f"set the number of clients of region {name} to {spec.count:,}"),
                (dead > 0, f"start {counted(dead, 'dead client')} of region {name} again"),
                (write, f"write {spec_path}"),
                boot.step(f"the clients of region {name}"),
            )
        )
        with Undo() as undo:
            if actions and not check:
                if resize:
                    # After the specification was put back.
                    undo.add(lambda: _reload_if_alive(keeper, name, root))
                undo.enter_context(spec_written(spec_path, spec.to_json()))
                if anew:
                    keeper.stop(CLIENTS, name, root)
                if start:
                    argv = [*self.program, "clients", "run", "--spec", spec_path]
                    first = starting(name, root, spec.to_dict(), spec.count, spec.stride_bytes)
                    keeper.start(CLIENTS, name, root, argv, first, self.progress)
                    undo.add(lambda: keeper.stop(CLIENTS, name, root))
                elif status is not None and (resize or dead):
                    _reload(keeper, name, root, status.reloads, self.progress)
                if boot.enabled != boot.wanted:
                    keeper.set_enabled(CLIENTS, name, boot.wanted)
                    undo.add(lambda: keeper.set_enabled(CLIENTS, name, boot.enabled))
            facts = inventory.clients_facts(root, name)
        # The living ones stay: a client that died is reported, and no reason to end the others.
        if self.require_all and not check:
            _require_attached(facts)
        before = {"state": "present", **stored} if stored is not None else ABSENT
        after = present(spec) if actions else before
        left = outdated_warnings(
            f"the launcher of region {name}", None if anew else outdated, "restart_outdated"
        )
        return Outcome(
            bool(actions), actions, before, after, facts, boot.facts(), starts=starts, warnings=left
        )

    def _starts(self, status: LauncherStatus | None, changes: bool, supervised: bool) -> processes.Start:
        """What is started, if anything changes, beside or in the place of what runs."""
        running = 0 if status is None else 1 + len(status.pids)
        return processes.Start(
            region=self.region,
            clients=self.spec.count,
            processes=max(0, 1 + self.spec.count - running) if changes else 0,
            client_bytes=CLIENT_BYTES[self._kind(status)],
            launcher_pid=None if status is None else status.pid,
            supervised=supervised,
        )

    def _kind(self, status: LauncherStatus | None) -> Kind:
        """Of the clients: lean where that is not known yet, for those take the least."""
        if self.spec.command:
            return "program"
        known = None if status is None or status.client_kind == "program" else status.client_kind
        return known or "lean"


def _require_attached(facts: ClientsFacts | None) -> None:
    """MshareError, with the first reasons, where fewer clients are attached than there should be."""
    if facts is None or facts.requested is None or facts.attached == facts.requested:
        return
    reasons = [*facts.errors, *(dead.reason for dead in facts.dead)][:3]
    raise MshareError(
        f"{facts.attached} of {counted(facts.requested, 'client is', 'clients are')} attached to region"
        f" {facts.region};"
        f" {len(facts.dead)} died, and the first reasons are: {', '.join(reasons) or 'none'}; start dead"
        f" clients again with restart_dead: true (mshare_clients_restart_dead, `mshare clients restart`)"
    )


def _reload_if_alive(keeper: Supervisor, name: str, root: str) -> None:
    """Have a launcher go by its specification again; one that ended has none left to change."""
    status = supervisor.status_of(CLIENTS, name, root)
    if status is not None:
        _reload(keeper, name, root, status.reloads, no_progress)


def _reload(keeper: Supervisor, name: str, root: str, reloads: int, progress: Progress) -> None:
    keeper.reload(CLIENTS, name, root)

    def done() -> bool:
        status = supervisor.status_of(CLIENTS, name, root)
        if status is None:
            raise MshareError(
                f"the launcher of region {name} ended while it changed its clients; start it again"
            )
        progress(status)
        if status.reloads == reloads or status.state != "ready":
            return False
        if status.errors:
            raise MshareError(f"changing the clients of region {name} failed: {status.errors[0]}")
        return True

    what = f"changing the clients of region {name}"
    supervisor.wait(done, supervisor.START_SECONDS, what, "see `mshare clients status`")


def _readable(status: LauncherStatus | Unread | None) -> LauncherStatus | Unread | None:
    """Conflict for a launcher of another version of the library; a damaged status can be removed."""
    if isinstance(status, Unread) and status.state == "unknown" and status.alive:
        raise Conflict(status.reason)
    return status


def _spec(status: LauncherStatus | Unread) -> Mapping[str, object]:
    return {} if isinstance(status, Unread) else status.spec


@dataclass(frozen=True)
class ClientsAbsent(Request[ClientsFacts]):
    """That no clients of a region run and none come back."""

    name: str
    backend: str = "auto"
    root: str | None = None

    def __post_init__(self) -> None:
        region_name(self.name)

    @property
    def region(self) -> str:
        return self.name

    def converge(self, check: bool) -> Outcome[ClientsFacts]:
        region = self.name
        spec_path = paths.spec_file("clients", region)
        leftovers = locate_leftovers("clients", CLIENTS, region, self.backend, self.root)
        if leftovers is None:
            return Outcome(False, [], ABSENT, ABSENT)
        keeper = current()
        status = _readable(status_file.peek(leftovers, region, CLIENTS))
        enabled = keeper.enabled(CLIENTS, region)
        alive = status is not None and status.alive
        known = region in status_file.names_left(leftovers, CLIENTS)
        actions = chosen(
            (
                (alive, f"stop the clients of region {region}"),
                (known and not alive, f"forget the clients of region {region}, which ended"),
                (files.left_at(spec_path), f"remove {spec_path}"),
                (enabled, f"disable the clients of region {region} at boot"),
            )
        )
        if actions and not check:
            if enabled:
                keeper.set_enabled(CLIENTS, region, False)
            keeper.stop(CLIENTS, region, leftovers)
            remove_spec(spec_path)
        before = {"state": "present", **_spec(status)} if status is not None and alive else ABSENT
        return Outcome(bool(actions), actions, before, ABSENT, boot={"enabled": False})
