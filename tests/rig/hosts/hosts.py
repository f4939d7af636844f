# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A number of ssh hosts on this machine, to run playbooks over an inventory.

    inventory=$(python3 tests/rig/hosts/hosts.py start 3)
    ansible-playbook -i "$inventory" dbmem.mshare.survey
    python3 tests/rig/hosts/hosts.py stop

Needs root. Each host is a Debian root (an overlay of one that is made once) with its own sshd, network card,
processes, mounts, name and IPC. They are in a network of their own, which the machine's does not see; the
inventory tells ssh the way in. The root lives in ${XDG_CACHE_HOME:-~/.cache}/dbmem-mshare/hosts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rig.hosts.base import BARE, LIBRARY
from rig.hosts.fleet import Fleet, missing


def start(args: argparse.Namespace) -> None:
    fleet = Fleet(args.name)
    fleet.start(args.count, args.mirror, LIBRARY if args.library else BARE)
    print(fleet.inventory)


def stop(args: argparse.Namespace) -> None:
    Fleet(args.name).stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="hosts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="start|stop")
    verb = verbs.add_parser("start", help="begin, print the inventory file's path")
    verb.add_argument("count", type=int, help="how many hosts")
    verb.add_argument("--library", action="store_true", help="with the packages that the library needs")
    verb.add_argument("--mirror", help="Debian mirror, if not deb.debian.org")
    verb.set_defaults(run=start)
    verb = verbs.add_parser("stop", help="end all of them")
    verb.set_defaults(run=stop)
    for verb in verbs.choices.values():
        verb.add_argument("--name", default="hosts", help="which fleet")
    args = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    args.run(args)


if __name__ == "__main__":
    main()
