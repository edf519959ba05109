/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Floating point and vector state: between struct cpu_state and KVM's XSAVE area, which has the
 * processor's standard (not compacted) format. The legacy part is at fixed places; where the others
 * are the host's CPUID leaf 0xD says.
 */
#include <string.h>

#include "accel/kvm.h"
#include "cpu-internal.h"
#include "util/error.h"

#define XSAVE_FCW    0
#define XSAVE_FSW    2
#define XSAVE_FTW    4
#define XSAVE_FOP    6
#define XSAVE_FIP    8
#define XSAVE_FDP    16
#define XSAVE_MXCSR  24
#define XSAVE_ST     32
#define XSAVE_XMM    160
#define XSAVE_HEADER 512
#define XFEATURE_X87 (UINT64_C(1) << 0)
#define XFEATURE_SSE (UINT64_C(1) << 1)

/* One piece of a component: `count` items of `size` bytes, `stride` apart in the state. */
struct xsave_part {
    unsigned bit;
    unsigned at; /* from the component's start */
    size_t offset, stride;
    unsigned size, count;
    const char *name;
};

#define PART(b, a, f, sz, st, c, n)                                                                \
    {                                                                                              \
        .bit = b, .at = a, .offset = offsetof(struct cpu_state, f), .size = sz, .stride = st,      \
        .count = c, .name = n                                                                      \
    }

static const struct xsave_part parts[] = {
    PART(2, 0, vregs[0].q[2], 16, sizeof(struct cpu_vreg), 16, "AVX"),
    PART(3, 0, bnd_regs[0], 16, sizeof(struct cpu_bound), 4, "MPX"),
    PART(4, 0, bndcfgu, 8, 0, 1, "MPX"),
    PART(4, 8, bndstatus, 8, 0, 1, "MPX"),
    PART(5, 0, opmask[0], 8, 8, 8, "AVX-512"),
    PART(6, 0, vregs[0].q[4], 32, sizeof(struct cpu_vreg), 16, "AVX-512"),
    PART(7, 0, vregs[16], 64, sizeof(struct cpu_vreg), 16, "AVX-512"),
    PART(9, 0, pkru, 4, 0, 1, "PKU"),
    PART(17, 0, amx_tilecfg, 64, 0, 1, "AMX"),
    PART(18, 0, amx_tiledata, 8192, 0, 1, "AMX"),
};

/* Where the component is in KVM's area; 0: this host has no such component. */
static unsigned component_offset(const struct x86_cpus *all, const struct xsave_part *p)
{
    const struct kvm_cpuid2 *host = all->host_cpuid;
    uint64_t supported = 0;
    unsigned offset = 0, size = 0;

    for (unsigned i = 0; i < host->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &host->entries[i];

        if (e->function == 0xd && e->index == 0) {
            supported = e->eax | (uint64_t)e->edx << 32;
        } else if (e->function == 0xd && e->index == p->bit) {
            size = e->eax;
            offset = e->ebx;
        }
    }
    if (!(supported >> p->bit & 1) || offset < XSAVE_HEADER + 64 ||
        p->at + p->size * p->count > size || offset + size > all->xsave_size) {
        return 0;
    }
    return offset;
}

