# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding out what page tables cost: our survey, against what is used today, and against a floor in C.

All look at the same processes in turn: forks of a warm parent that share a segment, and a real PostgreSQL.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

CLONE = Path(__file__).resolve().parents[1]
LIBRARY = CLONE / "lib"
FLOOR_SOURCE = Path(__file__).with_name("status_floor.c")
sys.path[:0] = [str(LIBRARY), str(CLONE / "tests")]

from mshare.units import (
    KIB,
    MIB,
    format_size,
)
from rig import postgresql

SEGMENT_BYTES = 256 * MIB
PROCESSES = (300, 1000, 2000)
POSTGRESQL_BUFFERS, POSTGRESQL_SCALE = "2GB", 14
OURS, AGAIN, EXACT = "survey", "survey, once more", "survey, exact"
COMMAND, FLOOR = "mshare survey (command)", "C loop over status"
PEERS = ("smem", "psutil memory_maps()", "smaps_rollup")
TIMES_FASTER = {"smem": 40, "psutil memory_maps()": 40}
"""How many times faster than these the survey has to be."""
TIMES_FLOOR, TIMES_FLOOR_AGAIN = 4, 2
"""How many times as long as the C loop a survey may take, and one that follows on another."""
ERROR_PERCENT = 1
QUICK_RUNS = 5
TRUTH_PROCESSES = 100
MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
MISSING_FILES = (FileNotFoundError, ProcessLookupError, PermissionError)

# In a fresh interpreter, so that nothing is warm that would not be on a host; the clock leaves out its start.
SURVEY = """
import json, sys, time
from mshare.survey.survey import survey
started = time.perf_counter()
found = survey(exact=bool(int(sys.argv[1])))
seconds = time.perf_counter() - started
print(json.dumps([seconds, found.to_dict()]))
"""
# What a watch pays each time after the first.
SERIES = """
import json, sys, time
from mshare.survey.survey import Series
taken = []
with Series() as series:
    for number in range(int(sys.argv[1]) + 1):
        started = time.perf_counter()
        found = series.survey()
        taken.append(time.perf_counter() - started)
print(json.dumps([taken[1:], found.to_dict()]))
"""
SURVEY_EVERY_SECOND = """
import time
from mshare.survey.survey import survey
while True:
    survey()
    time.sleep(1)
"""


class Case(NamedTuple):
    """Processes to look at."""

    title: str
    pids: list[int]


class Ratios(NamedTuple):
    """What each tool took, in seconds, round by round."""

    taken: dict[str, list[float]]

    def of(self, name: str, other: str) -> float:
        """The median of the rounds' ratios: both sides of a round saw the same machine."""
        return statistics.median(a / b for a, b in zip(self.taken[name], self.taken[other]))


