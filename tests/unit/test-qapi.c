/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QAPI visitor and the JSON framer: what is accepted, what is refused and with which text, and
 * that values survive the way there and back. Texts that managers match are compared in full; they
 * were taken from QEMU 7.2.
 */
#include <string.h>

#include "qapi/command.h"
#include "qapi/json.h"
#include "qapi/qapi-types.h"
#include "util/error.h"

/* ---- types that the schema does not use ---- */

typedef struct Choice {
    enum { CHOICE_OBJECT, CHOICE_TEXT, CHOICE_LIST, CHOICE_SWITCH } type;
    union {
        StrOrNull unused;
        UnixSocketAddress object;
        char *text;
        GArray *list;
        bool on;
    } u;
} Choice;

static const struct qapi_type type_choice;
static const struct qapi_type type_list_bool = {
    .kind = QAPI_KIND_ARRAY, .name = "array", .size = sizeof(void *), .element = &qapi_type_bool
};
static const struct qapi_member choice_branches[] = {
    { "object", &qapi_type_unix_socket_address, offsetof(Choice, u.object), QAPI_NO_FLAG, false },
    { "text", &qapi_type_str, offsetof(Choice, u.text), QAPI_NO_FLAG, false },
    { "list", &type_list_bool, offsetof(Choice, u.list), QAPI_NO_FLAG, false },
    { "on", &qapi_type_bool, offsetof(Choice, u.on), QAPI_NO_FLAG, false },
};

static void choice_free(void *value)
{
    qapi_free_struct(&type_choice, value);
}

static const struct qapi_type type_choice = {
    .kind = QAPI_KIND_ALTERNATE,
    .name = "Choice",
    .size = sizeof(Choice),
    .free = choice_free,
    .members = choice_branches,
    .member_count = G_N_ELEMENTS(choice_branches),
};

/* ---- helpers ---- */

static json_t *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    json_t *json = qapi_json_parse(text, &error);

    g_assert_no_error(error);
    g_assert_nonnull(json);
    return json;
}

static void read_ok(const struct qapi_type *type, const char *text, void *out)
{
    g_autoptr(json_t) json = parse(text);
    g_autoptr(GError) error = NULL;

    g_assert_true(qapi_read(type, "x", json, QAPI_READ_JSON, out, &error));
    g_assert_no_error(error);
}

static void read_fails(const struct qapi_type *type, const char *name, const char *text,
                       enum qapi_read_flags flags, const char *message)
{
    g_autoptr(json_t) json = parse(text);
    g_autoptr(GError) error = NULL;
    char untouched[64];
    char out[64];

