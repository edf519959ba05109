/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of virtio-blk (VIRTIO 1.1, 5.2.6): a header of 16 bytes that the driver wrote, data, and
 * a status byte at the end of what the device writes. They may lie in the descriptors in any way.
 *
 * A header that is not there, or no room for the status, is a broken rule (virtio_error()). What
 * can be answered is answered: IOERR for what lies outside the disk, UNSUPP for what the device
 * does not know. Only a request that passed here reaches the disk, and only the disk's errors are
 * subject to werror= and rerror=.
 *
 * A request that failed and stops the machine waits; it is read anew from the guest's memory when
 * the machine runs again, here or, after a migration, elsewhere.
 */
#include <errno.h>
#include <string.h>

#include "qapi/qapi-events.h"
#include "system/vm.h"
#include "util/error.h"
#include "virtio-blk.h"

#define HEADER_BYTES  16
#define SEGMENT_BYTES 16
#define ID_BYTES      20

/* Types, without the two bits that older drivers set as they like. */
#define TYPE_IGNORED      (0x80000000u | 1)
#define TYPE_WRITES       1u
#define TYPE_TRANSFER     0
#define TYPE_SCSI         2
#define TYPE_FLUSH        4
#define TYPE_GET_ID       8
#define TYPE_DISCARD      10 /* 11 */
#define TYPE_WRITE_ZEROES 12 /* 13 */

#define STATUS_OK     0
#define STATUS_IOERR  1
#define STATUS_UNSUPP 2

#define SEGMENT_UNMAP 1u

void blk_list_init(struct blk_list *list)
{
    list->first = NULL;
    list->end = &list->first;
}

void blk_list_add(struct blk_list *list, struct blk_request *r)
{
    r->next = NULL;
    *list->end = r;
    list->end = &r->next;
}

struct blk_request *blk_list_take(struct blk_list *list)
{
    struct blk_request *r = list->first;

    if (r) {
        list->first = r->next;
        if (!list->first) {
            list->end = &list->first;
        }
    }
    return r;
}

static void drop_pieces(struct blk_request *r)
{
    if (r->pieces != r->few) {
        g_free(r->pieces);
    }
    r->pieces = NULL;
}

void blk_request_free(struct blk_request *r)
{
    drop_pieces(r);
    g_free(r);
}

void blk_notify(struct virtio_blk *b)
{
    uint64_t bits = b->notify;

    b->notify = 0;
    for (unsigned i = 0; bits && i < b->vdev.queues->len; i++) {
        if (bits >> MIN(i, 63) & 1) {
            virtqueue_notify(g_ptr_array_index(b->vdev.queues, i));
        }
    }
}

static void finish(struct blk_request *r, uint8_t status)
{
    struct virtio_blk *b = r->b;
    struct virtqueue_element *e = &r->elem;

    if (!virtqueue_element_is_stale(e)) {
        iov_write(e->in, e->in_count, e->in_bytes - 1, &status, 1);
        virtqueue_push(e->vq, e, (uint32_t)e->in_bytes);
        b->notify |= UINT64_C(1) << MIN(virtqueue_index(e->vq), 63);
    }
    blk_request_free(r);
}

/* --- errors of the disk --- */

static BlockErrorAction decide(const struct virtio_blk *b, bool write, int error)
{
    switch (write ? b->werror : b->rerror) {
    case BLOCK_ERROR_IGNORE:
        return BLOCK_ERROR_ACTION_IGNORE;
    case BLOCK_ERROR_STOP:
        return BLOCK_ERROR_ACTION_STOP;
    case BLOCK_ERROR_ENOSPC:
        return error == ENOSPC ? BLOCK_ERROR_ACTION_STOP : BLOCK_ERROR_ACTION_REPORT;
    default:
        return BLOCK_ERROR_ACTION_REPORT;
    }
}

static bool may_stop(enum block_error_action action)
{
    return action == BLOCK_ERROR_STOP || action == BLOCK_ERROR_ENOSPC;
}

