/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-blk: what its files share. virtio-blk.c has the device, virtio-blk-request.c requests. */
#ifndef HW_BLOCK_VIRTIO_BLK_H
#define HW_BLOCK_VIRTIO_BLK_H

#include "block/block.h"
#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"

#define BLK_SECTOR 512

/* Feature bits: VIRTIO 1.1, 5.2.3; SCSI is the legacy interface's. */
#define BLK_FEATURE_SEG_MAX      2
#define BLK_FEATURE_GEOMETRY     4
#define BLK_FEATURE_RO           5
#define BLK_FEATURE_BLK_SIZE     6
#define BLK_FEATURE_SCSI         7
#define BLK_FEATURE_FLUSH        9
#define BLK_FEATURE_TOPOLOGY     10
#define BLK_FEATURE_CONFIG_WCE   11
#define BLK_FEATURE_MQ           12
#define BLK_FEATURE_DISCARD      13
#define BLK_FEATURE_WRITE_ZEROES 14

struct virtio_blk;

/* A request of the guest; g_free() of `pieces` and of itself. */
struct blk_request {
    struct virtqueue_element elem; /* first */
    struct virtio_blk *b;
    struct block_request req;
    bool write;           /* as werror= and rerror= see it */
    struct iovec *pieces; /* the data without header and status; `few` where that is enough */
    struct iovec few[4];
    struct blk_request *next; /* in `waiting` */
};

struct blk_list {
    struct blk_request *first, **end;
};

struct virtio_blk {
    struct virtio_device vdev; /* first */
    struct block_node *node;
    char *place; /* in a stream */

    /* properties */
    char *drive, *serial, *werror_text, *rerror_text;
    uint16_t num_queues, queue_size;
    uint32_t logical_block_size, physical_block_size, min_io_size, opt_io_size;
    uint32_t discard_granularity, max_discard_sectors, max_write_zeroes_sectors;
    uint32_t boot_index;
    bool share_rw, config_wce, discard, write_zeroes, seg_max_adjust, scsi;
    int write_cache; /* on, off, auto */

    enum block_error_action werror, rerror;
    bool read_only;
    bool wce; /* the guest flushes what must be safe; else each write is */
    BlockDeviceIoStatus io_status;
    /* What failed and is tried again when the machine runs, and what was in flight when the guest
     * came here. */
    struct blk_list waiting;
    struct blk_request *held; /* of those, whose memory is waited for with the lock dropped */
    uint64_t notify; /* bits of queues (the last stands for all above) with something used */
};

/* Handles what a queue holds, after what waits. On the I/O thread. */
void blk_handle_queue(struct virtio_device *v, struct virtqueue *vq);
/* The driver is told of what was used since the last time. */
void blk_notify(struct virtio_blk *b);

void blk_list_init(struct blk_list *list);
void blk_list_add(struct blk_list *list, struct blk_request *r);
struct blk_request *blk_list_take(struct blk_list *list);
void blk_request_free(struct blk_request *r);

#endif
