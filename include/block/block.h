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

/* Who uses a node; at most one writes. */
struct block_user_ops {
    void (*resized)(void *opaque);     /* block_resize */
    json_t *(*stats)(void *opaque);    /* NULL: none */
    const char *(*qdev)(void *opaque); /* qom path or id, for query-block */
};

/* From -blockdev / blockdev-add: a JSON object. From -drive: the options as given; it makes a node
 * of the name `id` unless if= says that it is for a device the machine makes. */
bool block_open_blockdev(struct block_set *set, const json_t *options, GError **err);
bool block_open_drive(struct block_set *set, const json_t *options, GError **err);
struct block_node *block_find(struct block_set *set, const char *name); /* node-name or drive id */

/* read_only: the user will not write; share: others may write as well (share-rw=on). */
bool block_attach(struct block_node *node, const struct block_user_ops *ops, void *opaque,
                  bool read_only, bool share, GError **err);
void block_detach(struct block_node *node);

void block_submit(struct block_node *node, struct block_request *req);
/* Several submissions are passed to the kernel together between these. */
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
enum block_error_action block_on_error(const struct block_node *node, bool write);

/* Waits until nothing is in flight (drops the machine lock meanwhile). */
void block_drain_all(struct vm *vm);
/* All of it reaches the disks, locks are given up, nothing is submitted any more. Guarantee: on
 * failure everything is as before. */
bool block_inactivate_all(struct vm *vm, GError **err);
/* Takes locks, looks at lengths again; the guest may run. */
bool block_activate_all(struct vm *vm, GError **err);

struct block_set *block_set_new(struct vm *vm);
void block_set_free(struct block_set *set);

#endif
