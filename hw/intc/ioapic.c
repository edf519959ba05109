/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The user-space I/O APIC; see include/hw/intc/ioapic.h. Registers: Intel 82093AA data sheet, and
 * the EOI register of later parts (version 0x20).
 *
 * Delivery. A pin that is to interrupt becomes a message to the local APICs, made from its
 * redirection entry. An edge is delivered once; one that comes while the pin is masked is delivered
 * when it is unmasked.
 *
 * Level-triggered pins and the end of interrupt. Real hardware delivers a level once, sets "remote
 * IRR", and when a local APIC broadcasts the end of that interrupt looks at the pin again. With the
 * local APICs in KVM together with KVM's own IOAPIC, that broadcast does not leave the kernel. So
 * this IOAPIC never waits for it. Remote IRR means "delivered, and the line has been high since";
 * it ends with the line, with an EOI register write, or with a change to edge. In place of the look
 * after EOI, every vm_irq_set(gsi, true) on a level pin delivers, also when the line is high
 * already: a device whose line stays high after the guest's acknowledge says so again, and the
 * message waits in the local APIC until the handler has ended. An interrupt may thus come once too
 * often, never too rarely.
 *
 * A message sent while local APIC state waits to be put into KVM would be lost. So after loading,
 * pins whose line is high are delivered from a timer, which fires once the machine runs.
 */
#include <string.h>

#include "hw/intc/ioapic.h"

#include "accel/accel.h"
#include "hw/device.h"
#include "hw/i386/microvm.h"
#include "hw/i386/savevm-order.h"
#include "system/memory.h"
#include "system/vm.h"

#define PINS MICROVM_IOAPIC_PINS

/* Offsets in the register page. */
#define IOREGSEL 0x00
#define IOWIN    0x10
#define EOI      0x40
#define SIZE     0x1000

/* Registers behind IOREGSEL. */
#define REG_ID          0x00
#define REG_VERSION     0x01
#define REG_ARBITRATION 0x02
#define REG_REDIRECTION 0x10
#define ID_SHIFT        24
#define ID_MASK         0x0f
#define VERSION         (0x20 | (PINS - 1) << 16)

/* A redirection entry. */
#define ENTRY_VECTOR     UINT64_C(0xff)
#define ENTRY_MODE_SHIFT 8
#define ENTRY_MODE_MASK  7
#define ENTRY_LOGICAL    (UINT64_C(1) << 11)
#define ENTRY_STATUS     (UINT64_C(1) << 12) /* read only */
#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14) /* read only */
#define ENTRY_LEVEL      (UINT64_C(1) << 15)
#define ENTRY_MASKED     (UINT64_C(1) << 16)
#define ENTRY_DEST_SHIFT 56
#define ENTRY_READ_ONLY  (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define MODE_LOWEST      1
#define MODE_EXTINT      7

/* A message: Intel SDM volume 3, 11.11. */
#define MSI_DEST_SHIFT 12
#define MSI_REDIRECT   (1 << 3)
#define MSI_LOGICAL    (1 << 2)
#define MSI_ASSERT     (1 << 14)
#define MSI_LEVEL      (1 << 15)

/* What is saved, in the shape the wire has. */
struct ioapic_state {
    uint8_t id;
    uint8_t ioregsel;
    /* level pins: the line; edge pins: an edge that is not delivered yet */
    uint32_t irr;
    uint64_t ioredtbl[PINS];
};

struct ioapic {
    struct device dev;
    uint64_t base;
    uint32_t lines; /* present levels, to see edges */
    struct ioapic_state state;
    struct vm_timer *resample;
};

