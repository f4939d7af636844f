# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the conformance suite, and the table it prints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pytest

pytest.register_assert_rewrite("conformance.cases", "conformance.next_interface")

from conformance.actors import stage  # noqa: E402
from conformance.cases import CASES, Case, Scene  # noqa: E402
from conformance.targets import KERNEL, TARGETS, Target  # noqa: E402
from mshare.kernel import probe  # noqa: E402
from mshare.kernel.generations import Features  # noqa: E402

# It adds cases.
import_module("conformance.next_interface")

_CELL = "conformance case and target"
_results: dict[tuple[str, str], str] = {}
_skipped_because: dict[tuple[str, str], str] = {}


@lru_cache
def features(target: Target) -> Features:
    return target.features()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"case", "target"} <= set(metafunc.fixturenames):
        applicable = [
            pytest.param(case, target, id=f"{target.id}-{case.id}")
            for target in TARGETS
            if target.present()
            for case in CASES
            if case.not_applicable(features(target)) is None
        ]
        metafunc.parametrize(("case", "target"), applicable)


@pytest.fixture
def scene(target: Target) -> Iterator[Scene]:
    directory = Path(tempfile.mkdtemp(prefix="mshare-files-"))
    try:
        with target.mounted() as root, stage() as people:
            alignment_bytes = probe.alignment_bytes(root)
            yield Scene(target.backend, root, features(target), alignment_bytes, people, directory)
    finally:
        shutil.rmtree(directory)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Have the report tell which cell of the table it is: another process may print that."""
    report = (yield).get_result()
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    case, target = parameters.get("case"), parameters.get("target")
    if isinstance(case, Case) and isinstance(target, Target):
        report.user_properties.append((_CELL, [case.id, target.id]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, value in report.user_properties:
        if name != _CELL:
            continue
        case, target = value
        if report.failed:
            _results[case, target] = "FAILED"
        elif report.skipped:
            _results[case, target] = "skipped"
            _skipped_because[case, target] = report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call":
            _results[case, target] = "ok"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Case by backend; a letter says why a case does not apply."""
    if not _results:
        return
    reasons: dict[str, str] = {}
    targets = [target for target in TARGETS if target.present()]
    write = terminalreporter.write_line
    terminalreporter.section(
        "conformance: simulated as each generation" + (", kernel" if KERNEL in targets else "")
    )
    ran = [case for case in CASES if any((case.id, target.id) in _results for target in targets)]
    width = max(len(f"{case.topic}: {case.says}") for case in ran)
    write(" " * width + "".join(f"  {target.id:>8}" for target in targets))
    for case in ran:
        cells = [_cell(case, target, reasons) for target in targets]
        write(f"{case.topic}: {case.says}".ljust(width) + "".join(f"  {cell:>8}" for cell in cells))
    for reason, letter in reasons.items():
        write(f"  ({letter}) not applicable: {reason}")


def _cell(case: Case, target: Target, reasons: dict[str, str]) -> str:
    reason = case.not_applicable(features(target)) or _skipped_because.get((case.id, target.id))
    if reason is None:
        return _results.get((case.id, target.id), "not run")
    return f"({reasons.setdefault(reason, chr(ord('a') + len(reasons)))})"
