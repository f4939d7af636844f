# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backend, and the sentence that says why, or why not."""

from __future__ import annotations

import os

import pytest

from mshare.backends import choose
from mshare.backends.connect import connect
from mshare.backends.simulated.layout import Layout
from mshare.errors import InvalidRequest, Unavailable
from mshare.host import mounts as host_mounts
from mshare.host import procfs
from mshare.host.mounts import Mount

RELEASE = os.uname().release


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host with or without msharefs in its kernel, and with what is mounted."""

    def make(kernel: bool, *mounted: str) -> str:
        monkeypatch.setattr(procfs, "filesystems", lambda: ["tmpfs", *(["msharefs"] if kernel else [])])
        mounts = [Mount(path, "msharefs", "msharefs", "rw", "rw") for path in mounted]
        monkeypatch.setattr(
            host_mounts, "mounts", lambda: [Mount("/", "ext4", "/dev/root", "rw", "rw"), *mounts]
        )
        monkeypatch.setattr(choose.paths, "simulated_root", lambda: str(tmp_path))
        return str(tmp_path)

    return make


def test_auto_without_a_kernel_says_why(host):
    root = host(kernel=False)
    assert choose.choose() == (
        "simulated",
        root,
        f"kernel {RELEASE} has no msharefs in /proc/filesystems, so the simulated backend is used",
    )


@pytest.mark.parametrize(
    ("mounted", "root"),
    [((), "/sys/fs/mshare"), (("/x", "/sys/fs/mshare"), "/sys/fs/mshare"), (("/x", "/y"), "/x")],
)
def test_auto_with_a_kernel(host, mounted, root):
    host(True, *mounted)
    assert choose.choose() == ("kernel", root, "this kernel has msharefs in /proc/filesystems")


def test_a_kernel_that_is_asked_for_and_not_there_is_no_fallback(host):
    host(kernel=False)
    with pytest.raises(Unavailable) as caught:
        choose.choose("kernel")
    assert str(caught.value) == (
        f"backend kernel was requested, but kernel {RELEASE} has no msharefs in /proc/filesystems; boot a"
        " kernel with the mshare series, or use backend simulated"
    )


def test_simulated_is_simulated_on_a_kernel_with_msharefs_too(host):
    root = host(kernel=True)
    assert choose.choose("simulated") == ("simulated", root, "the simulated backend was requested")


def test_a_backend_that_nobody_knows(host):
    host(kernel=False)
    with pytest.raises(InvalidRequest) as caught:
        choose.choose("kernal")
    assert str(caught.value) == "backend 'kernal' is unknown; write one of auto, kernel, simulated"


@pytest.mark.parametrize(
    ("kernel", "backend", "where"), [(False, "simulated", None), (True, "kernel", "/sys/fs/mshare")]
)
def test_nothing_is_mounted(host, kernel, backend, where):
    root = host(kernel)
    with pytest.raises(Unavailable) as caught:
        choose.locate()
    said = str(caught.value)
    assert said.startswith("no msharefs is mounted (")
    assert f"; tried {where or root});" in said
    assert said.endswith(f"run `mshare mount --backend {backend}` or the role dbmem.mshare.msharefs")


def test_what_is_mounted_is_found(host):
    root = host(False)
    Layout.create(root, "2025-08")
    assert choose.locate()[:2] == ("simulated", root)
    assert choose.locate("simulated", root)[:2] == ("simulated", root)
    host(True, "/x")
    assert choose.locate()[:2] == ("kernel", "/x")
    assert choose.locate("auto", "/x") == ("kernel", "/x", "msharefs is mounted at /x")
    assert choose.locate("auto", root)[:2] == ("simulated", root), "a root that is named is that one"


@pytest.mark.parametrize(
    ("backend", "root", "wanted"),
    [
        ("auto", "/etc", "no msharefs"),
        ("kernel", "{}", "no msharefs of backend kernel"),
        ("simulated", "/x", "no msharefs of backend simulated"),
        ("auto", "/none/such", "no msharefs"),
    ],
)
def test_a_root_that_does_not_hold_what_is_wanted(host, backend, root, wanted):
    root = root.format(host(True, "/x"))
    if backend == "kernel":
        Layout.create(root, "2025-08")
    with pytest.raises(Unavailable) as caught:
        choose.locate(backend, root)
    assert str(caught.value) == f"{root} holds {wanted}; mount it with `mshare mount --root {root}`"


@pytest.mark.parametrize("generation", ["2022-06", "2025-08"])
def test_connecting(host, generation):
    root = host(False)
    Layout.create(root, generation, 2 << 20)
    backend = connect()
    assert (backend.name, backend.root, backend.generation.id) == ("simulated", root, generation)
    assert backend.alignment_bytes == 2 << 20
    assert backend.names() == []
    assert Layout.read(root).free_bytes() > 0
