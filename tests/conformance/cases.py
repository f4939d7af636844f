# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cases of the conformance suite: what a kernel with mshare answers, line by line, for any backend.

A case is a function that gets a scene. What a generation must have for it to apply is data: `needs`.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

from conformance import answers
from conformance.actors import (
    ADDRESS,
    ANONYMOUS,
    NEW,
    READ_WRITE,
    SHARED_FIXED,
    Actor,
    Died,
    Stage,
    eventually,
)
from mshare.kernel import abi
from mshare.kernel.generations import Features
from rig import huge_pages

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
PAGE, WINDOW = abi.PAGE_BYTES, abi.X86_64_ALIGNMENT_BYTES
NOREPLACE = abi.MAP_FIXED_NOREPLACE
NO_RAM_HAS_BYTES = 500 * GIB


class Need(NamedTuple):
    """What a generation must be like for a case to make sense there."""

    otherwise: str
    """Why the case does not apply, of a generation that is not."""
    met: Callable[[Features], bool]


MAPPINGS = Need("the whole window is memory, nothing is mapped inside", lambda f: f.explicit_mappings)
UNMAP = Need("nothing can be unmapped", lambda f: f.unmap)
FILES = Need("takes no files", lambda f: "file" in f.mapping_kinds)
ONLY_ANONYMOUS = Need("takes files and huge pages, too", lambda f: f.mapping_kinds == ("anonymous",))
HUGE = Need("takes no huge pages", lambda f: "hugetlb" in f.mapping_kinds)
ANY_ADDRESS = Need("one address for all", lambda f: f.any_address)
ONE_ADDRESS = Need("any address will do", lambda f: not f.any_address)
FTRUNCATE = Need("the size is not set by ftruncate", lambda f: f.size_set_by == "ftruncate")
DOCUMENTED = Need("what its kernel answers is not on record", lambda f: f.any_address)
OWNER = Need("regions have no owner", lambda f: f.owner_bound)
FILE = Need("a region has no file", lambda f: not f.nameless)
NO_OWNER = Need("a region dies with its owner", lambda f: not f.owner_bound)


@dataclass(frozen=True)
class Case:
    topic: str
    says: str
    play: Callable[[Scene], None]
    needs: tuple[Need, ...] = ()
    source: str = answers.BOOTED
    """Where the answer is from; of generations whose kernel nobody booted, the posted series."""

    @property
    def id(self) -> str:
        return re.sub(r"[^A-Za-z0-9]+", "-", f"{self.topic}-{self.says}").strip("-")

    def not_applicable(self, features: Features) -> str | None:
        """Why this case says nothing about a generation, or None if it does."""
        return next((need.otherwise for need in self.needs if not need.met(features)), None)


CASES: list[Case] = []


def case(
    topic: str, says: str, *needs: Need, source: str = answers.BOOTED
) -> Callable[[Callable[[Scene], None]], None]:
    """Add a function to the table."""

    def add(play: Callable[[Scene], None]) -> None:
        CASES.append(Case(topic, says, play, needs, source))

    return add


@dataclass
class Scene:
    """One mounted msharefs, actors to work on it, and a directory for files."""

    backend: str
    root: str
    features: Features
    alignment_bytes: int
    stage: Stage
    directory: Path

    def actor(self) -> Actor:
        return self.stage.actor(self.backend, self.root)

    def sized(self) -> Actor:
        """An owner whose region has a window and nothing in it (or all, in a generation without mappings)."""
        owner = self.actor()
        owner.open(flags=NEW)
        owner.set_size()
        return owner

    def owner(self, size: int = 4 * MIB, prot: int = READ_WRITE) -> Actor:
        """An owner, attached, with `size` bytes of memory at the region's beginning."""
        owner = self.sized()
        if self.features.explicit_mappings:
            owner.map(size=size, prot=prot)
        owner.attach()
        return owner

    def client(self, flags: int = os.O_RDWR) -> Actor:
        """Another process that found the region by its name and attached it."""
        client = self.actor()
        client.open(flags=flags)
        client.attach(prot=abi.PROT_READ if flags == os.O_RDONLY else READ_WRITE)
        return client

    def file(self, name: str = "object", content: bytes = b"content", size: int = MIB) -> str:
        path = self.directory / name
        path.write_bytes(content)
        os.truncate(path, size)
        return str(path)


@contextmanager
def refused(code: int) -> Iterator[None]:
    """The block is answered with this errno and nothing else."""
    name = errno.errorcode[code]
    try:
        yield
    except OSError as error:
        said = errno.errorcode.get(error.errno or 0, str(error))
        assert said == name, f"answered {said}, expected {name}"
    else:
        pytest.fail(f"worked, expected {name}")


def killed(actor: Actor, name: str, *arguments: object) -> None:
    """A call ends its process with SIGSEGV (or what plays its part on this stage)."""
    try:
        value = getattr(actor, name)(*arguments)
    except Died:
        died_of = signal.Signals(actor.ended_by())
        assert died_of == actor.stage.fault, f"{name} ended with {died_of.name}"
    else:
        pytest.fail(f"{name} returned {value!r}, expected SIGSEGV")


# --- the file


@case("file", "a new region has no size and the mode that was asked for")
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW, mode=0o600)
    assert owner.geometry() == (None, 0)
    assert owner.stat().st_size == 0
    assert owner.stat().st_mode & 0o7777 == 0o600
    assert owner.names() == ["r"]


