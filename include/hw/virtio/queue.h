/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Split virtqueues as the device sees them: VIRTIO specification 1.1, 2.6. Rings and descriptors
 * are the guest's memory and are read once each; addresses, lengths, counts and indices are checked
 * here and nowhere else, before a device sees them. Machine lock held.
 */
#ifndef HW_VIRTIO_QUEUE_H
#define HW_VIRTIO_QUEUE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct virtio_device;
struct virtqueue;

/* A request: what the driver lets the device read (out) and write (in), as host memory. */
struct virtqueue_element {
    struct virtqueue *vq;
    unsigned head;                /* index of its first descriptor */
    unsigned out_count, in_count; /* pieces; descriptors that cross RAM maps have several */
    struct iovec *out, *in;       /* inside this allocation */
    uint64_t *out_addr, *in_addr; /* guest-physical, for the wire */
    uint64_t out_bytes, in_bytes;
    uint32_t generation; /* of the queue when it was popped */
};

/*
 * The next request, g_free(), or NULL: none, or not now (the machine stopped; memory that has not
 * come yet and could not be waited for, or this call of the handler has had as many as others can
 * wait for: the handler is called again), or the guest broke a rule (the device is broken then).
 * size: of the caller's own struct, of which the element is the first member; the rest of it is
 * zero. May drop the machine lock while memory comes; then a reset may have happened, and NULL is
 * returned. On another thread than the I/O thread nothing is waited for.
 */
struct virtqueue_element *virtqueue_pop(struct virtqueue *vq, size_t size);
/* Puts back what was popped last and not pushed. The element stays the caller's. */
void virtqueue_unpop(struct virtqueue *vq, struct virtqueue_element *elem);
/*
 * For a device that keeps requests and does not send them along when it moves: what was popped on
 * the source and not pushed is popped again. Once after a load, before the first pop. False: not
 * now, as with virtqueue_pop().
 */
bool virtqueue_take_back(struct virtqueue *vq);
/* The driver has reset the device or taken back the queue since it was popped. */
bool virtqueue_element_is_stale(const struct virtqueue_element *elem);
/* Gives it back: `written` bytes of `in` were written (marked dirty here). An element from before a
 * reset is ignored. Does not free. */
void virtqueue_push(struct virtqueue *vq, struct virtqueue_element *elem, uint32_t written);
/* For devices that complete several at once: fill each (ahead: 0, 1, ...), then flush. */
void virtqueue_fill(struct virtqueue *vq, struct virtqueue_element *elem, uint32_t written,
                    unsigned ahead);
void virtqueue_flush(struct virtqueue *vq, unsigned count);
/* Interrupts the driver if it wants that (event index, NO_INTERRUPT). */
void virtqueue_notify(struct virtqueue *vq);
/* Whether the driver should say when it adds something: off while the device looks by itself.
 * After switching it on the caller looks once more. On unless switched off. */
void virtqueue_want_kicks(struct virtqueue *vq, bool want);
/* Of a queue whose requests are often done at once: the I/O thread may look for the next by itself
 * instead of waiting for the driver's notification (hw/virtio/virtio-thread.c). */
void virtqueue_want_poll(struct virtqueue *vq);
/* No request waits (or none can be had now). */
bool virtqueue_is_empty(struct virtqueue *vq);
/* The driver has set it up and the device may be used: DRIVER_OK, or a legacy driver, which may be
 * early; the device is not broken. */
bool virtqueue_is_ready(const struct virtqueue *vq);
unsigned virtqueue_index(const struct virtqueue *vq);
/* How large it is before the driver chooses; a power of two. */
void virtqueue_set_default_size(struct virtqueue *vq, unsigned size);
/* Calls the handler soon, on the I/O thread, as a notification would. Any thread. */
void virtqueue_kick(struct virtqueue *vq);

/*
 * A request in flight, on the wire. save() writes one. parse() reads and checks one without looking
 * at any queue (no lock needed); g_free(). load() makes it a request of the queue's again, as it
 * was popped, with size as of virtqueue_pop(); NULL with *err set when it does not fit the queue or
 * its memory is not there. Nothing of the guest's memory is touched; virtqueue_element_wait() waits
 * for it (post-copy) before the request is carried out: on the I/O thread, may drop the lock, false
 * when the request has become stale meanwhile or the machine has stopped.
 */
struct stream_in;
struct stream_out;
struct virtqueue_saved;
void virtqueue_element_save(const struct virtqueue_element *elem, struct stream_out *o);
struct virtqueue_saved *virtqueue_element_parse(struct stream_in *in, GError **err);
/* Whether its out part has a byte at this offset of this piece, or ends there. */
bool virtqueue_saved_has(const struct virtqueue_saved *saved, uint32_t piece, uint64_t offset);
struct virtqueue_element *virtqueue_element_load(struct virtqueue *vq,
                                                 const struct virtqueue_saved *saved, size_t size,
                                                 GError **err);
bool virtqueue_element_wait(struct virtqueue_element *elem);

/* Copies between an iovec and a buffer; the number of bytes copied. */
size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *buf, size_t len);
size_t iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *buf,
                 size_t len);

#endif
