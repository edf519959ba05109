/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The writing and reading ends of a stream, over memory. */
#include <string.h>

#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "util/error.h"

static void test_round_trip(void)
{
    GByteArray *memory = g_byte_array_new();
    struct stream_out *o = out_new_memory(memory);
    struct stream_in *in;
    char name[256], page[4096];
    uint8_t b;
    uint16_t h;
    uint32_t w;
    uint64_t d;

    memset(page, 'x', sizeof(page));
    out_u8(o, 0x12);
    out_be16(o, 0x1234);
    out_be32(o, 0x12345678);
    out_be64(o, UINT64_C(0x123456789abcdef0));
    out_pstr(o, "microvm.ram");
    for (int i = 0; i < 3000; i++) { /* more than one gather write */
        out_be64(o, i);
        out_ref(o, page, sizeof(page));
    }
    g_assert_true(out_flush(o, NULL));
    g_assert_cmpuint(o->bytes, ==, memory->len);
    g_assert_cmphex(memory->data[1], ==, 0x12);
    g_assert_cmphex(memory->data[2], ==, 0x34);

    in = in_new_memory(memory->data, memory->len);
    g_assert_true(in_peek(in, 2, &b) && b == 0x34);
    g_assert_true(in_u8(in, &b, NULL) && b == 0x12);
    g_assert_true(in_be16(in, &h, NULL) && h == 0x1234);
    g_assert_true(in_be32(in, &w, NULL) && w == 0x12345678);
    g_assert_true(in_be64(in, &d, NULL) && d == UINT64_C(0x123456789abcdef0));
    g_assert_true(in_pstr(in, name, NULL));
    g_assert_cmpstr(name, ==, "microvm.ram");
    for (uint64_t i = 0; i < 3000; i++) {
        char got[4096];

        g_assert_true(in_be64(in, &d, NULL) && d == i);
        g_assert_true(in_bytes(in, got, sizeof(got), NULL));
        g_assert_cmpmem(got, sizeof(got), page, sizeof(page));
    }
    g_assert_cmpuint(in_offset(in), ==, memory->len);
    g_assert_false(in_peek(in, 0, &b));
    in_free(in);
    out_free(o);
    g_byte_array_unref(memory);
}

static void test_early_end(void)
{
    static const char bytes[] = { 3, 'a', 'b' };
    GError *err = NULL;
    char name[256];
    uint64_t d;

    struct stream_in *in = in_new_memory(bytes, sizeof(bytes));
    g_assert_false(in_pstr(in, name, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_nonnull(strstr(err->message, "after 3 bytes"));
    g_clear_error(&err);
    in_free(in);

    in = in_new_memory(bytes, sizeof(bytes));
    g_assert_false(in_be64(in, &d, NULL));
    g_assert_false(in_skip(in, 1, NULL));
    in_free(in);
}

static void test_name_with_nul(void)
{
    static const char bytes[] = { 3, 'a', 0, 'b' };
    struct stream_in *in = in_new_memory(bytes, sizeof(bytes));
    GError *err = NULL;
    char name[256];

    g_assert_false(in_pstr(in, name, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    g_clear_error(&err);
    in_free(in);
}

static void test_sticky_error(void)
{
    GByteArray *memory = g_byte_array_new();
    struct stream_out *o = out_new_memory(memory);
    GError *first = NULL, *err = NULL;

    out_be32(o, 1);
    error_set(&first, FERRY_ERROR_HOST, "A device that cannot be saved");
    out_fail(o, first);
    out_be32(o, 2);
    g_assert_false(out_ok(o));
    g_assert_false(out_flush(o, &err));
    g_assert_cmpstr(err->message, ==, "A device that cannot be saved");
    g_assert_cmpuint(memory->len, ==, 0); /* nothing leaves after a failure */
    g_clear_error(&err);
    out_free(o);
    g_byte_array_unref(memory);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stream/round-trip", test_round_trip);
    g_test_add_func("/stream/early-end", test_early_end);
    g_test_add_func("/stream/name-with-nul", test_name_with_nul);
    g_test_add_func("/stream/sticky-error", test_sticky_error);
    return g_test_run();
}
