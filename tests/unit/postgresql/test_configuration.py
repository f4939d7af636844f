# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a cluster, and where each stands, as PostgreSQL itself would decide."""

from __future__ import annotations

import os

import pytest

from mshare.postgresql.configuration import options, settings, started_with

MAIN, DATA = "/etc/pg/postgresql.conf", "/data"


class Files:
    """Files by path."""

    def __init__(self, **texts: str) -> None:
        self.texts = {f"/etc/pg/{name}.conf": text for name, text in texts.items()}

    def content(self, path: str) -> str | None:
        return self.texts.get(path)

    def place(self, path: str) -> str:
        return path

    def listed(self, path: str) -> list[str]:
        return [os.path.basename(each) for each in self.texts if os.path.dirname(each) == path]


def found(files: Files, *arguments: str) -> dict[str, tuple[str, str]]:
    return settings(files, MAIN, DATA, options(["postgres", *arguments]))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("shared_buffers = 8GB", "8GB"),
        ("shared_buffers 8GB # note", "8GB"),
        ("Shared_Buffers='8GB'", "8GB"),
        ("shared_buffers = 'it''s'", "it's"),
        (r"shared_buffers = 'it\'s \\x' # '", r"it's \x"),
    ],
)
def test_a_line(line, value):
    assert found(Files(postgresql=line)) == {"shared_buffers": (value, "postgresql.conf")}


@pytest.mark.parametrize("line", ["#shared_buffers = 8GB", "", "shared_buffers", "= 8GB"])
def test_what_sets_nothing(line):
    assert found(Files(postgresql=line)) == {}


def test_the_last_one_counts_and_alter_system_and_the_command_line_more():
    files = Files(postgresql="port=1\nport=2\nwork_mem=1MB\nhuge_pages=off")
    files.texts[f"{DATA}/postgresql.auto.conf"] = "port=3\nhuge_pages=try"
    assert found(files, "-p", "4") == {
        "port": ("4", "command line"),
        "work_mem": ("1MB", "postgresql.conf"),
        "huge_pages": ("try", "postgresql.auto.conf"),
    }


def test_files_that_are_included_count_where_they_stand():
    files = Files(postgresql="port=1\ninclude 'more.conf'\nwork_mem=1MB", more="port=2\nwork_mem=2MB")
    assert found(files) == {"port": ("2", "more.conf"), "work_mem": ("1MB", "postgresql.conf")}
    folder = Files(postgresql="include_dir = 'conf.d'")
    folder.texts |= {
        "/etc/pg/conf.d/b.conf": "port=2",
        "/etc/pg/conf.d/a.conf": "port=1",
        "/etc/pg/conf.d/z.conf.bak": "port=3",
        # An editor's, which PostgreSQL leaves out.
        "/etc/pg/conf.d/.z.conf": "port=4",
    }
    assert found(folder) == {"port": ("2", "b.conf")}, "in the order of their names"


def test_files_are_included_as_deep_as_postgresql_does_it():
    texts = {f"f{number}": f"include 'f{number + 1}.conf'" for number in range(1, 10)}
    assert found(Files(postgresql="include 'f1.conf'", **texts, f10="port=7")) == {"port": ("7", "f10.conf")}


def test_the_name_of_an_extension_s_setting_may_have_digits():
    assert found(Files(postgresql="pg_s3.max$1 = 5")) == {"pg_s3.max$1": ("5", "postgresql.conf")}


def test_a_file_that_includes_itself_comes_to_an_end():
    assert found(Files(postgresql="port=1\ninclude 'postgresql.conf'")) == {"port": ("1", "postgresql.conf")}


def test_what_a_command_line_sets():
    assert options(
        ["postgres", "-N", "7", "-p5433", "-c", "Huge-Pages=on", "--work_mem=1MB", "-D", "/d", "-B", "16"]
    ) == {
        "max_connections": ("7", "command line"),
        "shared_buffers": ("16", "command line"),
        "port": ("5433", "command line"),
        "huge_pages": ("on", "command line"),
        "work_mem": ("1MB", "command line"),
        "data_directory": ("/d", "command line"),
    }


def test_how_a_server_notes_that_it_was_started():
    noted = '/usr/lib/postgresql/15/bin/postgres "-D" "/my data" "-c" "port=5433"\n'
    arguments = started_with(noted)
    assert arguments == ["/usr/lib/postgresql/15/bin/postgres", "-D", "/my data", "-c", "port=5433"]
    assert options(arguments)["data_directory"] == ("/my data", "command line")


def test_files_that_include_each_other_many_times_are_read_a_few_times() -> None:
    """A cluster's user can write them, and root reads them."""
    both = "include 'postgresql.conf'\ninclude 'other.conf'\n" * 20
    files = Files(postgresql=f"{both}port = 1\n", other=f"{both}port = 2\n")
    reads: list[str] = []
    content = files.content

    def counted(path: str) -> str | None:
        reads.append(path)
        return content(path)

    files.content = counted  # type: ignore[method-assign]
    assert found(files)["port"] == ("1", "postgresql.conf")
    assert len(reads) <= 2 * 11 + 1
