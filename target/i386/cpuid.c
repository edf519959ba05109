/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CPUID table of the guest, made of what KVM says it supports, the model's feature words, and
 * the machine's topology. Leaves that this file does not know are not in the table and read as
 * zero.
 *
 * Caches: "host" and "max" show the host's, shared as the guest's topology is; "qemu64" shows a
 * fixed set, whose encodings (leaves 2, 4, 0x80000005, 0x80000006) are what QEMU's guests see.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "accel/kvm.h"
#include "cpu-model.h"
#include "migration/vmstate.h"
#include "util/error.h"

#define KVM_SIGNATURE_LEAF    0x40000000u
#define MSR_ARCH_CAPABILITIES 0x10au

const struct kvm_cpuid_entry2 *cpuid_host_find(const struct x86_cpus *all, uint32_t function,
                                               uint32_t index)
{
    for (unsigned i = 0; all->host_cpuid && i < all->host_cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &all->host_cpuid->entries[i];

        if (e->function == function &&
            (e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX))) {
            return e;
        }
    }
    return NULL;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct cpu_definition *def, uint32_t function,
                                          uint32_t index)
{
    for (unsigned i = 0; i < def->count; i++) {
        if (def->entries[i].function == function && def->entries[i].index == index) {
            return &def->entries[i];
        }
    }
    return NULL;
}

bool cpu_arch_capabilities_settable(const struct x86_cpus *all)
{
    struct {
        uint32_t nmsrs, pad;
        struct kvm_msr_entry entry;
    } msr = { .nmsrs = 1, .entry.index = MSR_ARCH_CAPABILITIES };
    int vm, vcpu = -1;
    bool ok = false;

    if (!cpu_host_has_msr(all, MSR_ARCH_CAPABILITIES) ||
        kvm_system_ioctl(all->vm, KVM_GET_MSRS, &msr) != 1) {
        return false;
    }
    vm = kvm_system_ioctl(all->vm, KVM_CREATE_VM, NULL);
    if (vm >= 0) {
        vcpu = ioctl(vm, KVM_CREATE_VCPU, 0l);
        ok = vcpu >= 0 && ioctl(vcpu, KVM_SET_MSRS, &msr) == 1;
    }
    if (vcpu >= 0) {
        close(vcpu);
    }
    if (vm >= 0) {
        close(vm);
    }
    return ok;
}

struct builder {
    struct cpu_definition *def;
    const struct cpu_model *model;
    const struct x86_cpus *all;
    uint32_t words[FW_COUNT];
    char vendor[12];
    uint32_t level, xlevel;
};

static struct kvm_cpuid_entry2 *add(struct builder *b, uint32_t function, uint32_t index,
                                    bool indexed)
{
    struct kvm_cpuid_entry2 *e;

    g_assert(b->def->count < CPUID_MAX);
    e = &b->def->entries[b->def->count++];
    *e = (struct kvm_cpuid_entry2){ .function = function,
                                    .index = index,
                                    .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0 };
    return e;
}

/* The host's values, for leaves that are no feature words. */
static struct kvm_cpuid_entry2 *add_host(struct builder *b, uint32_t function, uint32_t index,
                                         bool indexed)
{
    const struct kvm_cpuid_entry2 *host = cpuid_host_find(b->all, function, index);
    struct kvm_cpuid_entry2 *e = add(b, function, index, indexed);

    if (host) {
        e->eax = host->eax;
        e->ebx = host->ebx;
        e->ecx = host->ecx;
        e->edx = host->edx;
    }
    return e;
}

static bool is_amd(const struct builder *b)
{
    return !memcmp(b->vendor, "AuthenticAMD", 12) || !memcmp(b->vendor, "HygonGenuine", 12);
}

static void put_vendor(struct kvm_cpuid_entry2 *e, const char *vendor)
{
    memcpy(&e->ebx, vendor, 4);
    memcpy(&e->edx, vendor + 4, 4);
    memcpy(&e->ecx, vendor + 8, 4);
}

static uint32_t signature(const struct builder *b)
{
    const struct cpu_options *o = &b->model->options;
    const struct kvm_cpuid_entry2 *host = cpuid_host_find(b->all, 1, 0);
    uint32_t eax = b->model->is_host && host ? host->eax & 0x0fff3fff : 0x00060fb1;
    uint32_t family = eax >> 8 & 15, model = (eax >> 4 & 15) | (eax >> 12 & 0xf0);

    family += family == 15 ? eax >> 20 & 255 : 0;
    family = o->family >= 0 ? (uint32_t)o->family : family;
    model = o->model >= 0 ? (uint32_t)o->model : model;
    eax = o->stepping >= 0 ? (uint32_t)o->stepping : eax & 15;
    eax |= (model & 15) << 4 | (model >> 4) << 16;
    return eax | (family < 15 ? family << 8 : 15u << 8 | (family - 15) << 20);
}

