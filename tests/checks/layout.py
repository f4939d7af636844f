# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the repository's own checks need to know about its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = "dbmem.mshare"


def load_yaml(path: Path) -> Any:
    """The content of a YAML file; {} for a missing or an empty one."""
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def folders(parent: str) -> list[Path]:
    """The folders in a folder of the repository, by name; none if it does not exist yet."""
    return sorted(path for path in (ROOT / parent).glob("*") if path.is_dir())


def modules() -> list[Path]:
    """The files of the collection's modules, by name."""
    return sorted((ROOT / "plugins" / "modules").glob("[!_]*.py"))
