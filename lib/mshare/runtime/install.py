# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs the library on a host. A manifest lists the files, so that exactly these can be removed."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from .. import __version__, paths
from ..collapse.spec import followed
from ..converge.outcome import ABSENT, Outcome, chosen, lock_left, one_at_a_time
from ..errors import Conflict, MshareError, Unavailable
from ..files import Access, left_at, read_text, remove, remove_empty, set_access, write_text
from ..host import procfs
from ..postgresql.files import recorded
from ..preload import library, shipped
from ..services import systemd
from ..services.choose import current
from ..units import counted
from .manifest import (
    IMPORTS,
    Place,
    listed_files,
    manifest_of,
    manifest_text,
    missing_imports_code,
    preload_sources,
    read_manifest,
    summary,
    wanted_files,
)

_NAMED = 5
_COMMAND_CHARACTERS = 60


def missing_imports(python: str) -> list[str]:
    """Which of IMPORTS an interpreter lacks; Unavailable if there is no such interpreter."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", missing_imports_code()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except OSError as error:
        raise Unavailable(
            f"{python} cannot be run ({error.strerror}); install Python 3.9 or newer, or choose another"
            " interpreter"
        ) from None
    if done.returncode != 0:
        raise Unavailable(f"{python} does not work: {done.stdout.strip()}; choose another interpreter")
    return done.stdout.split()


def missing_sentence(python: str, missing: list[str]) -> str:
    """The message for missing imports."""
    packages = ", ".join(IMPORTS[name] for name in missing)
    return f"{python} lacks {', '.join(missing)}, which the library needs; install {packages}"


def has_preload(place: Place) -> bool:
    """Whether the preload is installed."""
    return place.preload in listed_files(place)


def lacks_compiler(place: Place, sources: dict[str, str]) -> bool:
    """Whether the preload has to be built, but there is no compiler."""
    return _preload_outdated(place, sources) and not library.compilers()


def _preload_outdated(place: Place, sources: dict[str, str]) -> bool:
    known = read_manifest(place)
    wanted = library.digest(preload_sources(sources))
    return known is None or known.preload_sha256 != wanted or not all(map(os.path.exists, place.built))


def present(
    place: Place,
    sources: dict[str, str],
    *,
    preload: bool = False,
    built: Mapping[str, bytes] | None = None,
    check: bool = False,
    runs: bool = True,
) -> Outcome[object]:
    """Ensure that the library, given as path -> text, is installed. Running processes are not touched.

    It must run afterwards, unless the modules that it imports are yet to be installed (`runs`).
    `preload` also builds the library of `mshare run` and the program of lean clients; Unavailable without a
    compiler. `built` are these, built elsewhere, by name; Unavailable if they do not fit this host.
    """
    files = wanted_files(place, sources, current().survives_reboot)
    binaries = [*place.built] if preload else []
    manifest = manifest_of(files, sources, binaries)
    build = preload and _preload_outdated(place, sources)
    if build and built is not None:
        shipped.require_all_fit(built)
    outdated = sorted(path for path, text in files.items() if read_text(path) != text)
    left_over = sorted(set(listed_files(place)) - set(files) - set(binaries))
    differs = read_text(place.manifest) != manifest
    modes = wrong_modes(place, [*files, place.manifest, *binaries])
    actions = chosen(
        (
            (
                bool(outdated) or (differs and not build and not left_over),
                f"install version {__version__} of the library into {place.directory}",
            ),
            (
                build,
                f"{'build' if built is None else 'install, built elsewhere,'} {' and '.join(place.built)}",
            ),
            (bool(left_over), f"remove files that are no longer wanted: {len(left_over)}"),
            (bool(modes), f"let all users read {', '.join(sorted(modes)[:_NAMED])}"),
        )
    )
    stale = [path for path in place.built if os.path.exists(path)] if build else []
    before = summary(read_text(place.manifest), sorted({*outdated, *left_over, *stale, *modes}))
    if actions and not check:
        _require_access(place)
        if build and built is None:
            library.compiler()
        with one_at_a_time(False), _readable_by_all():
            # The manifest first, so that after an interruption it lists everything that may exist.
            begun = manifest_text({*files, *left_over, *binaries})
            write_text(place.manifest, begun)
            for path in outdated:
                write_text(path, files[path], 0o755 if path == place.executable else 0o644)
            _remove(left_over)
            if build:
                _build(place, sources, built)
            _compile(place)
            if any(path.startswith(systemd.UNIT_DIRECTORY) for path in outdated):
                systemd.systemctl("daemon-reload")
            write_text(place.manifest, manifest)
            for path, mode in wrong_modes(place, [*files, place.manifest, *place.built]).items():
                set_access(path, Access(mode))
            if runs:
                _require_runs(place)
    return Outcome(bool(actions), actions, before, summary(manifest))


def _build(place: Place, sources: dict[str, str], built: Mapping[str, bytes] | None) -> None:
    for path, product in place.built.items():
        if built is None:
            library.build(path, preload_sources(sources), product)
        else:
            library.put(built[product.file_name], path)


@contextlib.contextmanager
def _readable_by_all() -> Iterator[None]:
    """Files and folders for other users, whatever the umask: a server's user loads the preload from there."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def wrong_modes(place: Place, paths: Iterable[str]) -> dict[str, int]:
    """Which of the files, and of our folders above them, have another mode than they should: path -> mode."""
    wrong = {}
    programs = (place.executable, *place.built)
    folders = {
        folder
        for path in paths
        for folder in map(str, PurePosixPath(path).parents)
        if folder == place.directory or folder.startswith(place.directory + "/")
    }
    wanted = {path: 0o755 if path in programs else 0o644 for path in paths}
    for path, mode in {**wanted, **dict.fromkeys(folders, 0o755)}.items():
        with contextlib.suppress(FileNotFoundError):
            if stat.S_IMODE(os.lstat(path).st_mode) != mode:
                wrong[path] = mode
    return wrong


