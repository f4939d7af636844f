# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian roots for test machines: what making one takes, whether it ends as a folder or as a disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

SUITE = "bookworm"
# A machine's own apt profits from these too: it inherits them.
DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def cache_dir(kind: str) -> Path:
    """Where test machines of a kind keep what they are made from: outside the repository, for all clones."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dbmem-mshare" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_tree(folder: Path) -> None:
    """Never across a mount point: this may run as root."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--preserve-root=all", "--", folder], check=True)


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    for leftover in folder.glob("build-*/"):  # of a killed build; we hold the lock
        remove_tree(leftover)
    work = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    work.chmod(0o755)  # mmdebstrap's unshared user looks in
    try:
        yield work
    finally:
        remove_tree(work)


@contextlib.contextmanager
def exclusive(path: Path, report: Callable[[str], object] = log) -> Iterator[None]:
    """One at a time; who has to wait says for whom."""
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            report(f"waiting for process {lock.read() or 'unknown'} to let go of {path} ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def ensure_ssh_key(private: Path, comment: str) -> None:
    if not private.with_suffix(".pub").exists():
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(private)]
        subprocess.run(words, check=True)


def bootstrap(
    packages: Sequence[str],
    target: Path,
    options: Sequence[str],
    log_file: Path,
    mirror: str | None,
    suite: str = SUITE,
) -> None:
    """Run mmdebstrap; its options decide what the target is."""
    command = [
        *("mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"),
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        *(*options, suite, str(target)),
        *([mirror] if mirror else []),
    ]
    if os.geteuid() == 0:
        # As root mmdebstrap mounts into the new root: in namespaces that and its processes
        # vanish with it, whatever ends it.
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *namespaces, "--", *command]
    environment = {**os.environ, "TMPDIR": str(target.parent)}
    with log_file.open("wb") as output:
        built = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False)
    if built.returncode:
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{tail}\nmmdebstrap failed; all of it: {log_file}")
