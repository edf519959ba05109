/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disk images: nodes as -blockdev names them, and what a disk device does with one. A node is raw
 * bytes in a file or a block device. Requests are asynchronous: io_uring, or a pool of threads
 * where the host does not allow it.
 *
 * Threads. All calls with the machine lock held. Completions run on the I/O thread's context
 * (virtio_context()), with the machine lock held.
 *
 * Locks. A node that is in use holds the byte-range locks that QEMU takes (block/lock.c has them
 * with their source). On a destination they are taken at the activation; the source gives them up
 * after its last request and takes them back when the guest comes back to it
 * (block_inactivate_all(), block_activate_all()).
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "qapi/qapi-types.h"

struct block_node;
struct block_set; /* all nodes of a machine */
struct vm;

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

/*
 * A request. The caller owns it and the buffers until done() is called, exactly once, never from
 * inside block_submit(). ret: 0 or -errno. offset and bytes are in bytes; reads and writes are
 * checked against the node's length (-EIO outside).
 */
struct block_request {
    enum block_op op;
    bool unmap; /* WRITE_ZEROES: may make a hole */
    bool fua;
    uint64_t offset, bytes;
    const struct iovec *iov;
    unsigned iov_count;
    void (*done)(struct block_request *req, int ret);
    void *opaque;
    struct block_request *next; /* block/'s own */
};

/* Who uses a node. A node has one user. */
struct block_user_ops {
    const char *(*place)(void *opaque); /* the device's name in a stream, for block_facts */
    void (*resized)(void *opaque);      /* block_resize, or the activation, found another length */
    const char *(*qdev)(void *opaque);  /* qom path or id, for query-block */
    BlockDeviceIoStatus (*io_status)(void *opaque); /* NULL: always ok */
    bool (*write_cache)(void *opaque); /* what the guest has set; NULL: as the node says */
    void (*settled)(void *opaque);     /* some requests have been completed one after another */
};

/* From -blockdev: a JSON object as it was given, or (is_json false) of key=value text, flat. From
 * -drive: its key=value text. */
bool block_open_blockdev(struct block_set *set, const json_t *options, bool is_json, GError **err);
bool block_open_drive(struct block_set *set, const json_t *options, GError **err);
void block_print_drive_help(void);
struct block_node *block_find(struct block_set *set, const char *name); /* node-name or drive id */
/* For `info block` (arg: what follows it, or NULL) and `info blockstats`. */
void block_describe(struct vm *vm, const char *arg, GString *out);
void block_describe_stats(struct vm *vm, GString *out);

/* read_only: the user will not write; share: others may write as well (share-rw=on). */
bool block_attach(struct block_node *node, const struct block_user_ops *ops, void *opaque,
                  bool read_only, bool share, GError **err);
/* Also drains what is in flight, without a time limit: buffers and requests are the user's. */
void block_detach(struct block_node *node);

void block_submit(struct block_node *node, struct block_request *req);
/* The user has refused a request that lies outside the disk: for query-blockstats. */
void block_count_invalid(struct block_node *node, enum block_op op);
/* Several submissions are passed to the kernel together between these. block_unplug() calls done()
 * of what is done by then. */
void block_plug(struct block_node *node);
void block_unplug(struct block_node *node);

uint64_t block_length(const struct block_node *node); /* bytes */
bool block_is_read_only(const struct block_node *node);
bool block_write_cache(const struct block_node *node);   /* cache mode has a volatile cache */
unsigned block_alignment(const struct block_node *node); /* of offsets, for cache=none */
enum block_error_action {
    BLOCK_ERROR_REPORT,
    BLOCK_ERROR_IGNORE,
    BLOCK_ERROR_STOP,
    BLOCK_ERROR_ENOSPC
};
/* What -drive says of werror= and rerror=. */
enum block_error_action block_on_error(const struct block_node *node, bool write);
const char *block_name(const struct block_node *node); /* drive id, or node-name: for messages */
const char *block_path(const struct block_node *node); /* of its file, as it was given */
const char *block_node_name(const struct block_node *node);
const char *block_drive_id(const struct block_node *node); /* "" where -blockdev made it */

/*
 * Returns when nothing of the node (of any) is in flight, or false with *err (HOST) naming the disk
 * that has not answered for DRAIN_TIMEOUT_MS. Drops the machine lock meanwhile.
 */
bool block_drain(struct block_node *node, GError **err);
bool block_drain_all(struct vm *vm, GError **err);

/* What the check before a migration compares. Strings are valid during the call. */
struct block_facts {
    const char *place, *name, *path;
    uint64_t length;        /* bytes */
    uint64_t device, inode; /* of the file; of a block device its number and 0 */
    bool read_only, direct, no_flush;
    bool host_alone; /* its filesystem is one that no other host writes to */
    bool deleted;    /* the file has no name any more */
};
void block_foreach_disk(struct vm *vm, void (*fn)(const struct block_facts *facts, void *opaque),
                        void *opaque);

/*
 * The hand-over of the disks, all without effect where there are none.
 *
 * block_flush_all(): what was written is on the disks. Drops the machine lock meanwhile.
 * block_inactivate_all(): drained and flushed; then locks are given up and nothing is submitted any
 * more. Guarantee: on failure everything is as before. Drops the machine lock meanwhile, so the
 * guest must be stopped.
 * block_activate_all(): takes locks, drops what the host has cached where others may have written,
 * looks at lengths again; the guest may run. Guarantee: on failure no lock is held. Nothing happens
 * where the disks are active.
 */
bool block_flush_all(struct vm *vm, GError **err);
/* Begins to flush what is in the host's cache, so that less is left at the hand-over; does not
 * wait. */
void block_flush_ahead(struct vm *vm);
bool block_inactivate_all(struct vm *vm, GError **err);
bool block_activate_all(struct vm *vm, GError **err);
bool block_is_active(struct vm *vm);
/* Monotonic time of the last inactivation in ns; 0: never, or there was no disk in use. */
int64_t block_inactive_since_ns(struct vm *vm);

/* context: gives the main context on which completions are delivered; asked when the first user
 * comes. active: false on a destination, where locks are taken later. */
struct block_set *block_set_new(struct vm *vm, GMainContext *(*context)(struct vm *vm),
                                bool active);
/* NULL is ignored. There must be no users any more. */
void block_set_free(struct block_set *set);

#endif
