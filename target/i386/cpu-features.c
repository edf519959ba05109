/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of CPUID features. Bits are those of the processor manuals and of the kernel's KVM
 * CPUID documentation, names are those of QEMU's command line. A bit that is not in the table is
 * never shown to a guest: it may stand for state that no section of a stream carries. For the same
 * reason features of kind FEATURE_NO_SAVE are in the table (so that asking for one gets an answer)
 * and never given.
 */
#include "cpu-features.h"

#include <glib.h>

const struct feature_word_info feature_words[FW_COUNT] = {
    [FW_1_EDX] = { 1, 0, CPUID_EDX, "CPUID.01H:EDX" },
    [FW_1_ECX] = { 1, 0, CPUID_ECX, "CPUID.01H:ECX" },
    [FW_6_EAX] = { 6, 0, CPUID_EAX, "CPUID.06H:EAX" },
    [FW_7_0_EBX] = { 7, 0, CPUID_EBX, "CPUID.07H:EBX" },
    [FW_7_0_ECX] = { 7, 0, CPUID_ECX, "CPUID.07H:ECX" },
    [FW_7_0_EDX] = { 7, 0, CPUID_EDX, "CPUID.07H:EDX" },
    [FW_7_1_EAX] = { 7, 1, CPUID_EAX, "CPUID.07H_01H:EAX" },
    [FW_7_1_EDX] = { 7, 1, CPUID_EDX, "CPUID.07H_01H:EDX" },
    [FW_D_1_EAX] = { 0xd, 1, CPUID_EAX, "CPUID.0DH_01H:EAX" },
    [FW_8000_0001_EDX] = { 0x80000001, 0, CPUID_EDX, "CPUID.80000001H:EDX" },
    [FW_8000_0001_ECX] = { 0x80000001, 0, CPUID_ECX, "CPUID.80000001H:ECX" },
    [FW_8000_0007_EDX] = { 0x80000007, 0, CPUID_EDX, "CPUID.80000007H:EDX" },
    [FW_8000_0008_EBX] = { 0x80000008, 0, CPUID_EBX, "CPUID.80000008H:EBX" },
    [FW_8000_0021_EAX] = { 0x80000021, 0, CPUID_EAX, "CPUID.80000021H:EAX" },
    [FW_KVM_EAX] = { 0x40000001, 0, CPUID_EAX, "CPUID.40000001H:EAX" },
};

