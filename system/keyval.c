/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Option arguments: from text to a JSON object, from there by a table into a struct.
 *
 * Both halves stop at the first thing that is wrong and say what it was; nothing is guessed and
 * nothing is left out.
 */
#include "system/keyval.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "qapi/json.h"
#include "system/config.h"
#include "util/error.h"

/* Cuts the next part off *text, undoubling commas; *text is NULL after the last. */
static char *next_part(const char **text)
{
    GString *part = g_string_new(NULL);
    const char *p = *text;

    for (; *p; p++) {
        if (*p == ',') {
            if (p[1] != ',') {
                break;
            }
            p++;
        }
        g_string_append_c(part, *p);
    }
    *text = *p ? p + 1 : NULL;
    return g_string_free(part, FALSE);
}

static bool key_is_valid(const char *key, size_t len)
{
    if (!len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(key[i]) && !strchr("-._", key[i])) {
            return false;
        }
    }
    return true;
}

static bool add_part(json_t *opts, const char *part, const char *implied_key, GPtrArray *warnings,
                     GError **err)
{
    const char *equals = strchr(part, '=');
    size_t key_len = equals ? (size_t)(equals - part) : strlen(part);
    g_autofree char *key = NULL;
    const char *value = equals ? equals + 1 : NULL;
    json_t *json;

    if (!equals && implied_key) {
        key = g_strdup(implied_key);
        value = part;
    } else if (!key_is_valid(part, key_len)) {
        error_set(err, FERRY_ERROR_USER, "Invalid parameter '%.*s'", (int)key_len, part);
        return false;
    } else if (equals) {
        key = g_strndup(part, key_len);
    } else if (warnings) {
        bool off = g_str_has_prefix(part, "no");

        key = g_strdup(off ? part + 2 : part);
        value = off ? "off" : "on";
        if (!key_is_valid(key, strlen(key))) {
            error_set(err, FERRY_ERROR_USER, "Invalid parameter '%s'", part);
            return false;
        }
        g_ptr_array_add(warnings,
                        g_strdup_printf("short-form boolean option '%s' is deprecated, use %s=%s "
                                        "instead",
                                        part, key, value));
    } else {
        error_set(err, FERRY_ERROR_USER, "Expected '=' after parameter '%s'", part);
        return false;
    }
    json = json_string(value);
    if (!json) {
        error_set(err, FERRY_ERROR_USER, "The value of parameter '%s' is not valid UTF-8", key);
        return false;
    }
    json_object_set_new(opts, key, json);
    return true;
}

json_t *keyval_parse(const char *text, const char *implied_key, GPtrArray *warnings, GError **err)
{
    g_autoptr(json_t) opts = json_object();

    while (text) {
        g_autofree char *part = next_part(&text);

        /* only the very first part may be a value alone */
        if (*part && !add_part(opts, part, implied_key, warnings, err)) {
            return NULL;
        }
        implied_key = NULL;
    }
    return g_steal_pointer(&opts);
}

json_t *keyval_parse_lists(const char *text, const char *implied_key, const char *const *lists,
                           const char *member, GError **err)
{
    g_autoptr(json_t) opts = json_object();

    while (text) {
        g_autofree char *part = next_part(&text);
        g_autoptr(json_t) one = json_object();
        const char *key;
        json_t *value;

        if (*part && !add_part(one, part, implied_key, NULL, err)) {
            return NULL;
        }
        implied_key = NULL;
        json_object_foreach(one, key, value)
        {
            json_t *list = json_object_get(opts, key);

            if (!g_strv_contains(lists, key)) {
                json_object_set(opts, key, value);
                continue;
            }
            if (!list) {
                list = json_array();
                json_object_set_new(opts, key, list);
            }
            json_array_append_new(list, json_pack("{s:O}", member, value));
        }
    }
    return g_steal_pointer(&opts);
}

