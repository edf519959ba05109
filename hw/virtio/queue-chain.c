/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a request is made of: the chain of descriptors that begins where the available ring says,
 * collected as host memory; the element that a device gets of it; copies to and from its pieces.
 * queue.c has the rings and calls this for each request. Section numbers are those of the VIRTIO
 * specification 1.1.
 *
 * Trust: none in what descriptors say. Each is read once into a variable and checked there, since
 * the guest may change it meanwhile. A chain has at most as many descriptors as its table, so that
 * a loop ends; it has at most VIRTIO_QUEUE_SIZE_MAX pieces and 4 GiB; every piece is RAM, and not
 * read-only where the device writes. What breaks a rule breaks the device (virtio_error()).
 *
 * Post-copy: while there is a gate, an indirect table is waited for before it is read, and whoever
 * collects a chain waits for its buffers (virtqueue_chain_is_here()); both may drop the lock.
 */
#include "queue-chain.h"

#include <string.h>

#include "system/memory.h"
#include "system/vm.h"

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static struct desc desc_read(const uint8_t *table, unsigned i)
{
    struct desc d;

    memcpy(&d, table + (size_t)i * VIRTQ_DESC_SIZE, sizeof(d)); /* x86: little-endian as is */
    __asm__ volatile("" ::: "memory");                          /* not read again */
    return d;
}

static bool add_pieces(struct virtqueue *vq, struct virtqueue_chain *c, const struct desc *d)
{
    bool write = d->flags & DESC_WRITE;
    uint64_t addr = d->addr, left = d->len;

    if (!left) {
        virtio_error(vq->v, "Queue %u: a buffer has no length", vq->index);
        return false;
    }
    if (!write && c->in_count) {
        virtio_error(vq->v, "Queue %u: a buffer to read stands behind one to write", vq->index);
        return false;
    }
    while (left) {
        unsigned at = c->out_count + c->in_count;
        uint64_t n = left;
        uint8_t *host = memory_ram_span(virtqueue_memory(vq), addr, &n, write);

        if (!host || at == VIRTQUEUE_CHAIN_PIECES) {
            virtio_error(vq->v,
                         host ? "Queue %u: a request has too many pieces (0x%" G_GINT64_MODIFIER
                                "x)"
                              : "Queue %u: buffer 0x%" G_GINT64_MODIFIER "x is not in memory",
                         vq->index, d->addr);
            return false;
        }
        c->iov[at] = (struct iovec){ host, n };
        c->addr[at] = addr;
        *(write ? &c->in_count : &c->out_count) += 1;
        *(write ? &c->in_bytes : &c->out_bytes) += n;
        addr += n;
        left -= n;
    }
    if (c->in_bytes + c->out_bytes > UINT32_MAX) {
        virtio_error(vq->v, "Queue %u: a request has 4 GiB or more", vq->index);
        return false;
    }
    return true;
}

/* An indirect table (2.6.5.3): its bytes, wherever they lie, as one piece. */
static enum virtqueue_walk read_table(struct virtqueue *vq, const struct desc *d, GByteArray **copy,
                                      const uint8_t **table, unsigned *entries)
{
    struct memory *mem = virtqueue_memory(vq);
    uint64_t n = d->len;
    uint32_t generation = vq->generation;
    const uint8_t *host = memory_ram_span(mem, d->addr, &n, false);

    *entries = d->len / VIRTQ_DESC_SIZE;
    if (!d->len || d->len % VIRTQ_DESC_SIZE || *entries > VIRTIO_QUEUE_SIZE_MAX ||
        (d->flags & DESC_NEXT) || !virtio_has(vq->v, VIRTIO_FEATURE_INDIRECT_DESC) || !host) {
        virtio_error(vq->v,
                     "Queue %u: an indirect table of %u bytes at 0x%" G_GINT64_MODIFIER
                     "x, flags 0x%x",
                     vq->index, d->len, d->addr, d->flags);
        return VIRTQUEUE_WALK_BROKEN;
    }
    /* after a reset meanwhile what stands there is no fault of the driver that is there now */
    if (memory_has_gate(mem) &&
        (!memory_is_here(mem, d->addr, d->len) || generation != vq->generation)) {
        return VIRTQUEUE_WALK_LATER;
    }
    if (n == d->len) {
        *table = host;
        return VIRTQUEUE_WALK_DONE;
    }
    *copy = g_byte_array_sized_new(d->len);
    g_byte_array_set_size(*copy, d->len);
    *table = (*copy)->data;
    for (uint64_t at = 0; at < d->len; at += n) {
        n = d->len - at;
        host = memory_ram_span(mem, d->addr + at, &n, false);
        if (!host) {
            virtio_error(vq->v, "Queue %u: an indirect table is not in memory", vq->index);
            return VIRTQUEUE_WALK_BROKEN;
        }
        memcpy((*copy)->data + at, host, n);
    }
    return VIRTQUEUE_WALK_DONE;
}

