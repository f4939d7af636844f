/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Small programs that map a file: ./mapped STEP FILE. Each does one thing with the mapping and prints what
 * came of it; test_preload_files.py compares that with the preload and without. FILE has FILE_BYTES, every page
 * of it begins with its number, and is this program's alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define FILE_BYTES (4UL << 20)
#define PAGES (FILE_BYTES / PAGE)

static const char *path;
static int file;

static const char *name(int result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

#define SHOW(call) printf("%s: %s\n", #call, name(call))

static char *map_with(int fd, int prot, int flags, size_t size, off_t offset)
{
    void *at = mmap(NULL, size, prot, flags, fd, offset);
    if (at == MAP_FAILED) {
        printf("mmap: %s\n", strerrorname_np(errno));
        exit(3);
    }
    return at;
}

static char *map(int prot) { return map_with(file, prot, MAP_SHARED, FILE_BYTES, 0); }

static uint64_t number_at(const char *at)
{
    uint64_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

/* Whether each page of a range begins with its number. */
static void check(const char *at, size_t from, size_t to)
{
    size_t right = 0;
    for (size_t page = from; page < to; page++)
        right += number_at(at + (page - from) * PAGE) == page;
    printf("%zu of %zu pages are right\n", right, to - from);
}

static sigjmp_buf back;
static volatile sig_atomic_t code;

static void on_signal(int number, siginfo_t *info, void *ignored)
{
    (void)ignored;
    code = info->si_code;
    siglongjmp(back, number);
}

static void catch (void)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
}

/* What a touch answers. */
static void touch(const char *what, volatile char *at)
{
    catch ();
    int number = sigsetjmp(back, 1);
    if (!number)
        printf("%s: %d\n", what, *at);
    else
        printf("%s: signal %d\n", what, number);
}

static void store(const char *what, volatile char *at)
{
    catch ();
    int number = sigsetjmp(back, 1);
    if (!number) {
        *at = 7;
        printf("%s: stored\n", what);
    } else {
        printf("%s: signal %d\n", what, number);
    }
}

static void whole(void) { check(map(PROT_READ), 0, PAGES); }

static void odd_size(void)
{
    char *at = map_with(file, PROT_READ, MAP_SHARED, FILE_BYTES - 100, 0);
    check(at, 0, PAGES);
    SHOW(munmap(at, FILE_BYTES - 100));
    touch("afterwards", at);
}

static void part(void) { check(map_with(file, PROT_READ, MAP_SHARED, 2 << 20, 1 << 20), 256, 768); }

static void two_parts(void)
{
    char *low = map_with(file, PROT_READ, MAP_SHARED, 2 << 20, 0);
    char *high = map_with(file, PROT_READ, MAP_SHARED, 2 << 20, 2 << 20);
    check(low, 0, 512);
    check(high, 512, 1024);
    SHOW(munmap(low, 2 << 20));
    check(high, 512, 1024);
}

static void twice(void)
{
    char *one = map(PROT_READ), *other = map(PROT_READ | PROT_WRITE);
    other[5 * PAGE + 100] = 42;
    printf("seen %d\n", one[5 * PAGE + 100]);
    SHOW(munmap(one, FILE_BYTES));
    check(other, 0, PAGES);
}

static void closed(void)
{
    char *at = map(PROT_READ);
    close(file);
    check(at, 0, PAGES);
    SHOW(mprotect(at + PAGE, PAGE, PROT_NONE));
    touch("protected", at + PAGE);
    check(at + 2 * PAGE, 2, PAGES);
}

static void longer(void)
{
    char *at = map_with(file, PROT_READ, MAP_SHARED, 2 * FILE_BYTES, 0);
    check(at, 0, PAGES);
    touch("beyond the file", at + FILE_BYTES + PAGE);
    SHOW(ftruncate(file, FILE_BYTES + 4 * PAGE));
    touch("grown", at + FILE_BYTES + PAGE);
    touch("still beyond", at + FILE_BYTES + 4 * PAGE);
    touch("beyond the mapping's own", at + 2 * FILE_BYTES - 1);
}

static void truncated(void)
{
    char *at = map(PROT_READ | PROT_WRITE);
    check(at, 0, PAGES);
    SHOW(ftruncate(file, FILE_BYTES / 2));
    touch("cut off", at + FILE_BYTES / 2);
    store("cut off", at + FILE_BYTES / 2);
    printf("code %d\n", code);
    check(at, 0, PAGES / 2);
    SHOW(ftruncate(file, FILE_BYTES));
    touch("grown again", at + FILE_BYTES / 2);
}

static void deleted(void)
{
    char *at = map(PROT_READ);
    SHOW(unlink(path));
    check(at, 0, PAGES);
    check(map(PROT_READ), 0, PAGES);
}

/* The old file stays what it is, and the new one is another. */
static void replaced(void)
{
    char *old = map(PROT_READ), other[4200];
    snprintf(other, sizeof other, "%s.new", path);
    int fd = open(other, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (ftruncate(fd, FILE_BYTES) < 0 || pwrite(fd, "\x09", 1, 0) != 1 || rename(other, path) < 0)
        exit(3);
    char *new = map_with(fd, PROT_READ, MAP_SHARED, FILE_BYTES, 0);
    printf("new %d\n", new[0]);
    check(old, 0, PAGES);
    check(map(PROT_READ), 0, PAGES);
}

static void written(void)
{
    char *at = map(PROT_READ | PROT_WRITE), byte;
    at[3 * PAGE + 9] = 77;
    SHOW(msync(at, FILE_BYTES, MS_SYNC));
    SHOW(msync(at + 3 * PAGE, PAGE, MS_ASYNC));
    SHOW(msync(at + 3, PAGE, MS_SYNC));
    SHOW(msync(at, PAGE, MS_SYNC | MS_ASYNC));
    SHOW(pread(file, &byte, 1, 3 * PAGE + 9));
    printf("read %d\n", byte);
    byte = 78;
    SHOW(pwrite(file, &byte, 1, 3 * PAGE + 10));
    printf("seen %d\n", at[3 * PAGE + 10]);
    SHOW(munmap(at, FILE_BYTES));
    SHOW(pread(file, &byte, 1, 3 * PAGE + 9));
    printf("read %d\n", byte);
}

static void read_only(void)
{
    int fd = open(path, O_RDONLY);
    printf("writable: %s\n", mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED
                                 ? strerrorname_np(errno)
                                 : "ok");
    char *at = map_with(fd, PROT_READ, MAP_SHARED, FILE_BYTES, 0);
    store("read-only", at);
    SHOW(mprotect(at, FILE_BYTES, PROT_READ | PROT_WRITE));
    store("read-only", at);
    at = map(PROT_READ);
    store("not yet", at);
    SHOW(mprotect(at, FILE_BYTES, PROT_READ | PROT_WRITE));
    store("now", at + 8);
    check(at, 0, PAGES);
}

static void write_only(void)
{
    int fd = open(path, O_WRONLY);
    printf("%s\n", mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED
                       ? strerrorname_np(errno)
                       : "ok");
}

static void unmap_parts(void)
{
    char *at = map(PROT_READ);
    SHOW(munmap(at + PAGE, PAGE));
    touch("hole", at + PAGE);
    check(at + 2 * PAGE, 2, PAGES);
    SHOW(munmap(at + FILE_BYTES - PAGE, PAGE));
    touch("end", at + FILE_BYTES - PAGE);
    check(at + 2 * PAGE, 2, PAGES - 1);
    SHOW(munmap(at, FILE_BYTES));
    touch("nothing", at + 4 * PAGE);
}

static void map_over(void)
{
    char *at = map(PROT_READ);
    void *over =
        mmap(at + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("there: %d\n", over == at + 2 * PAGE);
    touch("over", at + 2 * PAGE);
    check(at + 3 * PAGE, 3, PAGES);
    over = mmap(at, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, 9 * PAGE);
    printf("another page: %d\n", (int)number_at(over));
    over = mmap(at, FILE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("all of it: %d\n", (int)number_at((char *)over + 9 * PAGE));
    void *refused = mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    printf("%s\n", refused == MAP_FAILED ? strerrorname_np(errno) : "ok");
}

static void moved(void)
{
    char *at = map(PROT_READ);
    char *place = mmap(NULL, 4 * FILE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *there = mremap(at, FILE_BYTES, FILE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    printf("moved: %d\n", there == place);
    check(there, 0, PAGES);
    touch("left", at);
    there = mremap(there, FILE_BYTES, FILE_BYTES / 2, 0);
    check(there, 0, PAGES / 2);
    there = mremap(there, FILE_BYTES / 2, FILE_BYTES, MREMAP_MAYMOVE);
    check(there, 0, PAGES);
    at = map(PROT_READ);
    there = mremap(at, 0, FILE_BYTES, MREMAP_MAYMOVE);
    check(at, 0, PAGES);
    check(there, 0, PAGES);
}

static void advised(void)
{
    static const int all[] = {MADV_NORMAL,   MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED,
                              MADV_DONTNEED, MADV_FREE,   MADV_DONTFORK,   MADV_DOFORK,
                              MADV_DONTDUMP, MADV_DODUMP, MADV_COLD,       MADV_WIPEONFORK,
                              12345};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char *at = map(PROT_READ);
        printf("%d: %s\n", all[i], name(madvise(at, FILE_BYTES, all[i])));
        printf("%d, in the middle: %s\n", all[i], name(madvise(at + PAGE, PAGE, all[i])));
        printf("%d, odd: %s\n", all[i], name(madvise(at + 1, PAGE, all[i])));
        check(at, 0, PAGES);
        munmap(at, FILE_BYTES);
    }
    char *at = map(PROT_READ | PROT_WRITE);
    printf("posix: %d\n", posix_madvise(at, FILE_BYTES, POSIX_MADV_WILLNEED));
    printf("posix: %d\n", posix_madvise(at, FILE_BYTES, POSIX_MADV_DONTNEED));
    SHOW(madvise(at + PAGE, PAGE, MADV_REMOVE));
    touch("removed", at + PAGE + 1);
    printf("%d\n", (int)number_at(at + PAGE));
}

static void in_memory(void)
{
    unsigned char pages[PAGES];
    char *at = map(PROT_READ);
    check(at, 0, PAGES);
    SHOW(mincore(at, FILE_BYTES, pages));
    int count = 0;
    for (size_t i = 0; i < PAGES; i++)
        count += pages[i] & 1;
    printf("%d\n", count);
    SHOW(mincore(at + 1, PAGE, pages));
}

static void locked(void)
{
    char *at = map(PROT_READ);
    SHOW(mlock(at, 8 * PAGE));
    check(at, 0, PAGES);
    SHOW(munlock(at, 8 * PAGE));
    at = map(PROT_READ);
    SHOW(munlock(at, FILE_BYTES));
    SHOW(mlockall(MCL_CURRENT | MCL_FUTURE));
    check(at, 0, PAGES);
    check(map(PROT_READ), 0, PAGES);
    SHOW(munlockall());
}

static void other_kinds(void)
{
    check(map_with(file, PROT_READ, MAP_PRIVATE, FILE_BYTES, 0), 0, PAGES);
    char *own = map_with(file, PROT_READ | PROT_WRITE, MAP_PRIVATE, FILE_BYTES, 0);
    own[0] = 9;
    check(map_with(file, PROT_READ | PROT_EXEC, MAP_SHARED, FILE_BYTES, 0), 0, PAGES);
    check(map_with(file, PROT_READ, MAP_SHARED | MAP_POPULATE, FILE_BYTES, 0), 0, PAGES);
    check(map_with(file, PROT_READ, MAP_SHARED | MAP_NORESERVE, FILE_BYTES, 0), 0, PAGES);
    printf("sync: %s\n",
           mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, file, 0) == MAP_FAILED
               ? strerrorname_np(errno)
               : "ok");
    char *hint = (char *)0x200000000000;
    char *at = mmap(hint, FILE_BYTES, PROT_READ, MAP_SHARED, file, 0);
    printf("hint: %d\n", at == hint);
    at = mmap(hint + (1L << 40), FILE_BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0);
    printf("fixed: %d\n", at == hint + (1L << 40));
    check(at, 0, PAGES);
    touch("none", map_with(file, PROT_NONE, MAP_SHARED, FILE_BYTES, 0));
    at = mmap(NULL, 0, PROT_READ, MAP_SHARED, file, 0);
    printf("nothing: %s\n", at == MAP_FAILED ? strerrorname_np(errno) : "ok");
    at = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, file, 12);
    printf("odd offset: %s\n", at == MAP_FAILED ? strerrorname_np(errno) : "ok");
    at = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, 999, 0);
    printf("no file: %s\n", at == MAP_FAILED ? strerrorname_np(errno) : "ok");
    int folder = open("/", O_RDONLY);
    at = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, folder, 0);
    printf("a folder: %s\n", at == MAP_FAILED ? strerrorname_np(errno) : "ok");
}

static void beyond(void)
{
    char *at = map(PROT_READ);
    check(at, 0, PAGES);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    SHOW(munmap(at, FILE_BYTES));
    touch("afterwards", at);
}

static void child(void)
{
    char *at = map(PROT_READ | PROT_WRITE);
    at[8] = 1;
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        check(at, 0, PAGES);
        at[8] = 2;
        SHOW(mprotect(at, PAGE, PROT_READ));
        check(at, 0, PAGES);
        SHOW(munmap(at, FILE_BYTES));
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("child %d, seen %d\n", status, at[8]);
    check(at, 0, PAGES);
    fflush(stdout);
    if (!(pid = fork())) {
        fflush(stdout);
        execl("/proc/self/exe", "mapped", "whole", path, NULL);
        _exit(9);
    }
    waitpid(pid, &status, 0);
    printf("other program %d\n", status);
    check(at, 0, PAGES);
}

static void descriptors(void)
{
    int before = open("/dev/null", O_RDONLY);
    close(before);
    char *at = map(PROT_READ);
    int after = open("/dev/null", O_RDONLY);
    printf("the next descriptor is the same: %d\n", before == after);
    int open_now = 0;
    for (int fd = 0; fd < 1024; fd++)
        open_now += fcntl(fd, F_GETFD) >= 0;
    printf("open: %d\n", open_now);
    check(at, 0, PAGES);
}

/* Readers that look all the time see the file all the time. */
static volatile int stop;

static void *look(void *argument)
{
    char *at = argument;
    long wrong = 0;
    while (!stop)
        for (size_t page = 0; page < PAGES; page += 7)
            wrong += number_at(at + page * PAGE) != page;
    return (void *)wrong;
}

static void watched(void)
{
    char *at = map(PROT_READ);
    pthread_t readers[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&readers[i], NULL, look, at);
    usleep(2000);
    SHOW(mprotect(at, FILE_BYTES, PROT_READ | PROT_WRITE));
    usleep(2000);
    SHOW(madvise(at, FILE_BYTES, MADV_DONTFORK));
    stop = 1;
    for (int i = 0; i < 2; i++) {
        void *wrong;
        pthread_join(readers[i], &wrong);
        printf("wrong: %ld\n", (long)wrong);
    }
}

static void *map_and_unmap(void *ignored)
{
    (void)ignored;
    long wrong = 0;
    for (int i = 0; i < 40; i++) {
        char *at = map(PROT_READ);
        for (size_t page = 0; page < PAGES; page += 100)
            wrong += number_at(at + page * PAGE) != page;
        munmap(at, FILE_BYTES);
    }
    return (void *)wrong;
}

static void threads(void)
{
    pthread_t all[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&all[i], NULL, map_and_unmap, NULL);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(all[i], &wrong);
        printf("wrong: %ld\n", (long)wrong);
    }
}

