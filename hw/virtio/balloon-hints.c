/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon: free pages that the guest names while a migration asks (VIRTIO 1.2, 5.5.6.6).
 *
 *   migration starts   a new command id stands in the configuration space          REQUESTED
 *   driver             sends that id, then pages, then another id (0)              START, STOP
 *   migration stops    the id becomes 1: the driver gives its pages back           DONE
 *
 * A page counts only between START and STOP of the id that was asked for last; what comes late, or
 * from before, is given back without effect. Why no write to a named page is lost:
 * migration/page-hints.c. All is done before the buffer goes back to the driver.
 *
 * QEMU does this on a thread that the user names (iothread=); here it is on the machine's I/O
 * thread like all queues.
 */
#include "balloon-internal.h"

/* In the configuration space. */
#define COMMAND_STOP 0
#define COMMAND_DONE 1

static void hinter_start(struct page_hinter *h)
{
    struct virtio_balloon *b =
        (struct virtio_balloon *)(void *)((char *)h - offsetof(struct virtio_balloon, hinter));

    if (!virtio_has(&b->vdev, BALLOON_F_FREE_PAGE_HINT) || b->vdev.broken) {
        return;
    }
    b->hint_id = MAX(b->hint_id + 1, BALLOON_HINT_ID_MIN); /* wraps; small numbers are reserved */
    b->hint_status = BALLOON_HINT_REQUESTED;
    virtio_notify_config(&b->vdev);
}

static void hinter_stop(struct page_hinter *h)
{
    struct virtio_balloon *b =
        (struct virtio_balloon *)(void *)((char *)h - offsetof(struct virtio_balloon, hinter));

    if (virtio_has(&b->vdev, BALLOON_F_FREE_PAGE_HINT) && b->hint_status != BALLOON_HINT_DONE) {
        b->hint_status = BALLOON_HINT_DONE;
        virtio_notify_config(&b->vdev);
    }
}

void balloon_hints_init(struct virtio_balloon *b)
{
    b->hint_id = BALLOON_HINT_ID_MIN;
    b->hinter = (struct page_hinter){ hinter_start, hinter_stop };
    if (b->hints) {
        page_hinter_set(b->vdev.dev.vm, &b->hinter);
    }
}

void balloon_hints_free(struct virtio_balloon *b)
{
    if (b->hints) {
        page_hinter_set(b->vdev.dev.vm, NULL);
    }
}

void balloon_hints_reset(struct virtio_balloon *b)
{
    b->hint_status = BALLOON_HINT_STOP;
    b->hint_tell = false;
}

uint32_t balloon_hint_command(const struct virtio_balloon *b)
{
    return b->hint_status == BALLOON_HINT_STOP   ? COMMAND_STOP
           : b->hint_status == BALLOON_HINT_DONE ? COMMAND_DONE
                                                 : b->hint_id;
}

static bool take_command(struct virtio_balloon *b, const struct virtqueue_element *elem)
{
    uint32_t id;

    if (elem->out_bytes != sizeof(id) ||
        iov_read(elem->out, elem->out_count, 0, &id, sizeof(id)) != sizeof(id)) {
        virtio_error(&b->vdev, "Queue %u: a command id of %" G_GUINT64_FORMAT " bytes",
                     virtqueue_index(b->hints), elem->out_bytes);
        return false;
    }
    if (b->hint_status == BALLOON_HINT_REQUESTED && id == b->hint_id) {
        b->hint_status = BALLOON_HINT_START;
    } else if (b->hint_status == BALLOON_HINT_START && id != b->hint_id) {
        b->hint_status = BALLOON_HINT_STOP;
    }
    return true;
}

static void take_pages(struct virtio_balloon *b, const struct virtqueue_element *elem)
{
    for (unsigned i = 0; i < elem->in_count; i++) {
        struct ram_block *block;
        uint64_t offset, length;

        if (balloon_find_ram(b, elem->in_addr[i], &block, &offset, &length)) {
            ram_block_not_needed(block, offset, MIN(length, elem->in[i].iov_len));
        }
    }
}

void balloon_handle_hints(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_balloon *b = balloon_of(v);
    struct virtqueue_element *elem;
    bool used = false;

    while ((elem = virtqueue_pop(vq, sizeof(*elem)))) {
        if (elem->out_count && !take_command(b, elem)) {
            g_free(elem);
            return;
        }
        if (b->hint_status == BALLOON_HINT_START) {
            take_pages(b, elem);
        }
        virtqueue_push(vq, elem, 0);
        used = true;
        g_free(elem);
    }
    if (used) {
        virtqueue_notify(vq);
    }
}
