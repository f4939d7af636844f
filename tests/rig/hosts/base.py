# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian root that all test hosts stand on: made once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rig.vm.image import DPKG_OPTIONS, SUITE, exclusive, log, remove_tree, workspace

# What ssh and Ansible need, and nothing else: a host of ours has to be surveyed as bare as this.
PACKAGES = ("openssh-server", "python3")
# $1 is the new root. Host keys are made here, once: making them at each start would cost a second.
CUSTOMIZE = """
install -D -m 0600 {key} "$1/root/.ssh/authorized_keys"
rm -f "$1/etc/hostname" "$1/etc/resolv.conf"
"""


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dbmem-mshare" / "hosts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Base:
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def recipe(self) -> Path:
        """Written last: what the root was made from."""
        return self.folder / "recipe"

    @property
    def ssh_key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def ssh_public_key(self) -> Path:
        return self.folder / "id_ed25519.pub"


def ensure_base(mirror: str | None = None) -> Base:
    """Build the root if there is none, or it was made from other ingredients."""
    base = Base(cache_dir() / "base")
    base.folder.mkdir(exist_ok=True)
    with exclusive(base.folder / "lock"):
        _ensure_ssh_key(base)
        digest = _recipe_digest(base, mirror)
        if not base.recipe.exists() or base.recipe.read_text() != digest:
            _build(base, mirror)
            base.recipe.write_text(digest)
    return base


def missing_tools() -> list[str]:
    return [tool for tool in ("mmdebstrap", "ip", "nsenter", "ssh", "ssh-keygen") if not shutil.which(tool)]


def _recipe_digest(base: Base, mirror: str | None) -> str:
    ingredients = repr((SUITE, PACKAGES, DPKG_OPTIONS, CUSTOMIZE, mirror))
    return hashlib.sha256(ingredients.encode() + base.ssh_public_key.read_bytes()).hexdigest()


def _ensure_ssh_key(base: Base) -> None:
    if not base.ssh_public_key.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dbmem-mshare test hosts"]
        subprocess.run([*command, "-f", base.ssh_key], check=True)


def _build(base: Base, mirror: str | None) -> None:
    log("building the test hosts' root (about a minute) ...")
    base.recipe.unlink(missing_ok=True)
    with workspace(base.folder) as work:
        _bootstrap(base, mirror, work / "root")
        if base.root.exists():
            remove_tree(base.root)
        (work / "root").rename(base.root)
    log(f"built {base.root}")


def _bootstrap(base: Base, mirror: str | None, root: Path) -> None:
    # mmdebstrap mounts into the new root: in namespaces that and its processes vanish with it.
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    command = [
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        "--customize-hook=" + CUSTOMIZE.format(key=base.ssh_public_key),
        *(SUITE, str(root)),
        *([mirror] if mirror else []),
    ]
    log_file = base.folder / "build.log"
    with log_file.open("wb") as output:
        environment = {**os.environ, "TMPDIR": str(root.parent)}
        built = subprocess.run(
            [*namespaces, *command], stdout=output, stderr=output, env=environment, check=False
        )
    if built.returncode:
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{tail}\nmmdebstrap failed; all of it: {log_file}")
