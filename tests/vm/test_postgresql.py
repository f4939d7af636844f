# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL under a real systemd: onto a region that is mounted before it starts, and back."""

from __future__ import annotations

import pytest

from vm.guest import Guest

UNIT = "postgresql@15-main.service"
WANTED = {
    "mshare_postgresql_pages": "4k",
    "mshare_postgresql_restart_ok": True,
    "mshare_postgresql_probes": 2,
}
INSTALL_SECONDS = 900
DUMP = "su postgres -c 'cd / && pg_dumpall' | grep -v restrict | sha256sum"
FILES = "cd /etc/postgresql && find . -type f -exec sha256sum {} + -exec stat -c '%n %a %U' {} + | sort"
LIBRARY = "libmshare-preload.so"


@pytest.fixture(scope="module")
def database(guest: Guest) -> Guest:
    """The guest with PostgreSQL, and something in it. It takes longer than a command may: systemd does it."""
    install = "apt-get -qq update && apt-get -qq -y --no-install-recommends install postgresql-15"
    guest.do(
        "systemd-run --quiet --no-block --unit=install --property=Type=oneshot --remain-after-exit"
        f" --setenv=DEBIAN_FRONTEND=noninteractive sh -c '{install}'"
    )
    guest.eventually(
        lambda: installing(guest) in ("active", "failed"), "the installation of PostgreSQL", INSTALL_SECONDS
    )
    assert installing(guest) == "active", guest.journal("install")
    guest.do("su postgres -c 'cd / && pgbench -i -q -s 1'")
    return guest


def installing(guest: Guest) -> str:
    return guest.units("install")["install.service"]["ActiveState"]


def memory(guest: Guest) -> str:
    """The maps of the postmaster."""
    return guest.do("cat /proc/$(head -1 /var/lib/postgresql/15/main/postmaster.pid)/maps")


def test_there_and_back(database: Guest) -> None:
    files, dump = database.do(FILES), database.do(DUMP)

    database.playbook("postgresql", **WANTED)
    unit = database.units(UNIT)[UNIT]
    assert unit["ActiveState"] == "active"
    assert unit["DropInPaths"].endswith("/dbmem-mshare.conf")
    assert "mshare-mounts.target" in unit["After"].split()
    assert "mshare-mounts.target" in unit["Wants"].split()
    assert "/run/msharefs/preload." in memory(database)
    # Whoever restarts it, it starts there.
    database.do("systemctl restart postgresql")
    assert "/run/msharefs/preload." in memory(database)
    assert database.do(DUMP) == dump

    database.playbook("postgresql", mshare_postgresql_state="absent", mshare_postgresql_restart_ok=True)
    unit = database.units(UNIT)[UNIT]
    assert "DropInPaths" not in unit  # As systemctl shows what is empty.
    assert unit["ActiveState"] == "active"
    assert LIBRARY not in memory(database)
    assert database.do(FILES) == files
    assert database.do(DUMP) == dump
    assert database.do("getent group mshare").endswith(":")
