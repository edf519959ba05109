/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The comparison of virtio devices. A driver has agreed with its device once, on features and
 * queues, and goes on with that on the destination: what it has accepted must be offered there, and
 * what gives the section its shape must be alike. What a driver that has not begun might accept is
 * a warning, because the move fails only if it does so meanwhile.
 *
 * What counts beyond features comes as settings, each device naming its own (class->describe); the
 * rules for them are the table below, and a setting without a rule, as of a newer peer, is passed
 * over. That a device is missing is found among the sections.
 */
#include "migration/check/virtio.h"

#include <inttypes.h>
#include <string.h>

#include "migration/check/side.h"

#define BIT(n) (UINT64_C(1) << (n))

/* Features that a tap with headers must know, of virtio-net: VIRTIO 1.1, 5.1.3. */
#define NET_OFFLOADS UINT64_C(0x7f83)
#define NET_UFO      (BIT(10) | BIT(14))
/* That a disk is only read; which is compared with the disks. */
#define BLK_RO BIT(5)

enum how {
    ALIKE,        /* else the guest cannot come */
    BETTER_ALIKE, /* else there is something to know */
    ON_IF_ON,     /* "on" on the source wants it on on the destination */
    NO_FEWER,     /* a number; less on the destination is an obstacle, more a warning */
};

static const struct setting_rule {
    const char *name;
    enum how how;
    const char *remedy;
    uint64_t features; /* of the device: with an obstacle they are not spoken of again */
} setting_rules[] = {
    { "force-legacy", ALIKE, "give both sides the same -global virtio-mmio.force-legacy",
      BIT(24) | BIT(27) | BIT(32) },
    { "queues", ALIKE, "give both back ends the same queues=", BIT(22) },
    { "vnet_hdr", ON_IF_ON, "give the destination's device a tap with vnet_hdr=on", NET_OFFLOADS },
    { "ufo", ON_IF_ON,
      "choose a host whose taps take long UDP datagrams, or a tap with vnet_hdr=off on both sides",
      NET_UFO },
    { "mac", BETTER_ALIKE,
      "the guest keeps the source's until it restarts, give both sides the same mac=", 0 },
    { "num-queues", NO_FEWER, "give both sides the same num-queues=", BIT(12) },
    { "logical_block_size", ALIKE, "give both sides the same logical_block_size=", 0 },
    { "max_ports", ALIKE, "give both sides the same max_ports=", BIT(1) },
    { "ports", ALIKE, "give both sides the same virtconsole and virtserialport devices", 0 },
    { "names", BETTER_ALIKE, "the guest keeps the source's names, give both sides the same ports",
      0 },
};

struct name {
    unsigned bit;
    const char *name;
};
static const struct name common_names[] = {
    { 24, "notify_on_empty" }, { 27, "any_layout" }, { 28, "indirect_desc" },
    { 29, "event_idx" },       { 32, "version 1" },  {},
};
static const struct name net_names[] = {
    { 0, "csum" },
    { 1, "guest_csum" },
    { 2, "ctrl_guest_offloads" },
    { 3, "host_mtu" },
    { 5, "mac" },
    { 6, "gso" },
    { 7, "guest_tso4" },
    { 8, "guest_tso6" },
    { 9, "guest_ecn" },
    { 10, "guest_ufo" },
    { 11, "host_tso4" },
    { 12, "host_tso6" },
    { 13, "host_ecn" },
    { 14, "host_ufo" },
    { 15, "mrg_rxbuf" },
    { 16, "status" },
    { 17, "ctrl_vq" },
    { 18, "ctrl_rx" },
    { 19, "ctrl_vlan" },
    { 20, "ctrl_rx_extra" },
    { 21, "guest_announce" },
    { 22, "mq" },
    { 23, "ctrl_mac_addr" },
    {},
};
static const struct name blk_names[] = {
    { 2, "seg_max" },    { 4, "geometry" },      { 5, "readonly" },
    { 6, "block size" }, { 7, "scsi" },          { 9, "write-cache" },
    { 10, "topology" },  { 11, "config-wce" },   { 12, "several queues" },
    { 13, "discard" },   { 14, "write-zeroes" }, {},
};
static const struct name serial_names[] = {
    { 1, "several ports" },
    { 2, "emergency-write" },
    {},
};
static const struct name balloon_names[] = {
    { 1, "statistics" },  { 2, "deflate-on-oom" },      { 3, "free-page-hint" },
    { 4, "page-poison" }, { 5, "free-page-reporting" }, {},
};

/* By how the section's name ends. */
static const struct kind {
    const char *section;
    const struct name *names;
    uint64_t passed_over;
} kinds[] = {
    { "/virtio-net", net_names, 0 },
    { "/virtio-blk", blk_names, BLK_RO },
    { "/virtio-console", serial_names, 0 },
    { "/virtio-balloon", balloon_names, 0 },
};

