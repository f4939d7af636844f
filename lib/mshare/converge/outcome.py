# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the three kinds of converging have in common."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .. import __version__, files, paths, record
from ..backends import choose
from ..errors import MshareError, Unavailable
from ..services import status_file
from ..services.lock import locked
from ..services.status_file import AnyRole
from ..services.supervisor import Supervisor
from .processes import Start
from .spec import Spec, load

_TURN = "changing this host"
# How long a second deploy on the same host waits for the first.
_LOCK_SECONDS = 120.0


Facts_co = TypeVar("Facts_co", covariant=True)


@dataclass(frozen=True)
class Outcome(Generic[Facts_co]):
    """What was, or in a check run would be, done."""

    changed: bool
    actions: list[str]
    before: Mapping[str, object]
    after: Mapping[str, object]
    facts: Facts_co | None = None
    """What is there now, as in the inventory; None where there is nothing, or not yet in a check run."""
    boot: Mapping[str, object] = field(default_factory=dict)
    """What comes back after a reboot: managed, enabled, reason."""
    fills_bytes: int = 0
    """Memory that is taken at once, by prefaulting."""
    fills_root: str | None = None
    """Whose file system has to have room for that; None where what is there now makes room first."""
    warnings: list[str] = field(default_factory=list)
    """What on this host may do harm later, or is left as it is; one sentence each."""
    starts: Start | None = None
    """The processes that are started, where any are."""

    def answer(self) -> dict[str, object]:
        """The facts for JSON: empty where there are none."""
        return {} if self.facts is None else record.to_fields(self.facts)

    def to_dict(self, facts: str) -> dict[str, object]:
        """As the command line answers; `facts` is what the facts are called there ("region", "clients")."""
        return {**{name: getattr(self, name) for name in ANSWERED}, facts: self.answer()}


ANSWERED = ("changed", "actions", "before", "after", "boot", "warnings")
"""What every answer has besides its facts."""


ABSENT: Mapping[str, object] = {"state": "absent"}


def present(spec: Spec) -> dict[str, object]:
    """The side of a diff on which a spec holds."""
    return {"state": "present", **spec.to_dict()}


# The locks that this process holds.
_HELD: set[str] = set()


@contextlib.contextmanager
def one_at_a_time(check: bool) -> Iterator[None]:
    """One converging process per host; a check run changes nothing and needs no turn.

    What has several steps takes its turn for all of them: within it, each step has it.
    """
    path = _lock()
    if check or path in _HELD:
        yield
        return
    try:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(path, _TURN, _LOCK_SECONDS))
            except PermissionError as error:
                raise Unavailable(
                    f"uid {os.geteuid()} may not write in {paths.state_dir()} ({error.strerror}), where what"
                    " runs is written down; run as root or as its user, or set MSHARE_STATE_DIR"
                ) from error
            _HELD.add(path)
            try:
                yield
            finally:
                _HELD.remove(path)
                # Where nothing is deployed, or any more, nothing of ours stays: neither the directories that
                # a process left that was killed while it removed a spec file, nor this.
                files.remove_empty(*paths.spec_directories(), paths.config_dir())
                # What has been done is done, whatever becomes of an empty file that the next one removes.
                with contextlib.suppress(OSError):
                    files.remove(path)
    finally:
        files.remove_empty(paths.state_dir())


def _lock() -> str:
    return os.path.join(paths.state_dir(), "converge.lock")


def remove_left_lock() -> None:
    """Remove the lock that a killed process left, unless somebody holds it: for who needs no turn."""
    if lock_left():
        with contextlib.suppress(MshareError, OSError), locked(_lock(), _TURN, 0):
            files.remove(_lock())
    files.remove_empty(paths.state_dir())


def lock_left() -> bool:
    """Whether there is a lock that this user may take and remove: a killed process leaves one."""
    return os.access(_lock(), os.W_OK)


def other_version(version: str | None) -> str | None:
    """In which versions what runs and the library differ, as part of a sentence; None if they do not."""
    if version in (None, __version__):
        return None
    return f"runs version {version} of the library, and {__version__} is installed"


def outdated_warnings(what: str, outdated: str | None, option: str) -> list[str]:
    """The warning for something that runs another version and is left alone."""
    return [f"{what} {outdated}; it keeps using that version until {option}: true"] if outdated else []


