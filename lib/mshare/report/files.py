# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a report's surveys come from, and the three files it goes to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import record
from ..errors import InvalidRequest, sentence
from ..files import Access, write_bytes
from .changes import Comparison, compare
from .fleet import Fleet, Missing, Totals, Verdict, fleet
from .page import page
from .table import table

PAGE, DOCUMENT, TABLE = "report.html", "report.json", "report.csv"
_NEXT_STEP = "make it again with `mshare survey --json`"


@dataclass(frozen=True)
class Gathered:
    """Surveys as they were decoded, by host name, and the hosts without one."""

    surveys: Mapping[str, object]
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class ReportFacts:
    """The answer of the module and the command."""

    changed: bool
    files: tuple[str, ...]
    """The names of those that are, or in a check run would be, written."""
    html: str
    """The page's path."""
    verdict: Verdict
    totals: Totals
    missing: tuple[Missing, ...]
    compared: Comparison | None
    summary: tuple[str, ...]
    """For people, line by line."""


@dataclass(frozen=True)
class Report:
    """A fleet's report: its figures, and its files by name."""

    fleet: Fleet
    contents: dict[str, str]

    def changed(self, folder: str) -> list[str]:
        """The names of the files that are not yet what they should be."""
        return [name for name, text in self.contents.items() if _read(Path(folder, name)) != _encoded(text)]

    def facts(self, folder: str, changed: list[str]) -> ReportFacts:
        """What the module and the command answer."""
        return ReportFacts(
            changed=bool(changed),
            files=tuple(changed),
            html=page_of(folder),
            verdict=self.fleet.judged,
            totals=self.fleet.totals,
            missing=self.fleet.missing,
            compared=self.fleet.compared,
            summary=(*self.fleet.summary_lines(), f"The report is {page_of(folder)}"),
        )

    def diff(self, folder: str, name: str) -> dict[str, str]:
        """A file's text before and after, as Ansible shows it. The page is drawn from the others' figures."""
        before = (_read(Path(folder, name)) or b"").decode("utf-8", "backslashreplace")
        texts = {"before": before, "after": _encoded(self.contents[name]).decode("utf-8")}
        path = os.path.join(folder, name)
        return {**texts, "before_header": path, "after_header": path}

    def write(self, folder: str) -> None:
        """Each file whole or not at all: somebody may have the last report open."""
        for name, text in self.contents.items():
            write_bytes(os.path.join(folder, name), _encoded(text), Access(0o644))


def from_results(results: Mapping[str, object]) -> Gathered:
    """From what a task of mshare_survey gave on each host."""
    surveys, missing = {}, []
    for host, result in results.items():
        if isinstance(result, Mapping) and isinstance(result.get("survey"), Mapping):
            surveys[host] = result["survey"]
        else:
            missing.append(Missing(host, _reason(result)))
    return Gathered(surveys, tuple(missing))


def _reason(result: object) -> str:
    message = str(result.get("msg") or "") if isinstance(result, Mapping) else ""
    words = " ".join(message.split())
    if isinstance(result, Mapping) and result.get("unreachable"):
        return f"unreachable: {words}" if words else "unreachable"
    return f"failed: {words}" if words else "not surveyed in this run"


def from_files(paths: Iterable[str]) -> Gathered:
    """From files of `mshare survey --json`, folders of such, and earlier reports.

    A file of a folder that cannot be read makes its host missing; a file that is named itself must exist.
    Of two surveys of a host the later counts.

    Raises InvalidRequest for two files of one name that can be of different hosts.
    """
    surveys: dict[str, object] = {}
    missing: list[Missing] = []
    path_of: dict[str, Path] = {}
    for path in _files(paths):
        try:
            content = record.load(path.read_bytes(), str(path), _NEXT_STEP)
            if "surveys" in content:
                earlier = _stored(content, path)
                missing += earlier.missing
                found = earlier.surveys
            else:
                found = {path.stem: content}
                other = path_of.setdefault(path.stem, path)
                if other != path and _other_boot(surveys[path.stem], content):
                    raise InvalidRequest(
                        f"{other} and {path} have the same name and are of two hosts, or of one before and"
                        " after it was started anew; rename one to its host's name, or leave out the older"
                    )
            for host, survey in found.items():
                surveys[host] = _later(surveys.get(host), survey)
        except record.Malformed as error:
            missing.append(Missing(path.stem, sentence(error)))
    return Gathered(surveys, tuple(missing))


def _later(one: object, other: object) -> object:
    """Of two surveys of a host; the other one where they do not say when they were made."""
    times = [_text(survey, "created_at") for survey in (one, other)]
    return one if times[0] and times[1] and times[0] > times[1] else other


def _other_boot(one: object, other: object) -> bool:
    boots = [_text(survey.get("host"), "boot_id") for survey in (one, other) if isinstance(survey, Mapping)]
    return all(boots) and len(set(boots)) > 1


def _text(fields: object, name: str) -> str:
    """A field of a survey that nobody has looked at yet; empty where it is no text."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class _Stored:
    """What a report is made again from, of all that report.json holds."""

    surveys: dict[str, object]
    missing: tuple[Missing, ...]


def _stored(content: Mapping[str, object], path: Path) -> _Stored:
    return record.build(_Stored, content, record.Place(str(path), "make the report again"))


def _files(paths: Iterable[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield from sorted(path.glob("*.json")) if path.is_dir() else [path]


def gathered(results: Mapping[str, object], stored: Iterable[str]) -> Gathered:
    """Both together. What a host answered in this run, even nothing, replaces what is stored of it."""
    fresh, old = from_results(results), from_files(stored)
    surveys = {
        **{host: survey for host, survey in old.surveys.items() if host not in results},
        **fresh.surveys,
    }
    missing = [entry for entry in old.missing if entry.host not in {*results, *surveys}]
    return Gathered(surveys, (*fresh.missing, *missing))


def report(inputs: Gathered, compare_with: str | None = None) -> Report:
    """The report on what was gathered, compared with an earlier report.json.

    Raises InvalidRequest where the earlier report cannot be read.
    """
    made = fleet(inputs.surveys, inputs.missing)
    if compare_with is not None:
        made = replace(made, compared=compare(_earlier(compare_with), made, compare_with))
    # A survey that could not be read is named among the missing; it is not handed on.
    surveys = {host.name: inputs.surveys[host.name] for host in made.hosts}
    document = {**made.to_fields(), "surveys": surveys}
    contents = {
        PAGE: page(made),
        DOCUMENT: json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n",
        TABLE: table(made),
    }
    return Report(made, contents)


def _earlier(path: str) -> Fleet:
    try:
        content = record.load(Path(path).read_bytes(), path, "name the report.json of an earlier report")
        stored = _stored(content, Path(path))
    except record.Malformed as error:
        raise InvalidRequest(f"there is nothing to compare with: {error}") from None
    earlier = fleet(stored.surveys)
    if stored.surveys and not earlier.hosts:
        raise InvalidRequest(f"there is nothing to compare with in {path}: {earlier.missing[0].reason}")
    return earlier


def _encoded(text: str) -> bytes:
    # A process's name may hold bytes that are not text; Python keeps them as lone surrogates.
    return text.encode("utf-8", "backslashreplace")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def page_of(folder: str) -> str:
    return os.path.abspath(os.path.join(folder, PAGE))
