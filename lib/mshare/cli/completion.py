# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare completion: click's script for a shell."""

from __future__ import annotations

import click

from ..errors import Unavailable
from .screen import Screen


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    It completes commands, options and region names.

    \b
      bash:  mshare completion bash > ~/.local/share/bash-completion/completions/mshare
      zsh:   mshare completion zsh > "${fpath[1]}/_mshare"
      fish:  mshare completion fish > ~/.config/fish/completions/mshare.fish
    """
    try:
        from click.shell_completion import get_completion_class
    except ImportError:
        raise Unavailable(
            "completing in a shell needs click 8.0 or newer, and this Python has an older version; everything"
            " else works with it"
        ) from None
    screen: Screen = ctx.obj
    completion = get_completion_class(shell)
    assert completion is not None  # the three that click has
    script = completion(ctx.find_root().command, {}, "mshare", "_MSHARE_COMPLETE").source()
    screen.answer({"shell": shell, "script": script})
    screen.lines([script])
