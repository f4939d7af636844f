# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What sets huge pages at the next boot: two files of ours, and for pages of 1 GiB the kernel's command line.

The pool of the default size is a sysctl. Other sizes and single NUMA nodes have no sysctl: systemd-tmpfiles
writes them. Pages of 1 GiB are found only while memory is still in one piece; the command line is the
administrator's, who is told what to add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Conflict
from ..host.huge_pages import nr_file
from ..host.limits import Host
from ..services.systemd import HEAD
from ..units import GIB, counted
from . import elsewhere
from .kernel import TRANSPARENT
from .need import Target
from .setting import COMMAND_LINE, DEFAULT_POOL, SHM_GROUP, Setting
from .spec import pool_text

SYSCTL_FILE = "/etc/sysctl.d/60-mshare-huge-pages.conf"
TMPFILES_FILE = "/etc/tmpfiles.d/60-mshare-huge-pages.conf"
FILES = (SYSCTL_FILE, TMPFILES_FILE)
# What applies sysctl.d at boot without systemd.
_SYSCTL_SCRIPTS = ("/etc/init.d/procps", "/etc/init.d/sysctl")


@dataclass(frozen=True)
class Wanted:
    """What is to be set at boot."""

    targets: tuple[Target, ...]
    shm_group: int | None
    transparent: str | None
    default_bytes: int | None
    """The page size that vm.nr_hugepages counts in."""


@dataclass(frozen=True)
class Boot:
    """What is wanted at the next boot."""

    files: dict[str, str]
    """Path -> text."""
    command_line: str
    """What has to be on the kernel's command line and is not; empty if nothing is missing."""
    reasons: tuple[str, ...]
    """Why it does not all take effect by itself."""


def boot(host: Host, wanted: Wanted) -> Boot:
    """The files, and what they cannot do."""
    sysctl, tmpfiles, large = [], [], []
    for target in wanted.targets:
        if target.page_bytes >= GIB:
            large.append(target)
        elif target.page_bytes == wanted.default_bytes and target.node is None:
            sysctl.append(f"{DEFAULT_POOL} = {target.wanted}")
        else:
            tmpfiles.append(f"w {nr_file(target.page_bytes, target.node)} - - - - {target.wanted}")
    if wanted.shm_group is not None:
        sysctl.append(f"{SHM_GROUP} = {wanted.shm_group}")
    if wanted.transparent is not None:
        tmpfiles.append(f"w {TRANSPARENT} - - - - {wanted.transparent}")
    files = {}
    if sysctl:
        files[SYSCTL_FILE] = HEAD + "".join(f"{line}\n" for line in sysctl)
    if tmpfiles:
        files[TMPFILES_FILE] = HEAD + "".join(f"{line}\n" for line in tmpfiles)
    command_line = _command_line(host, large)
    return Boot(files, command_line, tuple(_reasons(host, files, command_line)))


def _command_line(host: Host, large: list[Target]) -> str:
    """Words for the kernel's command line that it does not have yet."""
    present = {
        setting.what: setting.value
        for setting in elsewhere.settings(host, None)
        if setting.file == COMMAND_LINE
    }
    words = []
    for page_bytes in sorted({target.page_bytes for target in large}):
        wanted = [target for target in large if target.page_bytes == page_bytes]
        if all(_present(present, target) for target in wanted):
            continue
        counts = ",".join(
            str(target.wanted) if target.node is None else f"{target.node}:{target.wanted}"
            for target in wanted
        )
        words.append(f"hugepagesz={page_bytes // GIB}G hugepages={counts}")
    return " ".join(words)


def _present(present: dict[str, str], target: Target) -> bool:
    value = present.get(nr_file(target.page_bytes, target.node))
    return value == str(target.wanted) or (value is None and target.wanted == 0)


def _reasons(host: Host, files: dict[str, str], command_line: str) -> Iterator[str]:
    if SYSCTL_FILE in files and not (host.runs_systemd() or any(map(host.files, _SYSCTL_SCRIPTS))):
        yield f"nothing on this host applies {SYSCTL_FILE} at boot (no systemd, no script procps or sysctl)"
    if TMPFILES_FILE in files and not host.runs_systemd():
        yield f"nothing on this host applies {TMPFILES_FILE} at boot, because systemd does not run here"
    if command_line:
        yield (
            f"pages of 1 GiB are reserved on the kernel's command line; add `{command_line}` to it (GRUB:"
            " GRUB_CMDLINE_LINUX, then update-grub or grub2-mkconfig)"
        )


def require_alone(host: Host, wanted: Wanted) -> None:
    """Conflict where somebody else sets the same at boot, and not to the same value."""
    values: dict[str, str] = {}
    nodes: dict[str, Target] = {}
    for target in wanted.targets:
        if target.page_bytes >= GIB:
            # The command line is where it belongs; that it differs is told, not refused.
            continue
        default = target.page_bytes == wanted.default_bytes
        whole = DEFAULT_POOL if default else nr_file(target.page_bytes)
        if target.node is None:
            values[whole] = str(target.wanted)
        else:
            values[nr_file(target.page_bytes, target.node)] = str(target.wanted)
            # Whatever sets the pool of the host as a whole undoes what nodes are given.
            nodes[whole] = target
    if wanted.shm_group is not None:
        values[SHM_GROUP] = str(wanted.shm_group)
    if wanted.transparent is not None:
        values[TRANSPARENT] = wanted.transparent
    others = [
        setting
        for setting in elsewhere.settings(host, wanted.default_bytes, FILES)
        if setting.what in nodes or values.get(setting.what, setting.value) != setting.value
    ]
    if others:
        raise _conflict(others, values, nodes)


def _conflict(others: list[Setting], values: dict[str, str], nodes: dict[str, Target]) -> Conflict:
    last = others[-1]
    ours = TMPFILES_FILE
    if last.what in nodes:
        node = nodes[last.what]
        needed = f"{counted(node.wanted, 'page')} in the {pool_text(node.page_bytes, node.node)}"
    else:
        needed = f"{last.what} = {values[last.what]}"
        ours = SYSCTL_FILE if last.what in (DEFAULT_POOL, SHM_GROUP) else ours
    earlier = [setting.text for setting in others if elsewhere.is_earlier(setting, ours)]
    later = [setting.text for setting in others if not elsewhere.is_earlier(setting, ours)]
    order = ", then ".join([*earlier, f"{ours} (ours)", *later])
    return Conflict(
        f"{needed} is wanted at boot, and others set it as well, in this order of effect: {order}; the last"
        " one wins, and files of others are not changed here; remove the lines there, or run this with"
        " persist: false (--no-boot)"
    )
