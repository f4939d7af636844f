# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of this collection Ansible sends to a host with each module: read from what it really sends.

PYTHONPATH=tests .venv/bin/python -m checks.shipped
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from checks.layout import COLLECTION, ROOT, modules

_BELOW = "ansible_collections/dbmem/mshare/plugins/"
# A zip file in base64, as the script that Ansible sends has it.
_PAYLOAD = re.compile(r"UEsDB[A-Za-z0-9+/=]{1000,}")


def shipped(collections: Path = ROOT / ".venv" / "collections") -> dict[str, list[str]]:
    """The files sent with each module, below plugins/."""
    names = [path.stem for path in modules() if "AnsibleModule(" in path.read_text()]
    # An option that no module has: each is sent, and refuses before it looks at the host.
    tasks = [{f"{COLLECTION}.{name}": {"no_such_option": 1}, "ignore_errors": True} for name in names]
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    with tempfile.TemporaryDirectory(prefix="mshare-shipped.") as folder:
        playbook = Path(folder) / "play.yml"
        playbook.write_text(json.dumps(play))
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_PIPELINING": "0",
            "ANSIBLE_REMOTE_TEMP": f"{folder}/remote",
        }
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        sent = {
            path.stem.removeprefix("AnsiballZ_"): _files(path.read_text())
            for path in Path(folder).rglob("AnsiballZ_*.py")
        }
    if sorted(sent) != names:
        raise RuntimeError(f"of {names} only {sorted(sent)} were sent:\n{done.stdout}{done.stderr}")
    return sent


def _files(script: str) -> list[str]:
    payload_text = _PAYLOAD.search(script)
    if payload_text is None:
        raise RuntimeError("the script that Ansible sends has no payload that can be read")
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(payload_text[0]))) as payload:
        ours = [name.removeprefix(_BELOW) for name in payload.namelist() if name.startswith(_BELOW)]
    # Ansible makes an __init__.py for every folder on the way.
    return sorted(name for name in ours if not name.endswith("__init__.py"))


if __name__ == "__main__":
    for module, files in shipped(*map(Path, sys.argv[1:])).items():
        print(f"{module:20} {len(files):4}")
