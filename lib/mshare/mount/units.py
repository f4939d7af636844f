# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units of a mount."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .. import paths
from ..files import read_text
from ..kernel import abi
from ..services.systemd import HEAD, ask, files_differ, remove_files, systemctl, unit_path, write_files
from .spec import MountSpec


def _mount_unit(root: str) -> str:
    return f"{paths.escape(root)}.mount"


def _mount_services(root: str) -> tuple[str, str]:
    return _mount_unit(root), f"mshare-msharefs@{paths.escape(root)}.service"


def mount_file(spec: MountSpec) -> dict[str, str]:
    """The mount unit of a root. At boot only regions wait for it, so it cannot block the boot."""
    kernel = spec.backend == "kernel"
    what, kind = (abi.FILESYSTEM, abi.FILESYSTEM) if kernel else (paths.SIMULATED_SOURCE, "tmpfs")
    options = "" if kernel else f"Options={spec.tmpfs_options}\n"
    text = (
        f"{HEAD}[Unit]\nDescription=msharefs ({spec.backend}) at"
        f" {spec.root}\nBefore=mshare-mounts.target\n\n"
        f"[Mount]\nWhat={what}\nWhere={spec.root}\nType={kind}\n{options}\n"
        "[Install]\nWantedBy=mshare-mounts.target\n"
    )
    return {unit_path(_mount_unit(spec.root)): text}


def mount_unit_differs(spec: MountSpec) -> bool:
    return files_differ(mount_file(spec))


def mount_unit_exists(root: str) -> bool:
    return os.path.exists(unit_path(_mount_unit(root)))


def mount_enabled(root: str) -> bool:
    return ask("is-enabled", *_mount_services(root)).split() == ["enabled", "enabled"]


@contextlib.contextmanager
def restored_on_failure(root: str) -> Iterator[None]:
    """Have the units of a root as they were before, if the block fails."""
    path = unit_path(_mount_unit(root))
    old_text, enabled = read_text(path), mount_enabled(root)
    try:
        yield
    except BaseException:
        if old_text is not None:
            write_files({path: old_text})
            systemctl("enable" if enabled else "disable", *_mount_services(root))
        elif mount_unit_exists(root):
            remove_mount_unit(root)
        raise


def disable_mount(root: str) -> None:
    systemctl("disable", *_mount_services(root))


def enable_mount(spec: MountSpec) -> None:
    """Write, enable and start the units of a mounted root, as after a reboot."""
    mount_unit, service = _mount_services(spec.root)
    # After the reload systemd knows about the mount, and does not mount it again.
    write_files(mount_file(spec))
    systemctl("enable", mount_unit, service)
    # At boot the service itself runs this, so it must not wait for it.
    systemctl("--no-block", "start", service, "mshare-mounts.target")


def remove_mount_unit(root: str) -> None:
    """Disable, stop and remove the units of a root that is no longer mounted."""
    disable_mount(root)
    # It may still be starting since the mount, and would fail because the mount is gone.
    ask("stop", _mount_services(root)[1])
    ask("reset-failed", _mount_services(root)[1])
    remove_files([unit_path(_mount_unit(root))])
