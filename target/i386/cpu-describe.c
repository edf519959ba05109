/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The processors in words, for the check before a migration: what the guest sees (vendor, features
 * by name, MSRs by name), and what this host could show. Comparing is not done here
 * (migration/check/compare.c); names are all that travels, so a peer of another version may know
 * more of them or fewer.
 */
#include <string.h>

#include "accel/kvm.h"
#include "cpu-model.h"
#include "target/i386/cpu.h"

static uint32_t entry_word(const struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
    const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };

    return regs[reg];
}

/* Names of the bits that are set; one that stands for two bits once. */
static GPtrArray *feature_names(const uint32_t words[FW_COUNT])
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (const struct feature *f = features; f->name; f++) {
        if (words[f->word] & feature_mask(f) && g_hash_table_add(seen, (gpointer)f->name)) {
            g_ptr_array_add(names, g_strdup(f->name));
        }
    }
    return names;
}

/* What the guest sees. */
static void words_seen(const struct cpu_definition *def, uint32_t words[FW_COUNT])
{
    for (unsigned i = 0; i < FW_COUNT; i++) {
        const struct kvm_cpuid_entry2 *e =
            cpuid_find(def, feature_words[i].function, feature_words[i].index);

        words[i] = e ? entry_word(e, feature_words[i].reg) : 0;
    }
}

/* The 12 letters of leaf 0; guests may be given any bytes by -cpu vendor=. */
static char *vendor_text(const struct kvm_cpuid_entry2 *e)
{
    char text[13] = { 0 };

    if (e) {
        memcpy(text, (uint32_t[]){ e->ebx, e->edx, e->ecx }, 12);
    }
    return g_str_to_ascii(text, "C");
}

static char *brand_text(const struct cpu_definition *def)
{
    char text[49] = { 0 };

    for (unsigned i = 0; i < 3; i++) {
        const struct kvm_cpuid_entry2 *e = cpuid_find(def, 0x80000002 + i, 0);

        if (e) {
            memcpy(text + 16 * i, (uint32_t[]){ e->eax, e->ebx, e->ecx, e->edx }, 16);
        }
    }
    return g_strstrip(g_str_to_ascii(text, "C"));
}

MigrationSideCpu *x86_cpu_describe(struct vm *vm)
{
    const struct x86_cpus *all = vm->vcpu_count ? x86_cpu_of(vm->vcpus[0])->all : NULL;
    const struct kvm_cpuid_entry2 *leaf1;
    MigrationSideCpu *cpu;
    uint32_t words[FW_COUNT];

    if (!all || !kvm_enabled(vm)) {
        return NULL;
    }
    cpu = g_new0(MigrationSideCpu, 1);
    cpu->vendor = vendor_text(cpuid_find(&all->def, 0, 0));
    cpu->host_vendor = vendor_text(cpuid_host_find(all, 0, 0));
    leaf1 = cpuid_find(&all->def, 1, 0);
    cpu->signature = leaf1 ? leaf1->eax : 0;
    cpu->brand = brand_text(&all->def);
    cpu->phys_bits = all->def.phys_bits;
    words_seen(&all->def, words);
    cpu->features = feature_names(words);
    cpu_model_words_offered(all, words);
    cpu->host_features = feature_names(words);
    cpu->msrs = g_ptr_array_new_with_free_func(g_free);
    cpu_msr_names(all, cpu->msrs);
    cpu->tsc_khz = all->tsc_khz;
    cpu->tsc_scaling = all->has_tsc_control;
    return cpu;
}

char *x86_feature_place(const char *name)
{
    for (const struct feature *f = features; f->name; f++) {
        if (g_str_equal(f->name, name)) {
            return g_strdup_printf("%s bit %u", feature_words[f->word].text, f->bit);
        }
    }
    return NULL;
}
