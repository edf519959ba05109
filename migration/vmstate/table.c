/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device tables on the wire. vmstate_decode() reads what a peer sent. Trust: none. The table fixes
 * every length, so nothing is allocated or indexed by a number of the stream; ranges and relations
 * are checked here, and an unknown subsection or version, or a subsection that comes twice, ends
 * the load. A state that passes is one that a valid stream could carry as far as its table says;
 * the device's check() adds the rest.
 */
#include "migration/vmstate/table.h"

#include <inttypes.h>
#include <string.h>

#include "migration/stream/format.h"
#include "util/error.h"

/* Per type: bytes on the wire and in the state, signedness, name in the vmdescription. */
static const struct type_info {
    const char *name;
    unsigned size;
    bool is_signed;
} type_info[] = {
    [VMS_BOOL] = { "bool", 1, false },     [VMS_U8] = { "uint8", 1, false },
    [VMS_U16] = { "uint16", 2, false },    [VMS_U32] = { "uint32", 4, false },
    [VMS_U64] = { "uint64", 8, false },    [VMS_I32] = { "int32", 4, true },
    [VMS_I64] = { "int64", 8, true },      [VMS_TIMER] = { "timer", 8, true },
    [VMS_BUFFER] = { "buffer", 1, false }, [VMS_UNUSED] = { "unused_buffer", 1, false },
    [VMS_STRUCT] = { "struct", 0, false },
};

static unsigned field_elements(const struct vmstate_field *f)
{
    bool bytes = f->type == VMS_BUFFER || f->type == VMS_UNUSED;

    return f->count && !bytes ? f->count : 1;
}

static size_t field_stride(const struct vmstate_field *f)
{
    return f->stride ? f->stride : f->type == VMS_STRUCT ? f->sub->size : type_info[f->type].size;
}

/* The element as the host has it, sign-extended where signed. */
static uint64_t element_get(const struct vmstate_field *f, const void *at)
{
    switch (f->type) {
    case VMS_BOOL:
        return *(const bool *)at;
    case VMS_U8:
        return *(const uint8_t *)at;
    case VMS_U16:
        return *(const uint16_t *)at;
    case VMS_U32:
        return *(const uint32_t *)at;
    case VMS_I32:
        return (uint64_t)(int64_t) * (const int32_t *)at;
    default:
        return *(const uint64_t *)at;
    }
}

static void element_put(const struct vmstate_field *f, void *at, uint64_t v)
{
    switch (f->type) {
    case VMS_BOOL:
        *(bool *)at = v;
        break;
    case VMS_U8:
        *(uint8_t *)at = (uint8_t)v;
        break;
    case VMS_U16:
        *(uint16_t *)at = (uint16_t)v;
        break;
    case VMS_U32:
    case VMS_I32:
        *(uint32_t *)at = (uint32_t)v;
        break;
    default:
        *(uint64_t *)at = v;
    }
}

static void describe(json_t *fields, const struct vmstate_field *f, uint64_t size, json_t *sub)
{
    json_t *d = json_object();

    json_object_set_new(d, "name", json_string(f->name));
    if (field_elements(f) > 1) {
        json_object_set_new(d, "array_len", json_integer(f->count));
        size /= f->count;
    }
    json_object_set_new(d, "type", json_string(type_info[f->type].name));
    if (sub) {
        json_object_set_new(d, "struct", sub);
    }
    json_object_set_new(d, "size", json_integer((json_int_t)size));
    json_array_append_new(fields, d);
}

static json_t *describe_vmsd(const struct vmstate *vms)
{
    json_t *d = json_object();

    json_object_set_new(d, "vmsd_name", json_string(vms->name));
    json_object_set_new(d, "version", json_integer(vms->version));
    return d;
}

static void encode_element(const struct vmstate_field *f, const void *at, struct stream_out *o)
{
    uint64_t v = element_get(f, at);

    switch (type_info[f->type].size) {
    case 1:
        out_u8(o, (uint8_t)v);
        break;
    case 2:
        out_be16(o, (uint16_t)v);
        break;
    case 4:
        out_be32(o, (uint32_t)v);
        break;
    default:
        out_be64(o, v);
    }
}

