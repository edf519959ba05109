/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon (VIRTIO 1.2, 5.5): memory that the guest gives back to the host while it does not
 * need it.
 *
 *   balloon-pages.c   the balloon itself, and free pages that the guest reports by itself
 *   balloon-hints.c   free pages that it names for a migration
 *   balloon-stats.c   its statistics
 *   balloon-qmp.c     balloon, query-balloon, BALLOON_CHANGE
 *
 * Queues, in this order, the last two where they are offered: inflate, deflate, statistics, hints,
 * reports.
 *
 * Memory that was given back is as if it had never been touched, so a migration does not read or
 * send it. What had been sent of it before stays at the destination: the guest may not rely on
 * either. A reset by the driver leaves the balloon's target and what the guest last said.
 *
 * In the stream, as QEMU 7.2 has it: be32 target and be32 actual, in pages; then, where the driver
 * accepted the feature, the subsections free-page-report (be32 command id, be32 status) and
 * page-poison (be32).
 */
#include <string.h>

#include "balloon-internal.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/vmstate/table.h"
#include "util/error.h"

/* Of the rings before the driver chooses; part of the stream, QEMU's. */
#define QUEUE_SIZE        128
#define HINT_QUEUE_SIZE   1024
#define REPORT_QUEUE_SIZE 32

/* 5.5.4; le32 each */
enum { CONFIG_NUM_PAGES, CONFIG_ACTUAL, CONFIG_HINT_ID, CONFIG_POISON, CONFIG_WORDS };

static void balloon_get_config(struct virtio_device *v, uint8_t *config)
{
    const struct virtio_balloon *b = balloon_of(v);
    uint32_t words[CONFIG_WORDS] = {
        [CONFIG_NUM_PAGES] = b->num_pages,
        [CONFIG_ACTUAL] = b->actual,
        [CONFIG_HINT_ID] = b->hints ? balloon_hint_command(b) : 0,
        [CONFIG_POISON] = b->poison,
    };

    memcpy(config, words, v->config_len);
}

static void balloon_set_config(struct virtio_device *v, const uint8_t *config)
{
    struct virtio_balloon *b = balloon_of(v);
    uint32_t words[CONFIG_WORDS] = { 0 }, before = b->actual;

    memcpy(words, config, v->config_len);
    b->actual = words[CONFIG_ACTUAL];
    b->poison = virtio_has(v, BALLOON_F_PAGE_POISON) ? words[CONFIG_POISON] : 0;
    if (b->actual != before) {
        balloon_tell_change(b);
    }
}

static void balloon_reset(struct virtio_device *v)
{
    struct virtio_balloon *b = balloon_of(v);

    b->poison = 0;
    balloon_pages_reset(b);
    balloon_stats_reset(b);
    balloon_hints_reset(b);
}

static void balloon_run_state(struct virtio_device *v, bool running)
{
    struct virtio_balloon *b = balloon_of(v);

    if (running && b->hint_tell) {
        b->hint_tell = false;
        virtio_notify_config(v);
    }
}

static bool balloon_realize(struct virtio_device *v, GError **err)
{
    struct virtio_balloon *b = balloon_of(v);

    if (balloon_find(v->dev.vm)) {
        error_set(err, FERRY_ERROR_USER, "Only one balloon device is supported");
        return false;
    }
    v->host_features |= balloon_bits_of(true, BALLOON_F_STATS_VQ) |
                        balloon_bits_of(b->deflate_on_oom, BALLOON_F_DEFLATE_ON_OOM) |
                        balloon_bits_of(b->free_page_hint, BALLOON_F_FREE_PAGE_HINT) |
                        balloon_bits_of(b->page_poison, BALLOON_F_PAGE_POISON) |
                        balloon_bits_of(b->free_page_reporting, BALLOON_F_REPORTING);
    v->config_len = sizeof(uint32_t) * (b->page_poison      ? CONFIG_POISON + 1
                                        : b->free_page_hint ? CONFIG_HINT_ID + 1
                                                            : CONFIG_ACTUAL + 1);
    b->inflate = virtio_add_queue(v, QUEUE_SIZE, balloon_handle_pages);
    b->deflate = virtio_add_queue(v, QUEUE_SIZE, balloon_handle_pages);
    b->stats = virtio_add_queue(v, QUEUE_SIZE, balloon_handle_stats);
    if (b->free_page_hint) {
        b->hints = virtio_add_queue(v, HINT_QUEUE_SIZE, balloon_handle_hints);
    }
    if (b->free_page_reporting) {
        b->reports = virtio_add_queue(v, REPORT_QUEUE_SIZE, balloon_handle_reports);
    }
    balloon_stats_init(b);
    balloon_hints_init(b);
    return true;
}

static void balloon_unrealize(struct virtio_device *v)
{
    struct virtio_balloon *b = balloon_of(v);

    balloon_event_free(b);
    balloon_hints_free(b);
    balloon_stats_free(b);
    balloon_pages_reset(b);
}

/* ---- the section ---- */

#define SUB_PREFIX BALLOON_TYPE "/"
#define SUB_HINTS  SUB_PREFIX "free-page-report"
#define SUB_POISON SUB_PREFIX "page-poison"

