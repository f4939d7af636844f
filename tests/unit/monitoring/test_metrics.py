# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of metrics, and the record that they are read from."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mshare.monitoring import metrics
from mshare.monitoring.figures import (
    HostFigures,
    InstanceFigures,
    PoolFigures,
    RegionFigures,
    SurveyFigures,
)
from mshare.monitoring.metrics import Family

RECORDS = (
    (metrics.HOST, HostFigures),
    (metrics.POOL, PoolFigures),
    (metrics.INSTANCE, InstanceFigures),
    (metrics.REGION, RegionFigures),
    (metrics.SURVEY, SurveyFigures),
)


@pytest.mark.parametrize(("family", "record"), RECORDS, ids=lambda value: getattr(value, "prefix", ""))
def test_every_field_of_a_record_is_a_metric_or_a_label(family: Family, record: type) -> None:
    fields = {field.name for field in dataclasses.fields(record)}
    labels = {*family.labels, *(label for metric in family.metrics for label in metric.labels)}
    assert {metric.field for metric in family.metrics} | labels == fields


def test_each_name_is_used_once() -> None:
    names = list(metrics.names())
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"mshare_[a-z_]+", name) for name in names)


def test_the_help_is_one_line() -> None:
    for family in metrics.FAMILIES:
        for metric in family.metrics:
            assert metric.help.endswith(".")
            assert "\n" not in metric.help
            assert "\\" not in metric.help
