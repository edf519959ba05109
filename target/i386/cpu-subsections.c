/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Subsections of the section cpu: state that many guests do not have, sent only when it differs
 * from the power-on value. Layouts as QEMU 7.2 takes and sends them. Each names its fields in the
 * one struct cpu_state; what is absent keeps the power-on value (cpu_state_defaults()).
 */
#include <string.h>

#include "cpu-internal.h"

#define F(n, t, f)    VMS_F(struct cpu_state, n, t, f)
#define A(n, t, f, c) VMS_ARRAY(struct cpu_state, n, t, f, c)

/* A subsection of one or a few plain fields: cpu/NAME. */
#define SUBSECTION(id, ...)                                                                        \
    static const struct vmstate id##_vmstate = {                                                   \
        .name = "cpu/" #id,                                                                        \
        .version = 1,                                                                              \
        .min_version = 1,                                                                          \
        .size = sizeof(struct cpu_state),                                                          \
        .fields = (const struct vmstate_field[]){ __VA_ARGS__, {} },                               \
    }
#define NEEDED(id, expr)                                                                           \
    static bool id##_needed(const void *state)                                                     \
    {                                                                                              \
        const struct cpu_state *s = state;                                                         \
                                                                                                   \
        return expr;                                                                               \
    }

static bool any_set(const void *p, size_t bytes)
{
    const uint8_t *b = p;

    return b[0] || memcmp(b, b + 1, bytes - 1);
}

SUBSECTION(exception_info, F("env.exception_pending", VMS_U8, exception_pending),
           F("env.exception_injected", VMS_U8, exception_injected),
           F("env.exception_has_payload", VMS_U8, exception_has_payload),
           F("env.exception_payload", VMS_U64, exception_payload));
/* an exception that is injected already is told by exception_nr alone */
NEEDED(exception_info, s->exception_pending || s->exception_has_payload)

SUBSECTION(async_pf_msr, F("env.async_pf_en_msr", VMS_U64, async_pf_en_msr));
NEEDED(async_pf_msr, s->async_pf_en_msr != 0)
SUBSECTION(async_pf_int_msr, F("env.async_pf_int_msr", VMS_U64, async_pf_int_msr));
NEEDED(async_pf_int_msr, s->async_pf_int_msr != 0)
SUBSECTION(async_pv_eoi_msr, F("env.pv_eoi_en_msr", VMS_U64, pv_eoi_en_msr));
NEEDED(async_pv_eoi_msr, s->pv_eoi_en_msr != 0)
SUBSECTION(steal_time_msr, F("env.steal_time_msr", VMS_U64, steal_time_msr));
NEEDED(steal_time_msr, s->steal_time_msr != 0)
SUBSECTION(poll_control_msr, F("env.poll_control_msr", VMS_U64, poll_control_msr));
NEEDED(poll_control_msr, s->poll_control_msr != 1)

SUBSECTION(fpop_ip_dp, F("env.fpop", VMS_U16, fpop), F("env.fpip", VMS_U64, fpip),
           F("env.fpdp", VMS_U64, fpdp));
NEEDED(fpop_ip_dp, s->fpop || s->fpip || s->fpdp)

SUBSECTION(msr_tsc_adjust, F("env.tsc_adjust", VMS_U64, tsc_adjust));
NEEDED(msr_tsc_adjust, s->tsc_adjust != 0)
SUBSECTION(msr_tscdeadline, F("env.tsc_deadline", VMS_U64, tsc_deadline));
NEEDED(msr_tscdeadline, s->tsc_deadline != 0)
SUBSECTION(msr_ia32_misc_enable, F("env.msr_ia32_misc_enable", VMS_U64, misc_enable));
NEEDED(msr_ia32_misc_enable, s->misc_enable != 1)
SUBSECTION(msr_ia32_feature_control, F("env.msr_ia32_feature_control", VMS_U64, feature_control));
NEEDED(msr_ia32_feature_control, s->feature_control != 0)

