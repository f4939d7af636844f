# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ensures that an msharefs is mounted, or is not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from .. import files, paths
from ..backends import root as roots
from ..backends.choose import Choice, choose, locate
from ..clients.status import CLIENTS
from ..converge.outcome import (
    ABSENT,
    Outcome,
    Undo,
    chosen,
    one_at_a_time,
    present,
    remove_left_lock,
    remove_spec,
    specs_left,
)
from ..errors import Conflict, MshareError, Unavailable
from ..info import attached, inventory
from ..info.facts import MountFacts
from ..region.status import OWNER
from ..region.units import remove_region_files
from ..services import status_file
from ..services.choose import current
from ..units import format_size
from . import directories, msharefs, units
from .spec import MountSpec


def mount_present(spec: MountSpec, *, boot: bool | None = None, check: bool = False) -> Outcome[MountFacts]:
    """Ensure that msharefs is mounted with the given access, now and (systemd) after a reboot."""
    spec = msharefs.complete(spec)
    mount = _Mount(spec, boot)
    if mount.actions and not check:
        # No lock if there is nothing to do: when a region is started, systemd runs this first, while the
        # process that starts the region holds the lock.
        with one_at_a_time(check):
            return _Mount(spec, boot).converge()
    if not check:
        remove_left_lock()
    return mount.outcome()


class _Mount:
    """One msharefs: what exists, compared with what is requested."""

    def __init__(self, spec: MountSpec, boot_wanted: bool | None) -> None:
        self.spec = spec
        keeper = current()
        self.managed, self.why_no_reboot = keeper.survives_reboot, keeper.why_no_reboot
        if boot_wanted and not self.managed:
            raise Unavailable(
                f"the mount at {spec.root} cannot be made to survive a reboot: {self.why_no_reboot}; run"
                " `mshare mount` from this host's own init, or set boot: false"
            )
        self.boot = self.managed if boot_wanted is None else boot_wanted
        self.enabled = self.managed and units.mount_enabled(spec.root)
        self.seen = msharefs.observe(spec.root, [directory.name for directory in spec.directories])
        self.steps = msharefs.differences(spec, self.seen)
        self.inside = msharefs.directory_steps(spec, self.seen)
        msharefs.require_access(spec, self.seen)
        self.unit = self.boot and units.mount_unit_differs(spec)
        record = paths.spec_file("mounts", paths.escape(spec.root))
        self.actions = chosen(
            (
                (msharefs.group_missing(spec), f"create group {spec.group}"),
                ("mount" in self.steps, f"mount the {spec.backend} msharefs at {spec.root}"),
                (
                    "size" in self.steps,
                    f"give the tmpfs at {spec.root} room for {format_size(spec.size_bytes or 0)}",
                ),
                ("layout" in self.steps, f"lay out the simulated msharefs at {spec.root}"),
                ("access" in self.steps, f"set mode and group of {spec.root}"),
                *((True, str(step)) for step in self.inside),
                (files.read_text(record) != msharefs.record_text(spec), f"write {record}"),
                (self.unit, f"write the mount unit of {spec.root}"),
                (
                    self.enabled != self.boot,
                    f"{'enable' if self.boot else 'disable'} the mount of {spec.root} at boot",
                ),
            )
        )

    def converge(self) -> Outcome[MountFacts]:
        """Do what is to be done, and undo it if that fails, or the look at it does."""
        with Undo() as undo:
            undo.enter_context(msharefs.mounted(self.spec))
            enable = self.boot and ("mount" in self.steps or self.unit or not self.enabled)
            if enable or self.enabled != self.boot:
                undo.enter_context(units.restored_on_failure(self.spec.root))
            if enable:
                units.enable_mount(self.spec)
            elif self.enabled and not self.boot:
                units.disable_mount(self.spec.root)
            self._require_done()
            return self.outcome()

    def _require_done(self) -> None:
        seen = msharefs.observe(self.spec.root, [directory.name for directory in self.spec.directories])
        left = msharefs.differences(self.spec, seen)
        left += map(str, msharefs.directory_steps(self.spec, seen))
        if left:
            raise MshareError(
                f"{self.spec.root} was changed as requested, but still differed in {', '.join(left)}, so it"
                " was put back; something else may be changing it; run this again"
            )

    def outcome(self) -> Outcome[MountFacts]:
        root = self.spec.root
        before = _seen(self.seen)
        if self.spec.size_bytes is not None and self.seen.size_bytes is not None:
            before = {**before, "size": self.seen.size_bytes}
        after = _wanted(self.spec) if self.actions else before
        if self.inside:
            requested, seen = self.spec.directories, self.seen.directories
            if self.seen.backend is not None:
                before = {**before, "directories": directories.described(requested, seen, after=False)}
            after = {**after, "directories": directories.described(requested, seen, after=True)}
        return Outcome(
            bool(self.actions),
            self.actions,
            before,
            after,
            inventory.mount_facts(root) if os.path.isdir(root) else None,
            {"managed": self.managed, "enabled": self.boot, "reason": self.why_no_reboot},
        )


