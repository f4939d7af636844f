# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each remedy against page tables would save, per database, and the lines to paste. Pure arithmetic."""

from __future__ import annotations
