/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The local APIC, which runs in the kernel: its section apic and KVM's register page.
 *
 * The timer. KVM's page has the initial and the current count; the stream has the initial count and
 * when it was loaded, on the virtual clock. (QEMU under KVM gives the time of saving instead, so
 * that from it a timer begins a whole period again.) KVM restarts the timer from the current count.
 *
 * A one-shot timer that has fired has a current count of 0, and from that KVM fires it at once.
 * That is wanted: between its firing and the request bit (IRR) the interrupt is in a place of KVM's
 * that nobody can read, and the timer goes on while the vCPUs are stopped. A guest bears a tick too
 * many; one too few may be the last thing it waits for.
 */
#include <string.h>

#include "accel/kvm.h"
#include "cpu-internal.h"
#include "util/error.h"

#define APIC_BASE_DEFAULT 0xfee00000u
#define APIC_BASE_BSP     (1u << 8)
#define APIC_BASE_ENABLE  (1u << 11)

#define LVT_MASKED       (1u << 16)
#define LVT_MODE(lvt)    ((lvt) >> 17 & 3)
#define LVT_PERIODIC     1
#define LVT_TSC_DEADLINE 2

enum apic_reg {
    APIC_ID = 0x20,
    APIC_TPR = 0x80,
    APIC_ARB = 0x90,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SPURIOUS = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR2 = 0x310,
    APIC_LVT = 0x320, /* timer, thermal, performance, LINT0, LINT1, error: 0x10 apart */
    APIC_TMICT = 0x380,
    APIC_TMCCT = 0x390,
    APIC_TDCR = 0x3e0,
};

static uint32_t reg_get(const struct kvm_lapic_state *l, unsigned at)
{
    uint32_t v;

    memcpy(&v, l->regs + at, 4);
    return v;
}

static void reg_set(struct kvm_lapic_state *l, unsigned at, uint32_t v)
{
    memcpy(l->regs + at, &v, 4);
}

/* The timer runs at 1 GHz divided by 1 << this. */
static int count_shift(uint32_t divide_conf)
{
    return (int)(((divide_conf & 3) | (divide_conf >> 1 & 4)) + 1) & 7;
}

void apic_state_reset(const struct x86_cpu *cpu, struct apic_state *a)
{
    memset(a, 0, sizeof(*a));
    a->apicbase = APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (cpu->vcpu.index == 0 ? APIC_BASE_BSP : 0);
    a->id = (uint8_t)cpu->vcpu.index;
    a->spurious_vec = 0xff;
    a->dest_mode = 0xf;
    for (unsigned i = 0; i < 6; i++) {
        a->lvt[i] = LVT_MASKED;
    }
    a->count_shift = count_shift(0);
    a->timer_expiry = -1;
}

static void timer_from_kvm(struct x86_cpu *cpu, struct apic_state *a, uint32_t current)
{
    int64_t now = vm_clock_ns(cpu->vcpu.vm), period;

    a->timer_expiry = -1;
    a->initial_count_load_time = now;
    if (!a->initial_count || LVT_MODE(a->lvt[0]) == LVT_TSC_DEADLINE) {
        return;
    }
    period = (int64_t)a->initial_count << a->count_shift;
    current = MIN(current, a->initial_count);
    a->initial_count_load_time = now - ((int64_t)(a->initial_count - current) << a->count_shift);
    if (current || LVT_MODE(a->lvt[0]) == LVT_PERIODIC) {
        a->next_time = a->initial_count_load_time + period;
        a->timer_expiry = a->lvt[0] & LVT_MASKED ? -1 : a->next_time;
    }
}

/* What of the period is left, in timer counts; 0: a one-shot timer that has fired. */
static uint32_t timer_left(struct vm *vm, const struct apic_state *a)
{
    int64_t period = (int64_t)a->initial_count << a->count_shift;
    int64_t gone = MAX(vm_clock_ns(vm) - a->initial_count_load_time, 0);
    int64_t left = period - gone;

    if (LVT_MODE(a->lvt[0]) == LVT_PERIODIC) {
        left = period - gone % period;
    } else if (left <= 0) {
        return 0;
    }
    return (uint32_t)CLAMP((left + (INT64_C(1) << a->count_shift) - 1) >> a->count_shift, 1,
                           (int64_t)a->initial_count);
}