def _seen(seen: msharefs.MountSeen) -> Mapping[str, object]:
    if seen.backend is None:
        return ABSENT
    return {"state": "present", "root": seen.root, "backend": seen.backend, "mode": f"{seen.mode or 0:04o}"}


def _wanted(spec: MountSpec) -> Mapping[str, object]:
    whole = present(spec)
    return {key: whole[key] for key in ("state", "root", "backend", "mode", "size") if key in whole}


def result(choice: Choice, outcome: Outcome[MountFacts]) -> dict[str, object]:
    """What the command line answers and the module returns: the backend is that of the regions there."""
    choice = used(choice, outcome)
    choice = used(choice, outcome)
    return {
        **outcome.to_dict("mount"),
        "backend": choice.backend,
        "backend_reason": choice.reason,
        "root": choice.root,
    }


def used(choice: Choice, outcome: Outcome[MountFacts]) -> Choice:
    """What was asked for; for names of regions that the kernel's calls make, that."""
    facts = outcome.facts
    if facts is None or facts.backend in (None, choice.backend):
        return choice
    return locate("auto", choice.root)


def choose_absent(backend: str, root: str | None) -> Choice:
    """The backend and root of what should be absent; the host may no longer have the backend."""
    try:
        choice = choose(backend)
    except Unavailable:
        choice = Choice("kernel", paths.KERNEL_ROOT, "it should be absent")
    return choice._replace(root=root or choice.root)


def mount_absent(root: str, *, force: bool = False, check: bool = False) -> Outcome[MountFacts]:
    """Ensure that mshare has no msharefs at a root, now and after a reboot.

    Raises Conflict, naming who, while owners or clients live on it. With `force` its clients, owners and
    regions are ended first, whether their files can be read or not; programs that mshare did not start still
    are a Conflict, before anything is ended.
    """
    root = os.path.normpath(root)
    with one_at_a_time(check):
        seen = msharefs.observe(root)
        record = paths.spec_file("mounts", paths.escape(root))
        managed = current().survives_reboot
        unit = managed and units.mount_unit_exists(root)
        names = inventory.region_names(root) if force and msharefs.is_ours(seen) else []
        left = sorted(_left(root) - set(names)) if force else []
        actions = chosen(
            (
                *((force, f"end region {name}") for name in names),
                *((force, f"remove what is left of region {name}") for name in left),
                (msharefs.is_ours(seen), f"unmount {root}"),
                (files.left_at(record), f"remove {record}"),
                (unit, f"remove the mount unit of {root}"),
            )
        )
        warnings = []
        if msharefs.is_ours(seen):
            if force:
                _refuse_strangers(root, names)
            else:
                msharefs.refuse_in_use(root)
            warnings = _unread(root)
        if actions and not check:
            for name in (*names, *left):
                _end(root, name, unlink=name in names)
            if msharefs.is_ours(seen):
                # Somebody may have come meanwhile.
                msharefs.refuse_in_use(root)
            # In this order, so that a mount that cannot be unmounted keeps its units.
            msharefs.umount(root)
            if unit:
                units.remove_mount_unit(root)
        elif not check:
            # One that was killed after its last step, or at its first, may have left them.
            msharefs.forget(root)
    return Outcome(bool(actions), actions, _seen(seen), ABSENT, boot={"enabled": False}, warnings=warnings)


def _unread(root: str) -> list[str]:
    """What is to be warned of where a root has regions and not every process can be read."""
    windows_bytes = [
        inventory.region_facts(root, name).window_bytes or 0 for name in inventory.region_names(root)
    ]
    unread = attached.unread(min(windows_bytes)) if windows_bytes else None
    return [f"unmounting {root}: {unread}"] if unread else []


def _left(root: str) -> set[str]:
    """The regions of which something is left outside of the root, as by a process that was killed."""
    specs = specs_left("regions", root) | specs_left("clients", root)
    return specs | status_file.names_left(root, OWNER, CLIENTS)


def _refuse_strangers(root: str, names: Sequence[str]) -> None:
    """Conflict for programs that mshare did not start: they would lose their memory, and are never ended."""
    users = {name: attached.strangers(root, name) for name in names}
    listed = [f"region {name} ({attached.summary(each)})" for name, each in users.items() if each]
    if listed:
        raise Conflict(
            f"{root} is in use by programs that mshare did not start, and they would lose their memory:"
            f" {', '.join(listed)}; stop them first; nothing was changed"
        )


def _end(root: str, name: str, *, unlink: bool) -> None:
    """End a region with its clients and its owner, and have none of them come back.

    `unlink` also removes its name at the root, which has to be an msharefs of ours.
    """
    keeper = current()
    for role in (CLIENTS, OWNER):
        if keeper.enabled(role, name):
            keeper.set_enabled(role, name, False)
    keeper.stop(CLIENTS, name, root)
    keeper.stop(OWNER, name, root)
    if unlink:
        roots.unlink(root, name)
    if keeper.survives_reboot:
        remove_region_files(name)
    remove_spec(paths.spec_file("clients", name))
    remove_spec(paths.spec_file("regions", name))