static unsigned log2_up(unsigned n)
{
    unsigned bits = 0;

    while (1u << bits < n) {
        bits++;
    }
    return bits;
}

/* Leaf 4 and, on AMD, 0x8000001D count sharing processors and cores in EAX. */
static void cache_sharing(struct kvm_cpuid_entry2 *e, const struct x86_cpus *all)
{
    unsigned level = e->eax >> 5 & 7;
    unsigned sharing = level <= 2 ? all->threads : all->threads * all->cores;

    if (e->eax & 31) {
        e->eax = (e->eax & 0x3fff) | ((1u << log2_up(sharing)) - 1) << 14 |
                 ((1u << log2_up(all->cores)) - 1) << 26;
    }
}

/* Leaves 2 and 4 of Intel processors. */
static void add_caches_intel(struct builder *b)
{
    static const uint32_t fixed[4][4] = {
        /* 32 KiB L1 data and instruction, 4 MiB L2, 16 MiB L3 */
        { 0x121, 0x01c0003f, 0x3f, 1 },
        { 0x122, 0x01c0003f, 0x3f, 1 },
        { 0x143, 0x03c0003f, 0xfff, 1 },
        { 0x163, 0x03c0003f, 0x3fff, 6 },
    };
    unsigned levels = b->model->options.l3_cache ? 4 : 3;
    struct kvm_cpuid_entry2 *e;

    if (is_amd(b)) {
        return;
    }
    e = add(b, 2, 0, false);
    e->eax = 1;
    e->ecx = b->model->options.l3_cache ? 0x4d : 0;
    e->edx = 0x002c307d;
    for (unsigned i = 0; i < levels; i++) {
        e = add(b, 4, i, true);
        e->eax = fixed[i][0];
        e->ebx = fixed[i][1];
        e->ecx = fixed[i][2];
        e->edx = fixed[i][3];
        cache_sharing(e, b->all);
    }
    add(b, 4, levels, true);
}

/* Leaf 0xD: the host's components, as far as this program saves them and the features need them. */
static void add_xsave(struct builder *b)
{
    static const struct {
        unsigned bit;
        const char *feature;
    } components[] = {
        { 2, "avx" },     { 3, "mpx" }, { 4, "mpx" },       { 5, "avx512f" },   { 6, "avx512f" },
        { 7, "avx512f" }, { 9, "pku" }, { 17, "amx-tile" }, { 18, "amx-tile" },
    };
    const struct kvm_cpuid_entry2 *host = cpuid_host_find(b->all, 0xd, 0);
    struct kvm_cpuid_entry2 *main, *e;
    uint32_t mask = 3, size = 512 + 64;

    if (!feature_get(b->words, "xsave") || !host) {
        return;
    }
    main = add(b, 0xd, 0, true);
    e = add(b, 0xd, 1, true);
    e->eax = b->words[FW_D_1_EAX];
    for (unsigned i = 0; i < G_N_ELEMENTS(components); i++) {
        unsigned bit = components[i].bit;
        const struct kvm_cpuid_entry2 *h = cpuid_host_find(b->all, 0xd, bit);

        if (host->eax >> bit & 1 && h && h->eax && feature_get(b->words, components[i].feature)) {
            e = add_host(b, 0xd, bit, true);
            mask |= 1u << bit;
            size = MAX(size, e->eax + e->ebx);
        }
    }
    main->eax = mask;
    main->ebx = 512 + 64; /* KVM keeps it up to date with XCR0 */
    main->ecx = size;
}

