/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between queue.c, which has the rings, and queue-chain.c, which has what a request is made of. */
#ifndef HW_VIRTIO_QUEUE_CHAIN_H
#define HW_VIRTIO_QUEUE_CHAIN_H

#include "virtio-internal.h"

#define VIRTQUEUE_CHAIN_PIECES VIRTIO_QUEUE_SIZE_MAX

/* A request while it is collected: out pieces, then in pieces. */
struct virtqueue_chain {
    unsigned out_count, in_count;
    uint64_t out_bytes, in_bytes;
    struct iovec iov[VIRTQUEUE_CHAIN_PIECES];
    uint64_t addr[VIRTQUEUE_CHAIN_PIECES];
};

enum virtqueue_walk {
    VIRTQUEUE_WALK_DONE,
    VIRTQUEUE_WALK_LATER, /* memory that has not come: asked for, not here yet */
    VIRTQUEUE_WALK_BROKEN /* the device is */
};

/*
 * Collects the chain that begins at descriptor head, which is below the queue's size, into *c.
 * *copy: NULL, or becomes an indirect table's bytes; the caller frees it when the chain is done
 * with. Machine lock held; may drop it while there is a gate.
 */
enum virtqueue_walk virtqueue_walk(struct virtqueue *vq, unsigned head, struct virtqueue_chain *c,
                                   GByteArray **copy);
/* With a gate: waits until its buffers are there; false: not now. May drop the lock. */
bool virtqueue_chain_is_here(struct virtqueue *vq, const struct virtqueue_chain *c);

#endif
