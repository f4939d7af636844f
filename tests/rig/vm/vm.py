# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away Debian VM with a real systemd, to run the playbooks against.

    inventory=$(python3 tests/rig/vm/vm.py start)
    ansible-playbook -i "$inventory" dbmem.mshare.deploy
    python3 tests/rig/vm/vm.py stop

Everything lives in ${XDG_CACHE_HOME:-~/.cache}/dbmem-mshare/vm. The disk image is made once; each
start works on an overlay of it, which lasts over reboots of the guest and goes away with `stop`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rig.debian import log
from rig.vm.image import Image, cache_dir, ensure_image, missing_tools
from rig.vm.machine import Hardware, Machine


def start(args: argparse.Namespace) -> None:
    machine = Machine(args.name, ensure_image(args.mirror))
    if machine.is_running():
        log(f"{machine.name}: runs already")
    else:
        machine.start(Hardware(args.accel, args.memory, args.cpus), args.timeout)
    print(machine.inventory)


def build(args: argparse.Namespace) -> None:
    print(ensure_image(args.mirror, fresh=args.fresh).disk)


def ssh(args: argparse.Namespace) -> None:
    command = running(args).ssh_command(*args.command)
    os.execvp(command[0], command)


def reboot(args: argparse.Namespace) -> None:
    running(args).reboot(args.timeout)


def stop(args: argparse.Namespace) -> None:
    existing(args).stop()


def existing(args: argparse.Namespace) -> Machine:
    return Machine(args.name, Image(cache_dir() / "image"))


def running(args: argparse.Namespace) -> Machine:
    machine = existing(args)
    if not machine.is_running():
        raise SystemExit(f"{args.name}: does not run; `vm.py start` starts it")
    return machine


def host_name(text: str) -> str:
    """It becomes a folder, a host name and a word of the kernel command line."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError("lower case letters, digits and inner dashes only")
    return text


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="build|start|ssh|reboot|stop")

    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", type=host_name, default="mshare-vm", help="which VM")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument("--timeout", type=float, default=300, metavar="S", help="for ssh")
    made = argparse.ArgumentParser(add_help=False)
    made.add_argument("--mirror", help="Debian mirror, if not deb.debian.org")

    verb = verbs.add_parser("build", parents=[made], help="make the disk image, if need be")
    verb.add_argument("--fresh", action="store_true", help="even when there is one")
    verb.set_defaults(run=build)

    verb = verbs.add_parser(
        "start", parents=[named, waiting, made], help="boot, print the inventory file's path"
    )
    verb.add_argument("--accel", default=Hardware.accel, help="for QEMU (%(default)s); or kvm")
    verb.add_argument("--memory", type=int, default=Hardware.memory_mib, metavar="MIB")
    verb.add_argument("--cpus", type=int, default=Hardware.cpus)
    verb.set_defaults(run=start)

    verb = verbs.add_parser("ssh", parents=[named], help="a shell, or one command")
    verb.add_argument("command", nargs=argparse.REMAINDER)
    verb.set_defaults(run=ssh)

    verb = verbs.add_parser("reboot", parents=[named, waiting], help="and wait for it")
    verb.set_defaults(run=reboot)

    verb = verbs.add_parser("stop", parents=[named], help="end the VM, drop its overlay")
    verb.set_defaults(run=stop)
    return parser.parse_args(arguments)


def main() -> None:
    if tools := missing_tools():
        raise SystemExit(f"not installed: {', '.join(tools)}")
    # Let a killed start run its cleanup.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = parse(sys.argv[1:])
    try:
        args.run(args)
    except subprocess.CalledProcessError as error:
        raise SystemExit(str(error)) from None  # the program has said why
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