# --- the tools ----------------------------------------------------------------------------------------


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run(*words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout


def survey(exact: bool = False) -> tuple[float, dict[str, Any]]:
    seconds, found = json.loads(run(sys.executable, "-c", SURVEY, str(int(exact))))
    return seconds, found


def survey_again() -> tuple[float, dict[str, Any]]:
    taken, found = json.loads(run(sys.executable, "-c", SERIES, str(QUICK_RUNS)))
    return statistics.median(taken), found


def command() -> float:
    return seconds_of(lambda: run(sys.executable, "-m", "mshare", "survey", "--json"))


def memory_maps() -> None:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            process.memory_maps()


def smaps_rollup() -> None:
    for pid in psutil.pids():
        with suppress(*MISSING_FILES), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            file.read()


def smem() -> None:
    run("smem")


@contextmanager
def floor() -> Iterator[Callable[[], float]]:
    """The C program, compiled."""
    with tempfile.TemporaryDirectory(prefix="mshare-benchmark.") as place:
        program = os.path.join(place, "status_floor")
        subprocess.run(["cc", "-O2", "-o", program, str(FLOOR_SOURCE)], check=True)
        yield lambda: float(run(program).split()[0])


# --- what they look at --------------------------------------------------------------------------------


def hold(count: int, busy_percent: int) -> None:
    """Fork so many processes that have all of one segment mapped; they end when our standard input does.

    Of a hundred, so many wake up ten times a second.
    """
    segment = mmap.mmap(-1, SEGMENT_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(segment))
    populate = ctypes.CDLL(None, use_errno=True).madvise
    populate.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    populate(address, SEGMENT_BYTES, MADV_POPULATE_WRITE)
    ready, tell = os.pipe()
    pids = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            # Reading is as good: the pages are there, and are mapped sixteen at a time.
            populate(address, SEGMENT_BYTES, MADV_POPULATE_READ)
            os.write(tell, b".")
            # Every process waits for the same end; nobody writes.
            while number % 100 < busy_percent and not select.select([0], [], [], 0.1)[0]:
                pass
            os.read(0, 1)
            os._exit(0)
        pids.append(pid)
    ready_count = 0
    while ready_count < count:
        ready_count += len(os.read(ready, count))
    print(json.dumps(pids), flush=True)
    for pid in pids:
        os.waitpid(pid, 0)


@contextmanager
def forks(count: int, busy_percent: int) -> Iterator[Case]:
    progress(f"starting {count} processes")
    words = [sys.executable, __file__, "--hold", str(count), "--busy", str(busy_percent)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        pids = json.loads(parent.stdout.readline())
        busy = f", {busy_percent} % of them awake" if busy_percent else ""
        yield Case(f"{count} processes on {format_size(SEGMENT_BYTES)}{busy}", [parent.pid, *pids])
        parent.stdin.close()


def progress(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence} ...", file=sys.stderr, flush=True)


def instance_pids(server: postgresql.Server) -> list[int]:
    return [server.pid, *(child.pid for child in psutil.Process(server.pid).children())]


# --- the truth ----------------------------------------------------------------------------------------


def exhaustive_bytes(pid: int) -> int:
    """Page tables of a process in its shared mappings: every entry of its pagemap, one by one."""
    tables = set()
    with (
        open(f"/proc/{pid}/maps", encoding="utf-8") as maps,
        open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap,
    ):
        for line in maps:
            found = re.match(r"(\w+)-(\w+) ...s", line)
            if not found:
                continue
            start, end = (int(part, 16) for part in found.groups())
            while start < end:
                # At most one table at a time: it covers 2 MiB, with 8 bytes for a page.
                stop = min((start // (2 * MIB) + 1) * 2 * MIB, end)
                pagemap.seek(start // 512)
                entries = memoryview(pagemap.read((stop - start) // 512)).cast("Q")
                # The two highest bits: present, or swapped.
                if max(entries, default=0) >> 62:
                    tables.add(start // (2 * MIB))
                start = stop
    # One more table for each GiB that has any.
    return (len(tables) + len({table // 512 for table in tables})) * 4 * KIB


def truth_bytes(pids: list[int]) -> int:
    """The same of all these processes; of many, from as many of them as are read in a few seconds."""
    chosen = pids[:: -(-len(pids) // TRUTH_PROCESSES)]
    return sum(map(exhaustive_bytes, chosen)) * len(pids) // len(chosen)


def attributed_bytes(found: dict[str, Any], pids: list[int]) -> int:
    """What a survey says of the segments of the instance with these processes."""
    (instance,) = (each for each in found["instances"] if pids[0] in each["pids"])
    return instance["page_tables"]["segments_bytes"]


# --- comparing ----------------------------------------------------------------------------------------


def compare(case: Case, c_floor: Callable[[], float], runs: int, peers: list[str]) -> None:
    progress(f"reading every entry of the pagemap of {min(len(case.pids), TRUTH_PROCESSES)} processes")
    truth = truth_bytes(case.pids)
    taken: dict[str, list[float]] = {}
    errors: dict[str, float] = {}

    def ours(name: str, surveyed: tuple[float, dict[str, Any]]) -> float:
        seconds, found = surveyed
        errors[name] = abs(attributed_bytes(found, case.pids) / truth - 1) * 100
        return seconds

    tools: dict[str, Callable[[], float]] = {
        FLOOR: c_floor,
        OURS: lambda: ours(OURS, survey()),
        AGAIN: lambda: ours(AGAIN, survey_again()),
        EXACT: lambda: ours(EXACT, survey(exact=True)),
        COMMAND: command,
        "smaps_rollup": lambda: seconds_of(smaps_rollup),
        "psutil memory_maps()": lambda: seconds_of(memory_maps),
        "smem": lambda: seconds_of(smem),
    }
    # What the survey is measured against is measured as often as it.
    once = [name for name in tools if name in peers or name in (EXACT, COMMAND)]
    for number in range(runs):
        progress(f"{case.title}: run {number + 1} of {runs}")
        # In turn, so that a machine whose speed drifts is fair to all.
        quick: dict[str, list[float]] = {FLOOR: [], OURS: [], AGAIN: []}
        for __ in range(QUICK_RUNS):
            for name, values in quick.items():
                values.append(tools[name]())
        for name, values in quick.items():
            taken.setdefault(name, []).append(statistics.median(values))
        for name in once:
            taken.setdefault(name, []).append(tools[name]())
    ratios = Ratios(taken)
    print(
        f"\n{case.title}: {len(case.pids)} processes, {format_size(truth)} of page tables, median of {runs}"
    )
    print(f"  {'':<24} {'time':>12} {'of survey':>10} {'of floor':>10} {'error':>9}")
    for name, values in taken.items():
        error = f"{errors[name]:.3f} %" if name in errors else ""
        of_survey, of_floor = ratios.of(name, OURS), ratios.of(name, FLOOR)
        shown = statistics.median(values) * 1000
        print(f"  {name:<24} {shown:9.1f} ms {of_survey:10.2f} {of_floor:10.2f} {error:>9}")
    for text, met in verdicts(ratios, errors):
        print(f"  {'met    ' if met else 'NOT MET'}  {text}", flush=True)


def verdicts(ratios: Ratios, errors: dict[str, float]) -> Iterator[tuple[str, bool]]:
    for peer, wanted in TIMES_FASTER.items():
        if peer in ratios.taken:
            factor = ratios.of(peer, OURS)
            yield f"{factor:.0f} times faster than {peer} (asked: {wanted})", factor >= wanted
    for name, most in ((OURS, TIMES_FLOOR), (AGAIN, TIMES_FLOOR_AGAIN)):
        factor = ratios.of(name, FLOOR)
        yield f"{name}: {factor:.1f} times the C loop (asked: at most {most})", factor <= most
    for name, error in errors.items():
        yield (
            f"{name}: {error:.3f} % off the exhaustive scan (asked: {ERROR_PERCENT})",
            error <= ERROR_PERCENT,
        )


# --- PostgreSQL ---------------------------------------------------------------------------------------


def transactions_per_second(server: postgresql.Server, seconds: int) -> float:
    words = ["-S", "-n", "-c", "1", "-M", "prepared", "-T", str(seconds), postgresql.DATABASE]
    found = re.search(r"tps = ([\d.]+) \(without", server.run("pgbench", *words))
    assert found is not None
    return float(found.group(1))


@contextmanager
def every_second(*words: str) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    running = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield
        assert running.poll() is None, f"{words} ended"
    finally:
        running.kill()
        running.wait()


def disturbance(server: postgresql.Server, rounds: int, seconds: int) -> None:
    """pgbench alone, and with a survey (or smem) that begins again a second after it ended."""
    rates: dict[str, list[float]] = {"alone": [], OURS: [], "smem": []}
    # Server and client on one core, the survey on the others: what shows is waiting, neither a lack of cores
    # nor whether the two happen to wake one another across cores, which alone halves the rate.
    every, own = os.sched_getaffinity(0), {min(os.sched_getaffinity(0))}
    others = ("taskset", "-c", ",".join(map(str, every - own or every)))
    os.sched_setaffinity(server.pid, own)
    os.sched_setaffinity(0, own)
    for __ in range(rounds):
        rates["alone"].append(transactions_per_second(server, seconds))
        with every_second(*others, sys.executable, "-c", SURVEY_EVERY_SECOND):
            rates[OURS].append(transactions_per_second(server, seconds))
        with every_second(*others, "sh", "-c", "while smem; do sleep 1; done"):
            rates["smem"].append(transactions_per_second(server, seconds))
    os.sched_setaffinity(0, every)
    alone = statistics.median(rates["alone"])
    spread = (max(rates["alone"]) - min(rates["alone"])) / alone * 100
    print(f"\npgbench -S -c 1 on one core, {rounds} rounds of {seconds} s each in turn;", end=" ")
    print(f"alone they differ by {spread:.1f} %")
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"  {name if name == 'alone' else 'with ' + name:<24} {rate:10.0f} tps {rate / alone:8.3f}")


def on_postgresql(options: argparse.Namespace, c_floor: Callable[[], float]) -> None:
    connections = options.backends + 20
    with postgresql.server(POSTGRESQL_BUFFERS, max_connections=connections) as server:
        server.fill(POSTGRESQL_SCALE)
        with server.backends(options.backends):
            title = f"PostgreSQL {server.version}, {POSTGRESQL_BUFFERS}, {options.backends} backends"
            compare(Case(title, instance_pids(server)), c_floor, options.runs, options.peers)
            if options.rounds:
                disturbance(server, options.rounds, options.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("forks", "postgresql"), help="one part; default: both")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, help="how many forks")
    parser.add_argument("--backends", type=int, default=200, help="PostgreSQL's (default: 200)")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[], help="also these (default: none)")
    parser.add_argument("--busy", type=int, default=0, help="of 100 forks, how many wake up now and then")
    parser.add_argument("--rounds", type=int, default=0, help="of pgbench with and without (default: 0)")
    parser.add_argument("--seconds", type=int, default=10, help="of each pgbench (default: 10)")
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        hold(options.hold, options.busy)
        return
    if "smem" in options.peers and not shutil.which("smem"):
        parser.error("smem is not installed (Debian: smem); or choose --peers")
    with floor() as c_floor:
        if options.only != "postgresql":
            for count in options.processes:
                with forks(count, options.busy) as case:
                    compare(case, c_floor, options.runs, options.peers)
        if options.only != "forks":
            reason = postgresql.missing()
            if reason:
                parser.error(f"{reason}; or choose --only forks")
            on_postgresql(options, c_floor)


if __name__ == "__main__":
    main()
