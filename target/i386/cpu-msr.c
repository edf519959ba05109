/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Model-specific registers, as one table: index, and where the value is in struct cpu_state.
 *
 * Only what the host offers is read or written: what KVM_GET_MSR_INDEX_LIST lists, or, for groups
 * KVM does not list, what the guest's CPUID implies. A value that a host without the MSR would lose
 * is an error when it is not the power-on value: a guest must not arrive with less state than it
 * left with. EFER and the APIC base travel in KVM_SET_SREGS, the TSC in cpu-tsc.c.
 *
 * Order of writing is the table's order: counters before what enables them. The rows marked late
 * are written after the local APIC, the clock and the TSC: arming the TSC deadline needs the APIC
 * in its timer mode and the final TSC, and enabling kvmclock publishes a page computed from both.
 */
#include <inttypes.h>
#include <string.h>

#include "accel/kvm.h"
#include "cpu-internal.h"
#include "util/error.h"

#define MAX_MSRS    256
#define MSR_TSC_AUX 0xc0000103u

enum msr_gate {
    GATE_LIST, /* in KVM's list */
    GATE_MTRR, /* CPUID says MTRR */
    GATE_MCE,  /* KVM_X86_SETUP_MCE was done */
};

struct msr_row {
    const char *name;
    uint32_t index;
    size_t offset;
    uint8_t size;   /* bytes in the state: 4 or 8 */
    uint8_t count;  /* an array, 0 = 1 */
    uint8_t step;   /* from one index to the next, 0 = 1 */
    uint8_t stride; /* bytes in the state, 0 = size */
    enum msr_gate gate;
    bool late;
    bool may_drop; /* losing it harms no guest */
};

#define ROW(n, i, f, ...)                                                                          \
    {                                                                                              \
        .name = n, .index = i, .offset = offsetof(struct cpu_state, f),                            \
        .size = sizeof(((struct cpu_state *)0)->f), __VA_ARGS__                                    \
    }

