# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that is surveyed for Prometheus: set up, verified by a first survey, and removed again.

The surveys' user may write to a folder of its own only. In the node exporter's directory, to which it gets no
access, is a link to the file there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .. import files, paths, record
from ..converge.outcome import ABSENT, Outcome, chosen, one_at_a_time
from ..errors import Conflict, MshareError, Unavailable
from ..services import systemd
from ..services.choose import systemd_runs
from . import account, directory, units
from .account import Account
from .spec import FOLDER, METRICS, USER, MonitoringSpec

SCHEMA_VERSION = 1
_NEXT_STEP = "remove it, and run the role dbmem.mshare.monitoring again"
_UNITS = (units.TIMER, units.SERVICE)


@dataclass(frozen=True)
class Recorded:
    """What was set up, for later runs and for its removal."""

    schema_version: int
    directory: str
    user_made: bool
    """Whether the user is ours to remove."""


@dataclass(frozen=True)
class MonitoringFacts:
    """What surveys a host."""

    directory: str
    """Where the node exporter reads text files."""
    file: str
    """The file that surveys replace; in the directory is a link to it."""
    user: str
    interval_seconds: int
    kept_by: str
    """Who repeats the survey: systemd timer, systemd service, or cron."""


def present(
    spec: MonitoringSpec, *, check: bool = False, require_program: Callable[[], object] = lambda: None
) -> Outcome[MonitoringFacts]:
    """See to it that the host is surveyed. Afterwards there is a first file of metrics, or nothing is left of
    this run and MshareError says why.

    Raises what stands in the way before anything is changed; `require_program` is called where something is
    to be changed, and may refuse it.
    """
    _require_root("survey the host for Prometheus")
    with one_at_a_time(check):
        known = _recorded()
        wanted = _Wanted.of(spec, known)
        decision = wanted.decide(known)
        actions = decision.actions()
        if actions:
            require_program()
        before = decision.side_before()
        if actions and not check:
            try:
                decision.apply()
            except BaseException:
                if known is None:
                    _remove(Recorded(SCHEMA_VERSION, wanted.directory, wanted.makes_user))
                raise
        after = {**before, **decision.side_after()} if actions else before
        return Outcome(bool(actions), actions, before, after, wanted.facts)


def absent(*, check: bool = False) -> Outcome[MonitoringFacts]:
    """See to it that nothing is left: units or cron entry, link, file, folder, and the user if it is ours."""
    _require_root("stop surveying the host for Prometheus")
    with one_at_a_time(check):
        known = _recorded()
        if known is None:
            return _nothing_but_unfinished(check)
        left = [path for path in (*_paths(), _link(known.directory), units.OUTPUT) if os.path.lexists(path)]
        actions = chosen(
            (
                (True, "stop the surveys for Prometheus"),
                (bool(left), f"remove {', '.join(left)}"),
                (known.user_made and account.current() is not None, f"remove user {USER}"),
            )
        )
        before: dict[str, object] = {"state": "present", "directory": known.directory}
        before.update((path, _lines(path)) for path in _paths() if os.path.lexists(path))
        if not check:
            _remove(known)
        return Outcome(True, actions, before, ABSENT)


def _nothing_but_unfinished(check: bool) -> Outcome[MonitoringFacts]:
    """Of a run that was killed before it had a record, there may be the beginning of that."""
    path = paths.monitoring_file()
    unfinished = files.left_at(path)
    if unfinished and not check:
        record.save_kept(None, path)
    return Outcome(unfinished, chosen(((unfinished, f"remove {path}"),)), ABSENT, ABSENT)


def _require_root(what: str) -> None:
    if not paths.is_root():
        raise Unavailable(f"to {what} takes root and this is uid {os.geteuid()}; run as root (become: true)")


def _recorded() -> Recorded | None:
    place = record.Place(paths.monitoring_file(), _NEXT_STEP)
    return record.load_kept(Recorded, place, SCHEMA_VERSION, "remove it with the release that wrote it")


def _paths() -> list[str]:
    return [*map(systemd.unit_path, _UNITS), units.CRON]


def _link(where: str) -> str:
    return os.path.join(where, METRICS)


