/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pty chardev: a pseudo terminal that a person or a program opens.
 *
 * As long as nobody has the slave open, the master reports a hang-up and reading it fails; there is
 * no event for the slave being opened. So while nobody is there the master's input is not watched
 * but asked for a few times a second, and the master is asked before each write. What is written
 * meanwhile is swallowed: with nobody reading, the line would fill up and the guest wait for ever.
 */
#include "chardev-private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "util/error.h"

#define LOOK_INTERVAL_MS 200

struct pty_chardev {
    struct chardev chr;
    int master; /* -1 until opened */
    char *slave_path;
    GSource *look_timer; /* while nobody has the slave open */
};

static const struct chardev_option pty_options[] = {
    { NULL, 0 },
};

static bool slave_is_open(struct pty_chardev *pty)
{
    struct pollfd p = { .fd = pty->master, .events = POLLIN };

    return poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP);
}

static gboolean pty_look(gpointer opaque)
{
    struct pty_chardev *pty = opaque;

    if (!slave_is_open(pty)) {
        return G_SOURCE_CONTINUE;
    }
    g_clear_pointer(&pty->look_timer, g_source_unref);
    chardev_use_fds(&pty->chr, pty->master, pty->master);
    chardev_set_connected(&pty->chr, true);
    return G_SOURCE_REMOVE;
}

static void pty_await_slave(struct pty_chardev *pty)
{
    pty->look_timer = g_timeout_source_new(LOOK_INTERVAL_MS);
    g_source_set_callback(pty->look_timer, pty_look, pty, NULL);
    g_source_attach(pty->look_timer, NULL);
}

static void pty_hangup(struct chardev *chr)
{
    struct pty_chardev *pty = (struct pty_chardev *)chr;

    chardev_use_fds(chr, -1, pty->master);
    chardev_set_connected(chr, false);
    if (!pty->look_timer) {
        pty_await_slave(pty);
    }
}

static ssize_t pty_write(struct chardev *chr, const void *buf, size_t len)
{
    struct pty_chardev *pty = (struct pty_chardev *)chr;

    if (!slave_is_open(pty)) {
        return len;
    }
    return write(pty->master, buf, len);
}

/* Raw from the start: nothing the guest prints is echoed back to it before somebody sets the line
 * up. */
static bool pty_make_raw(const char *slave_path)
{
    int slave = open(slave_path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios mode;
    bool ok;

    if (slave < 0) {
        return false;
    }
    ok = tcgetattr(slave, &mode) == 0;
    if (ok) {
        cfmakeraw(&mode);
        ok = tcsetattr(slave, TCSAFLUSH, &mode) == 0;
    }
    close(slave);
    return ok;
}

static bool pty_open(struct chardev *chr, json_t *options G_GNUC_UNUSED, GError **err)
{
    struct pty_chardev *pty = (struct pty_chardev *)chr;
    char name[128];

    pty->master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (pty->master < 0 || grantpt(pty->master) < 0 || unlockpt(pty->master) < 0 ||
        ptsname_r(pty->master, name, sizeof(name)) != 0 || !pty_make_raw(name)) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to create PTY");
        return false;
    }
    pty->slave_path = g_strdup(name);
    printf("char device redirected to %s (label %s)\n", name, chr->id);
    fflush(stdout);
    chardev_use_fds(chr, -1, pty->master);
    pty_await_slave(pty);
    return true;
}

static void pty_close(struct chardev *chr)
{
    struct pty_chardev *pty = (struct pty_chardev *)chr;

    if (pty->look_timer) {
        g_source_destroy(pty->look_timer);
        g_source_unref(pty->look_timer);
    }
    if (pty->master >= 0) {
        close(pty->master);
    }
    g_free(pty->slave_path);
}

static char *pty_describe(const struct chardev *chr)
{
    return g_strconcat("pty:", ((const struct pty_chardev *)chr)->slave_path, NULL);
}

const struct chardev_ops chardev_pty_ops = {
    .name = "pty",
    .size = sizeof(struct pty_chardev),
    .options = pty_options,
    .open = pty_open,
    .close = pty_close,
    .write = pty_write,
    .hangup = pty_hangup,
    .watch_hangup = true,
    .describe = pty_describe,
};
