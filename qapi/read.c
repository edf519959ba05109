/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading QAPI values: the gate for everything that clients and the command line send.
 *
 * A value is built completely and only then stored; on an error whatever was built is freed. Depth
 * is bounded by the JSON parser (1,024 levels) and by the type, whichever is smaller, so recursion
 * is safe. Error texts are interface, because managers match them: they are QEMU's, with one
 * difference that docs/qmp.md names (elements of lists have a name).
 *
 * Trust: none. Types, ranges and enumerations are checked here; what numbers mean for each other is
 * the handler's part.
 */
#include "qapi/type.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "qapi/json.h"
#include "type-internal.h"
#include "util/error.h"

/* Where the value being read is, from the innermost name outwards. */
struct path {
    const struct path *up;
    const char *name; /* NULL for an element of a list, and for unnamed arguments */
    size_t index;
    bool is_element;
    enum qapi_read_flags flags;
};

static void path_append(GString *text, const struct path *path)
{
    if (path->up) {
        path_append(text, path->up);
    }
    if (path->is_element) {
        g_string_append_printf(text, "[%zu]", path->index);
    } else if (path->name) {
        g_string_append_printf(text, "%s%s", text->len ? "." : "", path->name);
    }
}

/* "capabilities[0].state"; "argument" when nothing is named */
static char *path_full(const struct path *path)
{
    GString *text = g_string_new(NULL);

    path_append(text, path);
    if (!text->len) {
        g_string_append(text, "argument");
    }
    return g_string_free(text, FALSE);
}

/* QEMU names only the member, without its owners, where a value is refused. */
static char *path_short(const struct path *path)
{
    return path->name ? g_strdup(path->name) : path_full(path);
}

static bool wrong_type(const struct path *path, const char *expected, GError **err)
{
    g_autofree char *name = path_full(path);

    error_set(err, FERRY_ERROR_USER, "Invalid parameter type for '%s', expected: %s", name,
              expected);
    return false;
}

static bool wrong_value(const struct path *path, const char *expected, GError **err)
{
    g_autofree char *name = path_short(path);

    error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects %s", name, expected);
    return false;
}

static bool read_bool(const struct path *path, json_t *json, bool *out, GError **err)
{
    if (path->flags & QAPI_READ_KEYVAL) {
        const char *text = qapi_json_get_string(json);
        bool on = text && (!strcmp(text, "on") || !strcmp(text, "yes") || !strcmp(text, "true") ||
                           !strcmp(text, "y"));

        if (!on && (!text || (strcmp(text, "off") && strcmp(text, "no") && strcmp(text, "false") &&
                              strcmp(text, "n")))) {
            return wrong_value(path, "'on' or 'off'", err);
        }
        *out = on;
        return true;
    }
    if (!json_is_boolean(json)) {
        return wrong_type(path, "boolean", err);
    }
    *out = json_is_true(json);
    return true;
}

/* "16", "0x10", and for sizes "1.5G": what key=value options use. */
static bool parse_keyval_uint(const struct qapi_type *type, const char *text, uint64_t *out)
{
    char *end;

    if (type == &qapi_type_size) {
        static const char suffixes[] = "BKMGTPE";
        /* whole numbers keep all their bits, fractions go through floating point */
        bool whole = !strchr(text, '.');
        double fraction = whole ? 0 : g_ascii_strtod(text, &end);
        uint64_t number = 0;

        if (!g_ascii_isdigit(text[0])) {
            return false;
        }
        if (whole) {
            bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');

            errno = 0;
            number = g_ascii_strtoull(text, &end, hex ? 16 : 10);
            if (errno) {
                return false;
            }
        }
        const char *suffix = *end ? strchr(suffixes, g_ascii_toupper(*end)) : suffixes;
        if (!suffix || (*end && end[1])) {
            return false;
        }
        unsigned shift = (unsigned)(suffix - suffixes) * 10;
        if (whole) {
            *out = number << shift;
            return *out >> shift == number;
        }
        fraction = ldexp(fraction, (int)shift);
        *out = fraction < 0x1p63 ? (uint64_t)fraction : 0;
        return fraction < 0x1p63;
    }
    errno = 0;
    *out = g_ascii_strtoull(text, &end, 0);
    return !errno && g_ascii_isdigit(text[0]) && !*end;
}

static bool read_unsigned(const struct path *path, const struct qapi_type *type, json_t *json,
                          void *out, GError **err)
{
    uint64_t value;
    const char *text = qapi_json_get_string(json);

    if (path->flags & QAPI_READ_KEYVAL) {
        if (!text || !parse_keyval_uint(type, text, &value)) {
            return wrong_value(path, type == &qapi_type_size ? "a size value" : "a uint64 value",
                               err);
        }
    } else if (!qapi_json_get_uint64(json, &value)) {
        g_autofree char *name = path_full(path);

        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects uint64", name);
        return false;
    }
    if (type->size < 8 && value >> (type->size * 8)) {
        return wrong_value(path, type->name, err);
    }
    switch (type->size) {
    case 1:
        *(uint8_t *)out = (uint8_t)value;
        break;
    case 2:
        *(uint16_t *)out = (uint16_t)value;
        break;
    case 4:
        *(uint32_t *)out = (uint32_t)value;
        break;
    default:
        *(uint64_t *)out = value;
        break;
    }
    return true;
}

