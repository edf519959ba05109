/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Time stamp counters of all processors.
 *
 * A stream has one value per processor, and peers read them one after another, so values that
 * differ by less than a millisecond belong to synchronised counters and are made equal again, apart
 * from what the guest's own TSC_ADJUST says. The first processor's counter is set, the others
 * follow it by their offset.
 *
 * How a counter is set: through KVM_VCPU_TSC_OFFSET, relative to what it reads now, which is exact.
 * Writing MSR 0x10 is the way of older kernels; KVM may then take the write for an attempt to
 * synchronise and keep the old offset, which is wrong by up to a second, so it is the last resort.
 *
 * Values are those of the moment the vCPUs stopped; x86_clock_adjust() says how much later it is.
 */
#include <string.h>
#include <time.h>

#include "accel/kvm.h"
#include "cpu-internal.h"
#include "util/clock.h"
#include "util/error.h"

static bool offset_attr(struct x86_cpu *cpu, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
                                    .attr = KVM_VCPU_TSC_OFFSET,
                                    .addr = (uintptr_t)offset };

    return kvm_vcpu_ioctl(&cpu->vcpu, request, &attr) >= 0;
}

static uint64_t ns_to_cycles(int64_t ns, int64_t khz)
{
    return (uint64_t)((__int128)ns * khz / 1000000);
}

/* How far `cpu` is to be ahead of the first processor. */
static int64_t wanted_lead(const struct x86_cpus *all, const struct x86_cpu *cpu)
{
    const struct cpu_state *first = &all->cpus[0].state;
    int64_t adjusted = (int64_t)(cpu->state.tsc_adjust - first->tsc_adjust);
    int64_t lead = (int64_t)(cpu->state.tsc - first->tsc);
    int64_t skew = (int64_t)((uint64_t)lead - (uint64_t)adjusted);

    return skew > -all->tsc_khz && skew < all->tsc_khz ? adjusted : lead;
}

bool cpus_tsc_put(struct x86_cpus *all, GError **err)
{
    struct x86_cpu *first = &all->cpus[0];
    uint64_t extra = 0, offset, now, base;

    if (all->adjust_at) {
        extra = ns_to_cycles(all->adjust_ns + monotonic_ns() - all->adjust_at, all->tsc_khz);
    }
    base = first->state.tsc + extra;
    if (!all->has_tsc_offset || !offset_attr(first, KVM_GET_DEVICE_ATTR, &offset) ||
        !cpu_msr_get_one(first, MSR_TSC, &now)) {
        for (unsigned i = 0; i < all->count; i++) {
            if (!cpu_msr_put_one(&all->cpus[i], MSR_TSC,
                                 base + (uint64_t)wanted_lead(all, &all->cpus[i]), err)) {
                return false;
            }
        }
        return true;
    }
    offset += base - now;
    for (unsigned i = 0; i < all->count; i++) {
        uint64_t own = offset + (uint64_t)wanted_lead(all, &all->cpus[i]);

        if (!offset_attr(&all->cpus[i], KVM_SET_DEVICE_ATTR, &own)) {
            error_set(err, FERRY_ERROR_HOST, "KVM refuses the TSC of vCPU %u", i);
            return false;
        }
    }
    return true;
}

void cpus_tsc_stopped(struct x86_cpus *all)
{
    uint64_t first_offset = 0, offset;
    struct x86_cpu *first = &all->cpus[0];
    bool offsets = all->has_tsc_offset && offset_attr(first, KVM_GET_DEVICE_ATTR, &first_offset);
    int64_t since = monotonic_ns();

    for (unsigned i = 0; i < all->count; i++) {
        struct x86_cpu *cpu = &all->cpus[i];

        if (i && offsets && first->stop_tsc_valid &&
            offset_attr(cpu, KVM_GET_DEVICE_ATTR, &offset)) {
            cpu->stop_tsc = first->stop_tsc + (offset - first_offset);
            cpu->stop_tsc_valid = true;
            continue;
        }
        cpu->stop_tsc_valid = cpu_msr_get_one(cpu, MSR_TSC, &cpu->stop_tsc);
        cpu->stop_tsc -= ns_to_cycles(monotonic_ns() - since, all->tsc_khz);
    }
}

bool cpu_tsc_set_khz(struct x86_cpu *cpu, int64_t khz, GError **err)
{
    int64_t have = cpu->all->tsc_khz, apart = khz > have ? khz - have : have - khz;

    if (!khz || !have || khz == have) {
        return true;
    }
    if (cpu->all->has_tsc_control &&
        kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_TSC_KHZ, (void *)(uintptr_t)khz) >= 0) {
        return true;
    }
    /* 250 ppm is what KVM itself takes for the same frequency, and what clocks are measured to */
    if (apart * 4000 > have) {
        if (cpu->all->def.invtsc) {
            error_set(err, FERRY_ERROR_HOST,
                      "The guest's TSC runs at %" G_GINT64_FORMAT " kHz and this host's at "
                      "%" G_GINT64_FORMAT " kHz without scaling; the CPU feature invtsc forbids "
                      "that",
                      khz, have);
            return false;
        }
        if (cpu->vcpu.index == 0) {
            report_warning("TSC frequency mismatch between VM (%" G_GINT64_FORMAT " kHz) and host "
                           "(%" G_GINT64_FORMAT " kHz), and TSC scaling unavailable",
                           khz, have);
        }
    }
    return true;
}

/* The page that KVM publishes for a vCPU (Documentation/virt/kvm/x86/msr.rst). */
struct clock_page {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
};

bool x86_guest_clock_ns(struct vm *vm, uint64_t *ns)
{
    struct x86_cpu *cpu = vm->vcpu_count ? x86_cpu_of(vm->vcpus[0]) : NULL;
    struct clock_page page;
    uint64_t msr, tsc, delta;
    const void *at;

    if (!cpu || !cpu_msr_get_one(cpu, 0x4b564d01, &msr) || !(msr & 1) ||
        !cpu_msr_get_one(cpu, MSR_TSC, &tsc)) {
        return false;
    }
    at = memory_ram_ptr(vm->memory, msr & ~UINT64_C(1), sizeof(page), false);
    if (!at) {
        return false;
    }
    memcpy(&page, at, sizeof(page));
    if (page.version & 1 || tsc < page.tsc_timestamp || page.tsc_shift <= -64 ||
        page.tsc_shift >= 64) {
        return false; /* the guest's page is the guest's: take no nonsense from it */
    }
    delta = tsc - page.tsc_timestamp;
    delta = page.tsc_shift < 0 ? delta >> -page.tsc_shift : delta << page.tsc_shift;
    *ns = page.system_time + (uint64_t)((unsigned __int128)delta * page.tsc_to_system_mul >> 32);
    return true;
}
