/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-balloon: what clients ask and hear. Machine lock held. */
#include <string.h>

#include "balloon-internal.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "system/config.h"
#include "util/error.h"

/* A guest that inflates says so page by page. */
#define EVENT_INTERVAL_US G_USEC_PER_SEC

#define PAGE_BYTES UINT64_C(4096)

struct virtio_balloon *balloon_find(struct vm *vm)
{
    for (unsigned i = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);

        if (strcmp(dev->class->name, BALLOON_TYPE) == 0) {
            return (struct virtio_balloon *)dev;
        }
    }
    return NULL;
}

static uint64_t ram_bytes(const struct virtio_balloon *b)
{
    return b->vdev.dev.vm->config->ram_size;
}

/* What the guest says it has given may be more than there is. */
static int64_t actual_bytes(const struct virtio_balloon *b)
{
    uint64_t given = b->actual * PAGE_BYTES;

    return given < ram_bytes(b) ? (int64_t)(ram_bytes(b) - given) : 0;
}

static struct virtio_balloon *find_active(struct vm *vm, GError **err)
{
    struct virtio_balloon *b = balloon_find(vm);

    if (!b) {
        error_set(err, FERRY_ERROR_DEVICE_NOT_ACTIVE, "No balloon device has been activated");
    }
    return b;
}

bool qmp_balloon(struct vm *vm, const struct qmp_balloon_arg *arg, GError **err)
{
    struct virtio_balloon *b = find_active(vm, err);

    if (!b) {
        return false;
    }
    if (arg->value <= 0) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'target' expects a size");
        return false;
    }
    b->num_pages =
        (uint32_t)((ram_bytes(b) - MIN((uint64_t)arg->value, ram_bytes(b))) / PAGE_BYTES);
    virtio_notify_config(&b->vdev);
    return true;
}

BalloonInfo *qmp_query_balloon(struct vm *vm, GError **err)
{
    struct virtio_balloon *b = find_active(vm, err);
    BalloonInfo *info = b ? g_new0(BalloonInfo, 1) : NULL;

    if (b) {
        info->actual = actual_bytes(b);
    }
    return info;
}

static void send_event(struct virtio_balloon *b)
{
    b->event_time = g_get_monotonic_time();
    qapi_event_send_balloon_change(b->vdev.dev.vm, actual_bytes(b));
}

/* Main loop. */
static gboolean event_due(gpointer opaque)
{
    struct virtio_balloon *b = opaque;

    b->event_timer = 0;
    send_event(b);
    return G_SOURCE_REMOVE;
}

void balloon_tell_change(struct virtio_balloon *b)
{
    gint64 wait = b->event_time ? b->event_time + EVENT_INTERVAL_US - g_get_monotonic_time() : 0;

    if (wait <= 0 && !b->event_timer) {
        send_event(b);
    } else if (!b->event_timer) {
        b->event_timer = g_timeout_add((guint)(wait / 1000 + 1), event_due, b);
    }
}

void balloon_event_free(struct virtio_balloon *b)
{
    if (b->event_timer) {
        g_source_remove(b->event_timer);
        b->event_timer = 0;
    }
}
