# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cases of what the calls described in 2026 can do, and of the older generations, which cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from conformance.actors import NEW, Actor
from conformance.cases import (
    GIB,
    MIB,
    NOBODY,
    OWNER,
    PAGE,
    Need,
    Scene,
    case,
    eventually,
    killed,
    refused,
)
from mshare.kernel import abi

DESCRIBED = "described at LSFMM+BPF in May 2026 (LWN 1072333), not posted"
OURS = "a descriptor has no name: names and who may have them are this library's"
GUESSED = "not described; as the call without a region has it"

NAMELESS = Need("a region is a file", lambda f: f.nameless)
PART = Need("all of a region is attached", lambda f: f.partial_attach)
PROTECT = Need("protection cannot be changed", lambda f: f.protect)
NO_PROTECT = Need("protection can be changed", lambda f: not f.protect)
ADVICE = Need("advice cannot be given", lambda f: bool(f.advice))
NO_ADVICE = Need("advice can be given", lambda f: not f.advice)
READ, READ_WRITE = abi.PROT_READ, abi.PROT_READ | abi.PROT_WRITE


# --- a descriptor without a name


@case("nameless", "nothing of a region's memory is in a file of its name", NAMELESS, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    assert Path(scene.root, "r").read_bytes() == b""
    assert scene.client().read() == b"hello"


@case("nameless", "the creator closes it: SIGSEGV for everybody", NAMELESS, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    clients = [scene.client(), scene.client()]
    forked = clients[0].fork()
    owner.close()
    for actor in (forked, *clients, owner):
        killed(actor, "touch_for_long")


@case("nameless", "the creator closes it: the name is gone, and free", NAMELESS, source=OURS)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.close()
    client = scene.actor()
    assert client.names() == []
    with refused(errno.ENOENT):
        client.open()
    assert scene.owner().read() == bytes(5)


@case(
    "nameless",
    "closed by its creator after another region got its name: that one stays",
    NAMELESS,
    source=OURS,
)
def __(scene: Scene) -> None:
    first = scene.owner()
    first.unlink()
    second = scene.owner()
    second.write(0, b"other")
    first.close()
    assert scene.client().read() == b"other"


@case("nameless", "a forked child of the creator closes its copy: nothing ends", NAMELESS, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"alive")
    child = owner.fork()
    child.close()
    child.exit()
    assert scene.client().read() == b"alive"


@case("nameless", "others close it: nothing ends", NAMELESS, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"alive")
    client = scene.client()
    client.close()
    assert client.read() == scene.client().read() == b"alive"


@case("nameless", "the creator is killed: listed, but opening it is ESTALE", NAMELESS, source=OURS)
def __(scene: Scene) -> None:
    scene.owner().kill()
    client = scene.actor()
    assert client.names() == ["r"]
    for flags in (os.O_RDWR, os.O_RDONLY):
        with refused(errno.ESTALE):
            client.open(flags=flags)


@case(
    "nameless",
    "the creator is killed: attaching what was opened before is EINVAL",
    NAMELESS,
    source=DESCRIBED,
)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.actor()
    client.open()
    owner.kill()
    with refused(errno.EINVAL):
        client.attach()


@case("nameless", "created by a thread that ended: opening it is ESTALE", NAMELESS, OWNER, source=OURS)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.in_a_thread(("open", {"flags": NEW}), ("set_size", {}), ("map", {}))
    with refused(errno.EINVAL):
        owner.attach()
    with refused(errno.ESTALE):
        scene.actor().open()


@case("nameless", "its size cannot be changed behind the library's back: EPERM", NAMELESS, source=OURS)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"whole")
    client = scene.client()
    with refused(errno.EPERM):
        client.cut_off()
    assert owner.read() == b"whole"


@case("nameless", "who may only read it is given nothing that it could write to", NAMELESS, source=OURS)
def __(scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    owner = scene.owner()
    owner.set_access(0o640, gid=4242)
    owner.write(0, b"hello")
    member = scene.actor()
    member.become(NOBODY, 4242)
    with refused(errno.EACCES):
        member.open()
    member.open(flags=os.O_RDONLY)
    member.attach(prot=READ)
    assert member.read() == b"hello"
    with refused(errno.EACCES):
        member.reopen_for_writing()


@case("nameless", "whose right was taken away gets it no more, and keeps what it has", NAMELESS, source=OURS)
def __(scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    owner = scene.owner()
    owner.set_access(0o660, gid=4242)
    owner.write(0, b"hello")
    member = scene.actor()
    member.become(NOBODY, 4242)
    member.open()
    member.attach()
    owner.set_access(0o600)
    with refused(errno.EACCES):
        member.open()
    assert member.read() == b"hello"


# --- a part of it


def _two_windows(scene: Scene) -> Actor:
    owner = scene.actor()
    owner.open(flags=NEW)
    owner.set_size(2 * scene.alignment_bytes)
    owner.map()
    owner.map(offset=scene.alignment_bytes)
    owner.attach()
    owner.write(0, b"first")
    owner.write(scene.alignment_bytes, b"other")
    return owner


@case("part", "the second half, and the first", PART, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner, size = _two_windows(scene), scene.alignment_bytes
    client = scene.actor()
    client.open()
    client.attach_part(size, size)
    assert client.read() == b"other"
    client.write(0, b"there")
    assert owner.read(size) == b"there"
    client.attach_part(0, size)
    assert client.read() == b"first"


@case("part", "is as large as it was asked for: what is behind it stays free", PART, source=DESCRIBED)
def __(scene: Scene) -> None:
    _two_windows(scene)
    client = scene.actor()
    client.open()
    where = client.attach_part(0, scene.alignment_bytes)
    client.occupy(where + scene.alignment_bytes)


@case("part", "follows what is mapped later, also where that reaches beyond it", PART, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner, size = _two_windows(scene), scene.alignment_bytes
    client = scene.actor()
    client.open()
    client.attach_part(size, size)
    owner.map(offset=size - MIB, size=2 * MIB)
    owner.write(size - 5, b"lower")
    owner.write(size, b"upper")
    assert client.reads(b"upper")
    killed(client, "touch_for_long", GIB)


@case("part", "of a region whose owner is killed: SIGSEGV", PART, OWNER, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = _two_windows(scene)
    client = scene.actor()
    client.open()
    client.attach_part(scene.alignment_bytes, scene.alignment_bytes)
    assert client.read() == b"other"
    owner.kill()
    killed(client, "touch_for_long")


for _says, _offset, _size in (
    ("unaligned at its beginning", 0.5, 1),
    ("unaligned at its end", 0, 0.5),
    ("empty", 1, 0),
    ("behind the end", 2, 1),
    ("beyond the end", 1, 2),
    ("before the beginning", -1, 1),
):

    @case("part", f"{_says}: EINVAL", PART, source=GUESSED)
    def __(scene: Scene, offset: float = _offset, size: float = _size) -> None:
        _two_windows(scene)
        client = scene.actor()
        client.open()
        with refused(errno.EINVAL):
            client.attach_part(int(offset * scene.alignment_bytes), int(size * scene.alignment_bytes))
        client.attach()
        assert client.read() == b"first"


# --- protection


@case("protect", "for reading: loads work, a store is SIGSEGV for everybody", PROTECT, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    client, other = scene.client(), scene.client()
    client.protect(0, 4 * MIB, READ)
    for actor in (client, owner):
        assert actor.read() == b"hello"
        killed(actor, "write_for_long", 0, b"x")
    # The owner is dead, and the region with it.
    killed(other, "touch_for_long")


@case("protect", "for writing again: stores work for everybody", PROTECT, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner(prot=READ)
    client = scene.client()
    client.protect(0, 4 * MIB, READ_WRITE)
    client.write(0, b"hello")
    owner.follow()
    assert owner.read() == b"hello"
    owner.write(MIB, b"there")
    assert client.read(MIB) == b"there"


@case("protect", "a page in the middle: what is around it stays as it is", PROTECT, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    owner.protect(MIB, PAGE, READ)
    client.follow()
    client.write(MIB - 5, b"below")
    client.write(MIB + PAGE, b"above")
    assert owner.read(MIB - 5) + owner.read(MIB + PAGE) == b"belowabove"
    killed(client, "write", MIB, b"x")


@case("protect", "of a file that was open for reading, for writing: EACCES", PROTECT, source=GUESSED)
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.map_file(scene.file(content=b"hello"), prot=READ, access=os.O_RDONLY)
    with refused(errno.EACCES):
        owner.protect(0, MIB, READ_WRITE)
    assert scene.client(os.O_RDONLY).read() == b"hello"


@case("protect", "of a file that was open for writing, back and forth", PROTECT, source=DESCRIBED)
def __(scene: Scene) -> None:
    path = scene.file(content=b"hello")
    owner = scene.sized()
    owner.map_file(path)
    client = scene.client()
    owner.protect(0, MIB, READ)
    owner.protect(0, MIB, READ_WRITE)
    client.follow()
    client.write(0, b"there")
    assert Path(path).read_bytes()[:5] == b"there"


@case(
    "protect", "where nothing is mapped, also in part: ENOMEM, and nothing changes", PROTECT, source=GUESSED
)
def __(scene: Scene) -> None:
    owner = scene.owner()
    for offset, size in ((GIB, PAGE), (3 * MIB, 2 * MIB)):
        with refused(errno.ENOMEM):
            owner.protect(offset, size, READ)
    owner.write(4 * MIB - 5, b"still")


def _protect_is_invalid(says: str, options: dict[str, int]) -> None:
    @case("protect", f"{says}: EINVAL", PROTECT, source=GUESSED)
    def __(scene: Scene) -> None:
        owner = scene.owner()
        with refused(errno.EINVAL):
            owner.protect(**options)
        owner.write(0, b"still")


for _says, _options in (
    ("unaligned", {"offset": 1, "size": PAGE}),
    ("of nothing", {"offset": 0, "size": 0}),
    ("beyond the region", {"offset": 1 << 45, "size": PAGE}),
    ("of an unknown kind", {"offset": 0, "size": PAGE, "prot": 0x100}),
):
    _protect_is_invalid(_says, _options)


@case("protect", "in a generation without it: EOPNOTSUPP", NO_PROTECT)
def __(scene: Scene) -> None:
    owner = scene.owner()
    with refused(errno.EOPNOTSUPP):
        owner.protect()
    owner.write(0, b"still")


# --- advice


@case("advise", "remove: zeroes for everybody, and what is around it stays", ADVICE, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    for offset in (0, MIB, 2 * MIB):
        owner.write(offset, b"hello")
    client.advise(MIB, MIB, abi.MADV_REMOVE)
    for actor in (owner, client):
        assert [actor.read(offset) for offset in (0, MIB, 2 * MIB)] == [b"hello", bytes(5), b"hello"]


@case("advise", "remove, in a file: a hole in it", ADVICE, source=DESCRIBED)
def __(scene: Scene) -> None:
    path = scene.file(content=b"x" * 3 * PAGE)
    owner = scene.sized()
    owner.map_file(path)
    owner.advise(PAGE, PAGE, abi.MADV_REMOVE)
    assert Path(path).read_bytes()[: 3 * PAGE] == b"x" * PAGE + bytes(PAGE) + b"x" * PAGE


@case("advise", "remove, of what nobody may write to: EACCES", ADVICE, source=GUESSED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    owner.protect(0, PAGE, READ)
    with refused(errno.EACCES):
        owner.advise(0, PAGE, abi.MADV_REMOVE)
    assert scene.client().read() == b"hello"


@case("advise", "dontneed: the tables go, what is in memory stays", ADVICE, source=DESCRIBED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    client.write(0, b"hello")
    owner.advise(0, 4 * MIB, abi.MADV_DONTNEED)
    assert eventually(lambda: client.present() == 0)
    assert client.read() == owner.read() == b"hello"


@case("advise", "hugepage and nohugepage: as everybody's madvise", ADVICE, source=DESCRIBED)
def __(scene: Scene) -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    owner = scene.owner()
    client = scene.client()
    owner.advise(0, 2 * MIB, abi.MADV_HUGEPAGE)
    owner.advise(2 * MIB, 2 * MIB, abi.MADV_NOHUGEPAGE)
    for actor in (owner, client, scene.client()):
        actor.follow()
        assert "hg" in actor.flags_of(0)
        assert "nh" in actor.flags_of(2 * MIB)


@case("advise", "where nothing is mapped, also in part: ENOMEM", ADVICE, source=GUESSED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    for advice in (abi.MADV_DONTNEED, abi.MADV_REMOVE, abi.MADV_HUGEPAGE):
        with refused(errno.ENOMEM):
            owner.advise(3 * MIB, 2 * MIB, advice)


def _advise_is_invalid(says: str, options: dict[str, int]) -> None:
    @case("advise", f"{says}: EINVAL", ADVICE, source=GUESSED)
    def __(scene: Scene) -> None:
        with refused(errno.EINVAL):
            scene.owner().advise(**options)


for _says, _options in (
    ("unaligned", {"offset": 1, "size": PAGE}),
    ("beyond the region", {"offset": 1 << 45, "size": PAGE}),
    # It makes a kernel touch pages, or is no advice at all.
    ("to populate", {"offset": 0, "size": PAGE, "advice": 22}),
    ("of an unknown kind", {"offset": 0, "size": PAGE, "advice": 12345}),
):
    _advise_is_invalid(_says, _options)


@case("advise", "in a generation without it: EOPNOTSUPP", NO_ADVICE)
def __(scene: Scene) -> None:
    with refused(errno.EOPNOTSUPP):
        scene.owner().advise()