static const struct msr_row rows[] = {
    ROW("IA32_FEATURE_CONTROL", 0x3a, feature_control, .may_drop = true),
    ROW("IA32_SYSENTER_CS", 0x174, sysenter_cs),
    ROW("IA32_SYSENTER_ESP", 0x175, sysenter_esp),
    ROW("IA32_SYSENTER_EIP", 0x176, sysenter_eip),
    ROW("IA32_PAT", 0x277, pat),
    ROW("STAR", 0xc0000081, star),
    ROW("LSTAR", 0xc0000082, lstar),
    ROW("CSTAR", 0xc0000083, cstar),
    ROW("FMASK", 0xc0000084, fmask),
    ROW("KERNEL_GS_BASE", 0xc0000102, kernelgsbase),
    ROW("TSC_AUX", MSR_TSC_AUX, tsc_aux),
    ROW("VM_HSAVE_PA", 0xc0010117, vm_hsave),
    ROW("VIRT_SPEC_CTRL", 0xc001011f, virt_ssbd),
    ROW("IA32_SPEC_CTRL", 0x48, spec_ctrl),
    ROW("IA32_TSX_CTRL", 0x122, tsx_ctrl),
    ROW("IA32_TSC_ADJUST", 0x3b, tsc_adjust),
    ROW("IA32_MISC_ENABLE", 0x1a0, misc_enable, .may_drop = true),
    ROW("SMI_COUNT", 0x34, smi_count, .may_drop = true),
    ROW("IA32_BNDCFGS", 0xd90, bndcfgs),
    ROW("IA32_XSS", 0xda0, xss),
    ROW("IA32_UMWAIT_CONTROL", 0xe1, umwait),
    ROW("IA32_PKRS", 0x6e1, pkrs),
    ROW("IA32_XFD", 0x1c4, xfd),
    ROW("IA32_XFD_ERR", 0x1c5, xfd_err),
    ROW("MTRR_FIX64K", 0x250, mtrr_fixed[0], .gate = GATE_MTRR),
    ROW("MTRR_FIX16K", 0x258, mtrr_fixed[1], .gate = GATE_MTRR, .count = 2),
    ROW("MTRR_FIX4K", 0x268, mtrr_fixed[3], .gate = GATE_MTRR, .count = 8),
    ROW("MTRR_PHYSBASE", 0x200, mtrr_var[0].base, .gate = GATE_MTRR, .count = MTRR_VAR, .step = 2,
        .stride = sizeof(struct cpu_mtrr_var)),
    ROW("MTRR_PHYSMASK", 0x201, mtrr_var[0].mask, .gate = GATE_MTRR, .count = MTRR_VAR, .step = 2,
        .stride = sizeof(struct cpu_mtrr_var)),
    ROW("MTRR_DEF_TYPE", 0x2ff, mtrr_deftype, .gate = GATE_MTRR),
    ROW("MCG_STATUS", 0x17a, mcg_status, .gate = GATE_MCE),
    ROW("MCG_CTL", 0x17b, mcg_ctl, .gate = GATE_MCE),
    ROW("MCG_EXT_CTL", 0x4d0, mcg_ext_ctl),
    ROW("MC_BANKS", 0x400, mce_banks[0], .gate = GATE_MCE, .count = MCE_BANKS * 4),
    ROW("PMC", 0xc1, gp_counters[0], .count = PMU_COUNTERS),
    ROW("PERFEVTSEL", 0x186, gp_evtsel[0], .count = PMU_COUNTERS),
    ROW("FIXED_CTR", 0x309, fixed_counters[0], .count = PMU_FIXED),
    ROW("FIXED_CTR_CTRL", 0x38d, fixed_ctr_ctrl),
    ROW("PERF_GLOBAL_STATUS", 0x38e, global_status),
    ROW("PERF_GLOBAL_OVF_CTRL", 0x390, global_ovf_ctrl),
    ROW("PERF_GLOBAL_CTRL", 0x38f, global_ctrl),
    ROW("KVM_STEAL_TIME", 0x4b564d03, steal_time_msr),
    ROW("KVM_PV_EOI_EN", 0x4b564d04, pv_eoi_en_msr),
    ROW("KVM_POLL_CONTROL", 0x4b564d05, poll_control_msr, .may_drop = true),
    ROW("KVM_ASYNC_PF_INT", 0x4b564d06, async_pf_int_msr),
    ROW("KVM_ASYNC_PF_EN", 0x4b564d02, async_pf_en_msr),
    ROW("IA32_TSC_DEADLINE", 0x6e0, tsc_deadline, .late = true),
    ROW("KVM_WALL_CLOCK", 0x4b564d00, wall_clock_msr, .late = true),
    ROW("KVM_SYSTEM_TIME", 0x4b564d01, system_time_msr, .late = true),
};

/* struct kvm_msrs with room. */
struct msr_buffer {
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entries[MAX_MSRS];
};
G_STATIC_ASSERT(offsetof(struct msr_buffer, entries) == offsetof(struct kvm_msrs, entries));
struct msr_one {
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entry;
};

bool cpu_host_has_msr(const struct x86_cpus *all, uint32_t index)
{
    return g_hash_table_contains(all->host_msrs, GUINT_TO_POINTER(index));
}

bool cpu_msrs_init(struct x86_cpus *all, GError **err)
{
    struct kvm_msr_list probe = { .nmsrs = 0 };
    int rc;

    all->host_msrs = g_hash_table_new(NULL, NULL);
    kvm_system_ioctl(all->vm, KVM_GET_MSR_INDEX_LIST, &probe);
    g_autofree struct kvm_msr_list *list =
        g_malloc0(sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
    list->nmsrs = probe.nmsrs;
    rc = kvm_system_ioctl(all->vm, KVM_GET_MSR_INDEX_LIST, list);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM does not list its MSRs");
        return false;
    }
    for (unsigned i = 0; i < list->nmsrs; i++) {
        g_hash_table_add(all->host_msrs, GUINT_TO_POINTER(list->indices[i]));
    }
    return true;
}

static unsigned row_count(const struct msr_row *row)
{
    return row->count ? row->count : 1;
}

static uint32_t row_index(const struct msr_row *row, unsigned i)
{
    return row->index + i * (row->step ? row->step : 1u);
}

static size_t row_offset(const struct msr_row *row, unsigned i)
{
    return row->offset + i * (size_t)(row->stride ? row->stride : row->size);
}

