/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Nodes and their one user, and the way of a request through them: from the device to the node it
 * uses, from there straight to the file below, where it is checked against the length, given what
 * the cache mode asks for, and handed to the engine.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "system/vm.h"
#include "util/clock.h"
#include "util/error.h"

struct block_set *block_set_new(struct vm *vm, GMainContext *(*context)(struct vm *vm), bool active)
{
    struct block_set *set = g_new0(struct block_set, 1);

    set->vm = vm;
    set->context = context;
    set->active = active;
    set->nodes = g_ptr_array_new();
    cond_init(&set->completed);
    set->fault_path = g_strdup(g_getenv("FERRY_FAIL_BLOCK"));
    return set;
}

void block_set_free(struct block_set *set)
{
    if (!set) {
        return;
    }
    for (unsigned i = 0; set->nodes->len; i = (i + 1) % MAX(set->nodes->len, 1)) {
        struct block_node *node = g_ptr_array_index(set->nodes, i % set->nodes->len);

        if (!node->parents) {
            block_node_free(node);
        }
    }
    if (set->engine) {
        block_engine_free(set->engine);
    }
    g_ptr_array_free(set->nodes, TRUE);
    cond_clear(&set->completed);
    g_free(set->fault_path);
    g_free(set);
}

struct block_node *block_find_node(struct block_set *set, const char *node_name)
{
    for (unsigned i = 0; i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (strcmp(node->name, node_name) == 0) {
            return node;
        }
    }
    return NULL;
}

struct block_node *block_find(struct block_set *set, const char *name)
{
    for (unsigned i = 0; set && i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (node->drive_id && strcmp(node->drive_id, name) == 0) {
            return node;
        }
    }
    return set ? block_find_node(set, name) : NULL;
}

struct block_node *block_node_new(struct block_set *set, const char *name, GError **err)
{
    struct block_node *node;

    if (name && block_find(set, name)) {
        error_set(err, FERRY_ERROR_USER, "Duplicate nodes with node-name='%s'", name);
        return NULL;
    }
    node = g_new0(struct block_node, 1);
    node->set = set;
    node->fd = -1;
    node->name = name ? g_strdup(name) : g_strdup_printf("#block%03u", set->next_name++);
    g_ptr_array_add(set->nodes, node);
    return node;
}

void block_node_free(struct block_node *node)
{
    g_assert(!node->user && !node->in_flight);
    g_ptr_array_remove(node->set->nodes, node);
    if (node->file) {
        node->file->parents--;
        if (node->file->from_drive && !node->file->parents) {
            block_node_free(node->file);
        }
    }
    if (node->fd >= 0) {
        close(node->fd); /* its locks go with it */
    }
    g_free(node->name);
    g_free(node->drive_id);
    g_free(node->filename);
    g_free(node);
}

struct block_node *block_leaf(struct block_node *node)
{
    while (node->file) {
        node = node->file;
    }
    return node;
}

const char *block_name(const struct block_node *node)
{
    return node->drive_id ? node->drive_id : node->name;
}

const char *block_node_name(const struct block_node *node)
{
    return node->name;
}

const char *block_path(const struct block_node *node)
{
    return block_leaf_const(node)->filename;
}

const char *block_drive_id(const struct block_node *node)
{
    return node->drive_id ? node->drive_id : "";
}

uint64_t block_length(const struct block_node *node)
{
    return block_leaf_const(node)->length;
}

bool block_is_read_only(const struct block_node *node)
{
    return node->read_only || (node->file && block_is_read_only(node->file));
}

bool block_write_cache(const struct block_node *node)
{
    return !node->writethrough;
}

unsigned block_alignment(const struct block_node *node)
{
    return block_leaf_const(node)->io_align;
}

enum block_error_action block_on_error(const struct block_node *node, bool write)
{
    return write ? node->werror : node->rerror;
}

bool block_discards(const struct block_node *node)
{
    return node->discard && (!node->file || block_discards(node->file));
}

