/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvmclock: the clock in nanoseconds that KVM publishes to guests, one per machine. The vCPUs' MSRs
 * that say where it is published travel in the section cpu.
 *
 * The clock stands while the vCPUs are stopped: it is read when they stop and set again when they
 * start. So a pause is not in the guest's time, unless kvmclock_adjust() says otherwise, which a
 * live migration between two Ferries does.
 *
 * Where the host's TSC is not stable, KVM's value may lag behind what a guest has computed from its
 * page. Then the guest's own reading counts, because its time must not go back.
 */
#include "accel/kvm.h"
#include "hw/device.h"
#include "hw/i386/kvmclock.h"
#include "system/vm.h"
#include "target/i386/cpu.h"
#include "util/clock.h"
#include "util/error.h"

struct kvmclock_state {
    uint64_t clock; /* ns */
    bool clock_is_reliable;
};

struct kvmclock {
    struct device dev;
    struct kvmclock_state state; /* at the last stop */
    bool valid;                  /* state is what counts, not the kernel's running clock */
    bool pending;
    int64_t adjust_ns, adjust_at; /* see kvmclock_adjust(); adjust_at is host time, 0: not asked */
    bool tell_guest;              /* that it stood still */
    const struct kvmclock *last;  /* opaque of the second part, see below */
};

static bool clock_get(struct kvmclock *c, struct kvmclock_state *s, GError **err)
{
    struct kvm_clock_data data = { 0 };
    int rc = kvm_vm_ioctl(c->dev.vm, KVM_GET_CLOCK, &data);
    uint64_t guest;

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot read kvmclock");
        return false;
    }
    s->clock = data.clock;
    /* on the wire this says that the source's kernel can tell, and so no peer needs to look into
     * the guest's page, as very old ones had to */
    s->clock_is_reliable =
        kvm_check_extension(c->dev.vm, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_TSC_STABLE;
    if (!(data.flags & KVM_CLOCK_TSC_STABLE) && x86_guest_clock_ns(c->dev.vm, &guest) &&
        guest > s->clock) {
        s->clock = guest;
    }
    return true;
}

static void kvmclock_stopped(void *opaque)
{
    struct kvmclock *c = opaque;

    c->valid = clock_get(c, &c->state, NULL);
    c->pending = false;
    c->adjust_at = 0;
}

static void kvmclock_resuming(void *opaque)
{
    struct kvmclock *c = opaque;

    c->pending = c->tell_guest = c->valid;
}

static bool kvmclock_put(void *opaque, GError **err)
{
    struct kvmclock *c = opaque;
    struct kvm_clock_data data = { .clock = c->state.clock };
    int rc;

    if (!c->pending) {
        return true;
    }
    if (c->adjust_at) {
        data.clock += (uint64_t)(c->adjust_ns + monotonic_ns() - c->adjust_at);
    }
    rc = kvm_vm_ioctl(c->dev.vm, KVM_SET_CLOCK, &data);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses kvmclock's value");
        return false;
    }
    c->pending = false;
    return true;
}

/* After the vCPUs' MSRs are in place: a guest's watchdog must not bark because of the pause. */
static bool kvmclock_put_last(void *opaque, GError **err)
{
    struct kvmclock *c = *(struct kvmclock **)opaque;
    struct vm *vm = c->dev.vm;

    (void)err;
    for (unsigned i = 0; c->tell_guest && i < vm->vcpu_count; i++) {
        kvm_vcpu_ioctl(vm->vcpus[i], KVM_KVMCLOCK_CTRL, NULL); /* fails without kvmclock: fine */
    }
    c->tell_guest = false;
    return true;
}

static const struct kvm_part_ops kvmclock_part = {
    .put = kvmclock_put,
    .stopped = kvmclock_stopped,
    .resuming = kvmclock_resuming,
};
static const struct kvm_part_ops kvmclock_last_part = { .put = kvmclock_put_last };

static bool kvmclock_save(void *opaque, void *state, GError **err)
{
    struct kvmclock *c = opaque;

    if (!c->valid) {
        return clock_get(c, state, err); /* never ran */
    }
    *(struct kvmclock_state *)state = c->state;
    return true;
}

static bool kvmclock_load(void *opaque, const void *state, int version, GError **err)
{
    struct kvmclock *c = opaque;

    (void)version;
    (void)err;
    c->state = *(const struct kvmclock_state *)state;
    c->valid = c->pending = true;
    c->adjust_at = 0;
    return true;
}

static bool reliable_needed(const void *state)
{
    return ((const struct kvmclock_state *)state)->clock_is_reliable;
}

static const struct vmstate reliable_vmstate = {
    .name = "kvmclock/clock_is_reliable",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct kvmclock_state),
    .optional = true, /* an emulated guest of QEMU's has none */
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct kvmclock_state, "clock_is_reliable", VMS_BOOL, clock_is_reliable),
            {},
        },
};

static const struct vmstate kvmclock_vmstate = {
    .name = "kvmclock",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct kvmclock_state),
    .optional = true, /* an emulated guest of QEMU's has none */
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct kvmclock_state, "clock", VMS_U64, clock),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &reliable_vmstate, .needed = reliable_needed },
            {},
        },
    .save = kvmclock_save,
    .load = kvmclock_load,
};

static bool kvmclock_realize(struct device *dev, GError **err)
{
    struct kvmclock *c = (struct kvmclock *)dev;

    if (!kvm_enabled(dev->vm)) {
        error_set(err, FERRY_ERROR_USER, "kvmclock needs -accel kvm");
        return false;
    }
    c->last = c;
    kvm_part_add(dev->vm, KVM_STAGE_CLOCK, &kvmclock_part, c);
    kvm_part_add(dev->vm, KVM_STAGE_LAST, &kvmclock_last_part, &c->last);
    return true;
}

static void kvmclock_unrealize(struct device *dev)
{
    struct kvmclock *c = (struct kvmclock *)dev;

    kvm_part_remove(dev->vm, c);
    kvm_part_remove(dev->vm, &c->last);
}

static const struct device_class kvmclock_class = {
    .name = "kvmclock",
    .description = "KVM paravirtual clock",
    .size = sizeof(struct kvmclock),
    .realize = kvmclock_realize,
    .unrealize = kvmclock_unrealize,
    .vmstate = &kvmclock_vmstate,
};
DEVICE_CLASS(kvmclock_class);

void kvmclock_adjust(struct vm *vm, int64_t pause_ns)
{
    for (unsigned i = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (dev->class == &kvmclock_class) {
            struct kvmclock *c = (struct kvmclock *)dev;

            c->adjust_ns = pause_ns;
            c->adjust_at = monotonic_ns();
            c->pending = c->valid;
        }
    }
}
