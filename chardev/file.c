/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file chardev: output into a file, fifo or device; optionally input from another one. A reader
 * of a fifo that goes away only costs the bytes written meanwhile.
 */
#include "chardev-private.h"

#include <fcntl.h>
#include <unistd.h>

#include "util/error.h"

struct file_chardev {
    struct chardev chr;
    int out_fd; /* -1 until opened */
    int in_fd;
};

static const struct chardev_option file_options[] = {
    { "path", CHARDEV_OPTION_STRING },
    { "append", CHARDEV_OPTION_BOOL },
    { "input-path", CHARDEV_OPTION_STRING },
    { NULL, 0 },
};

static bool file_open(struct chardev *chr, json_t *options, GError **err)
{
    struct file_chardev *file = (struct file_chardev *)chr;
    g_autofree char *path = chardev_option_string(options, "path");
    g_autofree char *input_path = chardev_option_string(options, "input-path");
    bool append = chardev_option_bool(options, "append", false);

    file->out_fd = file->in_fd = -1;
    if (!path) {
        error_set(err, FERRY_ERROR_USER, "chardev: file: no filename given");
        return false;
    }
    file->out_fd = chardev_open_path(
        chr->set, path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC), "open", err);
    if (file->out_fd < 0) {
        return false;
    }
    if (input_path) {
        file->in_fd = chardev_open_path(chr->set, input_path, O_RDONLY, "open", err);
        if (file->in_fd < 0) {
            return false;
        }
    }
    chardev_use_fds(chr, file->in_fd, file->out_fd);
    chardev_set_connected(chr, true);
    return true;
}

/* The end of the input file is not the end of the chardev: its output goes on. */
static void file_hangup(struct chardev *chr)
{
    chardev_use_fds(chr, -1, chr->out_fd);
}

static void file_close(struct chardev *chr)
{
    struct file_chardev *file = (struct file_chardev *)chr;

    if (file->in_fd >= 0) {
        close(file->in_fd);
    }
    if (file->out_fd >= 0) {
        close(file->out_fd);
    }
}

const struct chardev_ops chardev_file_ops = {
    .name = "file",
    .size = sizeof(struct file_chardev),
    .options = file_options,
    .open = file_open,
    .close = file_close,
    .hangup = file_hangup,
};
