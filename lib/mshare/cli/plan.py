# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare plan: what each remedy against page tables would save, per database."""

from __future__ import annotations

import json

import click

from ..errors import InvalidRequest
from ..plan import facts, text
from ..plan.plan import plan
from ..survey.record import Survey, from_fields
from ..units import parse_size
from .screen import Screen


@click.command("plan")
@click.argument(
    "survey", metavar="[SURVEY.json]", type=click.Path(dir_okay=False, allow_dash=True), required=False
)
@click.option("--size", metavar="SIZE", help="Without a survey: a segment of this size, like 300GiB ...")
@click.option("--clients", type=int, help="... and how many processes attach. With a survey: as its maximum.")
@click.option("--memory", metavar="SIZE", help="RAM of the planned host, for percentages.")
@click.option("--instance", metavar="NAME", help="Only this instance of the survey.")
@click.option("--pool-to", type=int, help="Connections a pooler would keep. Default: a tenth of the clients.")
@click.option("--details", is_flag=True, help="Also show why a remedy is not open, and what each needs.")
@click.option("--generations", is_flag=True, help="List the five generations of mshare one by one.")
@click.option("--formula", is_flag=True, help="Show how each figure is calculated.")
@click.pass_obj
def plan_command(
    screen: Screen,
    survey: str | None,
    size: str | None,
    clients: int | None,
    memory: str | None,
    instance: str | None,
    pool_to: int | None,
    details: bool,
    generations: bool,
    formula: bool,
) -> None:
    """Calculate what each remedy would save.

    From a survey's JSON ("-" reads it from standard input), from --size and --clients alone, or from a
    survey of this host made now. Changes nothing.
    """
    if size is not None:
        known = _forecasts(survey, size, clients, memory, instance)
    else:
        if memory is not None:
            raise InvalidRequest("--memory goes with --size; a survey says what its host has")
        known = facts.from_survey(_surveyed(screen, survey), instance, clients)
    made = plan(known, pool_to, generations)
    screen.answer(made.to_dict())
    screen.lines(text.lines(made, details=details, formula=formula, width=screen.width, paint=screen.paint))
    if made.instances and not details:
        screen.sentence("")
        screen.sentence("Why a remedy is not open, and what each needs: --details")


def _forecasts(
    survey: str | None, size: str, clients: int | None, memory: str | None, instance: str | None
) -> facts.Facts:
    if survey is not None:
        raise InvalidRequest(
            "--size plans without a survey, but a survey was given as well; use only one of them"
        )
    if clients is None:
        raise InvalidRequest("--size needs --clients as well, the number of processes that attach")
    memory_bytes = None if memory is None else parse_size(memory, "memory")
    return facts.from_arguments(parse_size(size), clients, instance, memory_bytes)


def _surveyed(screen: Screen, path: str | None) -> Survey:
    if path is None:
        from ..survey.survey import survey

        screen.note("Surveying this host ...")
        return survey()
    try:
        with click.open_file(path, encoding="utf-8") as stream:
            return from_fields(json.load(stream), path)
    except ValueError as error:
        raise InvalidRequest(
            f"{path} is not valid JSON ({error}); make it with `mshare survey --json`"
        ) from error
