/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The processors of a machine: made from -cpu and -smp, given to KVM, reset, and put into KVM
 * before they run.
 *
 * Putting, in this order: each processor's own registers (cpu-kvm.c), then the TSCs of all, then
 * what depends on them and on kvmclock's value (which hw/i386/kvmclock.c has put before): the TSC
 * deadline and the kvmclock MSRs.
 */
#include <string.h>

#include "accel/accel.h"
#include "accel/kvm.h"
#include "cpu-model.h"
#include "hw/device.h"
#include "hw/i386/kvmclock.h"
#include "hw/i386/savevm-order.h"
#include "system/config.h"
#include "system/vm.h"
#include "util/clock.h"
#include "util/error.h"

/* 10 banks, MCG_CTL present, software error recovery: what streams of this machine type have. */
#define MCG_CAP_DEFAULT UINT64_C(0x0100010a)

static struct x86_cpus *cpus_of(struct vm *vm)
{
    return vm->vcpus && vm->vcpu_count ? x86_cpu_of(vm->vcpus[0])->all : NULL;
}

static void cpus_reset(void *opaque)
{
    struct x86_cpus *all = opaque;

    for (unsigned i = 0; i < all->count; i++) {
        struct x86_cpu *cpu = &all->cpus[i];

        cpu_state_reset(cpu, &cpu->state);
        apic_state_reset(cpu, &cpu->apic);
        cpu->pending = cpu->late_pending = cpu->asleep = true;
        cpu->stop_tsc_valid = false;
    }
    all->loaded = false;
    all->adjust_at = 0;
}

/*
 * A vCPU that has touched a page which the host has yet to bring (post-copy) sleeps in KVM until
 * that is there. Putting the state of a reset makes KVM forget that it waits for the page, and not
 * that it sleeps: without an event it would never run again. An interrupt of the kind "remote
 * read", which no APIC of these processors delivers, wakes it up and does nothing else; where it
 * did not sleep, its next HLT may end at once, as HLT may. Others than the first wait for INIT,
 * which wakes them.
 */
static void wake(struct x86_cpu *cpu)
{
    if (cpu->asleep && cpu->vcpu.index == 0) {
        cpu->all->vm->accel->ops->msi(cpu->all->vm, UINT64_C(0xfee00000), 0x300);
    }
    cpu->asleep = false;
}

static bool cpus_put(void *opaque, GError **err)
{
    struct x86_cpus *all = opaque;
    bool late = false;

    for (unsigned i = 0; i < all->count; i++) {
        struct x86_cpu *cpu = &all->cpus[i];

        if (cpu->pending) {
            if (!cpu_tsc_set_khz(cpu, cpu->state.tsc_khz, err) ||
                !cpu_kvm_put(cpu, &cpu->state, err)) {
                return false;
            }
            wake(cpu);
            cpu->late_pending = true;
        }
        late = late || cpu->late_pending;
    }
    if (!late) {
        return true;
    }
    all->tsc_khz = kvm_vcpu_ioctl(&all->cpus[0].vcpu, KVM_GET_TSC_KHZ, NULL);
    if (!cpus_tsc_put(all, err)) {
        return false;
    }
    for (unsigned i = 0; i < all->count; i++) {
        struct x86_cpu *cpu = &all->cpus[i];

        if (cpu->late_pending && !cpu_msrs_put_late(cpu, &cpu->state, err)) {
            return false;
        }
        cpu->pending = cpu->late_pending = false;
    }
    /* until they run, the values put are what they are; KVM's counters tick on meanwhile */
    for (unsigned i = 0; i < all->count; i++) {
        all->cpus[i].stop_tsc = all->cpus[i].state.tsc;
        all->cpus[i].stop_tsc_valid = true;
    }
    return true;
}

static void cpus_stopped(void *opaque)
{
    struct x86_cpus *all = opaque;

    all->loaded = false;
    all->adjust_at = 0;
    all->stopped_at = monotonic_ns();
    cpus_tsc_stopped(all);
}

