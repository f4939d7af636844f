# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m mshare`, or this folder itself: `python /usr/lib/python3/dist-packages/mshare`."""

from __future__ import annotations

import os
import sys

if not __package__:
    # When a folder is run, Python adds the folder itself to its path instead of the parent.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from mshare.cli import main

if __name__ == "__main__":
    main()