static void fail(struct blk_request *r, int error)
{
    struct virtio_blk *b = r->b;
    BlockErrorAction action = decide(b, r->write, error);

    qapi_event_send_block_io_error(
        b->vdev.dev.vm, block_drive_id(b->node), block_node_name(b->node),
        r->write ? IO_OPERATION_TYPE_WRITE : IO_OPERATION_TYPE_READ, action,
        may_stop(b->werror) || may_stop(b->rerror), error == ENOSPC, g_strerror(error));
    if (action == BLOCK_ERROR_ACTION_STOP) {
        if (b->io_status == BLOCK_DEVICE_IO_STATUS_OK) {
            b->io_status =
                error == ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE : BLOCK_DEVICE_IO_STATUS_FAILED;
            report_warning("Disk '%s' cannot be %s: '%s': %s; the guest is stopped: %s, then cont",
                           block_name(b->node), r->write ? "written" : "read", block_path(b->node),
                           g_strerror(error), error == ENOSPC ? "make room" : "look after it");
        }
        blk_list_add(&b->waiting, r);
        vm_request_stop(b->vdev.dev.vm, RUN_STATE_IO_ERROR);
        return;
    }
    finish(r, action == BLOCK_ERROR_ACTION_IGNORE ? STATUS_OK : STATUS_IOERR);
}

static void done(struct block_request *req, int ret)
{
    struct blk_request *r = req->opaque;

    if (virtqueue_element_is_stale(&r->elem)) {
        blk_request_free(r);
    } else if (ret < 0) {
        fail(r, -ret);
    } else {
        finish(r, STATUS_OK);
    }
}

/* --- from the ring to the disk --- */

static void submit(struct blk_request *r, enum block_op op, uint64_t offset, uint64_t bytes)
{
    struct virtio_blk *b = r->b;

    r->write = op != BLOCK_READ;
    r->req.op = op;
    r->req.offset = offset;
    r->req.bytes = bytes;
    r->req.fua = !b->wce && op != BLOCK_READ && op != BLOCK_FLUSH;
    r->req.iov = r->pieces;
    r->req.done = done;
    r->req.opaque = r;
    block_submit(b->node, &r->req);
}

/* The bytes [skip, skip + bytes) of a vector, as pieces of the request. */
static void take_pieces(struct blk_request *r, const struct iovec *iov, unsigned count,
                        uint64_t skip, uint64_t bytes)
{
    r->pieces = count <= G_N_ELEMENTS(r->few) ? r->few : g_new(struct iovec, count);
    r->req.iov_count = 0;
    for (unsigned i = 0; i < count && bytes; i++) {
        uint64_t length;

        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        length = MIN(iov[i].iov_len - skip, bytes);
        r->pieces[r->req.iov_count++] =
            (struct iovec){ (char *)iov[i].iov_base + skip, (size_t)length };
        bytes -= length;
        skip = 0;
    }
}

static bool inside(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    uint64_t length = block_length(b->node);

    return sector <= length / BLK_SECTOR && bytes <= length - sector * BLK_SECTOR &&
           (sector * BLK_SECTOR | bytes) % b->logical_block_size == 0;
}

static void transfer(struct blk_request *r, bool write, uint64_t sector)
{
    const struct virtqueue_element *e = &r->elem;
    uint64_t bytes = write ? e->out_bytes - HEADER_BYTES : e->in_bytes - 1;

    if (!inside(r->b, sector, bytes) || (write && r->b->read_only)) {
        block_count_invalid(r->b->node, write ? BLOCK_WRITE : BLOCK_READ);
        finish(r, STATUS_IOERR);
        return;
    }
    if (write) {
        take_pieces(r, e->out, e->out_count, HEADER_BYTES, bytes);
    } else {
        take_pieces(r, e->in, e->in_count, 0, bytes);
    }
    submit(r, write ? BLOCK_WRITE : BLOCK_READ, sector * BLK_SECTOR, bytes);
}

/* Discard and write zeroes: one segment, which is what the configuration space promises. */
static bool segment(struct blk_request *r, bool zeroes)
{
    struct virtio_blk *b = r->b;
    const struct virtqueue_element *e = &r->elem;
    uint8_t raw[SEGMENT_BYTES];
    uint64_t sector, bytes;
    uint32_t sectors, flags;

    if (e->out_bytes < HEADER_BYTES + SEGMENT_BYTES) {
        virtio_error(&b->vdev, "A discard or write zeroes request has no segment");
        return false;
    }
    iov_read(e->out, e->out_count, HEADER_BYTES, raw, sizeof(raw));
    memcpy(&sector, raw, 8);
    memcpy(&sectors, raw + 8, 4);
    memcpy(&flags, raw + 12, 4);
    bytes = (uint64_t)sectors * BLK_SECTOR;
    if (e->out_bytes > HEADER_BYTES + SEGMENT_BYTES || !(zeroes ? b->write_zeroes : b->discard) ||
        (flags & ~(zeroes ? SEGMENT_UNMAP : 0))) {
        finish(r, STATUS_UNSUPP);
        return true;
    }
    if (b->read_only || !inside(b, sector, bytes) ||
        sectors > (zeroes ? b->max_write_zeroes_sectors : b->max_discard_sectors)) {
        block_count_invalid(b->node, zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD);
        finish(r, STATUS_IOERR);
        return true;
    }
    r->req.unmap = flags & SEGMENT_UNMAP;
    submit(r, zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD, sector * BLK_SECTOR, bytes);
    return true;
}

