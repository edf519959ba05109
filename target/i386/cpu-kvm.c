/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One processor's registers between struct cpu_state and KVM; the vCPU is stopped.
 *
 * Order of writing, and why: control registers first (they decide what the rest means, and carry
 * the APIC base); general registers after them, because setting those drops pending exceptions; the
 * vector state after XCR0; events after the general registers; the multiprocessor state last, when
 * the local APIC is in place. What all processors must agree on (TSC) and what depends on it is
 * done by cpus.c afterwards.
 */
#include <string.h>

#include "accel/kvm.h"
#include "cpu-internal.h"
#include "util/error.h"

#define EFLAGS_VM (1u << 17)
#define CR0_PG    (1u << 31)
#define CR4_PAE   (1u << 5)
#define EFER_LMA  (1u << 10)

/* KVM_GET_SREGS2 without its tail is KVM_GET_SREGS without its own. */
G_STATIC_ASSERT(offsetof(struct kvm_sregs2, flags) == offsetof(struct kvm_sregs, interrupt_bitmap));

static bool fail(struct x86_cpu *cpu, int rc, const char *what, GError **err)
{
    error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the %s of vCPU %u", what,
                    cpu->vcpu.index);
    return false;
}

static void seg_from_kvm(struct cpu_segment *to, const struct kvm_segment *from)
{
    to->selector = from->selector;
    to->base = from->base;
    to->limit = from->limit;
    to->flags = (uint32_t)from->type << SEG_TYPE_SHIFT | (from->s ? SEG_S : 0) |
                (uint32_t)from->dpl << SEG_DPL_SHIFT |
                (from->present && !from->unusable ? SEG_P : 0) | (from->avl ? SEG_AVL : 0) |
                (from->l ? SEG_L : 0) | (from->db ? SEG_DB : 0) | (from->g ? SEG_G : 0);
}

static void seg_to_kvm(struct kvm_segment *to, const struct cpu_segment *from, bool vm86)
{
    *to = (struct kvm_segment){ .selector = (uint16_t)from->selector,
                                .base = from->base,
                                .limit = from->limit };
    if (vm86) {
        /* the attributes that virtual-8086 mode has whatever the descriptor said */
        to->type = 3;
        to->s = to->present = 1;
        to->dpl = 3;
        return;
    }
    to->type = from->flags >> SEG_TYPE_SHIFT & 15;
    to->s = !!(from->flags & SEG_S);
    to->dpl = from->flags >> SEG_DPL_SHIFT & 3;
    to->present = !!(from->flags & SEG_P);
    to->avl = !!(from->flags & SEG_AVL);
    to->l = !!(from->flags & SEG_L);
    to->db = !!(from->flags & SEG_DB);
    to->g = !!(from->flags & SEG_G);
    to->unusable = !to->present;
}

/* Where each general register, by number, is in struct kvm_regs. */
static const size_t gpr_at[16] = {
    offsetof(struct kvm_regs, rax), offsetof(struct kvm_regs, rcx), offsetof(struct kvm_regs, rdx),
    offsetof(struct kvm_regs, rbx), offsetof(struct kvm_regs, rsp), offsetof(struct kvm_regs, rbp),
    offsetof(struct kvm_regs, rsi), offsetof(struct kvm_regs, rdi), offsetof(struct kvm_regs, r8),
    offsetof(struct kvm_regs, r9),  offsetof(struct kvm_regs, r10), offsetof(struct kvm_regs, r11),
    offsetof(struct kvm_regs, r12), offsetof(struct kvm_regs, r13), offsetof(struct kvm_regs, r14),
    offsetof(struct kvm_regs, r15),
};

static bool get_regs(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    struct kvm_regs regs;
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_REGS, &regs);

    if (rc < 0) {
        return fail(cpu, rc, "reading of registers", err);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(&s->regs[i], (char *)&regs + gpr_at[i], 8);
    }
    s->eip = regs.rip;
    s->eflags = regs.rflags;
    return true;
}

static bool put_regs(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    struct kvm_regs regs = { .rip = s->eip, .rflags = s->eflags | 2 };
    int rc;

    for (unsigned i = 0; i < 16; i++) {
        memcpy((char *)&regs + gpr_at[i], &s->regs[i], 8);
    }
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_REGS, &regs);
    return rc < 0 ? fail(cpu, rc, "general registers", err) : true;
}

