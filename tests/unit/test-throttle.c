/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much a guest is throttled (migration/converge/throttle.c) and how a vCPU carries brakes out
 * (system/throttle.c), with guests that are arithmetic. */
#include <glib.h>

#include "migration/converge/throttle.h"
#include "system/pace.h"
#include "system/throttle.h"
#include "system/vcpu.h"
#include "system/vm.h"

static const struct throttle_params defaults = {
    .trigger = 50, .initial = 20, .increment = 10, .max = 99
};

/* Looks at a guest that dirties `rate` pages a second when it runs all the time. */
static unsigned looks(struct throttle *t, const struct throttle_params *p, double rate, double link,
                      unsigned count)
{
    unsigned percent = t->engaged ? (unsigned)((1 - t->share) * 100 + 0.5) : 0;

    for (unsigned i = 0; i < count; i++) {
        percent = throttle_look(t, p, (uint64_t)(rate * (100 - percent) / 100 / 10), 0.1, link);
        g_assert_cmpuint(percent, <=, p->max);
    }
    return percent;
}

static void test_goes_there(void)
{
    for (double rate = 150000; rate <= 1200000; rate *= 2) {
        struct throttle t = { 0 };
        unsigned percent = looks(&t, &defaults, rate, 100000, 20);
        double left = rate * (100 - percent) / 100;

        g_test_message("%.0f pages/s: %u %%", rate, percent);
        g_assert_cmpfloat(left, <, 55000);
        g_assert_cmpfloat(left, >, 35000); /* and no slower than needed */
        /* it stays there */
        g_assert_cmpint(ABS((int)looks(&t, &defaults, rate, 100000, 5) - (int)percent), <=, 1);
    }
}

static void test_follows(void)
{
    struct throttle t = { 0 };
    unsigned busy = looks(&t, &defaults, 400000, 100000, 20);
    unsigned quieter = looks(&t, &defaults, 100000, 100000, 20);

    g_assert_cmpuint(quieter, <, busy);
    g_assert_cmpuint(looks(&t, &defaults, 1000, 100000, 20), ==, 0);
    g_assert_cmpint(ABS((int)looks(&t, &defaults, 400000, 100000, 20) - (int)busy), <=, 1);
}

static void test_leaves_alone(void)
{
    struct throttle t = { 0 };

    g_assert_cmpuint(looks(&t, &defaults, 49000, 100000, 100), ==, 0);
    /* a single burst is no reason */
    g_assert_cmpuint(throttle_look(&t, &defaults, 90000, 0.1, 100000), ==, 0);
    g_assert_cmpuint(looks(&t, &defaults, 49000, 100000, 100), ==, 0);
    g_assert_cmpuint(throttle_look(&t, &defaults, 90000, 0, 100000), ==, 0);
    g_assert_cmpuint(throttle_look(&t, &defaults, 90000, 0.1, 0), ==, 0);
}

static void test_max(void)
{
    struct throttle_params p = defaults;

    for (p.max = 20; p.max <= 99; p.max++) {
        struct throttle t = { 0 };

        g_assert_cmpuint(looks(&t, &p, 1e9, 1000, 30), ==, p.max);
    }
    /* lowered on the way */
    struct throttle t = { 0 };

    p.max = 99;
    g_assert_cmpuint(looks(&t, &p, 1e9, 1000, 30), ==, 99);
    p.max = 30;
    g_assert_cmpuint(throttle_look(&t, &p, 1, 0.1, 1000), <=, 30);
    p.max = 0;
    g_assert_cmpuint(looks(&t, &p, 1e9, 1000, 30), ==, 0);
}

