/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device that QEMU calls kvmvapic, section kvm-tpr-opt: with an option ROM in the guest it
 * patches old 32-bit Windows' accesses to the task priority register. microvm has no such ROM, so
 * the device is there for its section and its port, and stays inactive. A stream in which it is
 * active comes from another machine and is refused: the patched guest would not find its ROM's
 * helper.
 */
#include "hw/device.h"
#include "system/memory.h"
#include "system/vm.h"
#include "util/error.h"

#define TPR_OPT_PORT 0x7e

struct tpr_handlers {
    uint32_t set_tpr, set_tpr_eax, get_tpr[8], get_tpr_stack;
};

struct tpr_rom {
    uint32_t vaddr, fixup_start, fixup_end, vapic_vaddr, vapic_size, vcpu_shift, real_tpr_addr;
    struct tpr_handlers up, mp;
};

struct tpr_state {
    struct tpr_rom rom_state;
    uint32_t state; /* 0: inactive */
    uint32_t real_tpr_addr, rom_state_vaddr, vapic_paddr, rom_state_paddr;
};

struct tpr_opt {
    struct device dev;
    struct tpr_state state;
};

static const struct vmstate handlers_vmstate = {
    .name = "kvmvapic-handlers",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct tpr_handlers),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct tpr_handlers, "set_tpr", VMS_U32, set_tpr),
            VMS_F(struct tpr_handlers, "set_tpr_eax", VMS_U32, set_tpr_eax),
            VMS_ARRAY(struct tpr_handlers, "get_tpr", VMS_U32, get_tpr, 8),
            VMS_F(struct tpr_handlers, "get_tpr_stack", VMS_U32, get_tpr_stack),
            {},
        },
};

static const struct vmstate rom_vmstate = {
    .name = "kvmvapic-guest-rom",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct tpr_rom),
    .fields =
        (const struct vmstate_field[]){
            VMS_PAD("unused", 8),
            VMS_F(struct tpr_rom, "vaddr", VMS_U32, vaddr),
            VMS_F(struct tpr_rom, "fixup_start", VMS_U32, fixup_start),
            VMS_F(struct tpr_rom, "fixup_end", VMS_U32, fixup_end),
            VMS_F(struct tpr_rom, "vapic_vaddr", VMS_U32, vapic_vaddr),
            VMS_F(struct tpr_rom, "vapic_size", VMS_U32, vapic_size),
            VMS_F(struct tpr_rom, "vcpu_shift", VMS_U32, vcpu_shift),
            VMS_F(struct tpr_rom, "real_tpr_addr", VMS_U32, real_tpr_addr),
            VMS_NEST(struct tpr_rom, "up", up, &handlers_vmstate),
            VMS_NEST(struct tpr_rom, "mp", mp, &handlers_vmstate),
            {},
        },
};

static bool tpr_save(void *opaque, void *state, GError **err)
{
    (void)err;
    *(struct tpr_state *)state = ((struct tpr_opt *)opaque)->state;
    return true;
}

static bool tpr_load(void *opaque, const void *state, int version, GError **err)
{
    (void)version;
    (void)err;
    ((struct tpr_opt *)opaque)->state = *(const struct tpr_state *)state;
    return true;
}

static bool tpr_check(void *opaque, const void *state, GError **err)
{
    (void)opaque;
    if (((const struct tpr_state *)state)->state != 0) {
        error_set(err, FERRY_ERROR_PEER,
                  "The guest uses the TPR optimisation of kvmvapic, which Ferry does not have");
        return false;
    }
    return true;
}

static const struct vmstate tpr_vmstate = {
    .name = "kvm-tpr-opt",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct tpr_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_NEST(struct tpr_state, "rom_state", rom_state, &rom_vmstate),
            VMS_F(struct tpr_state, "state", VMS_U32, state),
            VMS_F(struct tpr_state, "real_tpr_addr", VMS_U32, real_tpr_addr),
            VMS_F(struct tpr_state, "rom_state_vaddr", VMS_U32, rom_state_vaddr),
            VMS_F(struct tpr_state, "vapic_paddr", VMS_U32, vapic_paddr),
            VMS_F(struct tpr_state, "rom_state_paddr", VMS_U32, rom_state_paddr),
            {},
        },
    .save = tpr_save,
    .load = tpr_load,
    .check = tpr_check,
};

/* Only the ROM would talk to this port. */
static const struct io_ops tpr_io = { .max_size = 4 };

static bool tpr_realize(struct device *dev, GError **err)
{
    (void)err;
    memory_add_io(dev->vm->memory, IO_SPACE_PORT, TPR_OPT_PORT, 2, &tpr_io, dev, "kvmvapic");
    return true;
}

static void tpr_reset(struct device *dev)
{
    ((struct tpr_opt *)dev)->state = (struct tpr_state){ 0 };
}

static const struct device_class tpr_class = {
    .name = "kvmvapic",
    .description = "Task priority register optimisation (inactive)",
    .size = sizeof(struct tpr_opt),
    .realize = tpr_realize,
    .reset = tpr_reset,
    .vmstate = &tpr_vmstate,
};
DEVICE_CLASS(tpr_class);
