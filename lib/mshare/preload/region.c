/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Segments in regions. By default whoever asks makes a region of its own, which lives and dies with it:
 * preload.PID.NUMBER, or preload.PID.sysv.ID and preload.PID.posix.INODE, under which other processes
 * find the region of a SysV segment and of a POSIX file. With MSHARE_PRELOAD_REGION segments go one
 * behind the other into a region that exists.
 *
 * Whoever has a region open holds a shared lock on its file, and so do the children forked from it: a
 * name that can be locked exclusively was left behind.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

static const char prefix[] = "preload.";

static struct region regions[REGIONS];
static _Atomic int taken[REGIONS];
static _Atomic int numbers;

static struct store *store(void)
{
    return settings()->backend == BACKEND_KERNEL ? &kernel_store : &simulated_store;
}

static struct region *new_slot(const struct request *request)
{
    for (int i = 0; i < REGIONS; i++) {
        int free_slot = 0;
        if (__atomic_compare_exchange_n((int *)&taken[i], &free_slot, 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            regions[i] = (struct region){.fd = -1, .shadow_fd = -1, .kind = request->kind};
            return &regions[i];
        }
    }
    return NULL;
}

static void drop(struct region *region)
{
    if (region->address)
        kernel_munmap(region->address, region->window_bytes);
    if (region->maker == getpid())
        store()->unlink(region->name);
    if (region->fd >= 0)
        close(region->fd);
    if (region->shadow_fd >= 0)
        close(region->shadow_fd);
    taken[region - regions] = 0;
}

/* Whether the SysV segment or the POSIX file is still there, whose memory a region is. */
static bool outlived(const struct region *region)
{
    struct shmid_ds segment;
    if (region->kind == SYSV)
        return kernel_shmctl(region->shmid, IPC_STAT, &segment) < 0 && errno != EACCES;
    struct stat found;
    return region->kind != POSIX || fstat(region->shadow_fd, &found) < 0 || found.st_nlink == 0;
}

void region_sweep(void)
{
    int before = errno;
    for (int i = 0; i < REGIONS; i++)
        if (taken[i] && regions[i].fd >= 0 && !regions[i].segments && outlived(&regions[i]))
            drop(&regions[i]);
    errno = before;
}

__attribute__((destructor)) static void take_names_away(void)
{
    for (int i = 0; i < REGIONS; i++)
        if (taken[i] && regions[i].fd >= 0 && regions[i].maker == getpid())
            store()->unlink(regions[i].name);
}

int region_release(struct segment *segment)
{
    struct region *region = segment->region;
    segment_clear(segment);
    if (--region->segments)
        return 0;
    /* What other processes may still ask for by name stays as long as its maker lives. */
    if (region->maker != getpid() || outlived(region)) {
        drop(region);
        return 0;
    }
    int result = kernel_munmap(region->address, region->window_bytes);
    region->address = NULL;
    return result;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && !strcmp(text + length - wanted, end);
}

/* Unlink names that nobody holds any more, and find the one that ends as asked for; true if there is. */
static bool find(const char *ending, char *name)
{
    bool found = false;
    DIR *folder = opendir(settings()->root);
    struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)))
            continue;
        int fd = open(root_path(entry->d_name).text, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            store()->unlink(entry->d_name);
        } else if (*ending && ends_with(entry->d_name, ending)) {
            snprintf(name, NAME_BYTES, "%s", entry->d_name);
            found = true;
        }
        if (fd >= 0)
            close(fd);
    }
    if (folder)
        closedir(folder);
    return found;
}

static int create(struct region *region, const char *ending, int map_flags, struct outcome *outcome)
{
    if (store()->owned && gettid() != getpid()) {
        fail(outcome, ENOMEM,
             "thread %d asks for it, and a region would die with that thread; it must be asked"
             " for by the main thread",
             (int)gettid());
        return -1;
    }
    int result;
    do {
        if (*ending)
            snprintf(region->name, NAME_BYTES, "%s%d%s", prefix, (int)getpid(), ending);
        else
            snprintf(region->name, NAME_BYTES, "%s%d.%d", prefix, (int)getpid(), ++numbers);
        result = store()->create(region, map_flags, outcome);
        /* The same pid in another pid namespace may have the name. */
    } while (result < 0 && outcome->code == EEXIST && !*ending);
    if (result == 0)
        region->maker = getpid();
    return result;
}

