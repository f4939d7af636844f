# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said when something goes wrong, and with which exit code."""

from __future__ import annotations

import errno
import os

import pytest

from mshare import errors

KINDS = [
    (errors.MshareError("x"), "failed", 1),
    (errors.InvalidRequest("x"), "invalid_request", 2),
    (errors.Unavailable("x"), "unavailable", 4),
    (errors.Conflict("x"), "conflict", 5),
    (OSError(errno.ENOMEM, "x"), "failed", 1),
    (RuntimeError("x"), "failed", 1),
]


@pytest.mark.parametrize(("error", "kind", "exit_code"), KINDS, ids=str)
def test_kinds_and_exit_codes(error, kind, exit_code):
    assert errors.kind(error) == kind
    assert errors.exit_code(error) == exit_code


def test_a_bad_request_is_a_value_error_to_callers_who_know_no_better():
    assert isinstance(errors.InvalidRequest("x"), ValueError)


def test_the_librarys_own_errors_are_said_as_they_are():
    assert errors.sentence(errors.Conflict("it exists; unlink it")) == "it exists; unlink it"


@pytest.mark.parametrize("code", sorted(errors._NEXT_STEPS))
def test_a_kernels_refusal_has_a_name_and_a_next_step(code):
    said = errors.sentence(OSError(code, os.strerror(code), "/sys/fs/mshare/sga"))
    expected = (
        f"/sys/fs/mshare/sga: {os.strerror(code)} ({errno.errorcode[code]}); {errors._NEXT_STEPS[code]}"
    )
    assert said == expected


def test_a_refusal_without_a_step_or_a_file():
    assert errors.sentence(OSError(errno.EXDEV, "Cross-device")) == "Cross-device (EXDEV)"
    assert errors.sentence(OSError("no number")) == "no number"


@pytest.mark.parametrize("error", [error for error, _kind, _code in KINDS[:4]], ids=lambda value: value.kind)
def test_an_error_that_another_process_wrote_down(error):
    again = errors.Failure.of(error).to_error()
    assert (type(again), str(again)) == (type(error), str(error))