static bool read_signed(const struct path *path, const struct qapi_type *type, json_t *json,
                        void *out, GError **err)
{
    int64_t value;

    if (path->flags & QAPI_READ_KEYVAL) {
        const char *text = qapi_json_get_string(json);
        char *end = NULL;

        errno = 0;
        value = text ? g_ascii_strtoll(text, &end, 0) : 0;
        if (!text || errno || end == text || *end || g_ascii_isspace(text[0])) {
            return wrong_value(path, "an int64 value", err);
        }
    } else if (!json_is_integer(json)) {
        return wrong_type(path, "integer", err);
    } else {
        value = json_integer_value(json);
    }
    unsigned spare = 64 - (unsigned)type->size * 8;
    if ((int64_t)((uint64_t)value << spare) >> spare != value) {
        return wrong_value(path, type->name, err);
    }
    switch (type->size) {
    case 1:
        *(int8_t *)out = (int8_t)value;
        break;
    case 2:
        *(int16_t *)out = (int16_t)value;
        break;
    case 4:
        *(int32_t *)out = (int32_t)value;
        break;
    default:
        *(int64_t *)out = value;
        break;
    }
    return true;
}

static bool read_number(const struct path *path, json_t *json, double *out, GError **err)
{
    uint64_t large;

    if (path->flags & QAPI_READ_KEYVAL) {
        const char *text = qapi_json_get_string(json);
        char *end = NULL;
        double value = text ? g_ascii_strtod(text, &end) : 0;

        if (!text || end == text || *end || !isfinite(value)) {
            return wrong_value(path, "a number", err);
        }
        *out = value;
        return true;
    }
    if (json_is_number(json)) {
        *out = json_number_value(json);
        return true;
    }
    if (qapi_json_get_uint64(json, &large)) {
        *out = (double)large;
        return true;
    }
    return wrong_type(path, "number", err);
}

static bool read_enum(const struct path *path, const struct qapi_type *type, json_t *json, int *out,
                      GError **err)
{
    const char *text = qapi_json_get_string(json);

    if (!text) {
        return wrong_type(path, "string", err);
    }
    int value = qapi_enum_parse(type, text);
    if (value < 0) {
        g_autofree char *name = path_short(path);

        error_set(err, FERRY_ERROR_USER, "Parameter '%s' does not accept value '%s'", name, text);
        return false;
    }
    *out = value;
    return true;
}

static bool read_value(const struct path *path, const struct qapi_type *type, json_t *json,
                       void *out, GError **err);

static bool read_members(const struct path *path, const struct qapi_type *type, json_t *json,
                         void *out, GError **err)
{
    for (unsigned i = 0; i < type->member_count; i++) {
        const struct qapi_member *member = &type->members[i];
        struct path here = { .up = path, .name = member->name, .flags = path->flags };
        json_t *value = json_object_get(json, member->name);

        if (!value) {
            if (member->optional) {
                continue;
            }
            g_autofree char *name = path_full(&here);
            error_set(err, FERRY_ERROR_USER, "Parameter '%s' is missing", name);
            return false;
        }
        if (!read_value(&here, member->type, value, qapi_at(out, member->offset), err)) {
            return false;
        }
        if (member->flag_offset != QAPI_NO_FLAG) {
            *(bool *)qapi_at(out, member->flag_offset) = true;
        }
    }
    const struct qapi_type *variant = qapi_selected_variant(type, out);
    return !variant || read_members(path, variant, json, qapi_at(out, type->variant_offset), err);
}

/* Is `key` a member of the object that was read into `value`? */
static bool has_member(const struct qapi_type *type, const void *value, const char *key)
{
    for (unsigned i = 0; i < type->member_count; i++) {
        if (!strcmp(type->members[i].name, key)) {
            return true;
        }
    }
    const struct qapi_type *variant = qapi_selected_variant(type, value);
    return variant && has_member(variant, qapi_at_const(value, type->variant_offset), key);
}

/* `out` is zeroed; on failure it holds what was read so far and the caller clears it. */
static bool read_object(const struct path *path, const struct qapi_type *type, json_t *json,
                        void *out, GError **err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(json)) {
        return wrong_type(path, "object", err);
    }
    if (!read_members(path, type, json, out, err)) {
        return false;
    }
    json_object_foreach(json, key, value)
    {
        if (!has_member(type, out, key)) {
            struct path here = { .up = path, .name = key, .flags = path->flags };
            g_autofree char *name = path_full(&here);

            error_set(err, FERRY_ERROR_USER,
                      path->flags & QAPI_READ_KEYVAL ? "Invalid parameter '%s'"
                                                     : "Parameter '%s' is unexpected",
                      name);
            return false;
        }
    }
    return true;
}

