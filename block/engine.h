/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gets transfers done without blocking who asks: io_uring for reads, writes and flushes, threads
 * for everything else and where the host does not allow io_uring. See engine.c.
 *
 * All calls with the machine lock held, except where said.
 */
#ifndef BLOCK_ENGINE_H
#define BLOCK_ENGINE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block/block.h"

struct block_engine;

/* A transfer; the caller's memory until done(). */
struct block_io {
    enum block_op op;
    int fd;
    bool is_device;    /* a block device: other calls for discard and zeroes */
    bool may_unmap;    /* WRITE_ZEROES */
    bool sync;         /* on stable storage before it is done */
    bool bounce;       /* the buffers are not aligned for O_DIRECT, mem_align says to what */
    bool threads_only; /* not by io_uring */
    unsigned mem_align;
    uint64_t offset, bytes;
    const struct iovec *iov;
    unsigned iov_count;
    /* ret: 0 or -errno; a read beyond the end of a file gives zeroes. Called by
     * block_engine_reap(), never from inside a submission. */
    void (*done)(struct block_io *io, int ret);

    /* the engine's own */
    struct block_io *next;
    uint64_t got;
    int ret;
};

/* Completions are delivered on the context, with the lock taken for them. NULL with *err (HOST).
 * delivered: called after one or several done() in a row. */
struct block_engine *block_engine_new(struct vm *vm, GMainContext *context,
                                      void (*delivered)(void *opaque), void *opaque, GError **err);
/* Nothing is in flight, and nobody serves the context any more. */
void block_engine_free(struct block_engine *e);

void block_engine_submit(struct block_engine *e, struct block_io *io);
/* Calls done() with this soon. */
void block_engine_complete(struct block_engine *e, struct block_io *io, int ret);
/* Between these, submissions are collected. They nest. */
void block_engine_plug(struct block_engine *e);
void block_engine_unplug(struct block_engine *e);
/* The same, and delivers what is done already: transfers from the page cache are, usually. */
void block_engine_unplug_and_reap(struct block_engine *e);

/* What was collected goes now, whoever collects: for who waits for it. */
void block_engine_push(struct block_engine *e);

/* Whether the thread that calls has to deliver completions itself, because nobody serves the
 * context; then it holds the context until block_engine_release(). */
bool block_engine_acquire(struct block_engine *e);
void block_engine_release(struct block_engine *e);
/* Delivers what has completed. */
void block_engine_reap(struct block_engine *e);
/* Sleeps until something completes, at most so long. Without the machine lock. */
void block_engine_sleep(struct block_engine *e, int timeout_ms);

/* Whether this host allows io_uring to this process. Any thread, no lock. */
bool block_uring_possible(GError **err);
/* For tests and for hosts where it is broken: FERRY_BLOCK_AIO=threads in the environment. */

/* Does the transfer on the calling thread; 0 or -errno. io->got bytes are done already. Any thread,
 * no lock. */
int block_io_perform(struct block_io *io);

#endif
