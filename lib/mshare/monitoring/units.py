# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What surveys a host again and again: a timer, or a service that stays; a cron entry where systemd does not
run."""

from __future__ import annotations

import hashlib

from ..errors import InvalidRequest, Unavailable
from ..host import commands
from ..paths import SYSTEM_RUN_DIR
from ..services.systemd import HEAD, unit_path
from .spec import FOLDER, METRICS, USER, MonitoringSpec

SERVICE, TIMER = f"{USER}.service", f"{USER}.timer"
CRON_FOLDER = "/etc/cron.d"
CRON = f"{CRON_FOLDER}/{USER}"
_CRON_PROGRAMS = ("cron", "crond")
OUTPUT = f"{FOLDER}/{METRICS}"
SECONDS = 60
"""More than a survey takes, also on a host that is many times oversubscribed: quiet it is half a second."""
_MEMORY_MIB = 512
# sys_ptrace opens maps, environ, exe and cwd of other users' processes. dac_read_search opens pagemap, whose
# mode is 0400, and data directories (postmaster.pid, postgresql.auto.conf): without it no server has a port
# or a maximum, and nothing is known of what its segments cost.
_CAPABILITIES = ("sys_ptrace", "dac_read_search")
_ENVIRONMENT = f"MSHARE_CONFIG_DIR=/etc/mshare MSHARE_STATE_DIR={SYSTEM_RUN_DIR}/mshare"
# Where the first survey of a host begins is spread by its name, so that a fleet's disks are not busy at once.
_SPREAD_SECONDS = 20
_MINUTE_SECONDS, _HOUR_SECONDS = 60, 3600

_SANDBOX = f"""\
User={USER}
Group={USER}
UMask=0022
Environment={_ENVIRONMENT}
AmbientCapabilities={{capabilities}}
CapabilityBoundingSet={{capabilities}}
NoNewPrivileges=yes
MemoryMax={_MEMORY_MIB}M
TasksMax=8
Nice=10
IOSchedulingClass=idle
LimitNOFILE=16384
ProtectSystem=strict
ReadWritePaths={FOLDER}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""
_ONCE = """\
[Unit]
Description=Page table metrics of this host for Prometheus
Documentation=man:mshare-survey(1)

[Service]
Type=oneshot
ExecStart={command} --interval {seconds}
TimeoutStartSec={limit}
"""
_TIMER = """\
[Unit]
Description=Page table metrics of this host for Prometheus, every {seconds} s

[Timer]
OnBootSec=30
OnUnitActiveSec={seconds}
RandomizedDelaySec={spread}
AccuracySec=1

[Install]
WantedBy=timers.target
"""
# It is told after each survey that all is well; one that hangs is started again.
_RESIDENT = """\
[Unit]
Description=Page table metrics of this host for Prometheus, every {seconds} s
Documentation=man:mshare-survey(1)

[Service]
Type=notify
ExecStart={command} --watch {seconds}
TimeoutStartSec={limit}
WatchdogSec={watchdog}
Restart=on-failure
RestartSec={seconds}
"""
_INSTALL = "\n[Install]\nWantedBy=multi-user.target\n"


def systemd_files(spec: MonitoringSpec) -> dict[str, str]:
    """Path -> text of the units."""
    seconds = spec.interval_seconds
    values = {"command": _command(spec), "seconds": seconds, "limit": SECONDS}
    sandbox = _SANDBOX.format(capabilities=" ".join(f"CAP_{name.upper()}" for name in _CAPABILITIES))
    if spec.is_resident:
        head = _RESIDENT.format(**values, watchdog=4 * seconds + SECONDS)
        return {unit_path(SERVICE): HEAD + head + sandbox + _INSTALL}
    timer = _TIMER.format(**values, spread=max(1, seconds // 10))
    return {unit_path(SERVICE): HEAD + _ONCE.format(**values) + sandbox, unit_path(TIMER): HEAD + timer}


def cron_file(spec: MonitoringSpec, host: str) -> dict[str, str]:
    """Path -> text of the cron entry; InvalidRequest for an interval that cron has not."""
    seconds = spec.interval_seconds
    minutes = seconds // _MINUTE_SECONDS
    if seconds % _MINUTE_SECONDS or (seconds != _HOUR_SECONDS and 60 % minutes):
        raise InvalidRequest(
            f"without systemd cron repeats the survey, and cannot do that every {seconds} s; use whole"
            " minutes that divide an hour, like 60 or 300 seconds"
        )
    when = "0 * * * *" if seconds == _HOUR_SECONDS else f"*/{minutes} * * * *" if minutes > 1 else "* * * * *"
    wait = hashlib.sha256(host.encode(errors="surrogateescape")).digest()[0] % _SPREAD_SECONDS
    lines = [
        "SHELL=/bin/sh",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"{when} root sleep {wait}; exec {' '.join(bounded(spec))}",
    ]
    return {CRON: HEAD + "\n".join(lines) + "\n"}


def bounded(spec: MonitoringSpec) -> list[str]:
    """A survey as the user of its own, bounded in time and memory, where systemd does not do that."""
    capabilities = ",".join(["-all", *(f"+{name}" for name in _CAPABILITIES)])
    return [
        *("timeout", "--kill-after=5", str(SECONDS), "nice", "-n", "10", "ionice", "-c", "3"),
        *("prlimit", f"--as={_MEMORY_MIB << 20}", "--core=0"),
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}"),
        *("env", "-i", "LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin", *_ENVIRONMENT.split(" ")),
        *_command(spec).split(" "),
        *("--interval", str(spec.interval_seconds)),
    ]


def require_cron() -> None:
    """Unavailable where neither systemd nor cron could repeat a survey."""
    programs = (*_CRON_PROGRAMS, "setpriv", "prlimit", "ionice", "timeout")
    missing = [name for name in programs if commands.find(name) is None]
    if not set(_CRON_PROGRAMS) <= set(missing) and set(missing) <= set(_CRON_PROGRAMS):
        return
    lacking = ["cron"] if set(_CRON_PROGRAMS) <= set(missing) else []
    lacking += [name for name in missing if name not in _CRON_PROGRAMS]
    raise Unavailable(
        "systemd does not run on this host, and what would repeat the survey instead is missing:"
        f" {', '.join(lacking)}; install it"
    )


def _command(spec: MonitoringSpec) -> str:
    return f"{spec.program} survey --prometheus --output {OUTPUT}"
