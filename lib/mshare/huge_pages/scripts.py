# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What shell commands set at boot: in rc.local, in cron, in units, and in the scripts that those run.

A line counts if it writes: `echo 64 > FILE`, `... | tee FILE`, `sysctl -w NAME=64`, `hugeadm`. What only
reads a setting, as a test of its value does, is passed over. A value may be a variable of the script: it is
then reported as it is written.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from ..host.huge_pages import nr_file
from ..host.limits import Host
from ..units import GIB, KIB, MIB
from .kernel import TRANSPARENT
from .setting import Setting, is_of_huge_pages

# An administrator's units count even if they are not enabled: they were written to be started.
_FILES = (
    "/etc/rc.local",
    "/etc/rc.d/rc.local",
    "/etc/crontab",
    "/etc/cron.d/*",
    "/var/spool/cron/root",
    "/var/spool/cron/crontabs/root",
    "/etc/systemd/system/*.service",
    "/etc/systemd/system/*.service.d/*.conf",
)
_PACKAGED_UNITS = ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
# Its script sets what /etc/dpdk/dpdk.conf says, which is read in its own place.
_READ_ELSEWHERE = ("dpdk.service",)
_ENABLED = ("/etc/systemd/system", *_PACKAGED_UNITS)
_INSTALL = re.compile(r"^\[Install\]", re.MULTILINE)
_PLACE = r"[\"']?(/proc/sys/vm/\w+|[\w./*${}-]+/nr_hugepages|/sys/kernel/mm/transparent_hugepage/enabled)\b"
_REDIRECTION = re.compile(rf"(?:>|\btee\s(?:\s*-\w+)*)\s*{_PLACE}")
_ECHO = re.compile(r"\b(?:echo|printf)\s+(?:-\w+\s+)*[\"']?([^\s\"'>|;&]+)")
_SYSCTL = re.compile(r"\b(vm[./](?:nr_hugepages(?:_mempolicy)?|hugetlb_shm_group))=[\"']?([^\s\"';&|]+)")
# libhugetlbfs: hugeadm --pool-pages-min 2MB:512, --thp-never.
_HUGEADM_POOL = re.compile(r"\bhugeadm\b.*?--pool-pages-min[\s=]+(\w+):([+-]?\w+)")
_HUGEADM_THP = re.compile(r"\bhugeadm\b.*?--thp-(always|madvise|never)\b")
_HUGEADM_SIZE = re.compile(r"([0-9]+)([KMG])B?\Z", re.IGNORECASE)
_BINARY = {"K": KIB, "M": MIB, "G": GIB}
_PATH = re.compile(r"(?<![\w.$}-])(/[\w./@+-]+)")
_SCRIPT_BYTES = 256 * KIB


def settings(host: Host, default_bytes: int | None) -> Iterator[Setting]:
    """Everything that scripts set at boot, and cron whenever it does."""
    for path in (path for pattern in _FILES for path in host.files(pattern)):
        yield from _of_file(host, path, default_bytes)
    for path in (path for folder in _PACKAGED_UNITS for path in host.files(f"{folder}/*.service")):
        name = os.path.basename(path)
        # Most set nothing, which takes less time to learn than whether they are started.
        is_passed = name in _READ_ELSEWHERE or host.files(f"/etc/systemd/system/{name}")
        made = [] if is_passed else [*_of_file(host, path, default_bytes)]
        if made and _is_started(host, name, host.read(path) or ""):
            yield from made


def _of_file(host: Host, path: str, default_bytes: int | None) -> Iterator[Setting]:
    """What a file sets, and the scripts that it runs."""
    text = host.read(path) or ""
    yield from of_text(path, text, default_bytes)
    for script in dict.fromkeys(_scripts(host, text)):
        yield from of_text(f"{script}, run by {path}", host.read(script) or "", default_bytes)


def _is_started(host: Host, name: str, text: str) -> bool:
    """Whether a unit is enabled; one without an [Install] section is started by something else."""
    if not _INSTALL.search(text):
        return True
    of_template = name.replace("@.", "@*.")
    links = [f"{folder}/*.{kind}/{of_template}" for folder in _ENABLED for kind in ("wants", "requires")]
    return any(map(host.files, links))


def _scripts(host: Host, text: str) -> Iterator[str]:
    """The scripts that lines of a text name by their paths."""
    for line in text.split("\n"):
        if line.lstrip().startswith("#"):
            continue
        for path in _PATH.findall(line):
            if _is_script(host.path(path)):
                yield path


def _is_script(path: str) -> bool:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SCRIPT_BYTES:
            return False
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def of_text(path: str, text: str, default_bytes: int | None) -> Iterator[Setting]:
    """What the commands of a text set."""
    for line in text.split("\n") if "huge" in text else ():
        if line.lstrip().startswith("#"):
            continue
        yield from _hugeadm(path, line, default_bytes)
        for name, value in _SYSCTL.findall(line):
            yield Setting(path, name.replace("/", "."), value)
        for match in _REDIRECTION.finditer(line):
            words = _ECHO.findall(line[: match.start()])
            if is_of_huge_pages(match[1]):
                yield Setting(path, match[1], words[-1] if words else "what a command prints")


def _hugeadm(path: str, line: str, default_bytes: int | None) -> Iterator[Setting]:
    for size, count in _HUGEADM_POOL.findall(line):
        match = _HUGEADM_SIZE.match(size)
        # Its units are binary: 2MB is 2 MiB.
        size_bytes = int(match[1]) * _BINARY[match[2].upper()] if match else default_bytes
        if size_bytes is not None:
            yield Setting(path, nr_file(size_bytes), count)
    for mode in _HUGEADM_THP.findall(line):
        yield Setting(path, TRANSPARENT, mode)
