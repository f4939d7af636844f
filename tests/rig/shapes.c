/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Small programs with shared memory: shapes KIND SIZE STEP makes memory of a kind and does one thing with it.
 * What it prints holds no address, pid or time: with the preload and without, it must be the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, SMALL_STACK = 16 << 10, SIGNAL_STACK = 8 << 10, THREADS = 4, ROUNDS = 50, MANY = 140 };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static size_t size;
static size_t usable; /* of it may be touched */
static int object = -1;  /* a descriptor */
static int segment = -1; /* a SysV id */
static char name[64];
static char **arguments;

static const int read_write = PROT_READ | PROT_WRITE;

static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static void say(const char *what, long result)
{
    printf("%s %s\n", what, result >= 0 ? "ok" : strerrorname_np(errno));
    fflush(stdout);
}

static void say_address(const char *what, const void *address) { say(what, address == MAP_FAILED ? -1 : 0); }

static unsigned sum(const char *memory, size_t length)
{
    unsigned total = 1;
    for (size_t i = 0; i < length; i += 61)
        total = total * 31 + (unsigned char)memory[i];
    return total;
}

static void say_sum(const char *what, const char *memory, size_t length)
{
    printf("%s %08x\n", what, sum(memory, length));
    fflush(stdout);
}

static void write_to(char *memory, size_t from, size_t to, int seed)
{
    for (size_t i = from; i < to; i += 61)
        memory[i] = (char)(i * 7 + seed);
}

static char *map(void *at, size_t length, int prot, int flags, int fd, off_t offset)
{
    return mmap(at, length, prot, flags, fd, offset);
}

/* -- kinds: how memory is made */

static char *anonymous_with(int prot, int flags, void *at, off_t offset)
{
    return map(at, size, prot, MAP_SHARED | MAP_ANONYMOUS | flags, -1, offset);
}

static char *anonymous(void) { return anonymous_with(read_write, 0, NULL, 0); }
static char *at_an_offset(void) { return anonymous_with(read_write, 0, NULL, 3 * PAGE); }
static char *at_a_wrong_offset(void) { return anonymous_with(read_write, 0, NULL, 100); }
static char *populated(void) { return anonymous_with(read_write, MAP_POPULATE, NULL, 0); }
static char *sparse(void) { return anonymous_with(read_write, MAP_NORESERVE, NULL, 0); }

static char *below_2_gib(void)
{
    char *memory = anonymous_with(read_write, MAP_32BIT, NULL, 0);
    printf("low %d\n", (uintptr_t)memory < 1UL << 31);
    return memory;
}

static char *made_writable(void)
{
    char *memory = anonymous_with(PROT_NONE, 0, NULL, 0);
    say("mprotect", mprotect(memory, size, read_write));
    return memory;
}