static void encode_field(const struct vmstate_field *f, const void *state, struct stream_out *o,
                         json_t *fields)
{
    const uint8_t *at = (const uint8_t *)state + f->offset;
    uint64_t start = o->bytes;
    json_t *sub = NULL;

    if (f->type == VMS_BUFFER) {
        out_bytes(o, at, f->count);
    } else if (f->type == VMS_UNUSED) {
        for (unsigned i = 0; i < f->count; i++) {
            out_u8(o, 0);
        }
    } else {
        for (unsigned i = 0; i < field_elements(f); i++, at += field_stride(f)) {
            if (f->type == VMS_STRUCT) {
                /* elements of an array are alike: the first describes all */
                sub = fields && !i ? describe_vmsd(f->sub) : sub;
                vmstate_encode(f->sub, at, o, i ? NULL : sub);
            } else {
                encode_element(f, at, o);
            }
        }
    }
    if (fields) {
        describe(fields, f, o->bytes - start, sub);
    }
}

void vmstate_put_subsection(struct stream_out *o, const char *name, uint32_t version)
{
    out_u8(o, STREAM_SUBSECTION);
    out_pstr(o, name);
    out_be32(o, version);
}

static void encode_custom(const struct vmstate_custom *c, const void *state, struct stream_out *o,
                          json_t *fields)
{
    uint64_t start = o->bytes;

    c->encode(state, o);
    if (fields) {
        json_array_append_new(fields, json_pack("{s:s, s:s, s:I}", "name", c->name, "type", c->type,
                                                "size", (json_int_t)(o->bytes - start)));
    }
}

void vmstate_encode(const struct vmstate *vms, const void *state, struct stream_out *o,
                    json_t *desc)
{
    json_t *fields = desc ? json_array() : NULL;
    json_t *subs = NULL;

    for (const struct vmstate_field *f = vms->fields; f->type != VMS_END; f++) {
        encode_field(f, state, o, fields);
    }
    if (vms->custom) {
        encode_custom(vms->custom, state, o, fields);
    }
    if (desc) {
        json_object_set_new(desc, "fields", fields);
    }
    for (const struct vmstate_subsection *s = vms->subsections; s && s->vmstate; s++) {
        json_t *d = NULL;

        if (!s->needed(state)) {
            continue;
        }
        if (desc) {
            subs = subs ? subs : json_array();
            d = describe_vmsd(s->vmstate);
        }
        vmstate_put_subsection(o, s->vmstate->name, (uint32_t)s->vmstate->version);
        vmstate_encode(s->vmstate, state, o, d);
        if (desc) {
            json_array_append_new(subs, d);
        }
    }
    if (subs) {
        json_object_set_new(desc, "subsections", subs);
    }
}

static bool refuse(GError **err, const char *path, const struct vmstate_field *f, uint64_t v,
                   const char *why)
{
    if (type_info[f->type].is_signed) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream has %s/%s = %" PRId64 ", %s", path,
                  f->name, (int64_t)v, why);
    } else {
        error_set(err, FERRY_ERROR_PEER, "The migration stream has %s/%s = %" PRIu64 ", %s", path,
                  f->name, v, why);
    }
    return false;
}

static bool check_range(const struct vmstate_field *f, uint64_t v, const char *path, GError **err)
{
    bool outside;

    if (f->type == VMS_BOOL && v > 1) {
        return refuse(err, path, f, v, "which is neither 0 nor 1");
    }
    if (f->min == f->max) {
        return true;
    }
    outside = type_info[f->type].is_signed ? (int64_t)v < f->min || (int64_t)v > f->max
                                           : v < (uint64_t)f->min || v > (uint64_t)f->max;
    if (outside) {
        g_autofree char *why = g_strdup_printf("outside %" PRId64 " to %" PRId64, f->min, f->max);

        return refuse(err, path, f, v, why);
    }
    return true;
}

static bool decode_element(const struct vmstate_field *f, void *at, struct stream_in *in,
                           const char *path, GError **err)
{
    uint64_t v = 0;
    bool ok;

    switch (type_info[f->type].size) {
    case 1: {
        uint8_t b = 0;
        ok = in_u8(in, &b, err);
        v = b;
        break;
    }
    case 2: {
        uint16_t h = 0;
        ok = in_be16(in, &h, err);
        v = h;
        break;
    }
    case 4: {
        uint32_t w = 0;
        ok = in_be32(in, &w, err);
        v = type_info[f->type].is_signed ? (uint64_t)(int64_t)(int32_t)w : w;
        break;
    }
    default:
        ok = in_be64(in, &v, err);
    }
    if (!ok || !check_range(f, v, path, err)) {
        return false;
    }
    element_put(f, at, v);
    return true;
}

