# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification of a mount, checked."""

from __future__ import annotations

from collections.abc import Mapping as Fields
from dataclasses import dataclass

from ..backends.choose import BACKENDS
from ..converge.spec import Converter, Spec, absolute_path, convert, file_mode, flag, nonempty_text, one_of
from ..errors import InvalidRequest
from ..kernel.generations import generation
from ..units import parse_size


@dataclass(frozen=True)
class MountSpec(Spec):
    """An msharefs that should be mounted."""

    backend: str
    root: str
    generation: str | None = None
    """Simulated only: which generation to imitate."""
    size_bytes: int | None = None
    """Simulated only: the most memory its tmpfs may use."""
    mode: int = 0o1770
    group: str | None = None
    create_group: bool = False
    """Whether a missing group is created, and removed together with the mount."""

    @property
    def tmpfs_options(self) -> str:
        """For mount(8), simulated only. No other user has access before layout and permissions are set."""
        return "mode=0700" if self.size_bytes is None else f"mode=0700,size={self.size_bytes}"

    @classmethod
    def from_dict(cls, given: Fields[str, object], what: str = "mount") -> MountSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "backend": one_of(BACKENDS[1:]),
            "root": absolute_path,
            "generation": lambda value, what: generation(nonempty_text(value, what)).id,
            "size": parse_size,
            "mode": file_mode,
            "group": nonempty_text,
            "create_group": flag,
            "comment": nonempty_text,
        }
        values = convert(given, converters, what)
        values.pop("comment", None)
        for key, example in (("backend", "simulated"), ("root", "/run/msharefs")):
            if key not in values:
                raise InvalidRequest(f"{what} needs a {key}, like {example}")
        for key in ("generation", "size"):
            if given.get(key) is not None and values["backend"] == "kernel":
                raise InvalidRequest(f"{what}'s {key} is for the simulated backend; a kernel has its own")
        return cls(**values)
