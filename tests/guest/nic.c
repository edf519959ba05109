/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A network device under load and under test (net=send, recv or both). Frames are Ethernet frames
 * of type 0x88b5 with a magic number, a number that goes up by one, and content that follows from
 * it.
 *
 * Sent ones are numbered from 1; who watches the other end sees each number once. Of those received
 * the content is checked; a number that is not above the last one was doubled or overtaken
 * (`back`), one that is more than one above it says how many were lost before (`gaps`). Each buffer
 * comes back exactly once, or `unasked` counts.
 */
#include "virtio.h"

#define DEPTH_MAX  128u
#define FRAME_MAX  1514u
#define FRAME_MIN  60u
#define ROOM       2048u
#define HEAD       (14u + 16u) /* Ethernet, magic and number */
#define MAGIC      0x6672727966726d65u
#define HDR        12u
#define HDR_LEGACY 10u
#define SPIN       64u

#define F_MAC (1ull << 5)

static struct vdev dev;
static struct vring rx, tx;
static volatile struct mailbox_nic *m;
static u8 rx_in_flight[DEPTH_MAX], tx_in_flight[DEPTH_MAX];
static u64 rx_buffers, tx_buffers, credit_at, credit;
static u32 hdr_len;
static u8 mac[6];

static u64 get64(const volatile u8 *p)
{
    u64 v = 0;

    for (u32 i = 8; i-- > 0;) {
        v = v << 8 | p[i];
    }
    return v;
}

static void put64(volatile u8 *p, u64 v)
{
    for (u32 i = 0; i < 8; i++, v >>= 8) {
        p[i] = (u8)v;
    }
}

static void add(struct vring *q, u32 slot, u64 addr, u32 frame, u8 write)
{
    struct vpiece pieces[2] = { { addr, hdr_len, write }, { addr + hdr_len, frame, write } };

    /* without VIRTIO_F_ANY_LAYOUT the header has a descriptor of its own */
    if (dev.features & (VIRTIO_ANY_LAYOUT | VIRTIO_VERSION_1)) {
        pieces[0].len += frame;
        virtio_add(&dev, q, slot, pieces, 1);
    } else {
        virtio_add(&dev, q, slot, pieces, 2);
    }
}

/* ---- receive ---- */

static void post(u32 slot)
{
    rx_in_flight[slot] = 1;
    add(&rx, slot, rx_buffers + (u64)slot * ROOM, ROOM - hdr_len, 1);
}

static void check(u32 slot, const volatile u8 *p, u32 len)
{
    u64 number;

    if (len < HEAD || p[12] != 0x88 || p[13] != 0xb5 || get64(p + 14) != MAGIC) {
        m->others++;
        return;
    }
    number = get64(p + 22);
    for (u32 i = HEAD; vcfg.nic_check && i < len; i++) {
        if (p[i] != (u8)(number + i)) {
            m->bad++;
            report_line("BAD frame number=%u at=%u expected=%u got=%u", number, (u64)i,
                        (u64)(u8)(number + i), (u64)p[i]);
            break;
        }
    }
    if (number <= m->last) {
        if (!m->back++) {
            m->back_number = number;
            m->back_last = m->last;
            m->back_place = slot;
            m->back_count = m->received;
            for (u32 i = 0; i < 2000; i++) {
                cpu_relax();
            }
            m->back_again = get64(p + 22);
        }
    } else {
        m->gaps += m->last ? number - m->last - 1 : 0;
        m->last = number;
    }
    m->received++;
}

static int receive(void)
{
    u32 slot, len, n = 0;

    while (virtio_used(&rx, &slot, &len)) {
        n++;
        if (slot >= vcfg.nic_depth || !rx_in_flight[slot]) {
            m->unasked++;
            report_line("BAD nic: a receive buffer that is not in flight: place=%u", (u64)slot);
            continue;
        }
        rx_in_flight[slot] = 0;
        check(slot, (const volatile u8 *)(rx_buffers + (u64)slot * ROOM + hdr_len),
              len > hdr_len ? len - hdr_len : 0);
        post(slot);
    }
    if (n) {
        virtio_kick(&dev, &rx);
        virtio_reaped(&dev, &rx);
    }
    return n != 0;
}

/* ---- transmit ---- */

static void send(u32 slot)
{
    volatile u8 *p = (volatile u8 *)(tx_buffers + (u64)slot * ROOM + hdr_len);
    u64 number = ++m->sent;

    put64(p + 22, number);
    for (u32 i = HEAD; vcfg.nic_check && i < vcfg.nic_bytes; i++) {
        p[i] = (u8)(number + i);
    }
    tx_in_flight[slot] = 1;
    add(&tx, slot, tx_buffers + (u64)slot * ROOM, vcfg.nic_bytes, 0);
    m->in_flight++;
}

