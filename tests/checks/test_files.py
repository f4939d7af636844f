# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Only lib/mshare/files.py makes, replaces and changes files by path: elsewhere a link may be followed.

See the head of that file for what it does instead.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from checks.layout import ROOT

LIBRARY = ROOT / "lib" / "mshare"
REFUSED = {
    "os": {
        *(
            "chown",
            "lchown",
            "chmod",
            "lchmod",
            "replace",
            "rename",
            "renames",
            "truncate",
            "link",
            "symlink",
        ),
        *(
            "mkfifo",
            "mknod",
            "mkdir",
            "makedirs",
            "unlink",
            "remove",
            "rmdir",
            "removedirs",
            "utime",
            "setxattr",
        ),
    },
    "shutil": {"copy", "copy2", "copyfile", "copymode", "copystat", "copytree", "move", "rmtree", "chown"},
    "tempfile": {"mkstemp", "mkdtemp", "mktemp", "NamedTemporaryFile", "TemporaryDirectory"},
}
PATH_METHODS = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "chmod", "lchmod"}
ALLOWED = {
    ("backends/simulated/layout.py", "os.mkdir"): "in a root that was checked or mounted just now, mode 0700",
    ("backends/simulated/layout.py", "os.rmdir"): "takes an empty directory only, and follows no link",
    ("kernel/build_libc.py", "open"): "a developer's tool that writes into the source tree",
    ("kernel/build_libc.py", "tempfile.TemporaryDirectory"): "a developer's tool",
    ("kernel/probe.py", "os.open"): "a random name with O_EXCL on msharefs",
    ("kernel/probe.py", "os.unlink"): "of that random name",
    ("huge_pages/kernel.py", "open"): "a setting in /sys or /proc/sys",
    ("postgresql/sizing.py", "os.symlink"): "in a folder of its own, mode 0700",
    ("postgresql/sizing.py", "tempfile.mkdtemp"): "mode 0700 with a random name",
    ("preload/library.py", "tempfile.TemporaryDirectory"): "mode 0700 with a random name",
    ("region/owner.py", "open"): "/proc/self/oom_score_adj",
    ("services/detached.py", "open"): "a file descriptor of files.create_file",
}


def called(node: ast.Call) -> tuple[str, str]:
    """(module or object, name) of what is called."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return (function.value.id if isinstance(function.value, ast.Name) else "(...)", function.attr)
    return ("", function.id if isinstance(function, ast.Name) else "")


def writes(node: ast.Call) -> bool:
    """Whether an open() has a mode that writes, or that is not written out."""
    modes = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "mode")]
    return any(not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+") for mode in modes)


def refused_calls(source: str) -> set[str]:
    """The calls in a source that go by path where they must not."""
    calls = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in REFUSED:
            names = {alias.name for alias in node.names} & REFUSED[node.module]
            calls |= {f"{node.module}.{name}" for name in names}
        if not isinstance(node, ast.Call):
            continue
        where, name = called(node)
        by_fd = any(word.arg in ("dir_fd", "src_dir_fd") for word in node.keywords)
        if name in REFUSED.get(where, ()) and not by_fd:
            calls.add(f"{where}.{name}")
        if (where, name) == ("os", "open") and not by_fd and "O_CREAT" in ast.unparse(node):
            calls.add("os.open")
        if (where, name) == ("", "open") and writes(node):
            calls.add("open")
        if name in PATH_METHODS and where not in ("", "files", "os"):
            calls.add(f".{name}")
    return calls


def in_library() -> set[tuple[str, str]]:
    return {
        (str(path.relative_to(LIBRARY)), call)
        for path in sorted(LIBRARY.rglob("*.py"))
        if path != LIBRARY / "files.py"
        for call in refused_calls(path.read_text(encoding="utf-8"))
    }


def test_no_file_is_made_or_changed_by_path_outside_of_files() -> None:
    wrong = sorted(f"{path}: {call}" for path, call in in_library() - ALLOWED.keys())
    assert not wrong, "use mshare/files.py instead: " + ", ".join(wrong)


def test_every_exception_is_still_needed() -> None:
    assert not ALLOWED.keys() - in_library()


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("os.chown(path, 0, 0)", {"os.chown"}),
        ("os.unlink(name, dir_fd=above)", set()),
        ("os.fchown(fd, 0, 0); os.path.exists(path)", set()),
        ("os.open(path, os.O_RDWR | os.O_CREAT)", {"os.open"}),
        ("os.open(path, os.O_RDONLY)", set()),
        ("open(path); open(path, 'rb'); open(path, encoding='ascii')", set()),
        ("open(path, 'w')", {"open"}),
        ("open(path, mode='r+')", {"open"}),
        ("open(path, mode)", {"open"}),
        ("Path(folder, name).write_text('')", {".write_text"}),
        ("files.write_text(path, '')", set()),
        ("shutil.rmtree(path)", {"shutil.rmtree"}),
        ("from shutil import copyfile", {"shutil.copyfile"}),
    ],
)
def test_what_the_check_finds(source: str, calls: set[str]) -> None:
    assert refused_calls(source) == calls


def test_the_paths_of_exceptions_are_there() -> None:
    assert all(Path(LIBRARY, path).is_file() for path, __ in ALLOWED)
