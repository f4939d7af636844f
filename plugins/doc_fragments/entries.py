# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

# The options for one region: options of the module, and suboptions of each entry of its list.
_REGION = r"""
  state:
    description:
      - Whether the region should exist. V(absent) ends its owner, and is refused while clients are attached, unless O(force=true).
    type: str
    choices: [present, absent]
    default: present
  size:
    description:
      - The size of one anonymous mapping, like V(300GiB). A region needs either this or O(mappings).
    type: str
  mappings:
    description:
      - The objects in the region. Each starts at its O(mappings[].offset), or by default after the previous one.
    type: list
    elements: dict
    suboptions:
      kind:
        description:
          - V(anonymous) memory, V(hugetlb) pages of 2 MiB, or a V(file). The default is V(file) if O(mappings[].path) is
            set, else V(anonymous).
        type: str
        choices: [anonymous, hugetlb, file]
      size:
        description:
          - How much to map, like V(64GiB).
        type: str
        required: true
      offset:
        description:
          - Where the mapping starts in the region, in bytes or like V(1GiB).
        type: str
      path:
        description:
          - The path of the file.
        type: path
      file_offset:
        description:
          - Where the mapping starts in the file, in bytes or like V(1GiB).
        type: str
      protection:
        description:
          - V(r) for read-only, V(rw) for read and write. The default is V(r) for files and V(rw) for memory.
        type: str
        choices: [r, rw]
  window:
    description:
      - The size of the window, if it should be larger than the mappings need, so that more can be mapped later.
    type: str
  address:
    description:
      - The address at which every process attaches the region, a multiple of the alignment. Only for generations before 2025-04.
    type: str
  mode:
    description:
      - The mode of the region's file, as an octal number in quotes. In practice, any user who may open a region may write to it.
    type: raw
    default: '0600'
  owner:
    description:
      - The user that owns the region's file.
    type: str
  group:
    description:
      - The group of the region's file. It must exist; M(dbmem.mshare.mshare_mount) can create it.
    type: str
  overcommit:
    description:
      - Allow a region larger than the host's memory. Only part of it may be touched.
    type: bool
    default: false
  prefault:
    description:
      - The owner touches every page before the region is ready, as databases need it. 300 GiB take minutes.
    type: bool
    default: false
  pattern:
    description:
      - The owner writes bytes to the memory that clients verify. For trials, not for a database.
    type: bool
    default: false
  memory_max:
    description:
      - The most memory that the region may use, enforced by systemd on its slice. If it is exceeded, the kernel kills the owner,
        and the clients die with it.
    type: str
  before:
    description:
      - systemd units that start after the region and stop before it, such as that of the database.
    type: list
    elements: str
    default: []
  recreate:
    description:
      - Replace a region whose size or mappings differ; its content is lost. Refused while clients are attached, unless O(force=true).
    type: bool
    default: false
  replace_stale:
    description:
      - Replace a region whose owner was killed.
    type: bool
    default: false
  replace_outdated:
    description:
      - Replace a region whose owner runs another version of the library than the installed one; its content is lost. By default
        such an owner keeps running, with a warning. Refused while clients are attached, unless O(force=true).
    type: bool
    default: false
  force:
    description:
      - With O(recreate=true), O(replace_outdated=true) or O(state=absent), kill the clients that are attached.
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
      - How many clients, from 1 to 32768. Required if O(state=present).
      - If only the number differs, the difference is started or ended. If anything else differs, all clients are restarted.
    type: int
  command:
    description:
      - Your own program and its arguments, run O(count) times. It finds the region in its environment, as
        E(MSHARE_REGION), E(MSHARE_PATH), E(MSHARE_ADDRESS), E(MSHARE_WINDOW_BYTES), E(MSHARE_MAPPED_BYTES), E(MSHARE_BACKEND),
        E(MSHARE_GENERATION) and E(MSHARE_CLIENT_NUMBER).
    type: list
    elements: str
  touch:
    description:
      - Whether the library's own clients touch the region, or only attach.
    type: bool
    default: true
  span:
    description:
      - How much of the region each client touches, like V(64GiB). The default fits the host's free memory, because on the
        simulated backend every client really pays for its page tables; see RV(clients.span_bytes).
    type: str
  stride:
    description:
      - The distance between touched pages. Touching one page in every 2 MiB costs the same page tables as touching all.
    type: str
    default: 2MiB
  settle_seconds:
    description:
      - If a process of O(command) ends within this many seconds, the start has failed, and no client is left running.
    type: int
    default: 1
  restart_dead:
    description:
      - Start dead clients again.
    type: bool
    default: false
  restart_outdated:
    description:
      - Restart all clients if their launcher runs another version of the library than the installed one. By default they keep
        running, with a warning.
    type: bool
    default: false
  require_all:
    description:
      - Fail if fewer clients are attached than requested, and say why they died. By default they are only reported in the result.
    type: bool
    default: false
"""


def _both(name, what, entries, options):
    """Options of a module for one region, and for a list; they are the defaults of the list's entries."""
    lines = options.strip("\n").split("\n")
    for_entry = ["    " + line for line in lines if not line.startswith("    default:")]
    return "\n".join(
        [
            "options:",
            f"  {name}:",
            "    description:",
            f"      - {what} Either this or O({entries}) is required.",
            "    type: str",
            f"  {entries}:",
            "    description:",
            "      - Several of them, in one call. Options of the module are the defaults for all entries.",
            "      - All entries are checked before anything is changed. If one fails, the message names the region and what",
            "        was done before.",
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
    """Its options are generated below: linters that read this file expect literal texts in the class."""


for _fragment, _texts in {
    "REGION": ("name", "The name of the region, of letters, digits, C(_) and C(.).", "regions", _REGION),
    "CLIENTS": ("region", "The region to attach to.", "clients", _CLIENTS),
}.items():
    setattr(ModuleDocFragment, _fragment, _both(*_texts))
