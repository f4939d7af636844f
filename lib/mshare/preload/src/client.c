/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A program of its own, mshare-client, in as little memory as possible. Each opens and maps a region by itself.
 * As a client it verifies and touches the region, reports once, and stays until its launcher ends it. Or it
 * fills the region (touches it, or writes the owner's pattern), reports how far it is, and ends.
 *
 * Who starts it says by a file that cannot change, on descriptor PLAN_FD, what there is to map and to touch
 * (lib/mshare/preload/client.py has the same structures): who reads a region's record, which others may write
 * to, is the library alone. To a client a change comes as a new file in the place of the first one, announced
 * by SIGUSR2; SIGUSR1 asks for one more touch, by which a client finds out that its region is gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { PLAN_FD = 3, REPORT_FD = 4, PLAN_VERSION = 2, PAGES_AT_ONCE = 512, SALT_MODULUS = 251 };
enum { PROGRESS_NS = 100000000 };
enum { LOCK_TRIES = 50, LOCK_STEP_MICROSECONDS = 20000 };

/* How a generation of the kernel's interface tells a region's window. */
enum lookup { BY_FILE_SIZE, BY_IOCTL, BY_READ };

/* What it is for. */
enum task { BE_CLIENT, TOUCH, WRITE_PATTERN };

/* How far it is, or what failed, of which the library makes a sentence. */
enum stage { DONE, PLAN, OPEN, OTHER_FILE, WINDOW, ATTACH, OBJECT, FILLING, FAULT };

struct plan {
    uint64_t version;
    uint64_t task;
    uint64_t launcher_pid;
    uint64_t plan_fd; /* of the launcher: the newest plan */
    uint64_t kernel;  /* 0: the simulated store */
    uint64_t lookup;
    uint64_t dead; /* the region has ended */
    uint64_t device, inode;
    uint64_t window_bytes;
    uint64_t address; /* 0: any */
    uint64_t alignment_bytes;
    uint64_t stride_bytes;
    uint64_t pattern_offset, pattern_bytes, pattern_stride_bytes, pattern_salt;
    uint64_t again_offset; /* what SIGUSR1 touches; UINT64_MAX: nothing */
    uint64_t range_count, piece_count;
    char path[4096];
    /* struct range ranges[range_count]; struct piece pieces[piece_count]; */
};

/* What to touch. */
struct range {
    uint64_t offset, size;
};

/* What the simulated window consists of. */
struct piece {
    uint64_t serial; /* tells a new object from the one it replaced */
    uint64_t offset, size, object_offset;
    int64_t fd; /* of the launcher; -1: the region's own file */
    uint32_t prot, refused /* errno */;
};

/* Short enough (PIPE_BUF) to be written to a shared pipe in one piece. */
struct report {
    uint32_t pid, number, stage, error; /* errno; of a fault, the signal */
    uint64_t attach_ns, touch_ns;
    uint64_t vm_pte_before_bytes, vm_pte_after_bytes;
    uint64_t verified_pages, wrong_pages;
    uint64_t filled_bytes;
    uint64_t fault_offset;
};

static struct report result;
static const struct plan *plan;
static size_t plan_bytes;
static int region_fd = -1;
static char *window;
static sigset_t awaited;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static uint64_t vm_pte_bytes(void)
{
    size_t kib = 0;
    text_number("/proc/self/status", "VmPTE:", &kib);
    return kib << 10;
}

static void send_report(void)
{
    /* Nobody to read it: the launcher has ended, and so does this process. */
    while (write(REPORT_FD, &result, sizeof result) < 0)
        if (errno != EINTR)
            _exit(1);
}

static void fail_at(enum stage stage, int error)
{
    result.stage = stage;
    result.error = error;
    send_report();
    _exit(1);
}

/* The plan behind a descriptor, or NULL. */
static const struct plan *read_plan(int fd, size_t *bytes)
{
    struct stat file;
    if (fstat(fd, &file) < 0 || file.st_size < (off_t)sizeof(struct plan))
        return NULL;
    *bytes = file.st_size;
    const struct plan *read = mmap(NULL, *bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (read == MAP_FAILED)
        return NULL;
    size_t needed = sizeof *read;
    if (read->version == PLAN_VERSION)
        needed += read->range_count * sizeof(struct range) + read->piece_count * sizeof(struct piece);
    if (read->version == PLAN_VERSION && needed == *bytes)
        return read;
    munmap((void *)read, *bytes);
    return NULL;
}

static const struct range *ranges_of(const struct plan *of) { return (const void *)(of + 1); }

static const struct piece *pieces_of(const struct plan *of)
{
    return (const void *)(ranges_of(of) + of->range_count);
}

/* A hole in a simulated region: a touch is SIGSEGV, as in one of a kernel's. */
static void blank(uint64_t offset, uint64_t size)
{
    kernel_mmap(window + offset, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                0);
}

/* 0 or errno. */
static int map_piece(const struct piece *piece)
{
    if (piece->refused)
        return piece->refused;
    int fd = region_fd;
    if (piece->fd >= 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)plan->launcher_pid, (int)piece->fd);
        fd = open(path, (piece->prot & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
        if (fd < 0)
            return errno;
    }
    void *mapped = kernel_mmap(window + piece->offset, piece->size, piece->prot, MAP_SHARED | MAP_FIXED, fd,
                               piece->object_offset);
    int error = mapped == MAP_FAILED ? errno : 0;
    if (fd != region_fd)
        close(fd);
    return error;
}

static bool has(const struct plan *of, const struct piece *piece)
{
    const struct piece *pieces = pieces_of(of);
    for (uint64_t i = 0; i < of->piece_count; i++)
        if (pieces[i].serial == piece->serial && pieces[i].offset == piece->offset &&
            pieces[i].size == piece->size && !pieces[i].refused == !piece->refused)
            return true;
    return false;
}

/* Free a dead region's memory, as a kernel does, if nobody has it mapped: each window holds a shared lock on
 * the file, so the last to leave finds it free. */
static void bury(void)
{
    if (flock(region_fd, LOCK_EX | LOCK_NB) == 0 && ftruncate(region_fd, 0) < 0)
        errno = 0;
    flock(region_fd, LOCK_UN);
}

/* From the window of one plan to that of the next: errno of the first object that cannot be mapped. */
static int follow(const struct plan *before)
{
    if (plan->dead) {
        blank(0, plan->window_bytes);
        bury();
        return 0;
    }
    int first = 0;
    for (uint64_t i = 0; before && i < before->piece_count; i++)
        if (!has(plan, &pieces_of(before)[i]))
            blank(pieces_of(before)[i].offset, pieces_of(before)[i].size);
    for (uint64_t i = 0; i < plan->piece_count; i++) {
        const struct piece *piece = &pieces_of(plan)[i];
        int error = before && has(before, piece) ? 0 : map_piece(piece);
        if (error) {
            blank(piece->offset, piece->size);
            first = first ? first : error;
        }
    }
    return first;
}

static void take_newest_plan(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)plan->launcher_pid, (int)plan->plan_fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t bytes;
    const struct plan *newest = fd < 0 ? NULL : read_plan(fd, &bytes), *before = plan;
    if (fd >= 0)
        close(fd);
    if (!newest)
        return;
    size_t before_bytes = plan_bytes;
    plan = newest;
    plan_bytes = bytes;
    if (!plan->kernel)
        follow(before);
    munmap((void *)before, before_bytes);
}

static void touch_page(uint64_t offset) { (void)*(volatile char *)(window + offset); }

static void on_signal(int number)
{
    take_newest_plan();
    if (number == SIGUSR1 && plan->again_offset != UINT64_MAX)
        touch_page(plan->again_offset);
}

/* The window as this process finds it in the file that it opened; 0: it cannot be asked. */
static uint64_t window_bytes(const struct stat *file)
{
    struct mshare_info info = {0};
    switch ((enum lookup)plan->lookup) {
    case BY_FILE_SIZE:
        return file->st_size;
    case BY_IOCTL:
        return ioctl(region_fd, GET_SIZE, &info) < 0 ? 0 : info.size;
    case BY_READ:
        return read(region_fd, &info, sizeof info) == sizeof info ? info.size : 0;
    }
    return 0;
}

static void open_region(void)
{
    struct stat file;
    region_fd = open(plan->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (region_fd < 0 || fstat(region_fd, &file) < 0)
        fail_at(OPEN, errno);
    if (!S_ISREG(file.st_mode) || file.st_dev != plan->device || file.st_ino != plan->inode)
        fail_at(OTHER_FILE, ESTALE);
    if (plan->dead || window_bytes(&file) != plan->window_bytes)
        fail_at(WINDOW, EINVAL);
    for (int i = 0; !plan->kernel && i < LOCK_TRIES && flock(region_fd, LOCK_SH | LOCK_NB) < 0; i++)
        usleep(LOCK_STEP_MICROSECONDS);
}

static void *at_fixed_address(int prot, int flags, int fd)
{
    void *wanted = (void *)plan->address;
    void *at = kernel_mmap(wanted, plan->window_bytes, prot, flags | MAP_FIXED_NOREPLACE, fd, 0);
    /* Linux before 4.17 takes the address for a hint. */
    if (at != MAP_FAILED && at != wanted)
        errno = EEXIST;
    return at == wanted ? at : NULL;
}

static void attach_region(void)
{
    if (plan->kernel) {
        int prot = PROT_READ | PROT_WRITE;
        if (plan->address)
            window = at_fixed_address(prot, MAP_SHARED, region_fd);
        else
            window = kernel_mmap(NULL, plan->window_bytes, prot, MAP_SHARED, region_fd, 0);
        if (!window || window == MAP_FAILED)
            fail_at(ATTACH, errno);
        /* What reads a page of it that is not there, as gcore does, makes the kernel warn. */
        madvise(window, plan->window_bytes, MADV_DONTDUMP);
        close(region_fd);
        return;
    }
    if (plan->address)
        window = at_fixed_address(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    else
        window = reserve(plan->window_bytes, plan->alignment_bytes, 0);
    if (!window)
        fail_at(ATTACH, errno);
    int error = follow(NULL);
    if (error)
        fail_at(OBJECT, error);
}

/* While it touches for long, a client must not miss that the region has changed. */
static void look_about(void)
{
    static const struct timespec at_once = {0};
    int number;
    while ((number = sigtimedwait(&awaited, NULL, &at_once)) > 0)
        on_signal(number);
}

static void verify(void)
{
    uint64_t offset = plan->pattern_offset, stride = plan->pattern_stride_bytes, page = 0;
    uint64_t end = offset + plan->pattern_bytes, salt = plan->pattern_salt;
    for (; offset < end; offset += stride, page++) {
        if (page % PAGES_AT_ONCE == 0)
            look_about();
        if (*(volatile unsigned char *)(window + offset) != (salt + page) % SALT_MODULUS)
            result.wrong_pages++;
    }
    result.verified_pages = page;
}

static void touch_range(struct range range, uint64_t stride)
{
    uint64_t page = 0;
    for (uint64_t at = 0; at < range.size; at += stride, page++) {
        if (page % PAGES_AT_ONCE == 0)
            look_about();
        touch_page(range.offset + at);
    }
}

static void touch_all(void)
{
    if (plan->pattern_bytes)
        verify();
    for (uint64_t i = 0; i < plan->range_count; i++)
        touch_range(ranges_of(plan)[i], plan->stride_bytes);
}

static void report_progress(uint64_t filled_bytes)
{
    static uint64_t reported_at;
    uint64_t now = now_ns();
    result.filled_bytes = filled_bytes;
    if (now - reported_at < PROGRESS_NS)
        return;
    reported_at = now;
    result.stage = FILLING;
    send_report();
}

/* A touch that nothing answers: what is mapped there has no memory for it, or nothing is. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    uint64_t offset = (char *)info->si_addr - window;
    if (!window || offset >= plan->window_bytes) {
        /* Not the region's: it happens again, and ends this process. */
        signal(number, SIG_DFL);
        return;
    }
    result.fault_offset = offset;
    fail_at(FAULT, number);
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

static void fill_range(struct range range, uint64_t filled_bytes)
{
    uint64_t stride = plan->stride_bytes, step = stride * PAGES_AT_ONCE;
    for (uint64_t at = 0; at < range.size; at += step) {
        uint64_t end = at + step < range.size ? at + step : range.size;
        report_progress(filled_bytes + at);
        for (uint64_t page = at; page < end; page += stride)
            touch_page(range.offset + page);
    }
}

static void write_pattern(void)
{
    uint64_t stride = plan->pattern_stride_bytes, salt = plan->pattern_salt, page = 0;
    for (uint64_t at = 0; at < plan->pattern_bytes; at += stride, page++) {
        if (page % PAGES_AT_ONCE == 0)
            report_progress(at);
        *(volatile unsigned char *)(window + plan->pattern_offset + at) = (salt + page) % SALT_MODULUS;
    }
    result.filled_bytes = plan->pattern_bytes;
}

static void fill(void)
{
    uint64_t filled_bytes = 0;
    catch_faults();
    if (plan->task == WRITE_PATTERN) {
        write_pattern();
        return;
    }
    for (uint64_t i = 0; i < plan->range_count; i++) {
        fill_range(ranges_of(plan)[i], filled_bytes);
        filled_bytes += ranges_of(plan)[i].size;
    }
    result.filled_bytes = filled_bytes;
}

static void print_layout(void)
{
    printf("mshare-client %d %zu %zu %zu %zu\n", PLAN_VERSION, sizeof(struct plan), sizeof(struct range),
           sizeof(struct piece), sizeof(struct report));
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--layout")) {
        print_layout();
        return 0;
    }
    if (argc < 2 || !(plan = read_plan(PLAN_FD, &plan_bytes))) {
        static const char needed[] = "mshare-client is started by mshare only\n";
        return write(STDERR_FILENO, needed, sizeof needed - 1) < 0 ? 1 : 64;
    }
    close(PLAN_FD);
    result.pid = getpid();
    result.number = strtoul(argv[1], NULL, 10);
    /* In the cache the file's name has a digest in it. */
    prctl(PR_SET_NAME, "mshare-client");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    /* It may have ended before the kernel knew. */
    if (getppid() != (pid_t)plan->launcher_pid)
        return 1;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGUSR1);
    sigaddset(&awaited, SIGUSR2);
    sigprocmask(SIG_BLOCK, &awaited, NULL);

    result.vm_pte_before_bytes = vm_pte_bytes();
    uint64_t started = now_ns();
    open_region();
    attach_region();
    uint64_t attached = now_ns();
    if (plan->task == BE_CLIENT)
        touch_all();
    else
        fill();
    uint64_t touched = now_ns();
    result.stage = DONE;
    result.attach_ns = attached - started;
    result.touch_ns = touched - attached;
    result.vm_pte_after_bytes = vm_pte_bytes();
    send_report();
    if (plan->task != BE_CLIENT)
        return 0;
    close(REPORT_FD);
    for (;;) {
        int number = sigwaitinfo(&awaited, NULL);
        if (number > 0)
            on_signal(number);
    }
}
