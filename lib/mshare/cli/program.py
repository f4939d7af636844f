# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `mshare` itself: the table of commands, and how errors are printed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from .. import __version__, errors
from ..errors import MshareError
from .screen import Screen

_INTERRUPTED = 130
# \b keeps click from filling the lines.
_EXIT_CODES = """\b
Exit codes:
    0  done, or nothing to do
    1  the host refused
    2  the request is wrong
    3  the validation failed
    4  something is missing: a kernel with mshare, a mount, cffi, the rights of root
    5  what exists is not what was requested, or is in use
  130  interrupted
"""
_COMMANDS = {
    "info": "info",
    "mount": "mount",
    "umount": "mount",
    "create": "regions",
    "rm": "regions",
    "own": "own",
    "list": "info",
    "stat": "info",
    "attach": "attach",
    "map": "map",
    "unmap": "map",
    "clients": "clients",
    "run": "run",
    "keep-files": "keep_files",
    "postgresql": "postgresql",
    "preload": "preload",
    "validate": "validate",
    "model": "model",
    "survey": "survey",
    "plan": "plan",
    "collapse": "collapse",
    "huge-pages": "huge_pages",
    "report": "report",
    "completion": "completion",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on demand, so that an owner does not load what tables need."""

    def __init__(self, modules: dict[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._modules = modules
        """Command NAME -> the module of this package with the function NAME_command; - becomes _ there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f".{self._modules[cmd_name]}", __package__)
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        if not any("--json" in parameter.opts for parameter in command.params):
            command.params.append(_json_option())
        return command


def _json_option() -> click.Option:
    """The help of `--json`, which every command has; `_wants_json` looks for it."""
    return click.Option(["--json"], is_flag=True, expose_value=False, help="Print JSON.")


def _wants_json(arguments: list[str]) -> bool:
    """Whether `--json` is anywhere before the command of `mshare clients start NAME -- COMMAND`.

    Looked for here and not by click, for what click cannot parse is answered in JSON as well.
    """
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


class Program(LazyGroup):
    """Prints every error as one sentence, and exits with the documented exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(self._run(arguments, Screen(_wants_json(arguments)), extra))

    # Any: click's own keyword arguments, handed on to it.
    def _run(self, arguments: list[str], screen: Screen, extra: dict[str, Any]) -> int:
        try:
            code = super().main(arguments, "mshare", standalone_mode=False, obj=screen, **extra)
        except click.Abort:
            return _INTERRUPTED
        except click.ClickException as error:
            if screen.as_json:
                screen.error("invalid_request", error.format_message(), error.exit_code)
            else:
                error.show()
            return error.exit_code
        except (MshareError, OSError) as error:
            screen.error(errors.kind(error), errors.sentence(error), errors.exit_code(error))
            return errors.exit_code(error)
        return code if isinstance(code, int) else 0


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        screen: Screen = ctx.obj
        screen.sentence(f"mshare {__version__}")
        screen.answer({"version": __version__})
        ctx.exit()


@click.group(
    cls=Program,
    modules=_COMMANDS,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def mshare() -> None:
    """Memory regions that share their page tables between processes (Linux mshare).

    \b
    A first trial, on any kernel and as any user:
      mshare mount
      mshare create sga --size 300GiB --overcommit --pattern
      mshare clients start sga --count 100
      mshare validate sga
      mshare clients stop sga && mshare rm sga && mshare umount
    """


mshare.params.append(_json_option())
