/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * By default a process creates its own region, which lives and dies with it: preload.PID.NUMBER, or
 * preload.PID.sysv.ID and preload.PID.posix.INODE, under which other processes find the region of a SysV
 * segment and of a POSIX file.
 *
 * A process with a mapped region holds a shared lock on its file, and so do the children forked from it: a
 * name that can be locked exclusively was left behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

enum { ENDING_BYTES = 64 };

static const char prefix[] = "preload.";

static int numbers;

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && !strcmp(text + length - wanted, end);
}

struct search {
    const char *ending;
    bool peek_only; /* without the root's lock a name may be of a region that is just being made */
    char name[NAME_BYTES];
};

/* Unlink a name that nobody holds any more; true if it was one. */
static bool clear_away(const char *name)
{
    int fd = open_file(root_path(name).text, O_RDWR);
    bool left_behind = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (left_behind)
        region_store()->unlink(name);
    if (fd >= 0)
        unlock_and_close(fd);
    return left_behind;
}

/* True for the name that ends as asked for. */
static bool visit(const char *name, void *argument)
{
    struct search *search = argument;
    if (strncmp(name, prefix, strlen(prefix)) || strlen(name) >= NAME_BYTES ||
        (!search->peek_only && clear_away(name)) || !*search->ending || !ends_with(name, search->ending))
        return false;
    snprintf(search->name, NAME_BYTES, "%s", name);
    return true;
}

/* The name's ending, and for a POSIX file its size. */
static int identify(const struct request *request, char *ending, struct stat *file, struct outcome *outcome)
{
    ending[0] = 0;
    if (request->kind == SYSV)
        snprintf(ending, ENDING_BYTES, ".sysv.%d", request->shmid);
    if (request->kind != POSIX)
        return 0;
    if (fstat(request->fd, file) < 0) {
        fail(outcome, errno, "its file cannot be examined (%s)", reason(errno));
        return -1;
    }
    snprintf(ending, ENDING_BYTES, ".posix.%llu", (unsigned long long)file->st_ino);
    return 0;
}

bool region_has_own(const struct request *request)
{
    char ending[ENDING_BYTES];
    struct stat file;
    struct outcome ignored = {0};
    struct search search = {.ending = ending, .peek_only = true};
    if (identify(request, ending, &file, &ignored) == 0)
        each_name(visit, &search);
    return search.name[0];
}

/* A page of memory, so that everybody sees that the file is used without a region. */
static void keep_out(const struct request *request)
{
    if (request->kind == POSIX)
        fallocate(request->fd, FALLOC_FL_KEEP_SIZE, 0, 1);
}

/* Keep the file whose memory the region is: as long as it is open, no other file gets its inode. */
static void hold_object(struct region *region, const struct request *request)
{
    void *held = request->kind == POSIX
                     ? kernel_mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_SHARED, request->fd, 0)
                     : MAP_FAILED;
    region->object_hold = held == MAP_FAILED ? NULL : held;
}

/* A process that creates a region under a segment's name can read what others write into it. */
static int check_user(const struct region *region, int fd, struct outcome *outcome)
{
    struct stat file;
    if (fstat(fd, &file) == 0 && file.st_uid == geteuid())
        return 0;
    fail(outcome, EACCES, "region %s belongs to another user; processes of one user share a segment",
         region->name);
    return -1;
}

static int check_wish(const struct request *request, const struct region *region, struct outcome *outcome)
{
    if (request->offset + request->size > round_up(region->mapped_bytes, PAGE_BYTES))
        fail(outcome, ENOMEM, "it has grown since its region %s of %s was made", region->name,
             size_text(region->mapped_bytes).text);
    else if (request->special || request->hint)
        fail(outcome, ENOMEM,
             "it is in region %s, which cannot be mapped at an address or in a way that the"
             " program fixes",
             region->name);
    else if (!(request->prot & PROT_WRITE) && !region_store()->protects)
        fail(outcome, EACCES, "it is in region %s, where the kernel cannot protect it from this program",
             region->name);
    else
        return 0;
    return -1;
}

/* A region of this process, or NULL: one whose window is attached gets a second one. */
static struct region *without_window(const char *name)
{
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && !regions[i].address && !strcmp(regions[i].name, name))
            return &regions[i];
    return NULL;
}