static void add_basic(struct builder *b)
{
    struct kvm_cpuid_entry2 *e = add(b, 0, 0, false);
    unsigned per_package = b->all->dies * b->all->cores * b->all->threads;

    e->eax = b->level;
    put_vendor(e, b->vendor);

    e = add(b, 1, 0, false);
    e->eax = signature(b);
    e->ebx = (per_package > 1 ? MIN(per_package, 255u) << 16 : 0) | 8u << 8; /* CLFLUSH: 64 bytes */
    e->ecx = b->words[FW_1_ECX];
    e->edx = b->words[FW_1_EDX];

    add_caches_intel(b);
    e = add(b, 5, 0, false);
    e->ecx = 3; /* as QEMU's guests see it; without MONITOR it means nothing */
    e = add(b, 6, 0, false);
    e->eax = b->words[FW_6_EAX];
    e = add(b, 7, 0, true);
    e->eax = b->words[FW_7_1_EAX] || b->words[FW_7_1_EDX] ? 1 : 0;
    e->ebx = b->words[FW_7_0_EBX];
    e->ecx = b->words[FW_7_0_ECX];
    e->edx = b->words[FW_7_0_EDX];
    if (e->eax) {
        e = add(b, 7, 1, true);
        e->eax = b->words[FW_7_1_EAX];
        e->edx = b->words[FW_7_1_EDX];
    }
    if (b->model->options.pmu && b->level >= 0xa) {
        add_host(b, 0xa, 0, false);
    }
    /* two levels of topology: threads of a core, processors of a package */
    for (unsigned i = 0; i < 3; i++) {
        unsigned count = i == 0 ? b->all->threads : per_package;

        e = add(b, 0xb, i, true);
        e->ecx = i | (i < 2 ? (i + 1) << 8 : 0);
        if (i < 2) {
            e->eax = log2_up(count);
            e->ebx = count;
        }
    }
    add_xsave(b);
}

static void add_hypervisor(struct builder *b)
{
    struct kvm_cpuid_entry2 *e;

    if (!b->model->options.kvm) {
        return;
    }
    e = add(b, KVM_SIGNATURE_LEAF, 0, false);
    e->eax = KVM_SIGNATURE_LEAF + 1;
    e->ebx = 0x4b4d564b; /* "KVMKVMKVM" */
    e->ecx = 0x564b4d56;
    e->edx = 0x4d;
    e = add(b, KVM_SIGNATURE_LEAF + 1, 0, false);
    e->eax = b->words[FW_KVM_EAX];
}

static void add_brand(struct builder *b)
{
    const char *id = b->model->options.model_id;
    char text[48] = { 0 };

    if (!id && b->model->is_host) {
        for (unsigned i = 0; i < 3; i++) {
            struct kvm_cpuid_entry2 *e = add_host(b, 0x80000002 + i, 0, false);

            if (!e->eax) { /* some KVMs leave this to the program */
                __get_cpuid(e->function, &e->eax, &e->ebx, &e->ecx, &e->edx);
            }
        }
        return;
    }
    id = id ? id : "QEMU Virtual CPU version 2.5+";
    memcpy(text, id, MIN(strlen(id), sizeof(text)));
    for (unsigned i = 0; i < 3; i++) {
        struct kvm_cpuid_entry2 *e = add(b, 0x80000002 + i, 0, false);

        memcpy(&e->eax, text + 16 * i, 4);
        memcpy(&e->ebx, text + 16 * i + 4, 4);
        memcpy(&e->ecx, text + 16 * i + 8, 4);
        memcpy(&e->edx, text + 16 * i + 12, 4);
    }
}

static void add_extended(struct builder *b)
{
    struct kvm_cpuid_entry2 *e = add(b, 0x80000000, 0, false);
    const struct kvm_cpuid_entry2 *host8 = cpuid_host_find(b->all, 0x80000008, 0);
    unsigned per_package = b->all->dies * b->all->cores * b->all->threads;

    e->eax = b->xlevel;
    if (is_amd(b) || !b->model->is_host) {
        put_vendor(e, b->vendor);
    }
    e = add(b, 0x80000001, 0, false);
    e->eax = is_amd(b) || !b->model->is_host ? signature(b) : 0;
    e->ecx = b->words[FW_8000_0001_ECX];
    e->edx = b->words[FW_8000_0001_EDX];
    if (is_amd(b)) {
        e->edx |= b->words[FW_1_EDX] & 0x0183f3ff; /* AMD repeats these bits of leaf 1 here */
    }
    add_brand(b);
    e = add(b, 0x80000005, 0, false);
    e->eax = e->ebx = 0x01ff01ff;
    e->ecx = e->edx = 0x40020140;
    e = add(b, 0x80000006, 0, false);
    e->ebx = 0x42004200;
    e->ecx = 0x02008140;
    e->edx = b->model->options.l3_cache ? 0x00808140 : 0;
    e = add(b, 0x80000007, 0, false);
    e->edx = b->words[FW_8000_0007_EDX];
    e = add(b, 0x80000008, 0, false);
    e->eax = b->def->phys_bits | (host8 ? host8->eax & 0xff00 : 0x3000);
    e->ebx = b->words[FW_8000_0008_EBX];
    if (per_package > 1) {
        e->ecx = (per_package - 1) | log2_up(per_package) << 12;
    }
    if (b->xlevel >= 0x80000021) {
        e = add(b, 0x80000021, 0, false);
        e->eax = b->words[FW_8000_0021_EAX];
    }
}

