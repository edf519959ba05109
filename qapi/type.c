/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QAPI values in memory: the built-in types, and the walks over the type tables that turn a value
 * into JSON and free it. Reading is in read.c; see include/qapi/type.h for the mapping to C.
 *
 * Nothing here can fail: values were made by us. What JSON cannot express (text that is not UTF-8,
 * infinite numbers) is replaced rather than dropped, so that an answer always has its members.
 */
#include "qapi/type.h"

#include <math.h>
#include <string.h>

#include "qapi/json.h"
#include "type-internal.h"

static void any_free(void *value)
{
    json_decref(value);
}

#define INTEGER(id, type, sign, text)                                                              \
    const struct qapi_type qapi_type_##id = {                                                      \
        .kind = QAPI_KIND_INT, .name = text, .size = sizeof(type), .is_signed = sign               \
    }

INTEGER(int, int64_t, true, "int64");
INTEGER(int8, int8_t, true, "int8_t");
INTEGER(int16, int16_t, true, "int16_t");
INTEGER(int32, int32_t, true, "int32_t");
INTEGER(int64, int64_t, true, "int64");
INTEGER(uint8, uint8_t, false, "uint8_t");
INTEGER(uint16, uint16_t, false, "uint16_t");
INTEGER(uint32, uint32_t, false, "uint32_t");
INTEGER(uint64, uint64_t, false, "uint64");
INTEGER(size, uint64_t, false, "uint64");

const struct qapi_type qapi_type_str = {
    .kind = QAPI_KIND_STR, .name = "string", .size = sizeof(char *), .free = g_free
};
const struct qapi_type qapi_type_any = {
    .kind = QAPI_KIND_ANY, .name = "any", .size = sizeof(json_t *), .free = any_free
};
const struct qapi_type qapi_type_null = { .kind = QAPI_KIND_NULL, .name = "null", .size = 0 };
const struct qapi_type qapi_type_bool = { .kind = QAPI_KIND_BOOL,
                                          .name = "boolean",
                                          .size = sizeof(bool) };
const struct qapi_type qapi_type_number = { .kind = QAPI_KIND_NUMBER,
                                            .name = "number",
                                            .size = sizeof(double) };

/* Is this member of the struct there? (Absent scalars have a false flag, absent pointers are NULL.)
 */
static bool present(const struct qapi_member *member, const void *owner)
{
    if (!member->optional) {
        return true;
    }
    if (member->flag_offset != QAPI_NO_FLAG) {
        return *(const bool *)qapi_at_const(owner, member->flag_offset);
    }
    return *(void *const *)qapi_at_const(owner, member->offset) != NULL;
}

const struct qapi_type *qapi_selected_variant(const struct qapi_type *type, const void *value)
{
    if (!type->tag) {
        return NULL;
    }
    int tag = *(const int *)qapi_at_const(value, type->tag->offset);
    if (tag < 0 || (unsigned)tag >= type->tag->type->value_count) {
        return NULL;
    }
    return type->variants[tag];
}

const char *qapi_enum_str(const struct qapi_type *type, int value)
{
    return value >= 0 && (unsigned)value < type->value_count ? type->values[value] : NULL;
}

int qapi_enum_parse(const struct qapi_type *type, const char *name)
{
    for (unsigned i = 0; i < type->value_count; i++) {
        if (!strcmp(type->values[i], name)) {
            return (int)i;
        }
    }
    return -1;
}

GPtrArray *qapi_list_new(const struct qapi_type *element)
{
    return g_ptr_array_new_with_free_func(element->free);
}

/* ---- writing ---- */

static json_t *write_string(const char *text)
{
    json_t *json = json_string(text ? text : "");

    if (!json) {
        /* not UTF-8: a path or a name that the host gave us */
        g_autofree char *valid = g_utf8_make_valid(text, -1);

        json = json_string(valid);
    }
    return json ? json : json_string("");
}

static json_t *write_int(const struct qapi_type *type, const void *in)
{
    switch (type->size) {
    case 1:
        return type->is_signed ? json_integer(*(const int8_t *)in)
                               : json_integer(*(const uint8_t *)in);
    case 2:
        return type->is_signed ? json_integer(*(const int16_t *)in)
                               : json_integer(*(const uint16_t *)in);
    case 4:
        return type->is_signed ? json_integer(*(const int32_t *)in)
                               : json_integer(*(const uint32_t *)in);
    default:
        return type->is_signed ? json_integer(*(const int64_t *)in)
                               : qapi_json_uint64(*(const uint64_t *)in);
    }
}

