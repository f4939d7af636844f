# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text that others chose, made safe to show: names of processes, files, cgroups, clusters and hosts.

A name may hold escape sequences that control a terminal, line ends that forge a row of a table, or bytes
that are not text and cannot be written to a file.
"""

from __future__ import annotations

import re
import signal

# A tab, or the beginning or end of a colour.
_OURS = re.compile(r"(\t|\x1b\[[0-9;]*m)")


def printable(text: str) -> str:
    r"""One line that shows every character: control and formatting characters, line ends and bytes that
    are no UTF-8 are written as \x1b, \u202e or \U000e0001; all else stays as it is."""
    if text.isprintable():
        return text
    return "".join(character if _shown(character) else _escaped(character) for character in text)


def printable_painted(text: str) -> str:
    """The same for a line that mshare writes, which may have tabs and colours."""
    parts = _OURS.split(text)
    return "".join(part if number % 2 else printable(part) for number, part in enumerate(parts))


def signal_name(number: int) -> str:
    """What a signal is called; most of the real-time ones have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(code: int) -> str:
    """How a process ended, by its exit code as subprocess has it: negative for a signal."""
    return f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _shown(character: str) -> bool:
    # The no-break space is harmless, and some write it before a unit.
    return character.isprintable() or character == "\u00a0"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # How Python holds a byte that is no UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
