/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk under load and under test (blk=1). The disk, or the first blksize= bytes of it, is a row
 * of blocks of blkbs= bytes, one request each. Every sector carries its number, the generation of
 * its block and a content that follows from both; a table in memory says which generation a block
 * has. A write brings the next one, a read must find the one in the table.
 *
 * So a write that was lost, done twice (once too late), torn or put elsewhere is found by the next
 * read of the block, and the host may look at the file when nothing is in flight. Requests are
 * counted by their place in the ring: each completes exactly once, or `unasked` counts.
 *
 * First all blocks are written once, in order (state FILL); then requests go on for ever, or until
 * somebody writes to `stop`. A block has one request at a time: the highest bit of its generation
 * says so.
 */
#include "virtio.h"

#define SECTOR     512u
#define WORDS      (SECTOR / 8)
#define DEPTH_MAX  64u
#define BYTES_MAX  (128u << 10)
#define BLOCKS_MAX (1u << 20)
#define BUSY       0x80000000u
#define BAD_LINES  8u
#define SPIN       64u /* looks at the used ring between two turns of the work loop */

#define T_READ  0
#define T_WRITE 1
#define T_FLUSH 4

#define F_FLUSH (1ull << 9)

struct header {
    u32 type, reserved;
    u64 sector;
    u8 status; /* behind what the device reads */
    u8 pad[47];
};

/* A request in flight, or a place for one. */
struct request {
    u64 begun;
    u32 block;
    u32 type;
    u8 in_flight;
};

static struct vdev dev;
static struct vring ring;
static volatile struct mailbox_disk *m;
static struct request requests[DEPTH_MAX];
static struct header *headers;
static u64 buffers;
static u32 *generations;
static u32 blocks, next_block, bad_printed;
static u64 random_state = 88172645463325252u, credit_at, credit;

/* ---- content ---- */

static u64 *buffer(u32 slot)
{
    return (u64 *)(buffers + (u64)slot * vcfg.disk_bytes);
}

/* With blkcheck=0 only the first two words and the last of a sector are written and looked at. */
static void fill(u32 slot, u64 sector, u64 generation)
{
    volatile u64 *p = buffer(slot);

    for (u32 s = 0; s < vcfg.disk_bytes / SECTOR; s++, p += WORDS) {
        u64 base = pattern_base(sector + s, generation, cfg.seed);

        p[0] = sector + s;
        p[1] = generation;
        for (u32 w = 2; vcfg.disk_check && w < WORDS - 1; w++) {
            p[w] = pattern_random(base, w);
        }
        p[WORDS - 1] = pattern_random(base, WORDS - 1);
    }
}

static u64 expected(u64 sector, u64 generation, u64 base, u32 w)
{
    return w == 0 ? sector : w == 1 ? generation : pattern_random(base, w);
}

static void complain(u64 sector, u32 w, u64 want, u64 got)
{
    if (!m->bad_sectors++) {
        m->bad_sector = sector;
        m->bad_word = w;
        m->bad_expected = want;
        m->bad_got = got;
    }
    if (bad_printed++ < BAD_LINES) {
        report_line("BAD disk sector=%u word=%u expected=%x got=%x", sector, (u64)w, want, got);
    }
}

static void verify(u32 slot, u64 sector, u64 generation)
{
    const volatile u64 *p = buffer(slot);

    for (u32 s = 0; s < vcfg.disk_bytes / SECTOR; s++, p += WORDS) {
        u64 base = pattern_base(sector + s, generation, cfg.seed);

        for (u32 w = 0; w < WORDS; w++) {
            u64 want;

            if (!vcfg.disk_check && w == 2) {
                w = WORDS - 1;
            }
            want = expected(sector + s, generation, base, w);
            if (p[w] != want) {
                complain(sector + s, w, want, p[w]);
                break;
            }
        }
    }
    m->sectors_read += vcfg.disk_bytes / SECTOR;
}

/* ---- requests ---- */

static u64 random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x9b05688c1f83d9abu >> 11;
}

/* A block that has no request in flight. There are more blocks than requests. */
static u32 pick(void)
{
    u32 b = next_block;

    if (m->state == MAILBOX_DISK_RUN && vcfg.disk_pick != PICK_SEQ) {
        b = (u32)(random() % blocks);
    }
    while (generations[b] & BUSY) {
        b = b + 1 < blocks ? b + 1 : 0;
    }
    next_block = b + 1 < blocks ? b + 1 : 0;
    return b;
}

static u32 pick_type(void)
{
    if (m->state == MAILBOX_DISK_FILL) {
        return T_WRITE;
    }
    if (vcfg.disk_flush && (dev.features & F_FLUSH) && m->submitted % vcfg.disk_flush == 0) {
        return T_FLUSH;
    }
    return random() % 100 < m->percent ? T_READ : T_WRITE;
}

static void submit(u32 slot, u64 now)
{
    struct request *r = &requests[slot];
    struct header *h = &headers[slot];
    struct vpiece pieces[3] = { { (u64)h, 16, 0 } };
    u32 count = 1;

    r->type = pick_type();
    r->begun = now;
    r->in_flight = 1;
    h->type = r->type;
    h->sector = 0;
    h->status = 0xff;
    if (r->type != T_FLUSH) {
        r->block = pick();
        h->sector = (u64)r->block * (vcfg.disk_bytes / SECTOR);
        if (r->type == T_WRITE) {
            fill(slot, h->sector, generations[r->block] + 1ull);
        }
        generations[r->block] |= BUSY;
        pieces[count++] = (struct vpiece){ (u64)buffer(slot), vcfg.disk_bytes, r->type == T_READ };
    }
    pieces[count++] = (struct vpiece){ (u64)&h->status, 1, 1 };
    virtio_add(&dev, &ring, slot, pieces, count);
    m->submitted++;
    m->in_flight++;
}

