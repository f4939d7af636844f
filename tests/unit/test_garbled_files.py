# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is in a file of ours: a record or one sentence, and every command goes on with the rest.

200 garbled files for each test; 2,000 with MSHARE_PROVE=1 in the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mshare import record
from mshare.backends.mapping import Mapping, MappingEntry
from mshare.backends.simulated.layout import Layout, Placed, Record, Task
from mshare.cli.program import mshare
from mshare.clients import status as clients_status
from mshare.clients.spec import ClientsSpec
from mshare.clients.status import CLIENTS, DeadClient
from mshare.converge.spec import load
from mshare.errors import Failure, MshareError
from mshare.kernel.generations import NEWEST
from mshare.mount.spec import MountSpec
from mshare.region import status as region_status
from mshare.region.pattern import Pattern
from mshare.region.spec import RegionSpec
from mshare.region.status import OWNER
from mshare.runtime.manifest import manifest_text, parse_manifest
from mshare.services import status_file
from mshare.units import MIB

EXAMPLES = 2000 if os.environ.get("MSHARE_PROVE") else 200
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

GONE = 1 << 22
"""No process has this number."""


# -- what the product writes


def region_spec() -> RegionSpec:
    return RegionSpec.from_dict({"name": "sga", "size": "64MiB", "mode": "0660"})


def clients_spec() -> ClientsSpec:
    return ClientsSpec.from_dict({"region": "sga", "count": 2})


def owner_status(root: str) -> str:
    entry = MappingEntry.of(Mapping(0, 64 * MIB))
    first = region_status.starting("sga", root, region_spec().to_dict())
    status = replace(
        first,
        pid=GONE,
        state="ready",
        path=f"{root}/sga",
        backend="simulated",
        window_bytes=512 * MIB,
        mapped_bytes=64 * MIB,
        mappings=(entry,),
        prefault=region_status.Prefault(1, 2),
        pattern=Pattern(3, 0, 4096, 4096),
        error=Failure("failed", "why", 1),
    )
    return record.to_json(status)


def launcher_status(root: str) -> str:
    first = clients_status.starting("sga", root, clients_spec().to_dict(), 2, 4096)
    status = replace(
        first,
        pid=GONE,
        state="ready",
        attached=1,
        pids=(GONE,),
        dead=(DeadClient(1, GONE, "was killed by SIGKILL"),),
        errors=("client 1 was killed",),
        attach_ms_median=0.5,
    )
    return record.to_json(status)


def sidecar(root: str) -> str:
    placed = [Placed(Mapping(0, 64 * MIB), 1), Placed(Mapping(64 * MIB, 4096, "file", 1, "/x"), 2, 3, 4)]
    return Record(7, Task(GONE, GONE, 1), True, 512 * MIB, None, 3, placed).to_json()


def layout(root: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        Layout.create(directory, NEWEST)
        return Path(directory, ".simulated", "layout.json").read_text()


def manifest(root: str) -> str:
    return manifest_text(["/opt/mshare/x.py"], library="a", sha256="b", preload_sha256="c")


# -- what becomes of it

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["", "../x", "\ud800", "\x1b]0;x\x07", "2026-99-99"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
nothing_like_it = st.sampled_from(
    [
        b"",
        b"\n",
        b"{}",
        b"[]",
        b"null",
        b"3",
        b'{"mappings": [3]}',
        b"\xff\xfe{",
        b"\x00" * 4096,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema_version": 99}',
        b'{"schema_version": 99, "pid": "x", "started_ticks": [], "version": 3}',
        b'{"schema_version": NaN}',
        b'{"schema_version": 1e999}',
        b"9" * 5000,
    ]
)


@st.composite
def changed(draw: st.DrawFn, text: str) -> bytes:
    """One or two values of a good file, at any depth, that are something else, or are not there."""
    whole = json.loads(text)
    for __ in range(draw(st.integers(1, 2))):
        place = whole
        while True:
            keys = list(range(len(place))) if isinstance(place, list) else list(place)
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(json_values)
            break
    return json.dumps(whole).encode()


@st.composite
def cut(draw: st.DrawFn, text: str) -> bytes:
    return text.encode()[: draw(st.integers(0, len(text)))]


@st.composite
def spoilt(draw: st.DrawFn, text: str) -> bytes:
    """Some bytes are others."""
    raw = bytearray(text.encode())
    for __ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw)


def garbled(text: str) -> st.SearchStrategy[bytes]:
    return (
        changed(text)
        | changed(text)
        | cut(text)
        | spoilt(text)
        | nothing_like_it
        | st.binary(max_size=64)
        | json_values.map(lambda value: json.dumps(value).encode())
    )


# -- readers


def read_owner(path: str) -> object:
    return status_file.peek("/m", "sga", OWNER)


def read_launcher(path: str) -> object:
    return status_file.peek("/m", "sga", CLIENTS)


def read_sidecar(path: str) -> object:
    return Record.from_json(Path(path).read_bytes(), path)


def read_layout(path: str) -> object:
    return Layout.read(os.path.dirname(os.path.dirname(path)))


def read_manifest(path: str) -> object:
    return parse_manifest(Path(path).read_bytes().decode(errors="surrogateescape"), path)


def read_spec(kind: type[RegionSpec] | type[ClientsSpec] | type[MountSpec]) -> Callable[[str], object]:
    return lambda path: kind.from_dict(load(path))


READERS = {
    "owner's status": ("run/m/sga.owner.json", owner_status, read_owner),
    "launcher's status": ("run/m/sga.clients.json", launcher_status, read_launcher),
    "sidecar": ("sga.json", sidecar, read_sidecar),
    "layout": ("root/.simulated/layout.json", layout, read_layout),
    "manifest": ("manifest.json", manifest, read_manifest),
    "region's spec": ("region.json", lambda root: region_spec().to_json(), read_spec(RegionSpec)),
    "clients' spec": ("clients.json", lambda root: clients_spec().to_json(), read_spec(ClientsSpec)),
    "mount's spec": (
        "mount.json",
        lambda root: MountSpec("simulated", "/m", size_bytes=64 * MIB).to_json(),
        read_spec(MountSpec),
    ),
}


def sentence(read: Callable[[], object]) -> str | None:
    """What is said instead of an answer."""
    try:
        read()
    except MshareError as error:
        return str(error)
    return None


@pytest.fixture
def tries(record_property):
    """For the count of `make prove`."""
    record_property("tries", EXAMPLES)


@pytest.mark.usefixtures("tries")
@pytest.mark.parametrize("what", READERS)
@many
@given(data=st.data())
def test_a_reader_gives_a_record_or_a_sentence(tmp_path, monkeypatch, what, data):
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "run"))
    name, write, read = READERS[what]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    good = write("/m")
    path.unlink(missing_ok=True)
    path.write_bytes(data.draw(garbled(good)))
    said = sentence(lambda: read(str(path)))
    assert said is None or (said and "\n" not in said)


