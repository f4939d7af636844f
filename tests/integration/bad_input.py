# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules refuse: the task, the kind of the error, and what the sentence has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from integration.hosts import Task

INVALID, UNAVAILABLE, CONFLICT, FAILED = "invalid_request", "unavailable", "conflict", "failed"
ANSIBLE: str | None = None
"""Refused by Ansible itself, by the argument specification."""

AS_NOBODY = {
    "become": True,
    "become_user": "nobody",
    "become_method": "ansible.builtin.su",
    "become_flags": "-s /bin/sh",
    "environment": {"MSHARE_CONFIG_DIR": "/run/nobody/config", "MSHARE_STATE_DIR": "/run/nobody/state"},
}

# A check run refuses the same, though it starts no owner that would.
ANNOUNCED = {"check_mode": True}
MAY_NOT_READ = r"uid \d+ may not look into /run/msharefs, .*; run as root \(become: true\)"


@dataclass(frozen=True)
class Case:
    module: str
    fields: dict[str, Any]
    kind: str | None
    says: str
    """A regular expression."""
    keys: dict[str, Any]

    def task(self, name: str) -> Task:
        module = f"dbmem.mshare.mshare_{self.module}"
        return {"name": name, module: self.fields, "ignore_errors": True, **self.keys}


def case(module: str, kind: str | None, says: str, keys: dict[str, Any] | None = None, **fields: Any) -> Case:
    return Case(module, fields, kind, says, keys or {})


def region(kind: str | None, says: str, keys: dict[str, Any] | None = None, **fields: Any) -> Case:
    return case("region", kind, says, keys, **{"name": "bad", "size": "64MiB", **fields})


def mapped(
    says: str,
    *mappings: dict[str, Any],
    kind: str | None = INVALID,
    keys: dict[str, Any] | None = None,
    **fields: Any,
) -> Case:
    return case("region", kind, says, keys, name="bad", mappings=list(mappings), **fields)


def clients(kind: str | None, says: str, **fields: Any) -> Case:
    return case("clients", kind, says, **{"region": "sga", "count": 2, **fields})


NEVER_PROVISIONED = {
    "kernel where there is none": case(
        "mount", UNAVAILABLE, "backend kernel was requested, but kernel .* has no msharefs", backend="kernel"
    ),
    "mount point that is a file": case("mount", CONFLICT, "/run/file is a file", root="/run/file"),
    "mount point that is a symlink": case("mount", CONFLICT, "/run/link is a symlink", root="/run/link"),
    "mount point that is full": case(
        "mount", CONFLICT, "/run/full is in use: it is not empty", root="/run/full"
    ),
    "mount point of another mount": case(
        "mount", CONFLICT, "/run/taken is in use: it has tmpfs:other mounted on it", root="/run/taken"
    ),
    "mount point that is relative": case("mount", INVALID, "not an absolute path", root="not/absolute"),
    "mount of an unknown group": case(
        "mount", INVALID, "group 'nosuch', which does not exist", group="nosuch"
    ),
    "mount with a wrong mode": case("mount", INVALID, "'rwx' is not a file mode", mode="rwx"),
    "mount with a number for a mode": case("mount", INVALID, "mode 1777 is not text, and YAML", mode=1777),
    "mount with a wrong size": case("mount", INVALID, "size '300 gigs' is not a size", size="300 gigs"),
    "mount that is to survive": case("mount", UNAVAILABLE, "systemd does not run on this host", boot=True),
    "mount with an unknown key": case("mount", ANSIBLE, "Unsupported parameters.*colour", colour="red"),
    "mount of an unknown generation": case(
        "mount", ANSIBLE, "value of generation must be one of", generation="2026-01"
    ),
    "region without the library": region(UNAVAILABLE, "/usr/local/bin/mshare is missing on this host"),
    "clients without the library": clients(UNAVAILABLE, "/usr/local/bin/mshare is missing on this host"),
    "library for no interpreter": case(
        "runtime", UNAVAILABLE, "/no/python cannot be run", python="/no/python"
    ),
    "library without cffi": case(
        "runtime",
        UNAVAILABLE,
        "without-cffi/bin/python lacks cffi, .*; install python3-cffi",
        python="{{ python_without_cffi }}",
    ),
    "library as nobody": case(
        "runtime", UNAVAILABLE, r"may not write to /usr/local/lib; run as root \(become: true\)", AS_NOBODY
    ),
    "huge pages of an unknown number": case(
        "huge_pages",
        INVALID,
        "wanted 'many' is neither a number of pages nor a size",
        pages=[{"wanted": "many"}],
    ),
    "huge pages of an unknown size": case(
        "huge_pages",
        UNAVAILABLE,
        "this kernel has no huge pages of 8192 TiB; it has",
        pages=[{"size": "8PiB", "wanted": 1}],
    ),
    "huge pages above the RAM": case(
        "huge_pages", FAILED, "all pools of huge pages would take .* of RAM", pages=[{"wanted": "100TiB"}]
    ),
    "huge pages of a node that is not there": case(
        "huge_pages", UNAVAILABLE, "no NUMA node 4711 with huge pages", pages=[{"node": 4711, "wanted": 1}]
    ),
    "huge pages for an unknown instance": case(
        "huge_pages", INVALID, "instance 'nobody' is not on this host", pages=[{}], instances=["nobody"]
    ),
    "huge pages for an unknown group": case(
        "huge_pages", UNAVAILABLE, "this host has no group no-such-group", shm_group="no-such-group"
    ),
    "locked memory of a unit and a user": case(
        "huge_pages", ANSIBLE, "mutually exclusive", memlock=[{"unit": "a.service", "user": "root"}]
    ),
    "huge pages as nobody": case(
        "huge_pages",
        UNAVAILABLE,
        r"root only, and this is uid 65534; run as root \(become: true\)",
        AS_NOBODY,
        pages=[{"wanted": "1GiB"}],
    ),
    "savings of nothing": case("savings", UNAVAILABLE, "no msharefs is mounted", region="sga"),
}