@case("file", "creating an existing name with O_EXCL: EEXIST")
def __(scene: Scene) -> None:
    scene.sized()
    with refused(errno.EEXIST):
        scene.actor().open(flags=NEW)


@case("file", "creating an existing name without O_EXCL opens it")
def __(scene: Scene) -> None:
    scene.owner().write(0, b"hello")
    client = scene.actor()
    client.open(flags=os.O_RDWR | os.O_CREAT)
    client.attach()
    assert client.read() == b"hello"


@case("file", "opening or unlinking a missing name: ENOENT")
def __(scene: Scene) -> None:
    with refused(errno.ENOENT):
        scene.actor().open()
    with refused(errno.ENOENT):
        scene.actor().unlink()


@case("file", "mshare_info holds the alignment, is no region and stays")
def __(scene: Scene) -> None:
    info = Path(scene.root, abi.INFO_FILE)
    assert info.read_text() == f"{scene.alignment_bytes}\n"
    assert info.stat().st_mode & 0o777 == 0o444
    with refused(errno.EPERM):
        scene.actor().unlink(abi.INFO_FILE)
    with refused(errno.EEXIST):
        scene.actor().open(abi.INFO_FILE, NEW)
    assert scene.actor().names() == []


# --- directories


@case("directory", "two regions of one name in two directories have nothing in common")
def __(scene: Scene) -> None:
    owners = {}
    for name in ("r", "a.r", "a/r", "a/b/r", "b/r"):
        owner = owners[name] = scene.actor()
        directory = os.path.dirname(name)
        if directory:
            owner.make_directory(directory)
        owner.open(name, NEW)
        owner.set_size()
        if scene.features.explicit_mappings:
            owner.map(size=MIB)
        owner.attach()
        owner.write(0, name.encode())
    assert scene.actor().names() == sorted(owners)
    for name in owners:
        client = scene.actor()
        client.open(name)
        client.attach()
        assert client.read(0, len(name)) == name.encode()
    owners["a/r"].unlink("a/r")
    assert scene.actor().names() == sorted({*owners} - {"a/r"})


@case("directory", "one that is missing: ENOENT; a region in its place: ENOTDIR")
def __(scene: Scene) -> None:
    with refused(errno.ENOENT):
        scene.actor().open("a/r", NEW)
    scene.sized()
    with refused(errno.ENOTDIR):
        scene.actor().open("r/r", NEW)


@case("directory", "is no region: EISDIR, and its name is taken: EEXIST")
def __(scene: Scene) -> None:
    maker = scene.actor()
    maker.make_directory("r")
    with refused(errno.EISDIR):
        scene.actor().open("r")
    with refused(errno.EEXIST):
        scene.actor().open("r", NEW)
    with refused(errno.EISDIR):
        scene.actor().unlink("r")
    with refused(errno.EEXIST):
        maker.make_directory("r")
    assert scene.actor().names() == []


@case("directory", "with something in it stays: ENOTEMPTY; an empty one can be removed")
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.make_directory("a")
    owner.make_directory("a/b")
    owner.open("a/b/r", NEW)
    for name in ("a", "a/b"):
        with refused(errno.ENOTEMPTY):
            owner.remove_directory(name)
    owner.unlink("a/b/r")
    owner.remove_directory("a/b")
    owner.remove_directory("a")
    with refused(errno.ENOENT):
        owner.remove_directory("a")


@case("file", "O_TRUNC on a fresh file uses up the one time the size can be set", FTRUNCATE)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    owner.open(flags=os.O_RDWR | os.O_TRUNC)
    useless(owner)


@case("file", "O_TRUNC while creating does no harm")
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW | os.O_TRUNC)
    owner.set_size()


