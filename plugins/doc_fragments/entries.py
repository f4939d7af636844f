# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

# What is said about one region, as the module's own options and once more for each entry of its list.
_REGION = r"""
  state:
    description:
      - Whether the region should exist. V(absent) ends its owner, and is refused while clients are attached.
    type: str
    choices: [present, absent]
    default: present
  size:
    description:
      - The size of one anonymous mapping, like V(300GiB). Either this or O(mappings) is needed for a region.
    type: str
  mappings:
    description:
      - The objects in the region. Each lies at an offset, or behind the one before it.
    type: list
    elements: dict
    suboptions:
      kind:
        description:
          - V(anonymous) memory, memory in V(hugetlb) pages of 2 MiB, or a V(file), which is meant if O(mappings[].path) is given.
        type: str
        choices: [anonymous, hugetlb, file]
      size:
        description:
          - How much of it is mapped, like V(64GiB).
        type: str
        required: true
      offset:
        description:
          - Where in the region it lies, in bytes or like V(1GiB).
        type: str
      path:
        description:
          - The file.
        type: path
      file_offset:
        description:
          - Where in the file the mapping begins.
        type: str
      protection:
        description:
          - V(r) to read only, V(rw) to read and write. Files are V(r) if it is left out, memory V(rw).
        type: str
        choices: [r, rw]
  window:
    description:
      - A window larger than the mappings need, to map more later.
    type: str
  address:
    description:
      - The address at which every process has it, for the generations before 2025-04; a multiple of the alignment.
    type: str
  mode:
    description:
      - The mode of the region's file, as an octal number in quotes. Who may open a region may in practice write to it.
    type: raw
    default: '0600'
  owner:
    description:
      - The user to whom the region's file belongs.
    type: str
  group:
    description:
      - The group to which the region's file belongs.
    type: str
  overcommit:
    description:
      - Consent to a region larger than the host's memory, of which only a part will be touched.
    type: bool
    default: false
  prefault:
    description:
      - Have the owner touch every page before the region is ready, as databases need it. 300 GiB take minutes.
    type: bool
    default: false
  pattern:
    description:
      - Have the owner leave bytes in the memory that clients verify. For trials, not for a database.
    type: bool
    default: false
  memory_max:
    description:
      - The most memory that the region may take, enforced by systemd on its slice. When it is reached, the owner is ended and
        the clients with it.
    type: str
  before:
    description:
      - systemd units that start after the region and stop before it, such as the database's.
    type: list
    elements: str
    default: []
  recreate:
    description:
      - Replace a region whose size or mappings differ, and what is in it. Attached clients prevent that unless O(force=true).
    type: bool
    default: false
  replace_stale:
    description:
      - Replace a region whose owner was killed.
    type: bool
    default: false
  replace_outdated:
    description:
      - Replace a region, and what is in it, whose owner runs another version of the library than is installed. Without it such an
        owner goes on, with a warning. Attached clients prevent it unless O(force=true).
    type: bool
    default: false
  force:
    description:
      - End, with O(recreate=true), O(replace_outdated=true) or O(state=absent), the clients that are attached.
    type: bool
    default: false
"""

_CLIENTS = r"""
  state:
    description:
      - Whether clients should run.
    type: str
    choices: [present, absent]
    default: present
  count:
    description:
      - How many, from 1 to 32768. Required if O(state=present).
      - Another number is started or ended among those that run; anything else that differs starts all of them anew.
    type: int
  command:
    description:
      - A program of your own and its arguments, run O(count) times. It finds the region in its environment as
        E(MSHARE_REGION), E(MSHARE_PATH), E(MSHARE_ADDRESS), E(MSHARE_WINDOW_BYTES), E(MSHARE_MAPPED_BYTES), E(MSHARE_BACKEND),
        E(MSHARE_GENERATION) and E(MSHARE_CLIENT_NUMBER).
    type: list
    elements: str
  touch:
    description:
      - Whether clients of the library touch the region, or only attach.
    type: bool
    default: true
  span:
    description:
      - How much of the region each touches, like V(64GiB). Left out, it is fitted to the host's free memory, since on the
        simulated backend every client really pays for its page tables; see RV(clients.span_bytes).
    type: str
  stride:
    description:
      - One page is touched every so many bytes. One in 2 MiB costs the same page tables as all of them.
    type: str
    default: 2MiB
  settle_seconds:
    description:
      - A O(command) that ends within this time counts as failed, and then none is left running.
    type: int
    default: 1
  restart_dead:
    description:
      - Start clients again that died.
    type: bool
    default: false
  restart_outdated:
    description:
      - Start all clients anew if their launcher runs another version of the library than is installed. Without it they go on, with
        a warning.
    type: bool
    default: false
  require_all:
    description:
      - Fail, and say why they died, where fewer are attached than there should be. Otherwise they are in the result.
    type: bool
    default: false
"""


def _both(name, what, entries, options):
    """Options of a module for one region, and of a list whose entries take from them what they leave out."""
    lines = options.strip("\n").split("\n")
    for_entry = ["    " + line for line in lines if not line.startswith("    default:")]
    return "\n".join(
        [
            "options:",
            f"  {name}:",
            "    description:",
            f"      - {what} Either this or O({entries}) is needed.",
            "    type: str",
            f"  {entries}:",
            "    description:",
            "      - Several of them, in one call. What an entry leaves out is taken from the module's own options.",
            "      - All entries are checked before the first changes anything. A failure says at which region it was, and",
            "        what had been done before.",
            "    type: list",
            "    elements: dict",
            "    suboptions:",
            f"      {name}:",
            "        description:",
            f"          - {what}",
            "        type: str",
            "        required: true",
            *for_entry,
            *lines,
            "",
        ]
    )


class ModuleDocFragment:
    """Its options are made, not written: a linter that reads this file expects written ones in the class."""


for _fragment, _texts in {
    "REGION": ("name", "The region's name, of letters, digits, C(_) and C(.).", "regions", _REGION),
    "CLIENTS": ("region", "The region to attach to.", "clients", _CLIENTS),
}.items():
    setattr(ModuleDocFragment, _fragment, _both(*_texts))
