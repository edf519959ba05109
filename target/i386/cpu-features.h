/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CPUID feature bits by the names that -cpu takes. */
#ifndef TARGET_I386_CPU_FEATURES_H
#define TARGET_I386_CPU_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

/* A word of 32 feature bits: one output register of one CPUID leaf. */
enum feature_word {
    FW_1_EDX,
    FW_1_ECX,
    FW_6_EAX,
    FW_7_0_EBX,
    FW_7_0_ECX,
    FW_7_0_EDX,
    FW_7_1_EAX,
    FW_7_1_EDX,
    FW_D_1_EAX,
    FW_8000_0001_EDX,
    FW_8000_0001_ECX,
    FW_8000_0007_EDX,
    FW_8000_0008_EBX,
    FW_8000_0021_EAX,
    FW_KVM_EAX,
    FW_COUNT,
};
enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

struct feature_word_info {
    uint32_t function, index;
    enum cpuid_reg reg;
    const char *text; /* as warnings name it: "CPUID.01H:ECX" */
};
extern const struct feature_word_info feature_words[FW_COUNT];

enum feature_kind {
    FEATURE_PLAIN,
    FEATURE_OWN,     /* given by the program, whatever KVM says (hypervisor) */
    FEATURE_OPT_IN,  /* off in "host" and "max" unless asked for */
    FEATURE_NO_SAVE, /* has state that cannot be saved: never given */
};

struct feature {
    const char *name;
    enum feature_word word;
    uint8_t bit;
    enum feature_kind kind;
    const char *needs; /* a feature without which this one makes no sense; may be NULL */
};
/* Ends with a NULL name. A name may be there twice (one switch, two bits). */
extern const struct feature features[];

/* The name that the table has for what the user wrote ("sse4_1", "xd"); NULL: no feature. */
const char *feature_canonical(const char *name);
static inline uint32_t feature_mask(const struct feature *f)
{
    return UINT32_C(1) << f->bit;
}
bool feature_get(const uint32_t words[FW_COUNT], const char *name);
void feature_set(uint32_t words[FW_COUNT], const char *name, bool on);
/* Clears what makes no sense without something that is clear. */
void features_close(uint32_t words[FW_COUNT]);

#endif
