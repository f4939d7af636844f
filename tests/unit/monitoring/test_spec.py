# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked for of a host's surveys."""

from __future__ import annotations

import pytest

from mshare.errors import InvalidRequest
from mshare.monitoring.spec import MonitoringSpec


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"interval_seconds": 4}, "an interval of 4 s is not possible; use 5 to 3600 seconds"),
        ({"interval_seconds": 3601}, "an interval of 3601 s is not possible"),
        ({"directory": "var/lib"}, "directory 'var/lib' is not an absolute path"),
        ({"directory": "/var/lib/"}, "is not an absolute path"),
        ({"directory": "/var/lib/../x"}, "is not an absolute path"),
        ({"program": "/opt/a b/mshare"}, "cannot stand in a unit or a cron entry"),
        ({"program": "/opt/a%h/mshare"}, "cannot stand in a unit or a cron entry"),
        ({"directory": "/var/lib/a\nUser=root"}, "cannot stand in a unit or a cron entry"),
    ],
)
def test_what_no_host_can_do_is_refused(fields, reason):
    with pytest.raises(InvalidRequest) as refused:
        MonitoringSpec(**fields)
    assert reason in str(refused.value)


def test_more_often_than_each_minute_it_stays():
    assert [MonitoringSpec(interval_seconds=seconds).is_resident for seconds in (5, 59, 60)] == [
        True,
        True,
        False,
    ]
