/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The null chardev: takes every byte, gives none. */
#include "chardev-private.h"

static const struct chardev_option null_options[] = {
    { NULL, 0 },
};

static bool null_open(struct chardev *chr, json_t *options G_GNUC_UNUSED,
                      GError **err G_GNUC_UNUSED)
{
    chardev_set_connected(chr, true);
    return true;
}

const struct chardev_ops chardev_null_ops = {
    .name = "null",
    .size = sizeof(struct chardev),
    .options = null_options,
    .open = null_open,
};