/* --- the user --- */

bool block_take_locks(struct block_node *node, GError **err)
{
    struct block_node *leaf = block_leaf(node);
    struct block_locks wanted = {
        .uses = BLOCK_PERM_READ | (node->user_writes ? BLOCK_PERM_WRITE : 0),
        .forbids = node->user_shares || leaf->force_share ? 0 : BLOCK_PERM_WRITE,
    };

    if (leaf->locking == ON_OFF_AUTO_OFF ||
        (leaf->locking == ON_OFF_AUTO_AUTO && !block_locks_possible(leaf->fd))) {
        return true;
    }
    return block_locks_change(leaf->fd, leaf->filename, &leaf->locks, wanted, err);
}

void block_drop_locks(struct block_node *node)
{
    struct block_node *leaf = block_leaf(node);

    block_locks_change(leaf->fd, leaf->filename, &leaf->locks, (struct block_locks){}, NULL);
}

/* The engine has delivered what there was. */
static void settle(void *opaque)
{
    struct block_set *set = opaque;

    for (unsigned i = 0; i < set->nodes->len; i++) {
        struct block_node *node = g_ptr_array_index(set->nodes, i);

        if (node->unsettled) {
            node->unsettled = false;
            if (node->user && node->user->settled) {
                node->user->settled(node->opaque);
            }
        }
    }
}

bool block_attach(struct block_node *node, const struct block_user_ops *ops, void *opaque,
                  bool read_only, bool share, GError **err)
{
    struct block_set *set = node->set;
    const struct block_node *leaf = block_leaf_const(node);

    for (struct block_node *n = node; n; n = n->file) {
        if (n->user || (n != node && n->parents > 1)) {
            error_set(err, FERRY_ERROR_USER, "Drive '%s' is already in use by another device",
                      block_name(node));
            return false;
        }
    }
    if (node->parents) {
        error_set(err, FERRY_ERROR_USER,
                  "Node '%s' is in use by another node; give the device the topmost one",
                  node->name);
        return false;
    }
    if (!read_only && block_is_read_only(node)) {
        error_set(err, FERRY_ERROR_USER, "Block node is read-only");
        return false;
    }
    if (!read_only && leaf->not_writable && set->active) {
        error_set(err, FERRY_ERROR_HOST,
                  "Could not open '%s': %s; give readonly=on (read-only=on with -blockdev) for a "
                  "disk that is only read",
                  leaf->filename, g_strerror(leaf->not_writable));
        return false;
    }
    if (!set->engine) {
        set->engine = block_engine_new(set->vm, set->context(set->vm), settle, set, err);
        if (!set->engine) {
            return false;
        }
    }
    node->user_writes = !read_only;
    node->user_shares = share;
    if (set->active && !block_take_locks(node, err)) {
        return false;
    }
    node->user = ops;
    node->opaque = opaque;
    return true;
}

void block_detach(struct block_node *node)
{
    while (!block_drain(node, NULL)) {
    }
    node->user = NULL;
    node->opaque = NULL;
    block_drop_locks(node);
}

/* --- requests --- */

struct block_job {
    struct block_io io; /* first */
    struct block_node *node;
    struct block_request *req;
    int64_t begun_ns;
};

static void count(struct block_job *job, int ret)
{
    struct block_node *node = job->node;
    struct block_request *req = job->req;
    struct block_counters *c = &node->counters[req->op];

    node->last_access_ns = monotonic_ns();
    if (ret < 0) {
        c->failed++;
        return;
    }
    c->ops++;
    c->bytes += req->bytes;
    c->time_ns += node->last_access_ns - job->begun_ns;
    if (req->op == BLOCK_WRITE) {
        node->highest_write = MAX(node->highest_write, req->offset + req->bytes);
    }
}

void block_completed(struct block_node *node)
{
    node->in_flight--;
    if (node->set->waiters) {
        cond_broadcast(&node->set->completed);
    }
}

