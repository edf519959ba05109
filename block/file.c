/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file or block device behind a node: opening it, what O_DIRECT wants of requests, how long it
 * is. A descriptor from a set (/dev/fdset/N) is as good as a path.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "internal.h"
#include "monitor/monitor.h"
#include "system/vm.h"
#include "util/error.h"

#define ALIGN_MAX 4096 /* no file or disk wants more */

int64_t block_file_length(const struct block_node *node)
{
    struct stat st;
    uint64_t length;

    if (fstat(node->fd, &st) < 0) {
        return -errno;
    }
    length = (uint64_t)st.st_size;
    if (node->is_device && ioctl(node->fd, BLKGETSIZE64, &length) < 0) {
        return -errno;
    }
    if (length > INT64_MAX - BLOCK_SECTOR) {
        return -EFBIG;
    }
    return (int64_t)((length + BLOCK_SECTOR - 1) / BLOCK_SECTOR * BLOCK_SECTOR);
}

/* O_DIRECT's demands where the kernel does not say them: the least that a read takes. */
static bool probe_alignment(struct block_node *node)
{
    void *buffer;
    bool ok = false;

    if (posix_memalign(&buffer, ALIGN_MAX, ALIGN_MAX)) {
        return false;
    }
    for (unsigned size = BLOCK_SECTOR; !ok && size <= ALIGN_MAX; size *= 2) {
        if (pread(node->fd, buffer, size, 0) >= 0 || errno != EINVAL) {
            node->io_align = node->mem_align = size;
            ok = true;
        }
    }
    free(buffer);
    return ok;
}

static void find_alignment(struct block_node *node)
{
    node->mem_align = node->io_align = 1;
    if (!node->direct) {
        return;
    }
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(node->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align) {
        node->mem_align = MAX(stx.stx_dio_mem_align, 1);
        node->io_align = stx.stx_dio_offset_align;
        return;
    }
#endif
    if (!probe_alignment(node)) {
        node->mem_align = node->io_align = ALIGN_MAX;
    }
}

static int open_path(struct block_node *node, bool read_only, GError **err)
{
    int flags = (read_only ? O_RDONLY : O_RDWR) | (node->direct ? O_DIRECT : 0) | O_CLOEXEC;
    struct monitor_set *monitors = node->set->vm->monitors;
    int fd, device_read_only = 0;

    if (monitors && monitor_fdset_is_path(node->filename)) {
        fd = monitor_fdset_open(monitors, node->filename, flags & O_ACCMODE, err);
        /* who opened it does not know how we use it */
        if (fd >= 0 &&
            fcntl(fd, F_SETFL, (fcntl(fd, F_GETFL) & ~O_DIRECT) | (flags & O_DIRECT)) < 0) {
            error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not use '%s' with O_DIRECT",
                            node->filename);
            close(fd);
            return -1;
        }
        return fd;
    }
    /* a pipe has nobody at its other end perhaps */
    fd = open(node->filename, flags | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && !read_only && ioctl(fd, BLKROGET, &device_read_only) == 0 && device_read_only) {
        close(fd); /* the kernel would refuse each write, and not say so before */
        fd = -1;
        errno = EACCES;
    }
    if (fd >= 0) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    } else if (errno == EINVAL && node->direct) {
        error_set(err, FERRY_ERROR_HOST,
                  "Could not open '%s': The filesystem does not support O_DIRECT; use a cache mode "
                  "without it (cache.direct=off)",
                  node->filename);
    } else {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not open '%s'", node->filename);
    }
    return fd;
}

