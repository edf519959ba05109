/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Option arguments: the key=value syntax, and tables that read them. */
#include <glib.h>
#include <string.h>

#include "qapi/json.h"
#include "system/config.h"
#include "system/keyval.h"

static void check_parse(const char *text, const char *implied, const char *expected)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(json_t) opts = keyval_parse(text, implied, NULL, &err);
    g_autoptr(json_t) wanted = json_loads(expected, 0, NULL);

    g_assert_no_error(err);
    g_assert_nonnull(wanted);
    if (!json_equal(opts, wanted)) {
        g_autofree char *got = qapi_json_dump(opts, false);

        g_error("%s gave %s", text, got);
    }
}

static void test_parse(void)
{
    check_parse("", NULL, "{}");
    check_parse("a=1", NULL, "{\"a\": \"1\"}");
    check_parse("a=1,b=2", NULL, "{\"a\": \"1\", \"b\": \"2\"}");
    check_parse("a=1,a=2", NULL, "{\"a\": \"2\"}");
    check_parse("a=1,", NULL, "{\"a\": \"1\"}");
    check_parse("a=1,b=,c=3", NULL, "{\"a\": \"1\", \"b\": \"\", \"c\": \"3\"}");
    check_parse("a=x,,y", NULL, "{\"a\": \"x,y\"}");
    check_parse("a=x,,,b=y", NULL, "{\"a\": \"x,\", \"b\": \"y\"}");
    check_parse("a=x,,,,y", NULL, "{\"a\": \"x,,y\"}");
    check_parse("a=b=c", NULL, "{\"a\": \"b=c\"}");
    check_parse("a.b-c_d=1", NULL, "{\"a.b-c_d\": \"1\"}");
}

static void test_implied(void)
{
    check_parse("x", "k", "{\"k\": \"x\"}");
    check_parse("x,a=1", "k", "{\"k\": \"x\", \"a\": \"1\"}");
    check_parse("a=1", "k", "{\"a\": \"1\"}");
    check_parse("k=x", "k", "{\"k\": \"x\"}");
    check_parse("x,,y,a=1", "k", "{\"k\": \"x,y\", \"a\": \"1\"}");
    check_parse("", "k", "{}");
    check_parse(",a=1", "k", "{\"a\": \"1\"}");
}

static void check_refused(const char *text, const char *implied, const char *message)
{
    g_autoptr(GError) err = NULL;

    g_assert_null(keyval_parse(text, implied, NULL, &err));
    g_assert_cmpstr(err->message, ==, message);
}

static void test_refused(void)
{
    check_refused("a", NULL, "Expected '=' after parameter 'a'");
    check_refused("a=1,b", NULL, "Expected '=' after parameter 'b'");
    check_refused("x,y", "k", "Expected '=' after parameter 'y'");
    check_refused("=1", NULL, "Invalid parameter ''");
    check_refused("a b=1", NULL, "Invalid parameter 'a b'");
    check_refused("a=1, b=2", NULL, "Invalid parameter ' b'");
    check_refused("a=\xff", NULL, "The value of parameter 'a' is not valid UTF-8");
}

static void test_short_booleans(void)
{
    g_autoptr(GPtrArray) warnings = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) err = NULL;
    g_autoptr(json_t) opts = keyval_parse("x,server,nowait", "k", warnings, &err);

    g_assert_no_error(err);
    g_assert_cmpstr(json_string_value(json_object_get(opts, "server")), ==, "on");
    g_assert_cmpstr(json_string_value(json_object_get(opts, "wait")), ==, "off");
    g_assert_cmpuint(warnings->len, ==, 2);
    g_assert_cmpstr(g_ptr_array_index(warnings, 1), ==,
                    "short-form boolean option 'nowait' is deprecated, use wait=off instead");
    g_assert_null(keyval_parse("a=1,no", NULL, warnings, &err));
    g_assert_cmpstr(err->message, ==, "Invalid parameter 'no'");
}

static void test_json(void)
{
    g_autoptr(GError) err = NULL;
    bool is_json;
    g_autoptr(json_t) json = keyval_parse_or_json("{\"a\": 1}", NULL, NULL, &is_json, &err);
    g_autoptr(json_t) text = keyval_parse_or_json("a=1", NULL, NULL, &is_json, &err);

    g_assert_false(is_json);
    g_assert_true(json_is_integer(json_object_get(json, "a")));
    g_assert_true(json_is_string(json_object_get(text, "a")));
    g_assert_null(keyval_parse_or_json("{\"a\": ", NULL, NULL, &is_json, &err));
    g_assert_nonnull(err);
}

static void test_size(void)
{
    static const struct {
        const char *text;
        uint64_t unit, value;
    } good[] = {
        { "0", 1, 0 },
        { "64", 1 << 20, 64 << 20 },
        { "64", 1, 64 },
        { "1k", 1, 1024 },
        { "1K", 1 << 20, 1024 },
        { "10M", 1, 10 << 20 },
        { "1.5G", 1, UINT64_C(3) << 29 },
        { "0.001k", 1, 1 },
        { "2T", 1, UINT64_C(2) << 40 },
        { "1P", 1, UINT64_C(1) << 50 },
        { "15E", 1, UINT64_C(15) << 60 },
        { "7B", 1 << 20, 7 },
        { "0x10", 1, 16 },
        { "18446744073709551615", 1, UINT64_MAX },
    };
    static const char *const bad[] = { "",     "x",
                                       "-1",   "+1",
                                       " 1",   "1 ",
                                       "1Z",   "1MM",
                                       "1.",   "1.5",
                                       "1.M",  ".5M",
                                       "1e3",  "16E",
                                       "0x",   "18446744073709551616",
                                       "1.5B", "15.999999999999E0" };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t value = 1;

        g_assert_true(keyval_parse_size(good[i].text, good[i].unit, &value));
        g_assert_cmpuint(value, ==, good[i].value);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t value;

        if (keyval_parse_size(bad[i], 1, &value)) {
            g_error("'%s' was taken for %" G_GUINT64_FORMAT, bad[i], value);
        }
    }
}

