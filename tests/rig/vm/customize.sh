#!/bin/sh
# Run by mmdebstrap when all packages are installed: customize.sh ROOT PUBLIC_KEY PACKAGE...
# The packages are not installed, only downloaded.
set -eu
root=$1
public_key=$2
shift 2

export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get --quiet clean
apt-get --quiet --yes --download-only --no-install-recommends install "$@"

install -D -m 0600 "$public_key" "$root/root/.ssh/authorized_keys"
# mmdebstrap copies the build host's name; the VM gets its own from the kernel command line.
rm -f "$root/etc/hostname"

chroot "$root" systemctl enable --quiet systemd-networkd.service ssh.service
# Nothing of this is under test, and each costs a part of a second of boot or disturbs a run.
chroot "$root" systemctl mask --quiet \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service \
    systemd-networkd-wait-online.service systemd-pstore.service \
    systemd-tmpfiles-clean.timer systemd-update-utmp.service systemd-update-utmp-runlevel.service