static int sent(void)
{
    u32 slot, len, n = 0;

    while (virtio_used(&tx, &slot, &len)) {
        n++;
        if (slot >= vcfg.nic_depth || !tx_in_flight[slot]) {
            m->unasked++;
            report_line("BAD nic: a sent frame that is not in flight: place=%u", (u64)slot);
            continue;
        }
        tx_in_flight[slot] = 0;
        m->in_flight--;
        m->completed++;
    }
    if (n) {
        virtio_reaped(&dev, &tx);
    }
    return n != 0;
}

static u64 allowance(u64 now)
{
    if (vcfg.nic_rate == ~0ull) {
        return DEPTH_MAX;
    }
    if (now - credit_at > 1000000000) {
        credit_at = now - 1000000000;
    }
    credit += (now - credit_at) * vcfg.nic_rate;
    credit_at = now;
    credit = credit > DEPTH_MAX * 1000000000ull ? DEPTH_MAX * 1000000000ull : credit;
    return credit / 1000000000;
}

static void send_more(u64 now)
{
    u64 may = allowance(now);

    for (u32 i = 0; i < vcfg.nic_depth && may; i++) {
        if (!tx_in_flight[i]) {
            send(i);
            may--;
            credit -= credit >= 1000000000 ? 1000000000 : credit;
        }
    }
    virtio_kick(&dev, &tx);
}

int nic_step(struct cpu *c, u64 now)
{
    int found = 0, sends = vcfg.nic != NIC_RECV;

    (void)c;
    if (!dev.regs) {
        return 0;
    }
    for (u32 i = 0; i < SPIN && !found; i++) {
        found = receive();
        found |= sends ? sent() : 0;
        cpu_relax();
    }
    if (sends) {
        m->idle = m->stop && !m->in_flight;
        if (!m->stop) {
            send_more(now);
        }
    }
    m->kicks = tx.kicks + rx.kicks;
    return 1;
}

void nic_layout(volatile struct mailbox_nic *mailbox_nic)
{
    u32 pieces;

    m = mailbox_nic;
    vcfg.nic_depth = vcfg.nic_depth < 1           ? 1
                     : vcfg.nic_depth > DEPTH_MAX ? DEPTH_MAX
                                                  : vcfg.nic_depth;
    vcfg.nic_bytes = vcfg.nic_bytes < FRAME_MIN   ? FRAME_MIN
                     : vcfg.nic_bytes > FRAME_MAX ? FRAME_MAX
                                                  : vcfg.nic_bytes;
    if (!virtio_begin(&dev, VIRTIO_NET, F_MAC)) {
        report_line("PANIC no virtio network");
        dev.regs = 0;
        return;
    }
    hdr_len = dev.legacy ? HDR_LEGACY : HDR;
    pieces = dev.features & (VIRTIO_ANY_LAYOUT | VIRTIO_VERSION_1) ? 1 : 2;
    virtio_ring(&dev, &rx, 0, pieces);
    virtio_ring(&dev, &tx, 1, pieces);
    rx_buffers = virtio_take(DEPTH_MAX * ROOM);
    tx_buffers = virtio_take(DEPTH_MAX * ROOM);
    if (!rx_buffers || !tx_buffers) {
        report_line("PANIC no memory for frames");
        dev.regs = 0;
        return;
    }
    for (u32 i = 0; i < 6; i++) {
        mac[i] = virtio_config_byte(&dev, i);
    }
    for (u32 slot = 0; slot < vcfg.nic_depth; slot++) {
        volatile u8 *p = (volatile u8 *)(tx_buffers + (u64)slot * ROOM + hdr_len);

        for (u32 i = 0; i < 6; i++) {
            p[i] = 0xff;
            p[6 + i] = mac[i];
        }
        p[0] = 2; /* to 02:ff:ff:ff:ff:ff */
        p[12] = 0x88;
        p[13] = 0xb5;
        put64(p + 14, MAGIC);
        post(slot);
    }
    virtio_go(&dev);
    virtio_kick(&dev, &rx);
    m->slot = dev.slot;
    m->features = dev.features;
    m->mac = (u64)mac[0] << 40 | (u64)mac[1] << 32 | (u64)mac[2] << 24 | (u64)mac[3] << 16 |
             (u64)mac[4] << 8 | mac[5];
    m->state = 1;
}