static bool decode_field(const struct vmstate_field *f, void *state, struct stream_in *in,
                         const char *path, GError **err)
{
    uint8_t *at = (uint8_t *)state + f->offset;

    if (f->type == VMS_BUFFER) {
        return in_bytes(in, at, f->count, err);
    }
    if (f->type == VMS_UNUSED) {
        return in_skip(in, f->count, err);
    }
    for (unsigned i = 0; i < field_elements(f); i++, at += field_stride(f)) {
        bool ok = f->type == VMS_STRUCT ? vmstate_decode(f->sub, at, f->sub->version, in, path, err)
                                        : decode_element(f, at, in, path, err);

        if (!ok) {
            return false;
        }
    }
    return true;
}

static const struct vmstate_field *field_find(const struct vmstate *vms, const char *name)
{
    for (const struct vmstate_field *f = vms->fields; f->type != VMS_END; f++) {
        if (f->name && g_str_equal(f->name, name)) {
            return f;
        }
    }
    return NULL;
}

/* less_than relations, once all fields are there. */
static bool check_relations(const struct vmstate *vms, const void *state, int version,
                            const char *path, GError **err)
{
    for (const struct vmstate_field *f = vms->fields; f->type != VMS_END; f++) {
        if (!f->less_than || f->since > version) {
            continue;
        }
        const struct vmstate_field *limit = field_find(vms, f->less_than);
        uint64_t max = element_get(limit, (const uint8_t *)state + limit->offset);
        const uint8_t *at = (const uint8_t *)state + f->offset;

        for (unsigned i = 0; i < field_elements(f); i++, at += field_stride(f)) {
            uint64_t v = element_get(f, at);

            if (v >= max) {
                g_autofree char *why =
                    g_strdup_printf("which must be less than %s = %" PRIu64, limit->name, max);

                return refuse(err, path, f, v, why);
            }
        }
    }
    return true;
}

bool vmstate_peek_subsection(const char *prefix, struct stream_in *in, char name[256])
{
    uint8_t v, len;

    if (!in_peek(in, 0, &v) || v != STREAM_SUBSECTION || !in_peek(in, 1, &len)) {
        return false;
    }
    for (unsigned i = 0; i < len; i++) {
        if (!in_peek(in, 2 + i, &v) || v < ' ' || v > '~') {
            return false;
        }
        name[i] = (char)v;
    }
    name[len] = '\0';
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static const struct vmstate_subsection *subsection_find(const struct vmstate *vms, const char *name)
{
    for (const struct vmstate_subsection *s = vms->subsections; s && s->vmstate; s++) {
        if (g_str_equal(s->vmstate->name, name)) {
            return s;
        }
    }
    return NULL;
}

static bool decode_subsections(const struct vmstate *vms, void *state, struct stream_in *in,
                               const char *path, GError **err)
{
    char name[256];
    uint64_t seen = 0;

    while (vmstate_peek_subsection(vms->name, in, name)) {
        const struct vmstate_subsection *s = subsection_find(vms, name);
        uint32_t version;

        if (!s) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has the unknown subsection '%s' in '%s'", name, path);
            return false;
        }
        if (seen >> (s - vms->subsections) & 1) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has the subsection '%s' twice in '%s'", name, path);
            return false;
        }
        seen |= UINT64_C(1) << (s - vms->subsections);
        if (!in_skip(in, 2 + strlen(name), err) || !in_be32(in, &version, err) ||
            !vmstate_decode(s->vmstate, state, (int)MIN(version, INT32_MAX), in, name, err)) {
            return false;
        }
        if (s->received) {
            s->received(state);
        }
    }
    return true;
}

bool vmstate_decode(const struct vmstate *vms, void *state, int version, struct stream_in *in,
                    const char *path, GError **err)
{
    if (version > vms->version || version < vms->min_version) {
        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream has version %d of '%s', but this machine takes %d to %d",
                  version, path, vms->min_version, vms->version);
        return false;
    }
    for (const struct vmstate_field *f = vms->fields; f->type != VMS_END; f++) {
        if (f->since <= version && !decode_field(f, state, in, path, err)) {
            return false;
        }
    }
    return check_relations(vms, state, version, path, err) &&
           (!vms->custom || vms->custom->decode(state, version, in, err)) &&
           decode_subsections(vms, state, in, path, err);
}
