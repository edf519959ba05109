/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The syntax of option arguments, "VALUE,key=value,key=value", and tables that read them into a
 * struct.
 *
 * Parsing turns the text into a flat JSON object of strings; reading checks every key and value
 * against a table and stores it. An argument that begins with '{' is JSON and its values have JSON
 * types, so the same table serves both. Main thread, before anything runs.
 */
#ifndef SYSTEM_KEYVAL_H
#define SYSTEM_KEYVAL_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * "a=1,b=2,,3": {"a": "1", "b": "2,3"}; two commas stand for one in a value, an empty part (a
 * trailing comma) is skipped, a key given twice keeps its last value. The first part is the value
 * of implied_key when it has no '='; NULL: there is no such key. The caller owns the object; NULL
 * with *err set (USER).
 *
 * With warnings (a list of char *) the older form of booleans is taken too, "key" for key=on and
 * "nokey" for key=off, and a line about it is added; without, it is refused.
 */
json_t *keyval_parse(const char *text, const char *implied_key, GPtrArray *warnings, GError **err);

/* The same without the older form of booleans, for options whose keys in `lists` (ends with NULL)
 * may be given several times: "h=a,h=b" makes {"h": [{MEMBER: "a"}, {MEMBER: "b"}]}. */
json_t *keyval_parse_lists(const char *text, const char *implied_key, const char *const *lists,
                           const char *member, GError **err);

/* keyval_parse(), or JSON when the text begins with '{'. *is_json tells which. */
json_t *keyval_parse_or_json(const char *text, const char *implied_key, GPtrArray *warnings,
                             bool *is_json, GError **err);

enum keyval_type {
    KEYVAL_BOOL,        /* bool: on, off (yes, no, y, n, true, false) */
    KEYVAL_ON_OFF_AUTO, /* enum on_off_auto */
    KEYVAL_UINT,        /* unsigned, from min to max */
    KEYVAL_SIZE,        /* uint64_t bytes; k, M, G, T, P, E; a bare number counts units of `min` */
    KEYVAL_STRING,      /* char *, owned */
    KEYVAL_ENUM,        /* an enum whose values index names */
    KEYVAL_FIXED,       /* nothing is stored: only the values in names are possible here */
};

struct keyval_field {
    const char *key;
    enum keyval_type type;
    size_t offset; /* in the struct that is read into */
    uint64_t min, max;
    const char *const *names; /* ends with NULL */
    const char *why;          /* KEYVAL_FIXED: why nothing else is possible, "there is no USB" */
    const char *help;
};

/* A row: KEYVAL_ROW("size", KEYVAL_SIZE, struct foo, size, .min = 1024) */
#define KEYVAL_ROW(k, t, s, m, ...)                                                                \
    {                                                                                              \
        .key = k, .type = t, .offset = offsetof(s, m), __VA_ARGS__                                 \
    }
/* A row for a key with only some possible values, none of which changes anything. */
#define KEYVAL_FIXED_ROW(k, reason, ...)                                                           \
    {                                                                                              \
        .key = k, .type = KEYVAL_FIXED, .names = (const char *const[]){ __VA_ARGS__, NULL },       \
        .why = reason                                                                              \
    }

/*
 * Stores what opts holds into `out` by the table (ends with a NULL key). Unknown keys are refused
 * by name. What was stored before an error stays. USER errors.
 */
bool keyval_read(const struct keyval_field *table, json_t *opts, void *out, GError **err);

/* The lines of "-option help". */
void keyval_print_help(const char *title, const struct keyval_field *table);

/* "on" and "off" and their other spellings. */
bool keyval_parse_bool(const char *text, bool *out);
/* "64", "64M", "1.5G" (unit: bytes of a number without a suffix); false: not a size below 2^64. */
bool keyval_parse_size(const char *text, uint64_t unit, uint64_t *out);
/* Letters, digits, '-', '.', '_', starting with a letter. */
bool keyval_is_identifier(const char *text);

#endif
