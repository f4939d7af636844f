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
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description: Returns details on what has changed (or would in C(check_mode)), when in diff mode.
  idempotent:
    description: When run twice in a row outside check mode, with the same arguments, the second run indicates no change.
  platform:
    description: Target OS and families that can be operated against.
    support: full
    platforms: linux
"""

    # A state module: tells in check mode what it would do, shows a diff, does nothing twice.
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

    # A module that only looks.
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
      - This module changes nothing, so there is nothing to compare.
  idempotent:
    support: full
"""
