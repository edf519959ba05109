/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Registers and split rings of virtio-mmio (VIRTIO 1.1, 4.2 and 2.6), legacy and modern, driven
 * from ring 3: the first 4 GiB are mapped for it, registers included. A register access is an exit,
 * so once a device is set up there is none but the notification, and with virtirq=1 the two that
 * acknowledge an interrupt.
 *
 * virtio_layout() runs before data pages are dealt out and sets the devices up; they idle until
 * virtio_step() is called by vCPU 0's loop.
 */
#include "virtio.h"

#define SLOTS     0xfeb00000u
#define SLOT_SIZE 0x200u
#define SLOT_MAX  24u

#define R_MAGIC     0x000
#define R_VERSION   0x004
#define R_DEVICE    0x008
#define R_FEATURES  0x010
#define R_FEAT_SEL  0x014
#define R_ACCEPT    0x020
#define R_ACC_SEL   0x024
#define R_PAGE_SIZE 0x028
#define R_QUEUE     0x030
#define R_NUM_MAX   0x034
#define R_NUM       0x038
#define R_ALIGN     0x03c
#define R_PFN       0x040
#define R_READY     0x044
#define R_NOTIFY    0x050
#define R_ISR       0x060
#define R_ACK       0x064
#define R_STATUS    0x070
#define R_DESC      0x080
#define R_AVAIL     0x090
#define R_USED      0x0a0
#define R_CONFIG    0x100

#define S_ACK         1u
#define S_DRIVER      2u
#define S_DRIVER_OK   4u
#define S_FEATURES_OK 8u

#define D_NEXT     1
#define D_WRITE    2
#define D_INDIRECT 4

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

#define TABLE 4u /* descriptors of an indirect table */

struct virtio_config vcfg = {
    .disk_rate = ~0ull,
    .nic_rate = ~0ull,
    .disk_bytes = 4096,
    .disk_depth = 8,
    .disk_reads = 50,
    .disk_pick = PICK_RANDOM,
    .disk_check = 1,
    .nic_bytes = 60,
    .nic_depth = 64,
    .nic_check = 1,
};

u64 virtio_take(u64 bytes)
{
    struct region *r = &regions[0];
    u64 pages = (bytes + PAGE_SIZE - 1) / PAGE_SIZE, addr = r->addr;

    if (!region_count || pages >= r->pages) {
        return 0;
    }
    r->addr += pages * PAGE_SIZE;
    r->pages -= pages;
    for (u64 i = 0; i < pages * PAGE_SIZE; i += 8) {
        *(volatile u64 *)(addr + i) = 0;
    }
    return addr;
}

/* ---- registers ---- */

u32 virtio_read(const struct vdev *d, u32 offset)
{
    return *(volatile u32 *)(d->regs + offset);
}

static void put(const struct vdev *d, u32 offset, u32 v)
{
    *(volatile u32 *)(d->regs + offset) = v;
}

u8 virtio_config_byte(const struct vdev *d, u32 offset)
{
    return *(d->regs + R_CONFIG + offset);
}

static int find(struct vdev *d, u32 device_id)
{
    for (u32 i = 0; i < SLOT_MAX; i++) {
        d->regs = (volatile u8 *)(u64)(SLOTS + i * SLOT_SIZE);
        if (virtio_read(d, R_MAGIC) != 0x74726976) {
            break;
        }
        if (virtio_read(d, R_DEVICE) == device_id) {
            d->slot = i;
            d->legacy = virtio_read(d, R_VERSION) == 1;
            return 1;
        }
    }
    d->regs = 0;
    return 0;
}

int virtio_begin(struct vdev *d, u32 device_id, u64 features)
{
    u64 offered;

    if (!find(d, device_id)) {
        return 0;
    }
    features |= vcfg.event_idx ? VIRTIO_EVENT_IDX : 0;
    features |= vcfg.indirect ? VIRTIO_INDIRECT : 0;
    features |= d->legacy ? VIRTIO_ANY_LAYOUT : VIRTIO_VERSION_1;
    put(d, R_STATUS, 0);
    put(d, R_STATUS, S_ACK);
    put(d, R_STATUS, S_ACK | S_DRIVER);
    put(d, R_FEAT_SEL, 0);
    offered = virtio_read(d, R_FEATURES);
    put(d, R_FEAT_SEL, 1);
    offered |= (u64)virtio_read(d, R_FEATURES) << 32;
    d->features = offered & features;
    put(d, R_ACC_SEL, 0);
    put(d, R_ACCEPT, (u32)d->features);
    if (d->legacy) {
        put(d, R_PAGE_SIZE, PAGE_SIZE);
    } else {
        put(d, R_ACC_SEL, 1);
        put(d, R_ACCEPT, (u32)(d->features >> 32));
        put(d, R_STATUS, S_ACK | S_DRIVER | S_FEATURES_OK);
        if (!(virtio_read(d, R_STATUS) & S_FEATURES_OK)) {
            return 0;
        }
    }
    d->event_idx = (d->features & VIRTIO_EVENT_IDX) != 0;
    d->indirect = (d->features & VIRTIO_INDIRECT) != 0;
    return 1;
}