def _lines(path: str) -> object:
    text = files.read_text(path)
    return ABSENT if text is None else text.split("\n")


@dataclass(frozen=True)
class _Wanted:
    """A host as it should be."""

    spec: MonitoringSpec
    directory: str
    under_systemd: bool
    files: Mapping[str, str]
    account: Account | None
    """The user, if there is one."""

    @classmethod
    def of(cls, spec: MonitoringSpec, known: Recorded | None) -> _Wanted:
        """Raises what stands in the way."""
        under_systemd = systemd_runs()
        if not under_systemd:
            units.require_cron()
        texts = units.systemd_files(spec) if under_systemd else units.cron_file(spec, os.uname().nodename)
        where = spec.directory or _found(known)
        directory.require(where)
        _require_folder()
        there = account.current()
        if there is None:
            account.require_programs()
        link = _link(where)
        if os.path.lexists(link) and not _is_ours(link):
            raise Conflict(
                f"{link} is there and was not made by this role; move it away, or give another directory"
            )
        return cls(spec, where, under_systemd, texts, there)

    @property
    def makes_user(self) -> bool:
        return self.account is None

    @property
    def unit(self) -> str:
        """What is enabled."""
        return units.SERVICE if self.spec.is_resident else units.TIMER

    @property
    def facts(self) -> MonitoringFacts:
        kept_by = "cron"
        if self.under_systemd:
            kept_by = "systemd service" if self.spec.is_resident else "systemd timer"
        return MonitoringFacts(self.directory, units.OUTPUT, USER, self.spec.interval_seconds, kept_by)

    def decide(self, known: Recorded | None) -> _Decision:
        """What is to be changed, by a single look at the host."""
        return _Decision(
            wanted=self,
            known=known,
            makes_folder=not os.path.lexists(FOLDER),
            gives_folder=not self._folder_is_right(),
            outdated=tuple(path for path, text in self.files.items() if files.read_text(path) != text),
            obsolete=tuple(path for path in _paths() if path not in self.files and os.path.lexists(path)),
            moved_from=known.directory if known is not None and known.directory != self.directory else None,
            starts=self.under_systemd and not self._runs(),
            surveys=not os.path.exists(units.OUTPUT),
            links=not _is_ours(_link(self.directory)),
        )

    def _folder_is_right(self) -> bool:
        try:
            status = os.lstat(FOLDER)
        except FileNotFoundError:
            return False
        owner = None if self.account is None else (self.account.uid, self.account.gid)
        return (status.st_uid, status.st_gid) == owner and stat.S_IMODE(status.st_mode) == 0o755

    def _runs(self) -> bool:
        return (systemd.ask("is-enabled", self.unit), systemd.ask("is-active", self.unit)) == (
            "enabled",
            "active",
        )