static void complete(u32 slot, u32 len, u64 now)
{
    struct request *r = &requests[slot];
    u64 took;
    u32 wrote;

    if (slot >= vcfg.disk_depth || !r->in_flight) {
        m->unasked++;
        report_line("BAD disk completed a request that is not in flight: place=%u", (u64)slot);
        return;
    }
    wrote = r->type == T_READ ? vcfg.disk_bytes + 1 : 1;
    r->in_flight = 0;
    m->in_flight--;
    m->completed++;
    took = now - r->begun;
    m->latency_ns += took;
    if (took > m->latency_max_ns) {
        m->latency_max_ns = took;
    }
    if (headers[slot].status || len != wrote) {
        m->failed++;
        report_line("BAD disk request type=%u block=%u status=%u length=%u", (u64)r->type,
                    (u64)r->block, (u64)headers[slot].status, (u64)len);
    }
    if (r->type == T_FLUSH) {
        m->flushes++;
        return;
    }
    generations[r->block] &= ~BUSY;
    if (r->type == T_WRITE) {
        generations[r->block]++;
        m->writes++;
    } else {
        verify(slot, headers[slot].sector, generations[r->block]);
        m->reads++;
    }
}

static int reap(struct cpu *c)
{
    u32 slot, len, n = 0;
    u64 now = 0;

    while (virtio_used(&ring, &slot, &len)) {
        now = n++ ? now : clock_now(c, 0);
        complete(slot, len, now);
    }
    if (n) {
        virtio_reaped(&dev, &ring);
    }
    return n != 0;
}

/* How many may begin now. */
static u64 allowance(u64 now)
{
    if (vcfg.disk_rate == ~0ull || m->state == MAILBOX_DISK_FILL) {
        credit_at = now;
        return DEPTH_MAX;
    }
    if (now - credit_at > 1000000000) {
        credit_at = now - 1000000000; /* after a pause there is nothing to make up for */
    }
    credit += (now - credit_at) * vcfg.disk_rate;
    credit_at = now;
    credit = credit > DEPTH_MAX * 1000000000ull ? DEPTH_MAX * 1000000000ull : credit;
    return credit / 1000000000;
}

static void start_requests(u64 now)
{
    u64 may = allowance(now), depth = m->depth;

    depth = depth < vcfg.disk_depth ? depth : vcfg.disk_depth;
    for (u32 i = 0; i < depth && may; i++) {
        if (requests[i].in_flight) {
            continue;
        }
        if (m->state == MAILBOX_DISK_FILL && m->submitted == blocks) {
            break;
        }
        submit(i, now);
        may--;
        credit -= credit >= 1000000000 ? 1000000000 : credit;
    }
    virtio_kick(&dev, &ring);
    m->kicks = ring.kicks;
}

int disk_step(struct cpu *c, u64 now)
{
    if (!dev.regs) {
        return 0;
    }
    for (u32 i = 0; i < SPIN && m->in_flight && !reap(c); i++) {
        cpu_relax();
    }
    if (m->state == MAILBOX_DISK_FILL && m->completed == blocks) {
        m->state = MAILBOX_DISK_RUN;
        next_block = 0;
        report_line("DISK blocks=%u bytes=%u depth=%u legacy=%u", (u64)blocks, (u64)vcfg.disk_bytes,
                    (u64)vcfg.disk_depth, (u64)dev.legacy);
    }
    if (m->stop && m->state == MAILBOX_DISK_RUN) {
        m->idle = !m->in_flight;
    } else {
        m->idle = 0;
        start_requests(now);
    }
    return m->in_flight != 0;
}

void disk_layout(volatile struct mailbox_disk *mailbox_disk)
{
    u64 bytes;

    m = mailbox_disk;
    vcfg.disk_depth = vcfg.disk_depth < 1           ? 1
                      : vcfg.disk_depth > DEPTH_MAX ? DEPTH_MAX
                                                    : vcfg.disk_depth;
    if (!vcfg.disk_bytes || vcfg.disk_bytes % SECTOR || vcfg.disk_bytes > BYTES_MAX) {
        report_line("ARG bad blkbs");
        vcfg.disk_bytes = 4096;
    }
    if (!virtio_begin(&dev, VIRTIO_DISK, F_FLUSH)) {
        report_line("PANIC no virtio disk");
        dev.regs = 0;
        return;
    }
    bytes = ((u64)virtio_read(&dev, 0x104) << 32 | virtio_read(&dev, 0x100)) * SECTOR;
    m->capacity = bytes;
    bytes = vcfg.disk_size && vcfg.disk_size < bytes ? vcfg.disk_size : bytes;
    bytes /= vcfg.disk_bytes;
    blocks = bytes > BLOCKS_MAX ? BLOCKS_MAX : (u32)bytes;
    virtio_ring(&dev, &ring, 0, 3);
    headers = (struct header *)virtio_take(DEPTH_MAX * sizeof(*headers));
    generations = (u32 *)virtio_take(4ull * blocks);
    buffers = virtio_take((u64)vcfg.disk_depth * vcfg.disk_bytes);
    if (blocks <= vcfg.disk_depth || !headers || !generations || !buffers) {
        report_line("PANIC the disk is too small, or memory for it");
        dev.regs = 0;
        return;
    }
    virtio_go(&dev);
    m->depth = vcfg.disk_depth;
    m->percent = vcfg.disk_reads;
    m->slot = dev.slot;
    m->features = dev.features;
    m->blocks = blocks;
    m->block_bytes = vcfg.disk_bytes;
    m->generation_addr = (u64)generations;
    m->state = MAILBOX_DISK_FILL;
}
