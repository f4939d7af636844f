# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing the library on a host: files that are listed, so that exactly they can be removed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from . import __version__, paths, preloading, state, supervisor, systemd
from .converge.base import ABSENT, Outcome, chosen, one_at_a_time
from .errors import Conflict, MshareError, Unavailable
from .postgresql.files import recorded
from .preload_settings import FILE_NAME

# What the library imports -> what Debian and Fedora call the package.
IMPORTS = {
    "cffi": "python3-cffi",
    "click": "python3-click",
    "rich": "python3-rich",
    "yaml": "python3-yaml (python3-pyyaml)",
}


# Packages of the library that only the controller uses.
CONTROLLERS = ("report",)
PRELOAD = "preload/src/"
"""Where below the package the preload's C sources are."""


@dataclass(frozen=True)
class Place:
    """Where the library goes, and which Python runs it."""

    directory: str
    executable: str
    python: str

    @property
    def manifest(self) -> str:
        return os.path.join(self.directory, "manifest.json")

    @property
    def preload(self) -> str:
        return os.path.join(self.directory, FILE_NAME)

    def program(self) -> str:
        """The text of the command line. Isolated (-I): a user's environment must not change an owner."""
        return (
            f"#!{self.python} -I\n"
            "# Managed by dbmem.mshare; changes made here are overwritten.\n"
            "import sys\n\n"
            f"sys.path.insert(0, {self.directory!r})\n"
            "from mshare.cli import main\n\n"
            "main()\n"
        )


def _missing_test() -> str:
    return (
        "import importlib.util;"
        f"print(*[name for name in {list(IMPORTS)!r} if not importlib.util.find_spec(name)])"
    )


