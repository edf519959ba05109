/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The KVM accelerator: opening /dev/kvm, making the VM with its in-kernel interrupt controllers,
 * interrupts into the guest, and the list of parts whose state lives in the kernel.
 *
 * Order: accel_kvm_new() makes the VM and the interrupt controllers, because devices built next
 * connect to them (the PIT is made by its device); start() adds memory slots and vCPUs when the
 * machine is complete. Everything a host may lack is asked for here, once, by name; the rest of the
 * code relies on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm-internal.h"
#include "util/error.h"

/* Three pages for the kernel's own use, below the firmware and above every device. */
#define KVM_IDENTITY_MAP_ADDR UINT64_C(0xfffbc000)
#define KVM_TSS_ADDR          0xfffbd000ul

struct kvm_part {
    enum kvm_stage stage;
    const struct kvm_part_ops *ops;
    void *opaque;
};

static const struct {
    int cap;
    const char *name;
} kvm_required_caps[] = {
    { KVM_CAP_USER_MEMORY, "USER_MEMORY" },
    { KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "DESTROY_MEMORY_REGION_WORKS" },
    { KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR" },
    { KVM_CAP_SET_IDENTITY_MAP_ADDR, "SET_IDENTITY_MAP_ADDR" },
    { KVM_CAP_IRQCHIP, "IRQCHIP" },
    { KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING" },
    { KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI" },
    { KVM_CAP_PIT2, "PIT2" },
    { KVM_CAP_PIT_STATE2, "PIT_STATE2" },
    { KVM_CAP_EXT_CPUID, "EXT_CPUID" },
    { KVM_CAP_MP_STATE, "MP_STATE" },
    { KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS" },
    { KVM_CAP_DEBUGREGS, "DEBUGREGS" },
    { KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK" },
    { KVM_CAP_READONLY_MEM, "READONLY_MEM" },
    { KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
};

bool kvm_enabled(const struct vm *vm)
{
    return vm->accel && vm->accel->ops == &kvm_accel_ops;
}

static int ioctl_retry(int fd, unsigned long request, void *arg)
{
    int rc;

    do {
        rc = ioctl(fd, request, arg);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

int kvm_system_ioctl(struct vm *vm, unsigned long request, void *arg)
{
    return ioctl_retry(kvm_of(vm)->fd, request, arg);
}

int kvm_vm_ioctl(struct vm *vm, unsigned long request, void *arg)
{
    return ioctl_retry(kvm_of(vm)->vm_fd, request, arg);
}

int kvm_vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *arg)
{
    const struct kvm_vcpu *v = vcpu->accel_data;

    return ioctl_retry(v->fd, request, arg);
}

int kvm_check(struct kvm *kvm, int cap)
{
    int rc = ioctl(kvm->vm_fd >= 0 ? kvm->vm_fd : kvm->fd, KVM_CHECK_EXTENSION, (long)cap);

    return MAX(rc, 0);
}

int kvm_check_extension(struct vm *vm, int cap)
{
    return kvm_check(kvm_of(vm), cap);
}

int kvm_enable(struct kvm *kvm, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

    return ioctl_retry(kvm->vm_fd, KVM_ENABLE_CAP, &c);
}

int kvm_vm_enable_cap(struct vm *vm, uint32_t cap, uint64_t arg)
{
    return kvm_enable(kvm_of(vm), cap, arg);
}

void kvm_part_add(struct vm *vm, enum kvm_stage stage, const struct kvm_part_ops *ops, void *opaque)
{
    struct kvm_part *part;
    unsigned at = 0;

    if (!kvm_enabled(vm)) {
        return;
    }
    GPtrArray *parts = kvm_of(vm)->parts;

    part = g_new(struct kvm_part, 1);
    *part = (struct kvm_part){ .stage = stage, .ops = ops, .opaque = opaque };
    while (at < parts->len && ((struct kvm_part *)g_ptr_array_index(parts, at))->stage <= stage) {
        at++;
    }
    g_ptr_array_insert(parts, (int)at, part);
}

void kvm_part_remove(struct vm *vm, void *opaque)
{
    if (!kvm_enabled(vm)) {
        return;
    }
    GPtrArray *parts = kvm_of(vm)->parts;

    for (unsigned i = 0; i < parts->len; i++) {
        if (((struct kvm_part *)g_ptr_array_index(parts, i))->opaque == opaque) {
            g_ptr_array_remove_index(parts, i);
            return;
        }
    }
}

bool kvm_parts_put(struct vm *vm, GError **err)
{
    GPtrArray *parts = kvm_enabled(vm) ? kvm_of(vm)->parts : NULL;

    for (unsigned i = 0; parts && i < parts->len; i++) {
        const struct kvm_part *part = g_ptr_array_index(parts, i);

        if (!part->ops->put(part->opaque, err)) {
            return false;
        }
    }
    return true;
}

static void parts_tell(struct kvm *kvm, size_t op)
{
    for (unsigned i = 0; i < kvm->parts->len; i++) {
        const struct kvm_part *part = g_ptr_array_index(kvm->parts, i);
        void (*fn)(void *opaque);

        memcpy(&fn, (const char *)part->ops + op, sizeof(fn));
        if (fn) {
            fn(part->opaque);
        }
    }
}

static void kvm_reset(struct vm *vm)
{
    parts_tell(kvm_of(vm), offsetof(struct kvm_part_ops, reset));
}

static bool accel_kvm_pause(struct vm *vm, unsigned timeout_ms, GError **err)
{
    struct kvm *kvm = kvm_of(vm);
    bool was = kvm->running;

    if (!kvm_pause(vm, timeout_ms, err)) {
        return false;
    }
    if (was) {
        parts_tell(kvm, offsetof(struct kvm_part_ops, stopped));
    }
    return true;
}

static void accel_kvm_resume(struct vm *vm)
{
    g_autoptr(GError) err = NULL;

    parts_tell(kvm_of(vm), offsetof(struct kvm_part_ops, resuming));
    /* after a load post_load() has put (and checked) everything already, and this is about clocks
     */
    if (!kvm_parts_put(vm, &err)) {
        report_error("%s", err->message);
        vm_request_stop(vm, RUN_STATE_INTERNAL_ERROR);
        return;
    }
    kvm_resume(vm);
}

static bool accel_kvm_start(struct vm *vm, GError **err)
{
    struct kvm *kvm = kvm_of(vm);

    if (!kvm_slots_create(kvm, err) || !kvm_vcpus_create(kvm, err)) {
        return false;
    }
    for (unsigned i = 0; i < kvm->parts->len; i++) {
        const struct kvm_part *part = g_ptr_array_index(kvm->parts, i);

        for (unsigned c = 0; part->ops->vcpu_created && c < vm->vcpu_count; c++) {
            if (!part->ops->vcpu_created(part->opaque, vm->vcpus[c], err)) {
                return false;
            }
        }
    }
    return true;
}

static void accel_kvm_stop(struct vm *vm)
{
    kvm_dirty_end(kvm_of(vm));
    kvm_vcpus_destroy(kvm_of(vm));
}

static void kvm_irq_line(struct vm *vm, unsigned gsi, bool level)
{
    struct kvm_irq_level irq = { .irq = gsi, .level = level };

    kvm_vm_ioctl(vm, KVM_IRQ_LINE, &irq);
}

static void kvm_msi(struct vm *vm, uint64_t address, uint32_t data)
{
    struct kvm_msi msi = { .address_lo = (uint32_t)address,
                           .address_hi = (uint32_t)(address >> 32),
                           .data = data };

    kvm_vm_ioctl(vm, KVM_SIGNAL_MSI, &msi);
}

static bool kvm_ioeventfd(struct vm *vm, uint64_t addr, uint32_t value, int fd, bool on)
{
    struct kvm_ioeventfd e = {
        .datamatch = value,
        .addr = addr,
        .len = sizeof(value),
        .fd = fd,
        .flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return kvm_vm_ioctl(vm, KVM_IOEVENTFD, &e) == 0;
}

/*
 * GSIs of a PC: 0-15 reach a PIC and the IOAPIC, 16-23 the IOAPIC only. The timer's GSI 0 is pin 2
 * of the IOAPIC; the PICs' cascade (2) is nobody's line.
 */
static bool kvm_setup_routing(struct kvm *kvm, GError **err)
{
    g_autofree struct kvm_irq_routing *r =
        g_malloc0(sizeof(*r) + (16 + 24) * sizeof(struct kvm_irq_routing_entry));
    int rc;

    for (unsigned gsi = 0; gsi < 24; gsi++) {
        if (gsi < 16 && gsi != 2) {
            r->entries[r->nr++] = (struct kvm_irq_routing_entry){
                .gsi = gsi,
                .type = KVM_IRQ_ROUTING_IRQCHIP,
                .u.irqchip = { .irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                               .pin = gsi % 8 },
            };
        }
        if (gsi != 2) {
            r->entries[r->nr++] = (struct kvm_irq_routing_entry){
                .gsi = gsi,
                .type = KVM_IRQ_ROUTING_IRQCHIP,
                .u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi ? gsi : 2 },
            };
        }
    }
    rc = ioctl_retry(kvm->vm_fd, KVM_SET_GSI_ROUTING, r);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the interrupt routing");
        return false;
    }
    return true;
}

static bool kvm_check_caps(struct kvm *kvm, GError **err)
{
    int version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0l);

    if (version != KVM_API_VERSION) {
        error_set(err, FERRY_ERROR_HOST, "KVM has API version %d, Ferry needs %d", version,
                  KVM_API_VERSION);
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(kvm_required_caps); i++) {
        if (!kvm_check(kvm, kvm_required_caps[i].cap)) {
            error_set(err, FERRY_ERROR_HOST,
                      "This host's KVM lacks KVM_CAP_%s; a newer kernel is needed",
                      kvm_required_caps[i].name);
            return false;
        }
    }
    return true;
}

static bool kvm_create_vm(struct kvm *kvm, GError **err)
{
    uint64_t identity_map = KVM_IDENTITY_MAP_ADDR;
    int rc;

    do {
        kvm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0l);
    } while (kvm->vm_fd < 0 && errno == EINTR);
    if (kvm->vm_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "KVM cannot create a virtual machine");
        return false;
    }
    rc = ioctl_retry(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    if (rc >= 0) {
        rc = ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0 ? -errno : 0;
    }
    if (rc >= 0) {
        rc = ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0l) < 0 ? -errno : 0;
    }
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot create its interrupt controllers");
        return false;
    }
    /* Both change what KVM_GET_VCPU_EVENTS says; where they are missing those fields stay empty. */
    if (kvm_check(kvm, KVM_CAP_EXCEPTION_PAYLOAD)) {
        kvm_enable(kvm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    }
    if (kvm_check(kvm, KVM_CAP_X86_TRIPLE_FAULT_EVENT)) {
        kvm_enable(kvm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    }
    return kvm_setup_routing(kvm, err);
}

static void kvm_free(struct accel *a)
{
    struct kvm *kvm = (struct kvm *)a;

    g_assert(!kvm->vcpus);
    kvm_slots_free(kvm);
    g_ptr_array_free(kvm->parts, TRUE);
    if (kvm->vm_fd >= 0) {
        close(kvm->vm_fd);
    }
    if (kvm->fd >= 0) {
        close(kvm->fd);
    }
    cond_clear(&kvm->parked_cond);
    cond_clear(&kvm->reaper_wake);
    cond_clear(&kvm->exit_cond);
    mutex_clear(&kvm->dirty_lock);
    mutex_clear(&kvm->users_lock);
    mutex_clear(&kvm->exit_lock);
    g_free(kvm);
}

struct accel *accel_kvm_new(struct vm *vm, uint32_t dirty_ring_size, GError **err)
{
    struct kvm *kvm = g_new0(struct kvm, 1);

    kvm->accel.ops = &kvm_accel_ops;
    kvm->accel.dirty_ring_size = dirty_ring_size;
    kvm->vm = vm;
    kvm->vm_fd = -1;
    kvm->parts = g_ptr_array_new_with_free_func(g_free);
    cond_init(&kvm->parked_cond);
    cond_init(&kvm->reaper_wake);
    cond_init(&kvm->exit_cond);
    mutex_init(&kvm->dirty_lock);
    mutex_init(&kvm->users_lock);
    mutex_init(&kvm->exit_lock);
    kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm->fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        errno == ENOENT ? "Could not access KVM kernel module: /dev/kvm does not "
                                          "exist; load kvm_intel or kvm_amd"
                                        : "Could not access KVM kernel module: /dev/kvm cannot be "
                                          "opened; add the user to the group kvm");
        goto fail;
    }
    if (!kvm_check_caps(kvm, err) || !kvm_create_vm(kvm, err)) {
        goto fail;
    }
    if (dirty_ring_size) {
        if (!kvm_ring_enable(kvm, dirty_ring_size, err)) {
            goto fail;
        }
    } else {
        int modes = kvm_check(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
                    (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);

        kvm->manual_protect = modes & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE &&
                              !kvm_enable(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, (uint64_t)modes);
        kvm->initially_set = kvm->manual_protect && modes & KVM_DIRTY_LOG_INITIALLY_SET;
    }
    kvm->run_size = (size_t)MAX(ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0l), 0);
    if (kvm->run_size < sizeof(struct kvm_run)) {
        error_set(err, FERRY_ERROR_HOST, "KVM says a vCPU shares %zu bytes, which is too little",
                  kvm->run_size);
        goto fail;
    }
    return &kvm->accel;

fail:
    kvm_free(&kvm->accel);
    return NULL;
}

static bool flush(struct vm *vm, GError **err)
{
    return kvm_vcpus_flush(kvm_of(vm), err);
}

/* Where KVM's own default cannot be read: what Linux has on x86. */
#define HALT_POLL_NS 200000

/* KVM waits for pages as for interrupts, in a halt, and polls at its begin (halt_poll_ns). Only a
 * help: a kernel that cannot be told goes on polling. */
static void idle_spin(struct vm *vm, bool may)
{
    g_autofree char *ns = NULL;
    uint64_t limit = 0;

    if (may) {
        limit = g_file_get_contents("/sys/module/kvm/parameters/halt_poll_ns", &ns, NULL, NULL)
                    ? g_ascii_strtoull(ns, NULL, 10)
                    : HALT_POLL_NS;
    }
    if (kvm_check_extension(vm, KVM_CAP_HALT_POLL)) {
        (void)kvm_vm_enable_cap(vm, KVM_CAP_HALT_POLL, limit);
    }
}

const struct accel_ops kvm_accel_ops = {
    .name = "kvm",
    .start = accel_kvm_start,
    .stop = accel_kvm_stop,
    .resume = accel_kvm_resume,
    .pause = accel_kvm_pause,
    .kick = kvm_kick_all,
    .flush = flush,
    .entered = kvm_entered,
    .idle_spin = idle_spin,
    .reset = kvm_reset,
    .irq_line = kvm_irq_line,
    .msi = kvm_msi,
    .ioeventfd = kvm_ioeventfd,
    .dirty_count = kvm_dirty_count,
    .dirty_start = kvm_dirty_start,
    .dirty_stop = kvm_dirty_stop,
    .dirty_sync = kvm_dirty_sync,
    .dirty_clear = kvm_dirty_clear,
    .post_load = kvm_parts_put,
    .free = kvm_free,
};