/* The name's ending, and for a POSIX file its size. */
static int identify(const struct request *request, char *ending, struct stat *file, struct outcome *outcome)
{
    ending[0] = 0;
    if (request->kind == SYSV)
        snprintf(ending, 64, ".sysv.%d", request->shmid);
    if (request->kind != POSIX)
        return 0;
    if (fstat(request->fd, file) < 0) {
        fail(outcome, errno, "its file cannot be looked at (%s)", strerror(errno));
        return -1;
    }
    snprintf(ending, 64, ".posix.%llu", (unsigned long long)file->st_ino);
    return 0;
}

/* Why memory that exists already must stay where it is; NULL: nobody has used it yet. */
static const char *used_before(const struct request *request)
{
    struct shmid_ds segment;
    struct stat file;
    if (request->kind == SYSV && kernel_shmctl(request->shmid, IPC_STAT, &segment) == 0 &&
        segment.shm_atime)
        return "it was attached before, without a region or with one whose owner is gone";
    if (request->kind == POSIX && fstat(request->fd, &file) == 0 && file.st_blocks)
        return "its file holds data already";
    return NULL;
}

/* The flags of mmap that say which pages a mapping inside the region has. */
static int page_flags(const struct request *request)
{
    int asked = request->kind == SYSV ? 0 : request->flags & (MAP_NORESERVE | HUGE_FLAGS);
    return settings()->pages == PAGES_HUGETLB ? asked | MAP_HUGETLB : asked;
}

/* The region of a segment: one of this process, one that another made, or a new one. */
static struct region *obtain(const struct request *request, const char *used, struct outcome *outcome)
{
    char ending[64];
    struct stat file = {0};
    if (identify(request, ending, &file, outcome) < 0)
        return NULL;
    char name[NAME_BYTES];
    bool exists = find(ending, name);
    for (int i = 0; exists && i < REGIONS; i++)
        if (taken[i] && !regions[i].segments && !strcmp(regions[i].name, name))
            return &regions[i];
    if (used && !exists)
        return fail(outcome, ENOMEM, "%s", used);
    struct region *region = new_slot(request);
    if (!region)
        return fail(outcome, ENOMEM, "this process has %d regions already, the most there can be", REGIONS);
    region->shmid = request->shmid;
    region->shadow_fd = request->kind == POSIX ? fcntl(request->fd, F_DUPFD_CLOEXEC, 3) : -1;
    region->mapped_bytes = round_up(request->kind == POSIX ? (size_t)file.st_size : request->size,
                                    page_flags(request) & MAP_HUGETLB ? HUGE_PAGE_BYTES : PAGE_BYTES);
    int result;
    if (exists) {
        snprintf(region->name, NAME_BYTES, "%s", name);
        result = store()->open(region, outcome);
        outcome->final = result < 0;
    } else {
        result = create(region, ending, page_flags(request), outcome);
    }
    if (result < 0) {
        drop(region);
        return NULL;
    }
    return region;
}

static void prefault(char *address, size_t size, struct outcome *outcome)
{
    double start = now_seconds();
    touch(address, size, PAGE_BYTES, true);
    outcome->prefault_seconds = now_seconds() - start;
}

static void hand_over(const struct request *request, struct region *region, size_t offset, void *shadow,
                      struct outcome *outcome)
{
    outcome->address = region->address + offset;
    snprintf(outcome->note, sizeof outcome->note, "in region %.120s", region->name);
    region->segments++;
    segment_add(outcome->address, request->size, 0, region, shadow);
}

