# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own regression suite in huge pages.

Debian's packages bring pg_regress, and not the tests: these are taken from Debian's source package of the
very version that is installed. With MSHARE_PROVE=1 its whole parallel schedule is run
(`make installcheck-parallel`), also on stock pages and on a pool; without it what uses shared memory most.
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
PROVE = os.environ.get("MSHARE_PROVE") == "1"
# Locks, vacuum, large objects and temporary tables; sorts, joins and queries with parallel workers. Some need
# what others before them have made.
_PART = """\
test: test_setup
test: create_misc create_aggregate create_index
test: vacuum lock transactions portals plancache largeobject btree_index prepared_xacts temp
test: aggregates join_hash incremental_sort tuplesort memoize
test: select_parallel
test: write_parallel
test: vacuum_parallel
"""
# The archive keeps what is newest; a machine may have been installed before that.
_GONE = re.compile(r"Can not find version|Version .* for .* was not found")
# What the tests load, as src/test/regress/GNUmakefile builds it.
_LIBRARIES = ("src/test/regress/regress", "contrib/spi/refint", "contrib/spi/autoinc")

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


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
    subprocess.run([*apt, "update"], cwd=folder, check=True)
    for words in (
        ["source", "--download-only", f"postgresql-{VERSION}={version}"],
        ["download", f"postgresql-server-dev-{VERSION}={version}"],
    ):
        done = subprocess.run([*apt, *words], cwd=folder, stderr=subprocess.PIPE, text=True, check=False)
        if _GONE.search(done.stderr):
            pytest.skip(f"postgresql-{VERSION} {version} is installed, and Debian's archive has a newer one")
        assert done.returncode == 0, done.stderr
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
    host.inside(f"{INSIDE}/part").write_text(_PART)
    host.do("chown", "-R", "postgres:", INSIDE)
    yield one
    one.control("stop")


@pytest.mark.parametrize("pages", ["stock", "thp", "hugetlb"] if PROVE else ["thp"])
def test_the_regression_suite(cluster: Cluster, pages: str) -> None:
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
    schedule = "parallel_schedule" if PROVE else "part"
    words = [
        *(PG_REGRESS, f"--inputdir={INSIDE}", f"--outputdir={INSIDE}", f"--dlpath={INSIDE}"),
        *(f"--bindir=/usr/lib/postgresql/{VERSION}/bin", f"--schedule={INSIDE}/{schedule}"),
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
