# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload without running it: its numbers, its building, what it is told, for which programs it works."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from mshare import paths
from mshare.errors import InvalidRequest, MshareError, Unavailable
from mshare.kernel import abi, syscalls
from mshare.preload import library, loader
from mshare.preload.settings import Settings

NUMBERS = (
    "FILESYSTEM_MAGIC",
    "PAGE_BYTES",
    "HUGE_PAGE_BYTES",
    "GET_SIZE",
    "UNMAP_BY_ADDRESS",
    "CREATE_MAPPING_BY_OFFSET",
    "UNMAP_BY_OFFSET",
    "PROT_READ",
    "PROT_WRITE",
    "MAP_SHARED",
    "MAP_PRIVATE",
    "MAP_FIXED",
    "MAP_ANONYMOUS",
    "MAP_NORESERVE",
    "MAP_HUGETLB",
    "MAP_FIXED_NOREPLACE",
)
STRUCTS = {
    "mshare_info": ("start", "size"),
    "mshare_create": ("where", "size", "offset", "prot", "flags", "fd"),
    "mshare_unmap": ("where", "size"),
}


def probe() -> str:
    """A program that prints what the C side thinks of the numbers and structs."""
    lines = [f'printf("{name} %llu\\n", (unsigned long long){name});' for name in NUMBERS]
    lines.append('printf("INFO_FILE %s\\n", INFO_FILE);')
    for struct, members in STRUCTS.items():
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        lines += [
            f'printf("{struct}.{member} %zu\\n", offsetof(struct {struct}, {member}));' for member in members
        ]
    head = "#define _GNU_SOURCE\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/mman.h>\n"
    return head + '#include "abi.h"\nint main(void) {\n' + "\n".join(lines) + "\n}\n"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("probe")
    (directory / "abi.h").write_text(library.own_sources()["abi.h"])
    (directory / "probe.c").write_text(probe())
    subprocess.run([library.compiler(), "-o", "probe", "probe.c"], cwd=directory, check=True)
    done = subprocess.run([directory / "probe"], check=True, capture_output=True, text=True)
    return dict(line.split() for line in done.stdout.splitlines())


class TestParity:
    @pytest.mark.parametrize("name", NUMBERS)
    def test_numbers(self, said, name):
        assert int(said[name]) == getattr(abi, name)

    def test_the_name_of_the_info_file(self, said):
        assert said["INFO_FILE"] == abi.INFO_FILE

    @pytest.mark.parametrize("struct", STRUCTS)
    def test_structs(self, said, struct):
        assert int(said[struct]) == syscalls.ffi.sizeof(f"struct {struct}")
        for member in STRUCTS[struct]:
            assert int(said[f"{struct}.{member}"]) == syscalls.ffi.offsetof(f"struct {struct}", member)


class TestSources:
    def test_no_warning(self, tmp_path, monkeypatch):
        monkeypatch.setattr(library, "COMPILE", (*library.COMPILE, "-Werror"))
        library.build(str(tmp_path / "library.so"), library.own_sources())

    def test_it_exports_the_interposed_calls_only(self, tmp_path):
        library.build(str(tmp_path / "library.so"), library.own_sources())
        done = subprocess.run(
            ["nm", "--dynamic", "--defined-only", tmp_path / "library.so"],
            check=True,
            capture_output=True,
            text=True,
        )
        exported = {line.split()[-1] for line in done.stdout.splitlines()}
        shared_memory = {"mmap", "mmap64", "mremap", "munmap", "shmget", "shmat", "shmdt", "shmctl"}
        about_a_range = {"mprotect", "pkey_mprotect", "madvise", "posix_madvise", "msync", "mincore"}
        about_a_range |= {"mlock", "mlock2", "mlockall", "remap_file_pages"}
        direct = {"read", "write", "readv", "writev"}
        direct |= {"pread", "pwrite", "preadv", "pwritev", "pread64", "pwrite64", "preadv64", "pwritev64"}
        assert exported == shared_memory | about_a_range | direct

    def test_it_needs_libc_only(self, tmp_path):
        library.build(str(tmp_path / "library.so"), library.own_sources())
        done = subprocess.run(
            ["readelf", "--dynamic", tmp_path / "library.so"], check=True, capture_output=True, text=True
        )
        assert re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout) == ["libc.so.6"]


