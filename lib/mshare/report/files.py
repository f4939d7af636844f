# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a report's surveys come from, and the three files it goes to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .fleet import Fleet, Missing, fleet
from .page import page
from .table import table


def from_results(results: Mapping[str, Any]) -> tuple[dict[str, Any], list[Missing]]:
    """Surveys, and hosts without one, from what a task of mshare_survey gave on each host."""
    surveys, missing = {}, []
    for host, result in results.items():
        if isinstance(result, Mapping) and isinstance(result.get("survey"), Mapping):
            surveys[host] = result["survey"]
        else:
            missing.append(Missing(host, _reason(result)))
    return surveys, missing


def _reason(result: Any) -> str:
    said = str(result.get("msg") or "") if isinstance(result, Mapping) else ""
    words = " ".join(said.split())
    if isinstance(result, Mapping) and result.get("unreachable"):
        return f"unreachable: {words}" if words else "unreachable"
    return f"failed: {words}" if words else "not surveyed in this run"


def from_files(paths: Iterable[str]) -> tuple[dict[str, Any], list[Missing]]:
    """The same from files of `mshare survey --json`, folders of such, and earlier reports."""
    surveys: dict[str, Any] = {}
    missing: list[Missing] = []
    for path in _files(paths):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            missing.append(Missing(path.stem, f"{path} is not JSON: {error}"))
            continue
        if isinstance(content, dict) and "surveys" in content:
            surveys.update(content["surveys"])
            missing += [Missing(str(one["host"]), str(one["reason"])) for one in content["missing"]]
        else:
            surveys[path.stem] = content
    return surveys, missing


def _files(paths: Iterable[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield from sorted(path.glob("*.json")) if path.is_dir() else [path]


def gathered(results: Mapping[str, Any], stored: Iterable[str]) -> tuple[dict[str, Any], list[Missing]]:
    """Both together. What a host said in this run, be it nothing, counts more than what is stored of it."""
    fresh, lost = from_results(results)
    old, lost_before = from_files(stored)
    surveys = {**{host: survey for host, survey in old.items() if host not in results}, **fresh}
    return surveys, [*lost, *(one for one in lost_before if one.host not in {*results, *surveys})]


def contents(surveys: Mapping[str, Any], missing: Iterable[Missing] = ()) -> tuple[Fleet, dict[str, str]]:
    """The fleet, and the report's files by name."""
    found = fleet(surveys, missing)
    document = {**found.to_dict(), "surveys": dict(surveys)}
    return found, {
        "report.html": page(found),
        "report.json": json.dumps(document, indent=1, sort_keys=True) + "\n",
        "report.csv": table(found),
    }


def changed(folder: str, files: Mapping[str, str]) -> list[str]:
    """The names of the files that are not yet what they should be."""
    return [name for name, text in files.items() if _read(Path(folder, name)) != text]


def write(folder: str, files: Mapping[str, str]) -> None:
    """Each file whole or not at all: somebody may have the last report open."""
    os.makedirs(folder, exist_ok=True)
    for name, text in files.items():
        path = Path(folder, name)
        draft = path.with_name(f".{name}.new")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def page_of(folder: str) -> str:
    return os.path.abspath(os.path.join(folder, "report.html"))
