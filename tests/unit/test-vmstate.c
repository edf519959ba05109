/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Device tables: what they write, what they read, and everything a peer may get wrong. */
#include <string.h>

#include "migration/stream/format.h"
#include "migration/vmstate/table.h"
#include "util/error.h"

struct pair {
    uint8_t a, b;
};

struct state {
    uint32_t word;
    int32_t negative;
    bool flag;
    uint16_t table[3];
    uint8_t raw[4];
    struct pair pairs[2];
    uint64_t late; /* since version 3 */
    uint32_t position, size;
    uint64_t extra; /* subsection */
};

static const struct vmstate_field pair_fields[] = {
    VMS_F(struct pair, "a", VMS_U8, a),
    VMS_RANGE(struct pair, "b", VMS_U8, b, 0, 9),
    {},
};
static const struct vmstate pair_vmstate = { .name = "pair",
                                             .version = 1,
                                             .min_version = 1,
                                             .size = sizeof(struct pair),
                                             .fields = pair_fields };

static const struct vmstate_field fields[] = {
    VMS_F(struct state, "word", VMS_U32, word),
    VMS_RANGE(struct state, "negative", VMS_I32, negative, -5, 5),
    VMS_F(struct state, "flag", VMS_BOOL, flag),
    VMS_ARRAY(struct state, "table", VMS_U16, table, 3),
    VMS_BYTES(struct state, "raw", raw, 4),
    VMS_PAD("unused", 2),
    VMS_NEST_ARRAY(struct state, "pairs", pairs, &pair_vmstate, 2, sizeof(struct pair)),
    { .name = "late", .type = VMS_U64, .offset = offsetof(struct state, late), .since = 3 },
    { .name = "position",
      .type = VMS_U32,
      .offset = offsetof(struct state, position),
      .less_than = "size" },
    VMS_F(struct state, "size", VMS_U32, size),
    {},
};

static const struct vmstate_field extra_fields[] = {
    VMS_F(struct state, "extra", VMS_U64, extra),
    {},
};
static const struct vmstate extra_vmstate = { .name = "thing/extra",
                                              .version = 1,
                                              .min_version = 1,
                                              .size = sizeof(struct state),
                                              .fields = extra_fields };

static bool extra_needed(const void *state)
{
    return ((const struct state *)state)->extra != 0;
}

static const struct vmstate_subsection subsections[] = { { &extra_vmstate, extra_needed, NULL },
                                                         {} };
static const struct vmstate thing = { .name = "thing",
                                      .version = 3,
                                      .min_version = 2,
                                      .size = sizeof(struct state),
                                      .fields = fields,
                                      .subsections = subsections };

static const struct state sample = {
    .word = 0x01020304,
    .negative = -2,
    .flag = true,
    .table = { 1, 2, 3 },
    .raw = { 9, 8, 7, 6 },
    .pairs = { { 1, 2 }, { 3, 4 } },
    .late = 5,
    .position = 6,
    .size = 7,
    .extra = 8,
};

/* Offsets in what the sample is on the wire. */
enum {
    AT_NEGATIVE = 4,
    AT_FLAG = 8,
    AT_PAD = 19,
    AT_PAIR_B = 24,
    AT_POSITION = 33,
    AT_SUBSECTION = 41,
    LENGTH = 41 + 1 + 1 + 11 + 4 + 8,
};

static GByteArray *encode(const struct state *s, json_t *desc)
{
    GByteArray *bytes = g_byte_array_new();
    struct stream_out *o = out_new_memory(bytes);

    vmstate_encode(&thing, s, o, desc);
    g_assert_true(out_flush(o, NULL));
    out_free(o);
    return bytes;
}

static bool decode(const GByteArray *bytes, struct state *s, int version, GError **err)
{
    struct stream_in *in = in_new_memory(bytes->data, bytes->len);
    bool ok = vmstate_decode(&thing, s, version, in, "thing", err);

    if (ok && in_offset(in) != bytes->len) {
        error_set(err, FERRY_ERROR_PEER, "left over");
        ok = false;
    }
    in_free(in);
    return ok;
}