static uint64_t value_get(const struct cpu_state *s, const struct msr_row *row, unsigned i)
{
    const uint8_t *at = (const uint8_t *)s + row_offset(row, i);
    uint64_t v = 0;

    memcpy(&v, at, row->size); /* little-endian host */
    return v;
}

static void value_set(struct cpu_state *s, const struct msr_row *row, unsigned i, uint64_t v)
{
    memcpy((uint8_t *)s + row_offset(row, i), &v, row->size);
}

static bool row_offered(const struct x86_cpus *all, const struct msr_row *row, unsigned i)
{
    const struct kvm_cpuid_entry2 *leaf1 = cpuid_find(&all->def, 1, 0);

    switch (row->gate) {
    case GATE_MTRR:
        return leaf1 && leaf1->edx & 1u << 12;
    case GATE_MCE:
        return all->mcg_cap && (row->count == 0 || i < 4 * (all->mcg_cap & 0xff)) &&
               (row->index != 0x17b || all->mcg_cap & 1u << 8);
    default:
        return cpu_host_has_msr(all, row_index(row, i));
    }
}

void cpu_msr_names(const struct x86_cpus *all, GPtrArray *names)
{
    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        for (unsigned i = 0; i < row_count(&rows[r]); i++) {
            if (!row_offered(all, &rows[r], i) || rows[r].may_drop) {
                continue;
            }
            g_ptr_array_add(names, rows[r].count ? g_strdup_printf("%s[%u]", rows[r].name, i)
                                                 : g_strdup(rows[r].name));
        }
    }
}

/* Bits of a variable MTRR's mask from the guest's physical address width up to 52. Streams have
 * them set, so that a destination with wider addresses is right; KVM wants them clear. */
static uint64_t mtrr_top_bits(const struct x86_cpus *all)
{
    unsigned bits = all->def.phys_bits;

    return bits && bits < 52 ? (UINT64_C(1) << 52) - (UINT64_C(1) << bits) : 0;
}

bool cpu_msrs_get(struct x86_cpu *cpu, struct cpu_state *s, GError **err)
{
    g_autofree struct msr_buffer *buf = g_new0(struct msr_buffer, 1);
    int rc;

    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        for (unsigned i = 0; i < row_count(&rows[r]); i++) {
            if (row_offered(cpu->all, &rows[r], i)) {
                g_assert(buf->nmsrs < MAX_MSRS);
                buf->entries[buf->nmsrs++].index = row_index(&rows[r], i);
            }
        }
    }
    rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_MSRS, buf);
    if (rc != (int)buf->nmsrs) {
        error_set(err, FERRY_ERROR_HOST, "KVM cannot read MSR 0x%x of vCPU %u",
                  rc >= 0 ? buf->entries[rc].index : 0, cpu->vcpu.index);
        return false;
    }
    unsigned n = 0;

    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        for (unsigned i = 0; i < row_count(&rows[r]); i++) {
            if (row_offered(cpu->all, &rows[r], i)) {
                value_set(s, &rows[r], i, buf->entries[n++].data);
            }
        }
    }
    for (unsigned i = 0; i < MTRR_VAR; i++) {
        s->mtrr_var[i].mask |= mtrr_top_bits(cpu->all);
    }
    return true;
}

bool cpu_msr_put_one(struct x86_cpu *cpu, uint32_t index, uint64_t value, GError **err)
{
    struct msr_one one = { .nmsrs = 1, .entry = { .index = index, .data = value } };

    if (kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_MSRS, &one) == 1) {
        return true;
    }
    error_set(err, FERRY_ERROR_HOST,
              "This host's KVM refuses to set MSR 0x%x of vCPU %u to 0x%" PRIx64, index,
              cpu->vcpu.index, value);
    return false;
}

bool cpu_msr_get_one(struct x86_cpu *cpu, uint32_t index, uint64_t *value)
{
    struct msr_one one = { .nmsrs = 1, .entry.index = index };

    if (kvm_vcpu_ioctl(&cpu->vcpu, KVM_GET_MSRS, &one) != 1) {
        return false;
    }
    *value = one.entry.data;
    return true;
}

