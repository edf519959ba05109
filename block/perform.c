/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A transfer by plain system calls, on a thread of the pool. This is the whole engine where
 * io_uring is not allowed; where it is, this ends what io_uring did by halves (a short read at the
 * end of a file) and does what is rare: discard, zeroes, buffers that O_DIRECT does not take, more
 * pieces than a system call takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine.h"

/* A guest decides how large a request is, so buffers for it are not. */
#define BUFFER_BYTES (1u << 20)

/* The pieces from byte `skip` on, at most IOV_MAX of them; their number. */
static unsigned pieces_from(const struct iovec *iov, unsigned count, uint64_t skip,
                            struct iovec out[IOV_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < count && n < IOV_MAX; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        out[n].iov_base = (char *)iov[i].iov_base + skip;
        out[n++].iov_len = iov[i].iov_len - skip;
        skip = 0;
    }
    return n;
}

/* Between the guest's buffers, from byte `at` on, and one of ours (NULL: zeroes). */
static void copy(const struct block_io *io, uint64_t at, char *buffer, size_t length, bool to_guest)
{
    for (unsigned i = 0; i < io->iov_count && length; i++) {
        size_t piece = io->iov[i].iov_len, part;

        if (at >= piece) {
            at -= piece;
            continue;
        }
        part = MIN(piece - at, length);
        char *guest = (char *)io->iov[i].iov_base + at;

        if (!buffer) {
            memset(guest, 0, part);
        } else if (to_guest) {
            memcpy(guest, buffer, part);
        } else {
            memcpy(buffer, guest, part);
        }
        buffer = buffer ? buffer + part : NULL;
        length -= part;
        at = 0;
    }
}

/* One system call from io->got on; bytes, 0 at the end of the file, -errno. */
static ssize_t transfer_direct(struct block_io *io)
{
    g_autofree struct iovec *rest = NULL;
    const struct iovec *iov = io->iov;
    unsigned n = io->iov_count;
    off_t at = (off_t)(io->offset + io->got);
    ssize_t ret;

    if (io->got || n > IOV_MAX) {
        iov = rest = g_new(struct iovec, IOV_MAX);
        n = pieces_from(io->iov, io->iov_count, io->got, rest);
    }
    if (io->op == BLOCK_READ) {
        ret = preadv(io->fd, iov, (int)n, at);
    } else {
        ret = pwritev2(io->fd, iov, (int)n, at, io->sync ? RWF_DSYNC : 0);
    }
    return ret < 0 ? -errno : ret;
}

static ssize_t transfer_bounced(struct block_io *io, char *buffer)
{
    size_t length = (size_t)MIN(io->bytes - io->got, BUFFER_BYTES);
    off_t at = (off_t)(io->offset + io->got);
    ssize_t ret;

    if (io->op == BLOCK_READ) {
        ret = pread(io->fd, buffer, length, at);
        if (ret > 0) {
            copy(io, io->got, buffer, (size_t)ret, true);
        }
    } else {
        struct iovec iov = { buffer, length };

        copy(io, io->got, buffer, length, false);
        ret = pwritev2(io->fd, &iov, 1, at, io->sync ? RWF_DSYNC : 0);
    }
    return ret < 0 ? -errno : ret;
}

static int transfer(struct block_io *io)
{
    char *buffer = NULL;
    int error = 0;

    if (io->bounce && posix_memalign((void **)&buffer, MAX(io->mem_align, 4096), BUFFER_BYTES)) {
        return -ENOMEM;
    }
    while (!error && io->got < io->bytes) {
        ssize_t ret = io->bounce ? transfer_bounced(io, buffer) : transfer_direct(io);

        if (ret > 0) {
            io->got += (uint64_t)ret;
        } else if (ret == 0 && io->op == BLOCK_READ) {
            copy(io, io->got, NULL, (size_t)(io->bytes - io->got), true);
            io->got = io->bytes;
        } else if (ret == 0) {
            error = -ENOSPC;
        } else if (ret != -EINTR && ret != -EAGAIN) {
            error = (int)ret;
        }
    }
    free(buffer);
    return error;
}

static int result(int ret)
{
    return ret < 0 ? -errno : 0;
}

/* What the host cannot discard stays, which a guest must expect. */
static int discard(const struct block_io *io)
{
    uint64_t range[2] = { io->offset, io->bytes };
    int ret = io->is_device ? result(ioctl(io->fd, BLKDISCARD, range))
                            : result(fallocate(io->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                               (off_t)io->offset, (off_t)io->bytes));

    return ret == -EOPNOTSUPP || ret == -ENOTTY || ret == -ENOSYS ? 0 : ret;
}

static int write_zero_bytes(const struct block_io *io)
{
    void *zeroes;
    struct block_io write = *io;
    struct iovec iov;
    int ret = 0;

    if (posix_memalign(&zeroes, 4096, BUFFER_BYTES)) {
        return -ENOMEM;
    }
    memset(zeroes, 0, BUFFER_BYTES);
    write.op = BLOCK_WRITE;
    write.bounce = false;
    write.iov = &iov;
    write.iov_count = 1;
    for (uint64_t done = 0; !ret && done < io->bytes; done += write.bytes) {
        write.got = 0;
        write.offset = io->offset + done;
        write.bytes = MIN(io->bytes - done, BUFFER_BYTES);
        iov = (struct iovec){ zeroes, (size_t)write.bytes };
        ret = transfer(&write);
    }
    free(zeroes);
    return ret;
}

static int write_zeroes(const struct block_io *io)
{
    uint64_t range[2] = { io->offset, io->bytes };
    off_t at = (off_t)io->offset, length = (off_t)io->bytes;

    if (io->may_unmap &&
        fallocate(io->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length) == 0) {
        return 0;
    }
    if (io->is_device
            ? ioctl(io->fd, BLKZEROOUT, range) == 0
            : fallocate(io->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, length) == 0) {
        return 0;
    }
    return errno == EOPNOTSUPP || errno == ENOTTY || errno == EINVAL || errno == ENOSYS
               ? write_zero_bytes(io)
               : -errno;
}

int block_io_perform(struct block_io *io)
{
    int ret = -EINVAL;

    switch (io->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return transfer(io);
    case BLOCK_FLUSH:
        return result(fdatasync(io->fd));
    case BLOCK_DISCARD:
        ret = discard(io);
        break;
    case BLOCK_WRITE_ZEROES:
        ret = write_zeroes(io);
        break;
    }
    return ret == 0 && io->sync ? result(fdatasync(io->fd)) : ret;
}
