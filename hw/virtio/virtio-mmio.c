/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtio over MMIO: the registers of VIRTIO specification 1.1, 4.2.2 (version 2) and 4.2.4 (legacy,
 * version 1), in one of the machine's slots. Registers are four bytes wide, other accesses to them
 * read zero and write nothing; the configuration space from 0x100 takes 1, 2 and 4 bytes.
 *
 * One table says which register each version has; what is not in it reads as zero.
 *
 * The interrupt is a level: high while the interrupt status is not zero. Machine lock held.
 */
#include <string.h>

#include "hw/misc/virtio-slot.h"
#include "system/memory.h"
#include "system/vm.h"
#include "virtio-mmio.h"

#define MAGIC  0x74726976 /* "virt" */
#define VENDOR 0x554d4551 /* "QEMU", what drivers see there on this machine */
#define NOTIFY 0x050
#define CONFIG 0x100

#define LEGACY 1
#define MODERN 2
#define BOTH   (LEGACY | MODERN)

/* 4.2.2.1: no shared memory region answers with a length of -1. */
#define NO_REGION UINT32_MAX

static struct virtqueue *selected(struct virtio_mmio *m)
{
    return virtio_queue(m->v, m->queue_sel);
}

/* ---- what can be read ---- */

static uint32_t read_magic(struct virtio_mmio *m G_GNUC_UNUSED)
{
    return MAGIC;
}

static uint32_t read_version(struct virtio_mmio *m)
{
    return m->legacy ? 1 : 2;
}

static uint32_t read_device_id(struct virtio_mmio *m)
{
    return virtio_class_of(m->v)->device_id;
}

static uint32_t read_vendor(struct virtio_mmio *m G_GNUC_UNUSED)
{
    return VENDOR;
}

static uint32_t read_features(struct virtio_mmio *m)
{
    uint64_t features = m->v->host_features;

    return m->host_features_sel ? (uint32_t)(features >> 32) : (uint32_t)features;
}

static uint32_t read_queue_num_max(struct virtio_mmio *m)
{
    /* as drivers know it from QEMU: the same for every queue, whatever its default is */
    return selected(m) ? VIRTIO_QUEUE_SIZE_MAX : 0;
}

static uint32_t read_queue_pfn(struct virtio_mmio *m)
{
    struct virtqueue *vq = selected(m);

    return vq ? (uint32_t)(vq->desc >> m->guest_page_shift) : 0;
}

static uint32_t read_queue_ready(struct virtio_mmio *m)
{
    return m->queue_sel < VIRTIO_QUEUE_MAX && m->queues[m->queue_sel].ready;
}

static uint32_t read_isr(struct virtio_mmio *m)
{
    return m->v->isr;
}

static uint32_t read_status(struct virtio_mmio *m)
{
    return m->v->status;
}

static uint32_t read_no_region(struct virtio_mmio *m G_GNUC_UNUSED)
{
    return NO_REGION;
}

static uint32_t read_generation(struct virtio_mmio *m)
{
    return m->v->config_generation;
}

/* ---- what can be written ---- */

static void write_host_features_sel(struct virtio_mmio *m, uint32_t value)
{
    m->host_features_sel = value ? 1 : 0;
}

static void write_guest_features_sel(struct virtio_mmio *m, uint32_t value)
{
    m->guest_features_sel = value ? 1 : 0;
}

/* Legacy: at once. Version 2: collected until FEATURES_OK. */
static void write_guest_features(struct virtio_mmio *m, uint32_t value)
{
    if (m->legacy) {
        /* not any more once it is in use: devices could not take back what they do by them */
        if (!m->guest_features_sel && !(m->v->status & VIRTIO_STATUS_DRIVER_OK)) {
            virtio_set_features(m->v, value);
        }
    } else if (!m->accepted) {
        m->guest_features[m->guest_features_sel] = value;
    }
}

static void write_guest_page_size(struct virtio_mmio *m, uint32_t value)
{
    m->guest_page_shift = value ? (uint32_t)__builtin_ctz(value) : 0;
}

static void write_queue_sel(struct virtio_mmio *m, uint32_t value)
{
    if (value < VIRTIO_QUEUE_MAX) {
        m->queue_sel = (uint16_t)value;
    }
}