class TestBuilding:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MSHARE_CACHE_DIR", str(tmp_path / "cache"))

    def test_it_is_built_once(self):
        first = library.library()
        assert os.path.dirname(first) == paths.cache_dir()
        made = os.stat(first).st_mtime_ns
        assert library.library() == first
        assert os.stat(first).st_mtime_ns == made
        assert os.listdir(paths.cache_dir()) == [os.path.basename(first)]

    def test_no_compiler(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(Unavailable, match="install gcc and libc6-dev") as caught:
            library.library()
        assert caught.value.exit_code == 4
        assert not os.path.exists(paths.cache_dir())

    def test_a_compiler_without_headers(self, tmp_path, monkeypatch):
        broken = tmp_path / "bin" / "cc"
        broken.parent.mkdir()
        broken.write_text("#!/bin/sh\necho 'report.c:5: fatal error: stdio.h: No such file' >&2; exit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", f"{broken.parent}:/bin")
        with pytest.raises(Unavailable, match=r"stdio\.h: No such file.*install gcc and libc6-dev"):
            library.library()
        assert os.listdir(paths.cache_dir()) == []


class TestSettings:
    def test_what_is_not_said_is_left_to_the_library(self):
        assert Settings("thp").environment("/l.so") == {"LD_PRELOAD": "/l.so", "MSHARE_PRELOAD_PAGES": "thp"}

    def test_everything(self):
        settings = Settings(
            "4k", "simulated", "/r", "sga", 1 << 30, "/huge", 4096, False, True, True, "/s.sock"
        )
        assert settings.environment("/l.so") == {
            "LD_PRELOAD": "/l.so",
            "MSHARE_PRELOAD_PAGES": "4k",
            "MSHARE_PRELOAD_BACKEND": "simulated",
            "MSHARE_PRELOAD_ROOT": "/r",
            "MSHARE_PRELOAD_REGION": "sga",
            "MSHARE_PRELOAD_REGION_BYTES": "1073741824",
            "MSHARE_PRELOAD_HUGE_DIRECTORY": "/huge",
            "MSHARE_PRELOAD_THRESHOLD": "4096",
            "MSHARE_PRELOAD_PREFAULT": "0",
            "MSHARE_PRELOAD_REQUIRE": "1",
            "MSHARE_PRELOAD_VERBOSE": "1",
            "MSHARE_PRELOAD_FILES": "/s.sock",
        }

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            (Settings("huge"), "pages 'huge' is unknown; write one of 4k, thp, hugetlb"),
            (Settings("4k"), "need msharefs; name its backend"),
            (Settings("hugetlb", region="sga"), "need msharefs; name its backend"),
            (Settings("thp", files="/s.sock"), "files go into regions only, which need msharefs"),
            (Settings("thp", "kernel", "/r"), "omit the region, or use pages 4k or hugetlb"),
        ],
    )
    def test_what_does_not_go_together(self, settings, sentence):
        with pytest.raises(InvalidRequest, match=sentence):
            settings.check()


C_PROGRAM = "int main(void) { return 0; }\n"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    (directory / "program.c").write_text(C_PROGRAM)
    for name, flags in (("dynamic", []), ("static", ["-static"])):
        words = [library.compiler(), *flags, "-o", name, "program.c"]
        subprocess.run(words, cwd=directory, check=True)
    return directory


class TestPrograms:
    def test_a_dynamic_one(self, programs):
        assert loader.program(str(programs / "dynamic")) == str(programs / "dynamic")

    def test_by_the_path(self):
        assert loader.program("true") == shutil.which("true")

    def test_a_missing_one(self):
        with pytest.raises(MshareError, match="command nowhere cannot be run: there is no such program"):
            loader.program("nowhere")

    def test_a_static_one(self, programs):
        with pytest.raises(InvalidRequest, match="is linked statically"):
            loader.program(str(programs / "static"))

    def test_a_script_of_a_static_interpreter(self, programs, tmp_path):
        script = tmp_path / "script"
        script.write_text(f"#!{programs / 'static'} -x\n")
        script.chmod(0o755)
        with pytest.raises(InvalidRequest, match=f"{script} is linked statically"):
            loader.program(str(script))

    def test_another_architecture(self, programs, tmp_path):
        other = tmp_path / "other"
        head = bytearray((programs / "dynamic").read_bytes())
        head[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
        other.write_bytes(head)
        other.chmod(0o755)
        with pytest.raises(InvalidRequest, match="is for another architecture"):
            loader.program(str(other))

    @pytest.mark.skipif(os.getuid() != 0, reason="only root makes programs of other users setuid")
    @pytest.mark.parametrize(("bit", "word"), [(stat.S_ISUID, "setuid"), (stat.S_ISGID, "setgid")])
    def test_privileged_ones(self, programs, tmp_path, bit, word):
        path = tmp_path / "privileged"
        shutil.copy(programs / "dynamic", path)
        os.chown(path, 65534, 65534)
        path.chmod(0o755 | bit)
        with pytest.raises(InvalidRequest, match=f"is {word}, so the loader ignores LD_PRELOAD"):
            loader.program(str(path))
        os.chown(path, os.getuid(), os.getgid())
        path.chmod(0o755 | bit)
        assert loader.program(str(path)) == str(path), "to its own user it is like any other"