static const struct kind *kind_of(const char *section)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_str_has_suffix(section, kinds[i].section)) {
            return &kinds[i];
        }
    }
    return NULL;
}

static const char *name_of(const struct name *names, unsigned bit)
{
    for (; names && names->name; names++) {
        if (names->bit == bit) {
            return names->name;
        }
    }
    return NULL;
}

/* "csum, guest_tso4, bit 40" */
static char *feature_text(const struct kind *kind, uint64_t features)
{
    GString *s = g_string_new(NULL);

    for (unsigned bit = 0; bit < 64; bit++) {
        const char *name = kind ? name_of(kind->names, bit) : NULL;

        if (!(features >> bit & 1)) {
            continue;
        }
        name = name ? name : name_of(common_names, bit);
        g_string_append(s, s->len ? ", " : "");
        if (name) {
            g_string_append(s, name);
        } else {
            g_string_append_printf(s, "bit %u", bit);
        }
    }
    return g_string_free(s, FALSE);
}

static void say(GPtrArray *findings, bool obstacle, const MigrationSideVirtio *s,
                const struct setting_rule *r, const char *there, const char *here)
{
    (obstacle ? finding_obstacle : finding_warning)(
        findings, MIGRATION_FINDING_KIND_DEVICE, s->name,
        "Device '%s' has %s=%s on the source and %s=%s on the destination: %s", s->name, r->name,
        there, r->name, here, r->remedy);
}

/* True: an obstacle. */
static bool compare_setting(const MigrationSideVirtio *s, const struct setting_rule *r, bool any,
                            const char *there, const char *here, GPtrArray *findings)
{
    bool obstacle;

    /* what is only better is not asked for as long as the rest does not fit */
    if (!strcmp(there, here) || (any && r->how == BETTER_ALIKE) ||
        (r->how == ON_IF_ON && strcmp(there, "on") != 0)) {
        return false;
    }
    obstacle = r->how == NO_FEWER
                   ? g_ascii_strtoull(there, NULL, 10) > g_ascii_strtoull(here, NULL, 10)
                   : r->how != BETTER_ALIKE;
    say(findings, obstacle, s, r, there, here);
    return obstacle;
}

/* Returns the features that an obstacle among the settings explains; sets *any. */
static uint64_t compare_settings(const MigrationSideVirtio *s, const MigrationSideVirtio *d,
                                 bool *any, GPtrArray *findings)
{
    uint64_t explained = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(setting_rules); i++) {
        const struct setting_rule *r = &setting_rules[i];
        const char *there = side_setting(s->settings, r->name);
        const char *here = side_setting(d->settings, r->name);

        if (there && here && compare_setting(s, r, *any, there, here, findings)) {
            explained |= r->features;
            *any = true;
        }
    }
    return explained;
}

static void compare_device(const MigrationSideVirtio *s, const MigrationSideVirtio *d,
                           GPtrArray *findings)
{
    const struct kind *kind = kind_of(s->device);
    bool any = false;
    uint64_t passed_over = compare_settings(s, d, &any, findings) | (kind ? kind->passed_over : 0);
    uint64_t used = s->accepted & ~d->offered & ~passed_over;
    uint64_t may_use = s->offered & ~d->offered & ~passed_over & ~used;

    if (used) {
        g_autofree char *names = feature_text(kind, used);

        finding_obstacle(findings, MIGRATION_FINDING_KIND_DEVICE, s->name,
                         "The guest's driver of device '%s' uses %s, which the destination's "
                         "device does not offer: give both sides the same device options",
                         s->name, names);
    } else if (s->queues > d->queues && !any) {
        finding_obstacle(findings, MIGRATION_FINDING_KIND_DEVICE, s->name,
                         "Device '%s' has %" PRIu32 " queues on the source and %" PRIu32
                         " on the destination: give both sides the same device options",
                         s->name, s->queues, d->queues);
    } else if (may_use && !s->started) {
        g_autofree char *names = feature_text(kind, may_use);

        finding_warning(findings, MIGRATION_FINDING_KIND_DEVICE, s->name,
                        "Device '%s' offers %s, which the destination's does not, and the move "
                        "fails if the guest's driver begins to use it before: give both sides the "
                        "same device options",
                        s->name, names);
    }
}

void virtio_compare(const MigrationSide *s, const MigrationSide *d, GPtrArray *findings)
{
    for (unsigned i = 0; s->virtio && i < s->virtio->len; i++) {
        const MigrationSideVirtio *dev = g_ptr_array_index(s->virtio, i);

        for (unsigned k = 0; d->virtio && k < d->virtio->len; k++) {
            const MigrationSideVirtio *own = g_ptr_array_index(d->virtio, k);

            if (g_str_equal(dev->device, own->device)) {
                compare_device(dev, own, findings);
                break;
            }
        }
    }
}
