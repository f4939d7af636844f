# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One running test VM: a QEMU process, its disk overlay, and the way in by ssh."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rig.debian import log
from rig.vm.image import Image, cache_dir

SSH_OPTIONS = (
    "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes -o LogLevel=ERROR"
)
KERNEL_ARGUMENTS = (
    "root=/dev/vda rw rootflags=noinit_itable console=ttyS0 quiet net.ifnames=0"
    " mitigations=off random.trust_cpu=on systemd.show_status=true TERM=dumb"
)
_POLL_SECONDS = 0.5
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Hardware:
    # QEMU's default of 1 GiB for translated code makes a guest three times slower after a reboot.
    accel: str = "tcg,thread=multi,tb-size=256"
    memory_mib: int = 2048
    cpus: int = 2
    # What newer processors have more (five levels of page tables, AVX) is slow when it is emulated: with
    # `max` a boot takes 1.6 times as much processor time, and what comes after it 1.4 times.
    processor: str = "Nehalem"


@dataclass(frozen=True)
class Machine:
    name: str
    image: Image

    @property
    def folder(self) -> Path:
        return cache_dir() / "runs" / self.name

    @property
    def overlay(self) -> Path:
        return self.folder / "overlay.qcow2"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def pid_file(self) -> Path:
        return self.folder / "qemu.pid"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.ini"

    @property
    def port_file(self) -> Path:
        return self.folder / "ssh.port"

    # -- life ------------------------------------------------------------------------------

    def start(self, hardware: Hardware, timeout_s: float) -> None:
        self.stop()  # what a killed run left
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._make_overlay()
            self.port_file.write_text(str(_free_port()))
            _launch(self._qemu_command(hardware))
            self._wait_for_boot(timeout_s)
            self.inventory.write_text(self._inventory_line() + "\n")
        except BaseException:
            log(f"the VM did not start; the end of its console:\n{self._console_tail(20)}")
            self.stop()
            raise

    def reboot(self, timeout_s: float) -> None:
        before = self._boot_id()
        # The connection may die before systemctl answers, hence no look at its exit code.
        self.run("systemctl", "reboot")
        self._wait_for_boot(timeout_s, other_than=before)

    def stop(self) -> None:
        with self._process() as pidfd:
            if pidfd is not None:
                _end(pidfd)
        files = (self.overlay, self.console, self.pid_file, self.inventory, self.port_file)
        for path in files:
            path.unlink(missing_ok=True)
        if self.folder.exists():
            self.folder.rmdir()

    def is_running(self) -> bool:
        with self._process() as pidfd:
            return pidfd is not None

    @contextlib.contextmanager
    def _process(self) -> Iterator[int | None]:
        """A handle on our QEMU, if it lives: unlike a pid it can't come to mean another one."""
        try:
            pid = int(self.pid_file.read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            yield None
            return
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            yield pidfd if os.fsencode(self.overlay) in command else None
        finally:
            os.close(pidfd)

    # -- making ----------------------------------------------------------------------------

    def _make_overlay(self) -> None:
        backing = ["-F", "raw", "-b", str(self.image.disk)]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, self.overlay], check=True)

    def _qemu_command(self, hardware: Hardware) -> list[str]:
        disk = f"file={self.overlay},if=virtio,format=qcow2,cache=unsafe,discard=unmap"
        # fmt: off
        return [
            "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-daemonize",
            "-name", self.name,
            "-pidfile", str(self.pid_file),
            "-accel", hardware.accel,
            "-cpu", hardware.processor,
            "-smp", str(hardware.cpus),
            "-m", str(hardware.memory_mib),
            "-kernel", str(self.image.kernel),
            "-initrd", str(self.image.initrd),
            "-append", f"{KERNEL_ARGUMENTS} systemd.hostname={self.name}",
            "-drive", disk,
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-net-pci,netdev=net,romfile=",  # no boot from the network
            "-device", "virtio-rng-pci",
            "-display", "none",
            "-serial", f"file:{self.console}",
        ]
        # fmt: on

    # -- the way in ------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return int(self.port_file.read_text())

    def ssh_command(self, *command: str) -> list[str]:
        login = ["-i", str(self.image.ssh_key), "-p", str(self.port), "root@127.0.0.1"]
        return ["ssh", *SSH_OPTIONS.split(), "-o", "ConnectTimeout=30", *login, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.ssh_command(shlex.join(command)), capture_output=True, text=True, check=False
        )

    def _inventory_line(self) -> str:
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self.image.ssh_key,
            "ansible_ssh_common_args": SSH_OPTIONS,
            # Not Ansible's 10 s: an emulated machine takes its time to let somebody in.
            "ansible_ssh_timeout": 300,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        return " ".join([self.name, *(f"{key}='{value}'" for key, value in variables.items())])

    # -- waiting ---------------------------------------------------------------------------

    def _boot_id(self) -> str:
        """Empty while the VM can't be reached."""
        if not self._sshd_answers():
            return ""
        answer = self.run("cat", BOOT_ID)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    def _sshd_answers(self) -> bool:
        """QEMU takes connections even with no guest behind, and ssh would wait long on those."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as greeting:
                return greeting.recv(4) == b"SSH-"
        except OSError:
            return False

    def _wait_for_boot(self, timeout_s: float, other_than: str = "") -> None:
        began = time.monotonic()
        reported = began
        # Counted, as rig/patience.py does: a machine that was paused is looked at as often as ever.
        looks_left = int(timeout_s / _POLL_SECONDS)
        while self._boot_id() in ("", other_than):
            now = time.monotonic()
            if not self.is_running():
                raise SystemExit("QEMU ended before the VM could be reached")
            if not looks_left:
                raise SystemExit(f"no ssh after {now - began:.0f} s")
            looks_left -= 1
            if now - reported > 5:
                log(f"  {now - began:3.0f} s  {self._console_tail(1)}")
                reported = now
            time.sleep(_POLL_SECONDS)
        state = self.run("systemctl", "is-system-running", "--wait").stdout.strip()
        log(f"{self.name}: up after {time.monotonic() - began:.0f} s, systemd says {state}")

    def _console_tail(self, lines: int) -> str:
        if not self.console.exists():
            return ""
        text = self.console.read_text(errors="replace").replace("\r", "")
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _launch(daemon: list[str]) -> None:
    # In a session of its own Ctrl-C does not reach it half-way.
    launcher = subprocess.Popen(daemon, start_new_session=True)
    try:
        launcher.wait()
    finally:
        launcher.wait()  # interrupted or not: only then is the pid file there, for stop()
    if launcher.returncode:
        raise SystemExit(f"{daemon[0]} refused")  # it has said why


def _end(pidfd: int) -> None:
    for number, patience_ms in ((signal.SIGTERM, 10_000), (signal.SIGKILL, 10_000)):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        if waiting.poll(patience_ms):
            return