const struct feature features[] = {
    /* 1_EDX */
    { .name = "fpu", .word = FW_1_EDX, .bit = 0 },
    { .name = "vme", .word = FW_1_EDX, .bit = 1 },
    { .name = "de", .word = FW_1_EDX, .bit = 2 },
    { .name = "pse", .word = FW_1_EDX, .bit = 3 },
    { .name = "tsc", .word = FW_1_EDX, .bit = 4 },
    { .name = "msr", .word = FW_1_EDX, .bit = 5 },
    { .name = "pae", .word = FW_1_EDX, .bit = 6 },
    { .name = "mce", .word = FW_1_EDX, .bit = 7 },
    { .name = "cx8", .word = FW_1_EDX, .bit = 8 },
    { .name = "apic", .word = FW_1_EDX, .bit = 9 },
    { .name = "sep", .word = FW_1_EDX, .bit = 11 },
    { .name = "mtrr", .word = FW_1_EDX, .bit = 12 },
    { .name = "pge", .word = FW_1_EDX, .bit = 13 },
    { .name = "mca", .word = FW_1_EDX, .bit = 14 },
    { .name = "cmov", .word = FW_1_EDX, .bit = 15 },
    { .name = "pat", .word = FW_1_EDX, .bit = 16 },
    { .name = "pse36", .word = FW_1_EDX, .bit = 17 },
    { .name = "clflush", .word = FW_1_EDX, .bit = 19 },
    { .name = "mmx", .word = FW_1_EDX, .bit = 23 },
    { .name = "fxsr", .word = FW_1_EDX, .bit = 24 },
    { .name = "sse", .word = FW_1_EDX, .bit = 25 },
    { .name = "sse2", .word = FW_1_EDX, .bit = 26 },
    { .name = "ss", .word = FW_1_EDX, .bit = 27 },
    { .name = "ht", .word = FW_1_EDX, .bit = 28 },
    /* 1_ECX */
    { .name = "pni", .word = FW_1_ECX, .bit = 0 },
    { .name = "pclmulqdq", .word = FW_1_ECX, .bit = 1 },
    { .name = "vmx", .word = FW_1_ECX, .bit = 5, .kind = FEATURE_NO_SAVE },
    { .name = "ssse3", .word = FW_1_ECX, .bit = 9 },
    { .name = "fma", .word = FW_1_ECX, .bit = 12, .needs = "avx" },
    { .name = "cx16", .word = FW_1_ECX, .bit = 13 },
    { .name = "pdcm", .word = FW_1_ECX, .bit = 15, .kind = FEATURE_NO_SAVE },
    { .name = "pcid", .word = FW_1_ECX, .bit = 17 },
    { .name = "sse4.1", .word = FW_1_ECX, .bit = 19 },
    { .name = "sse4.2", .word = FW_1_ECX, .bit = 20 },
    { .name = "x2apic", .word = FW_1_ECX, .bit = 21 },
    { .name = "movbe", .word = FW_1_ECX, .bit = 22 },
    { .name = "popcnt", .word = FW_1_ECX, .bit = 23 },
    { .name = "tsc-deadline", .word = FW_1_ECX, .bit = 24 },
    { .name = "aes", .word = FW_1_ECX, .bit = 25 },
    { .name = "xsave", .word = FW_1_ECX, .bit = 26 },
    { .name = "avx", .word = FW_1_ECX, .bit = 28, .needs = "xsave" },
    { .name = "f16c", .word = FW_1_ECX, .bit = 29, .needs = "avx" },
    { .name = "rdrand", .word = FW_1_ECX, .bit = 30 },
    { .name = "hypervisor", .word = FW_1_ECX, .bit = 31, .kind = FEATURE_OWN },
    /* 6_EAX */
    { .name = "arat", .word = FW_6_EAX, .bit = 2 },
    /* 7_0_EBX */
    { .name = "fsgsbase", .word = FW_7_0_EBX, .bit = 0 },
    { .name = "tsc-adjust", .word = FW_7_0_EBX, .bit = 1 },
    { .name = "sgx", .word = FW_7_0_EBX, .bit = 2, .kind = FEATURE_NO_SAVE },
    { .name = "bmi1", .word = FW_7_0_EBX, .bit = 3 },
    { .name = "hle", .word = FW_7_0_EBX, .bit = 4 },
    { .name = "avx2", .word = FW_7_0_EBX, .bit = 5, .needs = "avx" },
    { .name = "fdp-excptn-only", .word = FW_7_0_EBX, .bit = 6 },
    { .name = "smep", .word = FW_7_0_EBX, .bit = 7 },
    { .name = "bmi2", .word = FW_7_0_EBX, .bit = 8 },
    { .name = "erms", .word = FW_7_0_EBX, .bit = 9 },
    { .name = "invpcid", .word = FW_7_0_EBX, .bit = 10 },
    { .name = "rtm", .word = FW_7_0_EBX, .bit = 11 },
    { .name = "zero-fcs-fds", .word = FW_7_0_EBX, .bit = 13 },
    { .name = "mpx", .word = FW_7_0_EBX, .bit = 14, .needs = "xsave" },
    { .name = "avx512f", .word = FW_7_0_EBX, .bit = 16, .needs = "avx" },
    { .name = "avx512dq", .word = FW_7_0_EBX, .bit = 17, .needs = "avx512f" },
    { .name = "rdseed", .word = FW_7_0_EBX, .bit = 18 },
    { .name = "adx", .word = FW_7_0_EBX, .bit = 19 },
    { .name = "smap", .word = FW_7_0_EBX, .bit = 20 },
    { .name = "avx512ifma", .word = FW_7_0_EBX, .bit = 21, .needs = "avx512f" },
    { .name = "clflushopt", .word = FW_7_0_EBX, .bit = 23 },
    { .name = "clwb", .word = FW_7_0_EBX, .bit = 24 },
    { .name = "intel-pt", .word = FW_7_0_EBX, .bit = 25, .kind = FEATURE_NO_SAVE },
    { .name = "avx512pf", .word = FW_7_0_EBX, .bit = 26, .needs = "avx512f" },
    { .name = "avx512er", .word = FW_7_0_EBX, .bit = 27, .needs = "avx512f" },
    { .name = "avx512cd", .word = FW_7_0_EBX, .bit = 28, .needs = "avx512f" },
    { .name = "sha-ni", .word = FW_7_0_EBX, .bit = 29 },
    { .name = "avx512bw", .word = FW_7_0_EBX, .bit = 30, .needs = "avx512f" },
    { .name = "avx512vl", .word = FW_7_0_EBX, .bit = 31, .needs = "avx512f" },
    /* 7_0_ECX */
    { .name = "avx512vbmi", .word = FW_7_0_ECX, .bit = 1, .needs = "avx512f" },
    { .name = "umip", .word = FW_7_0_ECX, .bit = 2 },
    { .name = "pku", .word = FW_7_0_ECX, .bit = 3, .needs = "xsave" },
    { .name = "waitpkg", .word = FW_7_0_ECX, .bit = 5 },
    { .name = "avx512vbmi2", .word = FW_7_0_ECX, .bit = 6, .needs = "avx512f" },
    { .name = "shstk", .word = FW_7_0_ECX, .bit = 7, .kind = FEATURE_NO_SAVE },
    { .name = "gfni", .word = FW_7_0_ECX, .bit = 8 },
    { .name = "vaes", .word = FW_7_0_ECX, .bit = 9, .needs = "avx" },
    { .name = "vpclmulqdq", .word = FW_7_0_ECX, .bit = 10, .needs = "avx" },
    { .name = "avx512vnni", .word = FW_7_0_ECX, .bit = 11, .needs = "avx512f" },
    { .name = "avx512bitalg", .word = FW_7_0_ECX, .bit = 12, .needs = "avx512f" },
    { .name = "avx512-vpopcntdq", .word = FW_7_0_ECX, .bit = 14, .needs = "avx512f" },
    { .name = "la57", .word = FW_7_0_ECX, .bit = 16 },
    { .name = "rdpid", .word = FW_7_0_ECX, .bit = 22 },
    { .name = "bus-lock-detect", .word = FW_7_0_ECX, .bit = 24 },
    { .name = "cldemote", .word = FW_7_0_ECX, .bit = 25 },
    { .name = "movdiri", .word = FW_7_0_ECX, .bit = 27 },
    { .name = "movdir64b", .word = FW_7_0_ECX, .bit = 28 },
    { .name = "sgxlc", .word = FW_7_0_ECX, .bit = 30, .kind = FEATURE_NO_SAVE },
    { .name = "pks", .word = FW_7_0_ECX, .bit = 31 },
    /* 7_0_EDX */
    { .name = "avx512-4vnniw", .word = FW_7_0_EDX, .bit = 2, .needs = "avx512f" },
    { .name = "avx512-4fmaps", .word = FW_7_0_EDX, .bit = 3, .needs = "avx512f" },
    { .name = "fsrm", .word = FW_7_0_EDX, .bit = 4 },
    { .name = "avx512-vp2intersect", .word = FW_7_0_EDX, .bit = 8, .needs = "avx512f" },
    { .name = "md-clear", .word = FW_7_0_EDX, .bit = 10 },
    { .name = "serialize", .word = FW_7_0_EDX, .bit = 14 },
    { .name = "tsx-ldtrk", .word = FW_7_0_EDX, .bit = 16 },
    { .name = "arch-lbr", .word = FW_7_0_EDX, .bit = 19, .kind = FEATURE_NO_SAVE },
    { .name = "ibt", .word = FW_7_0_EDX, .bit = 20, .kind = FEATURE_NO_SAVE },
    { .name = "amx-bf16", .word = FW_7_0_EDX, .bit = 22, .needs = "amx-tile" },
    { .name = "avx512-fp16", .word = FW_7_0_EDX, .bit = 23, .needs = "avx512f" },
    { .name = "amx-tile", .word = FW_7_0_EDX, .bit = 24, .needs = "xsave" },
    { .name = "amx-int8", .word = FW_7_0_EDX, .bit = 25, .needs = "amx-tile" },
    { .name = "spec-ctrl", .word = FW_7_0_EDX, .bit = 26 },
    { .name = "stibp", .word = FW_7_0_EDX, .bit = 27 },
    { .name = "flush-l1d", .word = FW_7_0_EDX, .bit = 28 },
    { .name = "arch-capabilities", .word = FW_7_0_EDX, .bit = 29 },
    { .name = "ssbd", .word = FW_7_0_EDX, .bit = 31 },
    /* 7_1_EAX */
    { .name = "avx-vnni", .word = FW_7_1_EAX, .bit = 4, .needs = "avx" },
    { .name = "avx512-bf16", .word = FW_7_1_EAX, .bit = 5, .needs = "avx512f" },
    { .name = "cmpccxadd", .word = FW_7_1_EAX, .bit = 7 },
    { .name = "fzrm", .word = FW_7_1_EAX, .bit = 10 },
    { .name = "fsrs", .word = FW_7_1_EAX, .bit = 11 },
    { .name = "fsrc", .word = FW_7_1_EAX, .bit = 12 },
    { .name = "amx-fp16", .word = FW_7_1_EAX, .bit = 21, .needs = "amx-tile" },
    { .name = "avx-ifma", .word = FW_7_1_EAX, .bit = 23, .needs = "avx" },
    { .name = "lam", .word = FW_7_1_EAX, .bit = 26 },
    /* 7_1_EDX */
    { .name = "avx-vnni-int8", .word = FW_7_1_EDX, .bit = 4, .needs = "avx" },
    { .name = "avx-ne-convert", .word = FW_7_1_EDX, .bit = 5, .needs = "avx" },
    { .name = "amx-complex", .word = FW_7_1_EDX, .bit = 8, .needs = "amx-tile" },
    { .name = "prefetchiti", .word = FW_7_1_EDX, .bit = 14 },
    /* D_1_EAX */
    { .name = "xsaveopt", .word = FW_D_1_EAX, .bit = 0, .needs = "xsave" },
    { .name = "xsavec", .word = FW_D_1_EAX, .bit = 1, .needs = "xsave" },
    { .name = "xgetbv1", .word = FW_D_1_EAX, .bit = 2, .needs = "xsave" },
    { .name = "xsaves", .word = FW_D_1_EAX, .bit = 3, .needs = "xsave" },
    { .name = "xfd", .word = FW_D_1_EAX, .bit = 4, .needs = "xsave" },
    /* 8000_0001_EDX */
    { .name = "syscall", .word = FW_8000_0001_EDX, .bit = 11 },
    { .name = "mp", .word = FW_8000_0001_EDX, .bit = 19 },
    { .name = "nx", .word = FW_8000_0001_EDX, .bit = 20 },
    { .name = "mmxext", .word = FW_8000_0001_EDX, .bit = 22 },
    { .name = "fxsr-opt", .word = FW_8000_0001_EDX, .bit = 25 },
    { .name = "pdpe1gb", .word = FW_8000_0001_EDX, .bit = 26 },
    { .name = "rdtscp", .word = FW_8000_0001_EDX, .bit = 27 },
    { .name = "lm", .word = FW_8000_0001_EDX, .bit = 29 },
    { .name = "3dnowext", .word = FW_8000_0001_EDX, .bit = 30 },
    { .name = "3dnow", .word = FW_8000_0001_EDX, .bit = 31 },
    /* 8000_0001_ECX */
    { .name = "lahf-lm", .word = FW_8000_0001_ECX, .bit = 0 },
    { .name = "cmp-legacy", .word = FW_8000_0001_ECX, .bit = 1 },
    { .name = "svm", .word = FW_8000_0001_ECX, .bit = 2, .kind = FEATURE_NO_SAVE },
    { .name = "cr8legacy", .word = FW_8000_0001_ECX, .bit = 4 },
    { .name = "abm", .word = FW_8000_0001_ECX, .bit = 5 },
    { .name = "sse4a", .word = FW_8000_0001_ECX, .bit = 6 },
    { .name = "misalignsse", .word = FW_8000_0001_ECX, .bit = 7 },
    { .name = "3dnowprefetch", .word = FW_8000_0001_ECX, .bit = 8 },
    { .name = "osvw", .word = FW_8000_0001_ECX, .bit = 9 },
    { .name = "xop", .word = FW_8000_0001_ECX, .bit = 11, .needs = "avx" },
    { .name = "lwp", .word = FW_8000_0001_ECX, .bit = 15, .kind = FEATURE_NO_SAVE },
    { .name = "fma4", .word = FW_8000_0001_ECX, .bit = 16, .needs = "avx" },
    { .name = "tbm", .word = FW_8000_0001_ECX, .bit = 21 },
    { .name = "topoext", .word = FW_8000_0001_ECX, .bit = 22, .kind = FEATURE_NO_SAVE },
    { .name = "perfctr-core", .word = FW_8000_0001_ECX, .bit = 23, .kind = FEATURE_NO_SAVE },
    { .name = "perfctr-nb", .word = FW_8000_0001_ECX, .bit = 24, .kind = FEATURE_NO_SAVE },
    /* 8000_0007_EDX */
    { .name = "invtsc", .word = FW_8000_0007_EDX, .bit = 8, .kind = FEATURE_OPT_IN },
    /* 8000_0008_EBX */
    { .name = "clzero", .word = FW_8000_0008_EBX, .bit = 0 },
    { .name = "xsaveerptr", .word = FW_8000_0008_EBX, .bit = 2 },
    { .name = "wbnoinvd", .word = FW_8000_0008_EBX, .bit = 9 },
    { .name = "ibpb", .word = FW_8000_0008_EBX, .bit = 12 },
    { .name = "ibrs", .word = FW_8000_0008_EBX, .bit = 14 },
    { .name = "amd-stibp", .word = FW_8000_0008_EBX, .bit = 15 },
    { .name = "amd-ssbd", .word = FW_8000_0008_EBX, .bit = 24 },
    { .name = "virt-ssbd", .word = FW_8000_0008_EBX, .bit = 25 },
    { .name = "amd-no-ssb", .word = FW_8000_0008_EBX, .bit = 26 },
    { .name = "amd-psfd", .word = FW_8000_0008_EBX, .bit = 28 },
    /* 8000_0021_EAX */
    { .name = "no-nested-data-bp", .word = FW_8000_0021_EAX, .bit = 0 },
    { .name = "lfence-always-serializing", .word = FW_8000_0021_EAX, .bit = 2 },
    { .name = "null-sel-clr-base", .word = FW_8000_0021_EAX, .bit = 6 },
    { .name = "auto-ibrs", .word = FW_8000_0021_EAX, .bit = 8 },
    /* KVM_EAX */
    { .name = "kvmclock", .word = FW_KVM_EAX, .bit = 0 },
    { .name = "kvm-nopiodelay", .word = FW_KVM_EAX, .bit = 1 },
    { .name = "kvm-mmu", .word = FW_KVM_EAX, .bit = 2 },
    { .name = "kvmclock", .word = FW_KVM_EAX, .bit = 3 },
    { .name = "kvm-asyncpf", .word = FW_KVM_EAX, .bit = 4 },
    { .name = "kvm-steal-time", .word = FW_KVM_EAX, .bit = 5 },
    { .name = "kvm-pv-eoi", .word = FW_KVM_EAX, .bit = 6 },
    { .name = "kvm-pv-unhalt", .word = FW_KVM_EAX, .bit = 7 },
    { .name = "kvm-pv-tlb-flush", .word = FW_KVM_EAX, .bit = 9 },
    { .name = "kvm-asyncpf-vmexit", .word = FW_KVM_EAX, .bit = 10 },
    { .name = "kvm-pv-ipi", .word = FW_KVM_EAX, .bit = 11 },
    { .name = "kvm-poll-control", .word = FW_KVM_EAX, .bit = 12 },
    { .name = "kvm-pv-sched-yield", .word = FW_KVM_EAX, .bit = 13 },
    { .name = "kvm-asyncpf-int", .word = FW_KVM_EAX, .bit = 14 },
    { .name = "kvm-msi-ext-dest-id", .word = FW_KVM_EAX, .bit = 15, .kind = FEATURE_OWN },
    { .name = "kvmclock-stable-bit", .word = FW_KVM_EAX, .bit = 24 },
    { .name = NULL },
};

