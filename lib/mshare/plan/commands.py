# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one command that applies a remedy to an instance."""

from __future__ import annotations

import json
import re
import shlex

from .facts import Instance
from .names import region_name

_DEBIAN_DIRECTORY = re.compile(r"/var/lib/postgresql/([0-9.]+)/([^/]+)/?\Z")
_REMEDY = "ansible-playbook dbmem.mshare.remedy"
_POSTGRESQL = "ansible-playbook dbmem.mshare.postgresql"
_REMEDIES = {
    "hugetlb_2m": "native",
    "preload_hugetlb": "hugetlb",
    "preload_thp": "thp",
    "collapse": "collapse",
}
"""What the playbook remedy calls the rows that it applies."""
_PAGES = {"preload_thp": "thp", "preload_hugetlb": "hugetlb"}
"""What `mshare run` calls them."""


def command(remedy_id: str, instance: Instance) -> str | None:
    """What to type; None where it takes more than one command, which is in the lines to paste."""
    if remedy_id in _REMEDIES and _is_ours_to_change(instance):
        names = json.dumps({"mshare_remedy_instances": [instance.name]})
        values = [f"mshare_remedy={_REMEDIES[remedy_id]}", names]
        if remedy_id != "collapse":
            values.append("mshare_remedy_restart_ok=true")
        return " ".join([_REMEDY, *(f"-e {shlex.quote(value)}" for value in values)])
    if remedy_id == "collapse":
        # A path in a container is another one on its host.
        place = None if instance.container else instance.data_directory or instance.unit
        target = place or (str(instance.pid) if instance.pid else None)
        return f"mshare collapse {shlex.quote(target)}" if target else None
    if remedy_id == "mshare":
        return _region(instance)
    pages = _PAGES.get(remedy_id)
    return None if pages is None else f"mshare run --pages {pages} -- COMMAND"


def _is_ours_to_change(instance: Instance) -> bool:
    """Whether the playbooks change it: a PostgreSQL that nothing else is known to manage."""
    unmanaged = instance.container is None and instance.manager is None
    return instance.kind == "postgresql" and instance.data_directory is not None and unmanaged


def _region(instance: Instance) -> str | None:
    """The command for a region of its own."""
    match = _DEBIAN_DIRECTORY.match(instance.data_directory or "")
    if match is None or not _is_ours_to_change(instance):
        return None
    values = [f"mshare_postgresql_version={match[1]}", f"mshare_postgresql_cluster={match[2]}"]
    values += ["mshare_postgresql_pages=4k", f"mshare_postgresql_region={region_name(instance.name)}"]
    return " ".join([_POSTGRESQL, *(f"-e {value}" for value in values)])
