# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An msharefs that should be mounted, or should not."""

from __future__ import annotations

import os

from .. import inventory, mounts, paths, state, supervisor, systemd
from ..errors import Unavailable
from ..spec import MountSpec
from .base import ABSENT, Outcome, chosen, one_at_a_time, present


def mount_present(spec: MountSpec, *, boot: bool | None = None, check: bool = False) -> Outcome:
    """See to it that msharefs is mounted with the access specified, now and (systemd) after a reboot."""
    spec = mounts.complete(spec)
    with one_at_a_time(check):
        managed = supervisor.current().survives_reboot
        if boot and not managed:
            raise Unavailable(
                f"the mount at {spec.root} cannot be made to survive a reboot: systemd does not run on this"
                " host; run `mshare mount` from this host's own init, or set boot: false"
            )
        wanted = managed if boot is None else boot
        enabled = managed and systemd.mount_enabled(spec.root)
        seen = mounts.observe(spec.root)
        steps = mounts.differences(spec, seen)
        record = paths.spec_file("mounts", paths.escape(spec.root))
        unit = wanted and systemd.mount_unit_differs(spec)
        actions = chosen(
            (
                (mounts.group_missing(spec), f"create group {spec.group}"),
                ("mount" in steps, f"mount the {spec.backend} msharefs at {spec.root}"),
                ("layout" in steps, f"lay out the simulated msharefs at {spec.root}"),
                ("access" in steps, f"set mode and group of {spec.root}"),
                (state.read_text(record) != spec.to_json(), f"write {record}"),
                (unit, f"write the mount unit of {spec.root}"),
                (enabled != wanted, f"{'enable' if wanted else 'disable'} the mount of {spec.root} at boot"),
            )
        )
        if actions and not check:
            mounts.mount(spec)
            if unit:
                systemd.write_mount_unit(spec)
            if enabled != wanted:
                systemd.enable_mount(spec.root, wanted)
        reason = None if managed else "systemd does not run on this host"
        return Outcome(
            bool(actions),
            actions,
            _seen(seen),
            _wanted(spec) if actions else _seen(seen),
            inventory.mount_facts(spec.root) if os.path.isdir(spec.root) else {},
            {"managed": managed, "enabled": wanted, "reason": reason},
        )


def _seen(seen: mounts.MountSeen) -> dict[str, object]:
    if seen.backend is None:
        return ABSENT
    return {"state": "present", "root": seen.root, "backend": seen.backend, "mode": f"{seen.mode or 0:04o}"}


def _wanted(spec: MountSpec) -> dict[str, object]:
    whole = present(spec)
    return {key: whole[key] for key in ("state", "root", "backend", "mode")}


def mount_absent(root: str, *, check: bool = False) -> Outcome:
    """See to it that no msharefs of ours is at a root, now and after a reboot.

    Raises Conflict, naming who, while owners or clients live on it.
    """
    root = os.path.normpath(root)
    with one_at_a_time(check):
        seen = mounts.observe(root)
        record = paths.spec_file("mounts", paths.escape(root))
        managed = supervisor.current().survives_reboot
        unit = managed and systemd.mount_unit_exists(root)
        actions = chosen(
            (
                (mounts.is_ours(seen), f"unmount {root}"),
                (os.path.exists(record), f"remove {record}"),
                (unit, f"remove the mount unit of {root}"),
            )
        )
        if mounts.is_ours(seen):
            mounts.refuse_in_use(root)
        if actions and not check:
            if unit:
                systemd.remove_mount_unit(root)
            mounts.umount(root)
    return Outcome(bool(actions), actions, _seen(seen), ABSENT, boot={"enabled": False})
