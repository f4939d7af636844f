# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who manages a PostgreSQL cluster: who starts it, and whose configuration counts. One file per kind."""

from __future__ import annotations
