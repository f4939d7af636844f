# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of an installation, and the manifest that lists them."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .. import __version__, record
from ..converge.outcome import ABSENT
from ..files import read_text
from ..preload import library
from ..services import systemd

# Imported module -> name of the package in Debian (and in Fedora).
IMPORTS = {
    "cffi": "python3-cffi",
    "click": "python3-click",
    "psutil": "python3-psutil",
    "rich": "python3-rich",
    "yaml": "python3-yaml (python3-pyyaml)",
}
MANUAL = "man/"
"""The folder of the manual pages, below the package."""
_MANUAL_OF = {"/usr/local/bin": "/usr/local/share/man/man1", "/usr/bin": "/usr/share/man/man1"}
PRELOAD = "preload/src/"
"""The folder of the preload's C sources, below the package."""


@dataclass(frozen=True)
class Place:
    """Where the library is installed, and which Python runs it."""

    directory: str
    executable: str
    python: str

    @property
    def manifest(self) -> str:
        return os.path.join(self.directory, "manifest.json")

    @property
    def manual(self) -> str | None:
        """The folder of its manual pages; None for a program outside the folders that man(1) knows."""
        return _MANUAL_OF.get(os.path.dirname(self.executable))

    @property
    def preload(self) -> str:
        return os.path.join(self.directory, library.PRELOAD.file_name)

    @property
    def built(self) -> dict[str, library.Product]:
        """What is built of the C sources, by path: the preload, and the program of lean clients."""
        return {os.path.join(self.directory, product.file_name): product for product in library.PRODUCTS}

    def program(self) -> str:
        """The text of the command line. Isolated (-I), because the environment must not change an owner."""
        return (
            f"#!{self.python} -I\n"
            "# Managed by dbmem.mshare; changes made here are overwritten.\n"
            "import sys\n\n"
            f"sys.path.insert(0, {self.directory!r})\n"
            "from mshare.cli import main\n\n"
            "main()\n"
        )


def missing_imports_code() -> str:
    return (
        "import importlib.util;"
        f"print(*[name for name in {list(IMPORTS)!r} if not importlib.util.find_spec(name)])"
    )


def wanted_files(place: Place, sources: dict[str, str], units: bool) -> dict[str, str]:
    files = {
        os.path.join(place.directory, "mshare", path): text
        for path, text in sources.items()
        if not path.startswith(MANUAL)
    }
    files.update(_manual(place, sources))
    files[place.executable] = place.program()
    if units:
        files.update(systemd.templates(place.executable))
    return files


def _manual(place: Place, sources: dict[str, str]) -> dict[str, str]:
    """The manual pages, where man(1) looks for those of programs in this place; elsewhere none."""
    folder = place.manual
    if folder is None:
        return {}
    return {
        os.path.join(folder, path[len(MANUAL) :]): text
        for path, text in sources.items()
        if path.startswith(MANUAL)
    }


def preload_sources(sources: dict[str, str]) -> dict[str, str]:
    """The preload's sources, as file name -> text, out of the library's (path below the package -> text)."""
    return {path[len(PRELOAD) :]: text for path, text in sources.items() if path.startswith(PRELOAD)}


def digest(files: dict[str, str]) -> str:
    """A checksum of the names and texts of files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def manifest_of(files: dict[str, str], sources: dict[str, str], built: Iterable[str]) -> str:
    """The manifest of an installation; `built` are the paths of what is built on the host or shipped."""
    preload = [*built]
    return manifest_text(
        [*files, *preload],
        library=digest(sources),
        sha256=digest(files),
        # A checksum of its sources, which decide whether it is built again.
        preload_sha256=library.digest(preload_sources(sources)) if preload else None,
    )


def manifest_text(files: Iterable[str], **digests: str | None) -> str:
    """A manifest. Without digests, the installation has not been completed and is done again."""
    fields: dict[str, object] = {"version": __version__, "library": None, "sha256": None}
    return json.dumps({**fields, "files": sorted(files), "preload_sha256": None, **digests}, indent=2) + "\n"


def manifest(place: Place, sources: dict[str, str], *, units: bool = False, preload: bool = False) -> str:
    """The manifest of an installation, with or without systemd's units and the preload."""
    return manifest_of(wanted_files(place, sources, units), sources, place.built if preload else ())


def check_command(place: Place, sources: dict[str, str], preload: bool = False) -> str:
    """A shell command that succeeds if exactly this is installed and no import is missing."""
    sums = {units: _sums(place, sources, units, preload) for units in (False, True)}
    # Python prints what is missing; its exit code does not tell.
    lacks = f"{shlex.quote(place.python)} -I -c {shlex.quote(missing_imports_code())}"
    binaries = [*place.built] if preload else []
    built = "".join(f" [ -e {shlex.quote(path)} ] &&" for path in binaries)
    folders = {
        os.path.dirname(path)
        for path in wanted_files(place, sources, False)
        if path.startswith(place.directory + "/")
    }
    programs = [place.directory, *sorted(folders), place.executable, *binaries]
    modes = f"stat -c %a {' '.join(map(shlex.quote, programs))} 2>/dev/null | sort -u"
    return (
        f'[ "$({modes})" = 755 ] || exit 1; '
        f"if [ -d /run/systemd/system ]; then sums={shlex.quote(sums[True])}; else"
        f" sums={shlex.quote(sums[False])}; fi;{built}"
        ' printf %s "$sums" | sha256sum --status -c - 2>/dev/null &&'
        f' lacks=$({lacks}) && [ -z "$lacks" ]'
    )


def _sums(place: Place, sources: dict[str, str], units: bool, preload: bool) -> str:
    """The input of sha256sum that checks every file and the manifest."""
    own = manifest(place, sources, units=units, preload=preload)
    files = {**wanted_files(place, sources, units), place.manifest: own}
    return "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in files.items())


@dataclass(frozen=True)
class Manifest:
    """What is installed, as it is written down."""

    version: str
    library: str | None
    """A digest of the library's sources; None while an installation is under way, as the next ones."""
    sha256: str | None
    files: tuple[str, ...]
    preload_sha256: str | None
    """Of the preload's sources; None where it is not installed."""


def read_manifest(place: Place) -> Manifest | None:
    """What is installed; None where nothing is, MshareError for a manifest that is damaged."""
    text = read_text(place.manifest)
    return None if text is None else parse_manifest(text, place.manifest)


def parse_manifest(text: str, path: str) -> Manifest:
    raw = text.encode(errors="surrogateescape")
    return record.parse(Manifest, raw, path, "remove the directory it is in, and install the library again")


def listed_files(place: Place) -> list[str]:
    fields = read_manifest(place)
    return [] if fields is None else [*fields.files]


def summary(manifest: str | None, differs: Iterable[str] = ()) -> Mapping[str, object]:
    """A side of the diff: what is installed, and which files are not as they should be."""
    if manifest is None:
        return ABSENT
    fields = parse_manifest(manifest, "the manifest")
    preload = {"preload": "built"} if fields.preload_sha256 else {}
    files = {"differs": list(differs)} if differs else {}
    return {"state": "present", "version": fields.version, **preload, **files}
