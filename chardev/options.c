/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options of a chardev: a flat JSON object whose values are strings, as a command line gives them,
 * or JSON booleans and integers. They are checked as a whole against the back end's table before
 * anything is opened, so the getters need no errors.
 */
#include "chardev-private.h"

#include <string.h>

#include "util/error.h"

static const struct chardev_option common_options[] = {
    { "backend", CHARDEV_OPTION_STRING },
    { "id", CHARDEV_OPTION_STRING },
    { "logfile", CHARDEV_OPTION_STRING },
    { "logappend", CHARDEV_OPTION_BOOL },
    { NULL, 0 },
};

static const struct chardev_option *option_find(const struct chardev_option *table, const char *key)
{
    for (; table->key; table++) {
        if (strcmp(table->key, key) == 0) {
            return table;
        }
    }
    return NULL;
}

static bool parse_bool(json_t *value, bool *out)
{
    const char *text = json_string_value(value);

    if (json_is_boolean(value)) {
        *out = json_is_true(value);
        return true;
    }
    *out = text && strcmp(text, "on") == 0;
    return *out || (text && strcmp(text, "off") == 0);
}

static bool parse_number(json_t *value, uint64_t *out)
{
    const char *text = json_string_value(value);

    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return json_integer_value(value) >= 0;
    }
    return text && g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, out, NULL);
}

static bool check_value(const struct chardev_option *option, json_t *value, GError **err)
{
    static const char *const expected[] = {
        [CHARDEV_OPTION_STRING] = "a string",
        [CHARDEV_OPTION_BOOL] = "'on' or 'off'",
        [CHARDEV_OPTION_NUMBER] = "a number",
    };
    uint64_t number;
    bool flag, ok;

    switch (option->type) {
    case CHARDEV_OPTION_BOOL:
        ok = parse_bool(value, &flag);
        break;
    case CHARDEV_OPTION_NUMBER:
        ok = parse_number(value, &number);
        break;
    default:
        /* an integer may be a port or a descriptor */
        ok = json_is_string(value) || json_is_integer(value);
        break;
    }
    if (!ok) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects %s", option->key,
                  expected[option->type]);
    }
    return ok;
}

bool chardev_options_check(json_t *options, const struct chardev_option *table, GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach(options, key, value)
    {
        const struct chardev_option *option = option_find(common_options, key);

        if (!option) {
            option = option_find(table, key);
        }
        if (!option) {
            error_set(err, FERRY_ERROR_USER, "Invalid parameter '%s'", key);
            return false;
        }
        if (!check_value(option, value, err)) {
            return false;
        }
    }
    return true;
}

char *chardev_option_string(json_t *options, const char *key)
{
    json_t *value = json_object_get(options, key);

    if (json_is_integer(value)) {
        return g_strdup_printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
    }
    return g_strdup(json_string_value(value));
}

bool chardev_option_bool(json_t *options, const char *key, bool absent)
{
    json_t *value = json_object_get(options, key);
    bool flag = absent;

    return value && parse_bool(value, &flag) ? flag : absent;
}

uint64_t chardev_option_number(json_t *options, const char *key, uint64_t absent)
{
    json_t *value = json_object_get(options, key);
    uint64_t number = absent;

    return value && parse_number(value, &number) ? number : absent;
}
