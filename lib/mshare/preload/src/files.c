/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Mapped files. The kernel maps the file first, as it would without the preload: whether it may be mapped is
 * its decision, and that mapping stays, as the twin of the window in which the program sees the file. Nobody
 * touches a twin, so it costs no page tables.
 *
 * What a window cannot do (a part unmapped, moved, protected, locked) makes the mapping the kernel's own
 * again, at the same address: the twin is duplicated over the whole window in one step, so that another thread
 * that reads there meanwhile sees the same bytes before and after.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "preload.h"

/* x86-64 has room for 255 windows of 512 GiB, and it takes two to find an aligned one. */
enum { FILES = 64 };

struct mapped_file {
    char *address; /* of the window, and of the file in it; NULL: this slot is free */
    size_t size;   /* whole pages */
    size_t window_bytes;
    char *twin;
    void
        *hold; /* simulated: keeps the region's file open, and the lock on it, which the keeper waits for */
};

static struct mapped_file mapped_files[FILES];
static int in_use;    /* how many of them, so that most calls need not look */
static bool no_more;  /* this process locks its memory */
static bool told;     /* that a file stays the kernel's: once, or always with MSHARE_PRELOAD_VERBOSE */
static int sandboxed; /* PR_GET_SECCOMP at the start */

/* The keeper lives as long as there are programs that may ask it: each has this file mapped, and with that the
 * lock on it, as its children have. */
static void have_keeper_stay(void)
{
    char path[sizeof settings()->files + sizeof ".users"];
    snprintf(path, sizeof path, "%s.users", settings()->files);
    int fd = open_file(path, O_RDONLY);
    if (fd < 0)
        return;
    if (flock(fd, LOCK_SH | LOCK_NB) == 0)
        kernel_mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_SHARED, fd, 0);
    close(fd);
}

__attribute__((constructor)) static void begin(void)
{
    if (!settings()->files[0])
        return;
    int before = errno;
    sandboxed = prctl(PR_GET_SECCOMP);
    have_keeper_stay();
    errno = before;
}

/* File systems on which two open files with one device and inode show the same pages. On an overlay they need
 * not: of a file that was opened before it was first written to, the pages are those of the lower layer. */
static bool is_local(int fd, long *type)
{
    static const long known[] = {0xef53 /* ext */, 0x58465342 /* xfs */, 0x9123683e /* btrfs */,
                                 0x01021994 /* tmpfs */, 0xf2f52010 /* f2fs */};
    struct statfs where;
    if (fstatfs(fd, &where) < 0)
        return false;
    *type = where.f_type;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i] == (where.f_type & 0xffffffffL))
            return true;
    return false;
}

static bool may_share(const struct request *request, struct outcome *outcome)
{
    struct stat file;
    long type = 0;
    if (settings()->wrong[0])
        fail(outcome, EINVAL, "%s", settings()->wrong);
    else if (settings()->backend == BACKEND_NONE)
        fail(outcome, ENOSYS,
             "page tables of files are shared in regions only, and there is no msharefs here");
    else if (no_more)
        fail(outcome, ENOMEM, "this process locks its memory, and a region cannot be locked");
    else if (prctl(PR_GET_SECCOMP) != sandboxed)
        fail(outcome, EPERM, "this process has limited its own system calls (seccomp)");
    else if (fstat(request->fd, &file) < 0 || !S_ISREG(file.st_mode))
        fail(outcome, EINVAL, "it is not a regular file");
    else if (!file.st_nlink)
        fail(outcome, ENOENT, "the file has no name any more, and the keeper finds no such file");
    else if (!is_local(request->fd, &type))
        fail(outcome, EINVAL,
             "its file system (type 0x%lx) is not one of ext, xfs, btrfs, f2fs and tmpfs, where an inode"
             " is sure to be one file",
             type);
    else
        return true;
    return false;
}

static struct mapped_file *free_slot(struct outcome *outcome)
{
    for (int i = 0; i < FILES; i++)
        if (!mapped_files[i].address)
            return &mapped_files[i];
    return fail(outcome, ENOMEM, "this process has %d files in regions already, which is the maximum",
                FILES);
}

static void *no_window(size_t size, struct outcome *outcome)
{
    return fail(outcome, errno, "no address space for a window of %s (%s); raise RLIMIT_AS (ulimit -v)",
                size_text(size).text, reason(errno));
}

static char *attach_kernel(const struct request *request, const struct kept *kept, struct outcome *outcome)
{
    void *window = kernel_mmap(NULL, kept->window_bytes, request->prot, MAP_SHARED, kept->fd, 0);
    return window == MAP_FAILED ? no_window(kept->window_bytes, outcome) : window;
}

/* The window's rules, and the file in it as this process has it open. */
static char *attach_simulated(const struct request *request, const struct kept *kept, void **hold,
                              struct outcome *outcome)
{
    char *window = reserve(kept->window_bytes, kept->alignment_bytes, 0);
    if (!window)
        return no_window(kept->window_bytes, outcome);
    *hold = kernel_mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_SHARED, kept->fd, 0);
    if (*hold != MAP_FAILED && kernel_mmap(window, request->size, request->prot, MAP_SHARED | MAP_FIXED,
                                           request->fd, request->offset) != MAP_FAILED)
        return window;
    fail(outcome, errno, "it cannot be mapped in a window (%s)", reason(errno));
    if (*hold != MAP_FAILED)
        kernel_munmap(*hold, PAGE_BYTES);
    kernel_munmap(window, kept->window_bytes);
    return NULL;
}

