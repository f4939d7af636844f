# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a host's huge pages to what is wanted, and back.

Whatever is changed is written down first (before.py). What an earlier run changed and this one does not
ask for is put back; so `absent` is the wish for nothing at all.
"""

from __future__ import annotations

import contextlib
import grp
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from .. import files
from ..converge.outcome import one_at_a_time
from ..errors import Conflict, Unavailable
from ..host import fragmentation, hugetlbfs
from ..host.huge_pages import Pool, nr_file
from ..host.limits import Host
from ..kernel.abi import HUGE_PAGE_BYTES
from ..postgresql import sizing
from ..printable import printable
from ..services import systemd
from ..survey.record import Survey
from ..survey.survey import survey as survey_host
from ..units import counted, format_size
from . import before as written_down
from . import boot, memlock, need, oracle, pool, preflight, stopped
from .before import Before, FileBefore, PoolBefore, SettingBefore
from .kernel import SHM_GROUP, TRANSPARENT, Kernel
from .need import Ask, Target
from .pool import Change, Progress, Short, no_progress
from .result import BootFacts, BootState, Live, PoolFacts, Result
from .spec import HugePagesSpec, pool_text

_SETTING_NAMES = {SHM_GROUP: "vm.hugetlb_shm_group", TRANSPARENT: "transparent huge pages"}
_Key = tuple[int, "int | None"]


@dataclass(frozen=True)
class Around:
    """What a run works with; tests have parts of their own."""

    host: Host = field(default_factory=Host)
    survey: Callable[[], Survey] = survey_host
    ask: Ask = sizing.huge_pages
    kernel: Kernel | None = None
    stopped: Callable[[int, int | None, Iterable[str]], Iterable[str]] = stopped.warnings

    def get_kernel(self) -> Kernel:
        return self.kernel or Kernel(self.host)


@dataclass(frozen=True)
class _FileChange:
    """A file that is to have another text; None: to be removed."""

    path: str
    now: str | None
    text: str | None
    access: files.Access
    """Of the file as it is to be."""


@dataclass(frozen=True)
class _Decision:
    """Everything that is to be changed, and what is written down afterwards."""

    pools: tuple[Change, ...]
    settings: tuple[SettingBefore, ...]
    """As they are now, and as they are wanted."""
    files: tuple[_FileChange, ...]
    record: Before
    warnings: tuple[str, ...]
    forgets: bool
    """Whether nothing has to be written down any more, and something is: also by a run that was killed."""

    @property
    def is_empty(self) -> bool:
        return not (self.pools or self.settings or self.files or self.forgets)


def present(
    spec: HugePagesSpec,
    *,
    check: bool = False,
    progress: Progress = no_progress,
    around: Around | None = None,
) -> Result:
    """Apply what is asked for. Raises what stands in the way before anything is changed.

    A result with `failure` if the kernel granted less than was asked for.
    """
    with one_at_a_time(check):
        return _converge(spec, check, progress, around or Around(), counting=True)


def absent(
    *,
    check: bool = False,
    progress: Progress = no_progress,
    around: Around | None = None,
    released_bytes: int = 0,
) -> Result:
    """Put back what was there before the first run.

    `released_bytes`: how much of the pools in use is given back by programs before this is done for real, so
    that a check run does not refuse it.
    """
    with one_at_a_time(check):
        return _converge(
            HugePagesSpec(),
            check,
            progress,
            around or Around(),
            counting=False,
            released_bytes=released_bytes,
        )


def _converge(
    spec: HugePagesSpec,
    check: bool,
    progress: Progress,
    around: Around,
    counting: bool,
    released_bytes: int = 0,
) -> Result:
    host, kernel = around.host, around.get_kernel()
    pools = kernel.pools()
    surveyed = around.survey() if counting else None
    old = written_down.load()
    targets = need.targets(spec, surveyed, pools, around.ask, _floors(old, pools, kernel.boot_id()))
    shm_group = None if spec.shm_group is None else _group(spec.shm_group)
    default_bytes = host.memory_bytes("Hugepagesize") or None
    wanted = boot.Wanted(targets, shm_group, spec.transparent, default_bytes)
    if spec.persist:
        boot.require_alone(host, wanted)
    memlock.require(host, spec.memlock)
    at_boot = boot.boot(host, wanted) if spec.persist else boot.Boot({}, "", ())
    decision = _decide(spec, kernel, old, pools, targets, shm_group, at_boot.files)
    _require(spec, kernel, pools, targets, decision, check, around, released_bytes)
    warnings = [
        *decision.warnings,
        *memlock.warnings(host, spec.memlock, {each.path for each in decision.files}),
    ]
    if check:
        warnings += _fragmented(host, decision.pools)
    if surveyed is not None and not surveyed.complete and any(r.wanted is None for r in spec.pools):
        gap = surveyed.missing[0]
        whose = "" if gap.pid is None else f" of process {gap.pid}"
        warnings.append(f"the survey is incomplete ({gap.what}{whose}: {gap.reason}), so auto may be too low")
    if surveyed is not None:
        warnings += _stopped(spec, surveyed, around)
    short = None
    if not check and not decision.is_empty:
        short = _apply(kernel, decision, spec.keep_partial, progress)
    elif not check and old.is_unfinished:
        written_down.save(_as_done(kernel, decision.record))
    failed = short is not None and not spec.keep_partial
    planned = decision.pools if check else ()
    return Result(
        check=check,
        actions=() if failed else tuple(_actions(decision)),
        before={} if failed else _side(decision, after=False),
        after={} if failed else _side(decision, after=True),
        pools=_pool_facts(kernel, pools, targets),
        live=_live(spec, kernel, targets, short),
        boot=_boot_facts(spec, host, at_boot),
        oracle=()
        if surveyed is None
        else oracle.facts(surveyed, available_pages(kernel, default_bytes, planned)),
        warnings=tuple(warnings),
        failure=None if short is None else _failure(kernel, short, spec.keep_partial),
        changed=not decision.is_empty and not failed,
    )


def _floors(old: Before, pools: dict[_Key, Pool], boot_id: str | None) -> dict[_Key, int]:
    """The pages of each pool that others reserved: before the first run, and since the last."""
    floors = {key: pool.persistent for key, pool in pools.items()}
    for known in old.pools:
        key = (known.page_bytes, known.node)
        if key in floors:
            floors[key] = known.back(floors[key], boot_id)
    return floors


def available_pages(kernel: Kernel, page_bytes: int | None, planned: tuple[Change, ...] = ()) -> int:
    """Pages of a size that a new mapping can have, once the changes that are planned are made."""
    pool = kernel.pools().get((page_bytes or 0, None))
    more = sum(change.wanted - change.before for change in planned if change.page_bytes == page_bytes)
    return max(0, (0 if pool is None else pool.available) + more)


def _fragmented(host: Host, changes: tuple[Change, ...]) -> Iterator[str]:
    """That the kernel has to make room first, of which a check run cannot know whether it succeeds."""
    growing = [change for change in changes if change.page_bytes == HUGE_PAGE_BYTES]
    growth_bytes = sum(max(0, change.growth_bytes) for change in growing)
    free_bytes = fragmentation.free_huge_bytes(host.read("/proc/buddyinfo") or "")
    if free_bytes is not None and growth_bytes > free_bytes:
        yield (
            f"{format_size(growth_bytes)} more are to be reserved, and {format_size(free_bytes)} of the free"
            " memory are in blocks of 2 MiB or more (/proc/buddyinfo, measured); the kernel has to compact"
            " memory for the rest, and if it grants less, the pool is restored"
        )


def _stopped(spec: HugePagesSpec, surveyed: Survey, around: Around) -> Iterator[str]:
    """What auto does not count because it does not run. Who names instances has chosen what is counted."""
    sids = [each.sid for each in surveyed.instances if each.sid]
    automatic = {request.page_bytes for request in spec.pools if request.wanted is None}
    for page_bytes in sorted(automatic) if not spec.instances else ():
        yield from around.stopped(page_bytes, surveyed.host.huge_page_default_bytes, sids)


def _group(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Unavailable(
            f"this host has no group {name}, which is to use huge pages; create the group first"
        ) from None


# -- deciding


def _decide(
    spec: HugePagesSpec,
    kernel: Kernel,
    old: Before,
    pools: dict[_Key, Pool],
    targets: tuple[Target, ...],
    shm_group: int | None,
    boot_files: dict[str, str],
) -> _Decision:
    _require_same_layout(old, targets)
    warnings: list[str] = []
    pool_changes, pool_records = (
        _decide_pools(kernel.boot_id(), pools, targets, old, warnings) if spec.live else ([], list(old.pools))
    )
    settings = {}
    if shm_group is not None:
        settings[SHM_GROUP] = str(shm_group)
    if spec.transparent is not None:
        settings[TRANSPARENT] = spec.transparent
    setting_changes, setting_records = (
        _decide_settings(kernel, settings, old, warnings) if spec.live else ([], list(old.settings))
    )
    kept = () if spec.persist else boot.FILES
    file_changes, file_records = _decide_files(
        kernel.host, {**memlock.files(spec.memlock), **boot_files}, old, kept, warnings
    )
    record = Before(pools=tuple(pool_records), settings=tuple(setting_records), files=tuple(file_records))
    return _Decision(
        tuple(pool_changes),
        tuple(setting_changes),
        tuple(file_changes),
        record,
        tuple(warnings),
        not record and files.left_at(written_down.file_path()),
    )


def _require_same_layout(old: Before, targets: tuple[Target, ...]) -> None:
    """The same pages must not be counted for the host by one run and for its nodes by another."""
    for target in targets:
        for known in old.pools:
            if known.page_bytes == target.page_bytes and (known.node is None) != (target.node is None):
                raise Conflict(
                    f"the {pool_text(known.page_bytes, known.node)} was set by an earlier run, and now the"
                    f" {pool_text(target.page_bytes, target.node)} is asked for, which has the same pages;"
                    " restore what was there before (state: absent, --absent), then run this again"
                )


def _decide_pools(
    boot_id: str | None,
    pools: dict[_Key, Pool],
    targets: tuple[Target, ...],
    old: Before,
    warnings: list[str],
) -> tuple[list[Change], list[PoolBefore]]:
    changes, records = [], []
    for target in targets:
        key = (target.page_bytes, target.node)
        current = pools[key].persistent
        known = old.pool(*key)
        if current != target.wanted:
            changes.append(Change(*key, current, target.wanted))
        if known is not None or current != target.wanted:
            first = current if known is None else known.back(current, boot_id)
            records.append(PoolBefore(*key, first, target.wanted))
    wanted = {(target.page_bytes, target.node) for target in targets}
    for known in old.pools:
        key = (known.page_bytes, known.node)
        if key in wanted or key not in pools:
            continue
        current = pools[key].persistent
        back = known.back(current, boot_id)
        if current != back:
            changes.append(Change(*key, current, back))
        elif known.is_smaller(current, boot_id):
            warnings.append(_made_smaller(known, current))
    return changes, records


def _made_smaller(known: PoolBefore, current: int) -> str:
    had = known.wanted if known.granted is None else known.granted
    return (
        f"the {pool_text(known.page_bytes, known.node)} stays at {counted(current, 'page')}: it had {had:,}"
        " after the last run, and somebody else, or a restart of the host, has made it smaller since; before"
        f" the first run it had {known.before:,}"
    )


def _decide_settings(
    kernel: Kernel, wanted: dict[str, str], old: Before, warnings: list[str]
) -> tuple[list[SettingBefore], list[SettingBefore]]:
    changes, records = [], []
    for path, value in wanted.items():
        current = kernel.setting(path)
        if current is None:
            raise Unavailable(f"{path} is missing: this kernel has no setting for {_SETTING_NAMES[path]}")
        known = old.setting(path)
        if path == SHM_GROUP:
            _require_free_group(current, value, known)
        if current != value:
            changes.append(SettingBefore(path, current, value))
        if known is not None or current != value:
            records.append(SettingBefore(path, current if known is None else known.before, value))
    for known in old.settings:
        if known.path in wanted:
            continue
        current = kernel.setting(known.path)
        if current == known.wanted and current != known.before:
            changes.append(SettingBefore(known.path, current, known.before))
        elif current not in (known.before, known.wanted):
            warnings.append(
                f"{known.path} is {current} by now, which was set by somebody else, and stays so; it was"
                f" {known.before} before"
            )
    return changes, records


def _require_free_group(current: str, wanted: str, known: SettingBefore | None) -> None:
    """Conflict where others gave huge pages to another group: there is one group for the whole host."""
    ours = () if known is None else (known.before, known.wanted)
    if current in ("0", wanted, *ours):
        return
    raise Conflict(
        f"{_SETTING_NAMES[SHM_GROUP]} is {current} ({_group_name(current)}), which somebody else has set, and"
        f" {wanted} ({_group_name(wanted)}) is asked for; the kernel has one such group, so the programs of"
        " the other one would lose their huge pages; add the users to that group, or set it to 0 there first"
    )


def _group_name(number: str) -> str:
    try:
        return f"group {grp.getgrgid(int(number)).gr_name}"
    except (KeyError, ValueError, OverflowError):
        return "a group without a name"


def _decide_files(
    host: Host, wanted: dict[str, str], old: Before, kept: tuple[str, ...], warnings: list[str]
) -> tuple[list[_FileChange], list[FileBefore]]:
    """`kept` are files that stay as they are, whether wanted or not."""
    changes, records = [], []
    for path, text in wanted.items():
        place = host.path(path)
        current, access = files.read_text(place), files.access_of(place)
        known = old.file(path)
        if current != text:
            changes.append(_FileChange(path, current, text, files.Access(0o644, 0, 0)))
        if known is None and current != text:
            known = FileBefore(
                path,
                current,
                None if access is None else access.mode,
                None if access is None else access.uid,
                None if access is None else access.gid,
                not os.path.isdir(os.path.dirname(place)),
            )
        if known is not None:
            records.append(replace(known, written=None))
    for known in old.files:
        if known.path in wanted:
            continue
        if known.path in kept:
            records.append(known)
            continue
        current = files.read_text(host.path(known.path))
        if known.is_foreign(current):
            done = "removed" if current is None else "changed"
            warnings.append(f"{known.path} was {done} by somebody else since it was written, and stays so")
        elif current != known.text:
            access = files.Access(known.mode or 0o644, *(_id(each) for each in (known.uid, known.gid)))
            changes.append(_FileChange(known.path, current, known.text, access))
    return changes, records


def _id(number: int | None) -> int:
    return 0 if number is None else number


def _require(
    spec: HugePagesSpec,
    kernel: Kernel,
    pools: dict[_Key, Pool],
    targets: tuple[Target, ...],
    decision: _Decision,
    check: bool,
    around: Around,
    released_bytes: int,
) -> None:
    """Raise what stands in the way."""
    changes = decision.pools
    if not spec.live:
        # What the next boot would have to reserve.
        current = {
            (target.page_bytes, target.node): pools[(target.page_bytes, target.node)] for target in targets
        }
        changes = tuple(
            Change(*key, current[key].persistent, target.wanted)
            for target in targets
            for key in [(target.page_bytes, target.node)]
        )
    preflight.require(
        preflight.Case(
            kernel.host,
            pools,
            changes,
            spec.share_of_ram_max,
            spec.live,
            lambda size: _holders(around, pools[(size, None)]),
            released_bytes,
        )
    )
    if check and os.geteuid() != 0:
        return
    for change in decision.pools:
        kernel.require_writable(nr_file(change.page_bytes, change.node))
    for setting in decision.settings:
        kernel.require_writable(setting.path)
    if decision.files and os.geteuid() != 0:
        raise Unavailable(
            f"{decision.files[0].path} may be written by root only, and this is uid {os.geteuid()}; run as"
            " root (become: true)"
        )


def _holders(around: Around, pool: Pool) -> str:
    """Who has the pages of a pool, as a clause."""
    held = {
        instance.name: need.held_pages(instance, pool.page_bytes) for instance in around.survey().instances
    }
    holders = [f"{name} ({counted(pages, 'page')})" for name, pages in held.items() if pages]
    of_files = hugetlbfs.huge_files(around.host, pool.page_bytes)
    # Those of the instances above are among them.
    if of_files and pool.used > sum(held.values()):
        more = f" and {len(of_files) - 1:,} more" if len(of_files) > 1 else ""
        pages = sum(file.pages for file in of_files)
        holders.append(f"the files {printable(of_files[0].path)}{more} ({counted(pages, 'page')})")
    return f"by {', '.join(holders)}" if holders else "by something that no survey shows"


# -- acting


def _apply(kernel: Kernel, decision: _Decision, keep_partial: bool, progress: Progress) -> Short | None:
    """Change everything; the pool that got less than it should, if there is one.

    Whatever goes wrong, what was done is undone.
    """
    old = written_down.load()
    written_down.save(_both(old, decision.record))
    with contextlib.ExitStack() as undo:
        undo.callback(written_down.save, old)
        undo.callback(pool.put_back, kernel, decision.pools)
        short = pool.resize(kernel, decision.pools, progress)
        if short is not None and not keep_partial:
            # Left with everything undone.
            return short
        for setting in decision.settings:
            kernel.write(setting.path, setting.wanted)
            undo.callback(kernel.write, setting.path, setting.before)
        _write_files(kernel.host, decision, undo)
        # While it is written down whose they are: a run that was killed may have left these.
        for known in old.files:
            path = kernel.host.path(known.path)
            if decision.record.file(known.path) is None:
                files.sweep(path)
                files.remove_empty(*([os.path.dirname(path)] if known.folder_made else []))
        written_down.save(_as_done(kernel, decision.record))
        undo.pop_all()
    return short


def _as_done(kernel: Kernel, record: Before) -> Before:
    """What is written down, with what the run has made of it: by that, later changes of others are found."""
    pools, boot_id = kernel.pools(), kernel.boot_id()
    return replace(
        record,
        pools=tuple(
            each
            if each.granted is not None or pool_now is None
            else replace(each, granted=pool_now.persistent, boot_id=boot_id)
            for each in record.pools
            for pool_now in [pools.get((each.page_bytes, each.node))]
        ),
        files=tuple(
            each
            if each.written is not None
            else replace(each, written=files.read_text(kernel.host.path(each.path)))
            for each in record.files
        ),
    )


def _both(old: Before, new: Before) -> Before:
    """What either has written down; of what both have, the new one. What the old one alone has is about to be
    restored, so that its state is not known until the run ends."""
    pools = (each for each in old.pools if not new.pool(each.page_bytes, each.node))
    old_files = (each for each in old.files if not new.file(each.path))
    return Before(
        pools=(*new.pools, *(replace(each, granted=None) for each in pools)),
        settings=(*new.settings, *(each for each in old.settings if not new.setting(each.path))),
        files=(*new.files, *(replace(each, written=None) for each in old_files)),
    )


def _write_files(host: Host, decision: _Decision, undo: contextlib.ExitStack) -> None:
    if any(memlock.is_drop_in(change.path) for change in decision.files):
        undo.callback(_reload, host)
    for change in decision.files:
        known = files.access_of(host.path(change.path))
        if not os.path.isdir(os.path.dirname(host.path(change.path))):
            undo.callback(files.remove_empty, os.path.dirname(host.path(change.path)))
        undo.callback(_put, host, change.path, change.now, known or change.access)
        _put(host, change.path, change.text, change.access)
    if any(memlock.is_drop_in(change.path) for change in decision.files):
        _reload(host)


def _put(host: Host, path: str, text: str | None, access: files.Access) -> None:
    place = host.path(path)
    if text is None:
        files.remove(place)
    else:
        files.write_text(place, text, access.mode, access.uid, access.gid)


def _reload(host: Host) -> None:
    if host.runs_systemd():
        systemd.systemctl("daemon-reload")


# -- telling


def _actions(decision: _Decision) -> Iterator[str]:
    for change in decision.pools:
        size = format_size(change.wanted * change.page_bytes)
        more = change.wanted - change.before
        done = f"reserve {more:,} more" if more > 0 else f"give back {-more:,}"
        yield f"{done} of the {change.text}, which then has {change.wanted:,} ({size})"
    for setting in decision.settings:
        yield f"set {_SETTING_NAMES[setting.path]} to {setting.wanted}, which is {setting.before}"
    for each in decision.files:
        known = decision.record.file(each.path)
        if each.text is None:
            yield f"remove {each.path}"
        else:
            yield f"{'restore' if known is None else 'write'} {each.path}"
    if decision.forgets and not (decision.pools or decision.settings or decision.files):
        yield f"remove {written_down.file_path()}, which a run that did not end has left"


def _side(decision: _Decision, after: bool) -> dict[str, object]:
    """One side of the diff."""
    side: dict[str, object] = {}
    for change in decision.pools:
        side[change.text] = change.wanted if after else change.before
    for setting in decision.settings:
        side[_SETTING_NAMES[setting.path]] = setting.wanted if after else setting.before
    for each in decision.files:
        text = each.text if after else each.now
        if text is not None:
            side[each.path] = text.split("\n")
    return side


def _pool_facts(kernel: Kernel, old: dict[_Key, Pool], targets: tuple[Target, ...]) -> tuple[PoolFacts, ...]:
    now = kernel.pools()
    return tuple(
        PoolFacts(
            target.page_bytes,
            target.node,
            target.wanted,
            old[key].persistent,
            now[key].persistent,
            now[key].used,
            target.formula,
        )
        for target in targets
        for key in [(target.page_bytes, target.node)]
    )


def _live(spec: HugePagesSpec, kernel: Kernel, targets: tuple[Target, ...], short: Short | None) -> Live:
    if not spec.live:
        return Live(False, "not asked")
    if short is not None:
        return Live(True, "partial" if spec.keep_partial else "put back", short.missing)
    now = kernel.pools()
    same = all(now[(target.page_bytes, target.node)].persistent == target.wanted for target in targets)
    settings = {SHM_GROUP: spec.shm_group and str(_group(spec.shm_group)), TRANSPARENT: spec.transparent}
    same = same and all(value in (None, kernel.setting(path)) for path, value in settings.items())
    return Live(True, "as wanted" if same else "differs")


def _boot_facts(spec: HugePagesSpec, host: Host, at_boot: boot.Boot) -> BootFacts:
    if not spec.persist:
        return BootFacts(False, "not asked")
    same = all(files.read_text(host.path(path)) == text for path, text in at_boot.files.items())
    state: BootState = "as wanted" if same else "differs"
    if same and at_boot.reasons:
        state = "incomplete"
    return BootFacts(True, state, tuple(at_boot.files), at_boot.command_line, at_boot.reasons)


def _failure(kernel: Kernel, short: Short, kept: bool) -> str:
    """Why a run failed for which the kernel granted too little, without a full stop."""
    change = short.change
    available = format_size(kernel.host.memory_bytes("MemAvailable"))
    now = kernel.pool(change.page_bytes, change.node).persistent
    outcome = (
        f"it keeps the {short.granted:,} it got"
        if kept
        else f"it has {now:,} again, as before, and nothing else was changed"
    )
    if not kept and now != change.before:
        outcome = f"it has {now:,} now, and had {change.before:,} before"
    return (
        f"The kernel granted {short.granted:,} of the {counted(change.wanted, 'page')} asked for in the"
        f" {change.text},"
        f" {counted(short.missing, 'page')} ({format_size(short.missing * change.page_bytes)}) too few, after"
        f" memory was compacted and the rest asked for again; {available} are available, but not in one"
        f" piece; {outcome}. Ask for less, free memory, or set it for the next boot (live: false, --no-live)"
    )
