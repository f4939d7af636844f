# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL whose memory lies in different pages: what its page tables cost, and its speed.

Stock with small pages is the peer; stock with huge pages (pages native) is what the preloaded library has to
match. All servers run at once and are measured in turn, so that a machine whose speed drifts is fair to all.

The server that is only placed at its start is collapsed afterwards: without load at full speed, then under
pgbench, at the pace that `mshare collapse` has by default, or at --rate. Transactions are counted in the
seconds in which it is collapsed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CLONE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CLONE / "lib"), str(CLONE / "tests")]

from mshare.backends.simulated.layout import Layout
from mshare.collapse.collapse import Result, collapse
from mshare.collapse.follow import follow
from mshare.collapse.spec import UNLIMITED, rate
from mshare.host import (
    processes,
    procfs,
)
from mshare.preload import library as preload_library
from mshare.preload.settings import (
    FILE_NAME,
    Settings,
)
from mshare.units import (
    KIB,
    MIB,
    format_size,
    parse_size,
)
from rig import postgresql
from rig.huge_pages import alone

POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
HUGE_PAGE_BYTES = 2 * MIB
# PostgreSQL's segment is larger than its shared_buffers, by a part and by what every connection takes.
SEGMENT_EXTRA = 0.15
PAGE_TABLES_WITHIN_PERCENT = 10
"""How far preload thp may be above stock huge pages."""
PORT = 5510
WARM_SECONDS = 5
"""Of each pgbench, before a collapse begins and transactions are counted."""
STARTS = 3
START_RATIO, HUGE_PERCENT, HUGE_SECONDS, TPS_RATIO = 1.5, 90, 60, 0.9
"""What is asked of align only and collapse: its start and its transactions of stock's, its memory."""


class Mode(NamedTuple):
    """A way to run the server."""

    name: str
    huge_pages: str
    preload: dict[str, Any] | None
    """Settings of the preloaded library; None for a stock server."""
    reserved: bool = False
    """Whether it takes its memory from the pool of huge pages."""
    collapsed: bool = False
    """Whether it is put into huge pages while it runs."""


STOCK, STOCK_HUGE, THP = "stock, 4 KiB", "native huge pages", "preload, thp"
ALIGN = "align only, collapse"
MODES = (
    Mode(STOCK, "off", None),
    Mode(STOCK_HUGE, "on", None, reserved=True),
    Mode(THP, "off", {"pages": "thp"}),
    Mode(ALIGN, "off", {"pages": "thp", "prefault": False}, collapsed=True),
    Mode("preload, hugetlb", "off", {"pages": "hugetlb"}, reserved=True),
    Mode("preload, simulated", "off", {"pages": "4k", "backend": "simulated"}),
    Mode("preload, kernel", "off", {"pages": "4k", "backend": "kernel", "root": "/sys/fs/mshare"}),
)


class Cost(NamedTuple):
    """What so many connections cost that have each touched the whole table."""

    backend_bytes: int
    """VmPTE of a backend, on average."""
    all_bytes: int
    """VmPTE of all backends."""
    host_bytes: int
    """By how much PageTables of the host grew."""
    connect_seconds: float
    """From the start of a connection to the end of its first full touch; the median."""


class Verdict(NamedTuple):
    """A figure that was asked for."""

    what: str
    asked: str
    measured: str
    met: bool


class Running(NamedTuple):
    mode: Mode
    server: postgresql.Server
    collapsed: Result | None
    """How it came into huge pages, where that was done while it ran."""


@contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """So many huge pages more in the pool, given back afterwards."""
    total = POOL / "nr_hugepages"
    before = int(total.read_text())
    try:
        total.write_text(str(before + count))
        granted = int(total.read_text()) - before
        if granted < count:
            sys.exit(f"{count} huge pages of 2 MiB are needed and {granted} were to be had; ask for less")
        yield
    finally:
        total.write_text(str(before))