static void write_queue_num(struct virtio_mmio *m, uint32_t value)
{
    struct virtqueue *vq = selected(m);

    if (!vq || vq->enabled) {
        return;
    }
    if (!value || value > VIRTIO_QUEUE_SIZE_MAX || (value & (value - 1))) {
        virtio_error(m->v, "Queue %u cannot have %u entries", vq->index, value);
        return;
    }
    vq->num = value;
    m->queues[vq->index].num = (uint16_t)value;
}

static void write_queue_align(struct virtio_mmio *m, uint32_t value)
{
    struct virtqueue *vq = selected(m);

    if (!vq || vq->enabled) {
        return;
    }
    if (!value || (value & (value - 1))) {
        virtio_error(m->v, "Queue %u cannot be aligned to %u bytes", vq->index, value);
        return;
    }
    vq->align = value;
}

static void write_queue_pfn(struct virtio_mmio *m, uint32_t value)
{
    struct virtqueue *vq = selected(m);

    if (!value) {
        virtio_reset(m->v, true); /* how legacy drivers let a device go */
    } else if (vq && !vq->enabled) {
        virtqueue_set_legacy_ring(vq, (uint64_t)value << m->guest_page_shift);
        virtqueue_enable(vq);
    }
}

static uint64_t address(const uint32_t half[2])
{
    return (uint64_t)half[1] << 32 | half[0];
}

static void write_queue_ready(struct virtio_mmio *m, uint32_t value)
{
    struct virtqueue *vq = selected(m);
    struct virtio_mmio_queue *q;

    if (!vq) {
        return;
    }
    q = &m->queues[vq->index];
    if (!(value & 1)) {
        q->ready = 0;
        virtqueue_disable(vq);
    } else if (!vq->enabled) {
        vq->desc = address(q->desc);
        vq->avail = address(q->avail);
        vq->used = address(q->used);
        q->ready = virtqueue_enable(vq);
    }
}

static void write_queue_notify(struct virtio_mmio *m, uint32_t value)
{
    struct virtqueue *vq = virtio_queue(m->v, value);

    if (vq) {
        virtqueue_kick(vq);
    }
}

static void write_interrupt_ack(struct virtio_mmio *m, uint32_t value)
{
    if (!(m->v->isr & value)) {
        return;
    }
    m->v->isr &= (uint8_t)~value;
    vm_irq_set(m->v->dev.vm, m->gsi, false);
    if (m->v->isr) {
        virtio_mmio_update_irq(m->v); /* what came meanwhile: a new edge where edges count */
    }
}

/* 3.1.1 and 6: the driver may only have what was offered, and not do without VERSION_1. */
static bool accept_features(struct virtio_mmio *m)
{
    uint64_t features = address(m->guest_features);

    if ((features & ~m->v->host_features) || !(features >> VIRTIO_FEATURE_VERSION_1 & 1)) {
        return false;
    }
    virtio_set_features(m->v, features);
    m->accepted = true;
    return true;
}

static void write_status(struct virtio_mmio *m, uint32_t value)
{
    uint8_t status = (uint8_t)value;

    if (!m->legacy && !m->accepted && (status & VIRTIO_STATUS_FEATURES_OK) && !accept_features(m)) {
        status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* the driver reads it back */
    }
    virtio_set_status(m->v, status);
}

#define WRITE_HALF(name, part, half)                                                               \
    static void write_##name(struct virtio_mmio *m, uint32_t value)                                \
    {                                                                                              \
        struct virtqueue *vq = selected(m);                                                        \
                                                                                                   \
        if (vq && !vq->enabled) {                                                                  \
            m->queues[vq->index].part[half] = value;                                               \
        }                                                                                          \
    }
WRITE_HALF(desc_low, desc, 0)
WRITE_HALF(desc_high, desc, 1)
WRITE_HALF(avail_low, avail, 0)
WRITE_HALF(avail_high, avail, 1)
WRITE_HALF(used_low, used, 0)
WRITE_HALF(used_high, used, 1)

/* ---- the table ---- */