/* Other memory than that of the region would be wrong from here on. */
static void join(const struct request *request, const char *name, size_t bytes, void *shadow,
                 struct outcome *outcome)
{
    outcome->final = true;
    struct region *region = without_window(name);
    bool new = !region;
    if (new && !(region = region_new(request->kind, outcome)))
        return;
    if (new) {
        snprintf(region->name, NAME_BYTES, "%s", name);
        region->shmid = request->shmid;
        region->mapped_bytes = bytes;
        hold_object(region, request);
    }
    int fd = region_store()->open(region, outcome);
    if (fd >= 0 && check_user(region, fd, outcome) == 0 && check_wish(request, region, outcome) == 0 &&
        region_attach(region, fd, request->prot, outcome) == 0)
        region_hand_over(request, region, request->offset, shadow, outcome);
    if (fd >= 0)
        close(fd);
    if (new)
        region_drop_unused(region);
}

static int create(struct region *region, const char *ending, int map_flags, struct outcome *outcome)
{
    if (region_store()->owned && gettid() != getpid()) {
        fail(outcome, ENOMEM,
             "thread %d asks for it, and a region would die with that thread; it must be asked"
             " for by the main thread",
             (int)gettid());
        return -1;
    }
    int fd;
    do {
        outcome->why[0] = 0;
        if (*ending)
            snprintf(region->name, NAME_BYTES, "%s%d%s", prefix, (int)getpid(), ending);
        else
            snprintf(region->name, NAME_BYTES, "%s%d.%d", prefix, (int)getpid(), ++numbers);
        fd = region_store()->create(region, map_flags, outcome);
        /* The same pid in another pid namespace may have the name. */
    } while (fd < 0 && outcome->code == EEXIST && !*ending);
    if (fd >= 0)
        region->maker = getpid();
    return fd;
}

static void make(const struct request *request, const char *ending, size_t bytes, void *shadow,
                 struct outcome *outcome)
{
    struct region *region = region_new(request->kind, outcome);
    if (!region)
        return;
    int flags = region_page_flags(request);
    region->shmid = request->shmid;
    region->mapped_bytes = round_up(bytes, flags & MAP_HUGETLB ? HUGE_PAGE_BYTES : PAGE_BYTES);
    hold_object(region, request);
    int fd = -1;
    if (!settings()->prefault || memory_room(region->mapped_bytes, outcome))
        fd = create(region, ending, flags, outcome);
    if (fd >= 0 && region_attach(region, fd, request->prot, outcome) == 0) {
        region_hand_over(request, region, 0, shadow, outcome);
        if (settings()->prefault && request->prot & PROT_WRITE)
            outcome->fill_bytes = request->size;
    }
    if (fd >= 0)
        close(fd);
    region_drop_unused(region);
}

/* Why a segment that nobody has used yet cannot become a region; false after fail(). */
static bool may_make(const struct request *request, const char *used, const struct stat *file,
                     struct outcome *outcome)
{
    if (used)
        fail(outcome, ENOMEM, "%s", used);
    else if (request->hint)
        fail(outcome, ENOMEM, "the program wants it at %p, and a region lies where the kernel puts it",
             request->hint);
    else if (request->kind == POSIX && (request->offset || round_up(request->size, PAGE_BYTES) !=
                                                               round_up(file->st_size, PAGE_BYTES)))
        fail(outcome, ENOMEM, "the mapping is not exactly its file, which has %s now",
             size_text(file->st_size).text);
    else if (!(request->prot & PROT_WRITE) && !region_store()->protects)
        fail(outcome, ENOMEM, "it may only be read, and a region can be written");
    else
        return true;
    return false;
}

void region_take_own(const struct request *request, const char *used, void *shadow, struct outcome *outcome)
{
    char ending[ENDING_BYTES];
    struct stat file = {0};
    if (identify(request, ending, &file, outcome) < 0)
        return;
    struct search search = {.ending = ending};
    size_t bytes = request->kind == POSIX ? (size_t)file.st_size : request->size;
    each_name(visit, &search);
    if (search.name[0])
        join(request, search.name, bytes, shadow, outcome);
    else if (!request->special && !request->small && may_make(request, used, &file, outcome))
        make(request, ending, bytes, shadow, outcome);
    if (!outcome->address && !outcome->final)
        keep_out(request);
}