@case("file", "O_TRUNC on a region with a size: EINVAL, and its memory stays", DOCUMENTED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    with refused(errno.EINVAL):
        scene.actor().open(flags=os.O_RDWR | os.O_TRUNC)
    assert owner.read() == b"hello"


# --- the size


def useless(owner: Actor) -> None:
    """A region whose size is used up without being there."""
    with refused(errno.EINVAL):
        owner.set_size()
    with refused(errno.EINVAL):
        owner.map()
    with refused(errno.EINVAL):
        owner.attach(length=WINDOW)


@case("size", "0 is accepted once, and bricks the region", FTRUNCATE)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    owner.set_size(0)
    useless(owner)


@case("size", "0 is refused: EINVAL", ONE_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    with refused(errno.EINVAL):
        owner.set_size(0)


@case("size", "anything but a multiple of the alignment: EINVAL")
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    for wrong in (1, PAGE, scene.alignment_bytes - PAGE, scene.alignment_bytes + 1):
        with refused(errno.EINVAL):
            owner.set_size(wrong)
    owner.set_size()
    assert owner.geometry()[1] == scene.alignment_bytes


@case("size", "an unaligned address: EINVAL", ONE_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    with refused(errno.EINVAL):
        owner.set_size(address=ADDRESS + PAGE)


@case("size", "a second time, the same or another: EINVAL")
def __(scene: Scene) -> None:
    owner = scene.sized()
    for again in (scene.alignment_bytes, 2 * scene.alignment_bytes):
        with refused(errno.EINVAL):
            owner.set_size(again)


@case("size", "two alignments make a window of two, all of it usable")
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    owner.set_size(2 * scene.alignment_bytes)
    last = 2 * scene.alignment_bytes - MIB
    if scene.features.explicit_mappings:
        owner.map(offset=last)
    owner.attach()
    owner.write(last, b"hello")
    client = scene.client()
    assert client.geometry()[1] == 2 * scene.alignment_bytes
    assert client.read(last) == b"hello"


@case("size", "the same for everybody, and stat's st_size says it", FTRUNCATE)
def __(scene: Scene) -> None:
    scene.sized()
    client = scene.actor()
    client.open()
    assert client.geometry() == (None, scene.alignment_bytes)
    assert client.stat().st_size == scene.alignment_bytes


@case("size", "the address is the same for everybody, too", ONE_ADDRESS)
def __(scene: Scene) -> None:
    scene.sized()
    client = scene.actor()
    client.open()
    assert client.geometry() == (ADDRESS, scene.alignment_bytes)


@case("size", "of the whole address space: can be set, attaching is ENOMEM", FTRUNCATE)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    owner.set_size(128 * TIB)
    with refused(errno.ENOMEM):
        owner.attach()


@case(
    "size", "of nearly the whole address space: attaches where the process has room, else ENOMEM", FTRUNCATE
)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    owner.set_size(127 * TIB)
    try:
        owner.attach()
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise


@case("size", "attaching before it is set: EINVAL")
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    with refused(errno.EINVAL):
        owner.attach(address=ADDRESS, length=scene.alignment_bytes)


@case("size", "mapping before it is set: EINVAL", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    with refused(errno.EINVAL):
        owner.map()


@case("size", "mapping nothing before it is set: EINVAL", FILES)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    with refused(errno.EINVAL):
        owner.map(flags=SHARED_FIXED)


@case("size", "unmapping before it is set: EINVAL", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.open(flags=NEW)
    with refused(errno.EINVAL):
        owner.unmap()


# --- mappings inside: what is refused, one row each

REFUSED_MAPPINGS: tuple[tuple[str, dict[str, int], int, tuple[Need, ...]], ...] = (
    ("of size 0", {"size": 0}, errno.EINVAL, ()),
    ("at an unaligned offset", {"offset": 100}, errno.EINVAL, ()),
    ("reaching beyond the region", {"offset": WINDOW - PAGE, "size": 2 * PAGE}, errno.EINVAL, ()),
    ("at an offset past the end", {"offset": WINDOW}, errno.EINVAL, ()),
    (
        "with an offset and a size that overflow",
        {"offset": PAGE, "size": 2**64 - PAGE},
        errno.ENOMEM,
        (DOCUMENTED,),
    ),
    (
        "with a size that overflows, without MAP_FIXED",
        {"offset": PAGE, "size": 2**64 - PAGE, "flags": ANONYMOUS & ~abi.MAP_FIXED},
        errno.EINVAL,
        (DOCUMENTED,),
    ),
    ("of half of all addresses", {"offset": PAGE, "size": 2**63}, errno.EINVAL, (DOCUMENTED,)),
    ("without MAP_FIXED", {"flags": ANONYMOUS & ~abi.MAP_FIXED}, errno.EINVAL, ()),
    ("without MAP_SHARED", {"flags": ANONYMOUS & ~abi.MAP_SHARED}, errno.EINVAL, ()),
    (
        "with MAP_PRIVATE instead of MAP_SHARED",
        {"flags": ANONYMOUS & ~abi.MAP_SHARED | abi.MAP_PRIVATE},
        errno.EINVAL,
        (),
    ),
    ("larger than RAM without MAP_NORESERVE", {"size": NO_RAM_HAS_BYTES}, errno.ENOMEM, ()),
    ("neither anonymous nor of a file", {"flags": SHARED_FIXED}, errno.EBADF, (FILES,)),
    ("neither anonymous nor of a file", {"flags": SHARED_FIXED}, errno.EINVAL, (ONLY_ANONYMOUS,)),
    ("of huge pages", {"flags": ANONYMOUS | abi.MAP_HUGETLB}, errno.EINVAL, (ONLY_ANONYMOUS,)),
    (
        "of more huge pages than are reserved",
        {"size": 300 * GIB, "flags": ANONYMOUS | abi.MAP_HUGETLB},
        errno.ENOMEM,
        (HUGE,),
    ),
    (
        "of huge pages at an offset between two",
        {"offset": PAGE, "size": 2 * MIB, "flags": ANONYMOUS | abi.MAP_HUGETLB},
        errno.EINVAL,
        (HUGE,),
    ),
)


def _refused_mapping(options: dict[str, int], code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.sized()
        with refused(code):
            owner.map(**options)
        owner.map()
        owner.attach()
        assert owner.read() == bytes(5)

    return play


for _text, _options, _code, _needs in REFUSED_MAPPINGS:
    CASES.append(
        Case(
            "mapping",
            f"{_text}: {errno.errorcode[_code]}",
            _refused_mapping(_options, _code),
            (MAPPINGS, *_needs),
        )
    )

# file, how it is opened, protection, flags -> errno
REFUSED_FILES = (
    ("read-only with PROT_WRITE", os.O_RDONLY, READ_WRITE, SHARED_FIXED, errno.EACCES),
    ("write-only", os.O_WRONLY, abi.PROT_READ, SHARED_FIXED, errno.EACCES),
    ("with MAP_HUGETLB", os.O_RDWR, READ_WRITE, SHARED_FIXED | abi.MAP_HUGETLB, errno.EINVAL),
    ("without MAP_FIXED", os.O_RDWR, READ_WRITE, abi.MAP_SHARED, errno.EINVAL),
)


def _refused_file(access: int, prot: int, flags: int, code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.sized()
        with refused(code):
            owner.map_file(scene.file(), prot=prot, access=access, flags=flags)

    return play


for _text, _access, _prot, _flags, _code in REFUSED_FILES:
    CASES.append(
        Case(
            "mapping",
            f"a file {_text}: {errno.errorcode[_code]}",
            _refused_file(_access, _prot, _flags, _code),
            (FILES,),
        )
    )


@case("mapping", "a pipe: EACCES", FILES)
def __(scene: Scene) -> None:
    with refused(errno.EACCES):
        scene.sized().map_pipe()


@case("mapping", "the region itself, named or unlinked: EINVAL", FILES)
def __(scene: Scene) -> None:
    owner = scene.sized()
    with refused(errno.EINVAL):
        owner.map_itself()
    owner.unlink()
    with refused(errno.EINVAL):
        owner.map_itself()


@case(
    "mapping",
    "one by one, in a generation without it: EOPNOTSUPP",
    Need("maps objects one by one", lambda f: not f.explicit_mappings),
)
def __(scene: Scene) -> None:
    with refused(errno.EOPNOTSUPP):
        scene.sized().map()


@case(
    "mapping",
    "unmapping, in a generation without it: EOPNOTSUPP",
    Need("objects can be unmapped", lambda f: not f.unmap),
)
def __(scene: Scene) -> None:
    with refused(errno.EOPNOTSUPP):
        scene.sized().unmap()


# --- mappings inside: what works


@case("mapping", "fresh memory is zeroes")
def __(scene: Scene) -> None:
    assert scene.owner().read(0, PAGE) == bytes(PAGE)


@case("mapping", "larger than RAM with MAP_NORESERVE: only what is touched costs", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.map(size=300 * GIB, flags=ANONYMOUS | abi.MAP_NORESERVE)
    owner.attach()
    for offset in (0, 150 * GIB, 300 * GIB - 8):
        owner.write(offset, b"written")
        assert scene.client().read(offset, 7) == b"written"


@case("mapping", "several by offset, each for everybody", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    for offset in (0, 10 * MIB, 5 * GIB):
        owner.map(offset=offset)
    owner.attach()
    client = scene.client()
    for offset in (0, 10 * MIB, 5 * GIB):
        owner.write(offset, b"%d" % offset)
        assert client.read(offset, len(str(offset))) == b"%d" % offset


@case("mapping", "a part of a page counts as the page", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.map(size=100)
    owner.attach()
    owner.write(PAGE - 5, b"hello")
    killed(owner, "read", PAGE)


@case("mapping", "made later is seen by those who are attached", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    owner.map(offset=GIB)
    owner.write(GIB, b"later")

    # Another process follows within milliseconds; one that touches too early is a forked one.
    def readable() -> bool:
        probe = client.fork()
        try:
            return probe.read(GIB) == b"later"
        except Died:
            return False

    assert eventually(readable)


@case("mapping", "over another replaces it silently, zeroed", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.owner(size=4 * MIB)
    for offset in (0, MIB, 2 * MIB):
        owner.write(offset, b"hello")
    client = scene.client()
    owner.map(offset=MIB, size=MIB)
    assert owner.read(0) == b"hello"
    assert owner.read(MIB) == bytes(5)
    assert owner.read(2 * MIB) == b"hello"
    assert client.reads(bytes(5), MIB)
    owner.write(MIB, b"again")
    assert client.reads(b"again", MIB)


@case("mapping", "over another with MAP_FIXED_NOREPLACE: EEXIST", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.owner(size=4 * MIB)
    owner.write(MIB, b"hello")
    for offset, size in ((0, 4 * MIB), (3 * MIB, 2 * MIB), (MIB, PAGE)):
        with refused(errno.EEXIST):
            owner.map(offset=offset, size=size, flags=ANONYMOUS | NOREPLACE)
    owner.map(offset=4 * MIB, flags=ANONYMOUS | NOREPLACE)
    assert owner.read(MIB) == b"hello"


@case("mapping", "unmapped in part: zeroes when created again, the rest stays", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner(size=4 * MIB)
    for offset in (0, MIB, 2 * MIB):
        owner.write(offset, b"hello")
    owner.unmap(MIB, MIB)
    assert owner.read(0) == b"hello"
    assert owner.read(2 * MIB) == b"hello"
    owner.map(MIB, MIB)
    assert owner.read(MIB) == bytes(5)


@case("mapping", "unmapped in part: a touch there is SIGSEGV for everybody", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner(size=4 * MIB)
    clients = [scene.client(), scene.client()]
    owner.unmap(MIB, MIB)
    for actor in (*clients, owner):
        killed(actor, "touch_for_long", MIB)


@case("mapping", "unmapping where nothing is does nothing", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    owner.unmap(GIB, MIB)
    assert owner.read(0) == b"hello"


@case("mapping", "unmapping nothing, unaligned or beyond the region: EINVAL", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner()
    for offset, size in ((0, 0), (100, PAGE), (WINDOW - PAGE, 2 * PAGE), (WINDOW, PAGE)):
        with refused(errno.EINVAL):
            owner.unmap(offset, size)


@case("mapping", "anybody who can open the file may map and unmap, even read-only", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner(size=4 * MIB)
    owner.write(0, b"hello")
    client = scene.client(flags=os.O_RDONLY)
    client.map(offset=0)
    assert owner.reads(bytes(5))
    client.unmap(offset=MIB)
    killed(owner, "touch_for_long", MIB)


@case("mapping", "readable only: a load works, a store is SIGSEGV", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.owner(prot=abi.PROT_READ)
    assert owner.read() == bytes(5)
    killed(owner, "write", 0, b"x")


@case("mapping", "huge pages are real ones and shared", HUGE)
def __(scene: Scene) -> None:
    with huge_pages.reserved(2):
        owner = scene.sized()
        owner.map(size=4 * MIB, flags=ANONYMOUS | abi.MAP_HUGETLB | abi.MAP_HUGE_2MB)
        owner.attach()
        client = scene.client()
        owner.write(4 * MIB - 5, b"huge!")
        assert client.read(4 * MIB - 5) == b"huge!"
        with refused(errno.ENOMEM):
            owner.map(offset=4 * MIB, size=300 * GIB, flags=ANONYMOUS | abi.MAP_HUGETLB)
        if scene.features.unmap:
            owner.unmap(0, 4 * MIB)
            killed(client, "touch_for_long", 0)


@case("mapping", "huge pages that others reserved, though untouched: ENOMEM", HUGE)
def __(scene: Scene) -> None:
    with huge_pages.reserved(1):
        owner = scene.sized()
        owner.map(size=huge_pages.unused() * 2 * MIB, flags=ANONYMOUS | abi.MAP_HUGETLB)
        with refused(errno.ENOMEM):
            owner.map(offset=GIB, size=2 * MIB, flags=ANONYMOUS | abi.MAP_HUGETLB)


# --- files inside


@case("file inside", "stores reach the file and everybody", FILES)
def __(scene: Scene) -> None:
    path = scene.file(content=b"from the file")
    owner = scene.sized()
    owner.map_file(path, offset=GIB)
    owner.attach()
    client = scene.client()
    assert client.read(GIB, 13) == b"from the file"
    client.write(GIB, b"FROM")
    assert owner.read(GIB, 13) == b"FROM the file"
    assert Path(path).read_bytes()[:13] == b"FROM the file"


@case("file inside", "from an offset in the file", FILES)
def __(scene: Scene) -> None:
    path = scene.file(content=bytes(PAGE) + b"second page")
    owner = scene.sized()
    owner.map_file(path, size=PAGE, file_offset=PAGE)
    owner.attach()
    assert owner.read(0, 11) == b"second page"
    assert scene.client().read(0, 11) == b"second page"


@case("file inside", "unmapped in the middle: both ends still show their parts", FILES, UNMAP)
def __(scene: Scene) -> None:
    path = scene.file(content=b"".join(b"%d" % n * PAGE for n in range(3)))
    owner = scene.sized()
    owner.map_file(path, size=3 * PAGE)
    owner.attach()
    owner.unmap(PAGE, PAGE)
    assert (owner.read(0, 1), owner.read(2 * PAGE, 1)) == (b"0", b"2")
    client = scene.client()
    assert (client.read(0, 1), client.read(2 * PAGE, 1)) == (b"0", b"2")
    killed(client, "read", PAGE)


@case("file inside", "stays when its name is removed and its descriptor closed", FILES)
def __(scene: Scene) -> None:
    path = scene.file()
    owner = scene.sized()
    owner.map_file(path)
    os.unlink(path)
    assert scene.client().read(0, 7) == b"content"


@case("file inside", "its name given to another file: the first is still the one mapped", FILES)
def __(scene: Scene) -> None:
    path = scene.file()
    owner = scene.sized()
    owner.map_file(path)
    os.unlink(path)
    scene.file(content=b"another")
    assert scene.client().read(0, 7) == b"content"


@case("file inside", "read-only: a store is SIGSEGV", FILES)
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.map_file(scene.file(), prot=abi.PROT_READ, access=os.O_RDONLY)
    owner.attach()
    assert owner.read(0, 7) == b"content"
    killed(owner, "write", 0, b"x")


@case("file inside", "over anonymous memory, and back: zeroes", FILES)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"memory!")
    owner.map_file(scene.file())
    assert owner.read(0, 7) == b"content"
    owner.map()
    assert owner.read(0, 7) == bytes(7)


@case("file inside", "persistent memory: 64 files of 4 GiB, mapped once, seen by 8 processes", FILES)
def __(scene: Scene) -> None:
    owner = scene.sized()
    for number in range(64):
        path = scene.file(f"pmem{number}", b"file %02d" % number, 4 * GIB)
        owner.map_file(path, offset=number * 4 * GIB, size=4 * GIB)
    owner.attach()
    for client in [scene.client() for __ in range(8)]:
        for number in range(64):
            assert client.read(number * 4 * GIB, 7) == b"file %02d" % number
    client.write(63 * 4 * GIB + 3 * GIB, b"far away")
    with open(path, "rb") as file:
        assert os.pread(file.fileno(), 8, 3 * GIB) == b"far away"


# --- the window


@case("window", "two processes see the same memory")
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    owner.write(0, b"hello")
    assert client.read() == b"hello"
    client.write(3 * MIB, b"there")
    assert owner.read(3 * MIB) == b"there"


@case("window", "two processes at different addresses", ANY_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.actor()
    client.open()
    assert client.attach(address=ADDRESS, flags=abi.MAP_SHARED | NOREPLACE) == ADDRESS
    other = scene.actor()
    other.open()
    there = ADDRESS + 4 * scene.alignment_bytes
    assert other.attach(address=there, flags=abi.MAP_SHARED | abi.MAP_FIXED) == there
    owner.write(0, b"hello")
    assert client.read() == other.read() == b"hello"


@case("window", "without an address: an aligned one", ANY_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    assert owner.attach() % scene.alignment_bytes == 0


@case("window", "the same process twice", ANY_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.owner()
    first = owner.attach()
    second = owner.attach()
    assert first != second
    owner.write(0, b"hello", 1)
    assert owner.read(0, 5, 2) == b"hello"
    owner.detach(1)
    assert owner.read(0, 5, 2) == b"hello"


@case("window", "another address than the region's: EINVAL", ONE_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    with refused(errno.EINVAL):
        owner.attach(address=ADDRESS + scene.alignment_bytes)


@case("window", "the region's address given as a hint and occupied: EINVAL", ONE_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.occupy(ADDRESS + MIB)
    with refused(errno.EINVAL):
        owner.attach()


@case("window", "of another length than the region's: EINVAL")
def __(scene: Scene) -> None:
    owner = scene.sized()
    for length in (PAGE, scene.alignment_bytes - PAGE, 2 * scene.alignment_bytes):
        with refused(errno.EINVAL):
            owner.attach(length=length)


@case("window", "with MAP_PRIVATE: EINVAL")
def __(scene: Scene) -> None:
    with refused(errno.EINVAL):
        scene.sized().attach(flags=abi.MAP_PRIVATE)


@case("window", "with MAP_HUGETLB: EINVAL")
def __(scene: Scene) -> None:
    with refused(errno.EINVAL):
        scene.sized().attach(flags=abi.MAP_SHARED | abi.MAP_HUGETLB)


@case("window", "fixed at an unaligned address: EINVAL")
def __(scene: Scene) -> None:
    owner = scene.sized()
    for flag in (abi.MAP_FIXED, NOREPLACE):
        with refused(errno.EINVAL):
            owner.attach(address=ADDRESS + PAGE, flags=abi.MAP_SHARED | flag)


@case("window", "an unaligned hint is rounded up", ANY_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    assert owner.attach(address=ADDRESS + PAGE) == ADDRESS + scene.alignment_bytes


@case("window", "a hint where something is: another aligned address", ANY_ADDRESS)
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.occupy(ADDRESS)
    where = owner.attach(address=ADDRESS)
    assert where != ADDRESS
    assert where % scene.alignment_bytes == 0


@case("window", "with MAP_FIXED_NOREPLACE where something is: EEXIST")
def __(scene: Scene) -> None:
    owner = scene.sized()
    owner.occupy(ADDRESS + GIB)
    with refused(errno.EEXIST):
        owner.attach(address=ADDRESS, flags=abi.MAP_SHARED | NOREPLACE)


@case("window", "for writing, of a file opened read-only or write-only: EACCES")
def __(scene: Scene) -> None:
    scene.owner()
    for flags in (os.O_RDONLY, os.O_WRONLY):
        client = scene.actor()
        client.open(flags=flags)
        with refused(errno.EACCES):
            client.attach()


@case("window", "for reading, of a file opened write-only: EACCES", ANY_ADDRESS)
def __(scene: Scene) -> None:
    scene.owner()
    client = scene.actor()
    client.open(flags=os.O_WRONLY)
    with refused(errno.EACCES):
        client.attach(prot=abi.PROT_READ)


@case("window", "attached for reading only: a store goes through all the same", DOCUMENTED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client(flags=os.O_RDONLY)
    client.write(0, b"store")
    assert owner.read() == b"store"


@case("window", "attached with PROT_NONE: load and store go through all the same", DOCUMENTED)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.actor()
    client.open(flags=os.O_RDONLY)
    client.attach(prot=abi.PROT_NONE)
    client.write(0, b"store")
    assert owner.read() == client.read() == b"store"


@case("window", "a hole is SIGSEGV for load and store", MAPPINGS)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    killed(client, "read", 4 * MIB)
    killed(owner, "write", GIB, b"x")


@case("window", "detached: the address range is free, others go on")
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    where = client.attach(address=ADDRESS) if scene.features.any_address else ADDRESS
    client.detach()
    client.detach()
    assert not client.is_mapped(where)
    client.occupy(where)
    owner.write(0, b"hello")
    assert scene.client().read() == b"hello"


@case("window", "closing the file changes nothing for it")
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    client.close()
    owner.write(0, b"hello")
    assert client.read() == b"hello"


@case("window", "fork: the child has it at the same address")
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    child = client.fork()
    grandchild = child.fork()
    owner.write(0, b"hello")
    assert client.read() == child.read() == grandchild.read() == b"hello"
    grandchild.write(MIB, b"there")
    assert owner.read(MIB) == b"there"
    child.detach()
    assert client.read() == b"hello"


@case("window", "fork: the child follows changes after its parent is gone", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    child = client.fork()
    client.kill()
    owner.unmap(0, MIB)
    killed(child, "touch_for_long", 0)


@case("window", "exec drops it")
def __(scene: Scene) -> None:
    scene.owner()
    client = scene.client()
    client.detach()
    where = client.attach(address=ADDRESS)
    assert client.is_mapped(where)
    client.exec(scene.backend, scene.root)
    assert not client.is_mapped(where)


# --- unlinking


@case("unlink", "while mapped: everything goes on, fresh touches too")
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    owner.write(0, b"hello")
    scene.actor().unlink()
    assert scene.actor().names() == []
    assert client.read() == b"hello"
    client.write(2 * MIB, b"fresh")
    assert owner.read(2 * MIB) == b"fresh"
    assert client.fork().read(2 * MIB) == b"fresh"


@case("unlink", "while mapped: objects can still come and go", UNMAP)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    owner.unlink()
    owner.map(offset=0)
    owner.write(0, b"later")
    assert client.reads(b"later")
    owner.unmap(0, MIB)
    killed(client, "touch_for_long")


@case("unlink", "an open file can still be attached")
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    client = scene.actor()
    client.open()
    owner.unlink()
    client.attach()
    assert client.read() == b"hello"


@case("unlink", "the name is free for another region, which is another one")
def __(scene: Scene) -> None:
    first = scene.owner()
    first.write(0, b"first")
    client = scene.client()
    first.unlink()
    second = scene.owner()
    assert second.read() == bytes(5)
    second.write(0, b"other")
    assert client.read() == first.read() == b"first"
    assert scene.client().read() == b"other"


# --- life and death


def exits(owner: Actor) -> None:
    owner.exit()


def is_killed(owner: Actor) -> None:
    owner.kill()


for _end in (exits, is_killed):

    @case("death", f"the owner {_end.__name__.replace('_', ' ')}: attached processes get SIGSEGV", OWNER)
    def __(scene: Scene, end: Callable[[Actor], None] = _end) -> None:
        owner = scene.owner()
        clients = [scene.client() for __ in range(3)]
        for client in clients[:2]:
            client.write(0, b"hello")
        forked = clients[0].fork()
        end(owner)
        # The last of them touches for the first time.
        for client in (forked, *clients):
            killed(client, "touch_for_long")


@case("death", "twice attached, twice dead: both windows are SIGSEGV", OWNER)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    client.attach()
    forked = client.fork()
    owner.kill()
    killed(forked, "touch_for_long")
    client.detach(1)
    killed(client, "reads", b"never this")


@case("death", "the file is still listed, opens, keeps its size and takes mappings", OWNER, FILE)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.kill()
    client = scene.actor()
    assert client.names() == ["r"]
    client.open()
    assert client.geometry() == (None, scene.alignment_bytes)
    client.map(offset=GIB)


@case("death", "attaching the file: EINVAL, before and after mapping something", OWNER, FILE)
def __(scene: Scene) -> None:
    scene.owner().kill()
    client = scene.actor()
    client.open()
    for __ in range(2):
        with refused(errno.EINVAL):
            client.attach()
        client.map(offset=GIB)


@case("death", "the name is taken until it is unlinked: EEXIST", OWNER)
def __(scene: Scene) -> None:
    scene.owner().kill()
    successor = scene.actor()
    with refused(errno.EEXIST):
        successor.open(flags=NEW)
    successor.unlink()
    successor = scene.owner()
    assert successor.read() == bytes(5)


@case("death", "of an unlinked region's owner: SIGSEGV all the same", OWNER)
def __(scene: Scene) -> None:
    owner = scene.owner()
    client = scene.client()
    owner.unlink()
    owner.kill()
    killed(client, "touch_for_long")


@case("death", "the owner forks and dies: the child's window is dead", OWNER)
def __(scene: Scene) -> None:
    owner = scene.owner()
    child = owner.fork()
    child.write(0, b"alive")
    assert scene.client().read() == b"alive"
    owner.kill()
    killed(child, "touch_for_long")


@case("death", "the owner executes another program: the region lives on, and ends with that", OWNER, FILE)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"alive")
    client = scene.client()
    owner.exec(scene.backend, scene.root)
    assert client.read() == b"alive"
    assert scene.client().read() == b"alive"
    owner.exit()
    killed(client, "touch_for_long")


@case("death", "created by a thread that ended: attaching is EINVAL for ever", OWNER, FILE)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.in_a_thread(("open", {"flags": NEW}), ("set_size", {}), ("map", {}))
    with refused(errno.EINVAL):
        owner.attach()
    client = scene.actor()
    client.open()
    with refused(errno.EINVAL):
        client.attach()


@case("death", "of the owning thread in a process that lives: SIGSEGV", OWNER)
def __(scene: Scene) -> None:
    owner = scene.actor()
    owner.in_a_thread(("open", {"flags": NEW}), ("set_size", {}), ("map", {}), ("attach", {}))
    killed(owner, "touch_for_long")


@case("death", "the owner detaches and closes, but lives: the region is fine", FILE)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"alive")
    owner.detach()
    owner.close()
    client = scene.client()
    assert client.read() == b"alive"


@case("death", "of a client is nobody else's business")
def __(scene: Scene) -> None:
    owner = scene.owner()
    clients = [scene.client(), scene.client()]
    clients[0].write(0, b"alive")
    clients[0].kill()
    assert owner.read() == clients[1].read() == b"alive"


@case("death", "of the creator: the region goes on without it", NO_OWNER)
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"alive")
    client = scene.client()
    owner.kill()
    assert client.read() == b"alive"
    assert scene.client().read() == b"alive"


# --- memory as a buffer of system calls


@case("buffer", "read and write, into pages present or not")
def __(scene: Scene) -> None:
    owner = scene.owner()
    path = scene.file(content=b"x" * MIB)
    assert owner.read_file_into(path, 0, MIB) == MIB
    assert scene.client().read(MIB - 5) == b"xxxxx"
    copy = str(scene.directory / "copy")
    assert owner.write_file_from(copy, 0, 2 * MIB) == 2 * MIB
    assert Path(copy).read_bytes() == b"x" * MIB + bytes(MIB)


@case("buffer", "a pipe, out of one page and into an untouched one")
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.write(0, b"through a pipe")
    assert owner.through_a_pipe(0, MIB, 14) == 14
    assert scene.client().read(MIB, 14) == b"through a pipe"


@case("buffer", "O_DIRECT into a page that was touched")
def __(scene: Scene) -> None:
    owner = scene.owner()
    path = scene.file(content=b"x" * PAGE)
    owner.write(0, b"touched")
    try:
        assert owner.read_file_into(path, 0, PAGE, os.O_DIRECT) == PAGE
    except OSError as error:
        if error.errno == errno.EINVAL:
            pytest.skip("the file system of the test's files has no O_DIRECT")
        raise
    assert scene.client().read(0, 7) == b"xxxxxxx"


@case("buffer", "a process-shared mutex keeps contended increments")
def __(scene: Scene) -> None:
    owner = scene.owner()
    owner.make_mutex(0)
    actors = [scene.client() for __ in range(4)]
    for actor in actors:
        actor.start("add_under_mutex", 0, 2000)
    for actor in actors:
        actor.result()
    assert int.from_bytes(owner.read(64, 8), "little") == 8000


# --- users


NOBODY = 65534


@case("users", "mode 0660 and a group: its members may, others EACCES")
def __(scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    owner = scene.owner()
    owner.set_access(0o660, gid=4242)
    owner.write(0, b"hello")
    member, stranger = scene.actor(), scene.actor()
    member.become(NOBODY, 4242)
    stranger.become(NOBODY, NOBODY)
    member.open()
    member.attach()
    assert member.read() == b"hello"
    member.write(0, b"there")
    assert owner.read() == b"there"
    for flags in (os.O_RDWR, os.O_RDONLY):
        with refused(errno.EACCES):
            stranger.open(flags=flags)


@case("users", "a member of the group may map and unmap", UNMAP)
def __(scene: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    owner = scene.owner()
    owner.set_access(0o660, gid=4242)
    member = scene.actor()
    member.become(NOBODY, 4242)
    member.open()
    member.map(offset=GIB)
    member.attach()
    member.write(GIB, b"hello")
    assert scene.client().read(GIB) == b"hello"
    member.unmap(GIB, MIB)
    killed(member, "touch_for_long", GIB)


# --- answers: rows of data, each a case


def _sized(options: dict[str, int], code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.actor()
        owner.open(flags=NEW)
        with refused(code):
            owner.set_size(**options)
        owner.set_size()
        assert owner.geometry()[1] == scene.alignment_bytes

    return play


def _sized_again(options: dict[str, int], code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.sized()
        with refused(code):
            owner.set_size(**options)
        assert owner.geometry()[1] == scene.alignment_bytes

    return play


def _overlapping(options: dict[str, int], code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.sized()
        owner.map(8 * PAGE, 8 * PAGE)
        owner.attach()
        owner.write(8 * PAGE, b"hello")
        with refused(code):
            owner.map(**options)
        assert owner.read(8 * PAGE) == b"hello"

    return play


def _attached(options: dict[str, int], code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.sized()
        if scene.features.explicit_mappings:
            owner.map()
        with refused(code):
            owner.attach(**options)
        owner.attach()
        assert owner.read() == bytes(5)

    return play


def _rounded_up(options: dict[str, int], code: int) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        assert scene.sized().attach(**options) == ADDRESS + scene.alignment_bytes

    return play


def _opened(row: answers.Opened) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        scene.owner()
        other = scene.actor()
        other.open(flags=row.access)
        if row.code:
            with refused(row.code):
                other.attach(prot=row.prot)
        else:
            other.attach(prot=row.prot)

    return play


def _unmapped(row: answers.Unmapped) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        owner = scene.sized()
        owner.map(8 * PAGE, 8 * PAGE)
        owner.attach()
        for page in range(8, 16):
            owner.write(page * PAGE, bytes([page]))
        client = scene.client()
        owner.unmap(row.page * PAGE, row.pages * PAGE)
        for page in row.left:
            assert owner.read(page * PAGE, 1) == client.read(page * PAGE, 1) == bytes([page])
        owner.map(8 * PAGE, 8 * PAGE)
        for page in row.gone:
            assert owner.read(page * PAGE, 1) == b"\0"
        owner.unmap(row.page * PAGE, row.pages * PAGE)
        killed(client, "touch_for_long", row.gone[0] * PAGE)

    return play


Rows = Iterator[answers.Answer]
Maker = Callable[[dict[str, int], int], Callable[[Scene], None]]
ROWS: tuple[tuple[str, Callable[[], Rows], Maker, tuple[Need, ...]], ...] = (
    ("size", answers.sizes, _sized, (FTRUNCATE,)),
    ("size", answers.sizes_again, _sized_again, (FTRUNCATE,)),
    ("mapping", answers.mappings, _refused_mapping, (MAPPINGS, DOCUMENTED)),
    ("mapping", answers.overlaps, _overlapping, (MAPPINGS, DOCUMENTED)),
    ("window", answers.windows, _attached, (ANY_ADDRESS,)),
    ("window", answers.hints, _rounded_up, (ANY_ADDRESS,)),
)
for _topic, _rows, _maker, _needs in ROWS:
    CASES += [
        Case(
            _topic,
            f"{_row.says}: {errno.errorcode.get(_row.code, 'ok')}",
            _maker(_row.options, _row.code),
            _needs,
            _row.source,
        )
        for _row in _rows()
    ]
CASES += [
    Case(
        "window",
        f"{_row.says}: {errno.errorcode.get(_row.code, 'ok')}",
        _opened(_row),
        (DOCUMENTED,),
        _row.source,
    )
    for _row in answers.OPENED
]
CASES += [
    Case("unmap", _row.says, _unmapped(_row), (UNMAP, DOCUMENTED), _row.source) for _row in answers.UNMAPPED
]