bool cpu_xsave_get(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    const struct x86_cpus *all = cpu->all;
    g_autofree uint8_t *area = g_malloc0(all->xsave_size);
    int rc = kvm_vcpu_ioctl(
        &cpu->vcpu, all->xsave_size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
        area);

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot read the vector state of vCPU %u",
                        cpu->vcpu.index);
        return false;
    }
    memcpy(&s->fpuc, area + XSAVE_FCW, 2);
    memcpy(&s->fpus, area + XSAVE_FSW, 2);
    s->fptag = area[XSAVE_FTW];
    s->fpregs_format = 0;
    memcpy(&s->fpop, area + XSAVE_FOP, 2);
    memcpy(&s->fpip, area + XSAVE_FIP, 8);
    memcpy(&s->fpdp, area + XSAVE_FDP, 8);
    memcpy(&s->mxcsr, area + XSAVE_MXCSR, 4);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(&s->fpregs[i].mantissa, area + XSAVE_ST + 16 * i, 8);
        memcpy(&s->fpregs[i].exponent, area + XSAVE_ST + 16 * i + 8, 2);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(s->vregs[i].q, area + XSAVE_XMM + 16 * i, 16);
    }
    memcpy(&s->xstate_bv, area + XSAVE_HEADER, 8);
    for (unsigned p = 0; p < G_N_ELEMENTS(parts); p++) {
        unsigned at = component_offset(all, &parts[p]);

        for (unsigned i = 0; at && i < parts[p].count; i++) {
            memcpy((uint8_t *)s + parts[p].offset + i * parts[p].stride,
                   area + at + parts[p].at + i * parts[p].size, parts[p].size);
        }
    }
    return true;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return !p[0] && !memcmp(p, p + 1, n - 1);
}

static bool x87_in_use(const struct cpu_state *s)
{
    return s->fpuc != 0x37f || s->fpus || s->fptag || s->fpop || s->fpip || s->fpdp ||
           !all_zero((const uint8_t *)s->fpregs, sizeof(s->fpregs));
}

static bool sse_in_use(const struct cpu_state *s)
{
    for (unsigned i = 0; i < 16; i++) {
        if (s->vregs[i].q[0] || s->vregs[i].q[1]) {
            return true;
        }
    }
    return s->mxcsr != 0x1f80;
}

bool cpu_xsave_put(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    const struct x86_cpus *all = cpu->all;
    g_autofree uint8_t *area = g_malloc0(all->xsave_size);
    /* peers differ in what they say is in use when the guest has no XSAVE: look ourselves */
    uint64_t bv = (s->xstate_bv & (XFEATURE_X87 | XFEATURE_SSE)) |
                  (x87_in_use(s) ? XFEATURE_X87 : 0) | (sse_in_use(s) ? XFEATURE_SSE : 0);

    memcpy(area + XSAVE_FCW, &s->fpuc, 2);
    memcpy(area + XSAVE_FSW, &s->fpus, 2);
    area[XSAVE_FTW] = (uint8_t)s->fptag;
    memcpy(area + XSAVE_FOP, &s->fpop, 2);
    memcpy(area + XSAVE_FIP, &s->fpip, 8);
    memcpy(area + XSAVE_FDP, &s->fpdp, 8);
    memcpy(area + XSAVE_MXCSR, &s->mxcsr, 4);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(area + XSAVE_ST + 16 * i, &s->fpregs[i].mantissa, 8);
        memcpy(area + XSAVE_ST + 16 * i + 8, &s->fpregs[i].exponent, 2);
    }
    for (unsigned i = 0; i < 16; i++) {
        memcpy(area + XSAVE_XMM + 16 * i, s->vregs[i].q, 16);
    }
    for (unsigned p = 0; p < G_N_ELEMENTS(parts); p++) {
        unsigned at = component_offset(all, &parts[p]);

        for (unsigned i = 0; i < parts[p].count; i++) {
            const uint8_t *from = (const uint8_t *)s + parts[p].offset + i * parts[p].stride;
            bool zero = all_zero(from, parts[p].size);

            if (!at && !zero) {
                error_set(err, FERRY_ERROR_HOST,
                          "vCPU %u has %s state, which this host's KVM does not have; move the "
                          "guest to a host like its own",
                          cpu->vcpu.index, parts[p].name);
                return false;
            }
            if (at && (!zero || s->xstate_bv >> parts[p].bit & 1)) {
                memcpy(area + at + parts[p].at + i * parts[p].size, from, parts[p].size);
                bv |= UINT64_C(1) << parts[p].bit;
            }
        }
    }
    memcpy(area + XSAVE_HEADER, &bv, 8);
    int rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_XSAVE, area);

    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM refuses the vector state of vCPU %u",
                        cpu->vcpu.index);
        return false;
    }
    return true;
}
