/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A parsed -cpu, between cpu-model.c (which features) and cpuid.c (which CPUID table). */
#ifndef TARGET_I386_CPU_MODEL_H
#define TARGET_I386_CPU_MODEL_H

#include "cpu-features.h"
#include "cpu-internal.h"

/* Numbers: -1 (or 0 where 0 makes no sense) = not given. */
struct cpu_options {
    bool check, enforce, migratable, kvm, pmu, l3_cache, host_phys_bits;
    int64_t host_phys_bits_limit, phys_bits, tsc_frequency; /* tsc_frequency in Hz */
    int64_t family, model, stepping, level, xlevel;
    char *vendor, *model_id;
};

struct cpu_model {
    char *name; /* "host", "max", "qemu64" */
    bool is_host;
    GArray *settings; /* struct cpu_setting, in the order given */
    struct cpu_options options;
};

/* The feature words of the guest: what the model and the settings say, within what is offered. */
bool cpu_model_words(const struct cpu_model *m, const struct x86_cpus *all,
                     uint32_t words[FW_COUNT], GError **err);

/* What this host's KVM and this program can give, FEATURE_NO_SAVE apart. */
void cpu_model_words_offered(const struct x86_cpus *all, uint32_t words[FW_COUNT]);

/* cpuid.c */
const struct kvm_cpuid_entry2 *cpuid_host_find(const struct x86_cpus *all, uint32_t function,
                                               uint32_t index);
/* Whether KVM lets IA32_ARCH_CAPABILITIES be set, tried on a processor of its own. */
bool cpu_arch_capabilities_settable(const struct x86_cpus *all);

#endif
