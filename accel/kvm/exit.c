/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a vCPU left the guest for. I/O reaches devices with the machine lock held; a guest that ends
 * in a triple fault asks for a reset; what KVM cannot go on with stops the machine in
 * internal-error, with one line that says where the guest was.
 *
 * A vCPU that asked the main loop for something does not run on until that was done: it is held,
 * and let go by the next resume.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "kvm-internal.h"
#include "system/memory.h"
#include "util/error.h"

typedef bool exit_fn(struct kvm_vcpu *v, struct kvm_run *run);

/* After an access: may the vCPU go straight back? If something was asked for, the access is still
 * completed (KVM_RUN with immediate_exit), then the thread parks. */
static bool access_done(struct kvm_vcpu *v)
{
    if (vm_request_pending(v->kvm->vm)) {
        __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    }
    return true;
}

static bool exit_io(struct kvm_vcpu *v, struct kvm_run *run)
{
    struct vm *vm = v->kvm->vm;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    bool again;

    vm_lock(vm);
    for (uint32_t i = 0; i < run->io.count; i++) {
        memory_io(vm->memory, IO_SPACE_PORT, run->io.port, data, run->io.size,
                  run->io.direction == KVM_EXIT_IO_OUT);
        data += run->io.size;
    }
    again = access_done(v);
    vm_unlock(vm);
    return again;
}

static bool exit_mmio(struct kvm_vcpu *v, struct kvm_run *run)
{
    struct vm *vm = v->kvm->vm;
    bool again;

    vm_lock(vm);
    memory_io(vm->memory, IO_SPACE_MEM, run->mmio.phys_addr, run->mmio.data,
              MIN(run->mmio.len, (uint32_t)sizeof(run->mmio.data)), run->mmio.is_write);
    again = access_done(v);
    vm_unlock(vm);
    return again;
}

static void request_reset(struct kvm_vcpu *v)
{
    vm_request_reset(v->kvm->vm, SHUTDOWN_CAUSE_GUEST_RESET);
    v->held = true;
}

static void request_shutdown(struct kvm_vcpu *v)
{
    vm_request_shutdown(v->kvm->vm, SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
    v->held = true;
}

static void request_panic(struct kvm_vcpu *v)
{
    report_error("The guest says it crashed");
    vm_request_stop(v->kvm->vm, RUN_STATE_GUEST_PANICKED);
    v->held = true;
}

static bool locked(struct kvm_vcpu *v, void (*fn)(struct kvm_vcpu *v))
{
    vm_lock(v->kvm->vm);
    fn(v);
    vm_unlock(v->kvm->vm);
    return false;
}

static bool exit_triple_fault(struct kvm_vcpu *v, struct kvm_run *run)
{
    (void)run;
    return locked(v, request_reset);
}

static bool exit_system_event(struct kvm_vcpu *v, struct kvm_run *run)
{
    switch (run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        return locked(v, request_shutdown);
    case KVM_SYSTEM_EVENT_RESET:
        return locked(v, request_reset);
    case KVM_SYSTEM_EVENT_CRASH:
        return locked(v, request_panic);
    default:
        return true; /* wakeup, suspend: nothing to do on this machine */
    }
}

/* Stops the machine, with a line that says what KVM gave up on and where. */
static void internal_error(struct kvm_vcpu *v, const char *what)
{
    struct kvm_regs regs = { 0 };
    struct kvm_sregs sregs = { 0 };

    kvm_vcpu_ioctl(v->vcpu, KVM_GET_REGS, &regs);
    kvm_vcpu_ioctl(v->vcpu, KVM_GET_SREGS, &sregs);
    report_error("KVM internal error on vCPU %u: %s; rip=0x%" PRIx64 " cs=0x%x:0x%" PRIx64
                 " cpl=%u cr0=0x%" PRIx64 " rsp=0x%" PRIx64 " rflags=0x%" PRIx64,
                 v->vcpu->index, what, (uint64_t)regs.rip, sregs.cs.selector,
                 (uint64_t)sregs.cs.base, sregs.ss.dpl, (uint64_t)sregs.cr0, (uint64_t)regs.rsp,
                 (uint64_t)regs.rflags);
    vm_lock(v->kvm->vm);
    vm_request_stop(v->kvm->vm, RUN_STATE_INTERNAL_ERROR);
    v->held = true;
    vm_unlock(v->kvm->vm);
}

static bool exit_internal_error(struct kvm_vcpu *v, struct kvm_run *run)
{
    g_autoptr(GString) what = g_string_new(NULL);

    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        g_string_append(what, "it cannot emulate an instruction");
        if (run->emulation_failure.ndata >= 3 &&
            run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
            unsigned n = MIN(run->emulation_failure.insn_size,
                             (unsigned)sizeof(run->emulation_failure.insn_bytes));

            g_string_append(what, ", bytes");
            for (unsigned i = 0; i < n; i++) {
                g_string_append_printf(what, " %02x", run->emulation_failure.insn_bytes[i]);
            }
        }
    } else {
        g_string_append_printf(what, "suberror %u", run->internal.suberror);
        for (unsigned i = 0; i < MIN(run->internal.ndata, 4u); i++) {
            g_string_append_printf(what, " 0x%" PRIx64, (uint64_t)run->internal.data[i]);
        }
    }
    internal_error(v, what->str);
    return false;
}

