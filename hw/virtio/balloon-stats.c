/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon: the guest's statistics (VIRTIO 1.2, 5.5.6.4).
 *
 * The driver leaves one buffer with them in the queue; giving it back asks for new ones. With
 * guest-stats-polling-interval the buffer is kept until the time has come; without, it is kept
 * until an interval is set. It does not travel: the destination pops it again.
 *
 * Trust: a record is a tag and any number; tags that are not known and what is shorter than a
 * record do not count.
 */
#include <string.h>

#include "balloon-internal.h"
#include "qapi/json.h"
#include "util/error.h"

/* A record: le16 tag, le64 value. */
#define RECORD_BYTES 10u
/* What of a buffer is looked at. */
#define MAX_RECORDS 64u

/* By tag. */
static const char *const names[BALLOON_STATS] = {
    "stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
    "stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
    "stat-htlb-pgalloc", "stat-htlb-pgfail",
};

static void forget(struct virtio_balloon *b)
{
    memset(b->stat, 0xff, sizeof(b->stat));
}

static void ask_in(struct virtio_balloon *b, uint32_t seconds)
{
    vm_timer_mod(b->stats_timer, vm_clock_ns(b->vdev.dev.vm) + (int64_t)seconds * 1000000000);
}

static void time_to_ask(void *opaque)
{
    struct virtio_balloon *b = opaque;

    if (!b->stats_elem || !virtio_has(&b->vdev, BALLOON_F_STATS_VQ)) {
        ask_in(b, b->stats_interval); /* the driver is not there, or has the buffer */
        return;
    }
    b->stats_due = true;
    virtqueue_kick(b->stats); /* memory may have to be waited for, which is not for this thread */
}

void balloon_stats_init(struct virtio_balloon *b)
{
    forget(b);
    b->stats_timer = vm_timer_new(b->vdev.dev.vm, time_to_ask, b);
    if (b->stats_interval) {
        ask_in(b, 0);
    }
}

void balloon_stats_free(struct virtio_balloon *b)
{
    vm_timer_free(b->stats_timer);
    g_free(b->stats_elem);
}

void balloon_stats_reset(struct virtio_balloon *b)
{
    g_clear_pointer(&b->stats_elem, g_free);
    b->stats_due = b->stats_back = false;
}

static void give_back(struct virtio_balloon *b)
{
    virtqueue_push(b->stats, b->stats_elem, 0);
    virtqueue_notify(b->stats);
    g_clear_pointer(&b->stats_elem, g_free);
    b->stats_due = false;
}

static void take(struct virtio_balloon *b, const struct virtqueue_element *elem)
{
    uint8_t bytes[MAX_RECORDS * RECORD_BYTES];
    size_t n = iov_read(elem->out, elem->out_count, 0, bytes, sizeof(bytes));

    forget(b);
    for (size_t at = 0; at + RECORD_BYTES <= n; at += RECORD_BYTES) {
        uint16_t tag;

        memcpy(&tag, bytes + at, sizeof(tag));
        if (tag < BALLOON_STATS) {
            memcpy(&b->stat[tag], bytes + at + sizeof(tag), sizeof(b->stat[tag]));
        }
    }
    b->stats_time = g_get_real_time() / G_USEC_PER_SEC;
}

void balloon_handle_stats(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_balloon *b = balloon_of(v);
    struct virtqueue_element *elem;

    if (b->stats_back) {
        if (!virtqueue_take_back(vq)) {
            return; /* the handler is called again */
        }
        b->stats_back = false;
    }
    if (b->stats_due && b->stats_elem) {
        give_back(b);
    }
    while ((elem = virtqueue_pop(vq, sizeof(*elem)))) {
        if (b->stats_elem) {
            give_back(b); /* a driver has one buffer; this one has more */
        }
        b->stats_elem = elem;
        take(b, elem);
        if (b->stats_interval) {
            ask_in(b, b->stats_interval);
        }
    }
}

/* ---- as clients see them ---- */

static json_t *get_stats(struct device *dev)
{
    const struct virtio_balloon *b = (const struct virtio_balloon *)dev;
    json_t *stats = json_object();

    for (unsigned i = 0; i < BALLOON_STATS; i++) {
        json_object_set_new(stats, names[i], qapi_json_uint64(b->stat[i]));
    }
    return json_pack("{s:o, s:I}", "stats", stats, "last-update", (json_int_t)b->stats_time);
}

static json_t *get_interval(struct device *dev)
{
    return json_integer(((const struct virtio_balloon *)dev)->stats_interval);
}

static bool set_interval(struct device *dev, const json_t *value, GError **err)
{
    struct virtio_balloon *b = (struct virtio_balloon *)dev;

    if (!json_is_integer(value)) {
        error_set(err, FERRY_ERROR_USER,
                  "Invalid parameter type for 'guest-stats-polling-interval', expected: integer");
        return false;
    }
    if (json_integer_value(value) < 0) {
        error_set(err, FERRY_ERROR_USER, "timer value must be greater than zero");
        return false;
    }
    if (json_integer_value(value) > UINT32_MAX) {
        error_set(err, FERRY_ERROR_USER, "timer value is too big");
        return false;
    }
    if (json_integer_value(value) == b->stats_interval) {
        return true;
    }
    if (!json_integer_value(value)) {
        vm_timer_del(b->stats_timer);
    } else {
        /* the first time at once */
        ask_in(b, b->stats_interval ? (uint32_t)json_integer_value(value) : 0);
    }
    b->stats_interval = (uint32_t)json_integer_value(value);
    return true;
}

const struct live_property balloon_live_properties[] = {
    { "guest-stats", "guest statistics", get_stats, NULL },
    { "guest-stats-polling-interval", "int", get_interval, set_interval },
    {},
};
