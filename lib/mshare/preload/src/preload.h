/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files know of each other. The path of a call, downwards only:
 *
 *   mmap.c sysv.c               the interposed calls: is this a segment for us?
 *   take.c                      which way, and what happens when it fails
 *   thp.c hugetlb.c             a stock kernel: the same memory, at a better address, in huge pages
 *   own.c existing.c region.c   regions on msharefs, by one of two stores:
 *   kernel.c simulated.c root.c
 *   segments.c memory.c outcome.c calls.c settings.c say.c
 */
#ifndef MSHARE_PRELOAD_H
#define MSHARE_PRELOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi.h"

/* settings.c: the environment. */

enum pages { PAGES_4K, PAGES_THP, PAGES_HUGETLB };
enum backend { BACKEND_NONE, BACKEND_KERNEL, BACKEND_SIMULATED };

struct settings {
    enum pages pages;
    enum backend backend; /* BACKEND_NONE: a stock kernel, no region */
    char root[4096];
    char region[160];    /* an existing one; empty: whoever asks makes its own */
    size_t region_bytes; /* how much of it may be used, where nobody else tells; 0: its window */
    char huge_directory[4096];
    size_t threshold_bytes;
    bool prefault;
    bool require;
    bool verbose;
    char wrong[200]; /* a sentence, where the environment makes no sense */
};

const struct settings *settings(void);

/* say.c: one line on stderr, written in one piece. */

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct size_text {
    char text[32];
};
struct size_text size_text(size_t bytes);

/* calls.c: the calls that are interposed, as the kernel has them. */

void *kernel_mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset);
int kernel_munmap(void *address, size_t size);
int kernel_shmget(int key, size_t size, int flags);
void *kernel_shmat(int id, const void *address, int flags);
int kernel_shmdt(const void *address);
struct shmid_ds;
int kernel_shmctl(int id, int command, struct shmid_ds *buffer);

/* outcome.c: what is asked for, and what came of it. */

enum kind { ANONYMOUS, SYSV, POSIX };

struct request {
    enum kind kind;
    size_t size;
    int prot;
    int flags; /* mmap's; for SysV shmat's */
    int fd;    /* POSIX */
    off_t offset;
    int shmid; /* SYSV */
    const void *hint;
};

struct outcome {
    void *address; /* NULL: it failed */
    char why[512]; /* why it failed, or fell short */
    int code;      /* errno for a caller who must not get the original call */
    bool final;    /* the original call would give other memory than others have: it must not be made */
    double prefault_seconds;
    char note[200]; /* for the verbose line */
};

/* Always NULL, after writing down why and errno. */
void *fail(struct outcome *outcome, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* memory.c: addresses and pages. */

size_t round_up(size_t value, size_t multiple);
/* Address space of a size, nothing in it yet, at an address congruent to `offset`; NULL: none left. */
void *reserve(size_t size, size_t alignment, size_t offset);
/* A write that changes nothing to a byte in each `step`, so that others may work there meanwhile. */
void touch(char *address, size_t size, size_t step, bool writable);
/* How much of the mapping that begins at an address is mapped by huge entries, by smaps. */
size_t huge_bytes(const void *address);
/* Whether so much can be prefaulted without the OOM killer; false after fail(). */
bool can_prefault(size_t size, struct outcome *outcome);
double now_seconds(void);
/* The object itself (not a region) at an address that was reserved; MAP_FAILED with errno. */
void *place(const struct request *request, void *at, size_t size, int more_flags, int fd);

/* take.c */

/* Take a segment over; MAP_FAILED with errno where it is refused, NULL where the original is to be called. */
void *take(const struct request *request);

/* segments.c: what was taken over, by address. */

struct region;

struct segment {
    _Atomic uintptr_t address; /* 0: free, 1: being written */
    size_t size;               /* what was asked for */
    size_t whole;              /* what is mapped; 0: the region's window */
    struct region *region;
    void *shadow; /* SysV: where the real segment is attached, for its nattch */
};

bool segment_add(void *address, size_t size, size_t whole, struct region *region, void *shadow);
struct segment *segment_at(const void *address);
void segment_clear(struct segment *segment);

/* thp.c hugetlb.c: a stock kernel's ways. They fill outcome->address. */

void thp_take(const struct request *request, struct outcome *outcome);
void hugetlb_take(const struct request *request, struct outcome *outcome);
int hugetlb_shmget(int key, size_t size, int flags);

/* region.c: segments in regions. */

enum { NAME_BYTES = 160, REGIONS = 32 };

struct region {
    _Atomic int taken; /* 0: this slot is free */
    char name[NAME_BYTES];
    int fd;               /* of its file */
    size_t window_bytes;  /* address space */
    size_t mapped_bytes;  /* memory, from offset 0 */
    char *address;        /* of the window in this process; NULL: not attached */
    int segments;         /* of this process in it */
    size_t used_bytes;    /* existing regions: where the next segment goes */
    pid_t maker;          /* the process that made it, and takes its name away; 0: not ours */
    pid_t placer;         /* the process that may place segments in an existing region */
    bool attached_before; /* it may hold data */
    enum kind kind;
    int shmid;     /* SYSV */
    int shadow_fd; /* POSIX: the file whose memory it is */
};

/* Of mmap's flags what says which pages. */
#define HUGE_FLAGS (MAP_HUGETLB | 0x3f << 26)

extern struct region regions[REGIONS];

struct store *region_store(void);
struct region *region_new(const struct request *request);
void region_drop(struct region *region);
int region_page_flags(const struct request *request);
void region_prefault(char *address, size_t size, struct outcome *outcome);
void region_hand_over(const struct request *request, struct region *region, size_t offset, void *shadow,
                      struct outcome *outcome);
/* The program is done with a segment: 0, or -1 with errno as munmap. */
int region_release(struct segment *segment);
/* munmap, of a segment and of anything else. */
int unmap(void *address, size_t size);
/* Let go of regions whose SysV segment or POSIX file is gone. */
void region_sweep(void);

/* own.c existing.c: `used` says why memory that exists already must stay where it is; NULL: it need not. */
void region_take_own(const struct request *request, const char *used, void *shadow,
                     struct outcome *outcome);
void region_take_existing(const struct request *request, const char *used, void *shadow,
                          struct outcome *outcome);

/* A store: where regions live. int results: 0, or -1 after fail(). */
struct store {
    const char *name;
    bool owned; /* set by prepare: a region dies with the thread that made it */
    int (*prepare)(struct store *store, struct outcome *outcome);
    /* Make region->name with `mapped_bytes`; EEXIST is left in outcome->code. */
    int (*create)(struct region *region, int map_flags, struct outcome *outcome);
    int (*open)(struct region *region, struct outcome *outcome);
    int (*attach)(struct region *region, int prot, struct outcome *outcome);
    /* Free all that an existing region holds. */
    int (*clear)(struct region *region, struct outcome *outcome);
    /* Fresh zeroes in a range of an existing region that was cleared. */
    int (*renew)(struct region *region, size_t offset, size_t size, int map_flags, struct outcome *outcome);
    void (*unlink)(const char *name);
    size_t alignment_bytes;
};

extern struct store kernel_store, simulated_store;
int store_prepare(struct store *store, struct outcome *outcome);
/* Open the file of region->name, whose size is the window's. */
int store_open(struct region *region, struct outcome *outcome);
/* ROOT/name in a buffer. */
struct path {
    char text[4352];
};
struct path root_path(const char *name);

#endif