static bool resolve_phys_bits(struct builder *b, GError **err)
{
    const struct cpu_options *o = &b->model->options;
    const struct kvm_cpuid_entry2 *host8 = cpuid_host_find(b->all, 0x80000008, 0);
    int64_t host = host8 && host8->eax & 0xff ? host8->eax & 0xff : 36;
    int64_t bits = o->phys_bits ? o->phys_bits : o->host_phys_bits ? host : 40;

    if (!o->phys_bits && o->host_phys_bits_limit) {
        bits = MIN(bits, o->host_phys_bits_limit);
    }
    if (bits < 32 || bits > 52) {
        error_set(err, FERRY_ERROR_USER,
                  "phys-bits should be between 32 and 52 (but is %" G_GINT64_FORMAT ")", bits);
        return false;
    }
    if (bits > host) {
        report_warning("Host physical bits (%" G_GINT64_FORMAT ") does not match phys-bits "
                       "property (%" G_GINT64_FORMAT ")",
                       host, bits);
    }
    b->def->phys_bits = (unsigned)bits;
    return true;
}

static void resolve_levels(struct builder *b)
{
    const struct cpu_options *o = &b->model->options;
    const struct kvm_cpuid_entry2 *basic = cpuid_host_find(b->all, 0, 0);
    const struct kvm_cpuid_entry2 *ext = cpuid_host_find(b->all, 0x80000000, 0);

    b->level = 0xd;
    b->xlevel = 0x8000000a;
    if (b->model->is_host) {
        b->level = CLAMP(basic ? basic->eax : 0, 0xd, 0x1f);
        b->xlevel = CLAMP(ext ? ext->eax : 0, 0x80000008, 0x80000021);
    }
    b->level = o->level >= 0 ? (uint32_t)o->level : b->level;
    b->xlevel = o->xlevel >= 0 ? (uint32_t)o->xlevel : b->xlevel;
}

bool cpu_definition_resolve(struct cpu_definition *def, const struct cpu_model *model,
                            struct x86_cpus *all, GError **err)
{
    struct builder b = { .def = def, .model = model, .all = all };
    const struct kvm_cpuid_entry2 *host0 = cpuid_host_find(all, 0, 0);
    unsigned handle;

    if (!cpu_model_words(model, all, b.words, err) || !resolve_phys_bits(&b, err)) {
        return false;
    }
    resolve_levels(&b);
    /* SYSCALL and SYSENTER behave as the host's vendor has them, so the guest sees that vendor */
    if (host0) {
        memcpy(b.vendor, (uint32_t[]){ host0->ebx, host0->edx, host0->ecx }, 12);
    }
    if (model->options.vendor) {
        memcpy(b.vendor, model->options.vendor, 12);
    }
    feature_set(b.words, "ht", all->dies * all->cores * all->threads > 1);
    feature_set(b.words, "cmp-legacy", is_amd(&b) && all->dies * all->cores * all->threads > 1);

    def->invtsc = feature_get(b.words, "invtsc");
    def->tsc_khz = (unsigned)(model->options.tsc_frequency / 1000);
    if (def->invtsc && !def->tsc_khz &&
        !migration_blocker_add(all->vm, "State blocked by non-migratable CPU device (invtsc flag)",
                               &handle, err)) {
        return false;
    }
    add_basic(&b);
    add_hypervisor(&b);
    add_extended(&b);
    return true;
}

void cpuid_for_cpu(const struct x86_cpus *all, unsigned index, struct kvm_cpuid2 *out)
{
    out->nent = all->def.count;
    memcpy(out->entries, all->def.entries, all->def.count * sizeof(out->entries[0]));
    for (unsigned i = 0; i < out->nent; i++) {
        struct kvm_cpuid_entry2 *e = &out->entries[i];

        if (e->function == 1) {
            e->ebx = (e->ebx & 0x00ffffff) | index << 24;
        } else if (e->function == 0xb) {
            e->edx = index;
        }
    }
}
