# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk image all test VMs start from: made once, kept in the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUITE = "bookworm"
DISK_SIZE = "6G"
# No python3-cffi, python3-click, ...: installing those is the work of the roles under test. A compiler and a
# database are here, for the guest would take a quarter of an hour to unpack them.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "gcc",
    "initramfs-tools",
    "iproute2",
    "libc6-dev",
    "libpam-systemd",
    "linux-image-cloud-amd64",  # the same kernel without drivers for real hardware
    "lz4",
    "openssh-server",
    "postgresql-15",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
)
# The guest's own apt profits from these too: it inherits them.
DPKG_OPTIONS = (
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "dbmem-mshare" / "vm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_tree(folder: Path) -> None:
    """Never across a mount point: this may run as root."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--preserve-root=all", "--", folder], check=True)


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
        _ensure_ssh_key(image)
        if fresh or not image.is_current(mirror):
            _build(image, mirror)
    return image


def recipe_digest(image: Image, mirror: str | None) -> str:
    digest = hashlib.sha256(repr((SUITE, DISK_SIZE, PACKAGES, DPKG_OPTIONS, mirror)).encode())
    laid_over = sorted(path for path in (HERE / "root").rglob("*") if path.is_file())
    for path in (HERE / "customize.sh", *laid_over, image.ssh_public_key):
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _ensure_ssh_key(image: Image) -> None:
    if not image.ssh_public_key.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dbmem-mshare test VM"]
        subprocess.run([*command, "-f", image.ssh_key], check=True)


def _build(image: Image, mirror: str | None) -> None:
    with workspace(image.folder) as work:
        log("building the test VM's image (about a minute) ...")
        _bootstrap(image, mirror, work / "root.tar", scratch=work)
        _make_disk(work)
        image.recipe.unlink(missing_ok=True)
        # Renamed, not written over: a running VM keeps the old disk it has open.
        for made in (image.disk, image.kernel, image.initrd):
            os.replace(work / made.name, made)
        image.recipe.write_text(recipe_digest(image, mirror))
    log(f"built {image.disk}")


def _bootstrap(image: Image, mirror: str | None, tarball: Path, scratch: Path) -> None:
    lay_over = 'tar -C {} --owner=0 --group=0 --mode=u=rwX,go=rX -c . | tar -C "$1" -x'
    customize = f'sh {shlex.quote(str(HERE / "customize.sh"))} "$1" {{}}'
    command = [
        "mmdebstrap",
        "--variant=minbase",
        # Indexes stay in the image: the guest can install without an update first.
        "--skip=cleanup/apt/lists",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        "--essential-hook=" + lay_over.format(shlex.quote(str(HERE / "root"))),
        "--customize-hook=" + customize.format(shlex.quote(str(image.ssh_public_key))),
        SUITE,
        str(tarball),
        *([mirror] if mirror else []),
    ]
    if os.geteuid() == 0:
        # As root mmdebstrap mounts into the new root: in namespaces that and its processes
        # vanish with it, whatever ends it.
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *namespaces, "--", *command]
    log_file = image.folder / "build.log"
    with log_file.open("wb") as output:
        environment = {**os.environ, "TMPDIR": str(scratch)}
        built = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False)
    if built.returncode:
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{tail}\nmmdebstrap failed; all of it: {log_file}")


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
def exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def missing_tools() -> list[str]:
    tools = ["mmdebstrap", "mke2fs", "qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen"]
    if os.geteuid() != 0:
        tools += ["fakeroot", "newuidmap"]
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return [tool for tool in tools if not shutil.which(tool, path=path)]