@contextmanager
def environments() -> Iterator[Callable[[Mode], dict[str, str]]]:
    """What a mode's server has in its environment; the library, and a simulated msharefs, for as long."""
    with (
        tempfile.TemporaryDirectory(prefix="mshare-benchmark-") as place,
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mshare-benchmark-") as root,
    ):
        os.chmod(place, 0o755)
        library = os.path.join(place, FILE_NAME)
        preload_library.build(library, preload_library.own_sources())
        Layout.create(root, "2025-08")
        for folder, __, files in os.walk(root):
            for name in ("", *files):
                shutil.chown(os.path.join(folder, name), postgresql.ACCOUNT, postgresql.ACCOUNT)

        def environment(mode: Mode) -> dict[str, str]:
            if mode.preload is None:
                return {}
            where = {"root": root} if mode.preload.get("backend") == "simulated" else {}
            return Settings(require=True, **where, **mode.preload).environment(library)

        yield environment


def segment_bytes(shared_buffers: str) -> int:
    return int(parse_size(shared_buffers, "shared_buffers") * (1 + SEGMENT_EXTRA))


@contextmanager
def servers(modes: list[Mode], options: argparse.Namespace) -> Iterator[list[Running]]:
    """A server of each mode, with the same table in its buffers."""
    scale = max(1, int(segment_bytes(options.shared_buffers) * 0.75 / MIB / postgresql.MIB_PER_SCALE))
    with ExitStack() as stack:
        environment = stack.enter_context(environments())
        running = []
        for number, mode in enumerate(modes):
            server = stack.enter_context(
                postgresql.server(
                    options.shared_buffers,
                    max_connections=max(options.connections) + 20,
                    port=PORT + number,
                    environment=environment(mode),
                    huge_pages=mode.huge_pages,
                )
            )
            server.fill(scale)
            print(f"started: {mode.name}", file=sys.stderr)
            running.append(Running(mode, server, touched_and_collapsed(server) if mode.collapsed else None))
        yield running


def touched_and_collapsed(server: postgresql.Server) -> Result:
    """Only what some process has mapped is collapsed: a backend has read the whole table, and stays."""
    with server.backends(1):
        result = collapse(str(server.data_directory), rate_bytes=UNLIMITED)
    for reason, size_bytes in result.left.items():
        print(f"  not collapsed: {format_size(size_bytes)}: {reason}", file=sys.stderr)
    return result


def host_bytes() -> int:
    return procfs.meminfo_bytes()["PageTables"]


def cost(server: postgresql.Server, connections: int) -> Cost:
    before_bytes = host_bytes()
    with ExitStack() as opened:
        taken, pids = [], set()
        for __ in range(connections):
            started = time.perf_counter()
            connection = opened.enter_context(server.connect())
            connection.execute(postgresql.FULL_TOUCH)
            taken.append(time.perf_counter() - started)
            pids.add(connection.info.backend_pid)
        host_growth_bytes = host_bytes() - before_bytes
        found = [each.vm_pte_bytes for each in processes.read_all().processes if each.pid in pids]
    # A backend ends after its connection: the next one's growth must not be this one's end.
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.05)
    return Cost(sum(found) // len(found), sum(found), host_growth_bytes, statistics.median(taken))


def transactions_per_second(server: postgresql.Server, clients: int, seconds: int) -> float:
    words = ["-S", "-n", "-c", str(clients), "-j", "2", "-M", "prepared", "-T", str(seconds)]
    found = re.search(r"tps = ([\d.]+) \(without", server.run("pgbench", *words, postgresql.DATABASE))
    assert found is not None
    return float(found.group(1))


def show_costs(running: list[Running], connections: int) -> dict[str, Cost]:
    found = {each.mode.name: cost(each.server, connections) for each in running}
    peer = found[STOCK]
    print(f"\n{connections} connections, each has read the whole table (measured)")
    print(
        f"  {'':<20} {'per backend':>12} {'all backends':>13} {'of stock':>9} {'host grew':>11}"
        f" {'to first full touch':>20} {'of stock':>9}"
    )
    for name, one in found.items():
        print(
            f"  {name:<20} {one.backend_bytes / KIB:8.0f} KiB {format_size(one.all_bytes):>13}"
            f" {one.all_bytes / peer.all_bytes:9.3f} {format_size(one.host_bytes):>11}"
            f" {one.connect_seconds * 1000:17.1f} ms {one.connect_seconds / peer.connect_seconds:9.2f}"
        )
    return found


def show_speed(running: list[Running], options: argparse.Namespace) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {each.mode.name: [] for each in running}
    for __ in range(options.rounds):
        for each in running:
            rates[each.mode.name].append(
                transactions_per_second(each.server, options.clients, options.seconds)
            )
    print(f"\npgbench -S -c {options.clients}, {options.rounds} rounds of {options.seconds} s each, in turn")
    print(f"  {'':<20} {'median tps':>11} {'of stock':>9} {'lowest':>8} {'highest':>8}")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates[STOCK]))
        middle, low, high = statistics.median(values), min(values), max(values)
        print(f"  {name:<20} {middle:11.0f} {ratio:9.3f} {low:8.0f} {high:8.0f}")
    return rates


