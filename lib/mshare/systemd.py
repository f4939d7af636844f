# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that keep a deployment running and bring it back after a reboot.

Templates are installed with the library; what belongs to one mount or one region is
written when that is made. Generated files carry no dates, so that the same wish gives the same file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from glob import glob

from . import abi, paths, state
from .errors import MshareError
from .spec import MountSpec, RegionSpec

UNIT_DIRECTORY = "/etc/systemd/system"
_HEAD = "# Managed by dbmem.mshare; changes made here are overwritten.\n"

# Regions wait for a target rather than for a mount: where msharefs is mounted is their spec's matter.
#
# All that runs is below mshare.slice. What only prepares is not: stopping the slice would undo it.
_TEMPLATES = {
    "mshare-mounts.target": """\
[Unit]
Description=All msharefs mounts
""",
    # Bound to the mount: one that is unmounted by hand and mounted again needs its layout anew.
    "mshare-msharefs@.service": """\
[Unit]
Description=Layout and permissions of msharefs (%i)
BindsTo=%i.mount
After=%i.mount
Before=mshare-mounts.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} mount --spec /etc/mshare/mounts/%i.json
Slice=system.slice

[Install]
WantedBy=mshare-mounts.target
""",
    # Started again when it was killed, not when it refused (bad input, something missing, a conflict),
    # and not for ever. Taking 300 GiB apart takes its time.
    #
    # Its clients are stopped here, when it is stopped, and not by a dependency of theirs: each kind that
    # does that also stops or restarts them when an owner was killed. Their launcher has to say who died.
    # Hence after `systemctl restart` they are started here, if they are to be there at all.
    "mshare-region@.service": """\
[Unit]
Description=Owner of mshare region %i
Wants=mshare-mounts.target
After=mshare-mounts.target
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=notify
ExecStart={program} own --spec /etc/mshare/regions/%i.json --replace-stale
ExecStartPost=-sh -c 'systemctl --quiet is-enabled mshare-clients@%i.service && \
exec systemctl --no-block start mshare-clients@%i.service'
ExecStop=-systemctl --job-mode=fail stop mshare-clients@%i.service
Slice=mshare-%i.slice
OOMScoreAdjust=-900
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2 4 5
TimeoutStopSec=5min
KillMode=mixed

[Install]
WantedBy=multi-user.target
""",
    # One client that the kernel ends for want of memory is one dead client.
    "mshare-clients@.service": """\
[Unit]
Description=Clients of mshare region %i
Wants=mshare-region@%i.service
After=mshare-region@%i.service

[Service]
Type=notify
ExecStart={program} clients run --spec /etc/mshare/clients/%i.json
ExecReload=/bin/kill -HUP $MAINPID
Slice=mshare.slice
KillMode=mixed
OOMPolicy=continue
TasksMax=infinity

[Install]
WantedBy=multi-user.target
""",
}


def unit_path(name: str) -> str:
    return os.path.join(UNIT_DIRECTORY, name)


def templates(program: str) -> dict[str, str]:
    """Path -> text of the units that come with the library, which is run by a program."""
    return {unit_path(name): _HEAD + text.format(program=program) for name, text in _TEMPLATES.items()}


def stop_target() -> None:
    """Let go of the one unit of ours that would stay active when its file is gone."""
    ask("stop", "mshare-mounts.target")


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


