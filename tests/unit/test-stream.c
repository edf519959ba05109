/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The writing and reading ends of a stream, over memory, and rows of pages, over a socket. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/channel-private.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "migration/stream/row.h"
#include "system/memory.h"
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

/* --- rows --- */

#define ROW       10u /* pages that come in order */
#define ROOM      16u /* pages that may be written to */
#define FIRST     UINT64_C(0x5000)
#define PAGE_WORD (RAM_FLAG_PAGE | RAM_FLAG_CONTINUE)

static void put_row_word(GByteArray *b, uint64_t word)
{
    word = GUINT64_TO_BE(word);
    g_byte_array_append(b, (const uint8_t *)&word, sizeof(word));
}

static void put_row_page(GByteArray *b, unsigned i)
{
    uint8_t page[TARGET_PAGE_SIZE];

    memset(page, (int)i + 1, sizeof(page));
    g_byte_array_append(b, page, sizeof(page));
}

/* Of the first `len` bytes of a row with `other` behind it: what is read goes into its place, and
 * everything else can still be read. */
static void read_row(const GByteArray *bytes, size_t len, bool other, bool end)
{
    g_autofree uint8_t *memory = g_malloc0(ROOM * TARGET_PAGE_SIZE);
    unsigned whole = 0, expected = MIN((unsigned)((len + 8) / (TARGET_PAGE_SIZE + 8)), ROW);
    struct row row = { .next = true };
    struct channel *ch;
    struct stream_in *in;
    size_t used, begun = 0;
    uint8_t byte;
    int fds[2];
    GError *err = NULL;
    bool ok = true;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_cmpint(write(fds[1], bytes->data, len), ==, len);
    close(fds[1]);
    ch = channel_new_socket("test", fds[0], NULL);
    in = in_new_channel(ch);
    while (row.next && ok) {
        ok = row_read(in, memory + whole * TARGET_PAGE_SIZE, begun,
                      (FIRST + whole * TARGET_PAGE_SIZE) | PAGE_WORD, MIN(ROOM - whole - 1, 6),
                      ROOM - whole - 1 > 6, &row, &err);
        if (ok) {
            whole += row.pages;
            begun = row.begun;
        }
    }
    if (!ok) { /* a page that its header has announced does not come as a whole */
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
        g_clear_error(&err);
        g_assert_cmpuint(whole, <, ROW);
    }
    g_assert_cmpuint(whole, ==, expected);
    for (unsigned i = 0; i < whole * TARGET_PAGE_SIZE; i++) {
        g_assert_cmpuint(memory[i], ==, i / TARGET_PAGE_SIZE + 1);
    }
    used = whole * (TARGET_PAGE_SIZE + 8) - 8;
    if (ok && used < len) {
        bool header = len - used >= 8;

        g_assert_cmpint(row.other, ==, other && header);
        g_assert_cmpint(row.ended, ==, end && header);
        g_assert_cmpuint(in_offset(in), ==, used);
        for (size_t i = used; i < len; i++) {
            g_assert_true(in_u8(in, &byte, NULL));
            g_assert_cmpuint(byte, ==, bytes->data[i]);
        }
    }
    g_assert_cmpuint(row.spoiled, <=, ROOM - whole);
    for (size_t i = (whole + row.spoiled + 1) * TARGET_PAGE_SIZE; i < ROOM * TARGET_PAGE_SIZE;
         i++) {
        g_assert_cmpuint(memory[i], ==, 0);
    }
    in_free(in);
    channel_unref(ch);
}

static void test_row(void)
{
    static const uint64_t others[] = { RAM_FLAG_EOS, FIRST | PAGE_WORD,
                                       (FIRST + (ROW + 1) * TARGET_PAGE_SIZE) | PAGE_WORD,
                                       (FIRST + ROW * TARGET_PAGE_SIZE) | RAM_FLAG_PAGE };

    for (unsigned k = 0; k < G_N_ELEMENTS(others); k++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();

        for (unsigned i = 0; i < ROW; i++) {
            if (i) {
                put_row_word(bytes, (FIRST + i * TARGET_PAGE_SIZE) | PAGE_WORD);
            }
            put_row_page(bytes, i);
        }
        put_row_word(bytes, others[k]);
        for (unsigned i = 0; i < 3; i++) {
            put_row_page(bytes, 99);
        }
        for (size_t len = TARGET_PAGE_SIZE; len < bytes->len; len += 509) {
            read_row(bytes, len, true, others[k] == RAM_FLAG_EOS);
        }
        read_row(bytes, bytes->len, true, others[k] == RAM_FLAG_EOS);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stream/round-trip", test_round_trip);
    g_test_add_func("/stream/early-end", test_early_end);
    g_test_add_func("/stream/name-with-nul", test_name_with_nul);
    g_test_add_func("/stream/sticky-error", test_sticky_error);
    g_test_add_func("/stream/row", test_row);
    return g_test_run();
}
