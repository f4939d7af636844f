# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian roots that test hosts stand on: made once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from rig import debian
from rig.debian import DPKG_OPTIONS, SUITE, exclusive, log, remove_tree, workspace

# $1 is the new root. Host keys are made here, once: making them at each start would cost a second.
_CUSTOMIZE = """
install -D -m 0600 {key} "$1/root/.ssh/authorized_keys"
rm -f "$1/etc/hostname" "$1/etc/resolv.conf"
"""
# An ordinary user who may become root; a locale that is neither C nor UTF-8. What the library needs lies in
# apt's cache, so that a host from which it was removed can install it without a network.
_CUSTOMIZE_LIBRARY = """
chroot "$1" useradd --create-home --shell /bin/sh --password '*' dba
install -D -m 0644 {key} "$1/home/dba/.ssh/authorized_keys"
echo 'dba ALL=(ALL) NOPASSWD: ALL' >"$1/etc/sudoers.d/dba"
chroot "$1" localedef -i de_DE -f ISO-8859-1 de_DE
chroot "$1" apt-get -qq -y --reinstall --download-only install {library}
"""
_LIBRARY = (
    "python3-cffi",
    "python3-cffi-backend",
    "python3-click",
    "python3-psutil",
    "python3-rich",
    "python3-yaml",
)


@dataclass(frozen=True)
class Kind:
    """What hosts have."""

    name: str
    packages: tuple[str, ...]
    customize: str
    options: tuple[str, ...] = ()
    suite: str = SUITE
    has_systemd: bool = False
    """Whether the first process of a host is systemd, in a control group of its own; otherwise it is sshd."""


# What ssh and Ansible need, and nothing else: a host of ours has to be surveyed as bare as this.
BARE = Kind("base", ("openssh-server", "python3"), _CUSTOMIZE)
# What a host has on which the library runs.
LIBRARY = Kind(
    "library",
    ("locales", "openssh-server", "python3", "python3-apt", "sudo", *_LIBRARY),
    _CUSTOMIZE_LIBRARY.replace("{library}", " ".join(_LIBRARY)) + _CUSTOMIZE,
    ("--skip=cleanup/apt",),
)

# A Debian as its installer leaves it, with nothing that this project needs. What its documentation has users
# install is in apt's cache, so that the hosts need no network; and a PostgreSQL, and what builds the preload.
_TYPED = " ".join(("gcc", "git", "libc6-dev", "make", "postgresql", "python3-apt", "python3-venv", *_LIBRARY))


def fresh(suite: str) -> Kind:
    """A host on which a newcomer begins; `suite` is Debian's name of the release."""
    cached = (
        f'\nchroot "$1" apt-get -qq -y -o APT::Install-Recommends=true --download-only install {_TYPED}\n'
    )
    return Kind(
        f"fresh-{suite}",
        ("ca-certificates", "openssh-server", "python3"),
        cached + _CUSTOMIZE,
        ("--skip=cleanup/apt",),
        suite,
    )


# What reaches beyond a host of namespaces, or waits for hardware that it has not.
_MASKED = (
    *("getty.target", "console-getty.service", "systemd-modules-load.service", "systemd-sysctl.service"),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-udevd.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
)
_CUSTOMIZE_SYSTEMD = "".join(f'ln -s /dev/null "$1/etc/systemd/system/{unit}"\n' for unit in _MASKED)
# Hosts with a systemd, and Debian's PostgreSQL on them with what may manage it; nothing of it is configured,
# and there is no compiler.
PATRONI = Kind(
    "managed",
    (
        *("openssh-server", "procps", "python3", "python3-apt", "systemd", "systemd-sysv", *_LIBRARY),
        *("etcd-client", "etcd-server", "patroni", "postgresql-17", "python3-etcd", "python3-psycopg2"),
        *("libjemalloc2", "supervisor"),
    ),
    _CUSTOMIZE_SYSTEMD
    + 'systemctl --root="$1" disable --quiet etcd postgresql patroni supervisor\n'
    + _CUSTOMIZE,
    (
        "--essential-hook=mkdir -p $1/etc/postgresql-common"
        " && echo create_main_cluster=false >$1/etc/postgresql-common/createcluster.conf",
    ),
    "trixie",
    has_systemd=True,
)

# A host with a systemd and a PostgreSQL. What docs/monitoring.md has a reader install is in apt's cache.
_MONITORED = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
# The root of a host is a chroot, in which the kernel refuses user namespaces.
_WITHOUT_USER_NAMESPACE = """
mkdir -p "$1/etc/systemd/system/prometheus.service.d"
printf '[Service]\\nPrivateUsers=no\\n' >"$1/etc/systemd/system/prometheus.service.d/chroot.conf"
"""
MONITORING = Kind(
    "monitoring",
    (
        *("openssh-server", "procps", "python3", "python3-apt", "systemd", "systemd-sysv", *_LIBRARY),
        *("curl", "postgresql-15"),
    ),
    _CUSTOMIZE_SYSTEMD
    + _WITHOUT_USER_NAMESPACE
    + 'systemctl --root="$1" disable --quiet postgresql\n'
    + 'chroot "$1" apt-get -qq -y --no-install-recommends --download-only install '
    + " ".join(_MONITORED)
    + "\n"
    + _CUSTOMIZE,
    (
        "--skip=cleanup/apt",
        "--essential-hook=mkdir -p $1/etc/postgresql-common"
        " && echo create_main_cluster=false >$1/etc/postgresql-common/createcluster.conf",
    ),
    has_systemd=True,
)


def cache_dir() -> Path:
    return debian.cache_dir("hosts")


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


def ssh_key() -> Path:
    """The key with which all hosts are reached."""
    return cache_dir() / "base" / "id_ed25519"


def ensure_base(kind: Kind = BARE, mirror: str | None = None) -> Base:
    """Build the root if there is none, or it was made from other ingredients."""
    _ensure_ssh_key()
    base = Base(cache_dir() / kind.name)
    base.folder.mkdir(exist_ok=True)
    with exclusive(base.folder / "lock"):
        digest = _recipe_digest(kind, mirror)
        if not base.recipe.exists() or base.recipe.read_text() != digest:
            _build(base, kind, mirror)
            base.recipe.write_text(digest)
    return base


def missing_tools() -> list[str]:
    return [tool for tool in ("mmdebstrap", "ip", "nsenter", "ssh", "ssh-keygen") if not shutil.which(tool)]


def _ensure_ssh_key() -> None:
    ssh_key().parent.mkdir(exist_ok=True)
    with exclusive(ssh_key().parent / "lock"):
        debian.ensure_ssh_key(ssh_key(), "dbmem-mshare test hosts")


def _recipe_digest(kind: Kind, mirror: str | None) -> str:
    ingredients = repr((kind.suite, kind.packages, DPKG_OPTIONS, kind.customize, *kind.options, mirror))
    return hashlib.sha256(ingredients.encode() + ssh_key().with_suffix(".pub").read_bytes()).hexdigest()


def _build(base: Base, kind: Kind, mirror: str | None) -> None:
    log(f"building the test hosts' root {base.folder.name!r} (about a minute) ...")
    base.recipe.unlink(missing_ok=True)
    hook = kind.customize.format(key=ssh_key().with_suffix(".pub"))
    options = ["--mode=root", "--format=directory", *kind.options, f"--customize-hook={hook}"]
    with workspace(base.folder) as work:
        debian.bootstrap(kind.packages, work / "root", options, base.folder / "build.log", mirror, kind.suite)
        if base.root.exists():
            remove_tree(base.root)
        (work / "root").rename(base.root)
    log(f"built {base.root}")