def ask(*words: str) -> str:
    """What systemctl answers; nothing where it only complains."""
    asked = subprocess.run(
        ["systemctl", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return asked.stdout.strip()


# What a service's Result means, where systemctl's own words would not help.
_RESULTS = {
    "oom-kill": "the kernel ended it because it reached the memory limit of its slice (memory_max), or the"
    " host's memory was exhausted; raise the limit, or ask for less",
    "timeout": "it was not ready in time",
}


def failure(unit: str) -> str | None:
    """Why a service failed, if that is known better than by what systemctl says."""
    return _RESULTS.get(ask("show", "--value", "--property=Result", unit))


def _differ(files: dict[str, str]) -> bool:
    return any(state.read_text(path) != text for path, text in files.items())


def _write(files: dict[str, str]) -> None:
    for path, text in files.items():
        state.write_text(path, text)
    systemctl("daemon-reload")


def _remove(files: Iterable[str]) -> None:
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


@contextlib.contextmanager
def region_files_written(spec: RegionSpec) -> Iterator[None]:
    """Write a region's files; put back what was there if the block fails."""
    old_texts = {path: state.read_text(path) for path in region_files(spec)}
    _write(region_files(spec))
    try:
        yield
    except BaseException:
        old = {path: text for path, text in old_texts.items() if text is not None}
        if old:
            _write(old)
        else:
            remove_region_files(spec.name)
        raise


def remove_region_files(name: str) -> None:
    """Remove the files of a region that has ended (they have the same names whatever is in them), and its
    slice, which stays active otherwise; with the last region's slice the one above it."""
    _remove(region_files(RegionSpec(name, ())))
    ask("stop", f"mshare-{name}.slice")
    if not glob(unit_path("mshare-*.slice")):
        ask("stop", "mshare.slice")


def address_space_limit(name: str) -> tuple[int, str] | None:
    """The LimitAS of a region's owner in bytes, and where it is set; None without a limit."""
    unit = f"mshare-region@{name}.service"
    limit = ask("show", "--value", "--property=LimitAS", unit)
    where = f"LimitAS of {unit}, or DefaultLimitAS in /etc/systemd/system.conf"
    return (int(limit), where) if limit.isdigit() else None


# -- mounts


def _mount_unit(root: str) -> str:
    return f"{paths.escape(root)}.mount"


def _mount_services(root: str) -> tuple[str, str]:
    return _mount_unit(root), f"mshare-msharefs@{paths.escape(root)}.service"


def mount_file(spec: MountSpec) -> dict[str, str]:
    """The mount unit of a root. Nothing at boot waits for it but regions: it cannot stop a boot."""
    kernel = spec.backend == "kernel"
    what, kind = (abi.FILESYSTEM, abi.FILESYSTEM) if kernel else (paths.SIMULATED_SOURCE, "tmpfs")
    options = "" if kernel else f"Options={spec.tmpfs_options}\n"
    text = (
        f"{_HEAD}[Unit]\nDescription=msharefs ({spec.backend}) at"
        f" {spec.root}\nBefore=mshare-mounts.target\n\n"
        f"[Mount]\nWhat={what}\nWhere={spec.root}\nType={kind}\n{options}\n"
        "[Install]\nWantedBy=mshare-mounts.target\n"
    )
    return {unit_path(_mount_unit(spec.root)): text}


def mount_unit_differs(spec: MountSpec) -> bool:
    return _differ(mount_file(spec))


def mount_unit_exists(root: str) -> bool:
    return os.path.exists(unit_path(_mount_unit(root)))


def mount_enabled(root: str) -> bool:
    return ask("is-enabled", *_mount_services(root)).split() == ["enabled", "enabled"]


def disable_mount(root: str) -> None:
    systemctl("disable", *_mount_services(root))


def enable_mount(spec: MountSpec) -> None:
    """Write and enable the units of a root that is mounted, and have them active, as after a reboot."""
    mount_unit, service = _mount_services(spec.root)
    # With the reload systemd learns of the mount: it must not be made a second time.
    _write(mount_file(spec))
    systemctl("enable", mount_unit, service)
    # At boot it is the service itself that asks for this, so it cannot be waited for.
    systemctl("--no-block", "start", service, "mshare-mounts.target")


def remove_mount_unit(root: str) -> None:
    """Disable, end and remove the units of a root that is not mounted any more."""
    disable_mount(root)
    # It may still be on its way since the mount was made, and fail because that is gone.
    ask("stop", _mount_services(root)[1])
    ask("reset-failed", _mount_services(root)[1])
    _remove([unit_path(_mount_unit(root))])
