# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a region's owner writes down about itself."""

from __future__ import annotations

from typing import Any

from .spec import RegionSpec


def of_owner(spec: RegionSpec, root: str) -> dict[str, Any]:
    """Of the owner of a region at `root`."""
    return {"state": "starting", "region": spec.name, "root": root, "spec": spec.to_dict()}
