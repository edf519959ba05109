/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio-mmio slot of the machine: 0x200 bytes of registers and an interrupt line. An empty slot
 * says "virt", a version, device id 0 and nothing else, which a driver takes for "no device here".
 * A transport plugs its registers in before the guest runs. Machine lock held.
 */
#ifndef HW_MISC_VIRTIO_SLOT_H
#define HW_MISC_VIRTIO_SLOT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct device;
struct io_ops;
struct vm;

/* Makes an empty slot at guest-physical `base`, interrupting on `gsi`. NULL: err is set. */
struct device *virtio_slot_create(struct vm *vm, uint64_t base, unsigned gsi, GError **err);

/* All register accesses go to ops from now on; offsets are relative to the slot. */
void virtio_slot_plug(struct device *slot, const struct io_ops *ops, void *opaque);
/* It is empty again. */
void virtio_slot_unplug(struct device *slot);

bool virtio_slot_is_free(const struct device *slot);
uint64_t virtio_slot_base(const struct device *slot);
unsigned virtio_slot_gsi(const struct device *slot);
/* -global virtio-mmio.force-legacy: the transport is version 1 (true, the default) or 2. */
bool virtio_slot_legacy(const struct device *slot);

#endif
