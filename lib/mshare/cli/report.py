# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare report: one page about many hosts, from their surveys."""

from __future__ import annotations

import os

import click

from .. import record
from ..errors import InvalidRequest, Unavailable
from .options import check_option
from .screen import Screen


@click.command("report")
@click.argument("stored", metavar="SURVEYS...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--folder",
    metavar="DIR",
    default="mshare-survey",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Where the report goes.",
)
@click.option(
    "--compare", metavar="REPORT.json", type=click.Path(dir_okay=False), help="Show what grew since."
)
@check_option
@click.pass_obj
def report_command(
    screen: Screen, stored: tuple[str, ...], folder: str, compare: str | None, check: bool
) -> None:
    """Make one report from the surveys of many hosts.

    SURVEYS are files of `mshare survey --json`, named after their hosts, folders of such files, and earlier
    report.json files. The report is a page (report.html), JSON and CSV.
    """
    try:
        from ..report import files
    except ModuleNotFoundError:
        raise Unavailable(
            "the library that the module mshare_runtime installed on this host makes no reports; make the"
            " report where the surveys are gathered, with the module dbmem.mshare.mshare_report or an mshare"
            " that pip installed"
        ) from None
    for path in (*stored, *([] if compare is None else [compare])):
        if not os.path.exists(path):
            raise InvalidRequest(
                f"{path} is not there; name files of `mshare survey --json`, or a folder of them"
            )
    report = files.report(files.gathered({}, stored), compare)
    changed = report.changed(folder)
    if changed and not check:
        report.write(folder)
    facts = report.facts(folder, changed)
    screen.answer({**record.to_fields(facts), "check": check})
    if check:
        for name in changed:
            screen.sentence(f"Would write {os.path.join(folder, name)}.")
        return
    for line in facts.summary:
        screen.sentence(line)
