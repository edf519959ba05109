/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon: pages that the guest gives and takes back (VIRTIO 1.2, 5.5.6.1), and free pages
 * that it reports (5.5.6.7).
 *
 * Trust: a page number is any 32 bits. Only what lies in memory that the guest can write is given
 * back to the host; the rest is skipped, as in QEMU. How much one call does is bounded, since it
 * holds the machine lock: the handler then asks to be called again.
 *
 * Host pages. Only whole pages of the host can be given back. Where they are huge, the parts of one
 * of them are collected until it is complete; parts of another one, or of it a part that is taken
 * back, begin anew. What has been given in parts is only used better by the host if the guest
 * gives all of it.
 *
 * While memory is missing (post-copy) nothing is given back: to the kernel a page that was
 * discarded is a page that has not come, and the guest would wait for what is not sent again. The
 * guest's request counts all the same. The host refuses locked memory; that is said once.
 *
 * A page taken back needs nothing: the guest's first access brings it.
 */
#include <string.h>

#include "balloon-internal.h"
#include "util/bitmap.h"
#include "util/error.h"

#define PFN_SHIFT 12 /* whatever the page size: 5.5.6 */
/* Page numbers of a request. Linux names 256 at once. */
#define MAX_PFNS 16384u
/* Of a call, which ends with the request that reaches it: giving one back may take 10 us. */
#define TURN_PFNS 2048u

/* Neighbours are given back together. */
struct run {
    struct ram_block *block;
    uint64_t offset, length;
};

bool balloon_find_ram(struct virtio_balloon *b, uint64_t gpa, struct ram_block **block,
                      uint64_t *offset, uint64_t *length)
{
    unsigned count;
    const struct ram_map *maps = memory_ram_maps(b->vdev.dev.vm->memory, &count);

    for (unsigned i = 0; i < count; i++) {
        const struct ram_map *m = &maps[i];

        if (!m->readonly && gpa >= m->gpa && gpa - m->gpa < m->length) {
            *block = m->block;
            *offset = m->offset + (gpa - m->gpa);
            *length = m->length - (gpa - m->gpa);
            return true;
        }
    }
    return false;
}

static void discard(struct virtio_balloon *b, struct ram_block *block, uint64_t offset,
                    uint64_t length)
{
    g_autoptr(GError) err = NULL;

    if (memory_has_gate(b->vdev.dev.vm->memory) || ram_block_discard(block, offset, length, &err) ||
        b->refusal_told) {
        return;
    }
    b->refusal_told = true;
    report_warning("%s: %s; what the guest gives back stays allocated", BALLOON_TYPE, err->message);
}

static void run_end(struct virtio_balloon *b, struct run *r)
{
    if (r->block) {
        discard(b, r->block, r->offset, r->length);
        r->block = NULL;
    }
}

static void run_add(struct virtio_balloon *b, struct run *r, struct ram_block *block,
                    uint64_t offset)
{
    if (r->block == block && offset - r->offset < r->length) {
        return; /* named twice */
    }
    if (r->block == block && offset == r->offset + r->length) {
        r->length += TARGET_PAGE_SIZE;
    } else if (r->block == block && offset + TARGET_PAGE_SIZE == r->offset) {
        r->offset = offset;
        r->length += TARGET_PAGE_SIZE;
    } else {
        run_end(b, r);
        *r = (struct run){ block, offset, TARGET_PAGE_SIZE };
    }
}

void balloon_pages_reset(struct virtio_balloon *b)
{
    g_clear_pointer(&b->part_given, g_free);
    b->part_block = NULL;
}

static bool is_part(const struct virtio_balloon *b, const struct ram_block *block, uint64_t offset)
{
    return b->part_block == block && b->part_offset == (offset & ~(block->page_size - 1));
}

/* A part of a huge page. */
static void give_part(struct virtio_balloon *b, struct ram_block *block, uint64_t offset)
{
    uint64_t parts = block->page_size >> TARGET_PAGE_BITS;
    uint64_t part = (offset & (block->page_size - 1)) >> TARGET_PAGE_BITS;

    if (!is_part(b, block, offset)) {
        balloon_pages_reset(b);
        b->part_block = block;
        b->part_offset = offset & ~(block->page_size - 1);
        b->part_pages = 0;
        b->part_given = bitmap_new(parts);
    }
    if (!bitmap_test(b->part_given, part)) {
        bitmap_set(b->part_given, part);
        b->part_pages++;
    }
    if (b->part_pages == parts) {
        discard(b, block, b->part_offset, block->page_size);
        balloon_pages_reset(b);
    }
}