static void deliver(struct ioapic *apic, unsigned pin)
{
    uint64_t entry = apic->state.ioredtbl[pin];
    unsigned mode = entry >> ENTRY_MODE_SHIFT & ENTRY_MODE_MASK;
    uint64_t address = MICROVM_LAPIC_BASE | (entry >> ENTRY_DEST_SHIFT) << MSI_DEST_SHIFT;
    uint32_t data = (uint32_t)(entry & ENTRY_VECTOR) | mode << ENTRY_MODE_SHIFT;

    if (entry & ENTRY_LEVEL) {
        apic->state.ioredtbl[pin] |= ENTRY_REMOTE_IRR;
        data |= MSI_LEVEL | MSI_ASSERT;
    } else {
        apic->state.irr &= ~(1u << pin);
    }
    if (mode == MODE_EXTINT) {
        return; /* the PIC's interrupts come by its own wire */
    }
    if (entry & ENTRY_LOGICAL) {
        address |= MSI_LOGICAL;
    }
    if (mode == MODE_LOWEST) {
        address |= MSI_REDIRECT;
    }
    apic->dev.vm->accel->ops->msi(apic->dev.vm, address, data);
}

/* Delivers what a pin has to say, if its entry lets it. */
static void service(struct ioapic *apic, unsigned pin)
{
    if ((apic->state.irr & 1u << pin) && !(apic->state.ioredtbl[pin] & ENTRY_MASKED)) {
        deliver(apic, pin);
    }
}

void ioapic_set_pin(struct device *dev, unsigned pin, bool level)
{
    struct ioapic *apic = (struct ioapic *)dev;
    uint32_t bit = 1u << pin;
    bool was = apic->lines & bit;

    g_assert(pin < PINS);
    apic->lines = level ? apic->lines | bit : apic->lines & ~bit;
    if (apic->state.ioredtbl[pin] & ENTRY_LEVEL) {
        if (level) {
            apic->state.irr |= bit;
            service(apic, pin);
        } else {
            apic->state.irr &= ~bit;
            apic->state.ioredtbl[pin] &= ~ENTRY_REMOTE_IRR;
        }
    } else if (level && !was) {
        apic->state.irr |= bit;
        service(apic, pin);
    }
}

static uint32_t register_read(const struct ioapic *apic)
{
    unsigned reg = apic->state.ioregsel;

    switch (reg) {
    case REG_ID:
    case REG_ARBITRATION:
        return (uint32_t)apic->state.id << ID_SHIFT;
    case REG_VERSION:
        return VERSION;
    default:
        if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * PINS) {
            uint64_t entry = apic->state.ioredtbl[(reg - REG_REDIRECTION) / 2];

            return (uint32_t)(reg & 1 ? entry >> 32 : entry);
        }
        return 0;
    }
}

static void entry_write(struct ioapic *apic, unsigned reg, uint32_t value)
{
    unsigned pin = (reg - REG_REDIRECTION) / 2;
    uint64_t *entry = &apic->state.ioredtbl[pin];
    uint64_t was = *entry;
    uint32_t bit = 1u << pin;

    if (reg & 1) {
        *entry = (*entry & UINT32_MAX) | (uint64_t)value << 32;
        return; /* the high half only says where to */
    }
    *entry = (*entry & (~(uint64_t)UINT32_MAX | ENTRY_READ_ONLY)) | (value & ~ENTRY_READ_ONLY);
    if (!(*entry & ENTRY_LEVEL)) {
        *entry &= ~ENTRY_REMOTE_IRR;
        if (was & ENTRY_LEVEL) {
            apic->state.irr &= ~bit; /* a level is not an edge */
        }
    } else if (!(was & ENTRY_LEVEL)) {
        apic->state.irr = (apic->state.irr & ~bit) | (apic->lines & bit);
    }
    if ((*entry ^ was) & (ENTRY_MASKED | ENTRY_LEVEL)) {
        service(apic, pin);
    }
}

static void register_write(struct ioapic *apic, uint32_t value)
{
    unsigned reg = apic->state.ioregsel;

    if (reg == REG_ID) {
        apic->state.id = value >> ID_SHIFT & ID_MASK;
    } else if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * PINS) {
        entry_write(apic, reg, value);
    }
}

static void end_of_interrupt(struct ioapic *apic, uint8_t vector)
{
    for (unsigned pin = 0; pin < PINS; pin++) {
        uint64_t *entry = &apic->state.ioredtbl[pin];

        if ((*entry & ENTRY_VECTOR) == vector && (*entry & ENTRY_REMOTE_IRR)) {
            *entry &= ~ENTRY_REMOTE_IRR;
            service(apic, pin);
        }
    }
}