bool apic_get(struct x86_cpu *cpu, struct apic_state *a, GError **err)
{
    struct kvm_lapic_state l = { 0 };
    struct kvm_sregs sregs = { 0 };
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_LAPIC, &l);

    if (rc >= 0) {
        rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_SREGS, &sregs);
    }
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot read the local APIC of vCPU %u",
                        cpu->vcpu.index);
        return false;
    }
    memset(a, 0, sizeof(*a));
    a->apicbase = (uint32_t)sregs.apic_base;
    a->id = (uint8_t)(reg_get(&l, APIC_ID) >> 24);
    a->arb_id = (uint8_t)(reg_get(&l, APIC_ARB) >> 24);
    a->tpr = (uint8_t)reg_get(&l, APIC_TPR);
    a->spurious_vec = reg_get(&l, APIC_SPURIOUS);
    a->log_dest = (uint8_t)(reg_get(&l, APIC_LDR) >> 24);
    a->dest_mode = (uint8_t)(reg_get(&l, APIC_DFR) >> 28);
    for (unsigned i = 0; i < 8; i++) {
        a->isr[i] = reg_get(&l, APIC_ISR + 0x10 * i);
        a->tmr[i] = reg_get(&l, APIC_TMR + 0x10 * i);
        a->irr[i] = reg_get(&l, APIC_IRR + 0x10 * i);
    }
    for (unsigned i = 0; i < 6; i++) {
        a->lvt[i] = reg_get(&l, APIC_LVT + 0x10 * i);
    }
    a->esr = reg_get(&l, APIC_ESR);
    a->icr[0] = reg_get(&l, APIC_ICR);
    a->icr[1] = reg_get(&l, APIC_ICR2);
    a->divide_conf = reg_get(&l, APIC_TDCR);
    a->count_shift = count_shift(a->divide_conf);
    a->initial_count = reg_get(&l, APIC_TMICT);
    timer_from_kvm(cpu, a, reg_get(&l, APIC_TMCCT));
    return true;
}

bool apic_put(struct x86_cpu *cpu, const struct apic_state *a, GError **err)
{
    struct kvm_lapic_state l = { 0 };
    uint32_t left = 0;
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_LAPIC, &l); /* for what the stream has not */

    if (rc < 0) {
        goto fail;
    }
    if (a->initial_count && LVT_MODE(a->lvt[0]) != LVT_TSC_DEADLINE) {
        left = timer_left(cpu->vcpu.vm, a);
    }
    reg_set(&l, APIC_ID, (uint32_t)a->id << 24);
    reg_set(&l, APIC_ARB, (uint32_t)a->arb_id << 24);
    reg_set(&l, APIC_TPR, a->tpr);
    reg_set(&l, APIC_SPURIOUS, a->spurious_vec);
    reg_set(&l, APIC_LDR, (uint32_t)a->log_dest << 24);
    reg_set(&l, APIC_DFR, (uint32_t)a->dest_mode << 28 | 0x0fffffff);
    for (unsigned i = 0; i < 8; i++) {
        reg_set(&l, APIC_ISR + 0x10 * i, a->isr[i]);
        reg_set(&l, APIC_TMR + 0x10 * i, a->tmr[i]);
        reg_set(&l, APIC_IRR + 0x10 * i, a->irr[i]);
    }
    for (unsigned i = 0; i < 6; i++) {
        reg_set(&l, APIC_LVT + 0x10 * i, a->lvt[i]);
    }
    reg_set(&l, APIC_ESR, a->esr);
    reg_set(&l, APIC_ICR, a->icr[0]);
    reg_set(&l, APIC_ICR2, a->icr[1]);
    reg_set(&l, APIC_TDCR, a->divide_conf);
    reg_set(&l, APIC_TMICT, a->initial_count);
    reg_set(&l, APIC_TMCCT, left);
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_LAPIC, &l);
    if (rc < 0) {
        goto fail;
    }
    return true;

fail:
    error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the local APIC of vCPU %u",
                    cpu->vcpu.index);
    return false;
}

bool apic_state_save(void *opaque, void *state, GError **err)
{
    struct x86_cpu *cpu = opaque;

    if (!kvm_enabled(cpu->vcpu.vm)) {
        *(struct apic_state *)state = cpu->apic;
        return true;
    }
    return kvm_parts_put(cpu->vcpu.vm, err) && apic_get(cpu, state, err);
}

bool apic_state_check(void *opaque, const void *state, GError **err)
{
    const struct x86_cpu *cpu = opaque;
    const struct apic_state *a = state;

    if (a->id != cpu->vcpu.index) {
        error_set(err, FERRY_ERROR_PEER,
                  "The local APIC of vCPU %u has id %u in the stream; the processors of both sides "
                  "must be numbered alike",
                  cpu->vcpu.index, a->id);
        return false;
    }
    if (a->count_shift != count_shift(a->divide_conf) && a->count_shift != 0) {
        error_set(err, FERRY_ERROR_PEER,
                  "The local APIC of vCPU %u has a timer divisor that contradicts its register",
                  cpu->vcpu.index);
        return false;
    }
    return true;
}

bool apic_state_load(void *opaque, const void *state, int version, GError **err)
{
    struct x86_cpu *cpu = opaque;

    (void)version;
    (void)err;
    cpu->apic = *(const struct apic_state *)state;
    /* an emulating peer that never saw the divisor written has 0 here */
    cpu->apic.count_shift = count_shift(cpu->apic.divide_conf);
    cpu->pending = true;
    return true;
}
