# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library can be imported by every Python that is here, and without what it does not need yet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mshare

LIBRARY = Path(mshare.__file__).parent
OLDEST = (3, 9)


def pythons() -> dict[str, str]:
    """Every Python 3 that is new enough, by version: on PATH, and beside the running one in pyenv."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    folders += Path(sys.base_prefix).parent.glob("*/bin")
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    for folder in folders:
        for path in folder.glob("python3.*"):
            version = re.fullmatch(r"python(3\.[0-9]+)", path.name)
            # A shim is there for versions that cannot be run.
            if version and "shims" not in path.parts and os.access(path, os.X_OK):
                found.setdefault(version.group(1), str(path))
    return {name: path for name, path in sorted(found.items()) if tuple(map(int, name.split("."))) >= OLDEST}


def run(python: str, code: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)


# Everything but the command line, which needs packages that these Pythons need not have.
IMPORT_ALL = """
import importlib, pkgutil, sys
import mshare
for module in pkgutil.walk_packages(mshare.__path__, "mshare."):
    if module.name.startswith(("mshare.cli", "mshare.__main__")):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("cffi", "_cffi_backend", "yaml", "rich", "click"):
            raise
from mshare import Region, mcreate, parse_size
assert parse_size("300GiB") == 300 << 30
"""


@pytest.mark.parametrize("version", pythons())
def test_import_under_every_python(version):
    done = run(pythons()[version], IMPORT_ALL)
    assert done.returncode == 0, done.stderr


WITHOUT_CFFI = """
import sys
sys.modules["cffi"] = sys.modules["_cffi_backend"] = None
"""


def test_without_cffi_an_import_works_and_the_first_use_says_what_is_missing():
    done = run(
        sys.executable,
        WITHOUT_CFFI
        + """
import mshare
from mshare.kernel import probe, syscalls
from mshare.region import mailing_list
from mshare.backends.choose import choose
assert mshare.parse_size("1GiB") == 1 << 30
assert choose("simulated").backend == "simulated"
try:
    syscalls.require()
except mshare.Unavailable as error:
    print(error)
""",
    )
    assert done.stderr == ""
    assert done.stdout.startswith(
        "mapping memory at an address needs cffi, but this Python does not have it ("
    )
    assert done.stdout.endswith("); install the package python3-cffi, or `pip install cffi`\n")


@pytest.mark.parametrize("backend", ["SimulatedBackend", "KernelBackend"])
def test_without_cffi_no_backend_is_half_opened(backend, tmp_path):
    module = {"SimulatedBackend": "simulated.backend", "KernelBackend": "kernel"}[backend]
    done = run(
        sys.executable,
        WITHOUT_CFFI + f"from mshare.backends.{module} import {backend}\n{backend}({str(tmp_path)!r})",
    )
    assert "mshare.errors.Unavailable: mapping memory at an address needs cffi" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_a_host_needs_nothing_but_the_standard_library():
    """What modules that only look carry to a host: no package of it is one that has to be installed."""
    imports = "mshare.backends.choose, mshare.kernel.probe, mshare.services.status_file, mshare.region.rules"
    code = f"import sys; sys.path.remove(''); import {imports}\n"
    code += "print(*{name.partition('.')[0] for name in sys.modules} & {'cffi', 'yaml', 'click', 'rich'})"
    done = run(sys.executable, code)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_public_names_are_found_lazily_and_no_others():
    code = (
        "import sys, mshare; assert 'mshare.region.region' not in sys.modules; mshare.Region; mshare.nonsense"
    )
    done = run(sys.executable, code)
    assert "AttributeError: module 'mshare' has no attribute 'nonsense'" in done.stderr


def test_no_module_imports_the_package_by_its_name():
    """Ansible ships the library under another name: relative imports only."""
    for path in set(LIBRARY.rglob("*.py")) - {LIBRARY / "__main__.py"}:
        assert not re.search(r"^\s*(import|from) mshare\b", path.read_text(encoding="utf-8"), re.MULTILINE), (
            path
        )