static void take_own(const struct request *request, const char *used, void *shadow, struct outcome *outcome)
{
    region_sweep();
    int lock = open(settings()->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX) < 0) {
        fail(outcome, ENOMEM,
             "%s cannot be opened (%s); mount it with `mshare mount`, and let this user in",
             settings()->root, strerror(errno));
        return;
    }
    struct region *region = obtain(request, used, outcome);
    close(lock);
    if (!region)
        return;
    bool fresh = region->maker == getpid() && !region->attached_before;
    bool fits = request->offset + request->size <= region->mapped_bytes + PAGE_BYTES - 1;
    if (!fits) {
        fail(outcome, ENOMEM, "it has grown since its region %s of %s was made", region->name,
             size_text(region->mapped_bytes).text);
        outcome->final = true;
    } else if (!region->address && store()->attach(region, request->prot, outcome) < 0) {
        /* Nobody else knows of a fresh one: it may go, and the original call be made. */
        outcome->final = !fresh;
    } else {
        region->attached_before = true;
        if (fresh && settings()->prefault && request->prot & PROT_WRITE)
            prefault(region->address, region->mapped_bytes, outcome);
        hand_over(request, region, request->offset, shadow, outcome);
        return;
    }
    if (!region->segments)
        drop(region);
}

/* The region that MSHARE_PRELOAD_REGION names, locked for this process and the children it will have. */
static struct region *open_existing(const struct request *request, struct outcome *outcome)
{
    struct region *region = new_slot(request);
    if (!region)
        return fail(outcome, ENOMEM, "this process has %d regions already, the most there can be", REGIONS);
    region->kind = ANONYMOUS;
    snprintf(region->name, NAME_BYTES, "%s", settings()->region);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (store()->open(region, outcome) < 0) {
        ;
    } else if (fcntl(region->fd, F_OFD_SETLK, &whole) < 0) {
        fail(outcome, ENOMEM,
             "region %s is in use by another process, or by a child of an earlier one; stop it"
             " first",
             region->name);
    } else if (store()->attach(region, PROT_READ | PROT_WRITE, outcome) == 0) {
        region->placer = getpid();
        return region;
    }
    drop(region);
    return NULL;
}

static void take_existing(const struct request *request, const char *used, void *shadow,
                          struct outcome *outcome)
{
    if (request->kind == POSIX) {
        fail(outcome, ENOMEM,
             "other processes find it by its name, and it cannot be found in an existing region;"
             " leave --region away");
        return;
    }
    if (used) {
        fail(outcome, ENOMEM, "%s", used);
        return;
    }
    struct region *existing = NULL;
    for (int i = 0; !existing && i < REGIONS; i++)
        if (taken[i] && regions[i].placer)
            existing = &regions[i];
    if (!existing && !(existing = open_existing(request, outcome)))
        return;
    if (existing->placer != getpid()) {
        fail(outcome, ENOMEM, "region %s is filled by process %d, of which this is a child", existing->name,
             (int)existing->placer);
        return;
    }
    size_t offset = existing->used_bytes, size = round_up(request->size, HUGE_PAGE_BYTES);
    if (size > existing->mapped_bytes - offset)
        fail(outcome, ENOMEM, "%s are left of the %s in region %s; make it larger",
             size_text(existing->mapped_bytes - offset).text, size_text(existing->mapped_bytes).text,
             existing->name);
    else if (store()->renew(existing, offset, size, page_flags(request), outcome) == 0) {
        existing->used_bytes = offset + size;
        if (settings()->prefault)
            prefault(existing->address + offset, request->size, outcome);
        hand_over(request, existing, offset, shadow, outcome);
    }
    if (!existing->segments)
        drop(existing);
}

void region_take(const struct request *request, struct outcome *outcome)
{
    if (store_prepare(store(), outcome) < 0)
        return;
    if (request->hint) {
        fail(outcome, ENOMEM, "the program wants it at %p, and a region lies where the kernel puts it",
             request->hint);
        return;
    }
    /* Before the shadow is attached, which counts as a use. */
    const char *used = used_before(request);
    void *shadow = NULL;
    if (request->kind == SYSV) {
        shadow = kernel_shmat(request->shmid, NULL, request->flags);
        if (shadow == MAP_FAILED)
            return; /* the original call says why */
    }
    if (settings()->region[0])
        take_existing(request, used, shadow, outcome);
    else
        take_own(request, used, shadow, outcome);
    if (shadow && !outcome->address)
        kernel_shmdt(shadow);
}