static void page_named(struct virtio_balloon *b, struct run *r, uint32_t pfn, bool inflate)
{
    struct ram_block *block;
    uint64_t offset, length;

    if (!balloon_find_ram(b, (uint64_t)pfn << PFN_SHIFT, &block, &offset, &length)) {
        return;
    }
    if (inflate && block->page_size == TARGET_PAGE_SIZE) {
        run_add(b, r, block, offset);
    } else if (inflate) {
        give_part(b, block, offset);
    } else if (is_part(b, block, offset)) {
        balloon_pages_reset(b);
    }
}

/* All page numbers of a request; bytes behind the last whole one do not count. */
static unsigned pages_named(struct virtio_balloon *b, const struct virtqueue_element *elem,
                            bool inflate)
{
    uint32_t pfns[256];
    unsigned total = (unsigned)(MIN(elem->out_bytes, MAX_PFNS * sizeof(pfns[0])) / sizeof(pfns[0]));
    struct run r = { 0 };

    for (unsigned at = 0; at < total;) {
        unsigned n = MIN(total - at, (unsigned)G_N_ELEMENTS(pfns));

        iov_read(elem->out, elem->out_count, at * sizeof(pfns[0]), pfns, n * sizeof(pfns[0]));
        for (unsigned i = 0; i < n; i++) {
            page_named(b, &r, pfns[i], inflate);
        }
        at += n;
    }
    run_end(b, &r);
    return total;
}

void balloon_handle_pages(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_balloon *b = balloon_of(v);
    struct virtqueue_element *elem;
    unsigned done = 0;
    bool used = false;

    while (done < TURN_PFNS && (elem = virtqueue_pop(vq, sizeof(*elem)))) {
        if (elem->out_bytes > MAX_PFNS * sizeof(uint32_t)) {
            virtio_error(v, "Queue %u: a request names more than %u pages", virtqueue_index(vq),
                         MAX_PFNS);
            g_free(elem);
            return;
        }
        done += 1 + pages_named(b, elem, vq == b->inflate);
        virtqueue_push(vq, elem, 0);
        used = true;
        g_free(elem);
    }
    if (used) {
        virtqueue_notify(vq);
    }
    if (done >= TURN_PFNS) {
        virtqueue_kick(vq);
    }
}

/* ---- reports ---- */

/*
 * A free page may come back as it was, or full of what the guest fills free pages with. Discarded
 * memory is zero; where a private mapping of a file lies below, it is what the file has.
 */
static bool may_lose_content(const struct virtio_balloon *b, const struct ram_block *block)
{
    return !virtio_has(&b->vdev, BALLOON_F_PAGE_POISON) ||
           (!b->poison && (block->fd < 0 || block->shared));
}

static void piece_reported(struct virtio_balloon *b, uint64_t gpa, uint64_t length)
{
    struct ram_block *block;
    uint64_t offset, there, from, to;

    if (!balloon_find_ram(b, gpa, &block, &offset, &there) || !may_lose_content(b, block)) {
        return;
    }
    from = (offset + block->page_size - 1) & ~(block->page_size - 1);
    to = (offset + MIN(length, there)) & ~(block->page_size - 1);
    if (from < to) {
        discard(b, block, from, to - from);
    }
}

void balloon_handle_reports(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_balloon *b = balloon_of(v);
    struct virtqueue_element *elem;
    unsigned done = 0;
    bool used = false;

    while (done < TURN_PFNS && (elem = virtqueue_pop(vq, sizeof(*elem)))) {
        for (unsigned i = 0; i < elem->in_count; i++) {
            piece_reported(b, elem->in_addr[i], elem->in[i].iov_len);
        }
        done += 1 + elem->in_count;
        virtqueue_push(vq, elem, 0);
        used = true;
        g_free(elem);
    }
    if (used) {
        virtqueue_notify(vq);
    }
    if (done >= TURN_PFNS) {
        virtqueue_kick(vq);
    }
}
