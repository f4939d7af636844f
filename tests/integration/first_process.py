# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of a host for tests: sees to it that what is done there is done nowhere else.

Runs in a mount and a pid namespace of its own. /run and /dev/shm are empty there, and what is written to
/etc, /usr/local and /var/cache goes to memory. A deployment on the machine itself is out of sight, and so
is its systemd. When this process ends, which it does when its standard input is closed, the kernel ends
everything in the namespace, and the mounts go.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from glob import glob

# What is ours below each of the folders that an overlay covers.
OVERLAID = {
    "/etc": ("mshare", "systemd/system/*mshare*"),
    "/usr/local": ("bin/mshare", "lib/mshare"),
    "/var/cache": ("mshare",),
}
GROUP_FILES = ("/etc/group", "/etc/gshadow")


def mount(kind: str, where: str, *options: str) -> None:
    flags = ["-o", ",".join(options)] if options else []
    subprocess.run(["mount", "-t", kind, *flags, "host-for-tests", where], check=True)


def hide(path: str, above: str) -> None:
    """Have an overlay show nothing where the folder below it has something: a whiteout, as it calls that."""
    os.makedirs(os.path.dirname(above), exist_ok=True)
    os.mknod(above, stat.S_IFCHR, os.makedev(0, 0))


def overlay(path: str, scratch: str, ours: tuple[str, ...]) -> None:
    """Keep in memory what is written below a path; nothing is ever removed from what is below."""
    above, work = f"{scratch}/above{path}", f"{scratch}/work{path}"
    os.makedirs(above)
    os.makedirs(work)
    for pattern in ours:
        for found in glob(f"{path}/{pattern}"):
            hide(found, above + found[len(path) :])
    mount("overlay", path, f"lowerdir={path}", f"upperdir={above}", f"workdir={work}")


def forget_group(path: str) -> None:
    """Take our group out of a file that lies in memory."""
    with open(path, encoding="utf-8") as stream:
        kept = [line for line in stream if not line.startswith("mshare:")]
    with open(path, "w", encoding="utf-8") as stream:
        stream.writelines(kept)


def main(scratch: str) -> None:
    mount("tmpfs", scratch)
    for path, ours in OVERLAID.items():
        overlay(path, scratch, ours)
    for path in GROUP_FILES:
        forget_group(path)
    mount("tmpfs", "/run", "mode=0755")
    mount("tmpfs", "/dev/shm", "mode=1777")
    # Orphans come to the first process: the kernel clears them away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
