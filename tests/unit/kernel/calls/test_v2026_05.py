# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls that were described and not posted: none is made, and one table makes them calls."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from mshare.errors import Unavailable
from mshare.kernel import abi, probe
from mshare.kernel.calls import CALLS, v2026_05
from mshare.kernel.syscalls import NewMapping
from mshare.units import MIB


class Kernel:
    """Answers numbered calls, and writes them down. As if they were posted: numbers that no kernel has."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.code = 0
        numbers = {call: 10_000 + place for place, call in enumerate(abi.NUMBERED_CALLS)}
        monkeypatch.setattr(abi, "CALL_NUMBERS", numbers)
        monkeypatch.setattr(probe, "_libc", lambda: self)
        monkeypatch.setattr(ctypes, "get_errno", lambda: self.code)

    def syscall(self, number, *words):
        call = abi.NUMBERED_CALLS[number.value - 10_000]
        self.asked.append((call, *(word.value for word in words)))
        return -1 if self.code else 7


def calls():
    """Each method with arguments, and the system call that it makes."""
    speaks = v2026_05.V2026_05()
    new = NewMapping(2 * MIB, MIB, abi.PROT_READ, abi.MAP_SHARED, 9, 4096)
    window = (3, MIB, 2 * MIB)
    return (
        (speaks.create, ("mshare_create", os.O_CLOEXEC)),
        (lambda: speaks.attach(*window, None, abi.MAP_SHARED), ("mshare_attach", *window, 0, abi.MAP_SHARED)),
        (lambda: speaks.attach(*window, 1 << 39, 1), ("mshare_attach", *window, 1 << 39, 1)),
        (lambda: speaks.create_mapping(3, new), ("mshare_map", 3, 2 * MIB, MIB, 1, 1, 9, 4096)),
        (lambda: speaks.advise(*window, abi.MADV_REMOVE), ("mshare_advise", *window, abi.MADV_REMOVE)),
        (lambda: speaks.protect(*window, abi.PROT_READ), ("mshare_protect", *window, abi.PROT_READ)),
    )


def test_they_have_no_numbers():
    """On the day they are posted this test goes, with the table filled in."""
    assert abi.CALL_NUMBERS == {}
    assert "2026-05" not in CALLS
    assert probe.why_no_calls() == (
        "not posted yet: the calls of generation 2026-05 have no numbers, so no kernel has them"
    )


@pytest.mark.parametrize("number", range(len(calls())))
def test_none_is_made_without_a_number(number, monkeypatch):
    monkeypatch.setattr(probe, "_libc", None)
    call, (name, *__) = calls()[number]
    with pytest.raises(Unavailable) as caught:
        call()
    assert str(caught.value) == (
        f"{name} cannot be called, not posted yet: the calls of generation 2026-05 have no numbers, so no"
        " kernel has them; use the simulated backend"
    )


@pytest.mark.parametrize("number", range(len(calls())))
def test_with_numbers_each_is_one_system_call(number, monkeypatch):
    kernel = Kernel(monkeypatch)
    call, made = calls()[number]
    call()
    assert kernel.asked == [made]
    kernel.code = errno.ENOMEM
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        call()


def test_some_numbers_are_not_enough(monkeypatch):
    Kernel(monkeypatch)
    monkeypatch.setattr(abi, "CALL_NUMBERS", {"mshare_create": 10_000})
    assert (probe.why_no_calls() or "").startswith("not posted yet")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EINVAL, None),
        (errno.ENOSYS, f"kernel {os.uname().release} has no mshare_create"),
    ],
)
def test_a_kernel_is_asked_with_flags_that_make_nothing(monkeypatch, code, why):
    kernel = Kernel(monkeypatch)
    kernel.code = code
    assert probe.why_no_calls() == why
    assert kernel.asked == [("mshare_create", -1)]


def test_a_region_gets_its_size_by_ftruncate():
    fd = os.memfd_create("region")
    speaks = v2026_05.V2026_05()
    speaks.set_size(fd, MIB, None)
    assert speaks.geometry(fd) == (None, MIB)
    with pytest.raises(OSError, match="in generation 2026-05"):
        speaks.unmap(fd, 0, MIB)
    os.close(fd)