static const char *name_of(uint32_t index)
{
    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        for (unsigned i = 0; i < row_count(&rows[r]); i++) {
            if (row_index(&rows[r], i) == index) {
                return rows[r].name;
            }
        }
    }
    return "?";
}

/* Writes buf; an MSR that KVM refuses but that already has the value is no failure. */
static bool write_all(struct x86_cpu *cpu, struct msr_buffer *buf, GError **err)
{
    unsigned done = 0;

    while (done < buf->nmsrs) {
        g_autofree struct msr_buffer *part = g_new0(struct msr_buffer, 1);
        uint64_t now;
        int rc;

        part->nmsrs = buf->nmsrs - done;
        memcpy(part->entries, buf->entries + done, part->nmsrs * sizeof(part->entries[0]));
        rc = kvm_vcpu_ioctl(&cpu->vcpu, KVM_SET_MSRS, part);
        if (rc < 0) {
            error_set_errno(err, FERRY_ERROR_HOST, -rc, "KVM cannot write MSRs of vCPU %u",
                            cpu->vcpu.index);
            return false;
        }
        done += (unsigned)rc;
        if (done < buf->nmsrs) {
            const struct kvm_msr_entry *e = &buf->entries[done];

            if (!cpu_msr_get_one(cpu, e->index, &now) || now != e->data) {
                error_set(err, FERRY_ERROR_HOST,
                          "This host's KVM refuses to set MSR 0x%x (%s) of vCPU %u to 0x%" PRIx64,
                          e->index, name_of(e->index), cpu->vcpu.index, (uint64_t)e->data);
                return false;
            }
            done++;
        }
    }
    return true;
}

/* Whether a guest can do without what this row says, on a host that has no such MSR. */
static bool may_drop(const struct x86_cpus *all, const struct msr_row *row)
{
    const struct kvm_cpuid_entry2 *ext = cpuid_find(&all->def, 0x80000001, 0);
    const struct kvm_cpuid_entry2 *leaf7 = cpuid_find(&all->def, 7, 0);

    if (row->index == MSR_TSC_AUX) {
        /* emulating peers let it be written without RDTSCP or RDPID in CPUID, and then it is not
         * read */
        return !(ext && ext->edx & 1u << 27) && !(leaf7 && leaf7->ecx & 1u << 22);
    }
    return row->may_drop;
}

static bool put_rows(struct x86_cpu *cpu, const struct cpu_state *s, bool late, GError **err)
{
    g_autofree struct msr_buffer *buf = g_new0(struct msr_buffer, 1);
    const struct cpu_state *reset = cpu->all->reset_state;

    for (unsigned r = 0; r < G_N_ELEMENTS(rows); r++) {
        const struct msr_row *row = &rows[r];

        for (unsigned i = 0; row->late == late && i < row_count(row); i++) {
            uint64_t v = value_get(s, row, i);

            if (row_offered(cpu->all, row, i)) {
                if (row->offset == offsetof(struct cpu_state, mtrr_var[0].mask)) {
                    v &= ~mtrr_top_bits(cpu->all);
                }
                g_assert(buf->nmsrs < MAX_MSRS);
                buf->entries[buf->nmsrs++] =
                    (struct kvm_msr_entry){ .index = row_index(row, i), .data = v };
            } else if (row->gate == GATE_LIST && v != value_get(reset, row, i)) {
                if (may_drop(cpu->all, row)) {
                    report_warning("vCPU %u had 0x%" PRIx64 " in MSR 0x%x (%s), which this host's "
                                   "KVM does not have",
                                   cpu->vcpu.index, v, row_index(row, i), row->name);
                    continue;
                }
                error_set(err, FERRY_ERROR_HOST,
                          "vCPU %u has 0x%" PRIx64 " in MSR 0x%x (%s), which this host's KVM does "
                          "not have; move the guest to a host like its own",
                          cpu->vcpu.index, v, row_index(row, i), row->name);
                return false;
            }
        }
    }
    return write_all(cpu, buf, err);
}

bool cpu_msrs_put(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    return put_rows(cpu, s, false, err);
}

bool cpu_msrs_put_late(struct x86_cpu *cpu, const struct cpu_state *s, GError **err)
{
    return put_rows(cpu, s, true, err);
}
