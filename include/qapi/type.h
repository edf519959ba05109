/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Types of the QAPI schema as data, and the one visitor that walks them.
 *
 * scripts/qapi-gen.py turns every type of qapi/ *.json into a C type and a table (struct qapi_type)
 * that says where its members lie. Conversion from and to JSON and freeing are done by the
 * functions below for all of them, so whatever a client sends passes exactly one gate. The
 * generated header "qapi/qapi-types.h" adds typed wrappers (qapi_migration_info_to_json() and so
 * on); use those.
 *
 * How QAPI maps to C:
 *   str                 char *                 null    no storage (alternates only)
 *   bool, number        bool, double           any     json_t *, a reference of its own
 *   int8 … uint64, size int8_t … uint64_t      enum    the C enum
 *   struct, union       T *                    alternate  T *
 *   list of pointers    GPtrArray * whose free function frees an element (qapi_list_new())
 *   list of values      GArray * of that C type
 * Optional members: pointers are NULL when absent, everything else has a flag `has_x`.
 * A union has the common members, then `union {...} u` with one struct per case, by value.
 *
 * All functions are thread-safe as far as the values are not shared.
 */
#ifndef QAPI_TYPE_H
#define QAPI_TYPE_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum qapi_kind {
    QAPI_KIND_BOOL,
    QAPI_KIND_INT,
    QAPI_KIND_NUMBER,
    QAPI_KIND_STR,
    QAPI_KIND_ANY,
    QAPI_KIND_NULL,
    QAPI_KIND_ENUM,
    QAPI_KIND_OBJECT,
    QAPI_KIND_ARRAY,
    QAPI_KIND_ALTERNATE,
};

/* flag_offset of members that have no has_ flag */
#define QAPI_NO_FLAG SIZE_MAX

struct qapi_type;

struct qapi_member {
    const char *name;
    const struct qapi_type *type;
    size_t offset;
    size_t flag_offset;
    bool optional;
};

struct qapi_type {
    enum qapi_kind kind;
    const char *name; /* as error messages call it */
    size_t size;      /* of the value; of the struct itself for objects and alternates */
    bool is_signed;   /* integers */
    /* enums: the names in order of their values */
    const char *const *values;
    unsigned value_count;
    /* objects: common members; alternates: branches in the order of their kind */
    const struct qapi_member *members;
    unsigned member_count;
    /* unions: the member that selects, the case for each of its values (NULL: no members), and
     * where */
    const struct qapi_member *tag;
    const struct qapi_type *const *variants;
    size_t variant_offset;
    /* arrays */
    const struct qapi_type *element;
    /* kinds held by pointer: frees a value, NULL allowed */
    void (*free)(void *value);
};

extern const struct qapi_type qapi_type_str, qapi_type_any, qapi_type_null, qapi_type_bool,
    qapi_type_number, qapi_type_int, qapi_type_int8, qapi_type_int16, qapi_type_int32,
    qapi_type_int64, qapi_type_uint8, qapi_type_uint16, qapi_type_uint32, qapi_type_uint64,
    qapi_type_size;

enum qapi_read_flags {
    QAPI_READ_JSON = 0,
    /* values came from key=value text: every scalar is a string ("on", "16", "1G") */
    QAPI_READ_KEYVAL = 1,
};

/*
 * Reads `json` (borrowed) into *out, where a member of this type would be stored: a pointer
 * variable for the kinds held by pointer, the scalar itself otherwise. `name` begins the names in
 * errors; NULL for the arguments of a command, whose members have no prefix. On failure *out is
 * left untouched.
 */
bool qapi_read(const struct qapi_type *type, const char *name, json_t *json,
               enum qapi_read_flags flags, void *out, GError **err);
/* The JSON for what is stored at `in`; the caller owns it, never NULL. */
json_t *qapi_write(const struct qapi_type *type, const void *in);
/* Frees what is stored at `value` and leaves zeroes. */
void qapi_clear(const struct qapi_type *type, void *value);

/* The same for an object or alternate that is not behind a pointer. */
json_t *qapi_write_struct(const struct qapi_type *type, const void *in);
void qapi_clear_struct(const struct qapi_type *type, void *value);
/* qapi_clear_struct() and g_free(); NULL is ignored. */
void qapi_free_struct(const struct qapi_type *type, void *value);

/* An empty list for elements of a type held by pointer. */
GPtrArray *qapi_list_new(const struct qapi_type *element);

/* The name of an enum value, NULL when out of range; the value of a name, -1 when unknown. */
const char *qapi_enum_str(const struct qapi_type *type, int value);
int qapi_enum_parse(const struct qapi_type *type, const char *name);

#endif