struct balloon_state {
    uint32_t num_pages, actual, hint_id, hint_status, poison;
    bool has_hints, has_poison;
};

static void balloon_save(struct virtio_device *v, struct stream_out *o)
{
    const struct virtio_balloon *b = balloon_of(v);

    out_be32(o, b->num_pages);
    out_be32(o, b->actual);
    if (virtio_has(v, BALLOON_F_FREE_PAGE_HINT)) {
        vmstate_put_subsection(o, SUB_HINTS, 1);
        out_be32(o, b->hint_id);
        out_be32(o, b->hint_status);
    }
    if (virtio_has(v, BALLOON_F_PAGE_POISON)) {
        vmstate_put_subsection(o, SUB_POISON, 1);
        out_be32(o, b->poison);
    }
}

static bool parse_subsection(struct balloon_state *s, const char *name, uint64_t features,
                             struct stream_in *in, GError **err)
{
    bool hints = strcmp(name, SUB_HINTS) == 0, poison = strcmp(name, SUB_POISON) == 0;
    unsigned feature = hints ? BALLOON_F_FREE_PAGE_HINT : BALLOON_F_PAGE_POISON;
    uint32_t version;

    if ((!hints && !poison) || (hints ? s->has_hints : s->has_poison) ||
        !(features >> feature & 1)) {
        error_set(
            err, FERRY_ERROR_PEER,
            "The migration stream has the subsection '%s', which is unknown, not due or there "
            "twice",
            name);
        return false;
    }
    if (!in_skip(in, 2 + strlen(name), err) || !in_be32(in, &version, err)) {
        return false;
    }
    if (version != 1) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream has version %u of subsection '%s'",
                  version, name);
        return false;
    }
    s->has_hints |= hints;
    s->has_poison |= poison;
    return poison ? in_be32(in, &s->poison, err)
                  : in_be32(in, &s->hint_id, err) && in_be32(in, &s->hint_status, err);
}

static bool balloon_parse(struct virtio_device *v G_GNUC_UNUSED, void *state, uint64_t features,
                          int version G_GNUC_UNUSED, struct stream_in *in, GError **err)
{
    struct balloon_state *s = state;
    char name[256];

    s->hint_id = BALLOON_HINT_ID_MIN;
    if (!in_be32(in, &s->num_pages, err) || !in_be32(in, &s->actual, err)) {
        return false;
    }
    while (vmstate_peek_subsection(SUB_PREFIX, in, name)) {
        if (!parse_subsection(s, name, features, in, err)) {
            return false;
        }
    }
    if (s->hint_status > BALLOON_HINT_DONE) {
        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream has free page hints of the unknown status %u",
                  s->hint_status);
        return false;
    }
    return true;
}

static bool balloon_load(struct virtio_device *v, const void *state, GError **err G_GNUC_UNUSED)
{
    struct virtio_balloon *b = balloon_of(v);
    const struct balloon_state *s = state;

    b->num_pages = s->num_pages;
    b->actual = s->actual;
    b->poison = s->poison;
    b->hint_id = s->hint_id;
    b->hint_status = s->hint_status;
    /* nobody asks here: what the source had begun is over */
    if (s->hint_status == BALLOON_HINT_REQUESTED || s->hint_status == BALLOON_HINT_START) {
        b->hint_status = BALLOON_HINT_DONE;
        b->hint_tell = true;
    }
    b->stats_back = true;
    return true;
}

static const struct virtio_wire balloon_wire = {
    .state_size = sizeof(struct balloon_state),
    .save = balloon_save,
    .parse = balloon_parse,
    .load = balloon_load,
};

#define SWITCH(n, m, d, h)                                                                         \
    {                                                                                              \
        .name = n, .type = PROPERTY_BOOL, .offset = offsetof(struct virtio_balloon, m), .def = d,  \
        .help = h                                                                                  \
    }

static const struct property balloon_properties[] = {
    SWITCH("deflate-on-oom", deflate_on_oom, 0, "the guest takes memory back when it runs out"),
    SWITCH("free-page-hint", free_page_hint, 0,
           "a migration asks the guest which memory is free and does not send it"),
    SWITCH("free-page-reporting", free_page_reporting, 0,
           "the guest reports free memory, which the host then has"),
    SWITCH("page-poison", page_poison, 1, "the guest says what it fills free memory with"),
    { .name = "guest-stats-polling-interval",
      .type = PROPERTY_UINT32,
      .offset = offsetof(struct virtio_balloon, stats_interval),
      .help = "seconds between two looks at the guest's statistics; 0: none" },
    VIRTIO_PROPERTIES,
    {},
};

static const struct virtio_class balloon_class = {
    .device = { VIRTIO_DEVICE_LIFE, .name = BALLOON_TYPE,
                .description = "memory that the guest gives back",
                .size = sizeof(struct virtio_balloon), .properties = balloon_properties,
                .live = balloon_live_properties },
    .device_id = 5,
    .wire_name = "virtio-balloon",
    .version = 1,
    .realize = balloon_realize,
    .unrealize = balloon_unrealize,
    .get_config = balloon_get_config,
    .set_config = balloon_set_config,
    .reset = balloon_reset,
    .run_state = balloon_run_state,
    .wire = &balloon_wire,
};
VIRTIO_CLASS(balloon_class);