static void put_address(const struct vdev *d, u32 offset, u64 addr)
{
    put(d, offset, (u32)addr);
    put(d, offset + 4, (u32)(addr >> 32));
}

void virtio_ring(struct vdev *d, struct vring *q, u32 index, u32 pieces)
{
    /* descriptors 4096 bytes, available ring up to the next page, used ring: as legacy wants it */
    u64 addr = virtio_take(3 * PAGE_SIZE + 2048);

    q->index = index;
    q->pieces = pieces;
    q->desc = (struct vring_desc *)addr;
    q->avail = (volatile u16 *)(addr + 16 * VIRTIO_RING);
    q->used = (volatile u16 *)(addr + 2 * PAGE_SIZE);
    if (d->indirect) {
        q->tables = (struct vring_desc *)virtio_take(VIRTIO_RING * TABLE * sizeof(*q->tables));
    }
    put(d, R_QUEUE, index);
    put(d, R_NUM, VIRTIO_RING);
    if (d->legacy) {
        put(d, R_ALIGN, PAGE_SIZE);
        put(d, R_PFN, (u32)(addr / PAGE_SIZE));
    } else {
        put_address(d, R_DESC, addr);
        put_address(d, R_AVAIL, (u64)q->avail);
        put_address(d, R_USED, (u64)q->used);
        put(d, R_READY, 1);
    }
    virtio_reaped(d, q);
}

void virtio_go(struct vdev *d)
{
    put(d, R_STATUS, S_ACK | S_DRIVER | S_DRIVER_OK | (d->legacy ? 0 : S_FEATURES_OK));
}

/* ---- rings ---- */

void virtio_add(struct vdev *d, struct vring *q, u32 slot, const struct vpiece *p, u32 count)
{
    u32 head = slot * q->pieces;
    struct vring_desc *to = d->indirect ? q->tables + slot * TABLE : q->desc + head;
    u32 first = d->indirect ? 0 : head;

    for (u32 i = 0; i < count; i++) {
        to[i].addr = p[i].addr;
        to[i].len = p[i].len;
        to[i].flags = (u16)((p[i].write ? D_WRITE : 0) | (i + 1 < count ? D_NEXT : 0));
        to[i].next = (u16)(first + i + 1);
    }
    if (d->indirect) {
        q->desc[head] = (struct vring_desc){ (u64)to, count * 16, D_INDIRECT, 0 };
    }
    q->avail[2 + q->added % VIRTIO_RING] = (u16)head;
    barrier(); /* stores are seen in their order on x86 */
    q->added++;
    q->avail[1] = q->added;
}

void virtio_kick(struct vdev *d, struct vring *q)
{
    u16 old = q->told, event;
    int wanted;

    if (old == q->added) {
        return;
    }
    q->told = q->added;
    asm volatile("mfence" : : : "memory");
    event = q->used[2 + 4 * VIRTIO_RING];
    wanted = d->event_idx ? (u16)(q->added - event - 1) < (u16)(q->added - old)
                          : !(q->used[0] & USED_NO_NOTIFY);
    if (wanted) {
        q->kicks++;
        put(d, R_NOTIFY, q->index);
    }
}

int virtio_used(struct vring *q, u32 *slot, u32 *len)
{
    const volatile u32 *e = (const volatile u32 *)(q->used + 2) + 2 * (q->seen % VIRTIO_RING);

    if (q->used[1] == q->seen) {
        return 0;
    }
    barrier();
    *slot = e[0] % q->pieces || e[0] >= VIRTIO_RING ? VIRTIO_RING : e[0] / q->pieces;
    *len = e[1];
    q->seen++;
    return 1;
}

void virtio_reaped(struct vdev *d, struct vring *q)
{
    if (!vcfg.interrupts) {
        q->avail[0] = AVAIL_NO_INTERRUPT;
        q->avail[2 + VIRTIO_RING] = (u16)(q->seen + 0x8000); /* used_event: not in sight */
        return;
    }
    if (q->seen) {
        put(d, R_ACK, virtio_read(d, R_ISR));
    }
    q->avail[2 + VIRTIO_RING] = q->seen;
    asm volatile("mfence" : : : "memory");
}

/* ---- what the guest calls ---- */

void virtio_layout(void)
{
    u64 area;

    if (!vcfg.disk && !vcfg.nic) {
        return;
    }
    area = virtio_take(PAGE_SIZE);
    if (!area) {
        report_line("PANIC no memory for virtio");
        return;
    }
    mailbox->virtio_addr = area;
    if (vcfg.disk) {
        disk_layout((volatile struct mailbox_disk *)area);
    }
    if (vcfg.nic) {
        nic_layout((volatile struct mailbox_nic *)(area + MAILBOX_NIC_OFF));
    }
}

int virtio_step(struct cpu *c, u64 now)
{
    int busy = 0;

    if (vcfg.disk) {
        busy = disk_step(c, now);
    }
    if (vcfg.nic) {
        busy |= nic_step(c, now);
    }
    return busy;
}
