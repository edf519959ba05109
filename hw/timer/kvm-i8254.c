/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The 8254 interval timer, which runs in the kernel. Without KVM (qtest) its state is plain memory.
 *
 * Times. The kernel counts from count_load_time on the host's monotonic clock; a stream has it on
 * the virtual clock, and next_transition_time of channel 0, when its output changes next. The state
 * is read when the vCPUs stop and put again when they start, so the counters stand while the
 * machine does. (KVM restarts channel 0 with a whole period then.)
 */
#include "accel/kvm.h"
#include "hw/device.h"
#include "system/vm.h"
#include "util/clock.h"
#include "util/error.h"

#define PIT_HZ       1193182
#define PIT_CHANNELS 3
/* For this mode (a strobe started by the gate, which channel 0 does not have) KVM runs no timer. */
#define PIT_MODE_NO_TIMER 5

/* Times beyond 73 years are nonsense, and cannot overflow what is computed with them. */
#define TIME_MAX (INT64_C(1) << 61)

struct pit_channel {
    int32_t count; /* 1 to 65536 */
    uint16_t latched_count;
    uint8_t count_latched, status_latched, status, read_state, write_state, write_latch;
    uint8_t rw_mode, mode, bcd, gate;
    int64_t count_load_time, next_transition_time; /* ns, virtual clock */
};

struct pit_state {
    struct pit_channel channels[PIT_CHANNELS];
    uint32_t irq_disabled;
    int64_t irq_time; /* channel 0's next transition once more, -1: none */
};

struct pit {
    struct device dev;
    struct pit_state state; /* while held: what counts, whatever the kernel has */
    bool held, pending;     /* pending: about to run */
};

/* What to add to a virtual time to get the host's monotonic time of it. */
static int64_t host_offset(const struct pit *pit)
{
    return monotonic_ns() - vm_clock_ns(pit->dev.vm);
}

static int64_t ticks_to_ns(int64_t ticks)
{
    return (int64_t)((__int128)ticks * 1000000000 / PIT_HZ);
}

/* When the output of a counter changes next after `now`; -1: not until it is programmed again. */
static int64_t next_transition(const struct pit_channel *c, int64_t now)
{
    int64_t n = c->count ? c->count : 0x10000, next = -1;
    int64_t d = (int64_t)((__int128)MAX(now - c->count_load_time, 0) * PIT_HZ / 1000000000);

    switch (c->mode & 3) {
    case 2: /* rate generator: once each period */
        next = (d / n + 1) * n;
        break;
    case 3: /* square wave: the longer half is high */
        next = d / n * n + (n + 1) / 2;
        next = next > d ? next : (d / n + 1) * n;
        break;
    default: /* one shot: at the end of the count, a strobe ends one tick later */
        if (d < n) {
            next = n;
        } else if (c->mode >= 4 && d == n) {
            next = n + 1;
        }
        break;
    }
    return next < 0 ? -1 : c->count_load_time + ticks_to_ns(next);
}

static void pit_irq_times(struct pit_state *s, int64_t now)
{
    s->channels[0].next_transition_time = s->irq_time = next_transition(&s->channels[0], now);
}

static bool pit_get(struct pit *pit, struct pit_state *s, GError **err)
{
    struct kvm_pit_state2 k = { 0 };
    int64_t offset;
    int rc = kvm_vm_ioctl(pit->dev.vm, KVM_GET_PIT2, &k);

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot read the state of the PIT");
        return false;
    }
    offset = host_offset(pit);
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        const struct kvm_pit_channel_state *from = &k.channels[i];

        s->channels[i] = (struct pit_channel){
            .count = (int32_t)from->count,
            .latched_count = from->latched_count,
            .count_latched = from->count_latched,
            .status_latched = from->status_latched,
            .status = from->status,
            .read_state = from->read_state,
            .write_state = from->write_state,
            .write_latch = from->write_latch,
            .rw_mode = from->rw_mode,
            .mode = from->mode,
            .bcd = from->bcd,
            .gate = from->gate,
            .count_load_time = from->count_load_time - offset,
        };
    }
    s->irq_disabled = k.flags & KVM_PIT_FLAGS_HPET_LEGACY;
    pit_irq_times(s, vm_clock_ns(pit->dev.vm));
    return true;
}

static bool pit_set(struct pit *pit, bool ticking, GError **err);

static void pit_stopped(void *opaque)
{
    struct pit *pit = opaque;

    pit->held = pit_get(pit, &pit->state, NULL);
    pit->pending = false;
    if (pit->held) {
        pit_set(pit, false, NULL);
    }
}

static void pit_resuming(void *opaque)
{
    struct pit *pit = opaque;

    pit->pending = pit->held;
}