static void get_id(struct blk_request *r)
{
    const struct virtqueue_element *e = &r->elem;
    char id[ID_BYTES + 1] = "";
    size_t length;

    g_strlcpy(id, r->b->serial ? r->b->serial : "", sizeof(id));
    length = MIN(strlen(id) + 1, ID_BYTES);
    iov_write(e->in, e->in_count, 0, id, MIN(length, (size_t)e->in_bytes - 1));
    finish(r, STATUS_OK);
}

/* Takes over the request, which is whole in memory. False: the guest broke a rule. */
static bool handle(struct virtio_blk *b, struct blk_request *r)
{
    const struct virtqueue_element *e = &r->elem;
    uint8_t header[HEADER_BYTES];
    uint32_t type;
    uint64_t sector;

    drop_pieces(r);
    r->b = b;
    memset(&r->req, 0, sizeof(r->req));
    if (e->out_bytes < HEADER_BYTES || !e->in_bytes) {
        virtio_error(&b->vdev, e->in_bytes ? "A request has no header"
                                           : "A request has no room for its status");
        blk_request_free(r);
        return false;
    }
    iov_read(e->out, e->out_count, 0, header, sizeof(header));
    memcpy(&type, header, 4);
    memcpy(&sector, header + 8, 8);
    switch (type & ~TYPE_IGNORED) {
    case TYPE_TRANSFER:
        transfer(r, type & TYPE_WRITES, sector);
        return true;
    case TYPE_FLUSH:
        submit(r, BLOCK_FLUSH, 0, 0);
        return true;
    case TYPE_SCSI: /* legacy; what has no room for the answer's parts fails otherwise */
        finish(r, e->out_count < 2 || e->in_count < 3 ? STATUS_IOERR : STATUS_UNSUPP);
        return true;
    case TYPE_GET_ID:
        get_id(r);
        return true;
    case TYPE_DISCARD:
    case TYPE_WRITE_ZEROES:
        if (!(type & TYPE_WRITES)) {
            finish(r, STATUS_UNSUPP);
            return true;
        }
        if (!segment(r, (type & ~TYPE_IGNORED) == TYPE_WRITE_ZEROES)) {
            blk_request_free(r);
            return false;
        }
        return true;
    default:
        finish(r, STATUS_UNSUPP);
        return true;
    }
}

/*
 * What stopped the machine, or came with the guest. Waiting for its memory drops the lock: a reset
 * may come meanwhile, which takes all that waits out of the list and frees it, but not the one that
 * is looked at here.
 */
static void handle_waiting(struct virtio_blk *b)
{
    struct blk_request *r, *last = NULL;

    for (r = b->waiting.first; r; r = r->next) {
        last = r;
    }
    while (last && (r = b->waiting.first) && !b->vdev.broken) {
        bool ready, was_last = r == last;

        b->held = r;
        ready = virtqueue_element_is_stale(&r->elem) || virtqueue_element_wait(&r->elem);
        b->held = NULL;
        if (b->waiting.first != r) {
            blk_request_free(r); /* a reset */
            return;
        }
        if (!ready && !virtqueue_element_is_stale(&r->elem)) {
            return; /* the machine has stopped */
        }
        blk_list_take(&b->waiting);
        if (virtqueue_element_is_stale(&r->elem)) {
            blk_request_free(r);
        } else {
            handle(b, r);
        }
        if (was_last) {
            return; /* what failed meanwhile waits for the next start */
        }
    }
}

void blk_handle_queue(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_blk *b = (struct virtio_blk *)v;
    struct blk_request *r;

    block_plug(b->node);
    handle_waiting(b);
    block_unplug(b->node);
    do {
        virtqueue_want_kicks(vq, false);
        block_plug(b->node);
        while ((r = (struct blk_request *)(void *)virtqueue_pop(vq, sizeof(*r))) && handle(b, r)) {
        }
        block_unplug(b->node);
        blk_notify(b);
        virtqueue_want_kicks(vq, true);
    } while (v->running && !v->broken &&
             !virtqueue_is_empty(vq)); /* empty: its turn is over, too */
}
