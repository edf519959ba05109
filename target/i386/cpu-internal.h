/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of target/i386 share: the state of a processor as the sections of a stream have
 * it, and the CPU model as the guest's CPUID shows it.
 */
#ifndef TARGET_I386_CPU_INTERNAL_H
#define TARGET_I386_CPU_INTERNAL_H

#include <linux/kvm.h>

#include "migration/vmstate.h"
#include "system/vcpu.h"
#include "system/vm.h"
#include "target/i386/cpu.h"

#define MCE_BANKS    10
#define MTRR_FIXED   11
#define MTRR_VAR     8
#define PMU_FIXED    3
#define PMU_COUNTERS 18
#define CPUID_MAX    128
#define MSR_TSC      0x10u

enum x86_reg { R_AX, R_CX, R_DX, R_BX, R_SP, R_BP, R_SI, R_DI };
enum x86_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

/* A segment register; flags are the bits of a descriptor's high doubleword. */
struct cpu_segment {
    uint32_t selector, limit, flags;
    uint64_t base;
};
#define SEG_TYPE_SHIFT 8
#define SEG_S          (1u << 12)
#define SEG_DPL_SHIFT  13
#define SEG_P          (1u << 15)
#define SEG_AVL        (1u << 20)
#define SEG_L          (1u << 21)
#define SEG_DB         (1u << 22)
#define SEG_G          (1u << 23)

struct cpu_fpreg {
    uint64_t mantissa;
    uint16_t exponent;
};
/* Quadwords of a vector register: 0-1 XMM, 2-3 high YMM, 4-7 high ZMM. */
struct cpu_vreg {
    uint64_t q[8];
};
struct cpu_bound {
    uint64_t lower, upper;
};
struct cpu_mtrr_var {
    uint64_t base, mask;
};

/*
 * The sections cpu_common and cpu. Names follow the wire. This is plain data: a copy of what KVM
 * holds, or what KVM shall hold next.
 */
struct cpu_state {
    /* cpu_common */
    uint32_t halted, interrupt_request;

    /* cpu */
    uint64_t regs[16], eip, eflags;
    uint32_t hflags; /* see cpu_hflags() */
    uint16_t fpuc, fpus, fptag, fpregs_format;
    struct cpu_fpreg fpregs[8]; /* ST(0) first, as FXSAVE */
    struct cpu_segment segs[6], ldt, tr, gdt, idt;
    uint32_t sysenter_cs;
    uint64_t sysenter_esp, sysenter_eip;
    uint64_t cr0, cr2, cr3, cr4, dr[8];
    int32_t a20_mask;
    uint32_t mxcsr;
    struct cpu_vreg vregs[32];
    uint64_t efer, star, lstar, cstar, fmask, kernelgsbase;
    uint32_t smbase;
    uint64_t pat;
    uint32_t hflags2;
    uint64_t vm_hsave, vm_vmcb, tsc_offset, intercept;
    uint16_t intercept_cr_read, intercept_cr_write, intercept_dr_read, intercept_dr_write;
    uint32_t intercept_exceptions;
    uint8_t v_tpr;
    uint64_t mtrr_fixed[MTRR_FIXED], mtrr_deftype;
    struct cpu_mtrr_var mtrr_var[MTRR_VAR];
    int32_t interrupt_injected;
    uint32_t mp_state;
    uint64_t tsc;
    int32_t exception_nr;
    uint8_t soft_interrupt, nmi_injected, nmi_pending, has_error_code;
    uint32_t sipi_vector;
    uint64_t mcg_cap, mcg_status, mcg_ctl, mce_banks[MCE_BANKS * 4];
    uint64_t tsc_aux, system_time_msr, wall_clock_msr;
    uint64_t xcr0, xstate_bv;

