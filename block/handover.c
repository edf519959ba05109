/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who has the disks. Requests end, what was written reaches the disks, the locks go: from then on
 * another machine may have them; and the way back.
 *
 * A disk that does not answer must not hold a migration for ever: waiting for requests and for
 * flushes has a deadline. A flush that is late goes on in its thread; the machine keeps its disks.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

#include "internal.h"
#include "system/vm.h"
#include "util/clock.h"
#include "util/error.h"

#define DRAIN_TIMEOUT_MS 30000
#define FLUSH_TIMEOUT_MS 60000
/* Others see that they may have it no more within moments; then it is there. */
#define LOCK_TIMEOUT_MS 1000
#define LOCK_RETRY_US   500
#define SLEEP_MS        50

static struct block_node *busy_node(struct block_set *set, const struct block_node *only)
{
    for (unsigned i = 0; i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (node->in_flight && (!only || node == only)) {
            return node;
        }
    }
    return NULL;
}

/* Lets completions be delivered, here or by the thread that does it usually. Drops the lock. */
static void let_complete(struct block_set *set)
{
    block_engine_push(set->engine);
    if (block_engine_acquire(set->engine)) {
        block_engine_reap(set->engine);
        if (busy_node(set, NULL)) {
            vm_unlock(set->vm);
            block_engine_sleep(set->engine, SLEEP_MS);
            vm_lock(set->vm);
            block_engine_reap(set->engine);
        }
        block_engine_release(set->engine);
        return;
    }
    set->waiters++;
    cond_wait_until(&set->completed, &set->vm->lock, g_get_monotonic_time() + SLEEP_MS * 1000);
    set->waiters--;
}

static bool drain(struct block_set *set, const struct block_node *only, GError **err)
{
    int64_t end = monotonic_ns() + DRAIN_TIMEOUT_MS * INT64_C(1000000);
    const struct block_node *busy;

    while ((busy = busy_node(set, only))) {
        if (monotonic_ns() > end) {
            error_set(err, FERRY_ERROR_HOST,
                      "Disk '%s' has not answered %u requests for %u seconds; look after '%s'",
                      block_name(busy), busy->in_flight, DRAIN_TIMEOUT_MS / 1000,
                      block_leaf_const(busy)->filename);
            return false;
        }
        let_complete(set);
    }
    return true;
}

bool block_drain(struct block_node *node, GError **err)
{
    return drain(node->set, node, err);
}

bool block_drain_all(struct vm *vm, GError **err)
{
    return !vm->blocks || drain(vm->blocks, NULL, err);
}

/* --- flush --- */

struct flush {
    struct block_io io; /* first */
    struct block_node *node;
    bool done, abandoned;
    int ret;
};

static void flush_done(struct block_io *io, int ret)
{
    struct flush *f = (struct flush *)io;

    block_completed(f->node);
    f->node->flushing = false;
    f->done = true;
    f->ret = ret;
    if (f->abandoned) {
        if (ret < 0 && !block_leaf(f->node)->direct) {
            block_leaf(f->node)->flush_error = ret;
        }
        g_free(f);
    }
}

static bool needs_flush(const struct block_node *node)
{
    return node->user && node->user_writes;
}

static bool flush_result(struct flush *f, GError **err)
{
    struct block_node *leaf = block_leaf(f->node);
    int ret = leaf->flush_error ? leaf->flush_error : f->ret;

    if (!f->done) {
        f->abandoned = true;
        error_set(err, FERRY_ERROR_HOST,
                  "What was written to disk '%s' has not reached '%s' within %u seconds",
                  block_name(f->node), leaf->filename, FLUSH_TIMEOUT_MS / 1000);
        return false;
    }
    if (ret < 0) {
        leaf->flush_error = leaf->direct ? 0 : ret;
        error_set_errno(err, FERRY_ERROR_HOST, -ret,
                        "What was written to disk '%s' does not reach '%s'", block_name(f->node),
                        leaf->filename);
    }
    g_free(f);
    return ret >= 0;
}

static struct flush *start_flush(struct block_node *node)
{
    struct flush *f = g_new0(struct flush, 1);

