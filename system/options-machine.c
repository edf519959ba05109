/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options about the machine: its type and properties, accelerator, vCPUs, memory, firmware, clock.
 *
 * Each key=value option has a table; offsets are into struct options, so that an option given twice
 * adds to what the first one said. options_complete_machine() then relates what single options
 * cannot know of each other.
 */
#include "options-internal.h"

#include <stdio.h>
#include <string.h>

#include "machine-type.h"
#include "system/keyval.h"
#include "system/vcpu.h"
#include "util/error.h"

#define DEFAULT_RAM_SIZE (UINT64_C(128) << 20)
#define MIB              (UINT64_C(1) << 20)
#define RAM_SIZE_ALIGN   8192 /* sizes are rounded up to this, as QEMU does */

#define SMP_FIELD(k, m)                                                                            \
    KEYVAL_ROW(k, KEYVAL_UINT, struct options, smp.m, .min = 1, .max = INT32_MAX)

static const char *const irqchip_names[] = { [IRQCHIP_ON] = "on", [IRQCHIP_SPLIT] = "split", NULL };

static const struct keyval_field machine_fields[] = {
    KEYVAL_ROW("type", KEYVAL_STRING, struct options, config.machine, .help = "the machine"),
    KEYVAL_ROW("accel", KEYVAL_STRING, struct options, machine_accel,
               .help = "accelerators, the best first: kvm:qtest"),
    KEYVAL_ROW("acpi", KEYVAL_ON_OFF_AUTO, struct options, config.acpi,
               .help = "ACPI tables and events (auto: on)"),
    KEYVAL_ROW("pit", KEYVAL_ON_OFF_AUTO, struct options, config.pit,
               .help = "the i8254 timer (auto: on)"),
    KEYVAL_ROW("pic", KEYVAL_ON_OFF_AUTO, struct options, config.pic,
               .help = "the i8259 interrupt controllers (auto: on)"),
    KEYVAL_ROW("rtc", KEYVAL_ON_OFF_AUTO, struct options, config.rtc,
               .help = "the MC146818 clock (auto: off under KVM)"),
    KEYVAL_ROW("ioapic2", KEYVAL_ON_OFF_AUTO, struct options, config.ioapic2,
               .help = "a second I/O APIC (auto: with ACPI)"),
    KEYVAL_ROW("isa-serial", KEYVAL_BOOL, struct options, config.isa_serial,
               .help = "the serial port"),
    KEYVAL_ROW("auto-kernel-cmdline", KEYVAL_BOOL, struct options, config.auto_kernel_cmdline,
               .help = "tell the kernel of virtio-mmio devices on its command line"),
    KEYVAL_ROW("memory-backend", KEYVAL_STRING, struct options, config.memory_backend,
               .help = "id of the object that is the guest's memory"),
    KEYVAL_ROW("suppress-vmdesc", KEYVAL_BOOL, struct options, config.suppress_vmdesc,
               .help = "leave the description out of migration streams"),
    KEYVAL_ROW("mem-merge", KEYVAL_BOOL, struct options, config.mem_merge,
               .help = "let the kernel merge equal pages"),
    KEYVAL_ROW("dump-guest-core", KEYVAL_BOOL, struct options, config.dump_guest_core,
               .help = "guest memory is part of core dumps"),
    KEYVAL_ROW("kernel-irqchip", KEYVAL_ENUM, struct options, config.kernel_irqchip,
               .names = irqchip_names, .help = "which interrupt controllers are KVM's"),
    KEYVAL_ROW("kernel", KEYVAL_STRING, struct options, config.kernel, .help = "as -kernel"),
    KEYVAL_ROW("initrd", KEYVAL_STRING, struct options, config.initrd, .help = "as -initrd"),
    KEYVAL_ROW("append", KEYVAL_STRING, struct options, config.append, .help = "as -append"),
    KEYVAL_ROW("firmware", KEYVAL_STRING, struct options, config.bios, .help = "as -bios"),
    SMP_FIELD("smp.cpus", cpus),
    SMP_FIELD("smp.sockets", sockets),
    SMP_FIELD("smp.dies", dies),
    SMP_FIELD("smp.clusters", clusters),
    SMP_FIELD("smp.cores", cores),
    SMP_FIELD("smp.threads", threads),
    SMP_FIELD("smp.maxcpus", maxcpus),
    KEYVAL_FIXED_ROW("usb", "there is no USB", "off"),
    KEYVAL_FIXED_ROW("pcie", "there is no PCI Express", "off", "auto"),
    KEYVAL_FIXED_ROW("smm", "there is no system management mode", "off", "auto"),
    KEYVAL_FIXED_ROW("graphics", "there are no graphics", "off", "on"),
    KEYVAL_FIXED_ROW("x-option-roms", "there are no option ROMs", "off"),
    {},
};

