# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  boot:
    description:
      - Whether it comes back after a reboot. By default it does on a host with systemd, and not elsewhere.
      - V(true) on a host without systemd is an error.
    type: bool
  executable:
    description:
      - The path of the command line C(mshare) on the host, which the role P(dbmem.mshare.runtime#role) installs.
    type: path
    default: /usr/local/bin/mshare
"""