@dataclass(frozen=True)
class _Decision:
    """What is to be changed on a host. It is both what is told and what is done."""

    wanted: _Wanted
    known: Recorded | None
    makes_folder: bool
    gives_folder: bool
    """Whether the surveys' folder is not its user's, or is to be made."""
    outdated: tuple[str, ...]
    """Units, or the cron entry, that are missing or have another text."""
    obsolete: tuple[str, ...]
    """Units of another kind of interval, or the other of systemd and cron."""
    moved_from: str | None
    """The directory in which an earlier run made the link, where that is another one."""
    starts: bool
    surveys: bool
    """Whether there are no metrics yet."""
    links: bool

    @property
    def _record(self) -> Recorded:
        known = self.known
        return Recorded(
            SCHEMA_VERSION,
            self.wanted.directory,
            self.wanted.makes_user or (known is not None and known.user_made),
        )

    @property
    def _rewrites(self) -> bool:
        return bool(self.outdated or self.obsolete)

    def actions(self) -> list[str]:
        wanted = self.wanted
        return chosen(
            (
                (wanted.makes_user, f"make user {USER}"),
                (self.gives_folder, f"make {FOLDER} for it"),
                (bool(self.outdated), f"write {', '.join(self.outdated)}"),
                (bool(self.obsolete), f"remove {', '.join(self.obsolete)}"),
                (self.moved_from is not None, f"remove {_link(self.moved_from or '')}"),
                (self.starts, f"start {wanted.unit}, now and at boot"),
                (self.surveys, "survey the host for the first time"),
                (self.links, f"link {_link(wanted.directory)} to {units.OUTPUT}"),
                (
                    self.known != self._record,
                    f"write down in {paths.monitoring_file()} what is to be removed again",
                ),
            )
        )

    def side_before(self) -> dict[str, object]:
        """The side of the diff before anything is done."""
        if self.known is None:
            return {**ABSENT, **dict.fromkeys(self.wanted.files, ABSENT)}
        side: dict[str, object] = {"state": "present", "directory": self.known.directory}
        return {**side, **{path: _lines(path) for path in {*self.wanted.files, *self.obsolete}}}

    def side_after(self) -> dict[str, object]:
        texts: dict[str, object] = {path: text.split("\n") for path, text in self.wanted.files.items()}
        gone = dict.fromkeys(self.obsolete, ABSENT)
        return {"state": "present", "directory": self.wanted.directory, **texts, **gone}

    def apply(self) -> None:
        # First, so that after an interruption there is a record of what may exist.
        record.save_kept(self._record, paths.monitoring_file())
        owner = self.wanted.account or account.make()
        if self.makes_folder:
            files.make_directory(FOLDER)
        if self.gives_folder:
            files.set_access(FOLDER, files.Access(0o755, owner.uid, owner.gid))
        if self._rewrites:
            _stop(self.wanted.under_systemd)
            files.remove(*self.obsolete)
            for path in self.outdated:
                files.write_text(path, self.wanted.files[path])
        self._start()
        if not os.path.exists(units.OUTPUT):
            raise MshareError(
                f"the first survey wrote no {units.OUTPUT}; see `journalctl -u {units.SERVICE}`"
            )
        if self.moved_from is not None:
            _unlink(self.moved_from)
        if self.links:
            files.make_link(units.OUTPUT, _link(self.wanted.directory))

    def _start(self) -> None:
        anew = self._rewrites or self.surveys
        if not self.wanted.under_systemd:
            if anew:
                _survey_now(self.wanted.spec)
            return
        systemd.systemctl("daemon-reload")
        # Of the service that stays, and of the one that the timer starts, the first survey is done then.
        if anew:
            systemd.systemctl("restart", units.SERVICE)
        systemd.systemctl("enable", "--now", self.wanted.unit)


def _require_folder() -> None:
    """NotTrusted for anything but a directory where the surveys' files are to be."""
    with contextlib.suppress(FileNotFoundError):
        status = files.status(FOLDER)
        if not stat.S_ISDIR(status.st_mode):
            raise files.NotTrusted(FOLDER, files.kind(status), kind_bits=stat.S_IFDIR)


def _found(known: Recorded | None) -> str:
    """The node exporter's directory; while that is not running, the one that was set up."""
    try:
        return directory.find()
    except Unavailable:
        if known is None:
            raise
        return known.directory


def _is_ours(link: str) -> bool:
    try:
        return os.readlink(link) == units.OUTPUT
    except OSError:
        return False


def _unlink(where: str) -> None:
    if _is_ours(_link(where)):
        files.remove(_link(where))


def _survey_now(spec: MonitoringSpec) -> None:
    done = subprocess.run(
        units.bounded(spec),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise MshareError(f"the first survey as user {USER} failed: {reason}")


def _stop(under_systemd: bool) -> None:
    """Stop and disable what there is; a survey that cron has just started ends by itself."""
    if under_systemd:
        for unit in _UNITS:
            if os.path.lexists(systemd.unit_path(unit)):
                systemd.ask("disable", "--now", unit)
                systemd.ask("reset-failed", unit)


def _remove(known: Recorded) -> None:
    under_systemd = systemd_runs()
    _unlink(known.directory)
    _stop(under_systemd)
    files.remove(*_paths())
    if under_systemd:
        systemd.systemctl("daemon-reload")
    files.remove(units.OUTPUT)
    files.remove_empty(FOLDER)
    there = account.current()
    if known.user_made and there is not None:
        account.remove(there)
    # Last: until then it says what there is to be removed.
    record.save_kept(None, paths.monitoring_file())
