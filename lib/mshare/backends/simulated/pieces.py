# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pieces of a simulated window, opened for other processes of this user."""

from __future__ import annotations

import errno
import os
import select

from ...record import Malformed
from ..pieces import Piece, Pieces
from .layout import Placed, Record, Sidecar
from .window import allowed, open_object


class SimulatedPieces(Pieces):
    def __init__(self, region_fd: int, sidecar: Sidecar) -> None:
        self._region_fd = os.dup(region_fd)
        self._sidecar = sidecar.dup()
        self._objects: dict[int, int] = {}
        """Serial -> descriptor."""
        self._last: list[Piece] | None = []
        # Edge-triggered, as in watch.py; of an epoll by itself there is no edge to miss.
        self._poll = select.epoll()
        self._closed = False
        self._poll.register(self._sidecar.bell_fd, select.EPOLLIN | select.EPOLLET)
        self.bell = self._poll.fileno()

    def heard(self) -> None:
        self._poll.poll(0)

    def current(self) -> list[Piece] | None:
        try:
            record = self._sidecar.read()
        except Malformed:
            # Somebody damaged it: what is mapped stays mapped.
            return self._last
        if record.dead:
            self._let_go(set())
            self._last = None
            return None
        pieces = [self._piece(entry, record) for entry in record.placed]
        self._let_go({entry.serial for entry in record.placed})
        self._last = pieces
        return pieces

    def _piece(self, entry: Placed, record: Record) -> Piece:
        mapping = entry.mapping
        if mapping.kind == "anonymous":
            own = (mapping.offset, mapping.size_bytes, mapping.prot)
            return Piece(entry.serial, *own, object_offset=mapping.offset, fd=None)
        fd, refused, prot = self._objects.get(entry.serial), 0, mapping.prot
        if fd is None:
            try:
                fd = open_object(entry, record.inode, self._region_fd, self._sidecar.fd)
                self._objects[entry.serial] = fd
            except OSError as error:
                refused = error.errno or errno.EACCES
        if fd is not None:
            prot &= allowed(fd)
        return Piece(
            entry.serial, mapping.offset, mapping.size_bytes, prot, mapping.object_offset, fd, refused
        )

    def _let_go(self, serials: set[int]) -> None:
        for serial in self._objects.keys() - serials:
            os.close(self._objects.pop(serial))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._let_go(set())
        self._poll.close()
        self._sidecar.close()
        os.close(self._region_fd)