static bool kind_accepts(const struct path *path, const struct qapi_type *type, json_t *json)
{
    uint64_t large;
    bool keyval = path->flags & QAPI_READ_KEYVAL;

    switch (type->kind) {
    case QAPI_KIND_BOOL:
        return keyval ? qapi_json_get_string(json) != NULL : json_is_boolean(json);
    case QAPI_KIND_INT:
        return keyval ? qapi_json_get_string(json) != NULL : qapi_json_get_uint64(json, &large);
    case QAPI_KIND_NUMBER:
        return keyval ? qapi_json_get_string(json) != NULL
                      : json_is_number(json) || qapi_json_get_uint64(json, &large);
    case QAPI_KIND_STR:
    case QAPI_KIND_ENUM:
        return qapi_json_get_string(json) != NULL;
    case QAPI_KIND_NULL:
        return json_is_null(json);
    case QAPI_KIND_OBJECT:
        return json_is_object(json);
    case QAPI_KIND_ARRAY:
        return json_is_array(json);
    default:
        return false;
    }
}

static bool read_alternate(const struct path *path, const struct qapi_type *type, json_t *json,
                           void *out, GError **err)
{
    for (unsigned i = 0; i < type->member_count; i++) {
        const struct qapi_member *branch = &type->members[i];

        if (!kind_accepts(path, branch->type, json)) {
            continue;
        }
        *(int *)out = (int)i;
        if (branch->type->kind == QAPI_KIND_OBJECT) {
            return read_object(path, branch->type, json, qapi_at(out, branch->offset), err);
        }
        return read_value(path, branch->type, json, qapi_at(out, branch->offset), err);
    }
    return wrong_type(path, type->name, err);
}

static bool read_array(const struct path *path, const struct qapi_type *type, json_t *json,
                       void **out, GError **err)
{
    const struct qapi_type *element = type->element;
    size_t i;
    json_t *item;

    if (!json_is_array(json)) {
        return wrong_type(path, "array", err);
    }
    if (qapi_held_by_pointer(element)) {
        g_autoptr(GPtrArray) list = qapi_list_new(element);

        json_array_foreach(json, i, item)
        {
            struct path here = { .up = path, .index = i, .is_element = true, .flags = path->flags };
            void *value = NULL;

            if (!read_value(&here, element, item, &value, err)) {
                return false;
            }
            g_ptr_array_add(list, value);
        }
        *out = g_steal_pointer(&list);
        return true;
    }
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, (guint)element->size);
    json_array_foreach(json, i, item)
    {
        struct path here = { .up = path, .index = i, .is_element = true, .flags = path->flags };

        g_array_set_size(list, (guint)i + 1);
        if (!read_value(&here, element, item, list->data + i * element->size, err)) {
            return false;
        }
    }
    *out = g_steal_pointer(&list);
    return true;
}

static bool read_value(const struct path *path, const struct qapi_type *type, json_t *json,
                       void *out, GError **err)
{
    switch (type->kind) {
    case QAPI_KIND_BOOL:
        return read_bool(path, json, out, err);
    case QAPI_KIND_INT:
        return type->is_signed ? read_signed(path, type, json, out, err)
                               : read_unsigned(path, type, json, out, err);
    case QAPI_KIND_NUMBER:
        return read_number(path, json, out, err);
    case QAPI_KIND_STR:
        if (!qapi_json_get_string(json)) {
            return wrong_type(path, "string", err);
        }
        *(char **)out = g_strdup(qapi_json_get_string(json));
        return true;
    case QAPI_KIND_ANY:
        *(json_t **)out = json_incref(json);
        return true;
    case QAPI_KIND_NULL:
        return json_is_null(json) || wrong_type(path, "null", err);
    case QAPI_KIND_ENUM:
        return read_enum(path, type, json, out, err);
    case QAPI_KIND_ARRAY:
        return read_array(path, type, json, out, err);
    case QAPI_KIND_OBJECT:
    case QAPI_KIND_ALTERNATE:
        break;
    }
    void *value = g_malloc0(MAX(type->size, 1));
    bool ok = type->kind == QAPI_KIND_OBJECT ? read_object(path, type, json, value, err)
                                             : read_alternate(path, type, json, value, err);
    if (!ok) {
        qapi_free_struct(type, value);
        return false;
    }
    *(void **)out = value;
    return true;
}

bool qapi_read(const struct qapi_type *type, const char *name, json_t *json,
               enum qapi_read_flags flags, void *out, GError **err)
{
    struct path root = { .name = name, .flags = flags };

    return read_value(&root, type, json, out, err);
}