bool option_machine(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = NULL;

    if (strcmp(arg, "help") == 0) {
        printf("Supported machines are:\n");
        for (const struct machine_type *m = machine_types; m->name; m++) {
            printf("%-20s %s%s\n", m->name, m->description, m->is_default ? " (default)" : "");
        }
        o->done = true;
        return true;
    }
    if (strcmp(arg, "microvm,help") == 0) {
        keyval_print_help("microvm-machine options:", machine_fields);
        o->done = true;
        return true;
    }
    opts = keyval_parse(arg, "type", NULL, err);
    if (!opts || !keyval_read(machine_fields, opts, o, err)) {
        return false;
    }
    if (!o->config.machine || machine_type_find(o->config.machine)) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER,
              "Machine type '%s' is not offered, use -machine help to list those that are",
              o->config.machine);
    return false;
}

static const struct keyval_field accel_fields[] = {
    KEYVAL_ROW("kernel-irqchip", KEYVAL_ENUM, struct options, config.kernel_irqchip,
               .names = irqchip_names),
    KEYVAL_ROW("dirty-ring-size", KEYVAL_UINT, struct options, dirty_ring_size, .max = 1u << 20),
    {},
};

/* Appends the names of "kvm:qtest"; names of accelerators that other programs have are passed over
 * as long as one remains. */
static bool add_accels(struct options *o, const char *list, GError **err)
{
    g_auto(GStrv) names = g_strsplit(list, ":", -1);
    unsigned before = o->accels->len;

    for (char **name = names; *name; name++) {
        if (strcmp(*name, "kvm") == 0 || strcmp(*name, "qtest") == 0) {
            g_ptr_array_add(o->accels, g_strdup(*name));
        }
    }
    if (o->accels->len == before) {
        error_set(err, FERRY_ERROR_USER, "Accelerator '%s' is not offered, Ferry has kvm and qtest",
                  list);
        return false;
    }
    return true;
}

bool option_accel(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = NULL;
    g_autofree char *name = NULL;

    if (strcmp(arg, "help") == 0) {
        printf("Accelerators supported in this build:\nkvm\nqtest\n");
        o->done = true;
        return true;
    }
    opts = keyval_parse(arg, "accel", NULL, err);
    if (!opts) {
        return false;
    }
    name = g_strdup(json_string_value(json_object_get(opts, "accel")));
    if (!name) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'accel' is missing");
        return false;
    }
    json_object_del(opts, "accel");
    if (!add_accels(o, name, err)) {
        return false;
    }
    if (strcmp(name, "qtest") == 0 && json_object_size(opts)) {
        error_set(err, FERRY_ERROR_USER, "Invalid parameter '%s'",
                  json_object_iter_key(json_object_iter(opts)));
        return false;
    }
    if (!keyval_read(accel_fields, opts, o, err)) {
        return false;
    }
    if (o->dirty_ring_size & (o->dirty_ring_size - 1)) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'dirty-ring-size' must be a power of two");
        return false;
    }
    return true;
}

bool option_enable_kvm(struct options *o, const char *arg G_GNUC_UNUSED, GError **err)
{
    return add_accels(o, "kvm", err);
}

