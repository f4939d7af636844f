# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The values in specs: each is checked, and refused with its key and a way to write it."""

from __future__ import annotations

import pytest

from mshare.converge import spec
from mshare.errors import InvalidRequest


@pytest.mark.parametrize(
    ("check", "value", "sentence"),
    [
        (spec.flag, "yes", "x 'yes' is neither true nor false"),
        (spec.nonempty_text, "", "x '' is not text"),
        (spec.parse_number, -1, "x -1 is negative"),
        (spec.file_mode, 660, "x 660 is not text.*write it in quotes"),
        (spec.file_mode, "0999", "x '0999' is not a file mode; write it like '0660'"),
        (spec.one_of(("a", "b")), "c", "x 'c' is unknown; write one of a, b"),
        (spec.absolute_path, "data", "x 'data' is not an absolute path"),
        (spec.command_words, "sleep 1", "x 'sleep 1' is not a list of a program and its arguments"),
        (spec.command_words, [""], "is not a list of a program"),
        (spec.systemd_units, ["postgresql"], "'postgresql' is not a systemd unit; write it like"),
        (spec.systemd_units, "a.service", "x 'a.service' is not a list of systemd units"),
    ],
)
def test_refused(check, value, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        check(value, "x")


def test_accepted():
    assert spec.file_mode("0660") == spec.file_mode("660") == 0o660
    assert spec.parse_number("0x10", "x") == 16
    assert spec.parse_number("1MiB", "x") == 1 << 20
    assert spec.command_words(["sleep", 1], "x") == ("sleep", "1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("[1]", "holds no keys and values"), ("a: [", "is not YAML"), ("", "holds no keys and values")],
)
def test_a_file_that_is_no_spec(tmp_path, text, sentence):
    path = tmp_path / "spec"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=f"{path} {sentence}"):
        spec.load(str(path))


@pytest.mark.parametrize("text", ['{"name": "sga"}', "name: sga\n"])
def test_a_spec_is_json_or_yaml(tmp_path, text):
    path = tmp_path / "spec"
    path.write_text(text)
    assert spec.load(str(path)) == {"name": "sga"}