    memset(out, 0x5a, sizeof(out));
    memset(untouched, 0x5a, sizeof(untouched));
    g_assert_false(qapi_read(type, name, json, flags, out, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_USER);
    g_assert_cmpstr(error->message, ==, message);
    g_assert_cmpmem(out, sizeof(out), untouched, sizeof(untouched));
}

/* Reads, writes, and compares with `expected` (NULL: the text itself). */
static void round_trip(const struct qapi_type *type, const char *text, const char *expected)
{
    void *value = NULL;
    g_autoptr(json_t) want = parse(expected ? expected : text);

    read_ok(type, text, &value);
    g_autoptr(json_t) got = qapi_write(type, &value);
    g_autofree char *dump = qapi_json_dump(got, false);
    if (!json_equal(got, want)) {
        g_error("got %s for %s", dump, text);
    }
    qapi_clear(type, &value);
    g_assert_null(value);
}

/* ---- reading and writing ---- */

static void test_objects(void)
{
    round_trip(&qapi_type_migrate_set_parameters, "{}", NULL);
    round_trip(&qapi_type_migrate_set_parameters,
               "{'max-bandwidth': 1, 'downtime-limit': 18446744073709551615}", NULL);
    round_trip(&qapi_type_migration_stats,
               "{'transferred':-1,'remaining':2,'total':3,'duplicate':4,'skipped':5,'normal':6,"
               "'normal-bytes':7,'dirty-pages-rate':8,'mbps':9.5,'dirty-sync-count':10,"
               "'postcopy-requests':11,'page-size':12,'multifd-bytes':18446744073709551614,"
               "'pages-per-second':14,'precopy-bytes':15,'downtime-bytes':16,'postcopy-bytes':17,"
               "'dirty-sync-missed-zero-copy':18}",
               NULL);
    round_trip(&qapi_type_object_options,
               "{'qom-type':'memory-backend-file','id':'m','size':4096,'mem-path':'/x',"
               "'host-nodes':[0,65535],'policy':'bind','share':false}",
               NULL);
    round_trip(&qapi_type_migration_channel,
               "{'channel-type':'main','addr':{'transport':'socket','type':'inet','host':'h',"
               "'port':'1','to':7}}",
               NULL);
    round_trip(&qapi_type_migration_channel,
               "{'channel-type':'main','addr':{'transport':'exec','args':['/bin/sh','-c','']}}",
               NULL);
    round_trip(&qapi_type_object_property_info,
               "{'name':'n','type':'t','default-value':[1,{'a':null},18446744073709551615]}", NULL);
}

static void test_absent(void)
{
    MigrateSetParameters *params = NULL;
    ObjectPropertyInfo *info = NULL;

    read_ok(&qapi_type_migrate_set_parameters, "{'downtime-limit': 0}", &params);
    g_assert_true(params->has_downtime_limit);
    g_assert_cmpuint(params->downtime_limit, ==, 0);
    g_assert_false(params->has_max_bandwidth);
    qapi_migrate_set_parameters_free(params);
    read_ok(&qapi_type_object_property_info, "{'name':'','type':'t'}", &info);
    g_assert_null(info->description);
    g_assert_null(info->default_value);
    g_assert_cmpstr(info->name, ==, "");
    qapi_object_property_info_free(info);
    qapi_object_property_info_free(NULL);
}

static void test_alternates(void)
{
    StrOrNull *value = NULL;
    g_autoptr(json_t) number = json_integer(1);
    g_autoptr(GError) error = NULL;

    round_trip(&qapi_type_str_or_null, "null", NULL);
    round_trip(&qapi_type_str_or_null, "'text'", NULL);
    g_assert_false(qapi_read(&qapi_type_str_or_null, "tls-creds", number, 0, &value, &error));
    g_assert_cmpstr(error->message, ==,
                    "Invalid parameter type for 'tls-creds', expected: StrOrNull");
    round_trip(&type_choice, "{'path':'p'}", NULL);
    round_trip(&type_choice, "'text'", NULL);
    round_trip(&type_choice, "[true,false]", NULL);
    round_trip(&type_choice, "false", NULL);
    read_fails(&type_choice, "c", "1", 0, "Invalid parameter type for 'c', expected: Choice");
    read_fails(&type_choice, "c", "{'path':1}", 0,
               "Invalid parameter type for 'c.path', expected: string");
    read_fails(&type_choice, "c", "{'path':'p','y':1}", 0, "Parameter 'c.y' is unexpected");
    read_fails(&type_choice, "c", "[true,0]", 0,
               "Invalid parameter type for 'c[1]', expected: boolean");
}

#define CHECK_INTEGER(id, ctype, low, high)                                                        \
    do {                                                                                           \
        ctype value = 0;                                                                           \
        read_ok(&qapi_type_##id, low, &value);                                                     \
        g_autoptr(json_t) json_low = qapi_write(&qapi_type_##id, &value);                          \
        g_autofree char *text_low = qapi_json_dump(json_low, false);                               \
        g_assert_cmpstr(text_low, ==, low);                                                        \
        read_ok(&qapi_type_##id, high, &value);                                                    \
        g_autoptr(json_t) json_high = qapi_write(&qapi_type_##id, &value);                         \
        g_autofree char *text_high = qapi_json_dump(json_high, false);                             \
        g_assert_cmpstr(text_high, ==, high);                                                      \
    } while (0)

static void test_integers(void)
{
    static const char wrong[] = "Invalid parameter type for 'x', expected: integer";

    CHECK_INTEGER(int8, int8_t, "-128", "127");
    CHECK_INTEGER(int16, int16_t, "-32768", "32767");
    CHECK_INTEGER(int32, int32_t, "-2147483648", "2147483647");
    CHECK_INTEGER(int64, int64_t, "-9223372036854775808", "9223372036854775807");
    CHECK_INTEGER(uint8, uint8_t, "0", "255");
    CHECK_INTEGER(uint16, uint16_t, "0", "65535");
    CHECK_INTEGER(uint32, uint32_t, "0", "4294967295");
    CHECK_INTEGER(uint64, uint64_t, "0", "18446744073709551615");
    CHECK_INTEGER(size, uint64_t, "9223372036854775808", "9223372036854775807");

    read_fails(&qapi_type_int8, "x", "128", 0, "Parameter 'x' expects int8_t");
    read_fails(&qapi_type_int16, "x", "-32769", 0, "Parameter 'x' expects int16_t");
    read_fails(&qapi_type_int32, "x", "2147483648", 0, "Parameter 'x' expects int32_t");
    read_fails(&qapi_type_int, "x", "9223372036854775808", 0, wrong);
    read_fails(&qapi_type_int, "x", "1.0", 0, wrong);
    read_fails(&qapi_type_int, "x", "'1'", 0, wrong);
    read_fails(&qapi_type_int, "x", "true", 0, wrong);
    read_fails(&qapi_type_uint8, "x", "256", 0, "Parameter 'x' expects uint8_t");
    read_fails(&qapi_type_uint8, "x", "-1", 0, "Parameter 'x' expects uint8_t");
    read_fails(&qapi_type_uint32, "x", "4294967296", 0, "Parameter 'x' expects uint32_t");
    read_fails(&qapi_type_uint64, "x", "18446744073709551616", 0, "Parameter 'x' expects uint64");
    read_fails(&qapi_type_uint64, "x", "1e3", 0, "Parameter 'x' expects uint64");
    read_fails(&qapi_type_size, "x", "'1k'", 0, "Parameter 'x' expects uint64");

    uint64_t value = 0;
    read_ok(&qapi_type_uint64, "-1", &value);
    g_assert_cmpuint(value, ==, UINT64_MAX);
}

static void test_numbers(void)
{
    double value = 0;

    read_ok(&qapi_type_number, "18446744073709551615", &value);
    g_assert_cmpfloat(value, ==, 18446744073709551616.0);
    read_ok(&qapi_type_number, "-3", &value);
    g_assert_cmpfloat(value, ==, -3);
    read_ok(&qapi_type_number, "2.5e3", &value);
    g_assert_cmpfloat(value, ==, 2500);
    read_fails(&qapi_type_number, "x", "'1'", 0,
               "Invalid parameter type for 'x', expected: number");
    value = 1.0 / 0.0;
    g_autoptr(json_t) json = qapi_write(&qapi_type_number, &value);
    g_assert_cmpfloat(json_real_value(json), ==, 0);
}

static void test_refused(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "[]", "Invalid parameter type for 'argument', expected: object" },
        { "{}", "Parameter 'channel-type' is missing" },
        { "{'channel-type':'main','addr':1}",
          "Invalid parameter type for 'addr', expected: object" },
        { "{'channel-type':'nope','addr':{}}",
          "Parameter 'channel-type' does not accept value 'nope'" },
        { "{'channel-type':1,'addr':{}}",
          "Invalid parameter type for 'channel-type', expected: string" },
        { "{'channel-type':18446744073709551615,'addr':{}}",
          "Invalid parameter type for 'channel-type', expected: string" },
        { "{'channel-type':'main','addr':{}}", "Parameter 'addr.transport' is missing" },
        { "{'channel-type':'main','addr':{'transport':'rdma'}}",
          "Parameter 'transport' does not accept value 'rdma'" },
        { "{'channel-type':'main','addr':{'transport':'exec','args':[1]}}",
          "Invalid parameter type for 'addr.args[0]', expected: string" },
        { "{'channel-type':'main','addr':{'transport':'exec','args':null}}",
          "Invalid parameter type for 'addr.args', expected: array" },
        { "{'channel-type':'main','addr':{'transport':'exec','args':[],'filename':'x'}}",
          "Parameter 'addr.filename' is unexpected" },
        { "{'channel-type':'main','addr':{'transport':'socket','type':'inet','host':'h'}}",
          "Parameter 'addr.port' is missing" },
        { "{'channel-type':'main','addr':{'transport':'socket','type':'unix','path':'p',"
          "'ipv4':true}}",
          "Parameter 'addr.ipv4' is unexpected" },
        { "{'channel-type':'main','addr':{'transport':'socket','type':'inet','host':'h',"
          "'port':'1','ipv4':'on'}}",
          "Invalid parameter type for 'addr.ipv4', expected: boolean" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        read_fails(&qapi_type_migration_channel, NULL, cases[i].text, 0, cases[i].message);
    }
    read_fails(&qapi_type_list_migration_capability_status, "capabilities",
               "[{'capability':'events','state':true},{'capability':'events','state':1}]", 0,
               "Invalid parameter type for 'capabilities[1].state', expected: boolean");
    read_fails(&qapi_type_list_migration_capability_status, "capabilities",
               "[{'capability':'events'}]", 0, "Parameter 'capabilities[0].state' is missing");
    read_fails(&qapi_type_list_migration_capability_status, "capabilities",
               "[{'capability':'nope','state':true}]", 0,
               "Parameter 'capability' does not accept value 'nope'");
    read_fails(&qapi_type_list_qmp_capability, "enable", "['oob','nope']", 0,
               "Parameter 'enable[1]' does not accept value 'nope'");
    read_fails(&qapi_type_list_uint16, "host-nodes", "[0,65536]", 0,
               "Parameter 'host-nodes[1]' expects uint16_t");
}

static void test_keyval(void)
{
    static const struct {
        const char *text, *message;
    } refused[] = {
        { "{'qom-type':'memory-backend-ram','id':'m'}", "Parameter 'size' is missing" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':''}",
          "Parameter 'size' expects a size value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'-1'}",
          "Parameter 'size' expects a size value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'1EB'}",
          "Parameter 'size' expects a size value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'99999999999999999999'}",
          "Parameter 'size' expects a size value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'16E'}",
          "Parameter 'size' expects a size value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'16.5E'}",
          "Parameter 'size' expects a size value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'1','merge':'maybe'}",
          "Parameter 'merge' expects 'on' or 'off'" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'1','prealloc-threads':'-1'}",
          "Parameter 'prealloc-threads' expects a uint64 value" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'1','prealloc-threads':'4294967296'}",
          "Parameter 'prealloc-threads' expects uint32_t" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':'1','bar':'1'}",
          "Invalid parameter 'bar'" },
        { "{'qom-type':'memory-backend-ram','id':'m','size':1}",
          "Parameter 'size' expects a size value" },
    };
    static const struct {
        const char *text;
        uint64_t size;
    } sizes[] = { { "0", 0 },
                  { "4096", 4096 },
                  { "1k", 1024 },
                  { "1.5M", 1536 << 10 },
                  { "2G", 2ull << 30 },
                  { "0x1000", 4096 },
                  { "15E", 15ull << 60 },
                  { "18446744073709551615", UINT64_MAX } };
    ObjectOptions *options = NULL;
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        read_fails(&qapi_type_object_options, NULL, refused[i].text, QAPI_READ_KEYVAL,
                   refused[i].message);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(json_t) json = json_string(sizes[i].text);
        uint64_t size = 1;

        g_assert_true(qapi_read(&qapi_type_size, "x", json, QAPI_READ_KEYVAL, &size, &error));
        g_assert_cmpuint(size, ==, sizes[i].size);
    }
    g_autoptr(json_t) json =
        parse("{'qom-type':'memory-backend-file','id':'m','size':'64M','mem-path':'p',"
              "'share':'on','merge':'no','prealloc-threads':'0x2'}");
    g_assert_true(
        qapi_read(&qapi_type_object_options, NULL, json, QAPI_READ_KEYVAL, &options, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(options->u.memory_backend_file.size, ==, 64 << 20);
    g_assert_true(options->u.memory_backend_file.share);
    g_assert_true(options->u.memory_backend_file.has_merge);
    g_assert_false(options->u.memory_backend_file.merge);
    g_assert_cmpuint(options->u.memory_backend_file.prealloc_threads, ==, 2);
    qapi_object_options_free(options);
}

static void test_enums(void)
{
    RunState state = RUN_STATE_DEBUG;

    for (int i = 0; i < RUN_STATE__MAX; i++) {
        g_assert_true(qapi_run_state_parse(qapi_run_state_str((RunState)i), &state));
        g_assert_cmpint((int)state, ==, i);
    }
    g_assert_null(qapi_run_state_str(RUN_STATE__MAX));
    g_assert_false(qapi_run_state_parse("nope", &state));
    g_assert_cmpint((int)state, ==, RUN_STATE__MAX - 1);
}

/* Text of ours that JSON cannot hold is repaired, never dropped. */
static void test_invalid_utf8(void)
{
    NameInfo info = { .name = (char *)"a\xff" };
    g_autoptr(json_t) json = qapi_name_info_to_json(&info);

    g_assert_cmpstr(json_string_value(json_object_get(json, "name")), ==, "a\xef\xbf\xbd");
}

/* ---- JSON text ---- */

struct seen {
    GString *log;
};

static void record(void *opaque, json_t *value, const GError *error)
{
    GString *log = opaque;
    g_autofree char *text = value ? qapi_json_dump(value, false) : NULL;

    g_assert_true((value != NULL) != (error != NULL));
    g_string_append_printf(log, "%s|", value ? text : error->message);
}

static char *frame(const char *data, size_t len, size_t step)
{
    GString *log = g_string_new(NULL);
    struct qapi_json_framer *framer = qapi_json_framer_new(record, log);

    for (size_t at = 0; at < len; at += step) {
        qapi_json_framer_feed(framer, data + at, MIN(step, len - at));
    }
    qapi_json_framer_free(framer);
    return g_string_free(log, FALSE);
}

static void test_framing(void)
{
    static const struct {
        const char *data, *expected;
    } cases[] = {
        { "{}{} []\n", "{}|{}|[]|" },
        { "1 2\ntrue,null \n", "1|2|true|JSON parse error, expecting value|" },
        { "\"a\"'b'", "\"a\"|\"b\"|" },
        { "'it\\'s \"x\"'", "\"it's \\\"x\\\"\"|" },
        { "{\"a\":[1,{\"b\":\"}]\\\"\"}]}", "{\"a\": [1, {\"b\": \"}]\\\"\"}]}|" },
        { "{ \"a\" :\t1\r\n, 'b': -2.5e1 }", "{\"a\": 1, \"b\": -25.0}|" },
        { "[1 2]", "JSON parse error, ']' expected near '2'|" },
        { "]\n{}", "JSON parse error, expecting value|{}|" },
        { "[}\n{}", "JSON parse error, expecting ']'|{}|" },
        { "{\"a\":1,\"a\":2}{}", "JSON parse error, duplicate object key near '\"a\"'|{}|" },
        { "{\"a\":foo}\n{}", "JSON parse error, invalid keyword 'foo'|{}|" },
        { "@ {} {}\n{}", "JSON parse error, stray '@'|{}|" },
        { "\xff{}", "JSON parse error, stray byte 0xff|{}|" },
        { "{\"execute\":\"q\xff{}", "JSON parse error, stray byte 0xff|{}|" },
        { "\"a\nb\"\n{}", "JSON parse error, control character 0x0a in a string|"
                          "JSON parse error, invalid keyword 'b'|{}|" },
        { "\"\\q {'execute':'quit'}\"\n{}",
          "JSON parse error, invalid escape sequence in string|{}|" },
        { "\"\\u0000\"\n{}", "JSON parse error, \\u0000 is not supported in a string|{}|" },
        { "\"\\ud83d\\ude00\\u00e9\"", "\"\\uD83D\\uDE00\\u00E9\"|" },
        { "[18446744073709551615,-9223372036854775808,9223372036854775808]",
          "[18446744073709551615, -9223372036854775808, 9223372036854775808]|" },
        { "[18446744073709551616]", "[1.8446744073709552e19]|" },
        { "[-9223372036854775809]", "[-9.2233720368547758e18]|" },
        { "{18446744073709551615:1}", "JSON parse error, NUL byte in object key not supported|" },
        { "", "" },
        { " \n\r\t", "" },
        { "{\"a\":", "" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        for (size_t step = 1; step < 8; step += 3) {
            g_autofree char *got = frame(cases[i].data, strlen(cases[i].data), step);

            g_assert_cmpstr(got, ==, cases[i].expected);
        }
    }
    g_autofree char *nul = frame("{}\0{}", 5, 5);
    g_assert_cmpstr(nul, ==, "{}|JSON parse error, stray byte 0x00|{}|");
    g_autofree char *invalid = frame("\"\xe9\x80\"{}", 6, 6);
    g_assert_true(g_str_has_prefix(invalid, "JSON parse error, unable to decode byte"));
    g_assert_true(g_str_has_suffix(invalid, "|{}|"));
}

static char *frame_many(const char *item, size_t count, const char *tail)
{
    GString *log = g_string_new(NULL);
    struct qapi_json_framer *framer = qapi_json_framer_new(record, log);

    for (size_t i = 0; i < count; i++) {
        qapi_json_framer_feed(framer, item, strlen(item));
    }
    qapi_json_framer_feed(framer, tail, strlen(tail));
    qapi_json_framer_free(framer);
    return g_string_free(log, FALSE);
}

static void test_limits(void)
{
    g_autofree char *deep = frame_many("[", 1025, "'{}'\n{}");
    g_autofree char *block = g_strnfill(1 << 20, 'a');
    g_autofree char *start = g_strconcat("\"", NULL);
    GString *log = g_string_new(NULL);
    struct qapi_json_framer *framer = qapi_json_framer_new(record, log);

    g_assert_cmpstr(deep, ==, "JSON nesting depth limit exceeded|{}|");
    for (int i = 0; i < 1024; i++) {
        qapi_json_framer_feed(framer, "[", 1);
    }
    for (int i = 0; i < 1024; i++) {
        qapi_json_framer_feed(framer, "]", 1);
    }
    g_assert_cmpint(log->len, ==, 2049);
    g_string_truncate(log, 0);
    qapi_json_framer_feed(framer, start, 1);
    for (int i = 0; i < 64; i++) {
        qapi_json_framer_feed(framer, block, 1 << 20);
    }
    qapi_json_framer_feed(framer, "{'a':1}\"\n{}", 11);
    g_assert_cmpstr(log->str, ==, "JSON token size limit exceeded|{}|");
    qapi_json_framer_free(framer);
    g_string_free(log, TRUE);
    g_autofree char *tokens = frame_many("[],", (2 << 20) / 3 + 1, "\n{}");
    g_assert_true(g_str_has_suffix(tokens, "{}|"));
    g_autofree char *opened = g_strconcat("[", NULL);
    log = g_string_new(NULL);
    framer = qapi_json_framer_new(record, log);
    qapi_json_framer_feed(framer, opened, 1);
    for (int i = 0; i < (2 << 20) / 3 + 1; i++) {
        qapi_json_framer_feed(framer, "[],", 3);
    }
    qapi_json_framer_feed(framer, "\n{}", 3);
    g_assert_cmpstr(log->str, ==, "JSON token count limit exceeded|{}|");
    qapi_json_framer_free(framer);
    g_string_free(log, TRUE);
}

static void test_parse_and_dump(void)
{
    static const struct {
        const char *text, *message;
    } refused[] = {
        { "", "JSON parse error, expecting value" },
        { "{", "JSON parse error, the text ends within a value" },
        { "\"a", "JSON parse error, the text ends within a value" },
        { "{} {}", "JSON parse error, text follows behind the value" },
        { "{} x", "JSON parse error, invalid keyword 'x'" },
        { "01", "JSON parse error, invalid token near '0'" },
    };
    g_autoptr(json_t) number = parse("  42");
    g_autoptr(json_t) object = parse("{'a': 18446744073709551615, 'b': ['\\\"\\\\u0000']}");
    g_autofree char *line = qapi_json_dump(object, false);
    g_autofree char *pretty = qapi_json_dump(object, true);

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(qapi_json_parse(refused[i].text, &error));
        g_assert_cmpstr(error->message, ==, refused[i].message);
    }
    g_assert_cmpint(json_integer_value(number), ==, 42);
    g_assert_cmpstr(line, ==, "{\"a\": 18446744073709551615, \"b\": [\"\\\"\\\\u0000\"]}");
    g_assert_cmpstr(pretty, ==,
                    "{\n    \"a\": 18446744073709551615,\n    \"b\": [\n"
                    "        \"\\\"\\\\u0000\"\n    ]\n}");
}

/* Arbitrary bytes: nothing but values and errors comes out. `make fuzz` does this for longer. */
static void test_random_bytes(void)
{
    static const char alphabet[] = "{}[]:,\"'\\u0aeE+-.tfn \n\xff\x01\xc3\xa9";
    char data[64];

    for (int round = 0; round < 20000; round++) {
        size_t len = (size_t)g_test_rand_int_range(1, sizeof(data));

        for (size_t i = 0; i < len; i++) {
            data[i] = alphabet[g_test_rand_int_range(0, sizeof(alphabet) - 1)];
        }
        g_autofree char *whole = frame(data, len, len);
        g_autofree char *pieces = frame(data, len, 1);
        g_assert_cmpstr(whole, ==, pieces);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/objects", test_objects);
    g_test_add_func("/qapi/absent", test_absent);
    g_test_add_func("/qapi/alternates", test_alternates);
    g_test_add_func("/qapi/integers", test_integers);
    g_test_add_func("/qapi/numbers", test_numbers);
    g_test_add_func("/qapi/refused", test_refused);
    g_test_add_func("/qapi/keyval", test_keyval);
    g_test_add_func("/qapi/enums", test_enums);
    g_test_add_func("/qapi/invalid-utf8", test_invalid_utf8);
    g_test_add_func("/qapi/json/framing", test_framing);
    g_test_add_func("/qapi/json/limits", test_limits);
    g_test_add_func("/qapi/json/parse-and-dump", test_parse_and_dump);
    g_test_add_func("/qapi/json/random-bytes", test_random_bytes);
    return g_test_run();
}
