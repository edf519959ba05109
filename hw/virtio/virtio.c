/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all virtio devices do alike: their life, status, features, configuration space, errors and
 * interrupts. Machine lock held throughout.
 *
 * A reset first takes the queues away, so that nothing new is popped and what is pushed late is
 * ignored, then has the device give up its requests, for which the lock may be dropped, and then
 * clears what the driver had set. What another vCPU writes to registers meanwhile is lost: the
 * device would have half of it afterwards.
 */
#include <string.h>

#include "hw/i386/microvm.h"
#include "hw/misc/virtio-slot.h"
#include "system/vm.h"
#include "util/error.h"
#include "virtio-internal.h"

/* How many broken rules of a device are reported. */
#define MAX_REPORTS 10

static uint64_t bit(unsigned n, bool on)
{
    return (uint64_t)on << n;
}

bool virtio_device_realize(struct device *dev, GError **err)
{
    struct virtio_device *v = (struct virtio_device *)dev;
    bool legacy;

    v->slot = microvm_claim_slot(dev->vm, err);
    if (!v->slot) {
        return false;
    }
    legacy = virtio_slot_legacy(v->slot);
    v->queues = g_ptr_array_new_with_free_func((GDestroyNotify)virtqueue_free);
    v->host_features = bit(VIRTIO_FEATURE_INDIRECT_DESC, v->indirect_desc) |
                       bit(VIRTIO_FEATURE_EVENT_IDX, v->event_idx);
    if (legacy) {
        v->host_features |= bit(VIRTIO_FEATURE_NOTIFY_ON_EMPTY, v->notify_on_empty) |
                            bit(VIRTIO_FEATURE_ANY_LAYOUT, v->any_layout);
    } else {
        v->host_features |= bit(VIRTIO_FEATURE_VERSION_1, true);
    }
    if (!virtio_class_of(v)->realize(v, err)) {
        g_clear_pointer(&v->queues, g_ptr_array_unref);
        return false;
    }
    if (v->queue_errno) {
        error_set_errno(err, FERRY_ERROR_HOST, v->queue_errno,
                        "%s has %u queues, each of which takes a descriptor: raise the limit of "
                        "open files (ulimit -n) or give it fewer",
                        dev->class->name, v->queues->len);
        if (virtio_class_of(v)->unrealize) {
            virtio_class_of(v)->unrealize(v);
        }
        g_clear_pointer(&v->queues, g_ptr_array_unref);
        return false;
    }
    g_assert(v->config_len <= VIRTIO_CONFIG_MAX);
    virtio_mmio_plug(v);
    virtio_thread_add(v);
    virtio_wire_register(v);
    return true;
}

void virtio_device_unrealize(struct device *dev)
{
    struct virtio_device *v = (struct virtio_device *)dev;

    virtio_thread_remove(v);
    if (virtio_class_of(v)->unrealize) {
        virtio_class_of(v)->unrealize(v);
    }
    virtio_mmio_unplug(v);
    g_ptr_array_unref(v->queues);
}

struct virtqueue *virtio_add_queue(struct virtio_device *v, unsigned size,
                                   void (*handler)(struct virtio_device *v, struct virtqueue *vq))
{
    struct virtqueue *vq;

    g_assert(size && size <= VIRTIO_QUEUE_SIZE_MAX && !(size & (size - 1)) &&
             v->queues->len < VIRTIO_QUEUE_MAX);
    vq = virtqueue_new(v, size, handler);
    g_ptr_array_add(v->queues, vq);
    v->queues_shown = v->queues->len;
    return vq;
}

void virtio_show_queues(struct virtio_device *v, unsigned count)
{
    v->queues_shown = MIN(count, v->queues->len);
}

void virtio_reset(struct virtio_device *v, bool by_driver)
{
    v->generation++;
    v->resetting = true;
    v->status = 0;
    for (unsigned i = 0; i < v->queues->len; i++) {
        virtqueue_reset(g_ptr_array_index(v->queues, i));
    }
    if (virtio_class_of(v)->reset) {
        virtio_class_of(v)->reset(v);
    }
    v->broken = false;
    v->guest_features = 0;
    v->isr = 0;
    virtio_mmio_reset(v, by_driver);
    virtio_mmio_update_irq(v);
    v->resetting = false;
}

void virtio_device_reset(struct device *dev)
{
    virtio_reset((struct virtio_device *)dev, false);
}

void virtio_set_features(struct virtio_device *v, uint64_t features)
{
    v->guest_features = features & v->host_features;
    if (virtio_class_of(v)->set_features) {
        virtio_class_of(v)->set_features(v);
    }
}

void virtio_set_status(struct virtio_device *v, uint8_t status)
{
    uint8_t was = v->status;

    if (!status) {
        virtio_reset(v, true);
        return;
    }
    /* what the device itself says stays until a reset */
    v->status = status | (was & VIRTIO_STATUS_NEEDS_RESET);
    if (virtio_class_of(v)->set_status) {
        virtio_class_of(v)->set_status(v, v->status);
    }
    if (~was & v->status & VIRTIO_STATUS_DRIVER_OK) {
        /* what the driver put there before counts from now on; kicks were not heard */
        for (unsigned i = 0; i < v->queues->len; i++) {
            struct virtqueue *vq = g_ptr_array_index(v->queues, i);

            if (virtqueue_is_ready(vq)) {
                virtqueue_kick(vq);
            }
        }
    }
}

void virtio_interrupt(struct virtio_device *v, uint8_t isr)
{
    bool high = v->isr;

    v->isr |= isr;
    /* while the line is high, the driver has yet to read what is already set, and reads this too */
    if (!high) {
        virtio_mmio_update_irq(v);
    }
}

void virtio_notify_config(struct virtio_device *v)
{
    v->config_generation++;
    if (v->status & VIRTIO_STATUS_DRIVER_OK) {
        virtio_interrupt(v, VIRTIO_ISR_CONFIG);
    }
}

void virtio_error(struct virtio_device *v, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (v->broken) {
        return;
    }
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    v->broken = true;
    if (virtio_has(v, VIRTIO_FEATURE_VERSION_1)) {
        v->status |= VIRTIO_STATUS_NEEDS_RESET;
        virtio_notify_config(v);
    }
    if (v->errors_reported++ >= MAX_REPORTS) {
        return; /* a guest must not fill the log */
    }
    report_warning("%s%s%s: The guest's driver broke the rules and must reset the device: %s",
                   v->dev.class->name, v->dev.id ? " " : "", v->dev.id ? v->dev.id : "", text);
}

uint32_t virtio_config_read(struct virtio_device *v, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    if (offset > v->config_len || size > v->config_len - offset) {
        return UINT32_MAX >> (32 - 8 * size); /* all ones, as where nothing answers */
    }
    if (virtio_class_of(v)->get_config) {
        virtio_class_of(v)->get_config(v, v->config);
    }
    memcpy(&value, v->config + offset, size);
    return value;
}

void virtio_config_write(struct virtio_device *v, unsigned offset, uint32_t value, unsigned size)
{
    if (offset > v->config_len || size > v->config_len - offset ||
        !virtio_class_of(v)->set_config) {
        return;
    }
    if (virtio_class_of(v)->get_config) {
        virtio_class_of(v)->get_config(v, v->config);
    }
    memcpy(v->config + offset, &value, size);
    virtio_class_of(v)->set_config(v, v->config);
}
