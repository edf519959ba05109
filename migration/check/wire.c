/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON on the wire of a check. What comes is a peer's: its length is bounded before it is kept, its
 * tokens and its depth by the parser (qapi/json.c), its shape by the schema's visitor. Members of a
 * newer version are taken out before, so that two versions understand what they have in common.
 * Trust: none.
 */
#include "migration/check/wire.h"

#include <string.h>

#include "io/channel.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "qapi/json.h"
#include "util/error.h"

/* Of a command's payload, "last" included. */
#define COMMAND_CHUNK 32768u

bool check_collect(GByteArray *text, const uint8_t *chunk, size_t len, bool *last, GError **err)
{
    if (chunk[0] > 1 || (len == 1 && !chunk[0])) {
        error_set(err, FERRY_ERROR_PEER, "The peer sent a malformed piece of a check");
        return false;
    }
    if (text->len + (len - 1) > CHECK_MAX_BYTES) {
        error_set(err, FERRY_ERROR_PEER, "The peer sent more than %u bytes in a check",
                  CHECK_MAX_BYTES);
        return false;
    }
    g_byte_array_append(text, chunk + 1, (guint)(len - 1));
    *last = chunk[0];
    return true;
}

static bool has_value(const struct qapi_type *type, const char *name)
{
    for (unsigned i = 0; i < type->value_count; i++) {
        if (g_str_equal(type->values[i], name)) {
            return true;
        }
    }
    return false;
}

/* Takes out what the type does not have. A word of a newer version becomes the enum's first: of
 * severities that is the obstacle, and what a finding is about its reason says. */
static void prune(const struct qapi_type *type, json_t *json)
{
    const char *key;
    json_t *value;
    void *next;

    if (type->kind == QAPI_KIND_ARRAY && json_is_array(json)) {
        for (size_t i = 0; i < json_array_size(json); i++) {
            prune(type->element, json_array_get(json, i));
        }
    }
    if (type->kind != QAPI_KIND_OBJECT || !json_is_object(json)) {
        return;
    }
    json_object_foreach_safe(json, next, key, value)
    {
        const struct qapi_member *m = NULL;

        for (unsigned i = 0; i < type->member_count && !m; i++) {
            m = g_str_equal(type->members[i].name, key) ? &type->members[i] : NULL;
        }
        if (m && m->type->kind == QAPI_KIND_ENUM && json_is_string(value) &&
            !has_value(m->type, json_string_value(value))) {
            json_object_set_new(json, key, json_string(m->type->values[0]));
        } else if (m) {
            prune(m->type, value);
        } else {
            json_object_del(json, key);
        }
    }
}

static void *from_text(const struct qapi_type *type, const GByteArray *text, const char *what,
                       GError **err)
{
    /* of an array that is empty the data is NULL */
    g_autofree char *copy = g_strndup(text->len ? (const char *)text->data : "", text->len);
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) json = NULL;
    void *value = NULL;

    if (strlen(copy) == text->len && g_utf8_validate(copy, -1, NULL)) {
        json = qapi_json_parse(copy, &error);
    } else {
        error_set(&error, FERRY_ERROR_PEER, "It is no text");
    }
    if (json) {
        prune(type, json);
        qapi_read(type, NULL, json, QAPI_READ_JSON, &value, &error);
    }
    if (!value) {
        g_autofree char *shown =
            g_utf8_make_valid(error->message, (gssize)MIN(strlen(error->message), 200));

        error_set(err, FERRY_ERROR_PEER, "The peer's %s makes no sense: %s", what, shown);
    }
    return value;
}

MigrationSide *check_side_from_text(const GByteArray *text, GError **err)
{
    return from_text(&qapi_type_migration_side, text, "description", err);
}

MigrationCheckAnswer *check_answer_from_text(const GByteArray *text, GError **err)
{
    return from_text(&qapi_type_migration_check_answer, text, "answer to a check", err);
}

bool check_send_side(struct stream_out *o, const MigrationSide *side, GError **err)
{
    g_autoptr(json_t) json = qapi_migration_side_to_json(side);
    g_autofree char *text = qapi_json_dump(json, false);
    size_t len = strlen(text);

    if (len > CHECK_MAX_BYTES) {
        error_set(err, FERRY_ERROR_HOST,
                  "This machine's description is too long for a check (%zu bytes)", len);
        return false;
    }
    for (size_t at = 0; at < len;) {
        size_t n = MIN(len - at, COMMAND_CHUNK - 1);

        out_u8(o, STREAM_COMMAND);
        out_be16(o, STREAM_CMD_FERRY_CHECK);
        out_be16(o, (uint16_t)(n + 1));
        out_u8(o, at + n == len);
        out_bytes(o, text + at, n);
        at += n;
    }
    return true;
}

bool check_send_answer(struct channel *ch, const MigrationCheckAnswer *answer, GError **err)
{
    g_autoptr(json_t) json = qapi_migration_check_answer_to_json(answer);
    g_autofree char *text = qapi_json_dump(json, false);
    size_t len = MIN(strlen(text), CHECK_MAX_BYTES);

    for (size_t at = 0; at < len;) {
        uint8_t chunk[RETURN_MAX_PAYLOAD];
        size_t n = MIN(len - at, sizeof(chunk) - 1);

        chunk[0] = at + n == len;
        memcpy(chunk + 1, text + at, n);
        if (!return_path_send(ch, RETURN_FERRY_CHECK, chunk, n + 1, err)) {
            return false;
        }
        at += n;
    }
    return true;
}
