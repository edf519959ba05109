/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of one processor between its section of a stream and the accelerator: power-on values,
 * saving, loading, and the relations a load checks.
 *
 * Loading and reset only fill cpu->state and mark it pending; cpus.c puts it into KVM before the
 * vCPU runs. Under qtest cpu->state is all there is.
 */
#include <string.h>

#include "accel/kvm.h"
#include "cpu-internal.h"
#include "util/error.h"

#define TSC_RATIO_ONE (UINT64_C(1) << 32)
#define CR0_PE        0x1u
#define CR4_OSFXSR    (1u << 9)
#define EFER_LMA      (1u << 10)
#define EFLAGS_TF     0x100u
#define EFLAGS_IOPL   0x3000u
#define EFLAGS_VM     0x20000u
#define HF_CS32       (1u << 4)
#define HF_SS32       (1u << 5)
#define HF_ADDSEG     (1u << 6)
#define HF_PE         (1u << 7)
#define HF_LMA        (1u << 14)
#define HF_CS64       (1u << 15)
#define HF_OSFXSR     (1u << 22)

uint32_t cpu_hflags(const struct cpu_state *s, uint32_t keep)
{
    const struct cpu_segment *cs = &s->segs[SEG_CS], *ss = &s->segs[SEG_SS];
    bool pe = s->cr0 & CR0_PE, vm86 = s->eflags & EFLAGS_VM;
    uint32_t h = keep & (HF_INHIBIT_IRQ | HF_SMM);

    if (pe) {
        h |= HF_PE | (vm86 ? 3 : ss->flags >> SEG_DPL_SHIFT & 3);
    }
    h |= (uint32_t)(s->cr0 << 8) & 0xe00; /* MP, EM, TS */
    h |= s->eflags & (EFLAGS_TF | EFLAGS_IOPL | EFLAGS_VM);
    h |= s->cr4 & CR4_OSFXSR ? HF_OSFXSR : 0;
    h |= s->efer & EFER_LMA ? HF_LMA : 0;
    if (h & HF_LMA && cs->flags & SEG_L) {
        return h | HF_CS32 | HF_SS32 | HF_CS64;
    }
    h |= cs->flags & SEG_DB ? HF_CS32 : 0;
    h |= ss->flags & SEG_DB ? HF_SS32 : 0;
    if (!pe || vm86 || !(h & HF_CS32) || s->segs[SEG_DS].base || s->segs[SEG_ES].base || ss->base) {
        h |= HF_ADDSEG;
    }
    return h;
}

static struct cpu_segment segment(uint32_t selector, uint64_t base, uint32_t flags)
{
    return (
        struct cpu_segment){ .selector = selector, .base = base, .limit = 0xffff, .flags = flags };
}

void cpu_state_reset(const struct x86_cpu *cpu, struct cpu_state *s)
{
    const struct kvm_cpuid_entry2 *leaf1 = cpuid_find(&cpu->all->def, 1, 0);

    memset(s, 0, sizeof(*s));
    s->eip = 0xfff0;
    s->eflags = 2;
    s->regs[R_DX] = leaf1 ? leaf1->eax : 0;
    for (unsigned i = 0; i < 6; i++) {
        s->segs[i] = segment(0, 0, SEG_P | SEG_S | 3u << SEG_TYPE_SHIFT);
    }
    s->segs[SEG_CS] = segment(0xf000, 0xffff0000, SEG_P | SEG_S | 0xbu << SEG_TYPE_SHIFT);
    s->ldt = segment(0, 0, SEG_P | 2u << SEG_TYPE_SHIFT);
    s->tr = segment(0, 0, SEG_P | 0xbu << SEG_TYPE_SHIFT);
    s->gdt.limit = s->idt.limit = 0xffff;
    s->cr0 = 0x60000010;
    s->dr[4] = s->dr[6] = 0xffff0ff0;
    s->dr[5] = s->dr[7] = 0x400;
    s->fpuc = 0x37f;
    s->mxcsr = 0x1f80;
    s->xcr0 = 1;
    s->a20_mask = -1;
    s->smbase = 0x30000;
    s->pat = UINT64_C(0x0007040600070406);
    s->hflags2 = HF2_RESET;
    s->interrupt_injected = s->exception_nr = -1;
    s->mp_state = cpu->vcpu.index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
    s->mcg_cap = cpu->all->mcg_cap;
    s->mcg_ctl = ~UINT64_C(0);
    for (unsigned i = 0; i < MCE_BANKS; i++) {
        s->mce_banks[4 * i] = ~UINT64_C(0);
    }
    s->poll_control_msr = 1;
    s->misc_enable = 1;
    s->tsc_khz = cpu->all->tsc_khz;
    s->hflags = cpu_hflags(s, 0);
}