bool option_cpu(struct options *o, const char *arg, GError **err)
{
    struct cpu_model *model;

    if (strcmp(arg, "help") == 0) {
        printf("Available CPUs:\n"
               "  host      what this host and its KVM offer and can migrate\n"
               "  max       the same\n"
               "  qemu64    a small set that every 64-bit host has (default)\n");
        o->done = true;
        return true;
    }
    if (!arg[0] || arg[0] == ',') {
        error_set(err, FERRY_ERROR_USER, "The name of the CPU model is missing");
        return false;
    }
    /* names only; what the host offers is checked when the machine is built */
    model = cpu_model_parse(arg, err);
    if (!model) {
        return false;
    }
    cpu_model_free(model);
    option_set_string(&o->config.cpu, arg);
    return true;
}

static const struct keyval_field smp_fields[] = {
    SMP_FIELD("cpus", cpus),       SMP_FIELD("sockets", sockets),
    SMP_FIELD("dies", dies),       SMP_FIELD("clusters", clusters),
    SMP_FIELD("cores", cores),     SMP_FIELD("threads", threads),
    SMP_FIELD("maxcpus", maxcpus), {},
};

bool option_smp(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, "cpus", NULL, err);

    return opts && keyval_read(smp_fields, opts, o, err);
}

static const struct keyval_field memory_fields[] = {
    KEYVAL_ROW("size", KEYVAL_SIZE, struct options, config.ram_size, .min = MIB),
    KEYVAL_ROW("slots", KEYVAL_UINT, struct options, memory_slots, .max = UINT32_MAX),
    KEYVAL_ROW("maxmem", KEYVAL_SIZE, struct options, maxmem),
    {},
};

bool option_m(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, "size", NULL, err);

    if (!opts || !keyval_read(memory_fields, opts, o, err)) {
        return false;
    }
    if (json_object_get(opts, "size")) {
        if (o->config.ram_size > INT64_MAX) {
            error_set(err, FERRY_ERROR_USER, "Parameter 'size' expects a size below 2^63");
            return false;
        }
        o->config.ram_size = (o->config.ram_size + RAM_SIZE_ALIGN - 1) & ~(RAM_SIZE_ALIGN - 1ull);
        o->ram_size_given = o->config.ram_size > 0;
    }
    return true;
}

bool option_mem_path(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    g_free((char *)o->config.default_backing.path);
    o->config.default_backing.path = g_strdup(arg);
    o->config.default_backing.type = RAM_FILE;
    return true;
}

bool option_mem_prealloc(struct options *o, const char *arg G_GNUC_UNUSED,
                         GError **err G_GNUC_UNUSED)
{
    o->config.default_backing.prealloc = true;
    return true;
}

static const struct keyval_field overcommit_fields[] = {
    KEYVAL_ROW("mem-lock", KEYVAL_BOOL, struct options, mem_lock),
    KEYVAL_FIXED_ROW("cpu-pm", "guests do not get the host's idle states", "off"),
    {},
};

bool option_overcommit(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, NULL, o->warnings, err);

    return opts && keyval_read(overcommit_fields, opts, o, err);
}

bool option_kernel(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    option_set_string(&o->config.kernel, arg);
    return true;
}

bool option_initrd(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    option_set_string(&o->config.initrd, arg);
    return true;
}

bool option_append(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    option_set_string(&o->config.append, arg);
    return true;
}

bool option_bios(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    option_set_string(&o->config.bios, arg);
    return true;
}

bool option_L(struct options *o, const char *arg, GError **err)
{
    if (o->config.bios_dir) {
        error_set(err, FERRY_ERROR_USER, "Only one folder for firmware can be given");
        return false;
    }
    option_set_string(&o->config.bios_dir, arg);
    return true;
}

bool option_no_acpi(struct options *o, const char *arg G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    o->config.acpi = OPT_OFF;
    return true;
}

struct boot_options {
    char *order;
    bool strict;
};

