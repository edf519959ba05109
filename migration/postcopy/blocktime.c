/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See migration/postcopy/blocktime.h. The distribution is kept finer than it is shown: eight steps
 * within each power of two, so that p50 and p99 are right within an eighth.
 */
#include "migration/postcopy/blocktime.h"

#include <string.h>

#define STEP_BITS 3u
#define STEPS     (1u << STEP_BITS)
#define FINE      (ARRIVAL_LATENCY_BUCKETS * STEPS)

struct blocktime {
    unsigned vcpus, waiting;
    int64_t all_since, all_ns;
    int64_t sum_ns;
    uint64_t faults;
    uint64_t fine[FINE];
    struct {
        int64_t since; /* 0: does not wait */
        int64_t ns;
    } vcpu[];
};

struct blocktime *blocktime_new(unsigned vcpus)
{
    struct blocktime *bt = g_malloc0(sizeof(*bt) + vcpus * sizeof(bt->vcpu[0]));

    bt->vcpus = vcpus;
    return bt;
}

void blocktime_free(struct blocktime *bt)
{
    g_free(bt);
}

void blocktime_begin(struct blocktime *bt, unsigned vcpu, int64_t now)
{
    if (!bt->vcpu[vcpu].since) {
        bt->vcpu[vcpu].since = now;
        if (++bt->waiting == bt->vcpus) {
            bt->all_since = now;
        }
    }
}

void blocktime_end(struct blocktime *bt, unsigned vcpu, int64_t now)
{
    if (bt->vcpu[vcpu].since) {
        if (bt->waiting-- == bt->vcpus) {
            bt->all_ns += now - bt->all_since;
        }
        bt->vcpu[vcpu].ns += now - bt->vcpu[vcpu].since;
        bt->vcpu[vcpu].since = 0;
    }
}

/* Step i begins at 2^(i / 8) * (1 + i % 8 / 8) us; below 8 us steps are whole microseconds or
 * empty. */
static unsigned fine_index(uint64_t us)
{
    unsigned power = us ? 63 - (unsigned)__builtin_clzll(us) : 0;
    uint64_t rest = us ? us - (UINT64_C(1) << power) : 0;

    if (power >= ARRIVAL_LATENCY_BUCKETS) {
        return FINE - 1;
    }
    return power * STEPS + (unsigned)((rest << STEP_BITS) >> power);
}

static uint64_t fine_end_us(unsigned i)
{
    unsigned power = i / STEPS;

    return ((UINT64_C(1) << power) * (STEPS + i % STEPS + 1)) >> STEP_BITS;
}

void blocktime_answered(struct blocktime *bt, int64_t ns)
{
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;

    bt->faults++;
    bt->sum_ns += ns;
    bt->fine[fine_index(us)]++;
}

/* So that `percent` of the faults took no longer. */
static uint64_t percentile(const struct blocktime *bt, unsigned percent)
{
    uint64_t rank = (bt->faults * percent + 99) / 100, seen = 0;

    for (unsigned i = 0; rank && i < FINE; i++) {
        seen += bt->fine[i];
        if (seen >= rank) {
            return MAX(fine_end_us(i), 1);
        }
    }
    return 0;
}

void blocktime_get(const struct blocktime *bt, int64_t now, struct arrival_blocktime *t)
{
    int64_t all = bt->all_ns;

    if (bt->vcpus && bt->waiting == bt->vcpus) {
        all += now - bt->all_since;
    }
    t->all_blocked_us = (uint64_t)all / 1000;
    t->vcpus = bt->vcpus;
    t->vcpu_us = g_new0(uint64_t, bt->vcpus);
    for (unsigned i = 0; i < bt->vcpus; i++) {
        int64_t ns = bt->vcpu[i].ns + (bt->vcpu[i].since ? now - bt->vcpu[i].since : 0);

        t->vcpu_us[i] = (uint64_t)ns / 1000;
    }
    t->faults = bt->faults;
    t->mean_us = bt->faults ? (double)bt->sum_ns / 1e3 / (double)bt->faults : 0;
    t->p50_us = percentile(bt, 50);
    t->p99_us = percentile(bt, 99);
    memset(t->buckets, 0, sizeof(t->buckets));
    for (unsigned i = 0; i < FINE; i++) {
        t->buckets[i / STEPS] += bt->fine[i];
    }
}
