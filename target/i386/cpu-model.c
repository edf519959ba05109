/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPU models: parsing of -cpu, and which features the guest gets.
 *
 *   MODEL[,+feature][,-feature][,feature=on|off][,property=value]...
 *
 * "host" and "max" are what KVM supports, less what cannot be saved; "qemu64" is a fixed small
 * processor that every 64-bit host has nearly all of. What the model itself wants and the host
 * lacks is dropped with a warning (an error with `enforce`); what was asked for by name and the
 * host lacks is an error. Features given by + and - count after those given by =, as on QEMU's
 * command line.
 */
#include <string.h>

#include "cpu-features.h"
#include "cpu-model.h"
#include "migration/vmstate.h"
#include "util/error.h"

enum value_type { VALUE_BOOL, VALUE_UINT, VALUE_FREQUENCY, VALUE_STRING };

#define TSC_HZ_MAX UINT64_C(100000000000)

struct model_property {
    const char *name;
    enum value_type type;
    size_t offset; /* in struct cpu_options */
    uint64_t min, max;
    bool host_only;
};

#define OPTION(n, t, f, ...)                                                                       \
    {                                                                                              \
        .name = n, .type = t, .offset = offsetof(struct cpu_options, f), __VA_ARGS__               \
    }

static const struct model_property properties[] = {
    OPTION("check", VALUE_BOOL, check),
    OPTION("enforce", VALUE_BOOL, enforce),
    OPTION("migratable", VALUE_BOOL, migratable, .host_only = true),
    OPTION("kvm", VALUE_BOOL, kvm),
    OPTION("pmu", VALUE_BOOL, pmu),
    OPTION("l3-cache", VALUE_BOOL, l3_cache),
    OPTION("host-phys-bits", VALUE_BOOL, host_phys_bits),
    OPTION("host-phys-bits-limit", VALUE_UINT, host_phys_bits_limit, .max = 52),
    OPTION("phys-bits", VALUE_UINT, phys_bits, .max = 52),
    OPTION("tsc-frequency", VALUE_UINT, tsc_frequency, .max = TSC_HZ_MAX),
    OPTION("tsc-freq", VALUE_FREQUENCY, tsc_frequency, .max = TSC_HZ_MAX),
    OPTION("family", VALUE_UINT, family, .max = 270),
    OPTION("model", VALUE_UINT, model, .max = 255),
    OPTION("stepping", VALUE_UINT, stepping, .max = 15),
    OPTION("level", VALUE_UINT, level, .max = 0x1f),
    OPTION("xlevel", VALUE_UINT, xlevel, .min = 0x80000000, .max = 0x80000021),
    OPTION("vendor", VALUE_STRING, vendor),
    OPTION("model-id", VALUE_STRING, model_id),
};

static const char *const models[] = { "host", "max", "qemu64", NULL };

/* What qemu64 has under KVM, in QEMU 7.2. */
static const char *const qemu64_features[] = {
    "fpu",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "pni",
    "cx16",
    "x2apic",
    "hypervisor",
    "syscall",
    "nx",
    "lm",
    "lahf-lm",
    "kvmclock",
    "kvmclock-stable-bit",
    "kvm-nopiodelay",
    "kvm-asyncpf",
    "kvm-steal-time",
    "kvm-pv-eoi",
    "kvm-msi-ext-dest-id",
};

/* One ",..." of -cpu. */
struct cpu_setting {
    const char *feature; /* canonical name, or NULL: handled as a property */
    bool on;
    bool late; /* + or - */
};

static bool parse_bool(const char *value, bool *out)
{
    static const char *const on[] = { "on", "yes", "true", "y", NULL };
    static const char *const off[] = { "off", "no", "false", "n", NULL };

    *out = g_strv_contains(on, value);
    return *out || g_strv_contains(off, value);
}

/* "2600M", "2.6G": a number with a metric suffix. */
static bool parse_frequency(const char *value, uint64_t max, guint64 *out)
{
    char *end;
    double d = g_ascii_strtod(value, &end);
    double unit = *end == 'K' ? 1e3 : *end == 'M' ? 1e6 : *end == 'G' ? 1e9 : 1;

    if (end == value || (*end && (unit == 1 || end[1])) || !(d >= 0 && d * unit <= (double)max)) {
        return false;
    }
    *out = (guint64)(d * unit);
    return true;
}

