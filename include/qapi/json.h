/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON text as QMP uses it, around jansson.
 *
 * jansson parses one complete value and has signed 64-bit integers. This adds what is missing:
 * cutting a byte stream into values (with limits and a way back after garbage), strings in single
 * quotes, and integers from 2^63 to 2^64-1. The latter are json_t strings that begin with a NUL
 * byte, which no text can produce because \u0000 is refused; only qapi_json_uint64() and
 * qapi_json_get_uint64() know that.
 */
#ifndef QAPI_JSON_H
#define QAPI_JSON_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QAPI_JSON_MAX_BYTES  (64u << 20) /* of one value */
#define QAPI_JSON_MAX_TOKENS (2u << 20)  /* of one value; bounds the memory of its tree */
#define QAPI_JSON_MAX_DEPTH  1024

/* Exactly one of value (borrowed) and error (borrowed) is set. */
typedef void (*qapi_json_fn)(void *opaque, json_t *value, const GError *error);

/*
 * Cuts a stream into values and hands each to fn. Garbage and values beyond a limit are reported
 * once; reading resumes behind the next newline, control character or byte 0xFF, none of which can
 * be part of a string, so text inside a broken value is never taken for a value of its own. fn must
 * not free or feed the framer.
 */
struct qapi_json_framer;
struct qapi_json_framer *qapi_json_framer_new(qapi_json_fn fn, void *opaque);
void qapi_json_framer_free(struct qapi_json_framer *framer);
void qapi_json_framer_feed(struct qapi_json_framer *framer, const void *data, size_t len);
/* The stream has ended: a number or keyword at its end is complete, anything else is an error. */
void qapi_json_framer_finish(struct qapi_json_framer *framer);
/* Forgets what was fed. */
void qapi_json_framer_reset(struct qapi_json_framer *framer);

/* Parses text that holds one value, for JSON on the command line. The caller owns the result. */
json_t *qapi_json_parse(const char *text, GError **err);

/* One line, or indented by four spaces; ASCII only, no newline at the end. g_free() the result. */
char *qapi_json_dump(json_t *json, bool pretty);

/* The text of a string, NULL for anything else; use it for values from clients instead of
 * json_string_value(), which would see an empty string in a large integer. */
const char *qapi_json_get_string(json_t *json);

/* An integer that may exceed INT64_MAX. */
json_t *qapi_json_uint64(uint64_t value);
/* False unless json is an integer; negative ones are taken modulo 2^64, as QEMU does. */
bool qapi_json_get_uint64(json_t *json, uint64_t *value);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(json_t, json_decref)

#endif
