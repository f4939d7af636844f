# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that is surveyed for Prometheus: set up, verified by a first survey, and removed again.

The surveys' user may write to a folder of its own only. In the node exporter's directory, to which it gets no
access, is a link to the file there.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
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


def present(spec: MonitoringSpec, *, check: bool = False) -> Outcome[MonitoringFacts]:
    """See to it that the host is surveyed. Afterwards there is a first file of metrics, or nothing is left of
    this run and MshareError says why.

    Raises what stands in the way before anything is changed.
    """
    _require_root("survey the host for Prometheus")
    with one_at_a_time(check):
        known = _recorded()
        wanted = _Wanted.of(spec, known)
        before = _side(wanted, known)
        actions = wanted.actions(known)
        if actions and not check:
            try:
                wanted.apply(known)
            except BaseException:
                if known is None:
                    _remove(Recorded(SCHEMA_VERSION, wanted.directory, wanted.makes_user))
                raise
        after = {**before, **wanted.side()} if actions else before
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


def _side(wanted: _Wanted, known: Recorded | None) -> dict[str, object]:
    if known is None:
        return {**ABSENT, **dict.fromkeys(wanted.files, ABSENT)}
    side: dict[str, object] = {"state": "present", "directory": known.directory}
    return {**side, **{path: _lines(path) for path in {*wanted.files, *wanted.obsolete}}}


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
    def obsolete(self) -> list[str]:
        """Units of another kind of interval, or the other of systemd and cron."""
        return [path for path in _paths() if path not in self.files and os.path.lexists(path)]

    @property
    def _unit(self) -> str:
        """What is enabled."""
        return units.SERVICE if self.spec.is_resident else units.TIMER

    @property
    def facts(self) -> MonitoringFacts:
        kept_by = "cron"
        if self.under_systemd:
            kept_by = "systemd service" if self.spec.is_resident else "systemd timer"
        return MonitoringFacts(self.directory, units.OUTPUT, USER, self.spec.interval_seconds, kept_by)

    def record(self, known: Recorded | None) -> Recorded:
        return Recorded(
            SCHEMA_VERSION, self.directory, self.makes_user or (known is not None and known.user_made)
        )

    def side(self) -> dict[str, object]:
        texts: dict[str, object] = {path: text.split("\n") for path, text in self.files.items()}
        gone = dict.fromkeys(self.obsolete, ABSENT)
        return {"state": "present", "directory": self.directory, **texts, **gone}

    def _outdated(self) -> list[str]:
        return [path for path, text in self.files.items() if files.read_text(path) != text]

    def _folder_is_right(self) -> bool:
        try:
            status = os.lstat(FOLDER)
        except FileNotFoundError:
            return False
        owner = None if self.account is None else (self.account.uid, self.account.gid)
        return (status.st_uid, status.st_gid) == owner and stat.S_IMODE(status.st_mode) == 0o755

    def _runs(self) -> bool:
        if not self.under_systemd:
            return True
        return (systemd.ask("is-enabled", self._unit), systemd.ask("is-active", self._unit)) == (
            "enabled",
            "active",
        )

    def actions(self, known: Recorded | None) -> list[str]:
        moved = known is not None and known.directory != self.directory
        return chosen(
            (
                (self.makes_user, f"make user {USER}"),
                (not self._folder_is_right(), f"make {FOLDER} for it"),
                (bool(self._outdated()), f"write {', '.join(self._outdated())}"),
                (bool(self.obsolete), f"remove {', '.join(self.obsolete)}"),
                (moved, f"remove {_link(known.directory) if known is not None else ''}"),
                (self.under_systemd and not self._runs(), f"start {self._unit}, now and at boot"),
                (not os.path.exists(units.OUTPUT), "survey the host for the first time"),
                (not _is_ours(_link(self.directory)), f"link {_link(self.directory)} to {units.OUTPUT}"),
                (
                    known != self.record(known),
                    f"write down in {paths.monitoring_file()} what is to be removed again",
                ),
            )
        )

    def apply(self, known: Recorded | None) -> None:
        # First, so that after an interruption there is a record of what may exist.
        record.save_kept(self.record(known), paths.monitoring_file())
        owner = account.make() if self.account is None else self.account
        if not os.path.lexists(FOLDER):
            files.make_directory(FOLDER)
        files.set_access(FOLDER, files.Access(0o755, owner.uid, owner.gid))
        changed = bool(self._outdated() or self.obsolete)
        if changed:
            _stop(self.under_systemd)
            files.remove(*self.obsolete)
            for path, text in self.files.items():
                files.write_text(path, text)
        self._start(changed)
        if not os.path.exists(units.OUTPUT):
            raise MshareError(
                f"the first survey wrote no {units.OUTPUT}; see `journalctl -u {units.SERVICE}`"
            )
        if known is not None and known.directory != self.directory:
            _unlink(known.directory)
        if not _is_ours(_link(self.directory)):
            files.make_link(units.OUTPUT, _link(self.directory))

    def _start(self, changed: bool) -> None:
        if not self.under_systemd:
            if changed or not os.path.exists(units.OUTPUT):
                _survey_now(self.spec)
            return
        systemd.systemctl("daemon-reload")
        # Of the service that stays, and of the one that the timer starts, the first survey is done then.
        if changed or not os.path.exists(units.OUTPUT):
            systemd.systemctl("restart", units.SERVICE)
        systemd.systemctl("enable", "--now", self._unit)


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
