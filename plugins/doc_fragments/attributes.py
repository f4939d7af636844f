# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
attributes:
  async:
    description: Supports being used with the C(async) keyword.
  check_mode:
    description: Can run in C(check_mode) and predict whether something would change, without changing anything.
  diff_mode:
    description: In diff mode, returns what has changed, or in C(check_mode) what would change.
  idempotent:
    description: When run twice with the same arguments outside check mode, the second run reports no change.
  platform:
    description: Operating systems that can be managed.
    support: full
    platforms: linux
"""

    # A module that manages state.
    STATE = r"""
attributes:
  async:
    support: full
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
"""

    # A module that only reads.
    INFO = r"""
attributes:
  async:
    support: full
  check_mode:
    support: full
    details:
      - This module changes nothing, whether or not it runs in check mode.
  diff_mode:
    support: none
    details:
      - This module changes nothing, so there is no diff.
  idempotent:
    support: full
"""
