/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sections cpu_common (version 1), cpu (version 12) and apic (version 3) as tables. Names,
 * order and widths are those of QEMU 7.2's streams. Where a field's meaning is not obvious:
 *
 * - regs are numbered as x86 does (rax rcx rdx rbx rsp rbp rsi rdi r8...), segs es cs ss ds fs gs.
 * - fpregs are ST(0)...ST(7) as FXSAVE has them; fptag has a bit per physical register, 1 = in use.
 * - the quadwords of the vector registers travel in two arrays: bits 0-127 amid the section,
 * 128-255 at its end; what is above is in the subsection cpu/avx512.
 * - tsc_offset to v_tpr are about nested SVM under emulation; KVM carries nested state otherwise,
 * so they are kept as they come and mean nothing here.
 */
#include "accel/kvm.h"
#include "cpu-internal.h"

#define F(n, t, f)    VMS_F(struct cpu_state, n, t, f)
#define A(n, t, f, c) VMS_ARRAY(struct cpu_state, n, t, f, c)

static const struct vmstate segment_vmstate = {
    .name = "segment",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_segment),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_segment, "selector", VMS_U32, selector),
            VMS_F(struct cpu_segment, "base", VMS_U64, base),
            VMS_F(struct cpu_segment, "limit", VMS_U32, limit),
            VMS_F(struct cpu_segment, "flags", VMS_U32, flags),
            {},
        },
};

static const struct vmstate fpreg_vmstate = {
    .name = "fpreg",
    .size = sizeof(struct cpu_fpreg),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_fpreg, "tmp_mant", VMS_U64, mantissa),
            VMS_F(struct cpu_fpreg, "tmp_exp", VMS_U16, exponent),
            {},
        },
};

static const struct vmstate xmm_vmstate = {
    .name = "xmm_reg",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_vreg),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_vreg, "_q_ZMMReg[0]", VMS_U64, q[0]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[1]", VMS_U64, q[1]),
            {},
        },
};

static const struct vmstate ymmh_vmstate = {
    .name = "ymmh_reg",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_vreg),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_vreg, "_q_ZMMReg[2]", VMS_U64, q[2]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[3]", VMS_U64, q[3]),
            {},
        },
};

static const struct vmstate mtrr_var_vmstate = {
    .name = "mtrr_var",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_mtrr_var),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_mtrr_var, "base", VMS_U64, base),
            VMS_F(struct cpu_mtrr_var, "mask", VMS_U64, mask),
            {},
        },
};

#define VREGS(n, sub) VMS_NEST_ARRAY(struct cpu_state, n, vregs, sub, 16, sizeof(struct cpu_vreg))