static bool cpus_vcpu_created(void *opaque, struct vcpu *vcpu, GError **err)
{
    struct x86_cpus *all = opaque;
    struct x86_cpu *cpu = x86_cpu_of(vcpu);
    g_autofree struct kvm_cpuid2 *table =
        g_malloc0(sizeof(*table) + CPUID_MAX * sizeof(table->entries[0]));
    struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };
    int rc;

    cpuid_for_cpu(all, vcpu->index, table);
    rc = kvm_vcpu_ioctl(vcpu, KVM_SET_CPUID2, table);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the CPUID of vCPU %u",
                        vcpu->index);
        return false;
    }
    if (all->mcg_cap) {
        rc = kvm_vcpu_ioctl(vcpu, KVM_X86_SETUP_MCE, &all->mcg_cap);
        if (rc < 0) {
            error_set_errno(err, FERRY_ERROR_HOST, -rc,
                            "KVM refuses the machine check banks of vCPU %u", vcpu->index);
            return false;
        }
    }
    if (all->def.tsc_khz &&
        (!all->has_tsc_control ||
         kvm_vcpu_ioctl(vcpu, KVM_SET_TSC_KHZ, (void *)(uintptr_t)all->def.tsc_khz) < 0)) {
        error_set(err, FERRY_ERROR_HOST,
                  "This host cannot give the guest a TSC of %u kHz; leave out tsc-frequency",
                  all->def.tsc_khz);
        return false;
    }
    if (vcpu->index == 0) {
        rc = kvm_vcpu_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL);
        all->tsc_khz = MAX(rc, 0);
        all->has_tsc_offset = kvm_vcpu_ioctl(vcpu, KVM_HAS_DEVICE_ATTR, &attr) >= 0;
        all->reset_state->tsc_khz = all->tsc_khz;
    }
    cpu->state.tsc_khz = all->tsc_khz;
    return true;
}

static const struct kvm_part_ops cpus_part_ops = {
    .put = cpus_put,
    .stopped = cpus_stopped,
    .reset = cpus_reset,
    .vcpu_created = cpus_vcpu_created,
};

/* What KVM offers; all of it is about the host, none about this machine. */
static bool cpus_host_init(struct x86_cpus *all, GError **err)
{
    struct vm *vm = all->vm;
    uint64_t mcg = 0;
    int rc, max = CPUID_MAX;

    for (;;) {
        all->host_cpuid =
            g_malloc0(sizeof(*all->host_cpuid) + (size_t)max * sizeof(struct kvm_cpuid_entry2));
        all->host_cpuid->nent = (uint32_t)max;
        rc = kvm_system_ioctl(vm, KVM_GET_SUPPORTED_CPUID, all->host_cpuid);
        if (rc != -E2BIG || max >= 1024) {
            break;
        }
        g_free(all->host_cpuid);
        max *= 2;
    }
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM does not say which CPUID it supports");
        return false;
    }
    if (kvm_system_ioctl(vm, KVM_X86_GET_MCE_CAP_SUPPORTED, &mcg) >= 0) {
        unsigned banks =
            MIN((unsigned)MCG_CAP_DEFAULT & 0xff, (unsigned)kvm_check_extension(vm, KVM_CAP_MCE));

        all->mcg_cap = (MCG_CAP_DEFAULT & mcg & ~UINT64_C(0xff)) | banks;
    }
    all->has_sregs2 = kvm_check_extension(vm, KVM_CAP_SREGS2);
    all->has_tsc_control = kvm_check_extension(vm, KVM_CAP_TSC_CONTROL);
    all->has_xcrs = kvm_check_extension(vm, KVM_CAP_XCRS);
    all->has_exception_payload = kvm_check_extension(vm, KVM_CAP_EXCEPTION_PAYLOAD);
    all->has_triple_fault = kvm_check_extension(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    all->xsave_size =
        MAX((unsigned)kvm_check_extension(vm, KVM_CAP_XSAVE2), (unsigned)sizeof(struct kvm_xsave));
    all->has_tsc_deadline = kvm_check_extension(vm, KVM_CAP_TSC_DEADLINE_TIMER);
    if (!cpu_msrs_init(all, err)) {
        return false;
    }
    all->has_arch_capabilities = cpu_arch_capabilities_settable(all);
    return true;
}

/*
 * A processor's number is its APIC id. That holds as long as each level but the topmost has a power
 * of two of what is below; other shapes would leave gaps.
 */
static bool topology_check(const struct x86_cpus *all, GError **err)
{
    unsigned per_core = all->threads, per_die = all->cores * per_core;
    unsigned per_socket = all->dies * per_die;
    bool gap = (all->count > per_core && per_core & (per_core - 1)) ||
               (all->count > per_die && per_die & (per_die - 1)) ||
               (all->count > per_socket && per_socket & (per_socket - 1));

    if (gap) {
        error_set(err, FERRY_ERROR_USER,
                  "-smp with %u dies of %u cores of %u threads would leave gaps in the numbers of "
                  "processors; use powers of two below the sockets",
                  all->dies, all->cores, all->threads);
        return false;
    }
    return true;
}

