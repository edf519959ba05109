/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state of a virtio-mmio transport, for its registers and for the stream. */
#ifndef HW_VIRTIO_MMIO_H
#define HW_VIRTIO_MMIO_H

#include "virtio-internal.h"

/* Version 2: what the driver wrote for a queue. [low, high] halves. */
struct virtio_mmio_queue {
    uint16_t num;
    uint8_t ready;
    uint32_t desc[2], avail[2], used[2];
};

struct virtio_mmio {
    struct virtio_device *v;
    bool legacy;
    unsigned gsi;

    uint32_t host_features_sel, guest_features_sel; /* 0, 1 */
    uint32_t guest_page_shift;                      /* legacy: 0-31 */
    uint16_t queue_sel;
    uint32_t guest_features[2]; /* version 2: until FEATURES_OK */
    bool accepted;              /* version 2: FEATURES_OK was agreed on, until a reset */
    struct virtio_mmio_queue queues[VIRTIO_QUEUE_MAX];
};

#endif