PROVISIONED = {
    "name with a slash": region(INVALID, "region name 'a//b' cannot be used", name="a//b"),
    "name that climbs": region(INVALID, r"region name '\.\.' cannot be used", name=".."),
    "name that is empty": region(INVALID, "a region needs a name", name=""),
    "name of 300 characters": region(INVALID, "has 300 characters; at most 128", name="n" * 300),
    "name of the kernel's own file": region(INVALID, "cannot be used", name="mshare_info"),
    "no size": case("region", INVALID, "needs either a size, like 300GiB, or mappings", name="bad"),
    "size 0": region(INVALID, "must be greater than zero", size="0"),
    "size that is negative": region(INVALID, "'-1GiB' is not a size", size="-1GiB"),
    "size in gigs": region(INVALID, "'300 gigs' is not a size", size="300 gigs"),
    "size above the address space": region(INVALID, "address space", size="200TiB", overcommit=True),
    "size above RAM without consent": region(INVALID, "more than this host's .* of RAM", size="100TiB"),
    "size above RAM, prefaulted": region(
        FAILED,
        "prefaulting 100 TiB needs that much free memory",
        size="100TiB",
        overcommit=True,
        prefault=True,
    ),
    "size and mappings": mapped("either a size, like 300GiB, or mappings", {"size": "1GiB"}, size="1GiB"),
    "window below the mappings": region(
        INVALID, "beyond the region's window", size="600GiB", overcommit=True, window="512GiB"
    ),
    "window of nothing": region(INVALID, "window", window="0"),
    "address that is unaligned": region(INVALID, "address 0x1000 cannot hold a region", address="0x1000"),
    "address that is unaligned, announced": region(
        INVALID, "address 0x1000 cannot hold a region", ANNOUNCED, address="0x1000"
    ),
    "size above the address space, announced": region(
        INVALID, "address space", ANNOUNCED, size="200TiB", overcommit=True
    ),
    "address that is unaligned, for all": region(
        INVALID, "address 0x1000 cannot hold a region", address="0x1000", root="/run/old"
    ),
    "protection that is wrong": mapped(
        "value of protection must be one of", {"size": "1GiB", "protection": "rwx"}, kind=ANSIBLE
    ),
    "mapping without a size": mapped("missing required arguments: size", {"offset": "0"}, kind=ANSIBLE),
    "mapping with an unknown key": mapped(
        "Unsupported parameters.*colour", {"size": "1GiB", "colour": "red"}, kind=ANSIBLE
    ),
    "mapping beyond the window": mapped(
        "reaches beyond the region's window", {"size": "1GiB", "offset": "511.5GiB"}, window="512GiB"
    ),
    "mappings that overlap": mapped(
        "overlaps the previous mapping", {"size": "2MiB"}, {"size": "2MiB", "offset": "1MiB"}
    ),
    "mappings that overlap, announced": mapped(
        "overlaps the previous mapping",
        {"size": "2MiB"},
        {"size": "2MiB", "offset": "1MiB"},
        keys=ANNOUNCED,
    ),
    "mapping that is unaligned": mapped("is not aligned", {"size": "2MiB", "offset": "1"}),
    "mapping of no file": mapped(
        "/no/such/file: No such file", {"size": "2MiB", "path": "/no/such/file"}, kind=FAILED
    ),
    "region with a wrong mode": region(INVALID, "'999' is not a file mode", mode="999"),
    "region with a number for a mode": region(INVALID, "mode 432 is not text, and YAML", mode=0o660),
    "region of an unknown group": region(INVALID, "this host has no group 'nosuch'", group="nosuch"),
    "region of an unknown user": region(INVALID, "this host has no user 'nosuch'", owner="nosuch"),
    "region on the kernel where there is none": region(
        UNAVAILABLE, "backend kernel was requested, but kernel .* has no msharefs", backend="kernel"
    ),
    "region on no msharefs": region(UNAVAILABLE, "/run/full holds no msharefs", root="/run/full"),
    "region that is to survive": region(UNAVAILABLE, "systemd does not run on this host", boot=True),
    "region by no program": region(
        UNAVAILABLE, "/no/mshare is missing on this host", executable="/no/mshare"
    ),
    "region by a wrong program": region(
        FAILED, "ended with exit code 1 before it was ready", executable="/bin/false"
    ),
    "region before what is no unit": region(INVALID, "is not a systemd unit", before=["no unit"]),
    "region with an unknown key": region(ANSIBLE, "Unsupported parameters.*colour", colour="red"),
    "region as nobody": region(UNAVAILABLE, "tried /dev/shm/msharefs-65534", AS_NOBODY),
    "region as nobody on root's msharefs": region(UNAVAILABLE, MAY_NOT_READ, AS_NOBODY, root="/run/msharefs"),
    "mount as nobody": case("mount", UNAVAILABLE, MAY_NOT_READ, AS_NOBODY, root="/run/msharefs"),
    "unmount as nobody": case(
        "mount", UNAVAILABLE, MAY_NOT_READ, AS_NOBODY, root="/run/msharefs", state="absent"
    ),
    "region by a program without cffi": region(
        UNAVAILABLE, "needs cffi, .*install the package python3-cffi", executable="/run/without-cffi/mshare"
    ),
    "region larger than the tmpfs, prefaulted": region(
        FAILED, "the tmpfs at /run/tiny has .* left", root="/run/tiny", prefault=True
    ),
    "mount of another generation": case(
        "mount", CONFLICT, "uses generation 2025-08, but 2025-04 is requested", generation="2025-04"
    ),
    "tmpfs smaller than what is in it": case(
        "mount",
        CONFLICT,
        "the tmpfs at /run/tiny should have 4 KiB, but .* of it are in use; request more",
        root="/run/tiny",
        size="4KiB",
    ),
    "span for clients that touch nothing": clients(
        INVALID, "span is how much of region sga the library's clients touch", span="1GiB", touch=False
    ),
    "span for a command": clients(
        INVALID, "omit it with a command", span="1GiB", command=["/bin/sleep", "9"]
    ),
    "clients of no region": clients(FAILED, "region nosuch at .* has no running owner", region="nosuch"),
    "clients without a count": case(
        "clients", INVALID, "clients of region sga need a count, like 100", region="sga"
    ),
    "0 clients": clients(INVALID, "0 clients cannot be started", count=0),
    "-1 clients": clients(INVALID, "-1 clients cannot be started", count=-1),
    "10 million clients": clients(INVALID, "10000000 clients cannot be started", count=10_000_000),
    "half a client": clients(ANSIBLE, "cannot be converted to an int", count="half"),
    "clients with an unaligned stride": clients(INVALID, "not a multiple of a page", stride="1000"),
    "command that does not exist": clients(
        FAILED, "did not start: .*/no/such/program", command=["/no/such/program"]
    ),
    "command that dies at once": clients(FAILED, "did not start: .*exit code 1", command=["/bin/false"]),
    "command that is empty": clients(INVALID, "is not a list of a program and its arguments", command=[""]),
    "clients with an unknown key": clients(ANSIBLE, "Unsupported parameters.*colour", colour="red"),
    "savings without clients": case("savings", FAILED, "no clients of region sga at .* run", region="sga"),
    "savings of a wrong region": case("savings", INVALID, "cannot be used", region="a//b"),
    "unmount while an owner lives": case(
        "mount", CONFLICT, r"in use by region sga \(owner \d+\)", state="absent"
    ),
}