def _require_runs(place: Place) -> None:
    """Raise MshareError, with its output, if the installed command line does not run."""
    done = subprocess.run(
        [place.executable, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 or __version__ not in done.stdout:
        printed = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        raise MshareError(
            f"`{place.executable} --version` should print {__version__}, but printed {printed}; run it by"
            f" hand"
            f" with {place.python} to see what that interpreter lacks"
        )


def _require_access(place: Place) -> None:
    """Raise Unavailable, before anything is written, if this user may not write to both places."""
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
    """Compile now for faster starts: byte code written later by root would not be listed."""
    subprocess.run(
        [place.python, "-I", "-m", "compileall", "-q", os.path.join(place.directory, "mshare")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _remove(files: list[str]) -> None:
    """Remove files, their byte code, and directories that become empty."""
    directories, manual = set(), set()
    for path in files:
        remove(path)
        if path.endswith((".c", ".h")):
            # The C lies in a folder of its own in that of the preload.
            directories |= {os.path.dirname(path), os.path.dirname(os.path.dirname(path))}
        elif path.endswith(".1"):
            manual.add(os.path.dirname(path))
        elif path.endswith(".py"):
            caches = os.path.join(os.path.dirname(path), "__pycache__")
            stem = PurePosixPath(path).stem
            if os.path.isdir(caches):
                remove(
                    *(
                        os.path.join(caches, name)
                        for name in os.listdir(caches)
                        if name.startswith(f"{stem}.")
                    )
                )
            directories |= {caches, os.path.dirname(path)}
    remove_empty(*sorted(directories, key=len, reverse=True), *filter(_is_only_section, manual))


def _is_only_section(folder: str) -> bool:
    """Whether no other section of the manual is beside one. Debian has none in /usr/local, EL all of them."""
    try:
        return os.listdir(os.path.dirname(folder)) == [os.path.basename(folder)]
    except OSError:
        return False


def _require_unused(libraries: list[str]) -> None:
    """Conflict, naming them, while processes have the preload mapped: what they start would be without it."""
    users = library.users(libraries)
    if users:
        named = "; ".join(f"{pid} ({procfs.command(pid)[:_COMMAND_CHARACTERS]})" for pid in users[:_NAMED])
        more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
        raise Conflict(
            f"the preload {' and '.join(libraries)} is mapped by"
            f" {counted(len(users), 'running process', 'running processes')}: {named}{more}; stop them, or"
            " restart them without it, and run this again"
        )


def absent(place: Place, *, check: bool = False) -> Outcome[object]:
    """Ensure that the library is not installed: remove what the manifest lists, and the manifest."""
    files = _installed_files(place)
    if not files and not lock_left():
        if not check:
            # All that is left where the last step of an earlier removal failed.
            remove_empty(paths.state_dir())
        return Outcome(False, [], ABSENT, ABSENT)
    if files and not check:
        _require_access(place)
    with one_at_a_time(check):
        return _absent(place, check)


def _installed_files(place: Place) -> list[str]:
    # A process that was killed at its very first step has not even finished the manifest.
    unfinished = [place.manifest] if left_at(place.manifest) else []
    return [*listed_files(place), *library.cached(), *unfinished]


def _absent(place: Place, check: bool) -> Outcome[object]:
    files = _installed_files(place)
    if not files:
        return Outcome(False, [], ABSENT, ABSENT)
    users = recorded()
    if users:
        raise Conflict(
            f"PostgreSQL cluster {', '.join(users)} is started with the library in {place.directory}; undo"
            f" that first (playbook dbmem.mshare.postgresql with mshare_postgresql_state=absent)"
        )
    servers = followed()
    if servers:
        raise Conflict(
            f"the library in {place.directory} keeps {', '.join(servers)} in huge pages; stop that first"
            " (module mshare_collapse with state: absent, or playbook dbmem.mshare.remedy with"
            " mshare_remedy_state=absent)"
        )
    if os.path.lexists(paths.monitoring_file()):
        raise Conflict(
            f"the library in {place.directory} surveys this host for Prometheus; stop that first"
            " (playbook dbmem.mshare.monitoring with mshare_monitoring_state=absent)"
        )
    _require_unused([path for path in files if path.endswith(".so")])
    actions = [f"remove the library from {place.directory}"]
    before = summary(read_text(place.manifest))
    if not check:
        units = any(path.startswith(systemd.UNIT_DIRECTORY) for path in files)
        if units:
            systemd.stop_target()
        # The manifest last: until then it lists what there is to be removed.
        _remove([path for path in files if path != place.manifest])
        remove(place.manifest)
        remove_empty(place.directory, paths.cache_dir())
        if units:
            systemd.systemctl("daemon-reload")
    return Outcome(True, actions, before, ABSENT)