def missing_imports(python: str) -> list[str]:
    """Which of IMPORTS an interpreter lacks; Unavailable where there is no interpreter."""
    try:
        asked = subprocess.run(
            [python, "-I", "-c", _missing_test()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Unavailable(
            f"{python} cannot be run ({error.strerror}); install Python 3.9 or newer, or name another"
            " interpreter"
        ) from None
    if asked.returncode != 0:
        raise Unavailable(f"{python} does not work: {asked.stdout.strip()}; name another interpreter")
    return asked.stdout.split()


def missing_sentence(python: str, missing: list[str]) -> str:
    """What to do about missing imports."""
    packages = ", ".join(IMPORTS[name] for name in missing)
    return f"{python} lacks {', '.join(missing)}, which the library needs; install {packages}"


def _files(place: Place, sources: dict[str, str], units: bool) -> dict[str, str]:
    files = {os.path.join(place.directory, "mshare", path): text for path, text in sources.items()}
    files[place.executable] = place.program()
    if units:
        files.update(systemd.templates(place.executable))
    return files


def preload_sources(sources: dict[str, str]) -> dict[str, str]:
    """Of the library's sources, path below the package -> text, the preload's: file name -> text."""
    return {path[len(PRELOAD) :]: text for path, text in sources.items() if path.startswith(PRELOAD)}


def digest(files: dict[str, str]) -> str:
    """One number for the names and texts of files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _manifest(files: dict[str, str], sources: dict[str, str], preload: str | None) -> str:
    """What is installed; `preload` is the path of the preload's library, built here: it has no text."""
    return _listed(
        [*files, preload] if preload else files,
        library=digest(sources),
        sha256=digest(files),
        # Of its sources: they decide whether it is built anew.
        preload_sha256=preloading.digest(preload_sources(sources)) if preload else None,
    )


def _listed(files: Iterable[str], **digests: str | None) -> str:
    """A manifest. Without digests it is of an installation under way: one that was killed is done again."""
    fields: dict[str, object] = {"version": __version__, "library": None, "sha256": None}
    return json.dumps({**fields, "files": sorted(files), "preload_sha256": None, **digests}, indent=2) + "\n"


def manifest(place: Place, sources: dict[str, str], *, units: bool = False, preload: bool = False) -> str:
    """The text of the manifest of what belongs on a host, with systemd's units and the preload or without."""
    return _manifest(_files(place, sources, units), sources, place.preload if preload else None)


def check_command(place: Place, sources: dict[str, str], preload: bool = False) -> str:
    """A shell command that succeeds where exactly this is installed, and the interpreter lacks nothing."""
    sums = {units: _sums(place, sources, units, preload) for units in (False, True)}
    # By an answer of Python's, not by its exit code: it prints what is missing.
    lacks = f"{shlex.quote(place.python)} -I -c {shlex.quote(_missing_test())}"
    built = f" [ -e {shlex.quote(place.preload)} ] &&" if preload else ""
    return (
        f"if [ -d /run/systemd/system ]; then sums={shlex.quote(sums[True])}; else"
        f" sums={shlex.quote(sums[False])}; fi;{built}"
        ' printf %s "$sums" | sha256sum --status -c - 2>/dev/null &&'
        f' lacks=$({lacks}) && [ -z "$lacks" ]'
    )


def _sums(place: Place, sources: dict[str, str], units: bool, preload: bool) -> str:
    """What sha256sum takes to check every file, and the manifest."""
    own = manifest(place, sources, units=units, preload=preload)
    files = {**_files(place, sources, units), place.manifest: own}
    return "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in files.items())


def _installed(place: Place) -> list[str]:
    text = state.read_text(place.manifest)
    return [] if text is None else list(json.loads(text)["files"])


def summary(manifest: str | None) -> dict[str, object]:
    """A side of the diff: what is installed, not what is in every file."""
    if manifest is None:
        return ABSENT
    fields = json.loads(manifest)
    return {
        "state": "present",
        "version": fields["version"],
        "sha256": fields["sha256"],
        "preload_sha256": fields.get("preload_sha256"),
    }


def has_preload(place: Place) -> bool:
    """Whether the preload is among what is installed."""
    return place.preload in _installed(place)


def lacks_compiler(place: Place, sources: dict[str, str]) -> bool:
    """Whether the preload has to be built and cannot be."""
    return _preload_outdated(place, sources) and not preloading.compilers()


def _preload_outdated(place: Place, sources: dict[str, str]) -> bool:
    fields = json.loads(state.read_text(place.manifest) or "{}")
    wanted = preloading.digest(preload_sources(sources))
    return fields.get("preload_sha256") != wanted or not os.path.exists(place.preload)


def present(
    place: Place, sources: dict[str, str], *, preload: bool = False, check: bool = False, runs: bool = True
) -> Outcome:
    """See to it that the library, given as path -> text, is installed; what runs is not touched.

    It has to run then, unless what it imports is still to be installed. `preload` builds the library of
    `mshare run` as well; Unavailable where no compiler is.
    """
    files = _files(place, sources, supervisor.current().survives_reboot)
    manifest = _manifest(files, sources, place.preload if preload else None)
    build = preload and _preload_outdated(place, sources)
    outdated = sorted(path for path, text in files.items() if state.read_text(path) != text)
    left_over = sorted(set(_installed(place)) - set(files) - ({place.preload} if preload else set()))
    differs = state.read_text(place.manifest) != manifest
    actions = chosen(
        (
            (
                bool(outdated) or (differs and not build and not left_over),
                f"install version {__version__} of the library into {place.directory}",
            ),
            (build, f"build {place.preload}"),
            (bool(left_over), f"remove files that are no longer wanted: {len(left_over)}"),
        )
    )
    before = summary(state.read_text(place.manifest))
    if actions and not check:
        _require_access(place)
        if build:
            preloading.compiler()
        with one_at_a_time(False):
            # The manifest first: whatever happens, it lists what there may be to remove.
            begun = _listed({*files, *left_over, *([place.preload] if preload else [])})
            state.write_text(place.manifest, begun)
            for path in outdated:
                state.write_text(path, files[path], 0o755 if path == place.executable else 0o644)
            _remove(left_over)
            if build:
                preloading.build(place.preload, preload_sources(sources))
            _compile(place)
            if any(path.startswith(systemd.UNIT_DIRECTORY) for path in outdated):
                systemd.systemctl("daemon-reload")
            state.write_text(place.manifest, manifest)
            if runs:
                _require_runs(place)
    return Outcome(bool(actions), actions, before, summary(manifest))


def _require_runs(place: Place) -> None:
    """MshareError for a command line that is installed and does not run, with what it said."""
    asked = subprocess.run(
        [place.executable, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if asked.returncode != 0 or __version__ not in asked.stdout:
        said = (asked.stdout.strip().splitlines() or ["nothing"])[-1]
        raise MshareError(
            f"`{place.executable} --version` should say {__version__} and said {said}; run it by hand with"
            f" {place.python}, and look what that interpreter lacks"
        )


def _require_access(place: Place) -> None:
    """Unavailable, before anything is written, for a user who may not change both places."""
    for path in (place.directory, os.path.dirname(place.executable)):
        existing = os.path.abspath(path)
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        if not os.access(existing, os.W_OK):
            raise Unavailable(
                f"the library in {place.directory} with {place.executable} cannot be changed by uid"
                f" {os.geteuid()}, who may not write to {existing}; run as root (become: true), or choose"
                " other places"
            )


def _compile(place: Place) -> None:
    """Byte code for faster starts, made now: later a root's run would leave it behind unlisted."""
    subprocess.run(
        [place.python, "-I", "-m", "compileall", "-q", os.path.join(place.directory, "mshare")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _remove(files: list[str]) -> None:
    """Remove files, the byte code of each, and directories that nothing is left in."""
    directories = set()
    for path in files:
        state.remove(path)
        if path.endswith((".c", ".h")):
            directories.add(os.path.dirname(path))
        elif path.endswith(".py"):
            caches = os.path.join(os.path.dirname(path), "__pycache__")
            stem = PurePosixPath(path).stem
            if os.path.isdir(caches):
                state.remove(
                    *(
                        os.path.join(caches, name)
                        for name in os.listdir(caches)
                        if name.startswith(f"{stem}.")
                    )
                )
            directories |= {caches, os.path.dirname(path)}
    state.remove_empty(*sorted(directories, key=len, reverse=True))


def absent(place: Place, *, check: bool = False) -> Outcome:
    """See to it that nothing of the library is left: what the manifest lists, and the manifest."""
    files = [*_installed(place), *preloading.cached()]
    if not files:
        return Outcome(False, [], ABSENT, ABSENT)
    users = recorded()
    if users:
        raise Conflict(
            f"the library in {place.directory} is what PostgreSQL cluster {', '.join(users)} is started with;"
            " take it back first (playbook dbmem.mshare.postgresql with mshare_postgresql_state=absent)"
        )
    actions = [f"remove the library from {place.directory}"]
    before = summary(state.read_text(place.manifest))
    if not check:
        _require_access(place)
        units = any(path.startswith(systemd.UNIT_DIRECTORY) for path in files)
        if units:
            systemd.stop_target()
        _remove(files)
        state.remove(place.manifest)
        state.remove_empty(place.directory, paths.cache_dir())
        if units:
            systemd.systemctl("daemon-reload")
    return Outcome(True, actions, before, ABSENT)
