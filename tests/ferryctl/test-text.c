/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ferryctl's text for people: cleaning, measuring, units both ways. */
#include "tools/ferryctl/ctl.h"
#include "tools/ferryctl/text.h"

#include <stdarg.h>

/* What text.c needs of main.c. */
G_DEFINE_QUARK(test - text, ctl_error)

void ctl_fail(GError **err, enum ctl_exit code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    *err = g_error_new_valist(ctl_error_quark(), (int)code, fmt, ap);
    va_end(ap);
}

static void is(char *got, const char *want)
{
    g_assert_cmpstr(got, ==, want);
    g_free(got);
}

static void test_clean(void)
{
    is(text_clean("a\nb\tc", true), "a b c");
    is(text_clean("\x1b[2J\x07\x7f\r\x01", true), "?[2J????");
    is(text_clean("\xc2\x9b"
                  "2J\xc2\x80",
                  true),
       "?2J?");                                                          /* C1 */
    is(text_clean("\xe2\x80\xae<\xe2\x81\xa6>\xd8\x9c", true), "?<?>?"); /* direction */
    is(text_clean("gr\xc3\xb6\xc3\x9f"
                  "e",
                  true),
       "gr\xc3\xb6\xc3\x9f"
       "e");
    is(text_clean("gr\xc3\xb6\xc3\x9f"
                  "e",
                  false),
       "gr??e");
    is(text_clean("\xff\xfe\xc3", true), "???");           /* not UTF-8, and cut off */
    is(text_clean("\xed\xa0\x80\xc0\x80", true), "?????"); /* a surrogate, an overlong zero */
}

static void test_clean_is_bounded(void)
{
    g_autofree char *long_one = g_strnfill(100000, 'x');
    g_autofree char *clean = text_clean(long_one, true);

    g_assert_cmpuint(strlen(clean), ==, 4096 + 3);
}

static void test_fit(void)
{
    const char *wide = "a\xe4\xb8\xad\xe6\x96\x87z"; /* two characters of two columns each */

    g_assert_cmpuint(text_width(wide), ==, 6);
    is(text_fit(wide, 6), wide);
    is(text_fit(wide, 4), "a\xe4\xb8\xad"); /* the second one would not fit whole */
    is(text_fit(wide, 2), "a");
    is(text_fit(wide, 0), "");
    g_assert_cmpuint(text_width("e\xcc\x81"), ==, 1); /* an accent of its own takes none */
}

static void test_numbers(void)
{
    is(text_bytes(0), "0 B");
    is(text_bytes(-5), "0 B");
    is(text_bytes(1023), "1023 B");
    is(text_bytes(1024), "1.00 KiB");
    is(text_bytes(1024 * 1023.9), "1.00 MiB");
    is(text_bytes(15.25 * (1 << 20)), "15.2 MiB");
    is(text_bytes(400.0 * (1 << 20)), "400 MiB");
    is(text_bytes(1e18), "888 PiB");
    is(text_rate(2048), "2.00 KiB/s");
    is(text_count(0), "0");
    is(text_count(999), "999");
    is(text_count(1000), "1,000");
    is(text_count(-1234567), "-1,234,567");
    is(text_duration_us(-1), "-");
    is(text_duration_us(999), "999 us");
    is(text_duration_us(2090), "2.09 ms");
    is(text_duration_us(84400), "84 ms");
    is(text_duration_us(12300000), "12.3 s");
    is(text_duration_us(252LL * 1000000), "4:12 min");
    is(text_duration_us(7384LL * 1000000), "2:03:04");
    is(text_clock_ms(-5), "0:00:00");
    is(text_clock_ms(3723999), "1:02:03");
    is(text_plural(1, "round", "rounds"), "1 round");
    is(text_plural(0, "round", "rounds"), "0 rounds");
}

static void test_parse(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = { { "0", 0 },
                  { "7", 7 },
                  { "7B", 7 },
                  { "1.5k", 1536 },
                  { "400M", 400ULL << 20 },
                  { "2GiB/s", 2ULL << 30 },
                  { "1T", 1ULL << 40 } };
    static const struct {
        const char *text;
        int64_t ms;
    } times[] = { { "0ms", 0 },      { "100ms", 100 },    { "1.5s", 1500 },
                  { "10m", 600000 }, { "10min", 600000 }, { "1h", 3600000 } };
    static const char *const bad[] = { "",    "-1",  "M",     "1X",  "0x10",   "1e3", "inf",
                                       "nan", ".5M", "1.2.3", "1MB", "1M/min", " 1",  "99999999T" };
    uint64_t bytes;
    int64_t ms;

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_true(text_parse_bytes(sizes[i].text, &bytes, &error));
        g_assert_cmpuint(bytes, ==, sizes[i].bytes);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(times); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_true(text_parse_duration(times[i].text, &ms, &error));
        g_assert_cmpint(ms, ==, times[i].ms);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) size_error = NULL;
        g_autoptr(GError) time_error = NULL;

        g_assert_false(text_parse_bytes(bad[i], &bytes, &size_error));
        g_assert_nonnull(size_error);
        g_assert_false(text_parse_duration(bad[i], &ms, &time_error));
        g_assert_nonnull(time_error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/text/clean", test_clean);
    g_test_add_func("/text/clean-is-bounded", test_clean_is_bounded);
    g_test_add_func("/text/fit", test_fit);
    g_test_add_func("/text/numbers", test_numbers);
    g_test_add_func("/text/parse", test_parse);
    return g_test_run();
}
