/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that came and are to come again are given back to the host, so that who touches them waits.
 * That is in the guest's pause, and may be tens of thousands of single pages: they are collected,
 * neighbours joined, and given back some hundred at a time with process_madvise(), which then also
 * makes other CPUs forget them once for all. A kernel that cannot do this for the caller itself
 * (before 6.13) gets them one by one.
 *
 * A file that can be watched for pages that it has and that are not mapped keeps them; they are
 * only taken out of the mapping.
 *
 * Behind a private mapping the file also has pages: one of zeroes for each that was written to.
 *
 * A page is always given back, whether this side believes that the host has one or not: a page that
 * a reader has touched, or that came with a huge one, reads as zero, and nobody would wait for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "migration/postcopy/arrival-internal.h"
#include "util/error.h"

#define BATCH 512u /* at most UIO_MAXIOV */

struct drop {
    int pidfd;                      /* -1: one by one */
    const struct arrival_block *ab; /* whose ranges these are */
    unsigned n;
    size_t bytes;
    struct iovec iov[BATCH];
};

struct drop *drop_new(void)
{
    struct drop *d = g_new0(struct drop, 1);

    d->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    return d;
}

void drop_free(struct drop *d)
{
    if (d) {
        if (d->pidfd >= 0) {
            close(d->pidfd);
        }
        g_free(d);
    }
}

static bool failed(const struct drop *d, GError **err)
{
    error_set_errno(err, FERRY_ERROR_HOST, errno,
                    "Cannot give back pages of memory '%s' that will come again", d->ab->b->idstr);
    return false;
}

static bool punch(const struct drop *d, GError **err)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (fallocate(d->ab->b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (uint8_t *)d->iov[i].iov_base - d->ab->b->host,
                      (off_t)d->iov[i].iov_len) < 0) {
            return failed(d, err);
        }
    }
    return true;
}

/* Takes the pages out of this process's mapping. */
static bool unmap(struct drop *d, GError **err)
{
    if (d->pidfd >= 0 && d->n > 1) {
        ssize_t done =
            syscall(SYS_process_madvise, d->pidfd, d->iov, (size_t)d->n, MADV_DONTNEED, 0);

        if (done == (ssize_t)d->bytes) {
            return true;
        }
        if (done < 0) {
            close(d->pidfd);
            d->pidfd = -1;
        }
    }
    for (unsigned i = 0; i < d->n; i++) {
        if (madvise(d->iov[i].iov_base, d->iov[i].iov_len, MADV_DONTNEED) < 0) {
            return failed(d, err);
        }
    }
    return true;
}

bool drop_flush(struct drop *d, GError **err)
{
    bool ok = true;

    if (!d->n) {
        return true;
    }
    if (d->ab->kind == ARRIVAL_SHARED) {
        ok = punch(d, err);
    } else {
        ok = unmap(d, err) && (d->ab->kind != ARRIVAL_PRIVATE || punch(d, err));
    }
    d->n = 0;
    d->bytes = 0;
    return ok;
}

bool drop_add(struct drop *d, struct arrival_block *ab, uint64_t offset, uint64_t length,
              GError **err)
{
    uint8_t *start = ab->b->host + offset;
    struct iovec *last = d->n ? &d->iov[d->n - 1] : NULL;

    if (ab == d->ab && last && (uint8_t *)last->iov_base + last->iov_len == start) {
        last->iov_len += length;
        d->bytes += length;
        return true;
    }
    if ((ab != d->ab || d->n == BATCH) && !drop_flush(d, err)) {
        return false;
    }
    d->ab = ab;
    d->iov[d->n++] = (struct iovec){ start, length };
    d->bytes += length;
    return true;
}
