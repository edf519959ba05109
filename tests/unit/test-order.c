/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order of the background in post-copy, against guests that read memory in all manners. A model
 * of a link that carries a page a slot: what is asked for overtakes, the background fills the rest;
 * a request takes LATENCY slots to the source and a page as many back. Counted are the faults and
 * the slots that vCPUs stood still, which would have been one and the other for every page without
 * a background.
 */
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "migration/postcopy/order.h"
#include "util/bitmap.h"

#define PAGES     65536u
#define LATENCY   12u /* slots one way: 4 us a page, 100 us there and back */
#define MAX_VCPUS 16u
#define BATCH     16u                       /* pages that are claimed together */
#define QUEUE     (MAX_VCPUS * 2 * LATENCY) /* a page may come without being waited for */

typedef uint64_t manner(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand);

static uint64_t upwards(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand)
{
    (void)rand;
    return (PAGES / 3 + vcpu * (PAGES / vcpus) + step) % PAGES;
}

static uint64_t downwards(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand)
{
    (void)rand;
    return (PAGES + PAGES / 3 + vcpu * (PAGES / vcpus) - step) % PAGES;
}

static uint64_t strided(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand)
{
    (void)rand;
    return (PAGES / 3 + vcpu * (PAGES / vcpus) + step * 8) % PAGES;
}

static uint64_t anywhere(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand)
{
    (void)vcpu;
    (void)vcpus;
    (void)step;
    return (uint64_t)g_rand_int_range(rand, 0, PAGES);
}

/* A working set of an eighth of the memory, and in it anywhere. */
static uint64_t nearby(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand)
{
    (void)step;
    return (PAGES / 3 + vcpu * (PAGES / vcpus) +
            (uint64_t)g_rand_int_range(rand, 0, PAGES / 8 / (gint)vcpus)) %
           PAGES;
}

/* The first vCPU upwards, the others anywhere. */
static uint64_t mixed(unsigned vcpu, unsigned vcpus, uint64_t step, GRand *rand)
{
    return vcpu ? anywhere(vcpu, vcpus, step, rand) : upwards(vcpu, vcpus, step, rand);
}

struct result {
    uint64_t faults, stalled;
};

struct model {
    struct dirty_set owed;
    struct order_block block;
    struct order order;
    uint64_t arrives[PAGES]; /* slot; UINT64_MAX: not sent */
    struct piece batch[BATCH];
    unsigned pieces;
    struct {
        uint64_t page, at;
    } requests[QUEUE]; /* on their way, in order */
    unsigned requested;
};

static void send_page(struct model *m, uint64_t page, uint64_t now)
{
    m->arrives[page] = now + LATENCY;
}

/* What the link carries in this slot. */
static void slot(struct model *m, uint64_t now, bool follow)
{
    while (m->requested && m->requests[0].at <= now) {
        uint64_t page = m->requests[0].page;

        memmove(m->requests, m->requests + 1, --m->requested * sizeof(m->requests[0]));
        if (follow) {
            order_asked(&m->order, 0, page);
        }
        if (bitmap_test(m->owed.words, page)) {
            dirty_set_remove(&m->owed, page, 1);
            send_page(m, page, now);
            return;
        }
    }
    if (!m->pieces) {
        for (uint64_t n = 0; n < BATCH && m->pieces < BATCH; n += m->batch[m->pieces++].count) {
            struct piece *p = &m->batch[m->pieces];

            if (!order_next(&m->order, BATCH - n, p)) {
                break;
            }
            dirty_set_remove(&m->owed, p->first, p->count);
        }
    }
    if (m->pieces) {
        send_page(m, m->batch[0].first++, now);
        if (!--m->batch[0].count) {
            memmove(m->batch, m->batch + 1, --m->pieces * sizeof(m->batch[0]));
        }
    }
}

/* vCPUs that touch `steps` pages each, one per `think` slots where none is missing. */
static struct result run(manner *next, unsigned vcpus, uint64_t steps, unsigned think, bool follow)
{
    struct model *m = g_new0(struct model, 1);
    GRand *rand = g_rand_new_with_seed(1);
    uint64_t page[MAX_VCPUS], step[MAX_VCPUS] = { 0 }, ready[MAX_VCPUS] = { 0 };
    bool waits[MAX_VCPUS] = { false };
    struct result r = { 0 };
    unsigned running = vcpus;

    dirty_set_init(&m->owed, PAGES);
    dirty_set_fill(&m->owed);
    m->block = (struct order_block){ .owed = &m->owed, .unit = 1 };
    order_init(&m->order, &m->block, 1);
    memset(m->arrives, 0xff, sizeof(m->arrives));
    for (unsigned v = 0; v < vcpus; v++) {
        page[v] = next(v, vcpus, 0, rand);
    }
    for (uint64_t now = 0; running; now++) {
        for (unsigned v = 0; v < vcpus; v++) {
            while (step[v] < steps && ready[v] <= now * 4) { /* quarters of a slot */
                if (m->arrives[page[v]] > now) {
                    r.stalled++;
                    ready[v] = now * 4 + 4;
                    if (!waits[v]) {
                        waits[v] = true;
                        r.faults++;
                        m->requests[m->requested].page = page[v];
                        m->requests[m->requested++].at = now + LATENCY;
                    }
                    break;
                }
                waits[v] = false;
                ready[v] = MAX(ready[v], now * 4) + think;
                if (++step[v] == steps) {
                    running--;
                } else {
                    page[v] = next(v, vcpus, step[v], rand);
                }
            }
        }
        slot(m, now, follow);
    }
    dirty_set_clear(&m->owed);
    g_rand_free(rand);
    g_free(m);
    return r;
}

