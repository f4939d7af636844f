# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one command that applies a remedy to an instance."""

from __future__ import annotations

import re
import shlex

from .facts import Instance
from .names import region_name

_DEBIAN_DIRECTORY = re.compile(r"/var/lib/postgresql/([0-9.]+)/([^/]+)/?\Z")
_PLAYBOOK = "ansible-playbook dbmem.mshare.postgresql"


def command(remedy_id: str, instance: Instance) -> str | None:
    """What to type; None where it takes more than one command, which is in the lines to paste."""
    if remedy_id == "collapse":
        target = instance.data_directory or instance.unit
        return f"mshare collapse {shlex.quote(target)}" if target else None
    pages = {"preload_thp": "thp", "preload_hugetlb": "hugetlb", "mshare": "4k"}.get(remedy_id)
    if pages is None:
        return None
    match = _DEBIAN_DIRECTORY.match(instance.data_directory or "")
    if instance.kind == "postgresql" and match and not instance.container:
        values = [f"mshare_postgresql_version={match[1]}", f"mshare_postgresql_cluster={match[2]}"]
        values.append(f"mshare_postgresql_pages={pages}")
        if remedy_id == "mshare":
            values.append(f"mshare_postgresql_region={region_name(instance.name)}")
        return " ".join([_PLAYBOOK, *(f"-e {value}" for value in values)])
    if remedy_id == "mshare":
        return None
    return f"mshare run --pages {pages} -- COMMAND"