static const struct keyval_field boot_fields[] = {
    KEYVAL_ROW("order", KEYVAL_STRING, struct boot_options, order),
    KEYVAL_ROW("strict", KEYVAL_BOOL, struct boot_options, strict),
    KEYVAL_FIXED_ROW("menu", "the firmware has no boot menu", "off"),
    {},
};

bool option_boot(struct options *o G_GNUC_UNUSED, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, "order", NULL, err);
    struct boot_options boot = {};
    bool ok = opts && keyval_read(boot_fields, opts, &boot, err);

    for (const char *drive = boot.order; ok && drive && *drive; drive++) {
        if (*drive < 'a' || *drive > 'p') {
            error_set(err, FERRY_ERROR_USER, "Invalid boot device '%c'", *drive);
            ok = false;
        }
    }
    g_free(boot.order);
    return ok;
}

struct rtc_options {
    char *base;
    unsigned clock, driftfix;
};

static const struct keyval_field rtc_fields[] = {
    KEYVAL_ROW("base", KEYVAL_STRING, struct rtc_options, base),
    KEYVAL_ROW(
        "clock", KEYVAL_ENUM, struct rtc_options, clock,
        .names =
            (const char *const[]){
                [RTC_CLOCK_HOST] = "host", [RTC_CLOCK_RT] = "rt", [RTC_CLOCK_VM] = "vm", NULL }),
    KEYVAL_ROW("driftfix", KEYVAL_ENUM, struct rtc_options, driftfix,
               .names = (const char *const[]){ "none", "slew", NULL }),
    {},
};

static bool parse_rtc_base(struct vm_config *c, const char *text, GError **err)
{
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    g_autofree char *full = NULL;
    g_autoptr(GDateTime) when = NULL;
    size_t len = strlen(text);

    if (strcmp(text, "utc") == 0) {
        c->rtc_base = RTC_BASE_UTC;
        return true;
    }
    if (strcmp(text, "localtime") == 0) {
        c->rtc_base = RTC_BASE_LOCALTIME;
        return true;
    }
    /* GLib takes more forms of ISO 8601 than these two, which are told apart by their length */
    full = g_strconcat(text, len == strlen("2006-06-17") ? "T00:00:00" : "", NULL);
    if (strlen(full) == strlen("2006-06-17T16:01:21") && g_ascii_isdigit(full[0])) {
        when = g_date_time_new_from_iso8601(full, utc);
    }
    if (!when) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'base' expects utc, localtime, or a time such as 2006-06-17T16:01:21 "
                  "or 2006-06-17");
        return false;
    }
    c->rtc_base = RTC_BASE_DATETIME;
    c->rtc_base_seconds = g_date_time_to_unix(when);
    return true;
}

bool option_rtc(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, NULL, NULL, err);
    struct rtc_options rtc = { .clock = o->config.rtc_clock,
                               .driftfix = o->config.rtc_driftfix_slew };
    bool ok = opts && keyval_read(rtc_fields, opts, &rtc, err) &&
              (!rtc.base || parse_rtc_base(&o->config, rtc.base, err));

    g_free(rtc.base);
    o->config.rtc_clock = rtc.clock;
    o->config.rtc_driftfix_slew = rtc.driftfix;
    return ok;
}

/*
 * Fills in the levels that were not given: cores take what the others leave, then sockets, then
 * threads, as QEMU's machines do since 6.2.
 */
