/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files know of each other. The path of a call, downwards only:
 *
 *   mmap.c sysv.c               the interposed calls: is this a segment for us?
 *   take.c                      which way, and what happens when it fails
 *   thp.c hugetlb.c             a stock kernel: the same memory, at a better address, in huge pages
 *   in_region.c                 regions on msharefs:
 *   own.c existing.c region.c   their own, or one that exists, by one of two stores:
 *   kernel.c simulated.c root.c
 *   advice.c io.c               the calls that a mapped file in a region cannot answer
 *   files.c keeper.c            mapped files, in regions that a keeper makes
 *   segments.c memory.c room.c guard.c text.c outcome.c calls.c settings.c report.c
 *
 * client.c is a program of its own, which has memory.c, calls.c and text.c in common with the library.
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
    char region[160];    /* an existing region; empty: the process creates its own */
    size_t region_bytes; /* how much of it may be used, where nobody else tells; 0: its window */
    char huge_directory[4096];
    char files[108]; /* the socket of the keeper of files' regions; empty: mapped files are left alone */
    size_t threshold_bytes;
    bool prefault;
    bool require;
    bool verbose;
    char wrong[200]; /* a sentence, where the environment makes no sense */
};

const struct settings *settings(void);

/* report.c: one line on stderr, written in one piece. */

void report(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct size_text {
    char text[32];
};
struct size_text size_text(size_t bytes);

/* calls.c: the calls that are interposed, as the kernel has them. */

void *kernel_mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset);
int kernel_munmap(void *address, size_t size);
void *kernel_mremap(void *address, size_t size, size_t new_size, int flags, void *target);
ssize_t kernel_read(int fd, void *buffer, size_t size);
ssize_t kernel_write(int fd, const void *buffer, size_t size);
ssize_t kernel_pwrite(int fd, const void *buffer, size_t size, off_t offset);
int kernel_mprotect(void *address, size_t size, int prot);
int kernel_madvise(void *address, size_t size, int advice);
int kernel_msync(void *address, size_t size, int flags);
int kernel_mincore(void *address, size_t size, unsigned char *pages);
int kernel_shmget(int key, size_t size, int flags);
void *kernel_shmat(int id, const void *address, int flags);
int kernel_shmdt(const void *address);
struct shmid_ds;
int kernel_shmctl(int id, int command, struct shmid_ds *buffer);

/* guard.c: run a step on a stack of our own, alone, with signals blocked; see there what it must not do. */

void guarded(void (*step)(void *), void *argument);

/* text.c: reading small files. */

struct text {
    int fd;
    size_t at, end;
    char bytes[4096];
};

bool text_open(struct text *text, const char *path);
/* The next line, cut where it is too long; false at the end. */
bool text_line(struct text *text, char *line, size_t size);
void text_close(struct text *text);
/* The number behind a key at the beginning of a line. */
bool text_number(const char *path, const char *key, size_t *number);

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
    /* Not to be taken over, but it must not get other memory than others have: */
    bool special; /* for what the program wants */
    bool small;   /* a part may be mapped of what is in a region as a whole */
};

struct outcome {
    char *address;       /* NULL: it failed */
    size_t mapped_bytes; /* what is mapped there, where that is not the segment's size */
    size_t fill_bytes;   /* how much from there is to be filled with pages */
    int fill_error;      /* errno of what ended the filling early */
    int collapse_error;  /* thp: errno of MADV_COLLAPSE */
    bool taken;          /* it has what it was taken over for */
    char why[512];       /* why it failed, or fell short */
    int code;            /* errno for a caller who must not get the original call */
    bool final; /* the original call would give other memory than others have: it must not be made */
    double prefault_seconds;
    char note[200]; /* for the verbose line */
};