void cpu_state_defaults(void *opaque, void *state)
{
    struct cpu_state *s = state;

    cpu_state_reset(opaque, s);
    s->tsc_khz = 0;
}

bool cpu_state_save(void *opaque, void *state, GError **err)
{
    struct x86_cpu *cpu = opaque;
    struct cpu_state *s = state;

    if (!kvm_enabled(cpu->vcpu.vm)) {
        *s = cpu->state;
        return true;
    }
    /* what is not in the kernel yet goes there first, so that there is one way to read state */
    if (!kvm_parts_put(cpu->vcpu.vm, err) || !cpu_kvm_get(cpu, s, err)) {
        return false;
    }
    s->tsc = cpu->stop_tsc_valid ? cpu->stop_tsc : s->tsc;
    return true;
}

bool cpu_state_check(void *opaque, const void *state, GError **err)
{
    const struct x86_cpu *cpu = opaque;
    const struct cpu_state *s = state;
    const struct {
        const char *name;
        bool bad;
    } checks[] = {
        { "mp_state", s->mp_state > KVM_MP_STATE_SIPI_RECEIVED },
        { "exception_nr", s->exception_nr < -1 || s->exception_nr > 31 },
        { "interrupt_injected", s->interrupt_injected < -1 || s->interrupt_injected > 255 },
        { "sipi_vector", s->sipi_vector > 255 },
        { "fpregs_format_vmstate", s->fpregs_format != 0 },
        { "fptag_vmstate", s->fptag > 255 },
        /* the ratio at which nested guests' TSCs run: there are none, so it must be 1 */
        { "amd_tsc_scale_msr", s->amd_tsc_scale && s->amd_tsc_scale != TSC_RATIO_ONE },
        { "tsc_khz", s->tsc_khz < 0 || s->tsc_khz > INT32_MAX },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (checks[i].bad) {
            error_set(err, FERRY_ERROR_PEER, "The state of vCPU %u has an impossible %s",
                      cpu->vcpu.index, checks[i].name);
            return false;
        }
    }
    return true;
}

/*
 * A stream from an emulating peer (it alone leaves out tsc_khz) has the x87 stack by physical
 * register; here it is ST(0) first.
 */
static void rotate_x87(struct cpu_state *s)
{
    unsigned top = s->fpus >> 11 & 7;
    struct cpu_fpreg physical[8];

    memcpy(physical, s->fpregs, sizeof(physical));
    for (unsigned i = 0; i < 8; i++) {
        s->fpregs[i] = physical[(top + i) & 7];
    }
}

bool cpu_state_load(void *opaque, const void *state, int version, GError **err)
{
    struct x86_cpu *cpu = opaque;
    uint32_t halted = cpu->state.halted, interrupt_request = cpu->state.interrupt_request;

    (void)version;
    (void)err;
    cpu->state = *(const struct cpu_state *)state;
    cpu->state.halted = halted;
    cpu->state.interrupt_request = interrupt_request;
    if (!cpu->state.tsc_khz_valid) {
        if (kvm_enabled(cpu->vcpu.vm)) {
            rotate_x87(&cpu->state);
        }
        cpu->state.tsc_khz = kvm_enabled(cpu->vcpu.vm) ? cpu->all->tsc_khz : 0;
    }
    if (cpu->state.exception_nr >= 0 && !cpu->state.exception_pending) {
        cpu->state.exception_injected = 1;
    }
    cpu->pending = true;
    cpu->all->loaded = true;
    cpu->stop_tsc_valid = false;
    return true;
}