static void test_round_trip(void)
{
    struct state s = { 0 };
    json_t *desc = json_object();
    GByteArray *bytes = encode(&sample, desc);
    GError *err = NULL;

    g_assert_cmpuint(bytes->len, ==, LENGTH);
    g_assert_cmphex(bytes->data[0], ==, 1);
    g_assert_cmphex(bytes->data[AT_NEGATIVE + 3], ==, 0xfe);
    g_assert_cmphex(bytes->data[AT_SUBSECTION], ==, STREAM_SUBSECTION);
    g_assert_true(decode(bytes, &s, 3, &err));
    g_assert_no_error(err);
    g_assert_cmpmem(&s, sizeof(s), &sample, sizeof(sample));

    g_autofree char *text = json_dumps(desc, JSON_COMPACT);
    g_assert_nonnull(
        strstr(text, "{\"name\":\"table\",\"array_len\":3,\"type\":\"uint16\",\"size\":2}"));
    g_assert_nonnull(strstr(text, "\"vmsd_name\":\"thing/extra\""));
    json_decref(desc);
    g_byte_array_unref(bytes);
}

static void test_defaults_stay(void)
{
    struct state plain = sample, s = { .extra = 77 };
    GByteArray *bytes;

    plain.extra = 0;
    bytes = encode(&plain, NULL);
    g_assert_cmpuint(bytes->len, ==, AT_SUBSECTION);
    g_assert_true(decode(bytes, &s, 3, NULL));
    g_assert_cmpuint(s.extra, ==, 77);
    g_byte_array_unref(bytes);
}

static void test_old_version(void)
{
    struct state plain = sample, s = { .late = 99 };
    GByteArray *bytes;

    plain.extra = 0;
    bytes = encode(&plain, NULL);
    g_byte_array_remove_range(bytes, 25, 8); /* `late` is not in version 2 */
    g_assert_true(decode(bytes, &s, 2, NULL));
    g_assert_cmpuint(s.late, ==, 99);
    g_assert_cmpuint(s.position, ==, 6);
    g_assert_false(decode(bytes, &s, 1, NULL));
    g_assert_false(decode(bytes, &s, 4, NULL));
    g_byte_array_unref(bytes);
}

static void refused(unsigned at, uint8_t value, const char *text)
{
    struct state s = { 0 };
    GByteArray *bytes = encode(&sample, NULL);
    GError *err = NULL;

    bytes->data[at] = value;
    g_assert_false(decode(bytes, &s, 3, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_PEER);
    if (!strstr(err->message, text)) {
        g_error("'%s' lacks '%s'", err->message, text);
    }
    g_clear_error(&err);
    g_byte_array_unref(bytes);
}

static void test_bad_fields(void)
{
    refused(AT_FLAG, 2, "thing/flag = 2");
    refused(AT_NEGATIVE + 3, 0x10, "thing/negative = -240, outside -5 to 5");
    refused(AT_NEGATIVE, 0x7f, "outside");
    refused(AT_PAIR_B, 10, "thing/b = 10");
    refused(AT_POSITION + 3, 7, "thing/position = 7, which must be less than size = 7");
    refused(AT_POSITION, 0xff, "which must be less than");
    refused(AT_SUBSECTION + 2, 'X',
            "left over"); /* a name that is not ours: somebody else reads on */
    refused(AT_SUBSECTION + 9, 'X', "unknown subsection 'thing/eXtra'");
    refused(AT_SUBSECTION + 16, 2, "version 2 of 'thing/extra'");
}

static void test_padding_is_ignored(void)
{
    struct state s = { 0 };
    GByteArray *bytes = encode(&sample, NULL);

    bytes->data[AT_PAD] = 0xaa;
    g_assert_true(decode(bytes, &s, 3, NULL));
    g_byte_array_unref(bytes);
}

static void test_every_truncation(void)
{
    GByteArray *whole = encode(&sample, NULL);

    for (unsigned n = 0; n < whole->len; n++) {
        struct state s = { 0 };
        GByteArray *part = g_byte_array_new();
        GError *err = NULL;

        g_byte_array_append(part, whole->data, n);
        if (n == AT_SUBSECTION) {
            g_assert_true(decode(part, &s, 3, &err)); /* the subsection may be left out */
        } else {
            g_assert_false(decode(part, &s, 3, &err));
            g_clear_error(&err);
        }
        g_byte_array_unref(part);
    }
    g_byte_array_unref(whole);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmstate/round-trip", test_round_trip);
    g_test_add_func("/vmstate/defaults-stay", test_defaults_stay);
    g_test_add_func("/vmstate/old-version", test_old_version);
    g_test_add_func("/vmstate/bad-fields", test_bad_fields);
    g_test_add_func("/vmstate/padding-is-ignored", test_padding_is_ignored);
    g_test_add_func("/vmstate/every-truncation", test_every_truncation);
    return g_test_run();
}
