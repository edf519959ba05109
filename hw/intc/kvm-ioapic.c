/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first IOAPIC (GSI 0-23), which runs in the kernel. Its registers are at 0xfec00000, where KVM
 * puts them. Streams have the redirection entries without the delivery status bit, which only tells
 * what the hardware is doing right now.
 */
#include "accel/kvm.h"
#include "hw/device.h"
#include "system/vm.h"
#include "util/error.h"

#define IOAPIC_BASE    UINT64_C(0xfec00000)
#define IOAPIC_PINS    24
#define REDIR_MASKED   UINT64_C(0x10000)
#define REDIR_DELIVERY UINT64_C(0x1000)

struct ioapic_state {
    uint8_t id, ioregsel;
    uint32_t irr;
    uint64_t ioredtbl[IOAPIC_PINS];
};

struct kvm_ioapic {
    struct device dev;
    struct ioapic_state state; /* what goes into the kernel next, while pending */
    bool pending;
};

static bool ioapic_put(void *opaque, GError **err)
{
    struct kvm_ioapic *io = opaque;
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
    struct kvm_ioapic_state *k = &chip.chip.ioapic;
    int rc;

    if (!io->pending) {
        return true;
    }
    k->base_address = IOAPIC_BASE;
    k->id = io->state.id;
    k->ioregsel = io->state.ioregsel;
    k->irr = io->state.irr;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        k->redirtbl[i].bits = io->state.ioredtbl[i];
    }
    rc = kvm_vm_ioctl(io->dev.vm, KVM_SET_IRQCHIP, &chip);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the state of the IOAPIC");
        return false;
    }
    io->pending = false;
    return true;
}

static const struct kvm_part_ops ioapic_part = { .put = ioapic_put };

static bool ioapic_save(void *opaque, void *state, GError **err)
{
    struct kvm_ioapic *io = opaque;
    struct ioapic_state *s = state;
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
    int rc;

    if (!kvm_parts_put(io->dev.vm, err)) {
        return false;
    }
    rc = kvm_vm_ioctl(io->dev.vm, KVM_GET_IRQCHIP, &chip);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot read the state of the IOAPIC");
        return false;
    }
    s->id = (uint8_t)chip.chip.ioapic.id;
    s->ioregsel = (uint8_t)chip.chip.ioapic.ioregsel;
    s->irr = chip.chip.ioapic.irr;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        s->ioredtbl[i] = chip.chip.ioapic.redirtbl[i].bits & ~REDIR_DELIVERY;
    }
    return true;
}

static bool ioapic_load(void *opaque, const void *state, int version, GError **err)
{
    struct kvm_ioapic *io = opaque;

    (void)err;
    io->state = *(const struct ioapic_state *)state;
    if (version < 2) {
        io->state.irr = 0;
    }
    io->pending = true;
    return true;
}

static const struct vmstate ioapic_vmstate = {
    .name = "ioapic",
    .version = 3,
    .min_version = 1,
    .size = sizeof(struct ioapic_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct ioapic_state, "id", VMS_U8, id),
            VMS_F(struct ioapic_state, "ioregsel", VMS_U8, ioregsel),
            { .name = "unused", .type = VMS_UNUSED, .count = 8, .since = 2 },
            { .name = "irr",
              .type = VMS_U32,
              .offset = offsetof(struct ioapic_state, irr),
              .since = 2 },
            VMS_ARRAY(struct ioapic_state, "ioredtbl", VMS_U64, ioredtbl, IOAPIC_PINS),
            {},
        },
    .save = ioapic_save,
    .load = ioapic_load,
};

static bool ioapic_realize(struct device *dev, GError **err)
{
    if (!kvm_enabled(dev->vm)) {
        error_set(err, FERRY_ERROR_USER, "kvm-ioapic needs -accel kvm");
        return false;
    }
    kvm_part_add(dev->vm, KVM_STAGE_IRQCHIP, &ioapic_part, dev);
    return true;
}

static void ioapic_unrealize(struct device *dev)
{
    kvm_part_remove(dev->vm, dev);
}

static void ioapic_reset(struct device *dev)
{
    struct kvm_ioapic *io = (struct kvm_ioapic *)dev;

    io->state = (struct ioapic_state){ .id = 0 };
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        io->state.ioredtbl[i] = REDIR_MASKED;
    }
    io->pending = true;
}

static const struct device_class ioapic_class = {
    .name = "kvm-ioapic",
    .description = "IOAPIC in the kernel",
    .size = sizeof(struct kvm_ioapic),
    .realize = ioapic_realize,
    .reset = ioapic_reset,
    .unrealize = ioapic_unrealize,
    .vmstate = &ioapic_vmstate,
};
DEVICE_CLASS(ioapic_class);