def starts(modes: list[Mode], options: argparse.Namespace) -> Iterator[Verdict]:
    """Starts of new servers in turn: each is timed from its program until it takes connections."""
    chosen_modes = [mode for mode in modes if mode.name in (STOCK, ALIGN)]
    if len(chosen_modes) < 2:
        return
    seconds: dict[str, list[float]] = {STOCK: [], ALIGN: []}
    with environments() as environment:
        for __ in range(STARTS):
            for mode in chosen_modes:
                with postgresql.server(
                    options.shared_buffers,
                    max_connections=max(options.connections) + 20,
                    port=PORT + len(MODES),
                    environment=environment(mode),
                    huge_pages=mode.huge_pages,
                ) as server:
                    seconds[mode.name].append(server.start_seconds)
    stock, align = (statistics.median(seconds[name]) for name in (STOCK, ALIGN))
    yield Verdict(
        f"start with shared_buffers = {options.shared_buffers}, median of {STARTS}",
        f"at most {START_RATIO} of stock",
        f"{align:.2f} s, {align / stock:.2f} of {stock:.2f} s",
        align / stock <= START_RATIO,
    )


def first_collapse(running: list[Running]) -> Iterator[Verdict]:
    for each in running:
        if each.collapsed is not None:
            share, seconds = huge_percent(each.collapsed), each.collapsed.seconds
            yield Verdict(
                f"{format_size(each.collapsed.after.used_bytes)} in use put into huge pages",
                f"{HUGE_PERCENT} % within {HUGE_SECONDS} s",
                f"{share:.1f} % in {seconds:.1f} s",
                share >= HUGE_PERCENT and seconds <= HUGE_SECONDS,
            )


def huge_percent(result: Result) -> float:
    return 100 * result.after.huge_bytes / max(1, result.after.used_bytes)


def verdicts(costs: dict[int, dict[str, Cost]], rates: dict[str, list[float]]) -> Iterator[Verdict]:
    for connections, found in costs.items():
        if THP in found and STOCK_HUGE in found:
            above = 100 * (found[THP].all_bytes / found[STOCK_HUGE].all_bytes - 1)
            yield Verdict(
                f"page tables of {connections} connections, {THP}",
                f"at most +{PAGE_TABLES_WITHIN_PERCENT} % of native",
                f"{above:+.1f} %",
                above <= PAGE_TABLES_WITHIN_PERCENT,
            )
    if rates.get(THP):
        # What the stock server's own rounds differ by is noise.
        stock = rates[STOCK]
        noise = (max(stock) - min(stock)) / statistics.median(stock)
        ratio = statistics.median(a / b for a, b in zip(rates[THP], stock))
        yield Verdict(
            f"tps of {THP}, read only",
            f"{1 - noise:.2f} of stock (its noise)",
            f"{ratio:.3f}",
            ratio >= 1 - noise,
        )


def show_verdicts(rows: list[Verdict]) -> None:
    print(f"\n{'What was asked for':<52} {'Asked':<26} {'Measured':<26} Met")
    for row in rows:
        print(f"{row.what:<52} {row.asked:<26} {row.measured:<26} {'yes' if row.met else 'NO'}")