@pytest.mark.parametrize("what", READERS)
def test_what_the_product_writes_is_read(tmp_path, monkeypatch, what):
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "run"))
    name, write, read = READERS[what]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(write("/m"))
    assert not isinstance(read(str(path)), status_file.Unread)


# -- commands


class Host:
    """A simulated msharefs with two regions whose owners have ended, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.state = directory / "run"
        self.environment = {
            "MSHARE_CONFIG_DIR": str(directory / "etc"),
            "MSHARE_STATE_DIR": str(self.state),
            "MSHARE_ROOT": str(self.root),
        }
        self.root.mkdir()
        made = Layout.create(str(self.root), NEWEST)
        self.files: dict[str, Path] = {"layout": self.root / ".simulated" / "layout.json"}
        for name in ("good", "sga"):
            (self.root / name).touch()
            first = Record.from_json(sidecar(""))
            made.create_sidecar(name, replace(first, inode=os.stat(self.root / name).st_ino), 0o600).close()
        self.files["sidecar"] = Path(made.sidecar_path("sga"))
        for role, text in ((OWNER, owner_status(str(self.root))), (CLIENTS, launcher_status(str(self.root)))):
            path = Path(self.state, status_file.paths.escape(str(self.root)), f"sga.{role}.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            self.files[role.name] = path

    def run(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(mshare, [*words], env=self.environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output


@pytest.fixture
def new_host() -> Iterator[Callable[[], Host]]:
    made = []

    def make() -> Host:
        made.append(Path(tempfile.mkdtemp(prefix="mshare-garbled-", dir="/dev/shm")))
        return Host(made[-1])

    yield make
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)


LOOKS = (
    ("list",),
    ("--json", "list"),
    ("info",),
    ("stat", "sga"),
    ("clients", "status", "sga"),
    ("clients", "count", "sga"),
    ("validate", "sga", "--probes", "1", "--span", "2MiB"),
    ("umount", "--check"),
)
DOCUMENTED = {0, 1, 2, 3, 4, 5}
ORIGINALS = {"owner": owner_status, "clients": launcher_status, "sidecar": sidecar, "layout": layout}


@pytest.mark.usefixtures("tries")
@pytest.mark.parametrize("what", ORIGINALS)
@many
@given(data=st.data())
def test_commands_go_on_and_an_end_is_always_possible(new_host, what, data):
    host = new_host()
    host.files[what].chmod(0o644)
    host.files[what].write_bytes(data.draw(garbled(ORIGINALS[what](str(host.root)))))
    try:
        for words in data.draw(st.lists(st.sampled_from(LOOKS), min_size=1, max_size=2)):
            code, output = host.run(*words)
            assert code in DOCUMENTED, output
            if words[-1] == "list":
                assert code == 0, output
                assert "good" in output
        if what == "layout" or data.draw(st.booleans()):
            code, output = host.run("umount", "--force", "--root", str(host.root))
            assert code == 0, output
            assert not (host.root / ".simulated").exists()
        else:
            code, output = host.run("rm", "sga", "--force")
            assert code == 0, output
            # By name: the name of a folder can have any letters.
            names = [region["name"] for region in json.loads(host.run("--json", "list")[1])["regions"]]
            assert names == ["good"]
    finally:
        shutil.rmtree(host.root.parent, ignore_errors=True)