    f->node = node;
    f->io = (struct block_io){
        .op = BLOCK_FLUSH, .fd = block_leaf(node)->fd, .threads_only = true, .done = flush_done
    };
    node->in_flight++;
    node->flushing = true;
    if (block_fault(node->set, BLOCK_FLUSH)) {
        block_engine_complete(node->set->engine, &f->io, -EIO);
    } else {
        block_engine_submit(node->set->engine, &f->io);
    }
    return f;
}

void block_flush_ahead(struct vm *vm)
{
    struct block_set *set = vm->blocks;

    for (unsigned i = 0; set && i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (needs_flush(node) && !block_leaf(node)->direct && !node->flushing) {
            start_flush(node)->abandoned = true;
        }
    }
}

/* Also with cache=unsafe: who takes the disk over reads it from elsewhere. */
bool block_flush_all(struct vm *vm, GError **err)
{
    struct block_set *set = vm->blocks;
    int64_t end = monotonic_ns() + FLUSH_TIMEOUT_MS * INT64_C(1000000);
    g_autoptr(GPtrArray) flushes = g_ptr_array_new();
    bool ok = true;

    if (!set) {
        return true;
    }
    for (unsigned i = 0; i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (needs_flush(node)) {
            g_ptr_array_add(flushes, start_flush(node));
        }
    }
    for (unsigned i = 0; i < flushes->len; i++) {
        struct flush *f = g_ptr_array_index(flushes, i);

        while (!f->done && monotonic_ns() < end) {
            let_complete(set);
        }
        ok = flush_result(f, ok ? err : NULL) && ok;
    }
    return ok;
}

/* --- give and take --- */

bool block_is_active(struct vm *vm)
{
    return !vm->blocks || vm->blocks->active;
}

int64_t block_inactive_since_ns(struct vm *vm)
{
    return vm->blocks ? vm->blocks->inactive_ns : 0;
}

/* Whether there was a disk. */
static bool drop_all_locks(struct block_set *set)
{
    bool any = false;

    for (unsigned i = 0; i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (node->user) {
            block_drop_locks(node);
            any = true;
        }
    }
    return any;
}

bool block_inactivate_all(struct vm *vm, GError **err)
{
    struct block_set *set = vm->blocks;

    if (!set || !set->active) {
        return true;
    }
    if (!drain(set, NULL, err) || !block_flush_all(vm, err)) {
        return false;
    }
    set->active = false;
    set->inactive_ns = drop_all_locks(set) ? monotonic_ns() : 0;
    return true;
}

/* Some storage can be written on one host at a time: that it is our turn may show only now. */
static bool take(struct block_node *node, GError **err)
{
    struct block_node *leaf = block_leaf(node);

    if (node->user_writes && leaf->not_writable && !block_file_make_writable(leaf, err)) {
        return false;
    }
    return block_take_locks(node, err);
}

/* Locks, and what the other machine has changed. */
static bool activate(struct block_node *node, int64_t end, GError **err)
{
    struct block_node *leaf = block_leaf(node);
    GError *error = NULL;
    int64_t length;

    while (!take(node, &error)) {
        if (monotonic_ns() > end) {
            g_propagate_prefixed_error(err, error, "Disk '%s': ", block_name(node));
            return false;
        }
        g_clear_error(&error);
        g_usleep(LOCK_RETRY_US);
    }
    if (leaf->is_device || !block_file_is_host_alone(leaf->fd)) {
        posix_fadvise(leaf->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    length = block_file_length(leaf);
    if (length < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, (int)-length,
                        "Disk '%s': The size of '%s' cannot be found out", block_name(node),
                        leaf->filename);
        return false;
    }
    leaf->flush_error = 0;
    if (leaf->length != (uint64_t)length) {
        leaf->length = (uint64_t)length;
        if (node->user->resized) {
            node->user->resized(node->opaque);
        }
    }
    return true;
}

bool block_activate_all(struct vm *vm, GError **err)
{
    struct block_set *set = vm->blocks;
    int64_t end = monotonic_ns() + LOCK_TIMEOUT_MS * INT64_C(1000000);

    if (!set || set->active) {
        return true;
    }
    for (unsigned i = 0; i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (node->user && !activate(node, end, err)) {
            drop_all_locks(set);
            return false;
        }
    }
    set->active = true;
    return true;
}
