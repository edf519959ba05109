/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The comparison of two sides, subject by subject. An obstacle is what would certainly make the
 * move fail (the stream refused, the host unable) or harm the guest (a processor feature that is
 * gone); everything else worth knowing is a warning. The rules follow those that the loading side
 * applies anyway; the check only tells them before the move, and all at once.
 *
 * Runs on the destination. `s` is the source, `d` the destination throughout; the names in a
 * source's lists are whatever a peer sent. Costs: lists are compared through hash tables, so a
 * peer's longest lists take milliseconds.
 */
#include "migration/check/compare.h"

#include <inttypes.h>
#include <string.h>

#include "migration/check/disks.h"
#include "migration/check/side.h"
#include "migration/check/virtio.h"
#include "system/memory.h"
#include "target/i386/cpu.h"

#define OBSTACLE(kind, subject, ...)                                                               \
    finding_obstacle(findings, MIGRATION_FINDING_KIND_##kind, subject, __VA_ARGS__)
#define WARNING(kind, subject, ...)                                                                \
    finding_warning(findings, MIGRATION_FINDING_KIND_##kind, subject, __VA_ARGS__)

/* A capability that both sides must have alike; every other one that is on must be known. */
static const char *const shared_capabilities[] = { "x-ignore-shared" };
/* What the destination must have where the source has it. */
static const char *const needed_capabilities[] = { "postcopy-ram", "postcopy-preempt" };

/* --- machine --- */

static void compare_machine(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    if (strcmp(s->machine, d->machine)) {
        OBSTACLE(MACHINE, "machine",
                 "The source's machine type is '%s' and the destination's '%s': start the "
                 "destination with the source's -machine",
                 s->machine, d->machine);
    }
    if (strcmp(s->accelerator, d->accelerator)) {
        OBSTACLE(MACHINE, "accel",
                 "The guest runs on accelerator '%s' and the destination has '%s': give both sides "
                 "the same -accel",
                 s->accelerator, d->accelerator);
    }
    for (unsigned i = 0; i < s->options->len; i++) {
        const MigrationSideSetting *o = g_ptr_array_index(s->options, i);
        const char *here = side_setting(d->options, o->name);

        if (!here || strcmp(here, o->value)) {
            OBSTACLE(MACHINE, o->name,
                     "The source's machine has %s=%s and the destination's %s: give both sides the "
                     "same machine options",
                     o->name, o->value, here ? here : "no such option");
        }
    }
    if (s->vcpus != d->vcpus) {
        OBSTACLE(MACHINE, "smp",
                 "The source has %" PRIu32 " vCPUs and the destination %" PRIu32
                 ": give both sides the same -smp",
                 s->vcpus, d->vcpus);
    } else if (strcmp(s->topology, d->topology)) {
        WARNING(MACHINE, "smp",
                "The guest's vCPUs are grouped as %s on the source and as %s on the destination: "
                "give both sides the same -smp",
                s->topology, d->topology);
    }
}

static void compare_uuid(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    bool there = side_has_capability(s, "validate-uuid");
    bool here = side_has_capability(d, "validate-uuid");

    if (g_ascii_strcasecmp(s->uuid, d->uuid) == 0 || (!there && !here)) {
        return;
    }
    if (there && here) {
        OBSTACLE(
            UUID, "uuid",
            "The source's machine has the UUID %s and the destination's %s: give both the same "
            "-uuid, or switch off validate-uuid",
            s->uuid, d->uuid);
    } else {
        WARNING(UUID, "uuid",
                "The source's machine has the UUID %s and the destination's %s, and validate-uuid "
                "is on at only one side: switch it on at both to have such a guest refused",
                s->uuid, d->uuid);
    }
}

static void compare_capabilities(const MigrationSide *s, const MigrationSide *d,
                                 GPtrArray *findings)
{
    for (unsigned i = 0; i < s->capabilities->len; i++) {
        const MigrationSideSetting *c = g_ptr_array_index(s->capabilities, i);

        if (!strcmp(c->value, "on") && !side_setting(d->capabilities, c->name)) {
            OBSTACLE(CAPABILITY, c->name,
                     "The source uses capability '%s', which the destination does not have: switch "
                     "it off, or use a newer program on the destination",
                     c->name);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(shared_capabilities); i++) {
        const char *name = shared_capabilities[i];
        bool there = side_has_capability(s, name), here = side_has_capability(d, name);

        if (there != here) {
            OBSTACLE(CAPABILITY, name,
                     "Capability '%s' is %s on the source and %s on the destination: set it alike "
                     "on both sides",
                     name, there ? "on" : "off", here ? "on" : "off");
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(needed_capabilities); i++) {
        const char *name = needed_capabilities[i];

        if (side_has_capability(s, name) && !side_has_capability(d, name)) {
            OBSTACLE(CAPABILITY, name,
                     "Capability '%s' is on on the source and off on the destination: switch it on "
                     "there too",
                     name);
        }
    }
}

static void compare_blockers(const MigrationSide *d, GPtrArray *findings)
{
    for (unsigned i = 0; i < d->blockers->len; i++) {
        OBSTACLE(BLOCKER, "destination", "The destination takes no guest: %s",
                 (const char *)g_ptr_array_index(d->blockers, i));
    }
}

/* --- memory --- */

static const MigrationSideBlock *block_find(const MigrationSide *side, const char *name)
{
    for (unsigned i = 0; i < side->blocks->len; i++) {
        const MigrationSideBlock *b = g_ptr_array_index(side->blocks, i);

        if (g_str_equal(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

static void compare_block(const MigrationSideBlock *s, const MigrationSideBlock *d,
                          bool ignore_shared, GPtrArray *findings)
{
    if (!d) {
        OBSTACLE(MEMORY, s->name,
                 "The destination's machine has no memory '%s': give both sides the same machine "
                 "and memory options",
                 s->name);
    } else if (s->size != d->size && !(d->max_size > d->size && s->size <= d->max_size)) {
        OBSTACLE(MEMORY, s->name,
                 "Memory '%s' has %" PRIu64 " bytes on the source and %" PRIu64
                 " on the destination: give both sides the same -m%s",
                 s->name, s->size, d->size,
                 g_str_equal(s->name, "pc.bios") ? " and the same firmware" : "");
    } else if (ignore_shared && d->shared && s->address != d->address) {
        OBSTACLE(MEMORY, s->name,
                 "Memory '%s' is at 0x%" PRIx64 " of the source's guest and at 0x%" PRIx64
                 " of the destination's: give both sides the same machine options",
                 s->name, s->address, d->address);
    }
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

/* Is there memory for what will come? Huge pages were set aside when the destination started, and a
 * file system of its own has a limit of its own. */
static void compare_room(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    const MigrationSideHost *h = d->host;
    uint64_t whole = 0, set_aside = 0, need, most, have, left;

    for (unsigned i = 0; i < d->blocks->len; i++) {
        const MigrationSideBlock *b = g_ptr_array_index(d->blocks, i);

        whole += b->size;
        set_aside += b->page_size > TARGET_PAGE_SIZE ? b->size : 0;
        if (b->has_room && b->page_size <= TARGET_PAGE_SIZE) {
            uint64_t must = MIN(s->populated, b->size);

            /* what the file already holds is not in `room` */
            must -= MIN(must, d->populated);
            if (must > b->room) {
                OBSTACLE(MEMORY, b->name,
                         "Memory '%s' needs %.1f GiB more, and the file system it lies in on the "
                         "destination has %.1f GiB left: make room there",
                         b->name, gib(must), gib(b->room));
            }
        }
    }
    have = d->populated - MIN(set_aside, d->populated);
    most = whole - set_aside;
    need = MIN(s->populated, most);
    need -= MIN(have, need);
    most -= MIN(have, most);
    left = h->memory;
    if (h->has_memory_limit) {
        left = MIN(left, h->memory_limit);
    }
    if (need > left + (h->has_memory_limit && h->memory_limit <= h->memory ? 0 : h->swap)) {
        OBSTACLE(MEMORY, "host",
                 "The guest uses %.1f GiB of memory that the destination has yet to find, and its "
                 "host has %.1f GiB left%s: free memory there, or choose another host",
                 gib(need), gib(left),
                 left < h->memory ? " below the limit of its control group" : "");
    } else if (most > left) {
        WARNING(MEMORY, "host",
                "The guest may come to need %.1f GiB of memory more than the destination has now, "
                "and its host has %.1f GiB left%s: free memory there",
                gib(most), gib(left),
                left < h->memory ? " below the limit of its control group" : "");
    }
}

static void compare_memory(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    bool ignore_shared = side_has_capability(s, "x-ignore-shared");

    for (unsigned i = 0; i < s->blocks->len; i++) {
        const MigrationSideBlock *b = g_ptr_array_index(s->blocks, i);

        compare_block(b, block_find(d, b->name), ignore_shared, findings);
    }
    for (unsigned i = 0; i < d->blocks->len; i++) {
        const MigrationSideBlock *b = g_ptr_array_index(d->blocks, i);

        if (!block_find(s, b->name)) {
            OBSTACLE(
                MEMORY, b->name,
                "The source's machine has no memory '%s': give both sides the same machine and "
                "memory options",
                b->name);
        }
    }
    if (!ignore_shared) { /* else nearly nothing of it travels */
        compare_room(s, d, findings);
    }
}

/* --- processors --- */

static GHashTable *name_set(const GPtrArray *names)
{
    GHashTable *set = g_hash_table_new(g_str_hash, g_str_equal);

    for (unsigned i = 0; i < names->len; i++) {
        g_hash_table_add(set, g_ptr_array_index(names, i));
    }
    return set;
}

/* They say how vCPUs are grouped, which was compared. */
static bool is_of_topology(const char *feature)
{
    return g_str_equal(feature, "ht") || g_str_equal(feature, "cmp-legacy");
}

static void compare_features(const MigrationSideCpu *s, const MigrationSideCpu *d,
                             GPtrArray *findings)
{
    g_autoptr(GHashTable) seen = name_set(s->features);
    g_autoptr(GHashTable) here = name_set(d->features);
    g_autoptr(GHashTable) host = name_set(d->host_features);
    g_autoptr(GString) more = g_string_new(NULL);

    for (unsigned i = 0; i < s->features->len; i++) {
        const char *name = g_ptr_array_index(s->features, i);
        g_autofree char *place = NULL;

        if (g_hash_table_contains(here, name) || is_of_topology(name)) {
            continue;
        }
        place = x86_feature_place(name);
        OBSTACLE(CPU, name, "The guest uses the CPU feature '%s'%s%s%s, which %s", name,
                 place ? " (" : "", place ? place : "", place ? ")" : "",
                 g_hash_table_contains(host, name)
                     ? "the destination's host has and its -cpu leaves out: give the destination "
                       "the source's -cpu"
                     : "the destination's host does not have: choose another host, or start the "
                       "guest without it");
    }
    for (unsigned i = 0; i < d->features->len; i++) {
        const char *name = g_ptr_array_index(d->features, i);

        if (!g_hash_table_contains(seen, name) && !is_of_topology(name)) {
            g_string_append_printf(more, "%s%s", more->len ? ", " : "", name);
        }
    }
    if (more->len) {
        WARNING(
            CPU, "features",
            "The guest would see CPU features that it has not now, %s: give the destination the "
            "source's -cpu to keep them from it",
            more->str);
    }
}

/* Whether they are in use is only known when the guest is stopped, so these are warnings. */
static void compare_msrs(const MigrationSideCpu *s, const MigrationSideCpu *d, GPtrArray *findings)
{
    g_autoptr(GHashTable) here = name_set(d->msrs);

    for (unsigned i = 0; i < s->msrs->len; i++) {
        const char *name = g_ptr_array_index(s->msrs, i);

        if (!g_hash_table_contains(here, name)) {
            WARNING(CPU, name,
                    "The destination's KVM does not have the MSR %s, and the move fails at its end "
                    "if the guest uses it: choose a host like the source's",
                    name);
        }
    }
}

static void compare_tsc(const MigrationSideCpu *s, const MigrationSideCpu *d, GPtrArray *findings)
{
    g_autoptr(GHashTable) seen = NULL;

    if (s->tsc_khz <= 0 || s->tsc_khz > INT32_MAX || d->tsc_khz <= 0 || d->tsc_scaling) {
        return;
    }
    /* 250 ppm is what KVM takes for the same frequency; see cpu_tsc_set_khz() */
    if (ABS(s->tsc_khz - d->tsc_khz) * 4000 <= d->tsc_khz) {
        return;
    }
    seen = name_set(s->features);
    if (g_hash_table_contains(seen, "invtsc")) {
        OBSTACLE(
            CPU, "tsc",
            "The guest's TSC runs at %" PRId64 " kHz, the destination's at %" PRId64
            " kHz without scaling, and the CPU feature invtsc forbids that: choose a host with "
            "TSC scaling",
            s->tsc_khz, d->tsc_khz);
    } else {
        WARNING(CPU, "tsc",
                "The guest's TSC runs at %" PRId64 " kHz and the destination's at %" PRId64
                " kHz without scaling: programs that use it without asking kvmclock measure wrong "
                "times after the move",
                s->tsc_khz, d->tsc_khz);
    }
}

static void compare_cpu(const MigrationSideCpu *s, const MigrationSideCpu *d, GPtrArray *findings)
{
    if (!s || !d) {
        return; /* different accelerators, which was said */
    }
    if (strcmp(s->host_vendor, d->host_vendor)) {
        OBSTACLE(CPU, "vendor",
                 "The source's host has a processor of %s and the destination's one of %s: a "
                 "running guest cannot change between them, choose a host of the same vendor",
                 s->host_vendor, d->host_vendor);
    } else if (strcmp(s->vendor, d->vendor)) {
        OBSTACLE(CPU, "vendor",
                 "The guest sees a processor of %s and would see one of %s: give both sides the "
                 "same -cpu",
                 s->vendor, d->vendor);
    }
    compare_features(s, d, findings);
    compare_msrs(s, d, findings);
    compare_tsc(s, d, findings);
    if (s->phys_bits > d->phys_bits) {
        WARNING(CPU, "phys-bits",
                "The guest's physical addresses have %" PRIu32
                " bits and the destination's %" PRIu32 ": start the guest with phys-bits=%" PRIu32,
                s->phys_bits, d->phys_bits, d->phys_bits);
    }
    if (s->signature != d->signature || strcmp(s->brand, d->brand)) {
        WARNING(CPU, "model",
                "The guest sees the processor '%s' (signature 0x%" PRIx32
                ") and would see '%s' (0x%" PRIx32
                "): programs that look at it again may be misled",
                s->brand, s->signature, d->brand, d->signature);
    }
}

/* --- devices --- */

static char *device_key(const MigrationSideDevice *d)
{
    return g_strdup_printf("%s/%" PRIu32, d->name, d->instance);
}

static GHashTable *device_table(const GPtrArray *devices)
{
    GHashTable *table = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (unsigned i = 0; i < devices->len; i++) {
        MigrationSideDevice *d = g_ptr_array_index(devices, i);

        g_hash_table_insert(table, device_key(d), d);
    }
    return table;
}

/* The sections of vCPUs that the other side lacks are no news where their number differs. */
static bool is_of_vcpu(const MigrationSideDevice *d)
{
    return g_str_equal(d->name, "cpu") || g_str_equal(d->name, "cpu_common") ||
           g_str_equal(d->name, "apic");
}

static void compare_devices(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    g_autoptr(GHashTable) here = device_table(d->devices);
    g_autoptr(GHashTable) there = device_table(s->devices);

    for (unsigned i = 0; i < s->devices->len; i++) {
        const MigrationSideDevice *dev = g_ptr_array_index(s->devices, i);
        g_autofree char *key = device_key(dev);
        const MigrationSideDevice *own = g_hash_table_lookup(here, key);

        if (!own) {
            if (!(is_of_vcpu(dev) && s->vcpus != d->vcpus)) {
                OBSTACLE(DEVICE, dev->name,
                         "The destination's machine has no device '%s' (instance %" PRIu32
                         "): give both sides the same machine options",
                         dev->name, dev->instance);
            }
        } else if (dev->version > own->version) {
            OBSTACLE(DEVICE, dev->name,
                     "The source saves version %" PRIu32
                     " of device '%s' and the destination knows "
                     "up to %" PRIu32 ": use a newer program on the destination",
                     dev->version, dev->name, own->version);
        } else if (dev->version < own->min_version) {
            OBSTACLE(DEVICE, dev->name,
                     "The source saves version %" PRIu32
                     " of device '%s' and the destination knows "
                     "none before %" PRIu32 ": use an older program on the destination",
                     dev->version, dev->name, own->min_version);
        }
    }
    for (unsigned i = 0; i < d->devices->len; i++) {
        const MigrationSideDevice *own = g_ptr_array_index(d->devices, i);
        g_autofree char *key = device_key(own);

        if (!own->optional && !g_hash_table_contains(there, key) &&
            !(is_of_vcpu(own) && s->vcpus != d->vcpus)) {
            OBSTACLE(DEVICE, own->name,
                     "The source's machine has no device '%s' (instance %" PRIu32
                     "): give both sides the same machine options",
                     own->name, own->instance);
        }
    }
}

/* --- the host --- */

static void compare_host(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    const MigrationSideHost *h = d->host;

    if (s->vcpus > h->cpus) {
        WARNING(HOST, "cpus",
                "The guest has %" PRIu32 " vCPUs and the destination's host %" PRIu32
                " CPUs for it: they will share them",
                s->vcpus, h->cpus);
    } else if (s->vcpus + h->load > h->cpus) {
        WARNING(HOST, "cpus",
                "Of the %" PRIu32 " CPUs of the destination's host about %.1f are busy, which does "
                "not leave the %" PRIu32 " that the guest may use",
                h->cpus, MIN(h->load, h->cpus), s->vcpus);
    }
}

void sides_compare(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    compare_machine(s, d, findings);
    compare_uuid(s, d, findings);
    compare_capabilities(s, d, findings);
    compare_blockers(d, findings);
    compare_memory(s, d, findings);
    compare_cpu(s->cpu, d->cpu, findings);
    compare_devices(s, d, findings);
    disks_compare(s, d, findings);
    virtio_compare(s, d, findings);
    compare_host(s, d, findings);
}
