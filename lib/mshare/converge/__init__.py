# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a host to the state of a spec: inspect, decide, act, report. Used by the modules and the CLI.

Deciding is the same whether or not anything is done about it, so a check run and a real run agree on
what changes. What runs now and what comes back after a reboot are two outcomes. Nothing here needs
more than the standard library: what maps memory are the programs that are started.
"""

from __future__ import annotations