static char *room(void)
{
    return map(NULL, pages(size) + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static char *fixed(void)
{
    char *at = room();
    printf("there %d\n", anonymous_with(read_write, MAP_FIXED, at, 0) == at);
    return at;
}

static char *wished(void)
{
    char *at = room();
    munmap(at, pages(size) + PAGE);
    printf("there %d\n", anonymous_with(read_write, 0, at, 0) == at);
    return at;
}

static char *private(void) { return map(NULL, size, read_write, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

static char *zero_device(void)
{
    return map(NULL, size, read_write, MAP_SHARED, open("/dev/zero", O_RDWR), 0);
}

static char *validated(void)
{
    return map(NULL, size, read_write, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0);
}

static char *memory_file(void)
{
    object = memfd_create("shapes", 0);
    say("ftruncate", ftruncate(object, size));
    return map(NULL, size, read_write, MAP_SHARED, object, 0);
}

static char *sysv_with(int flags, const void *at)
{
    segment = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    char *memory = shmat(segment, at, flags);
    return memory;
}

static char *sysv(void) { return sysv_with(0, NULL); }

/* Explicit huge pages, which need more room than the size says; what lies around must stay. */
static char *sysv_huge(void)
{
    char *segments[THREADS], *between[THREADS];
    for (int i = 0; i < THREADS; i++) {
        segment = shmget(IPC_PRIVATE, size, IPC_CREAT | SHM_HUGETLB | 0600);
        segments[i] = shmat(segment, NULL, 0);
        shmctl(segment, IPC_RMID, NULL);
        between[i] = map(NULL, 64 * PAGE, read_write, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (segments[i] == MAP_FAILED)
            return MAP_FAILED;
        write_to(segments[i], 0, size, i);
        write_to(between[i], 0, 64 * PAGE, i);
    }
    for (int i = 0; i < THREADS; i++) {
        say_sum("segment", segments[i], size);
        say_sum("between", between[i], 64 * PAGE);
    }
    for (int i = 1; i < THREADS; i++)
        say("shmdt", shmdt(segments[i]));
    return segments[0];
}

static char *sysv_at(void)
{
    char *at = room();
    munmap(at, pages(size) + PAGE);
    char *memory = sysv_with(0, at);
    printf("there %d\n", memory == at);
    return memory;
}

static char *sysv_over(void)
{
    char *at = room(), *memory = sysv_with(SHM_REMAP, at);
    printf("there %d\n", memory == at);
    return memory;
}

static char *sysv_removed(void)
{
    char *memory = sysv();
    say("remove", shmctl(segment, IPC_RMID, NULL));
    return memory;
}

static int open_posix(off_t length)
{
    snprintf(name, sizeof name, "/shapes-%d", (int)getpid());
    object = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    say("ftruncate", ftruncate(object, length));
    return object;
}

static char *posix(void) { return map(NULL, size, read_write, MAP_SHARED, open_posix(size), 0); }

static char *posix_unlinked(void)
{
    open_posix(size);
    say("unlink", shm_unlink(name));
    return map(NULL, size, read_write, MAP_SHARED, object, 0);
}

static char *posix_before(void)
{
    char *memory = map(NULL, size, read_write, MAP_SHARED, open_posix(0), 0);
    say("ftruncate", ftruncate(object, size));
    return memory;
}

static char *posix_larger(void)
{
    usable = size / 2 / PAGE * PAGE;
    return map(NULL, size, read_write, MAP_SHARED, open_posix(usable), 0);
}

static char *posix_grown(void)
{
    char *memory = posix_larger();
    say("ftruncate", ftruncate(object, size));
    usable = size;
    return memory;
}

static char *posix_offset(void)
{
    return map(NULL, size, read_write, MAP_SHARED, open_posix(size + 3 * PAGE), 3 * PAGE);
}

static char *posix_head_first(void)
{
    char *head = map(NULL, PAGE, read_write, MAP_SHARED, open_posix(size), 0);
    char *memory = map(NULL, size, read_write, MAP_SHARED, object, 0);
    head[0] = 'h';
    printf("head %d\n", memory == MAP_FAILED ? -1 : memory[0] == 'h');
    return memory;
}

static char *posix_head_later(void)
{
    char *memory = map(NULL, size, read_write, MAP_SHARED, open_posix(size), 0);
    char *head = map(NULL, PAGE, read_write, MAP_SHARED, object, 0);
    char *third = map(NULL, PAGE, PROT_READ, MAP_SHARED, object, 2 * PAGE);
    memory[0] = 'm';
    memory[2 * PAGE] = 't';
    printf("head %c, third page %c\n", head[0], third[0]);
    say("munmap", munmap(head, PAGE));
    say("munmap", munmap(third, PAGE));
    return memory;
}

static char *posix_written(void)
{
    open_posix(size);
    say("write", pwrite(object, "before", 6, 0));
    return map(NULL, size, read_write, MAP_SHARED, object, 0);
}

/* -- steps: what is done with it */

static int wait_for(pid_t child)
{
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void fill(char *memory)
{
    say_sum("fresh", memory, usable);
    write_to(memory, 0, usable, 1);
    say_sum("filled", memory, usable);
}

static void child(char *memory)
{
    write_to(memory, 0, usable / 2, 2);
    pid_t pid = fork();
    if (!pid) {
        say_sum("child sees", memory, usable);
        write_to(memory, usable / 2, usable, 3);
        _exit(0);
    }
    wait_for(pid);
    say_sum("parent sees", memory, usable);
}

static void children(char *memory)
{
    for (int i = 0; i < THREADS; i++)
        if (!fork()) {
            write_to(memory, usable / THREADS * i, usable / THREADS * (i + 1), i);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    say_sum("all", memory, usable);
}

static void grandchild(char *memory)
{
    pid_t pid = fork();
    if (!pid) {
        pid = fork();
        if (!pid) {
            write_to(memory, 0, usable, 5);
            _exit(0);
        }
        _exit(wait_for(pid));
    }
    printf("ended %d\n", wait_for(pid));
    say_sum("written", memory, usable);
}

static void child_unmaps(char *memory)
{
    write_to(memory, 0, usable, 6);
    pid_t pid = fork();
    if (!pid)
        _exit(munmap(memory, size));
    printf("ended %d\n", wait_for(pid));
    say_sum("stays", memory, usable);
}

static void child_maps(char *memory)
{
    pid_t pid = fork();
    if (!pid) {
        char *own = anonymous();
        write_to(own, 0, size, 7);
        say_sum("own", own, size);
        say_sum("inherited", memory, usable);
        _exit(munmap(own, size));
    }
    printf("ended %d\n", wait_for(pid));
}

struct part {
    char *memory;
    int index;
};

static void *write_part(void *argument)
{
    struct part *part = argument;
    write_to(part->memory, usable / THREADS * part->index, usable / THREADS * (part->index + 1), part->index);
    return NULL;
}

static void threads(char *memory)
{
    pthread_t all[THREADS];
    struct part parts[THREADS];
    for (int i = 0; i < THREADS; i++) {
        parts[i] = (struct part){memory, i};
        pthread_create(&all[i], NULL, write_part, &parts[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(all[i], NULL);
    say_sum("all", memory, usable);
}

static void *map_and_unmap(void *ignored)
{
    (void)ignored;
    for (int i = 0; i < ROUNDS; i++) {
        char *memory = anonymous();
        if (memory == MAP_FAILED)
            return "failed";
        memory[i] = 1;
        munmap(memory, size);
    }
    return NULL;
}

/* One thread maps while another forks; children map as well. */
static void maps_while_forking(char *memory)
{
    pthread_t thread;
    int failed = 0;
    void *answer;
    pthread_create(&thread, NULL, map_and_unmap, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t pid = fork();
        if (!pid) {
            char *own = anonymous();
            own[0] = memory[0];
            _exit(munmap(own, size));
        }
        failed += wait_for(pid) != 0;
    }
    pthread_join(thread, &answer);
    printf("failed %d, %s\n", failed, answer ? "not all mapped" : "all mapped");
}

static void *make_in_thread(void *ignored)
{
    (void)ignored;
    return anonymous();
}

static void small_stack(char *memory)
{
    pthread_attr_t attributes;
    pthread_t thread;
    void *made;
    pthread_attr_init(&attributes);
    say("stack size", -(pthread_attr_setstacksize(&attributes, SMALL_STACK) != 0));
    pthread_create(&thread, &attributes, make_in_thread, NULL);
    pthread_join(thread, &made);
    say_address("made", made);
    write_to(made, 0, size, 8);
    say_sum("made", made, size);
    say_sum("first", memory, usable);
}

static char *volatile made_in_handler;

static void on_signal(int number)
{
    (void)number;
    made_in_handler = anonymous();
}

static void in_a_handler(char *memory)
{
    /* Pages beneath that may not be touched: what needs more ends the program. */
    char *area = map(NULL, SIGNAL_STACK + 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(area + 16 * PAGE, SIGNAL_STACK, read_write);
    stack_t stack = {.ss_sp = area + 16 * PAGE, .ss_size = SIGNAL_STACK};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    say("stack", sigaltstack(&stack, NULL));
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    say_address("made", made_in_handler);
    write_to(made_in_handler, 0, size, 9);
    say_sum("made", made_in_handler, size);
    say_sum("first", memory, usable);
}

/* Signals come while memory is made and let go. */
static void on_alarm(int number) { (void)number; }

static void under_signals(char *memory)
{
    pid_t parent = getpid(), pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == parent)
            kill(parent, SIGUSR2);
        _exit(0);
    }
    printf("%s\n", map_and_unmap(NULL) ? "failed" : "mapped");
    kill(pid, SIGKILL);
    wait_for(pid);
    say_sum("first", memory, usable);
}

/* A timer interrupts what can be interrupted. */
static void under_a_timer(char *memory)
{
    struct itimerval often = {.it_interval = {0, 300}, .it_value = {0, 300}}, never = {0};
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 10; i++) {
        int fd = shm_open("/shapes-timer", O_RDWR | O_CREAT, 0600);
        shm_unlink("/shapes-timer");
        while (ftruncate(fd, size) < 0)
            ;
        char *more = map(NULL, size, read_write, MAP_SHARED, fd, 0);
        printf("%d ", more != MAP_FAILED && more[i] == 0 && munmap(more, size) == 0);
        close(fd);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    say_sum("first", memory, usable);
}

static void files_closed(char *memory)
{
    char path[] = "/tmp/shapes-XXXXXX";
    struct stat file;
    write_to(memory, 0, usable, 10);
    closefrom(3);
    object = -1;
    int own = mkstemp(path);
    unlink(path);
    /* Every number that somebody may have kept. */
    for (int number = own + 1; number < 600; number++)
        dup2(own, number);
    say("write", write(own, "mine", 4));
    char *more = anonymous();
    say_address("more", more);
    say("munmap", munmap(more, size));
    say("munmap", munmap(memory, size));
    fstat(own, &file);
    printf("size %ld\n", (long)file.st_size);
}

static void no_stderr(char *memory)
{
    write_to(memory, 0, usable, 11);
    close(0);
    close(2);
    char *more = anonymous();
    say_sum("fresh", more, size);
    dprintf(2, "to stderr, which is closed");
    say_sum("fresh", more, size);
    say_sum("first", memory, usable);
}

/* The next file that is opened gets the number of stderr. */
static void data_as_stderr(char *memory)
{
    char path[] = "/tmp/shapes-XXXXXX";
    struct stat file;
    close(2);
    printf("number %d\n", mkstemp(path));
    unlink(path);
    char *more = anonymous();
    say("munmap", munmap(more, size));
    fstat(2, &file);
    printf("size %ld\n", (long)file.st_size);
    say_sum("first", memory, usable);
}

static void unmap(char *memory)
{
    say("munmap", munmap(memory, size));
    say("gone", msync(memory, PAGE, MS_ASYNC));
    say("again", munmap(memory, size));
}

static void unmap_in_parts(char *memory)
{
    size_t half = pages(size) / 2 / PAGE * PAGE;
    write_to(memory, 0, usable, 12);
    say("tail", munmap(memory + half, pages(size) - half));
    say_sum("head", memory, half < usable ? half : usable);
    say("head", munmap(memory, half));
    say("gone", msync(memory, PAGE, MS_ASYNC));
}

static void unmap_middle(char *memory)
{
    write_to(memory, 0, usable, 13);
    say("middle", munmap(memory + PAGE, PAGE));
    say("gone", msync(memory + PAGE, PAGE, MS_ASYNC));
    say_sum("first page", memory, PAGE);
    say_sum("third page", memory + 2 * PAGE, PAGE);
    say("all", munmap(memory, size));
    say("gone", msync(memory, PAGE, MS_ASYNC));
}

static void unmap_wide(char *memory)
{
    char *behind = memory + pages(size);
    char *neighbour = map(behind, PAGE, read_write,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    size_t all = pages(size) + (neighbour == behind ? PAGE : 0);
    say("munmap", munmap(memory, all));
    say("gone", msync(memory, PAGE, MS_ASYNC));
    printf("neighbour %s\n", msync(behind, PAGE, MS_ASYNC) < 0 || neighbour != behind ? "gone" : "there");
    char *next = anonymous();
    say_sum("next", next, size);
    say("munmap", munmap(next, size));
}

static void map_over(char *memory)
{
    char *over = map(memory, size, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("there %d\n", over == memory);
    write_to(over, 0, size, 14);
    say_sum("over", over, size);
    say("munmap", munmap(over, size));
    say("gone", msync(memory, PAGE, MS_ASYNC));
}

static void shrink(char *memory)
{
    write_to(memory, 0, usable, 15);
    char *less = mremap(memory, pages(size), PAGE, 0);
    printf("there %d\n", less == memory);
    say_sum("head", memory, PAGE);
    say("gone", msync(memory + PAGE, PAGE, MS_ASYNC));
    say("munmap", munmap(memory, PAGE));
}

static void grow(char *memory)
{
    write_to(memory, 0, usable, 16);
    char *more = mremap(memory, pages(size), 2 * pages(size), MREMAP_MAYMOVE);
    say_address("mremap", more);
    say_sum("moved", more, usable);
    say("munmap", munmap(more, 2 * pages(size)));
    char *next = anonymous();
    say_sum("next", next, size);
    say("munmap", munmap(next, size));
}

static void move(char *memory)
{
    char *to = room();
    write_to(memory, 0, usable, 17);
    printf("there %d\n", mremap(memory, pages(size), pages(size), MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    say_sum("moved", to, usable);
    say("gone", msync(memory, PAGE, MS_ASYNC));
    char *next = anonymous();
    say_sum("next", next, size);
    say("munmap", munmap(to, pages(size)));
    say_sum("next", next, size);
}

static void duplicate(char *memory)
{
    char *twin = mremap(memory, 0, pages(size), MREMAP_MAYMOVE);
    say_address("mremap", twin);
    write_to(memory, 0, usable, 18);
    say_sum("twin", twin, usable);
    say("munmap", munmap(twin, pages(size)));
    say_sum("first", memory, usable);
}

static void protect(char *memory)
{
    write_to(memory, 0, usable, 19);
    say("mprotect", mprotect(memory, PAGE, PROT_READ));
    pid_t pid = fork();
    if (!pid) {
        memory[0] = 1;
        _exit(0);
    }
    printf("ended %d\n", wait_for(pid));
    say("mprotect", mprotect(memory, PAGE, read_write));
    memory[0] = 2;
    say_sum("written", memory, usable);
}

static void advise(char *memory)
{
    write_to(memory, 0, usable, 20);
    say("dontneed", madvise(memory, usable, MADV_DONTNEED));
    say_sum("kept", memory, usable);
    say("msync", msync(memory, usable, MS_SYNC));
    say("remove", madvise(memory, pages(usable) / 2 / PAGE * PAGE, MADV_REMOVE));
    say_sum("removed", memory, usable);
}

static void input_and_output(char *memory)
{
    int ends[2];
    say("pipe", pipe(ends));
    write_to(memory, 0, PAGE, 21);
    say("write", write(ends[1], memory, PAGE));
    say("read", read(ends[0], memory + usable - PAGE, PAGE));
    say_sum("read", memory + usable - PAGE, PAGE);
}

static void rounds(char *memory)
{
    say_address("first", memory);
    printf("%s\n", map_and_unmap(NULL) ? "failed" : "mapped");
}

static void many(char *memory)
{
    char *all[MANY];
    for (int i = 0; i < MANY; i++) {
        all[i] = anonymous();
        write_to(all[i], 0, size, i);
    }
    for (int i = 0; i < MANY; i += 2)
        say("munmap", munmap(all[i], size));
    for (int i = 1; i < MANY; i += 2)
        say_sum("kept", all[i], size);
    say_sum("first", memory, usable);
}

/* How many files are open, and which number the next one gets. */
static void descriptors(char *memory)
{
    char *more = anonymous();
    int count = 0;
    for (int number = 0; number < 4096; number++)
        count += fcntl(number, F_GETFD) >= 0;
    printf("open %d, next %d\n", count, dup(1));
    say("munmap", munmap(more, size));
    say_sum("first", memory, usable);
}

static void exits(char *memory)
{
    write_to(memory, 0, usable, 22);
    exit(7);
}

static void *exit_in_thread(void *ignored)
{
    (void)ignored;
    exit(8);
}

static void exits_on_a_small_stack(char *memory)
{
    pthread_attr_t attributes;
    pthread_t thread;
    write_to(memory, 0, usable, 36);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, SMALL_STACK);
    pthread_create(&thread, &attributes, exit_in_thread, NULL);
    pause();
}

static void take_away(void);

static void dies(char *memory)
{
    write_to(memory, 0, usable, 23);
    take_away();
    raise(SIGTERM);
}

/* For what has an id or a name. */

static char *again_with(int prot)
{
    if (*name)
        return map(NULL, size, prot, MAP_SHARED, shm_open(name, prot & PROT_WRITE ? O_RDWR : O_RDONLY, 0), 0);
    return shmat(segment, NULL, prot & PROT_WRITE ? 0 : SHM_RDONLY);
}

static void say_attached(void)
{
    struct shmid_ds found;
    if (!*name)
        printf("attached %d\n", shmctl(segment, IPC_STAT, &found) < 0 ? -1 : (int)found.shm_nattch);
}

static int let_go(char *memory) { return *name ? munmap(memory, size) : shmdt(memory); }

static void again(char *memory)
{
    char *twin = again_with(read_write);
    say_address("again", twin);
    if (twin == MAP_FAILED)
        return;
    write_to(memory, 0, usable, 24);
    say_sum("twin", twin, usable);
    write_to(twin, 0, usable, 25);
    say_sum("first", memory, usable);
    say_attached();
    say("let go", let_go(memory));
    say_sum("twin", twin, usable);
    say("let go", let_go(twin));
    say_attached();
}

static void read_only(char *memory)
{
    char *twin = again_with(PROT_READ);
    say_address("again", twin);
    if (twin == MAP_FAILED)
        return;
    write_to(memory, 0, usable, 26);
    say_sum("twin", twin, usable);
    pid_t pid = fork();
    if (!pid) {
        twin[0] = 1;
        _exit(0);
    }
    printf("ended %d\n", wait_for(pid));
    say("let go", let_go(twin));
}

static void let_go_and_again(char *memory)
{
    write_to(memory, 0, usable, 27);
    say("let go", let_go(memory));
    say_attached();
    char *twin = again_with(read_write);
    if (twin == MAP_FAILED)
        return;
    say_sum("kept", twin, usable);
    say("let go", let_go(twin));
}

static void child_attaches(char *memory)
{
    write_to(memory, 0, usable, 28);
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (!pid) {
            char *own = again_with(read_write);
            say_sum("child sees", own, usable);
            write_to(own, usable / 2 * i, usable / 2 * (i + 1), 29 + i);
            say_attached();
            _exit(let_go(own));
        }
        printf("ended %d\n", wait_for(pid));
    }
    say_sum("parent sees", memory, usable);
    say_attached();
}

static void waiting_child_attaches(char *memory)
{
    /* Forked before the memory is attached here. */
    (void)memory;
    int ends[2];
    pipe(ends);
    shmctl(segment, IPC_RMID, NULL);
    segment = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
    pid_t pid = fork();
    if (!pid) {
        char go;
        read(ends[0], &go, 1);
        char *own = shmat(segment, NULL, 0);
        say_sum("child sees", own, size);
        write_to(own, 0, size, 31);
        _exit(shmdt(own));
    }
    char *later = shmat(segment, NULL, 0);
    write_to(later, 0, size, 32);
    write(ends[1], "g", 1);
    printf("ended %d\n", wait_for(pid));
    say_sum("parent sees", later, size);
    say("remove", shmctl(segment, IPC_RMID, NULL));
}

static void other_program(char *memory)
{
    char id[16], bytes[32];
    write_to(memory, 0, usable, 33);
    snprintf(id, sizeof id, "%d", segment);
    snprintf(bytes, sizeof bytes, "%zu", size);
    pid_t pid = fork();
    if (!pid)
        execl("/proc/self/exe", arguments[0], "look", bytes, *name ? name : id, (char *)NULL);
    printf("ended %d\n", wait_for(pid));
    say_sum("written", memory, usable);
}

static int look(const char *id)
{
    usable = size;
    if (*id == '/')
        snprintf(name, sizeof name, "%s", id);
    else
        segment = atoi(id);
    char *memory = again_with(read_write);
    say_address("other", memory);
    say_sum("other sees", memory, usable);
    write_to(memory, 0, usable, 34);
    return 0;
}

static void removed_and_new(char *memory)
{
    write_to(memory, 0, usable, 35);
    say("let go", let_go(memory));
    say("remove", *name ? shm_unlink(name) : shmctl(segment, IPC_RMID, NULL));
    char *next = *name ? posix() : sysv();
    say_sum("fresh", next, size);
    say("let go", let_go(next));
}

/* -- the table */

#define ENTRY(function) {#function, function}

static const struct {
    const char *name;
    char *(*make)(void);
} kinds[] = {
    ENTRY(anonymous),     ENTRY(at_an_offset),   ENTRY(at_a_wrong_offset), ENTRY(populated),
    ENTRY(sparse),        ENTRY(below_2_gib),    ENTRY(made_writable),     ENTRY(fixed),
    ENTRY(wished),        ENTRY(private),        ENTRY(zero_device),       ENTRY(validated),
    ENTRY(memory_file),   ENTRY(sysv),           ENTRY(sysv_at),           ENTRY(sysv_over),
    ENTRY(sysv_removed),  ENTRY(sysv_huge),      ENTRY(posix),          ENTRY(posix_unlinked),    ENTRY(posix_before),
    ENTRY(posix_larger),  ENTRY(posix_grown),    ENTRY(posix_offset),      ENTRY(posix_head_first), ENTRY(posix_head_later),
    ENTRY(posix_written),
};

static const struct {
    const char *name;
    void (*run)(char *memory);
} steps[] = {
    ENTRY(fill),           ENTRY(child),         ENTRY(children),       ENTRY(grandchild),
    ENTRY(child_unmaps),   ENTRY(child_maps),    ENTRY(threads),        ENTRY(maps_while_forking),
    ENTRY(small_stack),    ENTRY(in_a_handler),  ENTRY(under_signals),  ENTRY(under_a_timer), ENTRY(files_closed),
    ENTRY(no_stderr),      ENTRY(unmap),         ENTRY(unmap_in_parts), ENTRY(unmap_middle),
    ENTRY(unmap_wide),     ENTRY(map_over),      ENTRY(shrink),         ENTRY(grow),
    ENTRY(move),           ENTRY(duplicate),     ENTRY(protect),        ENTRY(advise),
    ENTRY(input_and_output), ENTRY(rounds),      ENTRY(many),           ENTRY(exits),
    ENTRY(descriptors),    ENTRY(exits_on_a_small_stack),    ENTRY(data_as_stderr),
    ENTRY(dies),           ENTRY(again),         ENTRY(read_only),      ENTRY(let_go_and_again),
    ENTRY(child_attaches), ENTRY(waiting_child_attaches), ENTRY(other_program), ENTRY(removed_and_new),
};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static pid_t first;

static void take_away(void)
{
    if (getpid() != first)
        return;
    if (*name)
        shm_unlink(name);
    else
        shmctl(segment, IPC_RMID, NULL);
}

int main(int count, char **words)
{
    arguments = words;
    if (count != 4)
        return 2;
    usable = size = strtoull(words[2], NULL, 10);
    signal(SIGUSR2, on_alarm);
    if (!strcmp(words[1], "look"))
        return look(words[3]);
    first = getpid();
    atexit(take_away);
    char *memory = NULL;
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (!strcmp(words[1], kinds[i].name))
            memory = kinds[i].make();
    if (!memory)
        return 2;
    say_address(words[1], memory);
    for (size_t i = 0; i < COUNT(steps) && memory != MAP_FAILED; i++)
        if (!strcmp(words[3], steps[i].name))
            steps[i].run(memory);
    return 0;
}