static json_t *write_array(const struct qapi_type *type, const void *list)
{
    json_t *json = json_array();

    if (!list) {
        return json;
    }
    if (qapi_held_by_pointer(type->element)) {
        const GPtrArray *items = list;

        for (guint i = 0; i < items->len; i++) {
            json_array_append_new(json, qapi_write(type->element, &items->pdata[i]));
        }
    } else {
        const GArray *items = list;

        for (guint i = 0; i < items->len; i++) {
            json_array_append_new(json,
                                  qapi_write(type->element, items->data + i * type->element->size));
        }
    }
    return json;
}

static void write_members(const struct qapi_type *type, const void *in, json_t *json)
{
    for (unsigned i = 0; i < type->member_count; i++) {
        const struct qapi_member *member = &type->members[i];

        if (present(member, in)) {
            json_object_set_new(json, member->name,
                                qapi_write(member->type, qapi_at_const(in, member->offset)));
        }
    }
    const struct qapi_type *variant = qapi_selected_variant(type, in);
    if (variant) {
        write_members(variant, qapi_at_const(in, type->variant_offset), json);
    }
}

json_t *qapi_write_struct(const struct qapi_type *type, const void *in)
{
    if (type->kind == QAPI_KIND_ALTERNATE) {
        int kind = *(const int *)in;

        if (kind < 0 || (unsigned)kind >= type->member_count) {
            return json_null();
        }
        const struct qapi_member *branch = &type->members[kind];
        const void *value = qapi_at_const(in, branch->offset);
        return branch->type->kind == QAPI_KIND_OBJECT ? qapi_write_struct(branch->type, value)
                                                      : qapi_write(branch->type, value);
    }
    json_t *json = json_object();
    write_members(type, in, json);
    return json;
}

json_t *qapi_write(const struct qapi_type *type, const void *in)
{
    switch (type->kind) {
    case QAPI_KIND_BOOL:
        return json_boolean(*(const bool *)in);
    case QAPI_KIND_INT:
        return write_int(type, in);
    case QAPI_KIND_NUMBER: {
        double value = *(const double *)in;

        /* JSON has no infinities */
        return json_real(isfinite(value) ? value : 0);
    }
    case QAPI_KIND_STR:
        return write_string(*(const char *const *)in);
    case QAPI_KIND_ANY: {
        json_t *value = *(json_t *const *)in;

        return value ? json_incref(value) : json_null();
    }
    case QAPI_KIND_NULL:
        return json_null();
    case QAPI_KIND_ENUM:
        return write_string(qapi_enum_str(type, *(const int *)in));
    case QAPI_KIND_ARRAY:
        return write_array(type, *(const void *const *)in);
    case QAPI_KIND_OBJECT:
    case QAPI_KIND_ALTERNATE:
        break;
    }
    const void *value = *(const void *const *)in;
    return value ? qapi_write_struct(type, value) : json_object();
}

/* ---- freeing ---- */

void qapi_clear(const struct qapi_type *type, void *value)
{
    if (!qapi_held_by_pointer(type)) {
        memset(value, 0, type->size);
        return;
    }
    void **pointer = value;
    if (*pointer && type->kind == QAPI_KIND_ARRAY) {
        /* a list of pointers frees its elements itself */
        if (qapi_held_by_pointer(type->element)) {
            g_ptr_array_unref(*pointer);
        } else {
            g_array_unref(*pointer);
        }
    } else if (*pointer) {
        type->free(*pointer);
    }
    *pointer = NULL;
}

static void clear_members(const struct qapi_type *type, void *value)
{
    /* the variant first: its tag is among the members */
    const struct qapi_type *variant = qapi_selected_variant(type, value);

    if (variant) {
        clear_members(variant, qapi_at(value, type->variant_offset));
    }
    for (unsigned i = 0; i < type->member_count; i++) {
        qapi_clear(type->members[i].type, qapi_at(value, type->members[i].offset));
    }
}

void qapi_clear_struct(const struct qapi_type *type, void *value)
{
    if (type->kind == QAPI_KIND_ALTERNATE) {
        int kind = *(int *)value;

        if (kind >= 0 && (unsigned)kind < type->member_count) {
            const struct qapi_member *branch = &type->members[kind];
            void *inner = qapi_at(value, branch->offset);

            if (branch->type->kind == QAPI_KIND_OBJECT) {
                qapi_clear_struct(branch->type, inner);
            } else {
                qapi_clear(branch->type, inner);
            }
        }
    } else {
        clear_members(type, value);
    }
    memset(value, 0, type->size);
}

void qapi_free_struct(const struct qapi_type *type, void *value)
{
    if (value) {
        qapi_clear_struct(type, value);
        g_free(value);
    }
}