    /* subsections */
    uint8_t exception_pending, exception_injected, exception_has_payload;
    uint64_t exception_payload;
    uint64_t async_pf_en_msr, async_pf_int_msr, pv_eoi_en_msr, steal_time_msr, poll_control_msr;
    uint16_t fpop;
    uint64_t fpip, fpdp;
    uint64_t tsc_adjust, tsc_deadline, misc_enable, feature_control;
    uint64_t fixed_ctr_ctrl, global_ctrl, global_status, global_ovf_ctrl;
    uint64_t fixed_counters[PMU_FIXED], gp_counters[PMU_COUNTERS], gp_evtsel[PMU_COUNTERS];
    struct cpu_bound bnd_regs[4];
    uint64_t bndcfgu, bndstatus, bndcfgs;
    uint64_t opmask[8];
    uint64_t xss;
    uint32_t umwait, pkru, pkrs;
    int64_t tsc_khz;
    bool tsc_khz_valid; /* the stream said it */
    uint64_t spec_ctrl, mcg_ext_ctl, smi_count, virt_ssbd;
    uint32_t tsx_ctrl;
    uint64_t amd_tsc_scale;
    uint64_t xfd, xfd_err;
    uint8_t amx_tilecfg[64], amx_tiledata[8192];
    uint8_t triple_fault_pending;
    uint64_t pdptrs[4];
    bool pdptrs_valid;
};

/* The section apic. */
struct apic_state {
    uint32_t apicbase;
    uint8_t id, arb_id, tpr;
    uint32_t spurious_vec;
    uint8_t log_dest, dest_mode;
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t lvt[6]; /* timer, thermal, performance, LINT0, LINT1, error */
    uint32_t esr, icr[2], divide_conf;
    int32_t count_shift;
    uint32_t initial_count;
    int64_t initial_count_load_time, next_time, timer_expiry; /* ns on the virtual clock */
    /* subsection */
    int32_t sipi_vector, wait_for_sipi;
};

/* The CPUID table that the guest sees, and what follows from it. */
struct cpu_definition {
    struct kvm_cpuid_entry2 entries[CPUID_MAX];
    unsigned count;
    unsigned phys_bits;
    bool invtsc;
    unsigned tsc_khz; /* tsc-frequency; 0: the host's */
};

struct x86_cpus;

struct x86_cpu {
    struct vcpu vcpu; /* first member */
    struct x86_cpus *all;
    struct cpu_state state;
    struct apic_state apic;
    bool pending;      /* state and apic must be put into KVM */
    bool late_pending; /* the TSC and what depends on it must */
    bool asleep;       /* it may sleep in KVM for what was before a reset, see wake() */
    uint64_t stop_tsc; /* the TSC when the vCPUs last stopped */
    bool stop_tsc_valid;
};

/* All processors of a machine. */
struct x86_cpus {
    struct vm *vm;
    struct cpu_definition def;
    struct x86_cpu *cpus;
    unsigned count;
    unsigned sockets, dies, cores, threads;
    GHashTable *host_msrs; /* what KVM_GET_MSR_INDEX_LIST lists */
    struct device *tpr_opt;
    bool has_tsc_offset;           /* KVM_VCPU_TSC_OFFSET */
    unsigned xsave_size;           /* bytes of KVM's XSAVE area */
    struct kvm_cpuid2 *host_cpuid; /* KVM_GET_SUPPORTED_CPUID; NULL under qtest */
    uint64_t mcg_cap;
    int64_t tsc_khz;               /* of the guest */
    struct cpu_state *reset_state; /* what MSRs are compared with that a host may lack */
    bool has_sregs2, has_xcrs, has_exception_payload, has_triple_fault, has_tsc_control;
    bool has_tsc_deadline, has_arch_capabilities; /* the host lets the guest have them */
    int64_t stopped_at; /* host time of the last stop (monotonic clock, ns) */
    bool loaded;        /* state comes from a stream and has not run since */
    /* x86_clock_adjust(): by how much the loaded TSC values lag at host time adjust_at (monotonic
     * clock, ns); 0: not asked for */
    int64_t adjust_ns, adjust_at;
};

static inline struct x86_cpu *x86_cpu_of(struct vcpu *vcpu)
{
    return (struct x86_cpu *)vcpu;
}

