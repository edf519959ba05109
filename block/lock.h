/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Locks on images; see lock.c. */
#ifndef BLOCK_LOCK_H
#define BLOCK_LOCK_H

#include <glib.h>
#include <stdbool.h>

/* Bits: what is done with an image, or what others must not do. */
#define BLOCK_PERM_READ   (1u << 0) /* and rely on what was read */
#define BLOCK_PERM_WRITE  (1u << 1)
#define BLOCK_PERM_RESIZE (1u << 3)
#define BLOCK_PERM_COUNT  5

struct block_locks {
    unsigned uses;    /* BLOCK_PERM_* we use */
    unsigned forbids; /* BLOCK_PERM_* others must not use */
};

/* The kernel and the file's filesystem have locks of open files. */
bool block_locks_possible(int fd);

/*
 * Changes the locks of an open file from *held to what is wanted, and *held with it. False with
 * *err (USER: another process is in the way; HOST): the locks are as before.
 */
bool block_locks_change(int fd, const char *filename, struct block_locks *held,
                        struct block_locks wanted, GError **err);

#endif
