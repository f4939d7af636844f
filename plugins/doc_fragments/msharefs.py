# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  backend:
    description:
      - V(kernel) is the msharefs of a kernel with mshare; V(simulated) follows the same rules on tmpfs.
      - V(auto) uses the kernel's msharefs if there is one, else the simulated one, and reports which it used. V(kernel) on a
        host without it is an error, never a fallback.
    type: str
    choices: [auto, kernel, simulated]
    default: auto
  root:
    description:
      - Where msharefs is mounted. The default is C(/sys/fs/mshare) on a kernel with mshare, and C(/run/msharefs) for the
        simulated backend (C(/dev/shm/msharefs-UID) for an ordinary user).
    type: path
"""
