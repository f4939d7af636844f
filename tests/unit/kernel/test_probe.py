# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe table: which answers make which generation."""

from __future__ import annotations

import errno
import os

import pytest

from mshare.errors import InvalidRequest, Unavailable
from mshare.kernel import abi, probe
from mshare.kernel.generations import GENERATIONS, generation

EINVAL, ENOTTY, EBADF, OK = errno.EINVAL, errno.ENOTTY, errno.EBADF, 0

# read(16), ioctl GET_SIZE, ioctl UNMAP_BY_ADDRESS, CREATE_MAPPING of an unused descriptor
ANSWERS = {
    "2022-06": (OK, ENOTTY, ENOTTY, None),
    "2024-09": (EINVAL, OK, ENOTTY, None),
    "2025-01": (EINVAL, OK, EINVAL, None),
    "2025-04": (EINVAL, ENOTTY, ENOTTY, EINVAL),
    "2025-08": (EINVAL, EINVAL, EINVAL, EBADF),
}


class Kernel:
    """Answers the probe's questions, and writes down which ones were asked."""

    def __init__(self, monkeypatch, answers):
        self.asked = []
        read, get_size, unmap, create = answers
        numbers = {abi.GET_SIZE: get_size, abi.UNMAP_BY_ADDRESS: unmap, abi.CREATE_MAPPING_BY_OFFSET: create}

        def answer(code):
            if code:
                raise OSError(code, os.strerror(code))
            return b""

        def ioctl(fd, number, argument):
            self.asked.append(number)
            sized = os.fstat(fd).st_size > 0
            assert sized == (number == abi.CREATE_MAPPING_BY_OFFSET)
            assert len(argument) == number >> 16 & 0x3FFF
            return answer(numbers[number])

        monkeypatch.setattr(probe, "_read", lambda fd: probe._errno_of(lambda: answer(read)))
        monkeypatch.setattr(probe.fcntl, "ioctl", ioctl)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mshare_info").write_text(f"{2 << 20}\n")
    return tmp_path


@pytest.mark.parametrize("identifier", GENERATIONS)
def test_each_generation_by_its_answers(root, monkeypatch, identifier):
    kernel = Kernel(monkeypatch, ANSWERS[identifier])
    assert probe.generation(str(root)) is GENERATIONS[identifier]
    assert abi.SET_SIZE not in kernel.asked, "it is UNMAP to a newer kernel"
    assert os.listdir(root) == ["mshare_info"], "the scratch file is gone"


def test_a_back_port_that_mixes_2025_04_and_2025_08(root, monkeypatch):
    Kernel(monkeypatch, (EINVAL, ENOTTY, ENOTTY, EBADF))
    assert probe.generation(str(root)).id == "2025-08"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((OK, OK, OK, None), "(ok, ok, ok)"),
        ((errno.EIO, ENOTTY, ENOTTY, None), "(EIO, ENOTTY, ENOTTY)"),
        ((EINVAL, EINVAL, EINVAL, ENOTTY), "(EINVAL, EINVAL, EINVAL, ENOTTY)"),
    ],
)
def test_answers_that_fit_nothing(root, monkeypatch, answers, said):
    Kernel(monkeypatch, answers)
    with pytest.raises(Unavailable) as caught:
        probe.generation(str(root))
    assert str(caught.value) == (
        f"msharefs at {root} answered the probe with {said}, which matches none of 2022-06, 2024-09,"
        " 2025-01, 2025-04, 2025-08; please report it with the kernel's origin"
    )
    assert os.listdir(root) == ["mshare_info"]


def test_an_msharefs_of_the_system_calls_of_2022(tmp_path):
    with pytest.raises(Unavailable) as caught:
        probe.generation(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}/mshare_info is missing: this is an msharefs of the 2022-01 or 2022-04 series, whose"
        f" system calls are not safe on today's kernels; boot a kernel with a later series"
    )


def test_an_alignment_that_fits_no_int(root):
    (root / "mshare_info").write_text("549755813888\n")
    assert probe.alignment_bytes(str(root)) == 1 << 39


@pytest.mark.parametrize("text", ["", "x\n", "0x1000\n"])
def test_no_alignment_in_mshare_info(root, text):
    (root / "mshare_info").write_text(text)
    with pytest.raises(Unavailable, match=r"contains no alignment .*; is this msharefs"):
        probe.alignment_bytes(str(root))


def test_something_else_in_the_place_of_mshare_info(root):
    os.unlink(root / "mshare_info")
    os.mkfifo(root / "mshare_info")
    with pytest.raises(Unavailable) as caught:
        probe.alignment_bytes(str(root))
    assert str(caught.value) == (
        f"{root}/mshare_info is a FIFO where a file with the alignment belongs; is this msharefs?"
    )


@pytest.mark.parametrize("identifier", ["2022-01", "2022-04"])
def test_generations_that_were_system_calls_are_refused(identifier):
    with pytest.raises(
        InvalidRequest, match=f"generation {identifier} was a set of system calls .* dangerous"
    ):
        generation(identifier)


@pytest.mark.parametrize("identifier", ["", "2026-06", "2025-8", "newest", None])
def test_generations_that_nobody_knows(identifier):
    with pytest.raises(InvalidRequest) as caught:
        generation(identifier)
    assert str(caught.value) == (
        f"generation {identifier!r} is unknown; use one of 2022-06, 2024-09, 2025-01, 2025-04, 2025-08,"
        " 2026-05"
    )


def test_every_generation_is_told_by_its_features():
    """What the table of posted series says, in one place to compare."""
    features = {name: known.features for name, known in GENERATIONS.items()}
    assert [f.size_set_by for f in features.values()] == ["mmap", "ioctl", "ioctl", "ftruncate", "ftruncate"]
    assert [f.explicit_mappings for f in features.values()] == [False, True, True, True, True]
    assert [f.unmap for f in features.values()] == [False, False, True, True, True]
    assert [f.any_address for f in features.values()] == [False, False, False, True, True]
    assert [f.owner_bound for f in features.values()] == [False, False, False, False, True]
    assert [name for name, f in features.items() if "file" in f.mapping_kinds] == ["2025-08"]
