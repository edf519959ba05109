/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a pause and a whole migration are expected to take, from made-up measurements. */
#include "migration/predict.h"

#include <glib.h>

#define MIB UINT64_C(1048576)
#define MS  INT64_C(1000000)

static void near(double is, double want, double part)
{
    g_assert_cmpfloat(is, >, want * (1 - part));
    g_assert_cmpfloat(is, <, want * (1 + part));
}

static void test_bandwidth(void)
{
    struct prediction p = { .vcpus = 1, .ferry = true };

    g_assert_cmpfloat(predict_bandwidth(&p), ==, 0);
    predict_link(&p, 100 * MIB, 1000 * MS, true, true);
    near(predict_bandwidth(&p), 100.0 * MIB, 0.001);
    /* a round slowed down by a limit; its last burst was not */
    predict_link(&p, 50 * MIB, 1000 * MS, true, true);
    predict_link(&p, 4 * MIB, 10 * MS, true, false);
    near(predict_bandwidth(&p), 400.0 * MIB, 0.001);
    /* what nobody has read says nothing about the link */
    predict_link(&p, 4 * MIB, 1 * MS, false, false);
    near(predict_bandwidth(&p), 400.0 * MIB, 0.001);
    /* a few pages measure round trips */
    for (int i = 0; i < 10; i++) {
        predict_link(&p, 4096, 1 * MS, true, true);
        predict_link(&p, 4096, 1 * MS, true, false);
    }
    near(predict_bandwidth(&p), 400.0 * MIB, 0.001);
    /* a link that has become slow is slow after three rounds */
    for (unsigned i = 0; i < PREDICT_LINKS; i++) {
        predict_link(&p, 10 * MIB, 1000 * MS, true, true);
    }
    near(predict_bandwidth(&p), 10.0 * MIB, 0.001);
}

static void test_pause(void)
{
    struct prediction p = { .vcpus = 1, .ferry = true, .rtt_us = 100 };

    predict_link(&p, 1000 * MIB, 1000 * MS, true, true);
    predict_stop(&p, 20000);
    predict_sync(&p, 10000);
    double idle = predict_pause(&p, 0, 0).fixed_us;

    near(idle, 600, 0.25); /* as measured with one vCPU */
    g_assert_cmpfloat(predict_pause(&p, 0, 0).memory_us, ==, 0);
    near(predict_pause(&p, 25600, 0).memory_us, 100e3, 0.01);
    near(predict_pause(&p, 25600, 10.0 * MIB).memory_us, 10e6, 0.01);
    p.page_bytes = 138; /* xbzrle */
    near(predict_pause(&p, 25600, 0).memory_us, 3369, 0.01);
    near((double)predict_rest_ms(&p, 2560000, 1.0 * MIB, 0), 336914, 0.01);
    p.page_bytes = 0;
    p.vcpus = 4;
    near(predict_pause(&p, 0, 0).fixed_us, 1300, 0.25);
    p.ferry = false;
    g_assert_cmpfloat(predict_pause(&p, 0, 0).fixed_us, >, 2000);
    p.ferry = true;
    /* each measured cost is in it once */
    double before = predict_pause(&p, 0, 0).fixed_us;
    predict_sync(&p, 1010000);
    near(predict_pause(&p, 0, 0).fixed_us - before, 1000, 0.001);
    p.rtt_us += 10000;
    near(predict_pause(&p, 0, 0).fixed_us - before, 16000, 0.001);
    p.rtt_us -= 10000;
    for (int i = 0; i < 20; i++) {
        predict_stop(&p, 5020000);
    }
    near(predict_pause(&p, 0, 0).fixed_us - before, 6000, 0.001);
    /* 200,000 pages/s for the 6 ms of sync and stop */
    p.dirty_pages_per_s = 200000;
    near(predict_pause(&p, 0, 0).memory_us, 1206 * 4104 / (1000.0 * MIB) * 1e6, 0.02);
    /* nothing known at all: no division by nothing */
    struct prediction none = { .vcpus = 1 };

    g_assert_cmpfloat(predict_pause(&none, 1, 0).memory_us, >, 1e6);
    g_assert_cmpfloat(predict_pause(&none, UINT64_MAX, 0).memory_us, >, 1e6);
}

static void test_rest(void)
{
    struct prediction p = { .vcpus = 1 };
    double rate = 4104.0 * 100000; /* 100,000 pages/s */

    g_assert_cmpint(predict_rest_ms(&p, 100000, 0, 0), ==, -1);
    g_assert_cmpint(predict_rest_ms(&p, 100000, rate, 0), ==, 1000);
    p.dirty_pages_per_s = 50000;
    g_assert_cmpint(predict_rest_ms(&p, 100000, rate, 0), ==, 2000);
    g_assert_cmpint(predict_rest_ms(&p, 100000, rate, 50000), ==, 1000);
    g_assert_cmpint(predict_rest_ms(&p, 100, rate, 100), ==, 0);
    p.dirty_pages_per_s = 95000;
    g_assert_cmpint(predict_rest_ms(&p, 100000, rate, 0), ==, -1);
    p.dirty_pages_per_s = 1e6;
    g_assert_cmpint(predict_rest_ms(&p, 100000, rate, 0), ==, -1);
    g_assert_cmpint(predict_rest_ms(&p, UINT64_MAX, 1e-3, 0), ==, -1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/predict/bandwidth", test_bandwidth);
    g_test_add_func("/predict/pause", test_pause);
    g_test_add_func("/predict/rest", test_rest);
    return g_test_run();
}
