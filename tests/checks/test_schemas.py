# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The published JSON schemas are those of the records, and what the commands answer follows them."""

from __future__ import annotations

import json

import jsonschema
import pytest
from click.testing import CliRunner

from checks import schemas
from mshare.cli.program import mshare
from rig import surveys


def validator(name):
    schema = json.loads(schemas.path(name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schemas_are_those_of_the_records():
    assert schemas.differences() == []


def test_a_survey_of_this_host_follows_its_schema():
    done = CliRunner().invoke(mshare, ["--json", "survey", "--threshold", "4KiB"])
    assert done.exit_code == 0, done.output
    validator("survey").validate(json.loads(done.output))


@pytest.mark.parametrize("words", [("--size", "300GiB", "--clients", "1500"), ("-",)])
def test_a_plan_follows_its_schema(words):
    stored = json.dumps(surveys.survey("db1", [surveys.instance("main", 8 << 30, 100, maximum=300)]))
    done = CliRunner().invoke(mshare, ["--json", "plan", *words], input=stored)
    assert done.exit_code == 0, done.output
    validator("plan").validate(json.loads(done.output))


def test_a_schema_refuses_what_the_record_does_not_have():
    survey = surveys.survey("db1", [])
    del survey["host"]["kernel"]
    with pytest.raises(jsonschema.ValidationError, match="'kernel' is a required property"):
        validator("survey").validate(survey)