static bool exit_fail_entry(struct kvm_vcpu *v, struct kvm_run *run)
{
    g_autofree char *what =
        g_strdup_printf("the processor refuses to enter the guest, reason 0x%" PRIx64,
                        (uint64_t)run->fail_entry.hardware_entry_failure_reason);

    internal_error(v, what);
    return false;
}

static bool exit_ring_full(struct kvm_vcpu *v, struct kvm_run *run)
{
    (void)run;
    kvm_ring_full(v);
    return true;
}

static bool exit_again(struct kvm_vcpu *v, struct kvm_run *run)
{
    (void)run;
    /* without a request this only costs one turn under the lock */
    (void)v;
    return false;
}

static exit_fn *const exit_handlers[] = {
    [KVM_EXIT_IO] = exit_io,
    [KVM_EXIT_MMIO] = exit_mmio,
    [KVM_EXIT_SHUTDOWN] = exit_triple_fault,
    [KVM_EXIT_SYSTEM_EVENT] = exit_system_event,
    [KVM_EXIT_INTERNAL_ERROR] = exit_internal_error,
    [KVM_EXIT_FAIL_ENTRY] = exit_fail_entry,
    [KVM_EXIT_DIRTY_RING_FULL] = exit_ring_full,
    [KVM_EXIT_INTR] = exit_again,
    [KVM_EXIT_IRQ_WINDOW_OPEN] = exit_again,
};

bool kvm_handle_exit(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    uint32_t reason = run->exit_reason;

    if (reason < G_N_ELEMENTS(exit_handlers) && exit_handlers[reason]) {
        return exit_handlers[reason](v, run);
    }
    g_autofree char *what = g_strdup_printf("unexpected exit reason %u", reason);

    internal_error(v, what);
    return false;
}

/* KVM_EXIT_MEMORY_FAULT (Linux 6.8), for headers that do not have it. */
#define EXIT_MEMORY_FAULT 39
struct memory_fault {
    uint64_t flags, gpa, size;
};

void kvm_run_failed(struct kvm_vcpu *v, int errnum)
{
    g_autofree char *what = NULL;

    if (v->run->exit_reason == EXIT_MEMORY_FAULT && (errnum == EFAULT || errnum == EHWPOISON)) {
        struct memory_fault fault;

        memcpy(&fault, v->run->padding, sizeof(fault));
        what = g_strdup_printf("the host has no memory for guest address 0x%" PRIx64 ": %s",
                               fault.gpa, g_strerror(errnum));
    } else {
        what = g_strdup_printf("KVM_RUN failed: %s", g_strerror(errnum));
    }
    internal_error(v, what);
}