/* cpu-vmstate.c, cpu-subsections.c: the tables. */
extern const struct vmstate cpu_common_vmstate, cpu_vmstate, apic_vmstate;
extern const struct vmstate_subsection cpu_subsections[];

/* cpu-state.c: save, load and defaults of the tables; what follows from other fields. */
bool cpu_state_save(void *opaque, void *state, GError **err);
bool cpu_state_load(void *opaque, const void *state, int version, GError **err);
void cpu_state_defaults(void *opaque, void *state);
bool cpu_state_check(void *opaque, const void *state, GError **err);
/* Power-on state of vCPU `cpu`. */
void cpu_state_reset(const struct x86_cpu *cpu, struct cpu_state *s);
/* The summary of mode and privilege that streams carry beside the registers it is made of. */
uint32_t cpu_hflags(const struct cpu_state *s, uint32_t keep);
#define HF_INHIBIT_IRQ (1u << 3)
#define HF_SMM         (1u << 19)
#define HF2_RESET      0x101u /* what a processor outside SVM guests always has */
#define HF2_NMI_MASKED (1u << 2)

/* apic.c */
bool apic_state_save(void *opaque, void *state, GError **err);
bool apic_state_load(void *opaque, const void *state, int version, GError **err);
bool apic_state_check(void *opaque, const void *state, GError **err);
void apic_state_reset(const struct x86_cpu *cpu, struct apic_state *a);
bool apic_get(struct x86_cpu *cpu, struct apic_state *a, GError **err);
bool apic_put(struct x86_cpu *cpu, const struct apic_state *a, GError **err);

/* cpu-kvm.c: between struct cpu_state and KVM. vCPU stopped. */
bool cpu_kvm_get(struct x86_cpu *cpu, struct cpu_state *s, GError **err);
bool cpu_kvm_put(struct x86_cpu *cpu, const struct cpu_state *s, GError **err);

/* cpu-xsave.c */
bool cpu_xsave_get(struct x86_cpu *cpu, struct cpu_state *s, GError **err);
bool cpu_xsave_put(struct x86_cpu *cpu, const struct cpu_state *s, GError **err);

/* cpu-msr.c */
bool cpu_msrs_init(struct x86_cpus *all, GError **err);
bool cpu_msrs_get(struct x86_cpu *cpu, struct cpu_state *s, GError **err);
bool cpu_msrs_put(struct x86_cpu *cpu, const struct cpu_state *s, GError **err);
/* Those that must come after everything else: TSC deadline, kvmclock. */
bool cpu_msrs_put_late(struct x86_cpu *cpu, const struct cpu_state *s, GError **err);
bool cpu_msr_put_one(struct x86_cpu *cpu, uint32_t index, uint64_t value, GError **err);
bool cpu_msr_get_one(struct x86_cpu *cpu, uint32_t index, uint64_t *value);
/* Adds the names of the MSRs that are saved and loaded here and that a guest may rely on. */
void cpu_msr_names(const struct x86_cpus *all, GPtrArray *names);
bool cpu_host_has_msr(const struct x86_cpus *all, uint32_t index);

/* cpu-tsc.c: all processors at once. */
bool cpus_tsc_put(struct x86_cpus *all, GError **err);
/* Notes all TSCs at this moment in stop_tsc. */
void cpus_tsc_stopped(struct x86_cpus *all);
/* Makes the guest's TSC tick as the stream says, or warns where the host cannot. */
bool cpu_tsc_set_khz(struct x86_cpu *cpu, int64_t khz, GError **err);

/* cpu-model.c, cpu-features.c, cpuid.c */
struct vm_config;
bool cpu_definition_resolve(struct cpu_definition *def, const struct cpu_model *model,
                            struct x86_cpus *all, GError **err);
/* The CPUID table of one processor (its APIC id and topology filled in). */
void cpuid_for_cpu(const struct x86_cpus *all, unsigned index, struct kvm_cpuid2 *out);
const struct kvm_cpuid_entry2 *cpuid_find(const struct cpu_definition *def, uint32_t function,
                                          uint32_t index);

#endif