const struct vmstate cpu_vmstate = {
    .name = "cpu",
    .version = 12,
    .min_version = 11,
    .size = sizeof(struct cpu_state),
    .fields =
        (const struct vmstate_field[]){
            A("env.regs", VMS_U64, regs, 16),
            F("env.eip", VMS_U64, eip),
            F("env.eflags", VMS_U64, eflags),
            F("env.hflags", VMS_U32, hflags),
            F("env.fpuc", VMS_U16, fpuc),
            F("env.fpus_vmstate", VMS_U16, fpus),
            F("env.fptag_vmstate", VMS_U16, fptag),
            F("env.fpregs_format_vmstate", VMS_U16, fpregs_format),
            VMS_NEST_ARRAY(struct cpu_state, "env.fpregs", fpregs, &fpreg_vmstate, 8,
                           sizeof(struct cpu_fpreg)),
            VMS_NEST_ARRAY(struct cpu_state, "env.segs", segs, &segment_vmstate, 6,
                           sizeof(struct cpu_segment)),
            VMS_NEST(struct cpu_state, "env.ldt", ldt, &segment_vmstate),
            VMS_NEST(struct cpu_state, "env.tr", tr, &segment_vmstate),
            VMS_NEST(struct cpu_state, "env.gdt", gdt, &segment_vmstate),
            VMS_NEST(struct cpu_state, "env.idt", idt, &segment_vmstate),
            F("env.sysenter_cs", VMS_U32, sysenter_cs),
            F("env.sysenter_esp", VMS_U64, sysenter_esp),
            F("env.sysenter_eip", VMS_U64, sysenter_eip),
            F("env.cr[0]", VMS_U64, cr0),
            F("env.cr[2]", VMS_U64, cr2),
            F("env.cr[3]", VMS_U64, cr3),
            F("env.cr[4]", VMS_U64, cr4),
            A("env.dr", VMS_U64, dr, 8),
            F("env.a20_mask", VMS_I32, a20_mask),
            F("env.mxcsr", VMS_U32, mxcsr),
            VREGS("env.xmm_regs[0]", &xmm_vmstate),
            F("env.efer", VMS_U64, efer),
            F("env.star", VMS_U64, star),
            F("env.lstar", VMS_U64, lstar),
            F("env.cstar", VMS_U64, cstar),
            F("env.fmask", VMS_U64, fmask),
            F("env.kernelgsbase", VMS_U64, kernelgsbase),
            F("env.smbase", VMS_U32, smbase),
            F("env.pat", VMS_U64, pat),
            F("env.hflags2", VMS_U32, hflags2),
            F("env.vm_hsave", VMS_U64, vm_hsave),
            F("env.vm_vmcb", VMS_U64, vm_vmcb),
            F("env.tsc_offset", VMS_U64, tsc_offset),
            F("env.intercept", VMS_U64, intercept),
            F("env.intercept_cr_read", VMS_U16, intercept_cr_read),
            F("env.intercept_cr_write", VMS_U16, intercept_cr_write),
            F("env.intercept_dr_read", VMS_U16, intercept_dr_read),
            F("env.intercept_dr_write", VMS_U16, intercept_dr_write),
            F("env.intercept_exceptions", VMS_U32, intercept_exceptions),
            F("env.v_tpr", VMS_U8, v_tpr),
            A("env.mtrr_fixed", VMS_U64, mtrr_fixed, MTRR_FIXED),
            F("env.mtrr_deftype", VMS_U64, mtrr_deftype),
            VMS_NEST_ARRAY(struct cpu_state, "env.mtrr_var", mtrr_var, &mtrr_var_vmstate, MTRR_VAR,
                           sizeof(struct cpu_mtrr_var)),
            F("env.interrupt_injected", VMS_I32, interrupt_injected),
            F("env.mp_state", VMS_U32, mp_state),
            F("env.tsc", VMS_U64, tsc),
            F("env.exception_nr", VMS_I32, exception_nr),
            F("env.soft_interrupt", VMS_U8, soft_interrupt),
            F("env.nmi_injected", VMS_U8, nmi_injected),
            F("env.nmi_pending", VMS_U8, nmi_pending),
            F("env.has_error_code", VMS_U8, has_error_code),
            F("env.sipi_vector", VMS_U32, sipi_vector),
            F("env.mcg_cap", VMS_U64, mcg_cap),
            F("env.mcg_status", VMS_U64, mcg_status),
            F("env.mcg_ctl", VMS_U64, mcg_ctl),
            A("env.mce_banks", VMS_U64, mce_banks, MCE_BANKS * 4),
            F("env.tsc_aux", VMS_U64, tsc_aux),
            F("env.system_time_msr", VMS_U64, system_time_msr),
            F("env.wall_clock_msr", VMS_U64, wall_clock_msr),
            { .name = "env.xcr0",
              .type = VMS_U64,
              .offset = offsetof(struct cpu_state, xcr0),
              .since = 12 },
            { .name = "env.xstate_bv",
              .type = VMS_U64,
              .offset = offsetof(struct cpu_state, xstate_bv),
              .since = 12 },
            { .name = "env.xmm_regs[1]",
              .type = VMS_STRUCT,
              .offset = offsetof(struct cpu_state, vregs),
              .count = 16,
              .stride = sizeof(struct cpu_vreg),
              .sub = &ymmh_vmstate,
              .since = 12 },
            {},
        },
    .subsections = cpu_subsections,
    .save = cpu_state_save,
    .load = cpu_state_load,
    .defaults = cpu_state_defaults,
    .check = cpu_state_check,
};

static bool cpu_common_save(void *opaque, void *state, GError **err)
{
    struct x86_cpu *cpu = opaque;
    struct cpu_state *s = state;
    struct kvm_mp_state mp = { 0 };

    s->halted = cpu->state.halted;
    s->interrupt_request = cpu->state.interrupt_request;
    if (kvm_enabled(cpu->vcpu.vm)) {
        if (!kvm_parts_put(cpu->vcpu.vm, err)) {
            return false;
        }
        kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_MP_STATE, &mp);
        s->halted = mp.mp_state == KVM_MP_STATE_HALTED;
        s->interrupt_request = 0;
    }
    return true;
}