static bool complete_smp(struct options *o, GError **err)
{
    struct smp_options *s = &o->smp;
    struct vm_config *c = &o->config;
    uint64_t product;

    if (s->cpus > VM_MAX_CPUS || s->maxcpus > VM_MAX_CPUS) {
        error_set(err, FERRY_ERROR_USER,
                  "Invalid SMP CPUs %u. The max CPUs supported by machine 'microvm' is %u",
                  MAX(s->cpus, s->maxcpus), VM_MAX_CPUS);
        return false;
    }
    if (s->clusters > 1) {
        error_set(err, FERRY_ERROR_USER,
                  "-smp: Parameter 'clusters' must be 1, the machine has no clusters");
        return false;
    }
    s->dies = MAX(s->dies, 1);
    if (!s->cpus && !s->maxcpus) {
        s->sockets = MAX(s->sockets, 1);
        s->cores = MAX(s->cores, 1);
        s->threads = MAX(s->threads, 1);
    } else {
        unsigned total = s->maxcpus ? s->maxcpus : s->cpus;

        if (!s->cores) {
            s->sockets = MAX(s->sockets, 1);
            s->threads = MAX(s->threads, 1);
            s->cores = total / ((uint64_t)s->sockets * s->dies * s->threads);
        } else if (!s->sockets) {
            s->threads = MAX(s->threads, 1);
            s->sockets = total / ((uint64_t)s->dies * s->cores * s->threads);
        } else if (!s->threads) {
            s->threads = total / ((uint64_t)s->sockets * s->dies * s->cores);
        }
    }
    /* each factor is below 2^31: saturate so that the product cannot wrap */
    product = MIN((uint64_t)s->sockets * s->dies, UINT32_MAX) * s->cores;
    product = MIN(product, UINT32_MAX) * s->threads;
    if (!s->maxcpus) {
        s->maxcpus = s->cpus ? s->cpus : MIN(product, UINT32_MAX);
    }
    if (!s->cpus) {
        s->cpus = s->maxcpus;
    }
    if (product != s->maxcpus) {
        error_set(err, FERRY_ERROR_USER,
                  "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (%u) "
                  "* dies (%u) * cores (%u) * threads (%u) != maxcpus (%u)",
                  s->sockets, s->dies, s->cores, s->threads, s->maxcpus);
        return false;
    }
    if (s->maxcpus > VM_MAX_CPUS) {
        error_set(err, FERRY_ERROR_USER,
                  "Invalid SMP CPUs %u. The max CPUs supported by machine 'microvm' is %u",
                  s->maxcpus, VM_MAX_CPUS);
        return false;
    }
    if (s->cpus != s->maxcpus) {
        error_set(err, FERRY_ERROR_USER,
                  "-smp: maxcpus (%u) must be equal to cpus (%u), vCPUs cannot be added later",
                  s->maxcpus, s->cpus);
        return false;
    }
    c->cpus = s->cpus;
    c->sockets = s->sockets;
    c->dies = s->dies;
    c->cores = s->cores;
    c->threads = s->threads;
    return true;
}

static bool complete_memory(struct options *o, GError **err)
{
    struct vm_config *c = &o->config;

    if (!o->ram_size_given) {
        c->ram_size = DEFAULT_RAM_SIZE;
    }
    if (o->memory_slots && !o->maxmem) {
        error_set(err, FERRY_ERROR_USER, "-m: slots specified but no max-size");
        return false;
    }
    if (o->maxmem && (o->maxmem != c->ram_size || o->memory_slots)) {
        error_set(err, FERRY_ERROR_USER,
                  "-m: maxmem must be equal to size and slots 0, memory cannot be added later");
        return false;
    }
    if (c->memory_backend && c->default_backing.path) {
        error_set(err, FERRY_ERROR_USER,
                  "-mem-path can't be used together with -machine memory-backend");
        return false;
    }
    return true;
}

bool options_complete_machine(struct options *o, GError **err)
{
    struct vm_config *c = &o->config;

    if (!c->machine) {
        c->machine = g_strdup(machine_types[0].name);
    }
    if (o->machine_accel) {
        if (o->accels->len) {
            error_set(err, FERRY_ERROR_USER,
                      "The -accel and \"-machine accel=\" options are incompatible");
            return false;
        }
        if (!add_accels(o, o->machine_accel, err)) {
            return false;
        }
    }
    if (!o->accels->len) {
        g_ptr_array_add(o->accels, g_strdup("kvm"));
    }
    if (!c->kernel && (c->append || c->initrd)) {
        error_set(err, FERRY_ERROR_USER, "%s only allowed with -kernel option",
                  c->append ? "-append" : "-initrd");
        return false;
    }
    return complete_smp(o, err) && complete_memory(o, err);
}