static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ioapic *apic = opaque;

    if (offset == IOREGSEL) {
        return apic->state.ioregsel;
    }
    return offset == IOWIN && size == 4 ? register_read(apic) : 0;
}

static void ioapic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *apic = opaque;

    if (offset == IOREGSEL) {
        apic->state.ioregsel = (uint8_t)value;
    } else if (offset == IOWIN && size == 4) {
        register_write(apic, (uint32_t)value);
    } else if (offset == EOI) {
        end_of_interrupt(apic, (uint8_t)value);
    }
}

static const struct io_ops ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .max_size = 4,
};

static void resample(void *opaque)
{
    struct ioapic *apic = opaque;

    for (unsigned pin = 0; pin < PINS; pin++) {
        service(apic, pin);
    }
}

static bool ioapic_realize(struct device *dev, GError **err G_GNUC_UNUSED)
{
    struct ioapic *apic = (struct ioapic *)dev;

    apic->resample = vm_timer_new(dev->vm, resample, apic);
    memory_add_io(dev->vm->memory, IO_SPACE_MEM, apic->base, SIZE, &ioapic_ops, apic, "ioapic");
    return true;
}

static void ioapic_unrealize(struct device *dev)
{
    vm_timer_free(((struct ioapic *)dev)->resample);
}

static void ioapic_reset(struct device *dev)
{
    struct ioapic *apic = (struct ioapic *)dev;

    vm_timer_del(apic->resample);
    apic->state = (struct ioapic_state){ 0 };
    for (unsigned pin = 0; pin < PINS; pin++) {
        apic->state.ioredtbl[pin] = ENTRY_MASKED;
    }
}

static bool ioapic_save(void *opaque, void *state, GError **err G_GNUC_UNUSED)
{
    *(struct ioapic_state *)state = ((struct ioapic *)opaque)->state;
    return true;
}

static bool ioapic_load(void *opaque, const void *state, int version G_GNUC_UNUSED,
                        GError **err G_GNUC_UNUSED)
{
    struct ioapic *apic = opaque;

    apic->state = *(const struct ioapic_state *)state;
    apic->state.irr &= (1u << PINS) - 1;
    apic->lines = 0;
    for (unsigned pin = 0; pin < PINS; pin++) {
        if (apic->state.ioredtbl[pin] & ENTRY_LEVEL) {
            apic->lines |= apic->state.irr & 1u << pin;
        }
    }
    vm_timer_mod(apic->resample, 0);
    return true;
}

static const struct vmstate ioapic_vmstate = {
    .name = "ioapic",
    .version = 3,
    .min_version = 3,
    .size = sizeof(struct ioapic_state),
    .fields =
        (const struct vmstate_field[]){
            VMS_RANGE(struct ioapic_state, "id", VMS_U8, id, 0, ID_MASK),
            VMS_F(struct ioapic_state, "ioregsel", VMS_U8, ioregsel),
            VMS_PAD("unused", 8),
            VMS_F(struct ioapic_state, "irr", VMS_U32, irr),
            VMS_ARRAY(struct ioapic_state, "ioredtbl", VMS_U64, ioredtbl, PINS),
            {},
        },
    .save = ioapic_save,
    .load = ioapic_load,
};

static const struct device_class ioapic_class = {
    .name = "ioapic",
    .description = "I/O APIC in user space",
    .size = sizeof(struct ioapic),
    .realize = ioapic_realize,
    .unrealize = ioapic_unrealize,
    .reset = ioapic_reset,
    .vmstate = &ioapic_vmstate,
};
DEVICE_CLASS(ioapic_class);

struct device *ioapic_create(struct vm *vm, uint64_t base, uint32_t instance, GError **err)
{
    struct device *dev = device_new(vm, &ioapic_class, NULL, err);

    if (!dev) {
        return NULL;
    }
    ((struct ioapic *)dev)->base = base;
    dev->instance_id = instance;
    dev->savevm_order = SAVEVM_ORDER_IOAPIC;
    return device_realize(dev, err) ? dev : NULL;
}