static bool cpu_common_load(void *opaque, const void *state, int version, GError **err)
{
    struct x86_cpu *cpu = opaque;
    const struct cpu_state *s = state;

    (void)version;
    (void)err;
    cpu->state.halted = s->halted;
    cpu->state.interrupt_request = s->interrupt_request;
    cpu->pending = true;
    return true;
}

/*
 * What only QEMU says of a CPU, and nothing follows from here: the exception that an emulated CPU
 * was about to raise (its instruction is executed again, and raises it again), and that the guest
 * has reported a crash of its own.
 */
static const struct vmstate exception_index_vmstate = {
    .name = "cpu_common/exception_index",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_state),
    .fields = (const struct vmstate_field[]){ VMS_PAD("exception_index", 4), {} },
};

static const struct vmstate crash_occurred_vmstate = {
    .name = "cpu_common/crash_occurred",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_state),
    .fields = (const struct vmstate_field[]){ VMS_PAD("crash_occurred", 1), {} },
};

static bool never_needed(const void *state)
{
    (void)state;
    return false;
}

const struct vmstate cpu_common_vmstate = {
    .name = "cpu_common",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_state),
    .fields =
        (const struct vmstate_field[]){
            F("halted", VMS_U32, halted),
            F("interrupt_request", VMS_U32, interrupt_request),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &exception_index_vmstate, .needed = never_needed },
            { .vmstate = &crash_occurred_vmstate, .needed = never_needed },
            {},
        },
    .save = cpu_common_save,
    .load = cpu_common_load,
};

#undef F
#undef A
#define F(n, t, f)    VMS_F(struct apic_state, n, t, f)
#define A(n, t, f, c) VMS_ARRAY(struct apic_state, n, t, f, c)

static const struct vmstate apic_sipi_vmstate = {
    .name = "apic_sipi",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct apic_state),
    .fields =
        (const struct vmstate_field[]){
            F("sipi_vector", VMS_I32, sipi_vector),
            F("wait_for_sipi", VMS_I32, wait_for_sipi),
            {},
        },
};

static bool apic_sipi_needed(const void *state)
{
    return ((const struct apic_state *)state)->wait_for_sipi != 0;
}

/* Times beyond 73 years are nonsense, and cannot overflow what is computed with them. */
#define TIME_MAX (INT64_C(1) << 61)

const struct vmstate apic_vmstate = {
    .name = "apic",
    .version = 3,
    .min_version = 3,
    .size = sizeof(struct apic_state),
    .fields =
        (const struct vmstate_field[]){
            F("apicbase", VMS_U32, apicbase),
            F("id", VMS_U8, id),
            F("arb_id", VMS_U8, arb_id),
            F("tpr", VMS_U8, tpr),
            F("spurious_vec", VMS_U32, spurious_vec),
            F("log_dest", VMS_U8, log_dest),
            F("dest_mode", VMS_U8, dest_mode),
            A("isr", VMS_U32, isr, 8),
            A("tmr", VMS_U32, tmr, 8),
            A("irr", VMS_U32, irr, 8),
            A("lvt", VMS_U32, lvt, 6),
            F("esr", VMS_U32, esr),
            A("icr", VMS_U32, icr, 2),
            F("divide_conf", VMS_U32, divide_conf),
            VMS_RANGE(struct apic_state, "count_shift", VMS_I32, count_shift, 0, 7),
            F("initial_count", VMS_U32, initial_count),
            VMS_RANGE(struct apic_state, "initial_count_load_time", VMS_I64,
                      initial_count_load_time, -TIME_MAX, TIME_MAX),
            F("next_time", VMS_I64, next_time),
            F("timer_expiry", VMS_I64, timer_expiry),
            {},
        },
    .subsections =
        (const struct vmstate_subsection[]){
            { .vmstate = &apic_sipi_vmstate, .needed = apic_sipi_needed },
            {},
        },
    .save = apic_state_save,
    .load = apic_state_load,
    .check = apic_state_check,
};