static void test_ladder(void)
{
    static const unsigned want[] = { 0, 20, 20, 30, 30, 40, 40, 50 };
    struct throttle_params p = defaults;
    struct throttle t = { 0 };

    p.ladder = true;
    for (unsigned i = 0; i < G_N_ELEMENTS(want); i++) {
        g_assert_cmpuint(throttle_round(&t, &p, 1000, 900, false), ==, want[i]);
    }
    /* rounds that are good enough change nothing, and two in a row are wanted */
    for (unsigned i = 0; i < 5; i++) {
        g_assert_cmpuint(throttle_round(&t, &p, 1000, 900, false), ==, 50);
        g_assert_cmpuint(throttle_round(&t, &p, 1000, 400, false), ==, 50);
    }
    p.max = 65;
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpuint(throttle_round(&t, &p, 1000, 900, false), <=, 65);
    }
    g_assert_cmpuint(throttle_round(&t, &p, 0, 900, false), ==, 65);
}

static void test_tailslow(void)
{
    struct throttle_params p = defaults;
    struct throttle t = { 0 };

    p.ladder = p.tailslow = true;
    p.initial = 50;
    p.increment = 30;
    throttle_round(&t, &p, 1000, 600, false);
    g_assert_cmpuint(throttle_round(&t, &p, 1000, 600, false), ==, 50);
    throttle_round(&t, &p, 1000, 600, false);
    /* a sixth less writing is enough: 58 and not 80 */
    g_assert_cmpuint(throttle_round(&t, &p, 1000, 600, false), ==, 58);
}

static void test_rounds_only(void)
{
    struct throttle t = { 0 };
    unsigned percent = 0;

    for (unsigned i = 0; i < 12; i++) {
        percent = throttle_round(&t, &defaults, 100000,
                                 (uint64_t)MIN(800000.0 * (100 - percent) / 100, 100000.0), true);
    }
    g_assert_cmpfloat(800000.0 * (100 - percent) / 100, <, 55000);
}

/* The ring: 16,384 pages, each counted once in a round that takes a second. */
static void test_per_round(void)
{
    struct throttle t = { .per_round = true };
    unsigned percent = 0;
    double set = 0;

    for (unsigned i = 0; i < 12; i++) {
        set = 0;
        for (unsigned l = 0; l < 10; l++) {
            double fresh = MIN(400000.0 * (100 - percent) / 100 / 10, 16384 - set);

            set += fresh;
            percent = throttle_look(&t, &defaults, (uint64_t)fresh, 0.1, 16384);
        }
        percent = throttle_round(&t, &defaults, 16384, (uint64_t)set, false);
    }
    g_test_message("%u %%, %.0f pages in a round", percent, set);
    g_assert_cmpfloat(set, <, 16384 * 0.6);
    g_assert_cmpfloat(set, >, 16384 * 0.1);
    /* and it lets go when the guest becomes quiet */
    for (unsigned i = 0; i < 20; i++) {
        throttle_look(&t, &defaults, 10, 0.1, 16384);
        percent = throttle_round(&t, &defaults, 16384, 100, false);
    }
    g_assert_cmpuint(percent, ==, 0);
}

/* ---- the vCPU's side ---- */

struct fixture {
    struct vm vm;
    struct vcpu vcpu, *list[1];
    struct vcpu_pace pace;
};

static void set_up(struct fixture *f, gconstpointer data)
{
    (void)data;
    f->vcpu.vm = &f->vm;
    f->list[0] = &f->vcpu;
    f->vm.vcpus = f->list;
    f->vm.vcpu_count = 1;
}

static void tear_down(struct fixture *f, gconstpointer data)
{
    (void)f;
    (void)data;
}

#define MS INT64_C(1000000)

static void test_share(struct fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_false(vcpu_is_braked(&f->vcpu));
    g_assert_cmpint(vcpu_pace_slice_ns(&f->vcpu, &f->pace), ==, 0);
    for (unsigned percent = 1; percent <= 99; percent++) {
        vcpu_throttle_set(&f->vm, percent);
        int64_t slice = vcpu_pace_slice_ns(&f->vcpu, &f->pace);
        int64_t rest = vcpu_pace_rest_ns(&f->vcpu, &f->pace, slice, slice, 0);

        g_assert_cmpuint(vcpu_throttle_get(&f->vm), ==, percent);
        g_assert_true(vcpu_is_braked(&f->vcpu));
        g_assert_cmpint(slice + rest, >=, 10 * MS - 1000);
        g_assert_cmpint(slice + rest, <=, percent <= 97 ? 10 * MS + 1000 : 25 * MS + 1000);
        g_assert_cmpint(ABS(rest * 100 / (slice + rest) - percent), <=, 1);
    }
    vcpu_throttle_set(&f->vm, 1000);
    g_assert_cmpuint(vcpu_throttle_get(&f->vm), ==, 99);
    /* halted; kept from running for a second; a clock that went back */
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, 10 * MS, 0, 0), ==, 0);
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, 1000 * MS, 1000 * MS, 0), ==, 100 * MS);
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, -5, -5, 0), ==, 0);
    vcpu_throttle_set(&f->vm, 0);
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, 10 * MS, 10 * MS, 0), ==, 0);
}