/* Always NULL, after writing down why and errno. */
void *fail(struct outcome *outcome, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* strerror, for a signal handler too. */
const char *reason(int code);

/* room.c: whether a limit leaves room; false after fail(). */

bool memory_room(size_t size, struct outcome *outcome);
bool huge_page_room(size_t size, struct outcome *outcome);
bool file_size_room(size_t size, struct outcome *outcome);
bool tmpfs_room(const char *directory, size_t size, struct outcome *outcome);

/* memory.c: addresses and pages. */

enum { CHUNK_BYTES = 256 << 20 }; /* filled in one system call: for so long a signal waits */

size_t round_up(size_t value, size_t multiple);
size_t smaller(size_t size, size_t other);
/* Address space of a size, nothing in it yet, at an address congruent to `offset`; NULL: none left. */
void *reserve(size_t size, size_t alignment, size_t offset);
/* A SysV segment where the program wants it, else at a multiple of `alignment`; MAP_FAILED with errno. */
void *attach(const struct request *request, size_t alignment);
/* A write that changes nothing to a byte in each page, so that others may work there meanwhile. */
void touch(char *address, size_t size, bool writable);
/* Pages for the first `length` bytes of each `step`, without a SIGBUS where there are none: 0 or errno. */
int populate(char *address, size_t size, size_t step, size_t length, bool writable);
/* How much of a mapping of an object has no memory yet. */
size_t absent_bytes(char *address, size_t size);
/* What smaps tells of the mapping that begins at an address. */
struct page_use {
    size_t page_bytes, huge_bytes;
};
struct page_use pages_at(const void *address);
/* Whether the file mapped at an address has lost its last name. */
bool is_nameless(const void *address);
double now_seconds(void);

/* segments.c: the segments that lie in regions, by address. */

struct region;

enum { SEGMENTS = 128 };

struct segment {
    char *address; /* NULL: this slot is free */
    size_t size;
    struct region *region;
    void *shadow; /* SysV: where the real segment is attached, for its nattch */
};

extern struct segment segments[SEGMENTS];

bool segment_left(struct outcome *outcome);
void segment_add(void *address, size_t size, struct region *region, void *shadow);
struct segment *segment_at(const void *address);

/* region.c: the regions of this process. No descriptor of a region stays open: a mapping keeps the file open
 * as well, and the locks on it, and no program can close or reuse its number. */

enum { NAME_BYTES = 160, REGIONS = 32 };

struct region {
    bool taken; /* false: this slot is free */
    char name[NAME_BYTES];
    dev_t device; /* with the inode: which file the name stood for */
    ino_t inode;
    size_t window_bytes; /* address space */
    size_t mapped_bytes; /* memory, from offset 0 */
    char *address;       /* of the window in this process; NULL: not attached */
    void *hold;          /* what keeps the file open while it is not */
    int segments;        /* of this process in it */
    pid_t maker;         /* the process that made it, and takes its name away; 0: not ours */
    enum kind kind;
    int shmid;         /* SYSV */
    void *object_hold; /* POSIX: keeps the file open whose memory it is, so that no other gets its inode */
    /* Existing regions: */
    pid_t placer;      /* the process that may place segments in it; 0: this one joined */
    size_t used_bytes; /* where the next segment goes */
    off_t generation;  /* the byte that the users of one placer's segments hold locked */
    int ids[SEGMENTS]; /* SysV segments in it */
    int id_count;
};

/* The flags of mmap that choose the pages. */
#define HUGE_FLAGS (MAP_HUGETLB | (int)(0x3fU << 26))

extern struct region regions[REGIONS];

struct store *region_store(void);
struct region *region_new(enum kind kind, struct outcome *outcome);
/* Attach its window, if it is not: 0, or -1 after fail(). */
int region_attach(struct region *region, int fd, int prot, struct outcome *outcome);
/* Keep its file, and the locks on it, without a window. */
bool region_hold(struct region *region, int fd);
void region_drop(struct region *region);
void region_drop_unused(struct region *region);
int region_page_flags(const struct request *request);
void region_hand_over(const struct request *request, struct region *region, size_t offset, void *shadow,
                      struct outcome *outcome);
/* Whether a range of addresses reaches into a window. */
bool region_overlaps(const void *address, size_t size);
/* munmap of a range that does: segments go as a whole or not at all. */
int region_unmap(void *address, size_t size);
/* The same, as a guarded step of its own. */
int region_unmap_guarded(void *address, size_t size);
/* The program is done with a segment: 0, or -1 with errno as munmap. */
int region_release(struct segment *segment);
/* Give back what was taken over. */
void let_go(const struct request *request, struct outcome *outcome);
/* Let go of regions whose SysV segment or POSIX file is gone. */
void region_sweep(void);

/* own.c existing.c: `used` says why memory that exists already must stay where it is; NULL: it need not. */
void region_take_own(const struct request *request, const char *used, void *shadow,
                     struct outcome *outcome);
void region_take_existing(const struct request *request, const char *used, void *shadow,
                          struct outcome *outcome);
/* Whether a segment has a region that a process made for it. */
bool region_has_own(const struct request *request);
/* Whether a SysV segment lies in an existing region; a mark in its own memory says so. */
bool region_is_marked(const void *shadow);

/* keeper.c: the process that makes the regions of files, one for each part of a file that is mapped. */

struct kept {
    int fd; /* of the region, open for this process alone; the caller's to close */
    size_t window_bytes, alignment_bytes;
    char name[NAME_BYTES];
};

/* The region for a part of a file, which is open for what `writable` asks; false after fail(). */
bool keeper_ask(int fd, off_t offset, size_t size, bool writable, struct kept *kept,
                struct outcome *outcome);

/* files.c: mapped files. Each has a twin: the kernel's own mapping of the same, never touched, which takes the
 * place of the window, at its address, as soon as the program does what a window cannot. */

/* mmap of a file. MAP_FAILED with errno where the kernel refuses it. */
void *files_map(const struct request *request);
/* Make the kernel's own what a range reaches into, for a call that `call` names; NULL: unmapping, which
 * nobody needs to be told. 0, or -1 with errno. */
int files_give_back(uintptr_t address, size_t size, const char *call);
/* Everything, and nothing is put into a region any more. */
int files_give_back_all(const char *call);
/* Whether a range reaches into a window. */
bool files_overlap(uintptr_t address, size_t size);
/* Whether there are any. */
bool files_any(void);
/* The place in the twin, for a range within one mapped file; NULL: it is not. */
void *files_twin(const void *address, size_t size);

/* thp.c hugetlb.c in_region.c: the ways. `place` finds a place and fills outcome->address; `fill`, outside the
 * guard, gives it pages; `check` examines the outcome. The latter two may be NULL. */

struct way {
    const char *name;
    void (*place)(const struct request *request, struct outcome *outcome);
    void (*fill)(const struct request *request, struct outcome *outcome);
    void (*check)(const struct request *request, struct outcome *outcome);
};

extern const struct way thp_way, hugetlb_way, region_way;

int hugetlb_shmget(int key, size_t size, int flags);

/* take.c */

/* Take a segment over; MAP_FAILED with errno where it is refused, NULL where the original is to be called. */
void *take(const struct request *request);

/* A store: where regions live. int results: -1 after fail(). */
struct store {
    const char *name;
    bool owned;        /* set by prepare: a region dies with the thread that made it */
    bool protects;     /* a window that is attached read-only is */
    bool holds_window; /* only a whole window can be mapped */
    int (*prepare)(struct store *store, struct outcome *outcome);
    /* Make region->name with `mapped_bytes`: its descriptor; EEXIST is left in outcome->code. */
    int (*create)(struct region *region, int map_flags, struct outcome *outcome);
    /* Its descriptor, which is the caller's to close. */
    int (*open)(struct region *region, struct outcome *outcome);
    int (*attach)(struct region *region, int fd, int prot, struct outcome *outcome);
    /* Free all that an existing region holds. */
    int (*clear)(struct region *region, int fd, struct outcome *outcome);
    /* Fresh zeroes in a range of an existing region that was cleared. */
    int (*renew)(struct region *region, int fd, size_t offset, size_t size, int map_flags,
                 struct outcome *outcome);
    void (*unlink)(const char *name);
    size_t alignment_bytes;
};

/* root.c: what both stores have in common. */

extern struct store kernel_store, simulated_store;
int store_prepare(struct store *store, struct outcome *outcome);
/* Open the file of region->name, whose size is the window's. */
int store_open(struct region *region, struct outcome *outcome);
/* A file that the preload opens, never on stdin, stdout or stderr; -1 with errno. */
int open_file(const char *path, int flags);
/* The same for a region's file or its sidecar, by its name below the root; no part of it may be a link. */
int open_below_root(const char *name, int flags);
/* Exclusively, but without waiting for ever; false after fail(), which names the holder. */
bool lock_or_fail(int fd, const char *path, struct outcome *outcome);
/* A lock is let go before the file is closed: a child that was forked meanwhile has it as well. */
void unlock_and_close(int fd);
/* Call for each name in the root; a visitor that answers true ends it. */
void each_name(bool (*visit)(const char *name, void *argument), void *argument);
/* ROOT/name in a buffer. */
struct path {
    char text[4352];
};
struct path root_path(const char *name);

#endif
