/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where our work is done. A program may call mmap from a thread with a stack of 16 KiB, from a signal
 * handler with 8 KiB, and while another thread forks. So a step runs on a stack of our own, one at a time,
 * with signals blocked, and a fork waits for its end: a child never has a lock or a file of a thread that
 * it does not have. A step must be short, and must not call malloc, which the signal may have interrupted.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include "preload.h"

enum { STACK_BYTES = 128 << 10 };

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static char stack[STACK_BYTES] __attribute__((aligned(64)));
static ucontext_t caller, own;
static void (*step)(void *);
static void *argument;

static void run(void) { step(argument); }

static void run_on_own_stack(void)
{
    getcontext(&own);
    own.uc_stack.ss_sp = stack;
    own.uc_stack.ss_size = sizeof stack;
    own.uc_link = &caller;
    makecontext(&own, run, 0);
    swapcontext(&caller, &own);
}

void guarded(void (*wanted)(void *), void *its_argument)
{
    sigset_t all, mask;
    int cancel;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    pthread_mutex_lock(&one_at_a_time);
    step = wanted;
    argument = its_argument;
    run_on_own_stack();
    pthread_mutex_unlock(&one_at_a_time);
    pthread_setcancelstate(cancel, NULL);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static sigset_t before_fork;

/* A signal handler that maps must not wait for the fork that it interrupts. */
static void before(void)
{
    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pthread_mutex_lock(&one_at_a_time);
    before_fork = mask;
}

static void after(void)
{
    sigset_t mask = before_fork;
    pthread_mutex_unlock(&one_at_a_time);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

__attribute__((constructor)) static void let_forks_wait(void) { pthread_atfork(before, after, after); }