def show_starts(running: list[Running]) -> None:
    peer = next(each for each in running if each.mode.name == STOCK)
    print(f"\nstart, until connections are taken, {running[0].server.max_connections} allowed (measured)")
    for each in running:
        ratio = each.server.start_seconds / peer.server.start_seconds
        line = f"  {each.mode.name:<20} {each.server.start_seconds:8.2f} s {ratio:9.2f} of stock"
        if each.collapsed is not None:
            used = format_size(each.collapsed.after.used_bytes)
            line += f", then {huge_percent(each.collapsed):.1f} % of {used} in use"
            line += f" collapsed in {each.collapsed.seconds:.1f} s"
        print(line)


class Loaded(NamedTuple):
    """A run of pgbench, and what was collapsed meanwhile."""

    tps: float
    """In the seconds in which it was collapsed; without that, in all but the first."""
    failed: int
    collapsed: Result | None


_PROGRESS = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps", re.M)


def loaded(server: postgresql.Server, options: argparse.Namespace, collapsing: bool) -> Loaded:
    """pgbench's read-write transactions, while the server is collapsed or is not.

    A backend has the whole table mapped meanwhile: what no process has mapped is not collapsed.
    """
    seconds = options.collapse_seconds
    words = ["-n", "-c", str(options.clients), "-j", "2", "-P", "1", "-T", str(seconds), postgresql.DATABASE]
    options_of_load = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": "/", "text": True}
    with server.backends(1), subprocess.Popen(server.command("pgbench", *words), **options_of_load) as load:
        assert load.stdout is not None
        while not load.stdout.readline().startswith(f"progress: {WARM_SECONDS}."):
            assert load.poll() is None, "it runs for longer than that"
        began = time.monotonic()
        result = collapse(str(server.data_directory), rate_bytes=options.rate) if collapsing else None
        took = time.monotonic() - began if collapsing else seconds
        if result is not None and load.poll() is not None:
            print("  the collapse took longer than pgbench: raise --collapse-seconds", file=sys.stderr)
        printed = load.communicate()[0]
    rates = [(float(when), float(tps)) for when, tps in _PROGRESS.findall(printed)]
    counted = [tps for when, tps in rates if when <= WARM_SECONDS + max(1.0, took)]
    failed = re.search(r"number of failed transactions: (\d+)", printed)
    assert counted, printed
    assert failed is not None, printed
    return Loaded(statistics.mean(counted), int(failed[1]), result)


def crash(server: postgresql.Server) -> None:
    """A crash restart, which takes new memory in small pages, and the table in its buffers again."""
    log = server.directory / "log"
    before = log.read_text(errors="replace").count("ready to accept connections")
    with server.connect() as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        while log.read_text(errors="replace").count("ready to accept connections") == before:
            time.sleep(0.05)
    with server.connect() as connection:
        connection.execute("SELECT pg_prewarm('pgbench_accounts')")


def show_collapses(running: list[Running], options: argparse.Namespace) -> Iterator[Verdict]:
    """What a collapse costs those who work meanwhile, and whether a crash restart is huge again by itself."""
    of = {each.mode.name: each.server for each in running}
    if ALIGN not in of:
        return
    rounds: list[tuple[Loaded, Loaded]] = []
    for number in range(options.rounds):
        for name in (STOCK, ALIGN):
            crash(of[name])
        # Whoever comes second finds the machine as the first one left it, so each is first in turn.
        order = (STOCK, ALIGN) if number % 2 == 0 else (ALIGN, STOCK)
        done = {name: loaded(of[name], options, name == ALIGN) for name in order}
        rounds.append((done[STOCK], done[ALIGN]))
    print(
        f"\npgbench -c {options.clients} during a collapse, {options.rounds}"
        " rounds in turn, each after a crash restart (measured)"
    )
    heads = f"{'tps, stock':>11} {'collapsing':>11} {'of stock':>9}   {'collapsed':<22} {'huge':>6}"
    print(f"  {heads}  page tables")
    for stock, align in rounds:
        assert align.collapsed is not None
        before, after = align.collapsed.before, align.collapsed.after
        amount = f"{format_size(align.collapsed.collapsed_bytes)} in {align.collapsed.seconds:.1f} s"
        print(
            f"  {stock.tps:11.0f} {align.tps:11.0f} {align.tps / stock.tps:9.3f}   {amount:<22}"
            f" {huge_percent(align.collapsed):4.1f} %  {format_size(before.page_tables_bytes)} to"
            f" {format_size(after.page_tables_bytes)}"
        )
    stock_tps, align_tps = (statistics.median(each[side].tps for each in rounds) for side in (0, 1))
    yield Verdict(
        f"tps while collapsing, median of {options.rounds}",
        f"at least {TPS_RATIO} of stock",
        f"{align_tps:.0f}, {align_tps / stock_tps:.3f} of {stock_tps:.0f}",
        align_tps / stock_tps >= TPS_RATIO,
    )
    failed = sum(stock.failed + align.failed for stock, align in rounds)
    yield Verdict("failed transactions", "none", str(failed), failed == 0)
    lowest = min(huge_percent(align.collapsed) for __, align in rounds if align.collapsed)
    yield Verdict(
        "huge after the collapse, lowest", f"{HUGE_PERCENT} %", f"{lowest:.1f} %", lowest >= HUGE_PERCENT
    )
    yield again_by_itself(of[ALIGN])


