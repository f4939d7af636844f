# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that keep a deployment running and bring it back after a reboot.

Templates are installed with the library (TEMPLATES); what belongs to one mount or one region is
written when that is made. Generated files carry no dates, so that the same wish gives the same file.
"""

from __future__ import annotations

import os
import subprocess

from . import abi, paths, state
from .errors import MshareError
from .spec import MountSpec, RegionSpec

UNIT_DIRECTORY = "/etc/systemd/system"
_HEAD = "# Managed by dbmem.mshare; changes made here are overwritten.\n"

# Regions wait for a target rather than for a mount: where msharefs is mounted is their spec's matter.
TEMPLATES = {
    "mshare-mounts.target": """\
[Unit]
Description=All msharefs mounts
""",
    "mshare-msharefs@.service": """\
[Unit]
Description=Layout and permissions of msharefs (%i)
Requires=%i.mount
After=%i.mount
Before=mshare-mounts.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} mount --spec /etc/mshare/mounts/%i.json

[Install]
WantedBy=mshare-mounts.target
""",
    "mshare-region@.service": """\
[Unit]
Description=Owner of mshare region %i
Wants=mshare-mounts.target
After=mshare-mounts.target

[Service]
Type=notify
ExecStart={program} own --spec /etc/mshare/regions/%i.json --replace-stale
Slice=mshare-%i.slice
OOMScoreAdjust=-900
Restart=on-failure
RestartSec=1
KillMode=mixed

[Install]
WantedBy=multi-user.target
""",
    "mshare-clients@.service": """\
[Unit]
Description=Clients of mshare region %i
Requires=mshare-region@%i.service
After=mshare-region@%i.service

[Service]
Type=notify
ExecStart={program} clients run --spec /etc/mshare/clients/%i.json
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
TasksMax=infinity

[Install]
WantedBy=multi-user.target
""",
}


def unit_path(name: str) -> str:
    return os.path.join(UNIT_DIRECTORY, name)


def templates(program: str) -> dict[str, str]:
    """Path -> text of the units that come with the library, which is run by a program."""
    return {unit_path(name): _HEAD + text.format(program=program) for name, text in TEMPLATES.items()}


def systemctl(*words: str) -> None:
    """Run systemctl; MshareError with what it said."""
    done = subprocess.run(
        ["systemctl", "--quiet", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout.strip() or f"exit code {done.returncode}"
        raise MshareError(f"`systemctl {' '.join(words)}` failed: {said}; see `journalctl -xe` on that host")


def ask(verb: str, unit: str) -> str:
    """The one word that is-active or is-enabled answers."""
    asked = subprocess.run(
        ["systemctl", verb, unit],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return asked.stdout.strip()


def _differ(files: dict[str, str]) -> bool:
    return any(state.read_text(path) != text for path, text in files.items())


def _write(files: dict[str, str]) -> None:
    for path, text in files.items():
        state.write_text(path, text)
    systemctl("daemon-reload")


def _remove(files: dict[str, str]) -> None:
    state.remove(*files)
    state.remove_empty(*(os.path.dirname(path) for path in files if path.endswith(".conf")))
    systemctl("daemon-reload")


# -- regions


def region_files(spec: RegionSpec) -> dict[str, str]:
    """The slice that limits and shows a region's memory, and what has to wait for the region."""
    limit = "" if spec.memory_max is None else f"MemoryMax={spec.memory_max}\n"
    before = "".join(f"Before={unit}\n" for unit in spec.before)
    return {
        unit_path(f"mshare-{spec.name}.slice"): (
            f"{_HEAD}[Unit]\nDescription=Memory of mshare region {spec.name}\n\n[Slice]\n{limit}"
        ),
        unit_path(f"mshare-region@{spec.name}.service.d/dbmem.conf"): f"{_HEAD}[Unit]\n{before}",
    }


def region_files_differ(spec: RegionSpec) -> bool:
    return _differ(region_files(spec))


def write_region_files(spec: RegionSpec) -> None:
    _write(region_files(spec))


def remove_region_files(name: str) -> None:
    """Remove a region's files; they have the same names whatever is in them."""
    _remove(region_files(RegionSpec(name, ())))


# -- mounts


def _mount_unit(root: str) -> str:
    return f"{paths.escape(root)}.mount"


def _mount_services(root: str) -> tuple[str, str]:
    return _mount_unit(root), f"mshare-msharefs@{paths.escape(root)}.service"


def mount_file(spec: MountSpec) -> dict[str, str]:
    """The mount unit of a root. Nothing at boot waits for it but regions: it cannot stop a boot."""
    kernel = spec.backend == "kernel"
    what, kind = (abi.FILESYSTEM, abi.FILESYSTEM) if kernel else (paths.SIMULATED_SOURCE, "tmpfs")
    options = "" if spec.size is None else f"Options=size={spec.size}\n"
    text = (
        f"{_HEAD}[Unit]\nDescription=msharefs ({spec.backend}) at"
        f" {spec.root}\nBefore=mshare-mounts.target\n\n"
        f"[Mount]\nWhat={what}\nWhere={spec.root}\nType={kind}\n{options}\n"
        "[Install]\nWantedBy=mshare-mounts.target\n"
    )
    return {unit_path(_mount_unit(spec.root)): text}


def mount_unit_differs(spec: MountSpec) -> bool:
    return _differ(mount_file(spec))


def write_mount_unit(spec: MountSpec) -> None:
    _write(mount_file(spec))


def mount_unit_exists(root: str) -> bool:
    return os.path.exists(unit_path(_mount_unit(root)))


def mount_enabled(root: str) -> bool:
    return all(ask("is-enabled", unit) == "enabled" for unit in _mount_services(root))


def enable_mount(root: str, enabled: bool) -> None:
    systemctl("enable" if enabled else "disable", *_mount_services(root))


def remove_mount_unit(root: str) -> None:
    """Disable and remove a root's units; the file system itself is left mounted."""
    enable_mount(root, False)
    state.remove(unit_path(_mount_unit(root)))
    systemctl("daemon-reload")
