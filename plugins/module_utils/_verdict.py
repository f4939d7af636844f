# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The validation of regions as a module's result: it fails where a threshold is missed, and has the figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.validate import failure


def verdict(regions: Iterable[str], answer: dict[str, Any]) -> dict[str, Any]:
    """The result for the answer of a validation."""
    if answer["passed"]:
        return {"changed": False, **answer}
    why = {"msg": failure(regions, answer["reasons"]), "error_kind": "verdict_failed"}
    return {"failed": True, "changed": False, **why, **answer}