/* ticking = false: everything but that channel 0 counts for an interrupt. */
static bool pit_set(struct pit *pit, bool ticking, GError **err)
{
    struct kvm_pit_state2 k = { .flags = pit->state.irq_disabled ? KVM_PIT_FLAGS_HPET_LEGACY : 0 };
    struct kvm_irq_level low = { .irq = 0, .level = 0 };
    int64_t offset = host_offset(pit);
    int rc;

    if (ticking) {
        kvm_vm_ioctl(pit->dev.vm, KVM_IRQ_LINE, &low);
    }
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        const struct pit_channel *from = &pit->state.channels[i];

        k.channels[i] = (struct kvm_pit_channel_state){
            .count = (uint32_t)from->count,
            .latched_count = from->latched_count,
            .count_latched = from->count_latched,
            .status_latched = from->status_latched,
            .status = from->status,
            .read_state = from->read_state,
            .write_state = from->write_state,
            .write_latch = from->write_latch,
            .rw_mode = from->rw_mode,
            .mode = from->mode,
            .bcd = from->bcd,
            .gate = from->gate,
            .count_load_time = from->count_load_time + offset,
        };
    }
    if (!ticking) {
        k.channels[0].mode = PIT_MODE_NO_TIMER;
    }
    rc = kvm_vm_ioctl(pit->dev.vm, KVM_SET_PIT2, &k);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the state of the PIT");
        return false;
    }
    return true;
}

static bool pit_put(void *opaque, GError **err)
{
    struct pit *pit = opaque;

    if (pit->pending && !pit_set(pit, true, err)) {
        return false;
    }
    pit->pending = false;
    return true;
}

static const struct kvm_part_ops pit_part = {
    .put = pit_put,
    .stopped = pit_stopped,
    .resuming = pit_resuming,
};

static bool pit_save(void *opaque, void *state, GError **err)
{
    struct pit *pit = opaque;

    if (kvm_enabled(pit->dev.vm) && !pit->held) {
        return pit_get(pit, state, err);
    }
    *(struct pit_state *)state = pit->state;
    pit_irq_times(state, vm_clock_ns(pit->dev.vm));
    return true;
}

static bool pit_load(void *opaque, const void *state, int version, GError **err)
{
    struct pit *pit = opaque;

    (void)version;
    (void)err;
    pit->state = *(const struct pit_state *)state;
    pit->held = true;
    return true;
}

#define F(n, t)         VMS_F(struct pit_channel, #n, t, n)
#define R(n, t, lo, hi) VMS_RANGE(struct pit_channel, #n, t, n, lo, hi)

static const struct vmstate channel_vmstate = {
    .name = "pit channel",
    .version = 2,
    .min_version = 2,
    .size = sizeof(struct pit_channel),
    .fields =
        (const struct vmstate_field[]){
            R(count, VMS_I32, 0, 0x10000),
            F(latched_count, VMS_U16),
            R(count_latched, VMS_U8, 0, 4),
            R(status_latched, VMS_U8, 0, 1),
            F(status, VMS_U8),
            R(read_state, VMS_U8, 0, 4),
            R(write_state, VMS_U8, 0, 4),
            F(write_latch, VMS_U8),
            R(rw_mode, VMS_U8, 0, 3),
            R(mode, VMS_U8, 0, 7),
            R(bcd, VMS_U8, 0, 1),
            R(gate, VMS_U8, 0, 1),
            R(count_load_time, VMS_I64, -TIME_MAX, TIME_MAX),
            F(next_transition_time, VMS_I64),
            {},
        },
};

static const struct vmstate pit_vmstate = {
    .name = "i8254",
    .version = 3,
    .min_version = 2,
    .size = sizeof(struct pit_state),
    .fields =
        (const struct vmstate_field[]){
            { .name = "channels[0].irq_disabled",
              .type = VMS_U32,
              .offset = offsetof(struct pit_state, irq_disabled),
              .since = 3 },
            VMS_NEST_ARRAY(struct pit_state, "channels", channels, &channel_vmstate, PIT_CHANNELS,
                           sizeof(struct pit_channel)),
            VMS_F(struct pit_state, "channels[0].next_transition_time", VMS_I64, irq_time),
            {},
        },
    .save = pit_save,
    .load = pit_load,
};

static bool pit_realize(struct device *dev, GError **err)
{
    struct kvm_pit_config config = { .flags = 0 };
    int rc = kvm_enabled(dev->vm) ? kvm_vm_ioctl(dev->vm, KVM_CREATE_PIT2, &config) : 0;

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot create the PIT");
        return false;
    }
    kvm_part_add(dev->vm, KVM_STAGE_PIT, &pit_part, dev);
    return true;
}

static void pit_unrealize(struct device *dev)
{
    kvm_part_remove(dev->vm, dev);
}

static void pit_reset(struct device *dev)
{
    struct pit *pit = (struct pit *)dev;
    int64_t now = vm_clock_ns(dev->vm);

    pit->state = (struct pit_state){ .irq_disabled = 0 };
    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        pit->state.channels[i] = (struct pit_channel){
            .count = 0x10000, .mode = 3, .gate = i != 2, .count_load_time = now
        };
    }
    pit_irq_times(&pit->state, now);
    pit->held = true;
}

static const struct device_class pit_class = {
    .name = "kvm-pit",
    .description = "8254 interval timer in the kernel",
    .size = sizeof(struct pit),
    .realize = pit_realize,
    .reset = pit_reset,
    .unrealize = pit_unrealize,
    .vmstate = &pit_vmstate,
};
DEVICE_CLASS(pit_class);