struct mapping {
    const struct request *request;
    char *twin;
    struct outcome outcome;
};

static void share(void *argument)
{
    struct mapping *mapping = argument;
    const struct request *request = mapping->request;
    struct outcome *outcome = &mapping->outcome;
    struct kept kept;
    struct mapped_file *slot;
    bool writable = request->prot & PROT_WRITE;
    size_t size = round_up(request->size, PAGE_BYTES);
    if (!may_share(request, outcome) || !(slot = free_slot(outcome)) ||
        !keeper_ask(request->fd, request->offset, size, writable, &kept, outcome))
        return;
    void *hold = NULL;
    char *address = settings()->backend == BACKEND_KERNEL
                        ? attach_kernel(request, &kept, outcome)
                        : attach_simulated(request, &kept, &hold, outcome);
    close(kept.fd);
    if (!address)
        return;
    /* What reads a page of it that is not there, as gcore does, makes the kernel warn. */
    kernel_madvise(address, kept.window_bytes, MADV_DONTDUMP);
    *slot = (struct mapped_file){address, size, kept.window_bytes, mapping->twin, hold};
    __atomic_add_fetch(&in_use, 1, __ATOMIC_RELEASE);
    outcome->address = address;
    snprintf(outcome->note, sizeof outcome->note, "in region %.120s", kept.name);
}

/* Whether a line about a file is due: on a host with hundreds of such programs one of each is enough. */
static bool tell(void)
{
    bool first = !told;
    told = true;
    return first || settings()->verbose;
}

static void report_mapping(void *argument)
{
    const struct mapping *mapping = argument;
    const struct outcome *outcome = &mapping->outcome;
    const char *access = mapping->request->prot & PROT_WRITE ? "writable" : "read-only";
    struct size_text size = size_text(mapping->request->size);
    if (outcome->address && settings()->verbose)
        report("took over a file mapping of %s: %s, at %p, %s", size.text, access, (void *)outcome->address,
               outcome->note);
    else if (!outcome->address && tell())
        report("a file mapping of %s: %s; left to the kernel as without the preload", size.text,
               outcome->why);
}

void *files_map(const struct request *request)
{
    int before = errno;
    struct mapping mapping = {.request = request};
    void *twin =
        kernel_mmap(NULL, request->size, request->prot, request->flags, request->fd, request->offset);
    if (twin == MAP_FAILED)
        return twin;
    mapping.twin = twin;
    guarded(share, &mapping);
    guarded(report_mapping, &mapping);
    errno = before;
    return mapping.outcome.address ? mapping.outcome.address : twin;
}

static bool reaches(const struct mapped_file *file, uintptr_t from, uintptr_t to)
{
    uintptr_t start = (uintptr_t)file->address;
    return start && start < to && start + file->window_bytes > from;
}

bool files_any(void) { return __atomic_load_n(&in_use, __ATOMIC_ACQUIRE); }

bool files_overlap(uintptr_t address, size_t size)
{
    uintptr_t to = address + round_up(size, PAGE_BYTES);
    if (!files_any())
        return false;
    for (int i = 0; i < FILES; i++)
        if (reaches(&mapped_files[i], address, to))
            return true;
    return false;
}

void *files_twin(const void *address, size_t size)
{
    const char *from = address, *to = from + round_up(size, PAGE_BYTES);
    for (int i = 0; i < FILES; i++) {
        const struct mapped_file *file = &mapped_files[i];
        if (file->address && from >= file->address && to <= file->address + file->size && from <= to)
            return file->twin + (from - file->address);
    }
    return NULL;
}

/* With an old size of 0, mremap duplicates a shared mapping. Over a window as a whole, which is the only way
 * that one can be replaced; what is too long goes afterwards. */
static int give_back(struct mapped_file *file)
{
    void *own =
        kernel_mremap(file->twin, 0, file->window_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, file->address);
    if (own == MAP_FAILED)
        return -1;
    kernel_madvise(own, file->size, MADV_DODUMP);
    kernel_munmap(file->address + file->size, file->window_bytes - file->size);
    kernel_munmap(file->twin, file->size);
    if (file->hold)
        kernel_munmap(file->hold, PAGE_BYTES);
    file->address = NULL;
    __atomic_sub_fetch(&in_use, 1, __ATOMIC_RELEASE);
    return 0;
}

struct giving {
    uintptr_t from, to;
    const char *call;
    bool for_good;
    int result;
    int code;
};

static void give_back_range(void *argument)
{
    struct giving *giving = argument;
    no_more = no_more || giving->for_good;
    for (int i = 0; i < FILES; i++) {
        struct mapped_file *file = &mapped_files[i];
        if (!reaches(file, giving->from, giving->to))
            continue;
        char *address = file->address;
        size_t size = file->size;
        if (give_back(file) < 0) {
            giving->result = -1;
            giving->code = errno;
        } else if (giving->call && tell()) {
            report(
                "the file mapping of %s at %p: %s cannot be done in a region; it is the kernel's own again",
                size_text(size).text, (void *)address, giving->call);
        }
    }
}

static int give(struct giving *giving)
{
    int before = errno;
    guarded(give_back_range, giving);
    errno = giving->result < 0 ? giving->code : before;
    return giving->result;
}

int files_give_back(uintptr_t address, size_t size, const char *call)
{
    struct giving giving = {.from = address, .to = address + round_up(size, PAGE_BYTES), .call = call};
    return give(&giving);
}

int files_give_back_all(const char *call)
{
    struct giving giving = {.to = UINTPTR_MAX, .call = call, .for_good = true};
    return give(&giving);
}