json_t *keyval_parse_or_json(const char *text, const char *implied_key, GPtrArray *warnings,
                             bool *is_json, GError **err)
{
    json_t *opts;

    *is_json = text[0] == '{';
    if (!*is_json) {
        return keyval_parse(text, implied_key, warnings, err);
    }
    opts = qapi_json_parse(text, err);
    if (opts && !json_is_object(opts)) {
        error_set(err, FERRY_ERROR_USER, "A JSON object is expected");
        json_decref(opts);
        return NULL;
    }
    return opts;
}

bool keyval_parse_bool(const char *text, bool *out)
{
    static const char *const on[] = { "on", "yes", "y", "true", NULL };
    static const char *const off[] = { "off", "no", "n", "false", NULL };

    *out = g_strv_contains(on, text);
    return *out || g_strv_contains(off, text);
}

bool keyval_parse_size(const char *text, uint64_t unit, uint64_t *out)
{
    static const char suffixes[] = "BKMGTPE";
    uint64_t whole, fraction = 0, scale = 1;
    char *end;

    /* strtoull takes signs and blanks, which are no numbers here */
    if (!g_ascii_isdigit(text[0])) {
        return false;
    }
    errno = 0;
    whole = g_ascii_strtoull(text, &end, g_str_has_prefix(text, "0x") ? 16 : 10);
    if (errno) {
        return false;
    }
    if (*end == '.' && !g_str_has_prefix(text, "0x")) {
        /* nine digits are more than anybody writes, and cannot overflow below */
        for (end++; g_ascii_isdigit(*end) && scale < 1000000000; end++) {
            fraction = fraction * 10 + (*end - '0');
            scale *= 10;
        }
        if (scale == 1) {
            return false;
        }
    }
    if (*end) {
        const char *suffix = strchr(suffixes, g_ascii_toupper(*end));

        if (!suffix || end[1]) {
            return false;
        }
        unit = UINT64_C(1) << (10 * (suffix - suffixes));
    }
    if (scale > 1 && (!*end || unit == 1)) {
        return false; /* half a byte, or half of a unit that is not named */
    }
    if (__builtin_mul_overflow(whole, unit, out)) {
        return false;
    }
    fraction = (uint64_t)((unsigned __int128)fraction * unit / scale);
    return !__builtin_add_overflow(*out, fraction, out);
}

bool keyval_is_identifier(const char *text)
{
    return g_ascii_isalpha(text[0]) && key_is_valid(text, strlen(text));
}

static void *field_at(const struct keyval_field *field, void *out)
{
    return (char *)out + field->offset;
}

static char *list_names(const char *const *names)
{
    g_autofree char *joined = g_strjoinv("', '", (char **)names);

    return g_strdup_printf("'%s'", joined);
}

static bool read_bool(const struct keyval_field *field, json_t *value, void *at, GError **err)
{
    bool *out = at;

    if (json_is_boolean(value)) {
        *out = json_is_true(value);
        return true;
    }
    if (json_is_string(value) && keyval_parse_bool(json_string_value(value), out)) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects 'on' or 'off'", field->key);
    return false;
}

static int name_index(const char *const *names, const char *text)
{
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            return i;
        }
    }
    return -1;
}

static bool read_name(const struct keyval_field *field, json_t *value, const char *const *names,
                      void *at, GError **err)
{
    const char *text = json_string_value(value);
    int index = text ? name_index(names, text) : -1;
    g_autofree char *possible = NULL;

    if (index >= 0) {
        *(unsigned *)at = index;
        return true;
    }
    possible = list_names(names);
    error_set(err, FERRY_ERROR_USER, "Parameter '%s' does not accept value '%s', only %s",
              field->key, text ? text : "?", possible);
    return false;
}

static bool read_enum(const struct keyval_field *field, json_t *value, void *at, GError **err)
{
    return read_name(field, value, field->names, at, err);
}

