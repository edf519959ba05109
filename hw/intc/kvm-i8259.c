/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pair of 8259 interrupt controllers, which run in the kernel: device instance 0 is the master,
 * 1 the slave. Without KVM (qtest) the registers are plain memory with their power-on values.
 */
#include "accel/kvm.h"
#include "hw/device.h"
#include "system/vm.h"
#include "util/error.h"

struct pic_state {
    struct kvm_pic_state regs;
    uint8_t single_mode; /* ICW1 said that there is no slave; KVM does not know it */
};

struct pic {
    struct device dev;
    struct pic_state state; /* what goes into the kernel next, while pending */
    bool pending;
};

static int pic_chip(const struct pic *pic)
{
    return pic->dev.instance_id ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
}

static uint8_t pic_elcr_mask(const struct pic *pic)
{
    return pic->dev.instance_id ? 0xde : 0xf8;
}

static bool pic_put(void *opaque, GError **err)
{
    struct pic *pic = opaque;
    struct kvm_irqchip chip = { .chip_id = (uint32_t)pic_chip(pic) };
    int rc;

    if (!pic->pending) {
        return true;
    }
    chip.chip.pic = pic->state.regs;
    /* which lines may be level triggered is the chip's, not the guest's */
    chip.chip.pic.elcr_mask = pic_elcr_mask(pic);
    rc = kvm_vm_ioctl(pic->dev.vm, KVM_SET_IRQCHIP, &chip);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the state of i8259 %u",
                        pic->dev.instance_id);
        return false;
    }
    pic->pending = false;
    return true;
}

static const struct kvm_part_ops pic_part = { .put = pic_put };

static bool pic_save(void *opaque, void *state, GError **err)
{
    struct pic *pic = opaque;
    struct kvm_irqchip chip = { .chip_id = (uint32_t)pic_chip(pic) };
    int rc;

    *(struct pic_state *)state = pic->state;
    if (!kvm_enabled(pic->dev.vm)) {
        return true;
    }
    if (!kvm_parts_put(pic->dev.vm, err)) {
        return false;
    }
    rc = kvm_vm_ioctl(pic->dev.vm, KVM_GET_IRQCHIP, &chip);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot read the state of i8259 %u",
                        pic->dev.instance_id);
        return false;
    }
    ((struct pic_state *)state)->regs = chip.chip.pic;
    return true;
}

static bool pic_load(void *opaque, const void *state, int version, GError **err)
{
    struct pic *pic = opaque;

    (void)version;
    (void)err;
    pic->state = *(const struct pic_state *)state;
    pic->pending = true;
    return true;
}

#define F(n, hi) VMS_RANGE(struct pic_state, #n, VMS_U8, regs.n, 0, hi)

static const struct vmstate pic_vmstate = {
    .name = "i8259",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct pic_state),
    .fields =
        (const struct vmstate_field[]){
            F(last_irr, 255),
            F(irr, 255),
            F(imr, 255),
            F(isr, 255),
            F(priority_add, 7),
            F(irq_base, 255),
            F(read_reg_select, 1),
            F(poll, 255),
            F(special_mask, 1),
            F(init_state, 3),
            F(auto_eoi, 1),
            F(rotate_on_auto_eoi, 1),
            F(special_fully_nested_mode, 1),
            F(init4, 1),
            VMS_RANGE(struct pic_state, "single_mode", VMS_U8, single_mode, 0, 1),
            F(elcr, 255),
            {},
        },
    .save = pic_save,
    .load = pic_load,
};

static bool pic_realize(struct device *dev, GError **err)
{
    if (dev->instance_id > 1) {
        error_set(err, FERRY_ERROR_USER, "There are two i8259, not %u", dev->instance_id + 1);
        return false;
    }
    kvm_part_add(dev->vm, KVM_STAGE_IRQCHIP, &pic_part, dev);
    return true;
}

static void pic_unrealize(struct device *dev)
{
    kvm_part_remove(dev->vm, dev);
}

static void pic_reset(struct device *dev)
{
    struct pic *pic = (struct pic *)dev;

    pic->state = (struct pic_state){ .single_mode = 0 };
    pic->pending = true;
}

static const struct device_class pic_class = {
    .name = "kvm-i8259",
    .description = "8259 interrupt controller in the kernel",
    .size = sizeof(struct pic),
    .realize = pic_realize,
    .reset = pic_reset,
    .unrealize = pic_unrealize,
    .vmstate = &pic_vmstate,
};
DEVICE_CLASS(pic_class);
