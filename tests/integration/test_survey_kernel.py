# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Survey and plan of a host whose kernel has msharefs: here FUSE answers the probe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare.host import mounts, procfs
from mshare.kernel import abi
from mshare.kernel.generations import GENERATIONS
from mshare.plan.facts import from_survey
from mshare.plan.plan import plan
from mshare.survey.record import from_fields
from mshare.survey.survey import survey
from mshare.units import GIB
from rig import surveys
from rig.mount import NEEDS, Mount, can_mount_fuse

pytestmark = pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)


@pytest.fixture(params=GENERATIONS)
def generation(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A host with msharefs of each generation, as /proc would show it."""
    mount = Mount(tmp_path, request.param)
    shown = [*mounts.mounts(), mounts.Mount(mount.root, abi.FILESYSTEM, "none", "rw", "rw")]
    known = [*procfs.filesystems(), abi.FILESYSTEM]
    monkeypatch.setattr(mounts, "mounts", lambda: shown)
    monkeypatch.setattr(procfs, "filesystems", lambda: known)
    yield request.param
    mount.stop()


def test_the_generation_that_the_survey_writes_is_the_one_the_plan_opens(generation: str) -> None:
    surveyed = survey()
    assert surveyed.host.mshare.kernel_supported
    assert surveyed.host.mshare.generation == generation
    instance = surveys.instance("main", 8 * GIB, 200)
    stored = from_fields({**surveyed.to_dict(), "instances": [instance]})
    (planned,) = plan(from_survey(stored), generations=True).instances
    usable = [row.id for row in planned.rows if row.usable and row.id.startswith("mshare_")]
    assert usable == [f"mshare_{generation}"]