static bool read_on_off_auto(const struct keyval_field *field, json_t *value, void *at,
                             GError **err)
{
    static const char *const names[] = {
        [OPT_OFF] = "off", [OPT_ON] = "on", [OPT_AUTO] = "auto", NULL
    };

    return read_name(field, value, names, at, err);
}

static bool read_uint(const struct keyval_field *field, json_t *value, void *at, GError **err)
{
    const char *text = json_string_value(value);
    guint64 number = 0;
    bool is_number;

    if (json_is_integer(value)) {
        is_number = json_integer_value(value) >= 0;
        number = json_integer_value(value);
    } else {
        is_number = text && g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX, &number, NULL);
    }
    if (!is_number) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects a number", field->key);
        return false;
    }
    if (number < field->min || number > field->max) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter '%s' expects a value between %" G_GUINT64_FORMAT
                  " and %" G_GUINT64_FORMAT,
                  field->key, field->min, field->max);
        return false;
    }
    *(unsigned *)at = number;
    return true;
}

static bool read_size(const struct keyval_field *field, json_t *value, void *at, GError **err)
{
    uint64_t *out = at;

    if (qapi_json_get_uint64(value, out) ||
        (json_is_string(value) &&
         keyval_parse_size(json_string_value(value), MAX(field->min, 1), out))) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER,
              "Parameter '%s' expects a size below 2^64, a number with an optional suffix k, M, G, "
              "T, P or E",
              field->key);
    return false;
}

static bool read_string(const struct keyval_field *field, json_t *value, void *at, GError **err)
{
    char **out = at;

    if (!json_is_string(value)) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects a string", field->key);
        return false;
    }
    g_free(*out);
    *out = g_strdup(json_string_value(value));
    return true;
}

static bool read_fixed(const struct keyval_field *field, json_t *value, void *at G_GNUC_UNUSED,
                       GError **err)
{
    const char *text =
        json_is_boolean(value) ? (json_is_true(value) ? "on" : "off") : json_string_value(value);

    if (text && name_index(field->names, text) >= 0) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER, "Parameter '%s' does not accept value '%s': %s", field->key,
              text ? text : "?", field->why);
    return false;
}

typedef bool keyval_read_fn(const struct keyval_field *field, json_t *value, void *at,
                            GError **err);

static keyval_read_fn *const readers[] = {
    [KEYVAL_BOOL] = read_bool,   [KEYVAL_ON_OFF_AUTO] = read_on_off_auto, [KEYVAL_UINT] = read_uint,
    [KEYVAL_SIZE] = read_size,   [KEYVAL_STRING] = read_string,           [KEYVAL_ENUM] = read_enum,
    [KEYVAL_FIXED] = read_fixed,
};

bool keyval_read(const struct keyval_field *table, json_t *opts, void *out, GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach(opts, key, value)
    {
        const struct keyval_field *field = table;

        while (field->key && strcmp(field->key, key) != 0) {
            field++;
        }
        if (!field->key) {
            error_set(err, FERRY_ERROR_USER, "Invalid parameter '%s'", key);
            return false;
        }
        if (!readers[field->type](field, value, field_at(field, out), err)) {
            return false;
        }
    }
    return true;
}

void keyval_print_help(const char *title, const struct keyval_field *table)
{
    static const char *const forms[] = {
        [KEYVAL_BOOL] = "on|off", [KEYVAL_ON_OFF_AUTO] = "on|off|auto",
        [KEYVAL_UINT] = "NUMBER", [KEYVAL_SIZE] = "SIZE",
        [KEYVAL_STRING] = "TEXT",
    };

    printf("%s\n", title);
    for (; table->key; table++) {
        g_autofree char *names = table->names ? g_strjoinv("|", (char **)table->names) : NULL;
        g_autofree char *form =
            g_strdup_printf("%s=%s", table->key, names ? names : forms[table->type]);

        printf("  %-32s %s%s\n", form, table->help ? table->help : "",
               table->type == KEYVAL_FIXED ? table->why : "");
    }
}
