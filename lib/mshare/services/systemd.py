# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units that keep a deployment running and bring it back after a reboot.

Templates are installed with the library; what belongs to one mount or one region is
written when that is made. Generated files carry no dates, so that the same spec gives the same file.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence

from .. import paths
from ..errors import Unavailable
from ..files import read_text, remove, remove_empty, write_text
from ..host import commands
from . import status_file
from .detached import Detached
from .status_file import AnyRole, Role, S
from .supervisor import (
    START_SECONDS,
    Progress,
    Supervisor,
    start_failure,
    status_of,
    wait,
)

# By the name of a role.
UNITS = {
    "owner": "mshare-region@{name}.service",
    "clients": "mshare-clients@{name}.service",
    "collapse": "mshare-collapse@{name}.service",
}
UNIT_DIRECTORY = "/etc/systemd/system"
HEAD = "# Managed by dbmem.mshare; changes made here are overwritten.\n"
# Regions wait for a target rather than for a mount: where msharefs is mounted is their spec's matter.
#
# All that runs is below mshare.slice. What only prepares is not: stopping the slice would undo it.
_TEMPLATES = {
    "mshare-mounts.target": """\
[Unit]
Description=All msharefs mounts
""",
    # Bound to the mount: if it is unmounted by hand and mounted again, it needs a new layout.
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
    # does that also stops or restarts them when an owner was killed. Their launcher has to report which died.
    # Hence after `systemctl restart` they are started here, if they are to be there at all.
    #
    # An owner that the OOM killer ends is treated like one that anybody else kills: with OOMPolicy=kill no
    # ExecStop= runs, which would stop the clients, and its Result still says oom-kill. With `stop`, systemd's
    # own, the clients would be stopped and started again; with `continue` nobody could tell who killed it.
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
OOMPolicy=kill
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2 4 5
TimeoutStopSec=5min
KillMode=mixed

[Install]
WantedBy=multi-user.target
""",
    # A client that the kernel kills for lack of memory is just a dead client.
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
    # It looks for its server again and again, so it needs no order. What it does can always wait.
    "mshare-collapse@.service": """\
[Unit]
Description=Huge pages for the server of %i
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=notify
ExecStart={program} collapse --spec /etc/mshare/collapse/%i.json
Slice=mshare.slice
Nice=10
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=2 4 5

[Install]
WantedBy=multi-user.target
""",
}


def unit_path(name: str) -> str:
    return os.path.join(UNIT_DIRECTORY, name)


def unit_of(role: AnyRole, name: str) -> str:
    """The unit of a region's owner or clients."""
    return UNITS[role.name].format(name=paths.file_name(name))


def templates(program: str) -> dict[str, str]:
    """Path -> text of the units that come with the library, which is run by a program."""
    return {unit_path(name): HEAD + text.format(program=program) for name, text in _TEMPLATES.items()}


def stop_target() -> None:
    """Stop the only mshare unit that would stay active when its file is gone."""
    ask("stop", "mshare-mounts.target")


def systemctl(*words: str) -> None:
    """Run systemctl; MshareError with its message if it fails."""
    commands.run("systemctl", "--quiet", *words, next_step="see `journalctl -xe` on that host")


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
    """Why a service failed, if that is known in more detail than from systemctl."""
    return _RESULTS.get(ask("show", "--value", "--property=Result", unit))


def files_differ(files: dict[str, str]) -> bool:
    return any(read_text(path) != text for path, text in files.items())


def write_files(files: dict[str, str]) -> None:
    for path, text in files.items():
        write_text(path, text)
    systemctl("daemon-reload")


def remove_files(files: Iterable[str]) -> None:
    remove(*files)
    remove_empty(*(os.path.dirname(path) for path in files if path.endswith(".conf")))
    systemctl("daemon-reload")


class Systemd(Supervisor):
    """Template units, installed by the role dbmem.mshare.runtime."""

    kind = "systemd"
    survives_reboot = True

    def start(
        self, role: Role[S], name: str, root: str, argv: Sequence[str], first: S, progress: Progress
    ) -> S:
        # A process that stops it asks systemd, which knows what it is starting: `first` is not needed.
        # The unit's ExecStart runs the same program with the spec file of the same name.
        unit = unit_of(role, name)
        template = unit_path(unit_of(role, ""))
        if not os.path.exists(template):
            raise Unavailable(
                f"{template} is missing, so systemd cannot keep the {role} of {name}; install it with the"
                " role"
                " dbmem.mshare.runtime"
            )
        status_file.require_room(root)
        ask("reset-failed", unit)
        starting = subprocess.Popen(
            ["systemctl", "start", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def ended() -> bool:
            progress(status_of(role, name, root))
            return starting.poll() is not None

        try:
            wait(ended, START_SECONDS, f"starting {unit}", f"see `journalctl -u {unit}`")
            output = (starting.stdout.read() if starting.stdout else "").strip()
            status = status_of(role, name, root)
            if starting.returncode != 0 or status is None:
                failed = status_file.read(root, name, role)
                why = failure(unit) or output
                raise start_failure(failed, f"{unit} did not start: {why}; see `journalctl -u {unit}`")
            return status
        except BaseException:
            # Nothing half-done stays behind, and systemd does not try again.
            self.stop(role, name, root)
            raise

    def stop(self, role: Role[S], name: str, root: str) -> bool:
        unit = unit_of(role, name)
        status = status_file.peek(root, name, role)
        ran = status is not None and status.alive
        ask("stop", unit)
        ask("reset-failed", unit)
        Detached().stop(role, name, root)
        return ran

    def enabled(self, role: AnyRole, name: str) -> bool:
        return ask("is-enabled", unit_of(role, name)) == "enabled"

    def set_enabled(self, role: AnyRole, name: str, enabled: bool) -> None:
        systemctl("enable" if enabled else "disable", unit_of(role, name))

    def reload(self, role: Role[S], name: str, root: str) -> None:
        systemctl("reload", unit_of(role, name))
