# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's surveys as one report: a page to read and print, JSON, CSV. Runs on the controller only."""

from __future__ import annotations
