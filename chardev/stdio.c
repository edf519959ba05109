/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stdio chardev: the process's stdin and stdout, with a terminal in raw mode (terminal.c).
 *
 * Descriptors 0 and 1 are shared with the shell, and on a terminal with stderr, so setting
 * O_NONBLOCK on them would break others. Terminals and pipes are opened once more through
 * /proc/self/fd instead, which gives a description of our own. Where that is not possible (a
 * socket, a terminal of another user) a write is preceded by a poll() and kept small.
 *
 * The end of stdin closes the input and tells the front end; output goes on.
 */
#include "chardev-private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "terminal.h"
#include "util/error.h"

#define CAREFUL_CHUNK                                                                              \
    256 /* what a terminal or pipe that polls as writable takes without blocking */

struct stdio_chardev {
    struct chardev chr;
    int in_fd;    /* 0, or our own description of it */
    int out_fd;   /* 1, or our own description of it */
    bool careful; /* out_fd may block */
    bool owns_terminal;
};

static const struct chardev_option stdio_options[] = {
    { "signal", CHARDEV_OPTION_BOOL },
    { NULL, 0 },
};

static int reopen(int fd, int flags)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;

    /* not a regular file: a second description would have a file position of its own */
    if (fstat(fd, &st) < 0 || !(S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))) {
        return -1;
    }
    return open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static bool stdio_open(struct chardev *chr, json_t *options, GError **err)
{
    struct stdio_chardev *io = (struct stdio_chardev *)chr;
    struct stat st;
    int fd;

    io->in_fd = STDIN_FILENO;
    io->out_fd = STDOUT_FILENO;
    if (!chardev_claim_stdio(chr, err)) {
        return false;
    }
    if (isatty(STDIN_FILENO)) {
        terminal_make_raw(STDIN_FILENO, chardev_option_bool(options, "signal", true));
        io->owns_terminal = true;
    }
    fd = reopen(STDIN_FILENO, O_RDONLY);
    if (fd >= 0) {
        io->in_fd = fd;
    }
    fflush(stdout);
    fd = reopen(STDOUT_FILENO, O_WRONLY);
    if (fd >= 0) {
        io->out_fd = fd;
    } else {
        io->careful = fstat(STDOUT_FILENO, &st) == 0 && !S_ISREG(st.st_mode);
    }
    chardev_use_fds(chr, io->in_fd, io->out_fd);
    chardev_set_connected(chr, true);
    return true;
}

static ssize_t stdio_write(struct chardev *chr, const void *buf, size_t len)
{
    struct stdio_chardev *io = (struct stdio_chardev *)chr;

    if (io->careful) {
        struct pollfd p = { .fd = io->out_fd, .events = POLLOUT };

        if (poll(&p, 1, 0) <= 0) {
            errno = EAGAIN;
            return -1;
        }
        len = MIN(len, CAREFUL_CHUNK);
    }
    return write(io->out_fd, buf, len);
}

static void stdio_close(struct chardev *chr)
{
    struct stdio_chardev *io = (struct stdio_chardev *)chr;

    if (io->owns_terminal) {
        terminal_restore();
    }
    if (io->in_fd != STDIN_FILENO) {
        close(io->in_fd);
    }
    if (io->out_fd != STDOUT_FILENO) {
        close(io->out_fd);
    }
}

const struct chardev_ops chardev_stdio_ops = {
    .name = "stdio",
    .size = sizeof(struct stdio_chardev),
    .options = stdio_options,
    .open = stdio_open,
    .close = stdio_close,
    .write = stdio_write,
};
