# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare postgresql: a PostgreSQL cluster onto huge pages or a region, and back."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from .. import record
from ..converge.outcome import Outcome
from ..postgresql.converge import PROBES, postgresql_absent, postgresql_present, postgresql_status
from ..postgresql.facts import PostgresqlFacts
from ..postgresql.spec import CLUSTER_PAGES, THRESHOLD_BYTES, ClusterSpec
from ..units import MIB, parse_size
from . import display
from .options import check_option, where_options
from .program import LazyGroup
from .screen import Screen

_Function = TypeVar("_Function", bound=Callable[..., Any])
_SUBCOMMANDS = dict.fromkeys(("status", "present", "absent"), "postgresql")


@click.group("postgresql", cls=LazyGroup, modules=_SUBCOMMANDS)
def postgresql_command() -> None:
    """Put PostgreSQL where page tables cost less, and back."""


def _cluster_options(function: _Function) -> _Function:
    name = click.option("--cluster", metavar="NAME", help="Its name, like main, where there are several.")
    version = click.option("--version", metavar="VERSION", help="Its version, like 15.")
    return version(name(function))


def _change_options(function: _Function) -> _Function:
    restart = click.option("--restart", is_flag=True, help="Restart the server where that is needed.")
    probes = click.option(
        "--probes", type=int, default=PROBES, show_default=True, help="Connections that measure the effect."
    )
    diff = click.option("--diff", is_flag=True, help="Show what changes in each file.")
    return restart(probes(check_option(diff(function))))


@click.command("status")
@_cluster_options
@click.pass_obj
def status_command(screen: Screen, version: str | None, cluster: str | None) -> None:
    """Show where a cluster's shared memory lies."""
    facts = postgresql_status(version=version, name=cluster)
    screen.answer(record.to_fields(facts))
    for line in facts.summary:
        screen.sentence(line)


@click.command("present")
@_cluster_options
@click.option(
    "--pages",
    type=click.Choice(CLUSTER_PAGES),
    default="thp",
    show_default=True,
    help="4k: a region; native: PostgreSQL's own.",
)
@click.option("--region", metavar="NAME", help="With --pages 4k: an existing region.")
@click.option(
    "--threshold",
    metavar="SIZE",
    default=f"{THRESHOLD_BYTES // MIB}MiB",
    show_default=True,
    help="Leave smaller segments alone.",
)
@click.option("--prefault/--no-prefault", default=None, help="Touch all of a segment first.")
@click.option(
    "--require", is_flag=True, help="Refuse to start the server if its memory cannot be taken over."
)
@click.option(
    "--members-ready", is_flag=True, help="With Patroni and native: all members' hosts have a pool."
)
@_change_options
@where_options
@click.pass_obj
def present_command(
    screen: Screen,
    version: str | None,
    cluster: str | None,
    pages: str,
    region: str | None,
    threshold: str,
    prefault: bool | None,
    require: bool,
    members_ready: bool,
    restart: bool,
    probes: int,
    check: bool,
    diff: bool,
    backend: str | None,
    root: str | None,
) -> None:
    """Start a cluster's server with its memory in huge pages or in a region.

    Changes its configuration and, with --restart, restarts it. If the memory is then not where it should
    be, everything is put back.
    """
    spec = ClusterSpec(
        pages,
        backend=backend,
        root=root,
        region=region,
        threshold_bytes=parse_size(threshold, "threshold"),
        prefault=prefault,
        require=require,
    )
    done = postgresql_present(
        spec,
        version=version,
        name=cluster,
        restart=restart,
        probes=probes,
        members_ready=members_ready,
        check=check,
    )
    _show(screen, done, check, diff)


@click.command("absent")
@_cluster_options
@_change_options
@click.pass_obj
def absent_command(
    screen: Screen,
    version: str | None,
    cluster: str | None,
    restart: bool,
    probes: int,
    check: bool,
    diff: bool,
) -> None:
    """Give a cluster's server ordinary memory again."""
    done = postgresql_absent(version=version, name=cluster, restart=restart, probes=probes, check=check)
    _show(screen, done, check, diff)


def _show(screen: Screen, done: Outcome[PostgresqlFacts], check: bool, diff: bool) -> None:
    answer: dict[str, object] = {
        "changed": done.changed,
        "actions": done.actions,
        "before": dict(done.before),
        "after": dict(done.after),
        "warnings": done.warnings,
        **done.answer(),
    }
    if diff:
        screen.lines(differences(done.before, done.after))
    display.outcome(screen, done, answer, check, "Done.", "Nothing to do.")
    for line in done.facts.summary if done.facts is not None else ():
        screen.sentence(line)


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """A unified diff per file. A side holds the lines of each file; what is not a list was not there."""
    for path in sorted({*before, *after}):
        old, new = _lines(before.get(path)), _lines(after.get(path))
        yield from difflib.unified_diff(old, new, path, path, lineterm="")


def _lines(side: object) -> Sequence[str]:
    return [str(line) for line in side] if isinstance(side, list) else []