enum virtqueue_walk virtqueue_walk(struct virtqueue *vq, unsigned head, struct virtqueue_chain *c,
                                   GByteArray **copy)
{
    const uint8_t *table = vq->desc_host;
    unsigned entries = vq->num, seen = 0, i = head;
    bool indirect = false;

    c->out_count = c->in_count = 0;
    c->out_bytes = c->in_bytes = 0;
    for (;;) {
        struct desc d = desc_read(table, i);

        if (++seen > entries) {
            virtio_error(vq->v, "Queue %u: the chain of descriptor %u has a loop", vq->index, head);
            return VIRTQUEUE_WALK_BROKEN;
        }
        if (d.flags & DESC_INDIRECT) {
            enum virtqueue_walk w = VIRTQUEUE_WALK_BROKEN;

            if (indirect) {
                virtio_error(vq->v, "Queue %u: an indirect table in another", vq->index);
            } else {
                w = read_table(vq, &d, copy, &table, &entries);
            }
            if (w != VIRTQUEUE_WALK_DONE) {
                return w;
            }
            indirect = true;
            i = seen = 0;
            continue;
        }
        if (!add_pieces(vq, c, &d)) {
            return VIRTQUEUE_WALK_BROKEN;
        }
        if (!(d.flags & DESC_NEXT)) {
            return VIRTQUEUE_WALK_DONE;
        }
        i = d.next;
        if (i >= entries) {
            virtio_error(vq->v, "Queue %u: descriptor %u of %u is next", vq->index, i, entries);
            return VIRTQUEUE_WALK_BROKEN;
        }
    }
}

bool virtqueue_chain_is_here(struct virtqueue *vq, const struct virtqueue_chain *c)
{
    bool here = true;

    for (unsigned i = 0; here && i < c->out_count + c->in_count; i++) {
        here = memory_is_here(virtqueue_memory(vq), c->addr[i], c->iov[i].iov_len);
    }
    return here;
}

struct virtqueue_element *virtqueue_element_new(struct virtqueue *vq, unsigned head,
                                                unsigned out_count, unsigned in_count,
                                                const struct iovec *iov, const uint64_t *addr,
                                                size_t size)
{
    unsigned pieces = out_count + in_count;
    size_t iov_at = (size + 15) & ~(size_t)15;
    size_t addr_at = iov_at + pieces * sizeof(struct iovec);
    uint8_t *block = g_malloc(addr_at + pieces * sizeof(uint64_t));
    struct virtqueue_element *e = (struct virtqueue_element *)(void *)block;

    memset(block, 0, size);
    memcpy(block + iov_at, iov, pieces * sizeof(struct iovec));
    memcpy(block + addr_at, addr, pieces * sizeof(uint64_t));
    *e = (struct virtqueue_element){
        .vq = vq,
        .head = head,
        .out_count = out_count,
        .in_count = in_count,
        .out = (struct iovec *)(void *)(block + iov_at),
        .out_addr = (uint64_t *)(void *)(block + addr_at),
        .generation = vq->generation,
    };
    e->in = e->out + out_count;
    e->in_addr = e->out_addr + out_count;
    for (unsigned i = 0; i < pieces; i++) {
        *(i < out_count ? &e->out_bytes : &e->in_bytes) += iov[i].iov_len;
    }
    return e;
}

/* ---- iovecs ---- */

static size_t iov_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *buf,
                       size_t len, bool to_iov)
{
    size_t done = 0;

    for (unsigned i = 0; i < count && done < len; i++) {
        uint8_t *base = iov[i].iov_base;
        size_t n;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        n = MIN(iov[i].iov_len - offset, len - done);
        memcpy(to_iov ? base + offset : buf + done, to_iov ? buf + done : base + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *buf, size_t len)
{
    return iov_copy(iov, count, offset, buf, len, false);
}

size_t iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *buf,
                 size_t len)
{
    return iov_copy(iov, count, offset, (uint8_t *)(uintptr_t)buf, len, true);
}