static void direct(void)
{
    char copy[4200];
    char *at = map(PROT_READ | PROT_WRITE);
    snprintf(copy, sizeof copy, "%s.copy", path);
    int fd = open(copy, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    printf("%zd\n", write(fd, at, FILE_BYTES));
    at = map(PROT_READ | PROT_WRITE);
    struct iovec parts[] = {{at, PAGE}, {at + 8 * PAGE, PAGE}};
    printf("%zd\n", writev(fd, parts, 2));
    at = map(PROT_READ | PROT_WRITE);
    printf("%zd\n", pread(fd, at + PAGE, PAGE, 5 * PAGE));
    printf("%d\n", (int)number_at(at + PAGE));
    /* The file itself, beside its mapping. */
    int same = open(path, O_RDWR | O_DIRECT);
    char *buffer = aligned_alloc(PAGE, PAGE);
    memset(buffer, 5, PAGE);
    at = map(PROT_READ);
    check(at + 2 * PAGE, 2, 4);
    printf("%zd\n", pwrite(same, buffer, PAGE, 2 * PAGE));
    printf("%d\n", at[2 * PAGE]);
    printf("%zd\n", pread(same, buffer, PAGE, 3 * PAGE));
    printf("%d\n", (int)number_at(buffer));
    unlink(copy);
}

static void piped(void)
{
    int ends[2];
    char *at = map(PROT_READ), buffer[PAGE];
    if (pipe(ends) < 0)
        exit(3);
    printf("%zd\n", write(ends[1], at + 9 * PAGE, PAGE));
    printf("%zd\n", read(ends[0], buffer, PAGE));
    printf("%d\n", (int)number_at(buffer));
}

static void sandboxed(void)
{
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {1, allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    printf("%s\n", name(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)));
    check(map(PROT_READ), 0, PAGES);
}

static void sparse(void)
{
    char other[4200];
    snprintf(other, sizeof other, "%s.sparse", path);
    int fd = open(other, O_RDWR | O_CREAT | O_EXCL, 0600);
    SHOW(ftruncate(fd, 64L << 30));
    SHOW(pwrite(fd, "\x05", 1, 63L << 30));
    char *at = map_with(fd, PROT_READ, MAP_SHARED, 64L << 30, 0);
    printf("%d %d\n", at[5L << 30], at[63L << 30]);
    struct stat status;
    fstat(fd, &status);
    printf("few blocks: %d\n", status.st_blocks < 1000);
    unlink(other);
}

static void rounds(void)
{
    for (int i = 0; i < 150; i++) {
        char *at = map(PROT_READ);
        if (number_at(at + 5 * PAGE) != 5)
            printf("wrong\n");
        munmap(at, FILE_BYTES);
    }
    char *kept[200];
    for (int i = 0; i < 200; i++)
        kept[i] = map_with(file, PROT_READ, MAP_SHARED, (1 << 20) + (i + 1) * PAGE, 0);
    for (int i = 0; i < 200; i += 50)
        check(kept[i], 0, 256);
}

static void killed(void)
{
    check(map(PROT_READ), 0, PAGES);
    fflush(stdout);
    raise(SIGKILL);
}

/* For a test that looks at it from outside. */
static void waits(void)
{
    char *at = map(PROT_READ);
    check(at, 0, PAGES);
    printf("%lx\n", (unsigned long)at);
    fflush(stdout);
    while (getchar() != EOF)
        check(at, 0, PAGES), fflush(stdout);
}

static const struct {
    const char *name;
    void (*run)(void);
} steps[] = {
    {"whole", whole},
    {"odd_size", odd_size},
    {"part", part},
    {"two_parts", two_parts},
    {"twice", twice},
    {"closed", closed},
    {"longer", longer},
    {"truncated", truncated},
    {"deleted", deleted},
    {"replaced", replaced},
    {"written", written},
    {"read_only", read_only},
    {"write_only", write_only},
    {"unmap_parts", unmap_parts},
    {"map_over", map_over},
    {"moved", moved},
    {"advised", advised},
    {"in_memory", in_memory},
    {"locked", locked},
    {"other_kinds", other_kinds},
    {"beyond", beyond},
    {"child", child},
    {"descriptors", descriptors},
    {"watched", watched},
    {"threads", threads},
    {"direct", direct},
    {"piped", piped},
    {"sandboxed", sandboxed},
    {"sparse", sparse},
    {"rounds", rounds},
    {"killed", killed},
    {"waits", waits},
};

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    path = arguments[2];
    file = open(path, O_RDWR);
    if (file < 0 && (file = open(path, O_RDONLY)) < 0)
        return 2;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (!strcmp(steps[i].name, arguments[1])) {
            steps[i].run();
            return 0;
        }
    return 2;
}
