/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper of files' regions (lib/mshare/preload/keeper.py), as a program asks it: one message with the open
 * file, one answer with the open region. A region dies with the process that made it, and who maps a file
 * first need not be who uses it longest: so the programs do not make them.
 *
 * The file itself is the question, not its name: the keeper sees by its own look at it which file it is, and
 * that this process has it open for what it asks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "preload.h"

enum { PATIENCE_SECONDS = 10, HIGH_NUMBER = 512 };

static bool hangs; /* the keeper let this process wait in vain: it is not asked again */

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr aligned;
};

/* Somebody else's process must not get our files, nor give us memory. */
static bool is_ours(int fd, struct outcome *outcome)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid())
        return true;
    fail(outcome, EACCES, "the keeper at %s belongs to another user", settings()->files);
    return false;
}

/* Never on stdin, stdout or stderr, which a program may have closed. */
static int connect_high(struct outcome *outcome)
{
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    memcpy(place.sun_path, settings()->files, sizeof place.sun_path - 1);
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    int low = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int fd = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, HIGH_NUMBER);
    if (fd < 0 && low >= 0)
        fd = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int code = errno;
    if (low >= 0)
        close(low);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0 &&
        connect(fd, (struct sockaddr *)&place, sizeof place) == 0) {
        if (is_ours(fd, outcome))
            return fd;
    } else {
        code = fd < 0 ? code : errno;
        fail(outcome, code, "no keeper of files answers at %s (%s); start it with `mshare keep-files`",
             settings()->files, reason(code));
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool send_question(int fd, const struct keeper_question *question, int file)
{
    union control control = {.bytes = ""};
    struct iovec part = {.iov_base = (void *)question, .iov_len = sizeof *question};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(header), &file, sizeof file);
    return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)sizeof *question;
}

/* The descriptor that came with a message, at a high number; -1: none. */
static int received_descriptor(struct msghdr *message)
{
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    int low;
    if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof low))
        return -1;
    memcpy(&low, CMSG_DATA(header), sizeof low);
    int high = fcntl(low, F_DUPFD_CLOEXEC, HIGH_NUMBER);
    if (high < 0)
        high = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(low);
    return high;
}

static ssize_t receive_answer(int fd, struct keeper_answer *answer, int *region)
{
    union control control = {.bytes = ""};
    struct iovec part = {.iov_base = answer, .iov_len = sizeof *answer};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    *region = length < 0 ? -1 : received_descriptor(&message);
    answer->text[sizeof answer->text - 1] = 0;
    return length;
}

static bool is_sound(const struct keeper_answer *answer, size_t size)
{
    size_t alignment = answer->alignment_bytes;
    return alignment >= PAGE_BYTES && !(alignment & (alignment - 1)) &&
           answer->window_bytes % alignment == 0 && answer->window_bytes >= size &&
           answer->window_bytes <= 1UL << 47;
}

bool keeper_ask(int fd, off_t offset, size_t size, bool writable, struct kept *kept,
                struct outcome *outcome)
{
    struct keeper_question question = {
        .version = KEEPER_VERSION, .writable = writable, .offset = offset, .size = size};
    struct keeper_answer answer = {.code = EPROTO};
    if (hangs) {
        fail(outcome, EAGAIN, "the keeper at %s has not answered before", settings()->files);
        return false;
    }
    int socket = connect_high(outcome);
    if (socket < 0)
        return false;
    kept->fd = -1;
    ssize_t length = -1;
    if (send_question(socket, &question, fd))
        length = receive_answer(socket, &answer, &kept->fd);
    int code = errno;
    close(socket);
    hangs = length < 0 && code == EAGAIN;
    if (length < 0)
        fail(outcome, code, "the keeper at %s does not answer (%s)", settings()->files, reason(code));
    else if (length != (ssize_t)sizeof answer || answer.version != KEEPER_VERSION)
        fail(outcome, EPROTO, "the keeper at %s is of another version; start it again", settings()->files);
    else if (answer.code || kept->fd < 0)
        fail(outcome, answer.code, "%s", answer.text);
    else if (!is_sound(&answer, size))
        fail(outcome, EPROTO, "the keeper at %s answers nonsense; start it again", settings()->files);
    else {
        kept->window_bytes = answer.window_bytes;
        kept->alignment_bytes = answer.alignment_bytes;
        snprintf(kept->name, sizeof kept->name, "%.*s", NAME_BYTES - 1, answer.text);
        return true;
    }
    if (kept->fd >= 0)
        close(kept->fd);
    return false;
}
