/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -cpu: what it accepts, what it says to what it does not, and the CPUID tables that come out, on
 * made-up hosts (no KVM needed).
 */
#include <string.h>

#include "target/i386/cpu-model.h"
#include "util/error.h"

/* A host: feature words, and what KVM would say of the rest. */
struct host {
    struct x86_cpus all;
    uint32_t words[FW_COUNT];
    GArray *entries;
};

static void host_entry(struct host *h, uint32_t function, uint32_t index, bool indexed,
                       uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    struct kvm_cpuid_entry2 e = { .function = function,
                                  .index = index,
                                  .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                  .eax = eax,
                                  .ebx = ebx,
                                  .ecx = ecx,
                                  .edx = edx };

    g_array_append_val(h->entries, e);
}

/* A host with all features of the table except `without` (comma-separated), of one of two vendors.
 */
static struct host *host_new(bool intel, const char *without, unsigned cpus, unsigned threads)
{
    struct host *h = g_new0(struct host, 1);
    g_auto(GStrv) drop = g_strsplit(without, ",", -1);
    const uint32_t *w = h->words;

    h->entries = g_array_new(FALSE, FALSE, sizeof(struct kvm_cpuid_entry2));
    for (const struct feature *f = features; f->name; f++) {
        h->words[f->word] |= feature_mask(f);
    }
    for (unsigned i = 0; drop[i]; i++) {
        feature_set(h->words, drop[i], false);
    }
    if (intel) {
        host_entry(h, 0, 0, false, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
    } else {
        host_entry(h, 0, 0, false, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
    }
    host_entry(h, 1, 0, false, 0x000a0f11, 0, w[FW_1_ECX], w[FW_1_EDX]);
    host_entry(h, 6, 0, false, w[FW_6_EAX], 0, 0, 0);
    host_entry(h, 7, 0, true, 1, w[FW_7_0_EBX], w[FW_7_0_ECX], w[FW_7_0_EDX]);
    host_entry(h, 7, 1, true, w[FW_7_1_EAX], 0, 0, w[FW_7_1_EDX]);
    host_entry(h, 0xa, 0, false, 0x07300402, 0, 0, 0x603);
    host_entry(h, 0xd, 0, true, 0x602e7, 0x240, 0x2b00, 0);
    host_entry(h, 0xd, 1, true, w[FW_D_1_EAX], 0, 0x1800, 0);
    host_entry(h, 0xd, 2, true, 0x100, 0x240, 0, 0);
    host_entry(h, 0xd, 5, true, 0x40, 0x440, 0, 0);
    host_entry(h, 0xd, 6, true, 0x200, 0x480, 0, 0);
    host_entry(h, 0xd, 7, true, 0x400, 0x680, 0, 0);
    host_entry(h, 0xd, 9, true, 0x8, 0xa80, 0, 0);
    host_entry(h, 0x40000001, 0, false, w[FW_KVM_EAX], 0, 0, 0);
    host_entry(h, 0x80000000, 0, false, 0x80000021, 0, 0, 0);
    host_entry(h, 0x80000001, 0, false, 0, 0, w[FW_8000_0001_ECX], w[FW_8000_0001_EDX]);
    host_entry(h, 0x80000002, 0, false, 0x74736f48, 0, 0, 0);
    host_entry(h, 0x80000007, 0, false, 0, 0, 0, w[FW_8000_0007_EDX]);
    host_entry(h, 0x80000008, 0, false, 0x3030, w[FW_8000_0008_EBX], 0, 0);
    host_entry(h, 0x80000021, 0, false, w[FW_8000_0021_EAX], 0, 0, 0);
    h->all.host_cpuid =
        g_malloc0(sizeof(*h->all.host_cpuid) + h->entries->len * sizeof(struct kvm_cpuid_entry2));
    h->all.host_cpuid->nent = h->entries->len;
    memcpy(h->all.host_cpuid->entries, h->entries->data,
           h->entries->len * sizeof(struct kvm_cpuid_entry2));
    h->all.count = cpus;
    h->all.sockets = h->all.dies = 1;
    h->all.threads = threads;
    h->all.cores = cpus / threads;
    return h;
}

static void host_free(struct host *h)
{
    g_array_free(h->entries, TRUE);
    g_free(h->all.host_cpuid);
    g_free(h);
}

static bool resolve(struct host *h, const char *spec, struct cpu_definition *def, GError **err)
{
    struct cpu_model *m = cpu_model_parse(spec, err);
    bool ok = m && cpu_definition_resolve(def, m, &h->all, err);

    cpu_model_free(m);
    return ok;
}

static struct cpu_definition resolved(struct host *h, const char *spec)
{
    struct cpu_definition def = { 0 };
    GError *err = NULL;

    if (!resolve(h, spec, &def, &err)) {
        g_error("%s: %s", spec, err->message);
    }
    return def;
}

static void assert_leaf(const struct cpu_definition *def, uint32_t function, uint32_t index,
                        uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(def, function, index);

    if (!e || e->eax != eax || e->ebx != ebx || e->ecx != ecx || e->edx != edx) {
        g_error("leaf %x/%u is %08x %08x %08x %08x, not %08x %08x %08x %08x", function, index,
                e ? e->eax : 0, e ? e->ebx : 0, e ? e->ecx : 0, e ? e->edx : 0, eax, ebx, ecx, edx);
    }
}

static void test_table(void)
{
    uint32_t seen[FW_COUNT] = { 0 };

    for (const struct feature *f = features; f->name; f++) {
        g_assert_cmpuint(f->bit, <, 32);
        g_assert_false(seen[f->word] & feature_mask(f));
        seen[f->word] |= feature_mask(f);
        g_assert_true(feature_canonical(f->name) != NULL);
        g_assert_true(!f->needs || feature_canonical(f->needs) != NULL);
    }
    g_assert_cmpstr(feature_canonical("sse4_1"), ==, "sse4.1");
    g_assert_cmpstr(feature_canonical("kvm_pv_eoi"), ==, "kvm-pv-eoi");
    g_assert_cmpstr(feature_canonical("xd"), ==, "nx");
    g_assert_null(feature_canonical("flux-capacitor"));
}

static void test_refused(void)
{
    static const struct {
        const char *spec, *message;
    } rows[] = {
        { "", "unable to find CPU model ''" },
        { "i486", "unable to find CPU model 'i486'" },
        { "host,foo", "Property 'host-x86_64-cpu.foo' not found" },
        { "host,foo=on", "Property 'host-x86_64-cpu.foo' not found" },
        { "qemu64,+foo", "Property 'qemu64-x86_64-cpu.foo' not found" },
        { "qemu64,migratable=on", "Property 'qemu64-x86_64-cpu.migratable' not found" },
        { "qemu64,level=x", "can't apply global qemu64-x86_64-cpu.level=x: Parameter 'level' "
                            "expects a number from 0 to 31" },
        { "qemu64,pmu=maybe", "can't apply global qemu64-x86_64-cpu.pmu=maybe: Parameter 'pmu' "
                              "expects 'on' or 'off'" },
        { "qemu64,avx=2", "can't apply global qemu64-x86_64-cpu.avx=2: Parameter 'avx' expects "
                          "'on' or 'off'" },
        { "qemu64,vendor=abc", "can't apply global qemu64-x86_64-cpu.vendor=abc: Property "
                               "'.vendor' doesn't take value 'abc'" },
        { "qemu64,tsc-freq=3X", "can't apply global qemu64-x86_64-cpu.tsc-freq=3X: Parameter "
                                "'tsc-freq' expects a number from 0 to 100000000000" },
        { "qemu64,phys-bits=20", "phys-bits should be between 32 and 52 (but is 20)" },
        { "host,+vmx", "Ferry does not support the CPU feature CPUID.01H:ECX.vmx [bit 5]; leave it "
                       "out" },
        { "host,+avx2", "This host's KVM does not offer the CPU feature CPUID.07H:EBX.avx2 [bit "
                        "5]; leave it out" },
        { "qemu64,rdrand=on", "This host's KVM does not offer the CPU feature CPUID.01H:ECX.rdrand "
                              "[bit 30]; leave it out" },
        { "qemu64,+aes,+f16c", "CPU feature 'f16c' needs 'avx'; give both or leave out both" },
        { "qemu64,enforce", "Host doesn't support requested features" },
    };
    struct host *h = host_new(true, "avx2,rdrand,pni", 1, 1);

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct cpu_definition def = { 0 };
        GError *err = NULL;

        g_assert_false(resolve(h, rows[i].spec, &def, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_USER);
        g_assert_cmpstr(err->message, ==, rows[i].message);
        g_clear_error(&err);
    }
    host_free(h);
}

/* What a guest of QEMU 7.2 reads with -cpu qemu64 (measured), one and four processors. */
static void test_qemu64(void)
{
    struct host *h = host_new(false, "", 1, 1);
    struct cpu_definition def = resolved(h, NULL);

    assert_leaf(&def, 0, 0, 0xd, 0x68747541, 0x444d4163, 0x69746e65);
    assert_leaf(&def, 1, 0, 0x00060fb1, 0x00000800, 0x80202001, 0x078bfbfd);
    assert_leaf(&def, 7, 0, 0, 0, 0, 0);
    assert_leaf(&def, 0xb, 0, 0, 1, 0x100, 0);
    assert_leaf(&def, 0xb, 1, 0, 1, 0x201, 0);
    assert_leaf(&def, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
    assert_leaf(&def, 0x40000001, 0, 0x0100807b, 0, 0, 0);
    assert_leaf(&def, 0x80000000, 0, 0x8000000a, 0x68747541, 0x444d4163, 0x69746e65);
    assert_leaf(&def, 0x80000001, 0, 0x00060fb1, 0, 1, 0x2193fbfd);
    assert_leaf(&def, 0x80000002, 0, 0x554d4551, 0x72695620, 0x6c617574, 0x55504320);
    assert_leaf(&def, 0x80000005, 0, 0x01ff01ff, 0x01ff01ff, 0x40020140, 0x40020140);
    assert_leaf(&def, 0x80000006, 0, 0, 0x42004200, 0x02008140, 0x00808140);
    assert_leaf(&def, 0x80000008, 0, 0x3030, 0, 0, 0);
    g_assert_null(cpuid_find(&def, 4, 0));
    g_assert_null(cpuid_find(&def, 0xd, 0));
    host_free(h);

    h = host_new(true, "", 4, 2);
    def = resolved(h, "qemu64");
    assert_leaf(&def, 0, 0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69);
    assert_leaf(&def, 1, 0, 0x00060fb1, 0x00040800, 0x80202001, 0x178bfbfd);
    assert_leaf(&def, 2, 0, 1, 0, 0x4d, 0x002c307d);
    assert_leaf(&def, 4, 0, 0x04004121, 0x01c0003f, 0x3f, 1);
    assert_leaf(&def, 4, 2, 0x04004143, 0x03c0003f, 0xfff, 1);
    assert_leaf(&def, 4, 3, 0x0400c163, 0x03c0003f, 0x3fff, 6);
    assert_leaf(&def, 0xb, 0, 1, 2, 0x100, 0);
    assert_leaf(&def, 0xb, 1, 2, 4, 0x201, 0);
    assert_leaf(&def, 0x80000001, 0, 0x00060fb1, 0, 1, 0x20100800);
    assert_leaf(&def, 0x80000008, 0, 0x3030, 0, 0x2003, 0);
    host_free(h);
}

static void test_per_cpu(void)
{
    struct host *h = host_new(true, "", 4, 1);
    g_autofree struct kvm_cpuid2 *table =
        g_malloc0(sizeof(*table) + CPUID_MAX * sizeof(table->entries[0]));

    h->all.def = resolved(h, "qemu64");
    cpuid_for_cpu(&h->all, 3, table);
    g_assert_cmpuint(table->nent, ==, h->all.def.count);
    for (unsigned i = 0; i < table->nent; i++) {
        if (table->entries[i].function == 1) {
            g_assert_cmphex(table->entries[i].ebx, ==, 0x03040800);
        } else if (table->entries[i].function == 0xb) {
            g_assert_cmpuint(table->entries[i].edx, ==, 3);
        }
    }
    host_free(h);
}

static uint32_t reg(const struct cpu_definition *def, enum feature_word word)
{
    const struct feature_word_info *w = &feature_words[word];
    const struct kvm_cpuid_entry2 *e = cpuid_find(def, w->function, w->index);

    return !e                    ? 0
           : w->reg == CPUID_EAX ? e->eax
           : w->reg == CPUID_EBX ? e->ebx
           : w->reg == CPUID_ECX ? e->ecx
                                 : e->edx;
}

static bool has(const struct cpu_definition *def, const char *name)
{
    for (const struct feature *f = features; f->name; f++) {
        if (g_str_equal(f->name, name)) {
            return reg(def, f->word) & feature_mask(f);
        }
    }
    g_assert_not_reached();
}

/* "host": everything that can be saved, nothing else, and nothing left over from what is missing.
 */
static void test_host(void)
{
    struct host *h = host_new(true, "", 1, 1);
    struct cpu_definition def = resolved(h, "host");
    const struct kvm_cpuid_entry2 *d;

    for (const struct feature *f = features; f->name; f++) {
        bool topology = g_str_equal(f->name, "ht") || g_str_equal(f->name, "cmp-legacy");
        bool host_lacks = g_str_equal(f->name, "arch-capabilities");

        if (f->kind == FEATURE_NO_SAVE || f->kind == FEATURE_OPT_IN || host_lacks) {
            g_assert_false(has(&def, f->name));
        } else if (!topology) {
            if (!has(&def, f->name)) {
                g_error("host lacks %s", f->name);
            }
        }
    }
    assert_leaf(&def, 1, 0, 0x000a0f11, 0x800, reg(&def, FW_1_ECX), reg(&def, FW_1_EDX));
    /* XSAVE: components with a section only, and no supervisor state */
    d = cpuid_find(&def, 0xd, 0);
    g_assert_cmphex(d->eax, ==, 0x2e7);
    g_assert_cmphex(d->ecx, ==, 0xa88);
    d = cpuid_find(&def, 0xd, 1);
    g_assert_cmphex(d->ecx, ==, 0);
    g_assert_nonnull(cpuid_find(&def, 0xa, 0));

    def = resolved(h, "host,-xsave,pmu=off,kvm=off");
    g_assert_false(has(&def, "avx") || has(&def, "avx512f") || has(&def, "xsaveopt"));
    g_assert_null(cpuid_find(&def, 0xd, 0));
    g_assert_null(cpuid_find(&def, 0xa, 0));
    g_assert_null(cpuid_find(&def, 0x40000000, 0));
    g_assert_true(has(&def, "aes"));

    def = resolved(h, "max,-kvmclock,aes=off,+aes,family=6,model=0x9e,stepping=3,model-id=Box");
    g_assert_true(has(&def, "aes"));
    g_assert_cmphex(reg(&def, FW_KVM_EAX) & 9, ==, 0);
    assert_leaf(&def, 0x80000002, 0, 0x00786f42, 0, 0, 0);
    g_assert_cmphex(cpuid_find(&def, 1, 0)->eax, ==, 0x000906e3);
    host_free(h);

    h = host_new(true, "", 1, 1);
    h->all.has_arch_capabilities = h->all.has_tsc_deadline = true;
    def = resolved(h, "host");
    g_assert_true(has(&def, "arch-capabilities"));
    host_free(h);
}

static void test_phys_bits(void)
{
    struct host *h = host_new(true, "", 1, 1);

    g_assert_cmpuint(resolved(h, "host").phys_bits, ==, 48);
    g_assert_cmpuint(resolved(h, "host,phys-bits=40").phys_bits, ==, 40);
    g_assert_cmpuint(resolved(h, "host,host-phys-bits=off").phys_bits, ==, 40);
    g_assert_cmpuint(resolved(h, "host,host-phys-bits-limit=42").phys_bits, ==, 42);
    g_assert_cmpuint(resolved(h, "host,tsc-freq=2.5G").tsc_khz, ==, 2500000);
    g_assert_cmpuint(resolved(h, "host,tsc-frequency=2600000000").tsc_khz, ==, 2600000);
    host_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cpu-model/table", test_table);
    g_test_add_func("/cpu-model/refused", test_refused);
    g_test_add_func("/cpu-model/qemu64", test_qemu64);
    g_test_add_func("/cpu-model/per-cpu", test_per_cpu);
    g_test_add_func("/cpu-model/host", test_host);
    g_test_add_func("/cpu-model/phys-bits", test_phys_bits);
    return g_test_run();
}