def chosen(steps: Iterable[tuple[bool, str]]) -> list[str]:
    """The sentences of the steps that are to be taken."""
    return [text for wanted, text in steps if wanted]


def differing_keys(wanted: Spec, stored: Mapping[str, object] | None) -> list[str]:
    """The keys in which a spec differs from the spec that something was created with."""
    if stored is None:
        return []
    mine = wanted.to_dict()
    return sorted(key for key in {*mine, *stored} if mine.get(key) != stored.get(key))


def locate(backend: str, root: str | None, check: bool) -> str | None:
    """The root to work on. None in a check run on a host that was never provisioned."""
    try:
        return choose.locate(backend, root).root
    except Unavailable:
        if not check:
            raise
        choose.choose(backend)
        return None


def locate_leftovers(kind: str, role: AnyRole, name: str, backend: str, root: str | None) -> str | None:
    """The root on which something is to be absent, even where the msharefs is gone already."""
    try:
        return choose.locate(backend, root).root
    except Unavailable:
        try:
            likely_root = root or choose.choose(backend).root
        except Unavailable:
            likely_root = paths.KERNEL_ROOT
        # What this user may not look into is not absent.
        choose.require_entry(likely_root)
        left = files.left_at(paths.spec_file(kind, name)) or name in status_file.names_left(likely_root, role)
        return likely_root if left else None


def specs_left(kind: str, root: str) -> set[str]:
    """The names that have a spec ("regions", "clients") for a root, or what a killed process left of one.

    One that cannot be read, or does not say where, is taken to be for this host's default root; one that a
    killed process did not finish is for nobody, and so for any.
    """
    names = set()
    for entry in files.final_names(os.path.dirname(paths.spec_file(kind, "x"))):
        file_name, suffix = os.path.splitext(entry)
        name = paths.region_name(file_name)
        path = paths.spec_file(kind, name)
        if suffix == ".json" and (not os.path.lexists(path) or _root_of(path) == os.path.normpath(root)):
            names.add(name)
    return names


def _root_of(spec_path: str) -> str:
    try:
        fields = load(spec_path)
    except (MshareError, OSError):
        fields = {}
    wanted, backend = fields.get("root"), fields.get("backend")
    if isinstance(wanted, str):
        return os.path.normpath(wanted)
    return paths.KERNEL_ROOT if backend == "kernel" else choose.choose("auto").root


@dataclass(frozen=True)
class Boot:
    """What comes back after a reboot: what is, and what should be."""

    enabled: bool
    wanted: bool
    managed: bool
    reason: str | None = None
    """Why nothing comes back."""

    @classmethod
    def of(cls, keeper: Supervisor, role: AnyRole, name: str, wanted: bool | None) -> Boot:
        """None wants whatever this host can do; Unavailable for a request it cannot apply."""
        if wanted and not keeper.survives_reboot:
            keeper.set_enabled(role, name, True)
        should = keeper.survives_reboot if wanted is None else wanted
        return cls(keeper.enabled(role, name), should, keeper.survives_reboot, keeper.why_no_reboot)

    def step(self, what: str) -> tuple[bool, str]:
        return self.enabled != self.wanted, f"{'enable' if self.wanted else 'disable'} {what} at boot"

    def facts(self) -> dict[str, object]:
        return {"managed": self.managed, "enabled": self.wanted, "reason": self.reason}


class Undo(contextlib.ExitStack):
    """A block whose steps are undone if it fails, the last one first.

    A request that failed leaves nothing half-done, also where it was the look at what it did that failed.
    """

    def add(self, undo: Callable[[], object]) -> None:
        """How to undo a step."""

        def leave(kind: type[BaseException] | None, *__: object) -> bool:
            if kind is not None:
                undo()
            return False

        self.push(leave)


@contextlib.contextmanager
def spec_written(path: str, text: str) -> Iterator[None]:
    """Write a spec file; put back what was there if the block fails."""
    old_text = files.read_text(path)
    try:
        # It can be there and have failed all the same, where the disk does not take the directory.
        files.write_text(path, text)
        yield
    except BaseException:
        if old_text is None:
            remove_spec(path)
        else:
            files.write_text(path, old_text)
        raise


def remove_spec(path: str) -> None:
    """Remove a spec file, and its directories if nothing else is in them."""
    files.remove(path)
    files.remove_empty(os.path.dirname(path), paths.config_dir())