static bool cpus_register(struct x86_cpus *all, GError **err)
{
    struct vm *vm = all->vm;

    for (unsigned i = 0; i < all->count; i++) {
        struct x86_cpu *cpu = &all->cpus[i];

        savevm_register(vm->savevm, NULL, i, &cpu_common_vmstate, cpu, SAVEVM_ORDER_CPU_STATE(i));
        savevm_register(vm->savevm, NULL, i, &cpu_vmstate, cpu, SAVEVM_ORDER_CPU_STATE(i));
        savevm_register(vm->savevm, NULL, i, &apic_vmstate, cpu, SAVEVM_ORDER_APIC(i));
    }
    struct device *dev = device_new(vm, device_class_find("kvmvapic"), NULL, err);

    if (!dev) {
        return false;
    }
    dev->savevm_order = SAVEVM_ORDER_TPR_OPT;
    return device_realize(dev, err);
}

bool x86_cpus_new(struct vm *vm, const struct vm_config *cfg, GError **err)
{
    struct x86_cpus *all = g_new0(struct x86_cpus, 1);
    struct cpu_model *model = NULL;
    bool ok = false;

    all->vm = vm;
    all->count = MAX(cfg->cpus, 1u);
    all->sockets = MAX(cfg->sockets, 1u);
    all->dies = MAX(cfg->dies, 1u);
    all->threads = MAX(cfg->threads, 1u);
    all->cores =
        cfg->cores ? cfg->cores : MAX(all->count / (all->sockets * all->dies * all->threads), 1u);
    all->cpus = g_new0(struct x86_cpu, all->count);
    all->reset_state = g_new0(struct cpu_state, 1);
    all->mcg_cap = MCG_CAP_DEFAULT;
    vm->vcpu_count = all->count;
    vm->vcpus = g_new0(struct vcpu *, all->count);
    for (unsigned i = 0; i < all->count; i++) {
        all->cpus[i].all = all;
        all->cpus[i].vcpu = (struct vcpu){ .vm = vm, .index = i };
        vm->vcpus[i] = &all->cpus[i].vcpu;
    }
    model = cpu_model_parse(cfg->cpu, err);
    if (!model || !topology_check(all, err)) {
        goto out;
    }
    if (kvm_enabled(vm)) {
        all->mcg_cap = 0;
        if (!cpus_host_init(all, err) || !cpu_definition_resolve(&all->def, model, all, err)) {
            goto out;
        }
        kvm_part_add(vm, KVM_STAGE_VCPU, &cpus_part_ops, all);
    }
    cpus_reset(all);
    for (unsigned i = 0; i < all->count; i++) {
        all->cpus[i].asleep = false; /* it has never run */
    }
    *all->reset_state = all->cpus[0].state;
    ok = cpus_register(all, err);

out:
    cpu_model_free(model);
    if (!ok) {
        x86_cpus_free(vm);
    }
    return ok;
}

void x86_cpus_free(struct vm *vm)
{
    struct x86_cpus *all = cpus_of(vm);

    if (!all) {
        return;
    }
    kvm_part_remove(vm, all);
    for (unsigned i = 0; i < all->count; i++) {
        savevm_unregister(vm->savevm, &all->cpus[i]);
    }
    g_clear_pointer(&all->host_msrs, g_hash_table_unref);
    g_free(all->host_cpuid);
    g_free(all->reset_state);
    g_free(all->cpus);
    g_free(all);
    g_clear_pointer(&vm->vcpus, g_free);
    vm->vcpu_count = 0;
}

bool x86_clock_adjust(struct vm *vm, int64_t pause_ns)
{
    struct x86_cpus *all = cpus_of(vm);

    if (all && !kvm_enabled(vm)) {
        return true; /* there are no clocks */
    }
    if (!all || pause_ns < 0 || vm_is_running(vm)) {
        return false;
    }
    kvmclock_adjust(vm, pause_ns);
    if (all->loaded) {
        all->adjust_ns = pause_ns;
        all->adjust_at = monotonic_ns();
        for (unsigned i = 0; i < all->count; i++) {
            all->cpus[i].late_pending = true;
        }
    }
    return true;
}

int64_t x86_clock_stopped_at(struct vm *vm)
{
    struct x86_cpus *all = cpus_of(vm);

    return all ? all->stopped_at : 0;
}

int64_t x86_tsc_khz(struct vm *vm)
{
    struct x86_cpus *all = cpus_of(vm);

    return all ? all->tsc_khz : 0;
}