static void job_done(struct block_io *io, int ret)
{
    struct block_job *job = (struct block_job *)io;
    struct block_request *req = job->req;
    struct block_node *leaf = block_leaf(job->node);

    if (ret < 0 && (io->op == BLOCK_FLUSH || (io->sync && ret == -EIO)) && !leaf->direct) {
        leaf->flush_error = ret;
    }
    count(job, ret);
    job->node->unsettled = true;
    block_completed(job->node);
    g_free(job);
    req->done(req, ret);
}

bool block_fault(const struct block_set *set, enum block_op op)
{
    static const char *const names[] = { [BLOCK_READ] = "read",
                                         [BLOCK_WRITE] = "write",
                                         [BLOCK_FLUSH] = "flush",
                                         [BLOCK_DISCARD] = "discard",
                                         [BLOCK_WRITE_ZEROES] = "zeroes" };
    g_autofree char *text = NULL;

    return set->fault_path && g_file_get_contents(set->fault_path, &text, NULL, NULL) &&
           strstr(text, names[op]);
}

/* What the node itself says to a request: 1 the file decides, 0 done, or -errno. */
static int decide(const struct block_node *node, const struct block_request *req)
{
    const struct block_node *leaf = block_leaf_const(node);

    if (!node->set->active) {
        return -EPERM; /* the disk is another machine's */
    }
    if (req->op == BLOCK_FLUSH && (leaf->no_flush || !node->user_writes)) {
        return 0;
    }
    if (node->set->fault_path && block_fault(node->set, req->op)) {
        return -EIO;
    }
    if (req->op == BLOCK_FLUSH) {
        return leaf->flush_error ? leaf->flush_error : 1;
    }
    if (req->op != BLOCK_READ && !node->user_writes) {
        return -EPERM;
    }
    if (req->offset > leaf->length || req->bytes > leaf->length - req->offset) {
        return -EIO;
    }
    if ((req->offset | req->bytes) % leaf->io_align) {
        return -EINVAL;
    }
    if (req->op == BLOCK_DISCARD && !block_discards(node)) {
        return 0;
    }
    return req->bytes ? 1 : 0;
}

static bool buffers_aligned(const struct block_request *req, unsigned align)
{
    for (unsigned i = 0; align > 1 && i < req->iov_count; i++) {
        if (((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) % align) {
            return false;
        }
    }
    return true;
}

void block_submit(struct block_node *node, struct block_request *req)
{
    struct block_node *leaf = block_leaf(node);
    struct block_job *job = g_new0(struct block_job, 1);
    int ret = decide(node, req);

    job->node = node;
    job->req = req;
    job->begun_ns = monotonic_ns();
    job->io = (struct block_io){
        .op = req->op,
        .fd = leaf->fd,
        .is_device = leaf->is_device,
        .may_unmap = req->unmap && block_discards(node),
        .sync = req->fua && !leaf->no_flush && req->op != BLOCK_READ && req->op != BLOCK_FLUSH,
        .threads_only = leaf->aio == BLOCKDEV_AIO_OPTIONS_THREADS,
        .mem_align = leaf->mem_align,
        .offset = req->offset,
        .bytes = req->bytes,
        .iov = req->iov,
        .iov_count = req->iov_count,
        .done = job_done,
    };
    node->in_flight++;
    if (ret <= 0) {
        block_engine_complete(node->set->engine, &job->io, ret);
        return;
    }
    job->io.bounce = req->op <= BLOCK_WRITE &&
                     !buffers_aligned(req, MAX(leaf->mem_align, leaf->direct ? 1u : 0u));
    block_engine_submit(node->set->engine, &job->io);
}

void block_count_invalid(struct block_node *node, enum block_op op)
{
    node->counters[op].invalid++;
}

void block_plug(struct block_node *node)
{
    block_engine_plug(node->set->engine);
}

void block_unplug(struct block_node *node)
{
    block_engine_unplug_and_reap(node->set->engine);
}
