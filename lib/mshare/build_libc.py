# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate `_libc.py`: run `python -m mshare.build_libc` after a change here.

Out-of-line ABI mode: the result is plain Python, so a host needs neither a compiler nor pycparser,
and starts in a fifth of the time of in-line cffi.
"""

from __future__ import annotations

import os

# Struct layouts as in the posted series' include/uapi/linux/msharefs.h. `where` is an address up to
# 2025-01 and an offset into the region from 2025-04 on.
DECLARATIONS = """
struct mshare_info { uint64_t start; uint64_t size; };
struct mshare_create {
    uint64_t where; uint64_t size; uint64_t offset; uint32_t prot; uint32_t flags; uint32_t fd;
};
struct mshare_unmap { uint64_t where; uint64_t size; };

void *mmap(void *address, size_t length, int prot, int flags, int fd, int64_t offset);
int munmap(void *address, size_t length);
int ioctl(int fd, unsigned long request, ...);
int fallocate(int fd, int mode, int64_t offset, int64_t length);
int prctl(int option, ...);
int inotify_init1(int flags);
int inotify_add_watch(int fd, const char *path, uint32_t mask);

struct statfs { long f_type; long rest[31]; };
int statfs(const char *path, struct statfs *buffer);
"""


def main() -> None:
    from cffi import FFI  # type: ignore[import-untyped,unused-ignore]

    builder = FFI()
    builder.cdef(DECLARATIONS)
    builder.set_source("mshare._libc", None)
    builder.emit_python_code(os.path.join(os.path.dirname(os.path.abspath(__file__)), "_libc.py"))


if __name__ == "__main__":
    main()