static bool get_sregs(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    union {
        struct kvm_sregs one;
        struct kvm_sregs2 two;
    } u = { 0 };
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, cpu->all->has_sregs2 ? KVM_GET_SREGS2 : KVM_GET_SREGS, &u);

    if (rc < 0) {
        return fail(cpu, rc, "reading of control registers", err);
    }
    const struct kvm_segment *from[6] = { &u.two.es, &u.two.cs, &u.two.ss,
                                          &u.two.ds, &u.two.fs, &u.two.gs };

    for (unsigned i = 0; i < 6; i++) {
        seg_from_kvm(&s->segs[i], from[i]);
    }
    seg_from_kvm(&s->tr, &u.two.tr);
    seg_from_kvm(&s->ldt, &u.two.ldt);
    s->gdt = (struct cpu_segment){ .base = u.two.gdt.base, .limit = u.two.gdt.limit };
    s->idt = (struct cpu_segment){ .base = u.two.idt.base, .limit = u.two.idt.limit };
    s->cr0 = u.two.cr0;
    s->cr2 = u.two.cr2;
    s->cr3 = u.two.cr3;
    s->cr4 = u.two.cr4;
    s->efer = u.two.efer;
    s->pdptrs_valid = cpu->all->has_sregs2 && u.two.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
    for (unsigned i = 0; s->pdptrs_valid && i < 4; i++) {
        s->pdptrs[i] = u.two.pdptrs[i];
    }
    return true;
}

static bool put_sregs(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    union {
        struct kvm_sregs one;
        struct kvm_sregs2 two;
    } u = { 0 };
    bool vm86 = s->eflags & EFLAGS_VM;
    struct kvm_segment *to[6] = {
        &u.two.es, &u.two.cs, &u.two.ss, &u.two.ds, &u.two.fs, &u.two.gs
    };
    int rc;

    for (unsigned i = 0; i < 6; i++) {
        seg_to_kvm(to[i], &s->segs[i], vm86);
    }
    seg_to_kvm(&u.two.tr, &s->tr, false);
    seg_to_kvm(&u.two.ldt, &s->ldt, false);
    u.two.gdt.base = s->gdt.base;
    u.two.gdt.limit = (uint16_t)s->gdt.limit;
    u.two.idt.base = s->idt.base;
    u.two.idt.limit = (uint16_t)s->idt.limit;
    u.two.cr0 = s->cr0;
    u.two.cr2 = s->cr2;
    u.two.cr3 = s->cr3;
    u.two.cr4 = s->cr4;
    u.two.cr8 = cpu->apic.tpr >> 4;
    u.two.efer = s->efer;
    u.two.apic_base = cpu->apic.apicbase;
    if (cpu->all->has_sregs2) {
        bool pae = s->cr0 & CR0_PG && s->cr4 & CR4_PAE && !(s->efer & EFER_LMA);

        if (pae && s->pdptrs_valid) {
            u.two.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
            memcpy(u.two.pdptrs, s->pdptrs, sizeof(u.two.pdptrs));
        }
        rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_SREGS2, &u);
    } else {
        if (s->interrupt_injected >= 0) {
            u.one.interrupt_bitmap[s->interrupt_injected / 64] |= UINT64_C(1)
                                                                  << (s->interrupt_injected % 64);
        }
        rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_SREGS, &u);
    }
    return rc < 0 ? fail(cpu, rc, "control registers", err) : true;
}

static bool get_xcrs(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    struct kvm_xcrs xcrs = { 0 };
    int rc;

    s->xcr0 = 1;
    if (!cpu->all->has_xcrs) {
        return true;
    }
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_XCRS, &xcrs);
    if (rc < 0) {
        return fail(cpu, rc, "reading of XCR0", err);
    }
    for (unsigned i = 0; i < MIN(xcrs.nr_xcrs, KVM_MAX_XCRS); i++) {
        if (xcrs.xcrs[i].xcr == 0) {
            s->xcr0 = xcrs.xcrs[i].value;
        }
    }
    return true;
}

static bool put_xcrs(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = s->xcr0 } };
    int rc;

    if (!cpu->all->has_xcrs) {
        return true;
    }
    xcrs.xcrs[0].value |= 1;
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_XCRS, &xcrs);
    return rc < 0 ? fail(cpu, rc, "XCR0", err) : true;
}

static bool get_debugregs(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    struct kvm_debugregs d;
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_DEBUGREGS, &d);

    if (rc < 0) {
        return fail(cpu, rc, "reading of debug registers", err);
    }
    for (unsigned i = 0; i < 4; i++) {
        s->dr[i] = d.db[i];
    }
    s->dr[4] = s->dr[6] = d.dr6; /* 4 and 5 are other names of 6 and 7 */
    s->dr[5] = s->dr[7] = d.dr7;
    return true;
}

static bool put_debugregs(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    struct kvm_debugregs d = { .dr6 = s->dr[6], .dr7 = s->dr[7] };
    int rc;

    for (unsigned i = 0; i < 4; i++) {
        d.db[i] = s->dr[i];
    }
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_DEBUGREGS, &d);
    return rc < 0 ? fail(cpu, rc, "debug registers", err) : true;
}

