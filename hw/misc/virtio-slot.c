/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Virtio-mmio slots; see include/hw/misc/virtio-slot.h. Empty ones have no state to save. */
#include "hw/misc/virtio-slot.h"

#include "hw/device.h"
#include "hw/i386/microvm.h"
#include "system/memory.h"
#include "system/vm.h"

/* Register offsets: VIRTIO specification 1.1, 4.2.2. */
#define REG_MAGIC  0x000
#define REG_VENDOR 0x00c
#define REG_VER    0x004

#define MAGIC  0x74726976 /* "virt" */
#define VENDOR 0x554d4551 /* "QEMU", what drivers see there on this machine */

struct virtio_slot {
    struct device dev;
    bool force_legacy;
    uint64_t base;
    unsigned gsi;
    const struct io_ops *ops; /* of the transport in the slot; NULL: empty */
    void *opaque;
};

static uint64_t slot_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_slot *slot = opaque;

    if (slot->ops) {
        return slot->ops->read(slot->opaque, offset, size);
    }
    switch (offset) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VER:
        return slot->force_legacy ? 1 : 2;
    case REG_VENDOR:
        return VENDOR;
    default:
        return 0;
    }
}

static void slot_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_slot *slot = opaque;

    if (slot->ops) {
        slot->ops->write(slot->opaque, offset, value, size);
    }
}

static const struct io_ops slot_ops = { .read = slot_read, .write = slot_write, .max_size = 4 };

static bool slot_realize(struct device *dev, GError **err G_GNUC_UNUSED)
{
    struct virtio_slot *slot = (struct virtio_slot *)dev;

    memory_add_io(dev->vm->memory, IO_SPACE_MEM, slot->base, MICROVM_VIRTIO_SIZE, &slot_ops, slot,
                  "virtio-mmio");
    return true;
}

static const struct property slot_properties[] = {
    { .name = "force-legacy",
      .type = PROPERTY_BOOL,
      .offset = offsetof(struct virtio_slot, force_legacy),
      .def = 1,
      .help = "present the legacy (version 1) register layout" },
    {},
};

static const struct device_class virtio_slot_class = {
    .name = "virtio-mmio",
    .description = "Virtio register slot in memory",
    .size = sizeof(struct virtio_slot),
    .properties = slot_properties,
    .realize = slot_realize,
};
DEVICE_CLASS(virtio_slot_class);

struct device *virtio_slot_create(struct vm *vm, uint64_t base, unsigned gsi, GError **err)
{
    struct device *dev = device_new(vm, &virtio_slot_class, NULL, err);
    struct virtio_slot *slot = (struct virtio_slot *)dev;

    if (!dev) {
        return NULL;
    }
    slot->base = base;
    slot->gsi = gsi;
    return device_realize(dev, err) ? dev : NULL;
}

void virtio_slot_plug(struct device *dev, const struct io_ops *ops, void *opaque)
{
    struct virtio_slot *slot = (struct virtio_slot *)dev;

    g_assert(!slot->ops);
    slot->ops = ops;
    slot->opaque = opaque;
}

void virtio_slot_unplug(struct device *dev)
{
    struct virtio_slot *slot = (struct virtio_slot *)dev;

    slot->ops = NULL;
    slot->opaque = NULL;
}

bool virtio_slot_is_free(const struct device *dev)
{
    return !((const struct virtio_slot *)dev)->ops;
}

uint64_t virtio_slot_base(const struct device *dev)
{
    return ((const struct virtio_slot *)dev)->base;
}

unsigned virtio_slot_gsi(const struct device *dev)
{
    return ((const struct virtio_slot *)dev)->gsi;
}

bool virtio_slot_legacy(const struct device *dev)
{
    return ((const struct virtio_slot *)dev)->force_legacy;
}
