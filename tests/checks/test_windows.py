# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Only the process that has a region's window mapped touches it: nothing has the kernel fetch its pages.

Where no page is present in a window, such an access makes a kernel with mshare warn, taints it, and panics
with panic_on_warn. So the calls that can do it are allowed in a few places only, where the memory is none of
a window.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.layout import ROOT

FOLDERS = ("lib", "plugins", "benchmarks", "examples", "tests", "extensions")
_CALLS = r"\bprocess_vm_(?:readv|writev)\b|\bSYS_process_madvise\b|\bmlock(?:2|all)?\b"
REFUSED = re.compile(
    rf"{_CALLS}|\bMAP_POPULATE\b|\bMAP_LOCKED\b|\bMADV_POPULATE_\w+|\bMADV_COLLAPSE\b|\bMADV_WILLNEED\b"
    r"|\bO_DIRECT\b|\bPTRACE_\w+"
)
IN_STRINGS = re.compile(rf"(?:{_CALLS})(?=\()|^/mem$|/proc/[^/ ]+/mem$")
"""Of strings in Python: paths that are opened, and functions that are declared; not what a sentence names."""
ALLOWED = {
    (
        "lib/mshare/postgresql/probe.py",
        "/mem",
    ): "refuses windows, stays within a plain segment",
    ("lib/mshare/preload/src/memory.c", "MADV_POPULATE_READ"): "memory of hugetlb and thp, never a region",
    ("lib/mshare/preload/src/memory.c", "MADV_POPULATE_WRITE"): "likewise",
    ("lib/mshare/preload/src/thp.c", "MADV_COLLAPSE"): "shared memory that was placed for huge pages",
    ("lib/mshare/preload/src/mmap.c", "MAP_LOCKED"): "what asks for it stays out of regions",
    ("lib/mshare/preload/src/mmap.c", "MAP_POPULATE"): "likewise",
    ("lib/mshare/preload/src/advice.c", "MADV_WILLNEED"): "the kernel's own mapping beside a window",
    ("lib/mshare/preload/src/advice.c", "mlock"): "a program's, once its mapping is the kernel's own",
    ("lib/mshare/preload/src/advice.c", "mlock2"): "likewise",
    ("lib/mshare/preload/src/advice.c", "mlockall"): "likewise",
    ("lib/mshare/preload/src/io.c", "O_DIRECT"): "likewise",
    ("lib/mshare/kernel/madvise.py", "MADV_COLLAPSE"): "collapse/preflight.py lets in tmpfs's kinds only",
    ("lib/mshare/kernel/madvise.py", "SYS_process_madvise"): "likewise",
    ("benchmarks/survey.py", "MADV_POPULATE_WRITE"): "anonymous memory of its own",
    ("benchmarks/survey.py", "MADV_POPULATE_READ"): "likewise",
    ("tests/vm/fragment.py", "MADV_POPULATE_WRITE"): "anonymous memory of its own",
    ("tests/integration/test_fixpoint.py", "MADV_COLLAPSE"): "a constant for what another program is given",
    ("tests/unit/plan/test_layouts.py", "MADV_COLLAPSE"): "anonymous memory of its own",
    ("tests/unit/survey/test_segments.py", "MADV_COLLAPSE"): "likewise",
    ("tests/conformance/cases.py", "O_DIRECT"): "into a page that was touched before",
    ("tests/rig/proc_facts.py", "*"): "the table of what the FUSE double looks for",
    (
        "tests/unit/rig/test_fuse_msharefs.py",
        "*",
    ): "shows that the FUSE double logs it",
    ("tests/prove/command_lines.py", "/proc/self/mem"): "a path that commands are given, and refuse",
    ("tests/rig/shapes.c", "*"): "a program of somebody else's, with memory of its own",
    ("tests/rig/mapped.c", "*"): "likewise: a program that knows nothing of regions",
    ("tests/checks/test_windows.py", "*"): "this table",
}


def words(path: Path) -> set[str]:
    """The refused words in a source: code and strings, not comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
        return {match.group() for match in REFUSED.finditer(code)}
    return {match.group() for part, pattern in python_parts(text) for match in pattern.finditer(part)}


def python_parts(source: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value, IN_STRINGS
        elif isinstance(node, ast.Name):
            yield node.id, REFUSED
        elif isinstance(node, ast.Attribute):
            yield node.attr, REFUSED
        elif isinstance(node, ast.alias):
            yield node.name, REFUSED
        elif isinstance(node, ast.keyword):
            yield node.arg or "", REFUSED


def in_sources() -> set[tuple[str, str]]:
    sources = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")))
    return {
        (str(path.relative_to(ROOT)), word)
        for path in sources
        if path.suffix in (".py", ".c", ".h") and not path.is_symlink() and path.is_file()
        for word in words(path)
    }


def allowed(path: str, word: str) -> bool:
    return (path, word) in ALLOWED or (path, "*") in ALLOWED


def test_pages_are_fetched_by_the_kernel_in_no_window() -> None:
    wrong = sorted(f"{path}: {word}" for path, word in in_sources() if not allowed(path, word))
    assert not wrong, (
        "a kernel with mshare warns where this meets a window; touch the memory in the process that has it"
        " mapped, or add a reason to ALLOWED: " + ", ".join(wrong)
    )


def test_every_exception_is_still_needed() -> None:
    used = in_sources()
    paths = {(path, "*") for path, __ in used}
    assert not ALLOWED.keys() - used - paths


@pytest.mark.parametrize(
    ("name", "source", "refused"),
    [
        ("a.py", "os.open(f'/proc/{pid}/mem', os.O_RDONLY)", {"/mem"}),
        ("a.py", "open('/proc/self/mem', 'rb')", {"/proc/self/mem"}),
        ("a.py", "open('/proc/meminfo'); open('/sys/fs/cgroup/memory/x')", set()),
        ("a.py", "mmap.mmap(-1, 4096, flags=MAP_SHARED | MAP_POPULATE)", {"MAP_POPULATE"}),
        ("a.py", "libc.process_vm_readv(pid)", {"process_vm_readv"}),
        ("a.py", "cdef('int mlock(const void *, size_t);')", {"mlock"}),
        ("a.py", "'raise the limit for mlock'", set()),
        ("a.py", "os.open(path, os.O_DIRECT)", {"O_DIRECT"}),
        ("a.py", "os.open(path, os.O_DIRECTORY)", set()),
        ("a.py", "# mlock\n'''mlock refuses a window'''\n", set()),
        ("a.c", "/* mlock */ mlock2(address, size, 0);", {"mlock2"}),
        ("a.c", "madvise(at, size, MADV_POPULATE_WRITE);", {"MADV_POPULATE_WRITE"}),
    ],
)
def test_what_the_check_finds(name: str, source: str, refused: set[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(source)
    assert words(path) == refused
