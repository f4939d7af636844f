# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  boot:
    description:
      - Whether it comes back after a reboot. Left out, it does on a host with systemd and does not elsewhere.
      - V(true) on a host without systemd is an error.
    type: bool
  executable:
    description:
      - The command line C(mshare) on the host, as the role P(dbmem.mshare.runtime#role) installs it.
    type: path
    default: /usr/local/bin/mshare
"""
