/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtio in the workload guest: what virtio.c (registers and rings), disk.c and nic.c share. Ring
 * 3, vCPU 0. The rings are polled; interrupts are asked for only with virtirq=1, and then only
 * acknowledged: no vector belongs to them.
 */
#ifndef TESTS_GUEST_VIRTIO_H
#define TESTS_GUEST_VIRTIO_H

#include "guest.h"

#define VIRTIO_NET  1
#define VIRTIO_DISK 2

#define VIRTIO_RING       256u /* entries of every ring */
#define VIRTIO_ANY_LAYOUT (1ull << 27)
#define VIRTIO_INDIRECT   (1ull << 28)
#define VIRTIO_EVENT_IDX  (1ull << 29)
#define VIRTIO_VERSION_1  (1ull << 32)

struct vring_desc {
    u64 addr;
    u32 len;
    u16 flags, next;
};

/* A piece of a request. */
struct vpiece {
    u64 addr;
    u32 len;
    u8 write; /* by the device */
};

struct vring {
    struct vring_desc *desc;
    volatile u16 *avail;       /* flags, index, entries, used_event */
    volatile u16 *used;        /* flags, index, entries of 8 bytes, avail_event */
    struct vring_desc *tables; /* VIRTIO_RING of them, for requests that are indirect */
    u32 index;
    u32 pieces;      /* descriptors that belong to each request */
    u16 added, told; /* index of the next request; the device was told of those before */
    u16 seen;        /* in the used ring */
    u64 kicks;
};

struct vdev {
    volatile u8 *regs; /* 0: there is none */
    u64 slot;
    u64 features;
    u8 legacy, event_idx, indirect;
};

struct virtio_config {
    u64 disk_size; /* bytes of the disk in use, 0: all */
    u64 disk_rate; /* requests a second */
    u64 nic_rate;  /* frames a second */
    u32 disk_bytes, disk_depth, disk_reads, disk_flush;
    u32 nic_bytes, nic_depth;
    u8 disk, disk_pick, disk_check;
    u8 nic, nic_check;
    u8 event_idx, indirect, interrupts;
};
extern struct virtio_config vcfg;

enum nic_kind { NIC_OFF, NIC_SEND, NIC_RECV, NIC_BOTH };

/* virtio.c */
/* Zeroed pages of guest memory, before the data pages are dealt out. */
u64 virtio_take(u64 bytes);
u32 virtio_read(const struct vdev *d, u32 offset);
u8 virtio_config_byte(const struct vdev *d, u32 offset);
/* Finds a device, resets it and agrees with it on features; 0: there is none, or it refused. */
int virtio_begin(struct vdev *d, u32 device_id, u64 features);
/* Each request has at most `pieces` descriptors; request i of a ring uses its own. */
void virtio_ring(struct vdev *d, struct vring *q, u32 index, u32 pieces);
void virtio_go(struct vdev *d);
/* Puts request `slot` into the ring. */
void virtio_add(struct vdev *d, struct vring *q, u32 slot, const struct vpiece *p, u32 count);
/* Tells the device of what was added, if it wants to know. */
void virtio_kick(struct vdev *d, struct vring *q);
/* The next used request; 0: none. *slot is VIRTIO_RING where no request begins there. */
int virtio_used(struct vring *q, u32 *slot, u32 *len);
/* After the last of some used ones: when to interrupt next, and acknowledges what did. */
void virtio_reaped(struct vdev *d, struct vring *q);

/* disk.c, nic.c */
void disk_layout(volatile struct mailbox_disk *m);
int disk_step(struct cpu *c, u64 now);
void nic_layout(volatile struct mailbox_nic *m);
int nic_step(struct cpu *c, u64 now);

#endif
