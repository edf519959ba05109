/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between the files of hw/virtio: queues, the transport, the machine's set of virtio devices. */
#ifndef HW_VIRTIO_INTERNAL_H
#define HW_VIRTIO_INTERNAL_H

#include <limits.h>

#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"
#include "system/vm.h"

#define VIRTIO_ISR_QUEUE  1
#define VIRTIO_ISR_CONFIG 2

#define VIRTQ_DESC_SIZE 16u

struct virtqueue {
    struct virtio_device *v;
    unsigned index;
    unsigned num_default; /* its size before the driver chooses; part of the stream */
    unsigned num;         /* what the driver chose */
    void (*handler)(struct virtio_device *v, struct virtqueue *vq);

    /* Guest-physical; all 0 while the driver has not given a ring. */
    uint64_t desc, avail, used;
    uint32_t align; /* legacy: of the used ring */
    /* The same as host memory, not NULL while `enabled`. */
    uint8_t *desc_host, *avail_host, *used_host;
    bool enabled;

    uint16_t last_avail;
    uint16_t used_index; /* ours; of a ring that was loaded it is read from memory at first use */
    bool used_known;
    uint16_t signalled; /* used_index when the driver was last told, or chose not to be */
    bool signalled_valid;
    bool want_kicks;
    bool wants_poll;     /* see virtqueue_want_poll() */
    bool unheard;        /* the I/O thread looks: want_kicks stays off, whatever the device says */
    unsigned in_use;     /* popped and not pushed */
    unsigned filled;     /* entries of the used ring behind its index, see virtqueue_fill() */
    uint32_t generation; /* counts resets: elements of an older one are stale */
    unsigned turn;       /* requests that this call of the handler may still pop: virtio-thread.c */

    int kick_fd; /* an eventfd: the guest's notification and ours */
    bool direct; /* the guest's write signals kick_fd by itself (ioeventfd) */
};

static inline struct memory *virtqueue_memory(const struct virtqueue *vq)
{
    return vq->v->dev.vm->memory;
}

/* No limit: outside of a call of the handler. */
#define VIRTQUEUE_NO_TURN UINT_MAX

struct virtqueue *virtqueue_new(struct virtio_device *v, unsigned size,
                                void (*handler)(struct virtio_device *v, struct virtqueue *vq));
void virtqueue_free(struct virtqueue *vq);
/* As after power-on. */
void virtqueue_reset(struct virtqueue *vq);
/*
 * The driver has given the ring's addresses (and its size before): checks alignment and that they
 * are RAM, and uses them from now on. False: the device is broken.
 */
bool virtqueue_enable(struct virtqueue *vq);
/* The driver takes the ring back; what is in flight becomes stale. Its size stays. */
void virtqueue_disable(struct virtqueue *vq);
/* Its addresses from one, the way legacy drivers say it. */
void virtqueue_set_legacy_ring(struct virtqueue *vq, uint64_t addr);
/* What is wrong with num, align and addresses, or NULL; also for what a stream brought. */
const char *virtqueue_check_layout(unsigned num, uint64_t desc, uint64_t avail, uint64_t used);

/* Nothing is in flight, and looking waits for nobody (no gate): new requests can be looked for. */
bool virtqueue_may_poll(const struct virtqueue *vq);
/* The driver has added something. Only if virtqueue_may_poll(). */
bool virtqueue_waits(const struct virtqueue *vq);
/* Where the driver says how much it has added, and what it has said of what was popped: another
 * value there is something new. For virtqueue_glimpse(), without the lock. */
const uint8_t *virtqueue_avail_index(const struct virtqueue *vq, uint16_t *seen);
uint16_t virtqueue_glimpse(const uint8_t *avail_index);

/* With a gate: waits until the ring is there. May drop the lock. */
bool virtqueue_rings_are_here(struct virtqueue *vq);
struct virtqueue_element *virtqueue_element_new(struct virtqueue *vq, unsigned head,
                                                unsigned out_count, unsigned in_count,
                                                const struct iovec *iov, const uint64_t *addr,
                                                size_t size);

static inline struct virtqueue *virtio_queue(struct virtio_device *v, unsigned index)
{
    return index < v->queues_shown ? g_ptr_array_index(v->queues, index) : NULL;
}

/* Interrupts with this bit of the ISR. */
void virtio_interrupt(struct virtio_device *v, uint8_t isr);
/* The driver (status 0) or the machine resets the device. May drop the lock. */
void virtio_reset(struct virtio_device *v, bool by_driver);
/* The driver's view of the device, for the transport. */
void virtio_set_status(struct virtio_device *v, uint8_t status);
void virtio_set_features(struct virtio_device *v, uint64_t features);
uint32_t virtio_config_read(struct virtio_device *v, unsigned offset, unsigned size);
void virtio_config_write(struct virtio_device *v, unsigned offset, uint32_t value, unsigned size);

/* Puts the registers of a transport into v->slot; virtio_mmio_unplug() frees them. */
void virtio_mmio_plug(struct virtio_device *v);
void virtio_mmio_unplug(struct virtio_device *v);
/* By the driver: selectors and the page size stay, as drivers know them from QEMU. */
void virtio_mmio_reset(struct virtio_device *v, bool by_driver);
/* Where the driver notifies queues, guest-physical: four bytes, the queue's index. */
uint64_t virtio_mmio_notify_address(const struct virtio_device *v);
/* The interrupt line follows v->isr. */
void virtio_mmio_update_irq(struct virtio_device *v);
bool virtio_mmio_is_legacy(const struct virtio_device *v);

/* The section of a device in the stream (virtio-wire.c). */
void virtio_wire_register(struct virtio_device *v);

/* The machine's virtio devices (virtio-thread.c). */
void virtio_thread_add(struct virtio_device *v);
void virtio_thread_remove(struct virtio_device *v);
/* Calls the queue's handler when its kick_fd is written to, until that is closed. */
void virtio_thread_watch(struct virtqueue *vq);
/* True on the I/O thread. */
bool virtio_on_thread(struct vm *vm);

#endif
