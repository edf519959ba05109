/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Locks on images, so that two machines do not write one disk. They are those that QEMU takes
 * (observed with strace and /proc/locks on QEMU 7.2), so that Ferry and QEMU keep each other out.
 *
 * An image has two rows of one-byte locks, at 100 and at 200, with a byte for each permission: 0
 * consistent read, 1 write, 2 write of what is there already, 3 resize, 4 change of the node graph.
 * Who uses a permission holds 100+n, who wants nobody else to use it holds 200+n. All are shared
 * locks of the open file (F_OFD_SETLK); a conflict is that another one holds the byte in the other
 * row, which F_OFD_GETLK for an exclusive lock tells. So:
 *
 *   a disk that is written          100 101      201
 *   the same with share-rw=on       100 101
 *   a disk that is only read        100          201
 *   that with share-rw=on           100
 *   a node that no device uses      nothing
 *
 * Locks are taken first and looked at then: of two who come at the same time, one at least sees the
 * other. Both may; both are then refused, which is safe.
 */
#include "lock.h"

#include <errno.h>
#include <fcntl.h>

#include "util/error.h"

#define USES_AT    100
#define FORBIDS_AT 200

static const char *const perm_names[BLOCK_PERM_COUNT] = { "consistent read", "write",
                                                          "write unchanged", "resize",
                                                          "change children" };

static int set_lock(int fd, int at, short type)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

/* 1: another open file holds the byte, 0: none, or -errno. */
static int held_by_other(int fd, int at)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        return -errno;
    }
    return lock.l_type != F_UNLCK;
}

bool block_locks_possible(int fd)
{
    return held_by_other(fd, 0) >= 0;
}

static void drop(int fd, unsigned perms, int row)
{
    for (int i = 0; i < BLOCK_PERM_COUNT; i++) {
        if (perms >> i & 1) {
            set_lock(fd, row + i, F_UNLCK);
        }
    }
}

static bool fail(int ret, const char *filename, const char *kind, int perm, GError **err)
{
    if (ret > 0 || ret == -EAGAIN || ret == -EACCES) {
        error_set(err, FERRY_ERROR_USER,
                  "Failed to get %s\"%s\" lock: Is another process using the image [%s]?", kind,
                  perm_names[perm], filename);
    } else {
        error_set_errno(err, FERRY_ERROR_HOST, -ret,
                        "Image '%s' cannot be locked, locking=off does without", filename);
    }
    return false;
}

static bool take(int fd, const char *filename, unsigned perms, int row, GError **err)
{
    for (int i = 0; i < BLOCK_PERM_COUNT; i++) {
        int ret = perms >> i & 1 ? set_lock(fd, row + i, F_RDLCK) : 0;

        if (ret < 0) {
            return fail(ret, filename, row == FORBIDS_AT ? "shared " : "", i, err);
        }
    }
    return true;
}

/* Nobody forbids what we use, nobody uses what we forbid. */
static bool check(int fd, const char *filename, struct block_locks wanted, GError **err)
{
    for (int i = 0; i < BLOCK_PERM_COUNT; i++) {
        int ret = wanted.uses >> i & 1 ? held_by_other(fd, FORBIDS_AT + i) : 0;

        if (ret) {
            return fail(ret, filename, "", i, err);
        }
        ret = wanted.forbids >> i & 1 ? held_by_other(fd, USES_AT + i) : 0;
        if (ret) {
            return fail(ret, filename, "shared ", i, err);
        }
    }
    return true;
}

bool block_locks_change(int fd, const char *filename, struct block_locks *held,
                        struct block_locks wanted, GError **err)
{
    struct block_locks added = { wanted.uses & ~held->uses, wanted.forbids & ~held->forbids };

    if (!take(fd, filename, added.uses, USES_AT, err) ||
        !take(fd, filename, added.forbids, FORBIDS_AT, err) || !check(fd, filename, wanted, err)) {
        drop(fd, added.uses, USES_AT);
        drop(fd, added.forbids, FORBIDS_AT);
        return false;
    }
    drop(fd, held->uses & ~wanted.uses, USES_AT);
    drop(fd, held->forbids & ~wanted.forbids, FORBIDS_AT);
    *held = wanted;
    return true;
}
