# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: prints its processes, mounts, files and groups, one line each, in order."""

from __future__ import annotations

import hashlib
import os
import stat

# What others leave: Ansible, groupadd, sudo, apt, mount.
LEFT = (
    "/root/.ansible",
    "/home/dba/.ansible",
    "/run/sudo",
    "/var/lib/sudo",
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
)
LEFT += ("/run/mount",)
LEFT += tuple("/etc/" + name for name in ("group-", "gshadow-", "passwd-", "shadow-", ".pwd.lock"))
NOT_FILES = ("/proc", "/sys", "/dev/pts")


def text(path):
    with open(path, "rb") as stream:
        return stream.read().decode(errors="replace")


def ancestors():
    pid = os.getpid()
    while pid:
        yield pid
        pid = int(text(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def processes():
    # The way in, and who else just comes in, are none of the host.
    mine = set(ancestors())
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        except OSError:
            continue
        if command and int(pid) not in mine and not command.startswith(("sshd:", "sshd-session:")):
            yield f"process {command}"


def mounts():
    for line in text("/proc/self/mountinfo").splitlines():
        before, __, after = line.partition(" - ")
        yield f"mount {before.split()[4]} {after.split()[0]}"


def content(path, found):
    if not stat.S_ISREG(found.st_mode):
        return os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
    # What packages brought, and memory, is known by its size; what a program may edit, by what is in it.
    if path.startswith(("/usr/lib", "/usr/share", "/usr/bin", "/usr/sbin", "/var", "/run", "/dev")):
        return str(found.st_size)
    return hashlib.sha256(text(path).encode()).hexdigest()


def files():
    for directory, folders, names in os.walk("/"):
        paths = [os.path.join(directory, name) for name in sorted(folders + names)]
        folders[:] = [name for name in folders if os.path.join(directory, name) not in NOT_FILES + LEFT]
        for path in paths:
            # Ansible's own, of a module that was killed.
            if (
                path in LEFT
                or path.startswith("/tmp/ansible_")
                or (path.startswith("/dev/") and not path.startswith("/dev/shm"))
            ):
                continue
            if "__pycache__" in path and path.startswith("/usr/lib"):
                continue
            try:
                found = os.lstat(path)
                yield f"file {path} {found.st_mode:o} {found.st_uid} {found.st_gid} {content(path, found)}"
            except OSError:
                continue


def groups():
    return (f"group {line}" for line in text("/etc/group").splitlines())


for kind in (processes, mounts, files, groups):
    for line in sorted(kind()):
        print(line)
