# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the pip bootstrap script that ansible-test wants into its cache.

ansible-test would download it from a host of its own, which many networks do not reach. Like the
original, the script carries pip's wheel; it comes from the package index that pip is set up for.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from ansible_test._internal.python_requirements import get_venv_packages

CACHE = Path.home() / ".ansible" / "test" / "cache"

SCRIPT = """\
# Stands in for get-pip.py: installs pip {version} from the wheel below.
import base64
import os
import sys
import tempfile

WHEEL = {wheel!r}

# ansible-test passes options of the original that pip itself does not know.
arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, {filename!r})
    with open(path, "wb") as stream:
        stream.write(base64.b64decode(WHEEL))
    sys.path.insert(0, path)
    from pip._internal.cli.main import main

    status = main(["install", "--find-links", folder] + arguments)
sys.exit(status)
"""


def wanted_pip_version() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return get_venv_packages(SimpleNamespace(version=version))["pip"]


def download_wheel(version: str, folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", folder, f"pip=={version}"]
    subprocess.run(command, check=True)
    return next(Path(folder).glob("pip-*.whl"))


def main() -> None:
    version = wanted_pip_version()
    target = CACHE / f"get_pip_{version.replace('.', '_')}.py"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        wheel = download_wheel(version, folder)
        text = SCRIPT.format(
            version=version,
            filename=wheel.name,
            wheel=base64.b64encode(wheel.read_bytes()).decode(),
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