/* What the driver is for. -drive does not say: it takes both. */
static bool check_kind(struct block_node *node, GError **err)
{
    struct stat st;

    if (fstat(node->fd, &st) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not look at '%s'", node->filename);
        return false;
    }
    node->is_device = S_ISBLK(st.st_mode);
    if (node->driver == BLOCKDEV_DRIVER_FILE && !node->from_drive && !S_ISREG(st.st_mode)) {
        error_set(err, FERRY_ERROR_USER,
                  node->is_device ? "'file' driver requires '%s' to be a regular file; block "
                                    "devices have driver=host_device"
                                  : "'file' driver requires '%s' to be a regular file",
                  node->filename);
        return false;
    }
    if (node->driver == BLOCKDEV_DRIVER_HOST_DEVICE && S_ISREG(st.st_mode)) {
        error_set(err, FERRY_ERROR_USER,
                  "'host_device' driver requires '%s' to be either a character or block device; "
                  "files have driver=file",
                  node->filename);
        return false;
    }
    if (!node->is_device && !S_ISREG(st.st_mode)) {
        error_set(err, FERRY_ERROR_USER,
                  "'%s' is neither a file nor a block device; give one that is", node->filename);
        return false;
    }
    return true;
}

bool block_file_open(struct block_node *node, bool auto_read_only, GError **err)
{
    GError *error = NULL;
    int64_t length;

    node->fd = open_path(node, node->read_only, &error);
    if (node->fd < 0 && !node->read_only && auto_read_only &&
        (errno == EACCES || errno == EROFS || errno == EPERM)) {
        node->not_writable = errno;
        g_clear_error(&error);
        node->fd = open_path(node, true, &error);
    }
    if (node->fd < 0) {
        g_propagate_error(err, error);
        return false;
    }
    if (!check_kind(node, err)) {
        return false;
    }
    if (node->is_device) {
        node->driver = BLOCKDEV_DRIVER_HOST_DEVICE;
    }
    length = block_file_length(node);
    if (length < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, (int)-length, "Could not get the size of '%s'",
                        node->filename);
        return false;
    }
    node->length = (uint64_t)length;
    find_alignment(node);
    return true;
}

bool block_file_make_writable(struct block_node *node, GError **err)
{
    int fd = open_path(node, false, err);
    bool ok;

    if (fd < 0) {
        return false;
    }
    ok = dup3(fd, node->fd, O_CLOEXEC) >= 0; /* what has the number keeps it */
    if (ok) {
        node->not_writable = 0;
    } else {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not open '%s' again", node->filename);
    }
    close(fd);
    return ok;
}

bool block_file_is_host_alone(int fd)
{
    static const long local[] = {
        0xef53 /* ext */,       0x58465342 /* xfs */,   0x9123683e /* btrfs */,
        0x01021994 /* tmpfs */, 0x858458f6 /* ramfs */, 0xf2f52010 /* f2fs */,
        0x2fc12fc1 /* zfs */,
    };
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0) {
        for (unsigned i = 0; i < G_N_ELEMENTS(local); i++) {
            if ((long)fs.f_type == local[i]) {
                return true;
            }
        }
    }
    return false;
}

void block_foreach_disk(struct vm *vm, void (*fn)(const struct block_facts *facts, void *opaque),
                        void *opaque)
{
    for (unsigned i = 0; vm->blocks && i < vm->blocks->nodes->len; i++) {
        const struct block_node *node = g_ptr_array_index(vm->blocks->nodes, i);
        const struct block_node *leaf = block_leaf_const(node);
        struct block_facts facts;
        struct stat st;
        int64_t length;

        if (!node->user || !node->user->place || fstat(leaf->fd, &st) < 0) {
            continue;
        }
        /* whoever has the guest may have resized it since; activation will look too */
        length = block_is_active(vm) ? -1 : block_file_length(leaf);
        facts = (struct block_facts){
            .place = node->user->place(node->opaque),
            .name = block_name(node),
            .path = leaf->filename,
            .length = length < 0 ? leaf->length : (uint64_t)length,
            .device = leaf->is_device ? st.st_rdev : st.st_dev,
            .inode = leaf->is_device ? 0 : st.st_ino,
            .read_only = block_is_read_only(node),
            .direct = leaf->direct,
            .no_flush = leaf->no_flush,
            .host_alone = !leaf->is_device && block_file_is_host_alone(leaf->fd),
            .deleted = st.st_nlink == 0,
        };
        fn(&facts, opaque);
    }
}