/* Other names in use; underscores were turned into dashes before. */
static const struct {
    const char *alias, *name;
} aliases[] = {
    { "sse3", "pni" },       { "pclmuldq", "pclmulqdq" },
    { "sse4-1", "sse4.1" },  { "sse4-2", "sse4.2" },
    { "xd", "nx" },          { "i64", "lm" },
    { "ffxsr", "fxsr-opt" }, { "sha", "sha-ni" },
    { "clflsh", "clflush" }, { "kvm-clock", "kvmclock" },
};

const char *feature_canonical(const char *name)
{
    g_autofree char *dashed = g_strdelimit(g_strdup(name), "_", '-');
    const char *want = dashed;

    for (unsigned i = 0; i < G_N_ELEMENTS(aliases); i++) {
        if (g_str_equal(dashed, aliases[i].alias)) {
            want = aliases[i].name;
        }
    }
    for (const struct feature *f = features; f->name; f++) {
        if (g_str_equal(f->name, want)) {
            return f->name;
        }
    }
    return NULL;
}

bool feature_get(const uint32_t words[FW_COUNT], const char *name)
{
    for (const struct feature *f = features; f->name; f++) {
        if (g_str_equal(f->name, name)) {
            return words[f->word] & feature_mask(f);
        }
    }
    return false;
}

void feature_set(uint32_t words[FW_COUNT], const char *name, bool on)
{
    for (const struct feature *f = features; f->name; f++) {
        if (g_str_equal(f->name, name)) {
            words[f->word] =
                on ? words[f->word] | feature_mask(f) : words[f->word] & ~feature_mask(f);
        }
    }
}

void features_close(uint32_t words[FW_COUNT])
{
    bool again = true;

    while (again) {
        again = false;
        for (const struct feature *f = features; f->name; f++) {
            if (f->needs && words[f->word] & feature_mask(f) && !feature_get(words, f->needs)) {
                words[f->word] &= ~feature_mask(f);
                again = true;
            }
        }
    }
}