SUBSECTION(msr_architectural_pmu, F("env.msr_fixed_ctr_ctrl", VMS_U64, fixed_ctr_ctrl),
           F("env.msr_global_ctrl", VMS_U64, global_ctrl),
           F("env.msr_global_status", VMS_U64, global_status),
           F("env.msr_global_ovf_ctrl", VMS_U64, global_ovf_ctrl),
           A("env.msr_fixed_counters", VMS_U64, fixed_counters, PMU_FIXED),
           A("env.msr_gp_counters", VMS_U64, gp_counters, PMU_COUNTERS),
           A("env.msr_gp_evtsel", VMS_U64, gp_evtsel, PMU_COUNTERS));
NEEDED(msr_architectural_pmu, s->fixed_ctr_ctrl || s->global_ctrl || s->global_status ||
                                  s->global_ovf_ctrl ||
                                  any_set(s->fixed_counters, sizeof(s->fixed_counters)) ||
                                  any_set(s->gp_counters, sizeof(s->gp_counters)) ||
                                  any_set(s->gp_evtsel, sizeof(s->gp_evtsel)))

static const struct vmstate bound_vmstate = {
    .name = "bnd_regs",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_bound),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_bound, "lb", VMS_U64, lower),
            VMS_F(struct cpu_bound, "ub", VMS_U64, upper),
            {},
        },
};
SUBSECTION(mpx,
           VMS_NEST_ARRAY(struct cpu_state, "env.bnd_regs", bnd_regs, &bound_vmstate, 4,
                          sizeof(struct cpu_bound)),
           F("env.bndcs_regs.cfgu", VMS_U64, bndcfgu), F("env.bndcs_regs.sts", VMS_U64, bndstatus),
           F("env.msr_bndcfgs", VMS_U64, bndcfgs));
NEEDED(mpx, any_set(s->bnd_regs, sizeof(s->bnd_regs)) || s->bndcfgu || s->bndstatus || s->bndcfgs)

static const struct vmstate zmmh_vmstate = {
    .name = "zmmh_reg",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_vreg),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_vreg, "_q_ZMMReg[4]", VMS_U64, q[4]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[5]", VMS_U64, q[5]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[6]", VMS_U64, q[6]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[7]", VMS_U64, q[7]),
            {},
        },
};
static const struct vmstate zmm_vmstate = {
    .name = "hi16_zmm_reg",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct cpu_vreg),
    .fields =
        (const struct vmstate_field[]){
            VMS_F(struct cpu_vreg, "_q_ZMMReg[0]", VMS_U64, q[0]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[1]", VMS_U64, q[1]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[2]", VMS_U64, q[2]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[3]", VMS_U64, q[3]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[4]", VMS_U64, q[4]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[5]", VMS_U64, q[5]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[6]", VMS_U64, q[6]),
            VMS_F(struct cpu_vreg, "_q_ZMMReg[7]", VMS_U64, q[7]),
            {},
        },
};
SUBSECTION(avx512, A("env.opmask_regs", VMS_U64, opmask, 8),
           VMS_NEST_ARRAY(struct cpu_state, "env.xmm_regs[0]", vregs, &zmmh_vmstate, 16,
                          sizeof(struct cpu_vreg)),
           VMS_NEST_ARRAY(struct cpu_state, "env.xmm_regs[1]", vregs[16], &zmm_vmstate, 16,
                          sizeof(struct cpu_vreg)));
static bool avx512_needed(const void *state)
{
    const struct cpu_state *s = state;

    for (unsigned i = 0; i < 16; i++) {
        if (any_set(&s->vregs[i].q[4], 4 * sizeof(uint64_t))) {
            return true;
        }
    }
    return any_set(s->opmask, sizeof(s->opmask)) ||
           any_set(&s->vregs[16], 16 * sizeof(struct cpu_vreg));
}

SUBSECTION(xss, F("env.xss", VMS_U64, xss));
NEEDED(xss, s->xss != 0)
SUBSECTION(umwait, F("env.umwait", VMS_U32, umwait));
NEEDED(umwait, s->umwait != 0)

SUBSECTION(tsc_khz, F("env.tsc_khz", VMS_I64, tsc_khz));
NEEDED(tsc_khz, s->tsc_khz != 0)
static void tsc_khz_received(void *state)
{
    ((struct cpu_state *)state)->tsc_khz_valid = true;
}