/* A vCPU that writes `rate` pages a second while it runs, for four seconds; what it wrote a second
 * in the last two. */
static double limited(struct fixture *f, double rate, int64_t *longest_rest)
{
    int64_t now = 0, from = 0;
    double pages = 0;

    *longest_rest = 0;
    while (now < 4000 * MS) {
        int64_t slice = vcpu_pace_slice_ns(&f->vcpu, &f->pace);
        double wrote = rate * (double)slice / 1e9;
        int64_t rest;

        g_assert_cmpint(slice, >, 0);
        rest = vcpu_pace_rest_ns(&f->vcpu, &f->pace, slice, slice, (uint64_t)wrote);
        now += slice + rest;
        if (now < 2000 * MS) {
            from = now;
        } else {
            pages += wrote;
            *longest_rest = MAX(*longest_rest, rest);
        }
    }
    return pages / ((double)(now - from) / 1e9);
}

static void test_limit(struct fixture *f, gconstpointer data)
{
    int64_t rest;

    (void)data;
    for (uint64_t limit = 256; limit <= 256 * 1024; limit *= 4) {
        vcpu_limit_set(&f->vm, 0, limit);
        g_assert_cmpuint(vcpu_limit_get(&f->vm, 0), ==, limit);
        uint64_t slept = vcpu_limit_slept_ns(&f->vm, 0);
        double fast = limited(f, 400000, &rest);

        g_test_message("limit %" G_GUINT64_FORMAT ": %.0f pages/s", limit, fast);
        g_assert_cmpfloat(fast, <, (double)limit * 1.1);
        g_assert_cmpfloat(fast, >, MIN((double)limit, 400000) * 0.8);
        g_assert_cmpint(rest, <=, 100 * MS);
        g_assert_cmpuint(vcpu_limit_slept_ns(&f->vm, 0), >=, slept);
        /* one that writes less is left alone */
        double slow = limited(f, (double)limit / 2, &rest);

        g_assert_cmpfloat(slow, >, (double)limit / 2 * 0.9);
    }
    vcpu_limit_set(&f->vm, 0, 0);
    g_assert_cmpint(vcpu_pace_slice_ns(&f->vcpu, &f->pace), ==, 0);
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, 10 * MS, 10 * MS, 1000000), ==, 0);
    /* numbers nobody means */
    vcpu_limit_set(&f->vm, 0, UINT64_MAX);
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, MS, MS, UINT64_MAX), >=, 0);
    vcpu_limit_set(&f->vm, 0, 1);
    g_assert_cmpint(vcpu_pace_rest_ns(&f->vcpu, &f->pace, MS, MS, UINT64_MAX), ==, 100 * MS);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/throttle/goes-there", test_goes_there);
    g_test_add_func("/throttle/follows", test_follows);
    g_test_add_func("/throttle/leaves-alone", test_leaves_alone);
    g_test_add_func("/throttle/max", test_max);
    g_test_add_func("/throttle/ladder", test_ladder);
    g_test_add_func("/throttle/tailslow", test_tailslow);
    g_test_add_func("/throttle/rounds-only", test_rounds_only);
    g_test_add_func("/throttle/per-round", test_per_round);
    g_test_add("/pace/share", struct fixture, NULL, set_up, test_share, tear_down);
    g_test_add("/pace/limit", struct fixture, NULL, set_up, test_limit, tear_down);
    return g_test_run();
}
