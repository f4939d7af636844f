# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the playbook tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import hosts
from mshare.preload import library as preload_library
from mshare.preload.settings import FILE_NAME


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hosts.Host]:
    """A host on which nothing of ours ever was; each file of tests has its own."""
    with hosts.host(tmp_path_factory.mktemp("host")) as (one, reason):
        if reason is not None:
            pytest.skip(reason)
        yield one


@pytest.fixture(scope="session")
def library() -> Iterator[str]:
    """The preload's library, where a server's user can read it: pytest's own folders are not for others."""
    with tempfile.TemporaryDirectory(prefix="mshare-preload-") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / FILE_NAME
        preload_library.build(str(path), preload_library.own_sources())
        yield str(path)
