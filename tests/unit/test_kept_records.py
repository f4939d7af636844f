# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both huge pages and remedies keep of a host as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mshare import record
from mshare.errors import Unavailable
from mshare.record import Malformed, Place
from mshare.remedy import recorded
from mshare.remedy.recorded import Recorded
from rig.other_user import as_other, shared_directory
from rig.world import World


def load(path: Path) -> Recorded | None:
    return record.load_kept(
        Recorded, Place(str(path), "remove it"), recorded.SCHEMA_VERSION, "use the other release"
    )


def test_what_is_saved_is_loaded_and_nothing_leaves_no_file(here: World) -> None:
    recorded.save(Recorded(pool=True))
    path = Path(recorded.file_path())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(path) == Recorded(pool=True)
    recorded.save(Recorded())
    assert not path.exists()
    assert load(path) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "remedy.json"
    path.write_text('{"schema_version": 1, "pool": 3}')
    with pytest.raises(Malformed, match=str(path)):
        load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="what only root may read: root only")
def test_another_user_is_told_who_may_read_it() -> None:
    def refused() -> None:
        with pytest.raises(Unavailable, match=r"and may be read by root only; run as root \(become: true\)"):
            load(path)

    with shared_directory() as directory:
        path = directory / "remedy.json"
        record.save_kept(Recorded(pool=True), str(path))
        as_other(refused)