struct target {
    bool flag;
    enum on_off_auto choice;
    unsigned number;
    uint64_t size;
    char *text;
    unsigned which;
};

static const struct keyval_field fields[] = {
    KEYVAL_ROW("flag", KEYVAL_BOOL, struct target, flag),
    KEYVAL_ROW("choice", KEYVAL_ON_OFF_AUTO, struct target, choice),
    KEYVAL_ROW("number", KEYVAL_UINT, struct target, number, .min = 2, .max = 9),
    KEYVAL_ROW("size", KEYVAL_SIZE, struct target, size, .min = 1024),
    KEYVAL_ROW("text", KEYVAL_STRING, struct target, text),
    KEYVAL_ROW("which", KEYVAL_ENUM, struct target, which,
               .names = (const char *const[]){ "red", "blue", NULL }),
    KEYVAL_FIXED_ROW("usb", "there is no USB", "off"),
    {},
};

static void test_read(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(json_t) opts = keyval_parse(
        "flag=yes,choice=auto,number=9,size=2,text=a,,b,which=blue,usb=off", NULL, NULL, &err);
    g_autoptr(json_t) json = json_pack("{s:b, s:i, s:I, s:b}", "flag", 0, "number", 2, "size",
                                       (json_int_t)4096, "usb", 0);
    struct target t = {};

    g_assert_true(keyval_read(fields, opts, &t, &err));
    g_assert_true(t.flag);
    g_assert_cmpint(t.choice, ==, OPT_AUTO);
    g_assert_cmpuint(t.number, ==, 9);
    g_assert_cmpuint(t.size, ==, 2048);
    g_assert_cmpstr(t.text, ==, "a,b");
    g_assert_cmpuint(t.which, ==, 1);
    g_assert_true(keyval_read(fields, json, &t, &err));
    g_assert_false(t.flag);
    g_assert_cmpuint(t.number, ==, 2);
    g_assert_cmpuint(t.size, ==, 4096);
    g_free(t.text);
}

static void check_unreadable(const char *text, const char *message)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(json_t) opts = keyval_parse(text, NULL, NULL, &err);
    struct target t = {};

    g_assert_no_error(err);
    g_assert_false(keyval_read(fields, opts, &t, &err));
    g_assert_cmpstr(err->message, ==, message);
    g_free(t.text);
}

static void test_unreadable(void)
{
    check_unreadable("foo=1", "Invalid parameter 'foo'");
    check_unreadable("flag=2", "Parameter 'flag' expects 'on' or 'off'");
    check_unreadable("flag=auto", "Parameter 'flag' expects 'on' or 'off'");
    check_unreadable("number=x", "Parameter 'number' expects a number");
    check_unreadable("number=-3", "Parameter 'number' expects a number");
    check_unreadable("number=1", "Parameter 'number' expects a value between 2 and 9");
    check_unreadable("number=4294967298", "Parameter 'number' expects a number");
    check_unreadable("choice=yes",
                     "Parameter 'choice' does not accept value 'yes', only 'off', 'on', 'auto'");
    check_unreadable("which=green",
                     "Parameter 'which' does not accept value 'green', only 'red', 'blue'");
    check_unreadable("usb=on", "Parameter 'usb' does not accept value 'on': there is no USB");
    check_unreadable("size=1x", "Parameter 'size' expects a size below 2^64, a number with an "
                                "optional suffix k, M, G, T, P or E");
}

static void test_wrong_json_types(void)
{
    static const char *const bad[] = { "{\"flag\": 1}",      "{\"number\": true}",
                                       "{\"number\": -1}",   "{\"text\": 1}",
                                       "{\"which\": 1}",     "{\"size\": []}",
                                       "{\"choice\": null}", "{\"usb\": {}}" };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;
        g_autoptr(json_t) opts = json_loads(bad[i], 0, NULL);
        struct target t = {};

        g_assert_false(keyval_read(fields, opts, &t, &err));
        g_assert_nonnull(err);
        g_free(t.text);
    }
}

static void test_identifier(void)
{
    g_assert_true(keyval_is_identifier("a"));
    g_assert_true(keyval_is_identifier("a1.b-c_D"));
    g_assert_false(keyval_is_identifier(""));
    g_assert_false(keyval_is_identifier("1a"));
    g_assert_false(keyval_is_identifier("a/b"));
    g_assert_false(keyval_is_identifier("a b"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/keyval/parse", test_parse);
    g_test_add_func("/keyval/implied", test_implied);
    g_test_add_func("/keyval/refused", test_refused);
    g_test_add_func("/keyval/short-booleans", test_short_booleans);
    g_test_add_func("/keyval/json", test_json);
    g_test_add_func("/keyval/size", test_size);
    g_test_add_func("/keyval/read", test_read);
    g_test_add_func("/keyval/unreadable", test_unreadable);
    g_test_add_func("/keyval/wrong-json-types", test_wrong_json_types);
    g_test_add_func("/keyval/identifier", test_identifier);
    return g_test_run();
}