static bool get_events(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    struct kvm_vcpu_events e = { 0 };
    uint32_t keep = 0;
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_VCPU_EVENTS, &e);

    if (rc < 0) {
        return fail(cpu, rc, "reading of pending events", err);
    }
    s->exception_injected = e.exception.injected;
    if (e.flags & KVM_VCPUEVENT_VALID_PAYLOAD) {
        s->exception_pending = e.exception.pending;
        s->exception_has_payload = e.exception_has_payload;
        s->exception_payload = e.exception_has_payload ? e.exception_payload : 0;
    }
    s->exception_nr = e.exception.injected || s->exception_pending ? e.exception.nr : -1;
    s->has_error_code = s->exception_nr >= 0 && e.exception.has_error_code;
    s->interrupt_injected = e.interrupt.injected ? e.interrupt.nr : -1;
    s->soft_interrupt = e.interrupt.injected && e.interrupt.soft;
    s->nmi_injected = e.nmi.injected;
    s->nmi_pending = e.nmi.pending;
    s->hflags2 = HF2_RESET | (e.nmi.masked ? HF2_NMI_MASKED : 0);
    s->sipi_vector = e.sipi_vector;
    keep |= e.interrupt.shadow ? HF_INHIBIT_IRQ : 0;
    if (e.flags & KVM_VCPUEVENT_VALID_SMM) {
        keep |= e.smi.smm ? HF_SMM : 0;
    }
    if (e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) {
        s->triple_fault_pending = e.triple_fault.pending;
    }
    s->hflags = cpu_hflags(s, keep);
    return true;
}

static bool put_events(struct x86_cpu *cpu, const struct cpu_state *s, uint32_t mp_state,
                       GError **err)
{
    struct kvm_vcpu_events e = {
        .exception.injected = s->exception_injected,
        .exception.nr = s->exception_nr >= 0 ? (uint8_t)s->exception_nr : 0,
        .exception.has_error_code = s->has_error_code,
        .interrupt.injected = s->interrupt_injected >= 0,
        .interrupt.nr = s->interrupt_injected >= 0 ? (uint8_t)s->interrupt_injected : 0,
        .interrupt.soft = s->soft_interrupt,
        .interrupt.shadow = s->hflags & HF_INHIBIT_IRQ ? KVM_X86_SHADOW_INT_STI : 0,
        .nmi.injected = s->nmi_injected,
        .nmi.pending = s->nmi_pending,
        .nmi.masked = !!(s->hflags2 & HF2_NMI_MASKED),
        .sipi_vector = s->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
    };
    int rc;

    if (mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
        e.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
    }
    if (cpu->all->has_exception_payload) {
        e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
        e.exception.pending = s->exception_pending;
        e.exception_has_payload = s->exception_has_payload;
        e.exception_payload = s->exception_payload;
    }
    if (cpu->all->has_triple_fault) {
        e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        e.triple_fault.pending = s->triple_fault_pending;
    }
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_VCPU_EVENTS, &e);
    return rc < 0 ? fail(cpu, rc, "pending events", err) : true;
}

bool cpu_kvm_get(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    struct kvm_mp_state mp = { 0 };
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_MP_STATE, &mp);

    if (rc < 0) {
        return fail(cpu, rc, "reading of its run state", err);
    }
    cpu_state_reset(cpu, s);
    s->mp_state = mp.mp_state;
    s->halted = mp.mp_state == KVM_MP_STATE_HALTED;
    /* in real use every field below overwrites what reset put there; what KVM does not know stays
     */
    if (!get_regs(cpu, s, err) || !get_sregs(cpu, s, err) || !cpu_xsave_get(cpu, s, err) ||
        !get_xcrs(cpu, s, err) || !get_debugregs(cpu, s, err) || !cpu_msrs_get(cpu, s, err) ||
        !get_events(cpu, s, err)) {
        return false;
    }
    cpu_msr_get_one(cpu, MSR_TSC, &s->tsc);
    s->tsc_khz = cpu->all->tsc_khz;
    return true;
}

bool cpu_kvm_put(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    struct kvm_mp_state mp = { .mp_state = s->mp_state };
    int rc;

    /* emulating peers tell by other means that a processor waits */
    if (s->mp_state == KVM_MP_STATE_RUNNABLE && cpu->apic.wait_for_sipi) {
        mp.mp_state = KVM_MP_STATE_UNINITIALIZED;
    } else if (s->mp_state == KVM_MP_STATE_RUNNABLE && s->halted) {
        mp.mp_state = KVM_MP_STATE_HALTED;
    }
    if (!put_sregs(cpu, s, err) || !put_regs(cpu, s, err) || !put_xcrs(cpu, s, err) ||
        !cpu_xsave_put(cpu, s, err) || !cpu_msrs_put(cpu, s, err) || !put_debugregs(cpu, s, err) ||
        !apic_put(cpu, &cpu->apic, err) || !put_events(cpu, s, mp.mp_state, err)) {
        return false;
    }
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_MP_STATE, &mp);
    return rc < 0 ? fail(cpu, rc, "run state", err) : true;
}
