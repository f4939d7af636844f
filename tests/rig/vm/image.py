# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk image all test VMs start from: made once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rig import debian
from rig.debian import DPKG_OPTIONS, SUITE, exclusive, log, workspace

HERE = Path(__file__).resolve().parent
DISK_SIZE = "6G"
# Not PostgreSQL, which a play installs: that is downloaded only. What takes long to unpack or set up is here
# already: a compiler, and what the library imports, whose installation the ssh hosts have under test.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "gcc",
    "initramfs-tools",
    "iproute2",
    "libc6-dev",
    "libldap-2.5-0",
    "libllvm14",
    "libpam-systemd",
    "libxslt1.1",
    "linux-image-cloud-amd64",  # the same kernel without drivers for real hardware
    "locales",
    "lz4",
    "openssh-server",
    "postgresql-client-15",
    "postgresql-common",
    "procps",
    "python3",
    "python3-apt",
    "python3-cffi",
    "python3-click",
    "python3-psutil",
    "python3-rich",
    "python3-yaml",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
)
DOWNLOADED = ("postgresql-15",)


def cache_dir() -> Path:
    return debian.cache_dir("vm")


@dataclass(frozen=True)
class Image:
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.img"

    @property
    def recipe(self) -> Path:
        """Written last: what the image was made from."""
        return self.folder / "recipe"

    @property
    def ssh_key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def ssh_public_key(self) -> Path:
        return self.folder / "id_ed25519.pub"

    def is_current(self, mirror: str | None) -> bool:
        return self.recipe.exists() and self.recipe.read_text() == recipe_digest(self, mirror)


def ensure_image(mirror: str | None = None, fresh: bool = False) -> Image:
    """Build the image if there is none, or it was made from other ingredients."""
    image = Image(cache_dir() / "image")
    image.folder.mkdir(exist_ok=True)
    with exclusive(image.folder / "lock"):
        debian.ensure_ssh_key(image.ssh_key, "dbmem-mshare test VM")
        if fresh or not image.is_current(mirror):
            _build(image, mirror)
    return image


def recipe_digest(image: Image, mirror: str | None) -> str:
    digest = hashlib.sha256(repr((SUITE, DISK_SIZE, PACKAGES, DOWNLOADED, DPKG_OPTIONS, mirror)).encode())
    laid_over = sorted(path for path in (HERE / "root").rglob("*") if path.is_file())
    for path in (HERE / "customize.sh", *laid_over, image.ssh_public_key):
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _build(image: Image, mirror: str | None) -> None:
    with workspace(image.folder) as work:
        log("building the test VM's image (about a minute) ...")
        _bootstrap(image, mirror, work / "root.tar")
        _make_disk(work)
        image.recipe.unlink(missing_ok=True)
        # Renamed, not written over: a running VM keeps the old disk it has open.
        for made in (image.disk, image.kernel, image.initrd):
            os.replace(work / made.name, made)
        image.recipe.write_text(recipe_digest(image, mirror))
    log(f"built {image.disk}")


def _bootstrap(image: Image, mirror: str | None, tarball: Path) -> None:
    lay_over = 'tar -C {} --owner=0 --group=0 --mode=u=rwX,go=rX -c . | tar -C "$1" -x'
    customize = f'sh {shlex.quote(str(HERE / "customize.sh"))} "$1" {{}} {" ".join(DOWNLOADED)}'
    options = [
        # Indexes stay in the image: the guest can install without an update first.
        "--skip=cleanup/apt/lists",
        "--skip=cleanup/apt/cache",
        "--essential-hook=" + lay_over.format(shlex.quote(str(HERE / "root"))),
        "--customize-hook=" + customize.format(shlex.quote(str(image.ssh_public_key))),
    ]
    debian.bootstrap(PACKAGES, tarball, options, image.folder / "build.log", mirror)


def _make_disk(work: Path) -> None:
    """Fill an ext4 image from a folder, so that nothing is ever mounted."""
    script = f"""
        set -eu
        mkdir root
        tar -C root --numeric-owner -xpf root.tar
        cp root/boot/vmlinuz-* vmlinuz
        cp root/boot/initrd.img-* initrd.img
        mke2fs -q -t ext4 -L root -d root root.ext4 {DISK_SIZE}
    """
    # An ordinary user owns no root-owned files; fakeroot tells mke2fs the story.
    prefix = [] if os.geteuid() == 0 else ["fakeroot", "--"]
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    # Our own stdout carries nothing but the answer.
    subprocess.run([*prefix, "sh", "-c", script], cwd=work, env=environment, stdout=sys.stderr, check=True)


def missing_tools() -> list[str]:
    tools = ["mmdebstrap", "mke2fs", "qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen"]
    if os.geteuid() != 0:
        tools += ["fakeroot", "newuidmap"]
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return [tool for tool in tools if not shutil.which(tool, path=path)]
