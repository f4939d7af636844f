# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.dbmem.mshare.plugins.plugin_utils.action import ModuleAction


class ActionModule(ModuleAction):
    """Sends the module."""