static const struct mmio_register {
    uint32_t (*read)(struct virtio_mmio *m);
    void (*write)(struct virtio_mmio *m, uint32_t value);
    unsigned versions;
} registers[CONFIG / 4] = {
    [0x000 / 4] = { read_magic, NULL, BOTH },
    [0x004 / 4] = { read_version, NULL, BOTH },
    [0x008 / 4] = { read_device_id, NULL, BOTH },
    [0x00c / 4] = { read_vendor, NULL, BOTH },
    [0x010 / 4] = { read_features, NULL, BOTH },
    [0x014 / 4] = { NULL, write_host_features_sel, BOTH },
    [0x020 / 4] = { NULL, write_guest_features, BOTH },
    [0x024 / 4] = { NULL, write_guest_features_sel, BOTH },
    [0x028 / 4] = { NULL, write_guest_page_size, LEGACY },
    [0x030 / 4] = { NULL, write_queue_sel, BOTH },
    [0x034 / 4] = { read_queue_num_max, NULL, BOTH },
    [0x038 / 4] = { NULL, write_queue_num, BOTH },
    [0x03c / 4] = { NULL, write_queue_align, LEGACY },
    [0x040 / 4] = { read_queue_pfn, write_queue_pfn, LEGACY },
    [0x044 / 4] = { read_queue_ready, write_queue_ready, MODERN },
    [NOTIFY / 4] = { NULL, write_queue_notify, BOTH },
    [0x060 / 4] = { read_isr, NULL, BOTH },
    [0x064 / 4] = { NULL, write_interrupt_ack, BOTH },
    [0x070 / 4] = { read_status, write_status, BOTH },
    [0x080 / 4] = { NULL, write_desc_low, MODERN },
    [0x084 / 4] = { NULL, write_desc_high, MODERN },
    [0x090 / 4] = { NULL, write_avail_low, MODERN },
    [0x094 / 4] = { NULL, write_avail_high, MODERN },
    [0x0a0 / 4] = { NULL, write_used_low, MODERN },
    [0x0a4 / 4] = { NULL, write_used_high, MODERN },
    [0x0b0 / 4] = { read_no_region, NULL, BOTH },
    [0x0b4 / 4] = { read_no_region, NULL, BOTH },
    [0x0fc / 4] = { read_generation, NULL, MODERN },
};

static const struct mmio_register *find(const struct virtio_mmio *m, uint64_t offset, unsigned size)
{
    const struct mmio_register *r;

    if (size != 4 || (offset & 3)) {
        return NULL;
    }
    r = &registers[offset / 4];
    return r->versions & (m->legacy ? LEGACY : MODERN) ? r : NULL;
}

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_mmio *m = opaque;
    const struct mmio_register *r;

    if (offset >= CONFIG) {
        return virtio_config_read(m->v, (unsigned)offset - CONFIG, size);
    }
    r = find(m, offset, size);
    return r && r->read ? r->read(m) : 0;
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_mmio *m = opaque;
    const struct mmio_register *r;

    if (m->v->resetting) {
        return;
    }
    if (offset >= CONFIG) {
        virtio_config_write(m->v, (unsigned)offset - CONFIG, (uint32_t)value, size);
        return;
    }
    r = find(m, offset, size);
    if (r && r->write) {
        r->write(m, (uint32_t)value);
    }
}

static const struct io_ops mmio_ops = { .read = mmio_read, .write = mmio_write, .max_size = 4 };

void virtio_mmio_plug(struct virtio_device *v)
{
    struct virtio_mmio *m = g_new0(struct virtio_mmio, 1);

    m->v = v;
    m->legacy = virtio_slot_legacy(v->slot);
    m->gsi = virtio_slot_gsi(v->slot);
    v->transport = m;
    virtio_slot_plug(v->slot, &mmio_ops, m);
}

void virtio_mmio_unplug(struct virtio_device *v)
{
    virtio_slot_unplug(v->slot);
    g_clear_pointer(&v->transport, g_free);
}

void virtio_mmio_reset(struct virtio_device *v, bool by_driver)
{
    struct virtio_mmio *m = v->transport;

    if (!by_driver) {
        m->host_features_sel = m->guest_features_sel = m->guest_page_shift = 0;
    }
    m->queue_sel = 0;
    m->accepted = false;
    memset(m->guest_features, 0, sizeof(m->guest_features));
    memset(m->queues, 0, sizeof(m->queues));
}

void virtio_mmio_update_irq(struct virtio_device *v)
{
    vm_irq_set(v->dev.vm, v->transport->gsi, v->isr != 0);
}

uint64_t virtio_mmio_notify_address(const struct virtio_device *v)
{
    return virtio_slot_base(v->slot) + NOTIFY;
}

bool virtio_mmio_is_legacy(const struct virtio_device *v)
{
    return v->transport->legacy;
}
