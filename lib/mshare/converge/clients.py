# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that should run, or should not."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .. import inventory, paths, state, supervisor
from ..errors import MshareError
from ..rules import region_name
from ..spec import ClientsSpec
from ..supervisor import CLIENTS, Progress, Supervisor, no_progress
from .base import (
    ABSENT,
    Boot,
    Outcome,
    chosen,
    differing_keys,
    goes_on,
    locate,
    locate_leftovers,
    one_at_a_time,
    other_version,
    present,
    remove_spec,
    spec_written,
)


def clients_present(
    spec: ClientsSpec,
    program: Sequence[str],
    *,
    restart_dead: bool = False,
    restart_outdated: bool = False,
    boot: bool | None = None,
    check: bool = False,
    progress: Progress = no_progress,
) -> Outcome:
    """See to it that the clients of a region run, as many and of the kind specified.

    Another number is started or ended among those that run; anything else that differs starts them
    anew. The dead are started again only with `restart_dead`; otherwise they are in the facts.
    Those of another version of the library go on, unless `restart_outdated`.
    """
    with one_at_a_time(check):
        root = locate(spec.backend, spec.root, check)
        if root is None:
            action = f"start {spec.count} clients of region {spec.region}"
            return Outcome(True, [action], ABSENT, present(spec))
        return _present(spec, program, root, restart_dead, restart_outdated, boot, check, progress)


def _present(
    spec: ClientsSpec,
    program: Sequence[str],
    root: str,
    restart_dead: bool,
    restart_outdated: bool,
    boot_wanted: bool | None,
    check: bool,
    progress: Progress,
) -> Outcome:
    name = spec.region
    keeper = supervisor.current()
    status = supervisor.status_of(CLIENTS, name, root)
    stored = status["spec"] if status else None
    spec_path = paths.spec_file("clients", name)
    boot = Boot.of(keeper, CLIENTS, name, boot_wanted)
    different = differing_keys(spec, stored)
    # Clients whose owner has ended live, if at all, attached to nothing.
    orphaned = status is not None and not status["owner_alive"]
    outdated = other_version(status["version"]) if status else None
    replace = outdated is not None and restart_outdated
    anew = status is not None and (orphaned or replace or different not in ([], ["count"]))
    dead = len(status["dead"]) if status and restart_dead and not anew else 0
    resize = different == ["count"] and not anew
    start = status is None or anew
    write = state.read_text(spec_path) != spec.to_json()
    why = f"launcher {outdated}" if replace else f"{', '.join(different)} differ"
    why = "owner has ended" if orphaned else why
    actions = chosen(
        (
            (anew, f"stop the clients of region {name}, whose {why}"),
            (start, f"start {spec.count} clients of region {name}"),
            (resize, f"have {spec.count} clients of region {name}"),
            (dead > 0, f"start {dead} dead clients of region {name} again"),
            (write, f"write {spec_path}"),
            boot.step(f"the clients of region {name}"),
        )
    )
    if actions and not check:
        with spec_written(spec_path, spec):
            if anew:
                keeper.stop(CLIENTS, name, root)
            if start:
                argv = [*program, "clients", "run", "--spec", spec_path]
                keeper.start(CLIENTS, name, root, argv, progress)
            elif status is not None and (resize or dead):
                _reload(keeper, name, root, status["reloads"], progress)
        if boot.enabled != boot.wanted:
            keeper.set_enabled(CLIENTS, name, boot.wanted)
    if status is not None and not check:
        supervisor.wait_until_ready(CLIENTS, name, root, progress)
    before = {"state": "present", **stored} if stored else ABSENT
    facts = inventory.clients_facts(root, name) or {}
    after = present(spec) if actions else before
    left = goes_on(f"the launcher of region {name}", None if anew else outdated, "restart_outdated")
    return Outcome(bool(actions), actions, before, after, facts, boot.facts(), left)


def _reload(keeper: Supervisor, name: str, root: str, reloads: int, progress: Progress) -> None:
    keeper.reload(CLIENTS, name, root)

    def done() -> bool:
        status = supervisor.status_of(CLIENTS, name, root)
        if status is None:
            raise MshareError(
                f"the launcher of region {name} ended while it changed its clients; start it again"
            )
        progress(status)
        if status["reloads"] == reloads or status["state"] != "ready":
            return False
        if status["errors"]:
            raise MshareError(f"changing the clients of region {name} failed: {status['errors'][0]}")
        return True

    what = f"changing the clients of region {name}"
    supervisor.wait(done, supervisor.START_SECONDS, what, "see `mshare clients status`")


def clients_absent(
    region: str, *, backend: str = "auto", root: str | None = None, check: bool = False
) -> Outcome:
    """See to it that no clients of a region run and none come back."""
    region_name(region)
    spec_path = paths.spec_file("clients", region)
    with one_at_a_time(check):
        found = locate_leftovers("clients", CLIENTS, region, backend, root)
        if found is None:
            return Outcome(False, [], ABSENT, ABSENT)
        keeper = supervisor.current()
        status = state.read(state.file(found, region, CLIENTS))
        enabled = keeper.enabled(CLIENTS, region)
        alive = state.process_alive(status)
        actions = chosen(
            (
                (alive, f"stop the clients of region {region}"),
                (status is not None and not alive, f"forget the clients of region {region}, which ended"),
                (os.path.exists(spec_path), f"remove {spec_path}"),
                (enabled, f"disable the clients of region {region} at boot"),
            )
        )
        if actions and not check:
            if enabled:
                keeper.set_enabled(CLIENTS, region, False)
            keeper.stop(CLIENTS, region, found)
            remove_spec(spec_path)
        before = {"state": "present", **status["spec"]} if status and alive else ABSENT
        return Outcome(bool(actions), actions, before, ABSENT, boot={"enabled": False})