SUBSECTION(msr_smi_count, F("env.msr_smi_count", VMS_U64, smi_count));
NEEDED(msr_smi_count, s->smi_count != 0)
SUBSECTION(pkru, F("env.pkru", VMS_U32, pkru));
NEEDED(pkru, s->pkru != 0)
SUBSECTION(pkrs, F("env.pkrs", VMS_U32, pkrs));
NEEDED(pkrs, s->pkrs != 0)
SUBSECTION(spec_ctrl, F("env.spec_ctrl", VMS_U64, spec_ctrl));
NEEDED(spec_ctrl, s->spec_ctrl != 0)
SUBSECTION(mcg_ext_ctl, F("env.mcg_ext_ctl", VMS_U64, mcg_ext_ctl));
NEEDED(mcg_ext_ctl, s->mcg_ext_ctl != 0)
SUBSECTION(virt_ssbd, F("env.virt_ssbd", VMS_U64, virt_ssbd));
NEEDED(virt_ssbd, s->virt_ssbd != 0)
SUBSECTION(amd_tsc_scale_msr, F("env.amd_tsc_scale_msr", VMS_U64, amd_tsc_scale));
NEEDED(amd_tsc_scale_msr, s->amd_tsc_scale != 0)
SUBSECTION(msr_tsx_ctrl, F("env.tsx_ctrl", VMS_U32, tsx_ctrl));
NEEDED(msr_tsx_ctrl, s->tsx_ctrl != 0)
SUBSECTION(msr_xfd, F("env.msr_xfd", VMS_U64, xfd), F("env.msr_xfd_err", VMS_U64, xfd_err));
NEEDED(msr_xfd, s->xfd || s->xfd_err)
SUBSECTION(intel_amx_xtile, VMS_BYTES(struct cpu_state, "env.xtilecfg", amx_tilecfg, 64),
           VMS_BYTES(struct cpu_state, "env.xtiledata", amx_tiledata, 8192));
NEEDED(intel_amx_xtile, any_set(s->amx_tilecfg, sizeof(s->amx_tilecfg)) ||
                            any_set(s->amx_tiledata, sizeof(s->amx_tiledata)))

SUBSECTION(pdptrs, A("env.pdptrs", VMS_U64, pdptrs, 4));
NEEDED(pdptrs, s->pdptrs_valid)
static void pdptrs_received(void *state)
{
    ((struct cpu_state *)state)->pdptrs_valid = true;
}
SUBSECTION(triple_fault, VMS_RANGE(struct cpu_state, "env.triple_fault_pending", VMS_U8,
                                   triple_fault_pending, 0, 1));
NEEDED(triple_fault, s->triple_fault_pending != 0)

#define SUB(id)                                                                                    \
    {                                                                                              \
        .vmstate = &id##_vmstate, .needed = id##_needed                                            \
    }

/* In the order in which QEMU sends them; any order is accepted. */
const struct vmstate_subsection cpu_subsections[] = {
    SUB(exception_info),
    SUB(async_pf_msr),
    SUB(async_pf_int_msr),
    SUB(async_pv_eoi_msr),
    SUB(steal_time_msr),
    SUB(poll_control_msr),
    SUB(fpop_ip_dp),
    SUB(msr_tsc_adjust),
    SUB(msr_tscdeadline),
    SUB(msr_ia32_misc_enable),
    SUB(msr_ia32_feature_control),
    SUB(msr_architectural_pmu),
    SUB(mpx),
    SUB(avx512),
    SUB(xss),
    SUB(umwait),
    { .vmstate = &tsc_khz_vmstate, .needed = tsc_khz_needed, .received = tsc_khz_received },
    SUB(msr_smi_count),
    SUB(pkru),
    SUB(pkrs),
    SUB(spec_ctrl),
    SUB(amd_tsc_scale_msr),
    SUB(mcg_ext_ctl),
    SUB(virt_ssbd),
    SUB(msr_tsx_ctrl),
    SUB(msr_xfd),
    SUB(intel_amx_xtile),
    { .vmstate = &pdptrs_vmstate, .needed = pdptrs_needed, .received = pdptrs_received },
    SUB(triple_fault),
    {},
};
