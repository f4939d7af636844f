# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own regression suite, its parallel schedule (`make installcheck-parallel`), in huge pages.

Debian's packages bring pg_regress, and not the tests: these are taken from Debian's source package of the
very version that is installed. That and the runs take minutes (MSHARE_PROVE=1).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from integration.clusters import PLACED, VERSION, Cluster, mapped, missing
from integration.hosts import Host
from rig import huge_pages
from rig.debian import cache_dir, exclusive

POOL_PAGES = 120
PG_REGRESS = f"/usr/lib/postgresql/{VERSION}/lib/pgxs/src/test/regress/pg_regress"
INSIDE = "/dev/shm/regress"
# deb-src lines of the machine's own distribution, in lists of their own: the machine's stay as they are.
_SOURCES = """\
deb-src http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian-security bookworm-security main
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian-security bookworm-security main
"""
# What the tests load, as src/test/regress/GNUmakefile builds it.
_LIBRARIES = ("src/test/regress/regress", "contrib/spi/refint", "contrib/spi/autoinc")

pytestmark = [
    pytest.mark.skipif(os.environ.get("MSHARE_PROVE") != "1", reason="ten minutes: MSHARE_PROVE=1"),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture(scope="module")
def suite() -> Path:
    """The tests, with the libraries that they load beside them."""
    said = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", f"postgresql-{VERSION}"],
        capture_output=True,
        text=True,
        check=True,
    )
    version = said.stdout
    folder = cache_dir("postgresql-source") / version.replace(":", "_")
    with exclusive(folder.parent / "lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, version)
            (folder / "made").touch()
    return folder / "regress"


def _make(folder: Path, version: str) -> None:
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "sources.list").write_text(_SOURCES)
    apt = [
        *("apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={folder}/sources.list"),
        *("-o", "Dir::Etc::sourceparts=/dev/null", "-o", f"Dir::State::lists={folder}/lists"),
        *("-o", f"Dir::Cache={folder}/cache"),
    ]
    for words in (
        ["update"],
        ["source", "--download-only", f"postgresql-{VERSION}={version}"],
        ["download", f"postgresql-server-dev-{VERSION}={version}"],
    ):
        subprocess.run([*apt, *words], cwd=folder, check=True)
    (headers,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", headers, folder / "dev"], check=True)
    (source,) = folder.glob("*.orig.tar.*")
    parts = ["*/src/test/regress", "*/contrib/spi"]
    unpack = ["tar", "--extract", "--strip-components=1", "--wildcards", f"--file={source}"]
    subprocess.run([*unpack, *parts], cwd=folder, check=True)
    shutil.move(folder / "src/test/regress", folder / "regress")
    include = f"-I{folder}/dev/usr/include/postgresql/{VERSION}/server"
    for library in _LIBRARIES:
        name = Path(library).name
        code = folder / "regress/regress.c" if name == "regress" else folder / f"{library}.c"
        words = [
            "gcc",
            "-O2",
            "-fPIC",
            "-shared",
            "-DREFINT_VERBOSE",
            include,
            "-o",
            folder / f"regress/{name}.so",
            code,
        ]
        subprocess.run(words, check=True)


@pytest.fixture(scope="module")
def cluster(host: Host, suite: Path) -> Iterator[Cluster]:
    one = Cluster(host)
    # What the suite wants beyond the defaults: nothing; and it brings its own locale.
    one.create(shared_buffers="128MB", max_connections="100", autovacuum="on")
    host.play([{"dbmem.mshare.mshare_runtime": {"preload": True}}]).succeeded()
    host.do("cp", "-r", str(suite), INSIDE)
    host.do("chown", "-R", "postgres:", INSIDE)
    yield one
    one.control("stop")


@pytest.mark.parametrize("pages", ["stock", "thp", "hugetlb"])
def test_the_parallel_schedule(cluster: Cluster, pages: str) -> None:
    """On stock pages as well: what fails there is none of ours."""
    with huge_pages.reserved(POOL_PAGES) if pages == "hugetlb" else nullcontext():
        if pages != "stock":
            wanted = {"pages": pages, "restart": True, "probes": 0}
            cluster.host.play([{"dbmem.mshare.mshare_postgresql": wanted}]).succeeded()
        said = _installcheck(cluster)
        assert re.search(r"All [0-9]+ tests passed", said), said[-3000:]
        if pages != "stock":
            with cluster.backend("SELECT count(*) FROM pg_class") as pid:
                for process in (cluster.pid, pid):
                    assert "libmshare-preload" in cluster.host.inside(f"/proc/{process}/maps").read_text()
            assert PLACED[pages](mapped(cluster.host, cluster.pid))
            back = {"state": "absent", "restart": True, "probes": 0}
            cluster.host.play([{"dbmem.mshare.mshare_postgresql": back}]).succeeded()


def _installcheck(cluster: Cluster) -> str:
    """What pg_regress writes, as the server's user."""
    words = [
        *(PG_REGRESS, f"--inputdir={INSIDE}", f"--outputdir={INSIDE}", f"--dlpath={INSIDE}"),
        *(f"--bindir=/usr/lib/postgresql/{VERSION}/bin", f"--schedule={INSIDE}/parallel_schedule"),
        *("--host=/var/run/postgresql", "--port=5432", "--dbname=regression", "--max-concurrent-tests=20"),
    ]
    account = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", "-C", INSIDE)
    done = subprocess.run(
        cluster.host.command(*account, *words, environment={"PATH": "/usr/bin:/bin"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    differences = cluster.host.inside(f"{INSIDE}/regression.diffs")
    return done.stdout + (differences.read_text(errors="replace")[:2000] if differences.exists() else "")