def again_by_itself(server: postgresql.Server) -> Verdict:
    """A service of one look per second, over a crash restart."""
    over, news = threading.Event(), []
    following = threading.Thread(
        target=follow, args=(str(server.data_directory), over.wait, news.append), kwargs={"seconds": 1}
    )
    following.start()
    try:
        crash(server)
        started = time.monotonic()
        with server.backends(1):
            while True:
                result = collapse(str(server.data_directory), check=True)
                seconds = time.monotonic() - started
                if huge_percent(result) >= HUGE_PERCENT or seconds > HUGE_SECONDS:
                    break
                time.sleep(0.2)
    finally:
        over.set()
        following.join()
    used, share = format_size(result.after.used_bytes), huge_percent(result)
    return Verdict(
        f"huge again by itself after a crash restart, {used}",
        f"{HUGE_PERCENT} % within {HUGE_SECONDS} s",
        f"{share:.1f} % in {seconds:.1f} s",
        share >= HUGE_PERCENT,
    )


def chosen(options: argparse.Namespace) -> list[Mode]:
    """The modes this machine can run; the others are told, with the reason."""
    found = []
    for mode in MODES:
        if mode.name == "preload, kernel" and "msharefs" not in Path("/proc/filesystems").read_text():
            print(f"left out: {mode.name}: this kernel has no msharefs", file=sys.stderr)
        elif options.only and mode.name not in (STOCK, *options.only):
            continue
        else:
            found.append(mode)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared-buffers", default="1GB", help="PostgreSQL's setting (default: 1GB)")
    parser.add_argument("--connections", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--rounds", type=int, default=5, help="of pgbench (default: 5)")
    parser.add_argument("--seconds", type=int, default=10, help="of each pgbench (default: 10)")
    parser.add_argument(
        "--collapse-seconds", type=int, default=50, help="of each pgbench during a collapse (default: 50)"
    )
    parser.add_argument(
        "--rate",
        type=rate,
        help="of the collapse under pgbench, as mshare collapse takes it (default: its own)",
    )
    parser.add_argument("--clients", type=int, default=8, help="of pgbench (default: 8)")
    parser.add_argument("--only", nargs="+", choices=[mode.name for mode in MODES], help="beside the peer")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("huge pages are reserved by root")
    if reason := postgresql.missing():
        parser.error(reason)
    modes = chosen(options)
    pages = -(-segment_bytes(options.shared_buffers) // HUGE_PAGE_BYTES) * sum(
        mode.reserved for mode in modes
    )
    # Tests of this machine change its pool as well.
    with alone(), huge_pages(pages), servers(modes, options) as running:
        costs = {count: show_costs(running, count) for count in options.connections}
        show_starts(running)
        rates = show_speed(running, options) if options.rounds else {}
        rows = [*verdicts(costs, rates), *first_collapse(running)]
        rows += show_collapses(running, options) if options.rounds else []
    # When the others have given their memory back.
    show_verdicts([*starts(modes, options), *rows])


if __name__ == "__main__":
    main()