static const struct {
    const char *name;
    manner *next;
    unsigned vcpus;
    uint64_t steps;
    unsigned think; /* quarters of a slot */
    double most;    /* faults, of those in order of address */
} guests[] = {
    { "upwards, fast", upwards, 1, 20000, 1, 0.5 },
    { "upwards, slow", upwards, 1, 20000, 16, 0.01 },
    { "upwards, 4 vCPUs", upwards, 4, 5000, 8, 0.6 },
    { "upwards, 16 vCPUs", upwards, 16, 2000, 32, 0.5 },
    { "upwards, 4 slow", upwards, 4, 5000, 32, 0.02 },
    { "upwards, 16 slow", upwards, 16, 2000, 128, 0.03 },
    { "up and anywhere", mixed, 2, 5000, 8, 0.9 },
    { "up and 7 anywhere", mixed, 8, 3000, 16, 1.01 },
    { "downwards, fast", downwards, 1, 20000, 1, 0.5 },
    { "downwards, slow", downwards, 1, 20000, 16, 0.01 },
    { "downwards, 4 vCPUs", downwards, 4, 5000, 8, 0.5 },
    { "strided, fast", strided, 1, 5000, 4, 1.01 },
    { "strided, slow", strided, 1, 5000, 64, 0.01 },
    { "anywhere", anywhere, 1, 5000, 16, 1.01 },
    { "anywhere, 16 vCPUs", anywhere, 16, 2000, 64, 1.01 },
    { "nearby", nearby, 1, 5000, 16, 0.4 },
    { "nearby, 16 vCPUs", nearby, 16, 2000, 64, 0.5 },
};

/* Whatever is asked for when, each page is proposed once, in whole host pages. */
static void test_each_once(void)
{
    GRand *rand = g_rand_new_with_seed(3);
    static const struct {
        uint64_t pages, unit;
    } shapes[] = { { 5000, 1 }, { 4096, 512 }, { 1, 1 }, { 64, 64 }, { 4100, 8 } };
    struct dirty_set owed[G_N_ELEMENTS(shapes)];
    struct order_block blocks[G_N_ELEMENTS(shapes)];
    uint64_t left = 0;
    struct order order;
    struct piece p;

    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        dirty_set_init(&owed[i], shapes[i].pages);
        dirty_set_fill(&owed[i]);
        blocks[i] = (struct order_block){ .owed = &owed[i], .unit = shapes[i].unit };
        left += shapes[i].pages;
    }
    order_init(&order, blocks, G_N_ELEMENTS(shapes));
    while (order_next(&order, (uint64_t)g_rand_int_range(rand, 0, 40), &p)) {
        uint64_t first, unit = shapes[p.block].unit;

        g_assert_cmpuint(p.count, >, 0);
        g_assert_cmpuint(p.count, <=, MAX(unit, 40));
        g_assert_cmpuint(p.first % unit, ==, 0);
        g_assert_true(p.count % unit == 0 || p.first + p.count == shapes[p.block].pages);
        g_assert_cmpuint(dirty_set_next_run(&owed[p.block], p.first, p.first + p.count, &first), ==,
                         p.count);
        dirty_set_remove(&owed[p.block], p.first, p.count);
        left -= p.count;
        for (int n = g_rand_int_range(rand, 0, 4); n > 2; n--) {
            unsigned block = (unsigned)g_rand_int_range(rand, 0, G_N_ELEMENTS(shapes));
            uint64_t page = (uint64_t)g_rand_int_range(rand, 0, (gint32)shapes[block].pages);

            order_asked(&order, block, page / shapes[block].unit * shapes[block].unit);
        }
    }
    g_assert_cmpuint(left, ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        dirty_set_clear(&owed[i]);
    }
    g_rand_free(rand);
}

static void test_guests(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(guests); i++) {
        struct result in_order =
            run(guests[i].next, guests[i].vcpus, guests[i].steps, guests[i].think, false);
        struct result r =
            run(guests[i].next, guests[i].vcpus, guests[i].steps, guests[i].think, true);

        g_print("# %-20s faults %6lu (address order %6lu), stalled %7lu (%7lu)\n", guests[i].name,
                r.faults, in_order.faults, r.stalled, in_order.stalled);
        g_assert_cmpfloat((double)r.faults, <=, guests[i].most * (double)in_order.faults);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/order/each-once", test_each_once);
    g_test_add_func("/order/guests", test_guests);
    return g_test_run();
}