static bool parse_property(struct cpu_model *m, const struct model_property *p, const char *value,
                           GError **err)
{
    char *at = (char *)&m->options + p->offset;
    const char *digits = g_str_has_prefix(value, "0x") ? value + 2 : value;
    guint64 n;

    switch (p->type) {
    case VALUE_BOOL:
        if (!parse_bool(value, (bool *)at)) {
            error_set(err, FERRY_ERROR_USER,
                      "can't apply global %s-x86_64-cpu.%s=%s: Parameter '%s' expects 'on' or "
                      "'off'",
                      m->name, p->name, value, p->name);
            return false;
        }
        return true;
    case VALUE_UINT:
    case VALUE_FREQUENCY:
        if (p->type == VALUE_FREQUENCY
                ? !parse_frequency(value, p->max, &n)
                : !g_ascii_string_to_unsigned(digits, digits == value ? 10 : 16, p->min, p->max, &n,
                                              NULL)) {
            error_set(err, FERRY_ERROR_USER,
                      "can't apply global %s-x86_64-cpu.%s=%s: Parameter '%s' expects a number "
                      "from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
                      m->name, p->name, value, p->name, p->min, p->max);
            return false;
        }
        *(int64_t *)(void *)at = (int64_t)n;
        return true;
    case VALUE_STRING:
        if (p->offset == offsetof(struct cpu_options, vendor) && strlen(value) != 12) {
            error_set(err, FERRY_ERROR_USER,
                      "can't apply global %s-x86_64-cpu.vendor=%s: Property '.vendor' doesn't take "
                      "value '%s'",
                      m->name, value, value);
            return false;
        }
        g_free(*(char **)(void *)at);
        *(char **)(void *)at = g_strdup(value);
        return true;
    }
    return false;
}

static bool parse_setting(struct cpu_model *m, const char *text, GError **err)
{
    struct cpu_setting s = { .on = text[0] != '-', .late = text[0] == '+' || text[0] == '-' };
    const char *eq = s.late ? NULL : strchr(text, '=');
    g_autofree char *key = eq ? g_strndup(text, (gsize)(eq - text)) : g_strdup(text + s.late);
    const char *value = eq ? eq + 1 : "on";

    s.feature = feature_canonical(key);
    if (s.feature) {
        if (!s.late && !parse_bool(value, &s.on)) {
            error_set(err, FERRY_ERROR_USER,
                      "can't apply global %s-x86_64-cpu.%s=%s: Parameter '%s' expects 'on' or "
                      "'off'",
                      m->name, key, value, key);
            return false;
        }
        g_array_append_val(m->settings, s);
        return true;
    }
    g_strdelimit(key, "_", '-');
    for (unsigned i = 0; i < G_N_ELEMENTS(properties); i++) {
        const struct model_property *p = &properties[i];

        if (g_str_equal(p->name, key) && !(p->host_only && !m->is_host)) {
            return parse_property(m, p, s.late ? s.on ? "on" : "off" : value, err);
        }
    }
    error_set(err, FERRY_ERROR_USER, "Property '%s-x86_64-cpu.%s' not found", m->name,
              eq ? key : text + s.late);
    return false;
}

struct cpu_model *cpu_model_parse(const char *spec, GError **err)
{
    g_auto(GStrv) items = g_strsplit(spec ? spec : "qemu64", ",", -1);
    struct cpu_model *m;

    if (!items[0] || !g_strv_contains(models, items[0])) {
        error_set(err, FERRY_ERROR_USER, "unable to find CPU model '%s'", items[0] ? items[0] : "");
        return NULL;
    }
    m = g_new0(struct cpu_model, 1);
    m->name = g_strdup(items[0]);
    m->is_host = !g_str_equal(m->name, "qemu64");
    m->settings = g_array_new(FALSE, FALSE, sizeof(struct cpu_setting));
    m->options = (struct cpu_options){
        .check = true,
        .migratable = true,
        .kvm = true,
        .pmu = m->is_host,
        .l3_cache = true,
        .host_phys_bits = true, /* as microvm has it */
        .family = -1,
        .model = -1,
        .stepping = -1,
        .level = -1,
        .xlevel = -1,
    };
    for (unsigned i = 1; items[i]; i++) {
        if (items[i][0] && !parse_setting(m, items[i], err)) {
            cpu_model_free(m);
            return NULL;
        }
    }
    return m;
}

void cpu_model_free(struct cpu_model *m)
{
    if (m) {
        g_array_free(m->settings, TRUE);
        g_free(m->options.vendor);
        g_free(m->options.model_id);
        g_free(m->name);
        g_free(m);
    }
}

void cpu_model_words_offered(const struct x86_cpus *all, uint32_t words[FW_COUNT])
{
    memset(words, 0, FW_COUNT * sizeof(words[0]));
    for (const struct feature *f = features; f->name; f++) {
        const struct feature_word_info *w = &feature_words[f->word];
        const struct kvm_cpuid_entry2 *e = cpuid_host_find(all, w->function, w->index);
        uint32_t regs[4] = { 0 };

        if (e) {
            memcpy(regs, (uint32_t[]){ e->eax, e->ebx, e->ecx, e->edx }, sizeof(regs));
        }
        if (f->kind == FEATURE_OWN ||
            (f->kind != FEATURE_NO_SAVE && regs[w->reg] & feature_mask(f))) {
            words[f->word] |= feature_mask(f);
        }
    }
    if (!all->has_arch_capabilities) {
        feature_set(words, "arch-capabilities", false);
    }
    if (all->has_tsc_deadline) {
        feature_set(words, "tsc-deadline", true);
    }
    features_close(words);
}

static void words_of_model(const struct cpu_model *m, const uint32_t offered[FW_COUNT],
                           uint32_t words[FW_COUNT])
{
    if (!m->is_host) {
        memset(words, 0, FW_COUNT * sizeof(words[0]));
        for (unsigned i = 0; i < G_N_ELEMENTS(qemu64_features); i++) {
            feature_set(words, qemu64_features[i], true);
        }
        return;
    }
    memcpy(words, offered, FW_COUNT * sizeof(words[0]));
    for (const struct feature *f = features; f->name; f++) {
        if (f->kind == FEATURE_OPT_IN && m->options.migratable) {
            words[f->word] &= ~feature_mask(f);
        }
    }
}

static void missing_text(GString *s, const struct feature *f)
{
    g_string_append_printf(s, "%s.%s [bit %u]", feature_words[f->word].text, f->name, f->bit);
}

/* Drops what is not offered. False: something was asked for by name, or `enforce`. */
static bool words_restrict(const struct cpu_model *m, uint32_t words[FW_COUNT],
                           const uint32_t offered[FW_COUNT], const uint32_t asked[FW_COUNT],
                           GError **err)
{
    bool dropped = false;

    for (const struct feature *f = features; f->name; f++) {
        uint32_t mask = feature_mask(f);
        g_autoptr(GString) text = g_string_new(NULL);

        if (!(words[f->word] & mask) || offered[f->word] & mask) {
            continue;
        }
        missing_text(text, f);
        if (asked[f->word] & mask) {
            error_set(err, FERRY_ERROR_USER,
                      f->kind == FEATURE_NO_SAVE
                          ? "Ferry does not support the CPU feature %s; leave it out"
                          : "This host's KVM does not offer the CPU feature %s; leave it out",
                      text->str);
            return false;
        }
        if (m->options.check || m->options.enforce) {
            report_warning("host doesn't support requested feature: %s", text->str);
        }
        words[f->word] &= ~mask;
        dropped = true;
    }
    if (dropped && m->options.enforce) {
        error_set(err, FERRY_ERROR_USER, "Host doesn't support requested features");
        return false;
    }
    return true;
}

bool cpu_model_words(const struct cpu_model *m, const struct x86_cpus *all,
                     uint32_t words[FW_COUNT], GError **err)
{
    uint32_t offered[FW_COUNT], asked[FW_COUNT] = { 0 };

    cpu_model_words_offered(all, offered);
    words_of_model(m, offered, words);
    for (unsigned late = 0; late < 2; late++) {
        for (unsigned i = 0; i < m->settings->len; i++) {
            const struct cpu_setting *s = &g_array_index(m->settings, struct cpu_setting, i);

            if (s->late == !!late) {
                feature_set(words, s->feature, s->on);
                feature_set(asked, s->feature, s->on);
            }
        }
    }
    if (!words_restrict(m, words, offered, asked, err)) {
        return false;
    }
    features_close(words);
    for (const struct feature *f = features; f->name; f++) {
        if (asked[f->word] & feature_mask(f) && !(words[f->word] & feature_mask(f))) {
            error_set(err, FERRY_ERROR_USER,
                      "CPU feature '%s' needs '%s'; give both or leave out both", f->name,
                      f->needs);
            return false;
        }
    }
    return true;
}
