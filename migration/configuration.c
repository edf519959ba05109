/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The configuration section: what both sides must agree on before anything is loaded. The machine's
 * name always; the capabilities that change the stream (x-ignore-shared), and the UUID
 * (validate-uuid), as subsections. The loading half parses what the peer sent: names have bounded
 * lengths, and counts are consumed element by element.
 */
#include <inttypes.h>
#include <string.h>

#include "migration/internal.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "migration/stream/out.h"
#include "system/config.h"
#include "system/vm.h"
#include "util/error.h"

#define SUB_CAPABILITIES "configuration/capabilities"
#define SUB_UUID         "configuration/uuid"

/* The capabilities that travel. */
static const MigrationCapability wire_capabilities[] = { MIGRATION_CAPABILITY_X_IGNORE_SHARED };

void configuration_save(struct outgoing *out, struct stream_out *o)
{
    const char *machine = board_name(out->vm);

    out_u8(o, STREAM_CONFIGURATION);
    out_be32(o, (uint32_t)strlen(machine));
    out_bytes(o, machine, strlen(machine));
    for (unsigned i = 0; i < G_N_ELEMENTS(wire_capabilities); i++) {
        if (out->options.caps[wire_capabilities[i]]) {
            out_u8(o, STREAM_SUBSECTION);
            out_pstr(o, SUB_CAPABILITIES);
            out_be32(o, 1);
            out_be32(o, 1);
            out_pstr(o, qapi_migration_capability_str(wire_capabilities[i]));
        }
    }
    if (out->options.caps[MIGRATION_CAPABILITY_VALIDATE_UUID]) {
        out_u8(o, STREAM_SUBSECTION);
        out_pstr(o, SUB_UUID);
        out_be32(o, 1);
        out_bytes(o, out->vm->uuid, sizeof(out->vm->uuid));
    }
}

static bool load_capabilities(struct incoming *in, struct stream_in *s, bool *ignore_shared,
                              GError **err)
{
    uint32_t count;
    char name[256];

    (void)in;
    if (!in_be32(s, &count, err)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        MigrationCapability cap;

        if (!in_pstr(s, name, err)) {
            return false;
        }
        if (!qapi_migration_capability_parse(name, &cap)) {
            error_set(err, FERRY_ERROR_PEER,
                      "The source uses capability '%s', which this side does not have", name);
            return false;
        }
        *ignore_shared = *ignore_shared || cap == MIGRATION_CAPABILITY_X_IGNORE_SHARED;
    }
    return true;
}

static bool load_uuid(struct incoming *in, struct stream_in *s, GError **err)
{
    uint8_t uuid[16];

    if (!in_bytes(s, uuid, sizeof(uuid), err)) {
        return false;
    }
    if (in->options.caps[MIGRATION_CAPABILITY_VALIDATE_UUID] &&
        memcmp(uuid, in->vm->uuid, sizeof(uuid))) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source's machine has another UUID than this one: give both the same -uuid, "
                  "or switch off validate-uuid");
        return false;
    }
    return true;
}

bool configuration_load(struct incoming *in, struct stream_in *s, GError **err)
{
    const char *machine = board_name(in->vm);
    bool ignore_shared = false;
    char name[256];
    uint32_t len, version;
    uint8_t type;

    if (!in_be32(s, &len, err)) {
        return false;
    }
    if (len >= sizeof(name)) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream's machine name has %u bytes", len);
        return false;
    }
    if (!in_bytes(s, name, len, err)) {
        return false;
    }
    name[len] = '\0';
    if (strlen(name) != len || !g_str_equal(name, machine)) {
        g_autofree char *shown = g_strescape(name, NULL); /* whatever it is, it stays one line */

        error_set(err, FERRY_ERROR_PEER, "Machine type received is '%s' and local is '%s'", shown,
                  machine);
        return false;
    }
    while (in_peek(s, 0, &type) && type == STREAM_SUBSECTION) {
        if (!in_u8(s, &type, err) || !in_pstr(s, name, err) || !in_be32(s, &version, err)) {
            return false;
        }
        if (g_str_equal(name, SUB_CAPABILITIES) && version == 1) {
            if (!load_capabilities(in, s, &ignore_shared, err)) {
                return false;
            }
        } else if (g_str_equal(name, SUB_UUID) && version == 1) {
            if (!load_uuid(in, s, err)) {
                return false;
            }
        } else {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has the unknown subsection '%s' version %u", name,
                      version);
            return false;
        }
    }
    if (ignore_shared != in->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED]) {
        error_set(err, FERRY_ERROR_PEER,
                  "Capability x-ignore-shared is %s, but received capability is %s",
                  ignore_shared ? "off" : "on", ignore_shared ? "on" : "off");
        return false;
    }
    return true;
}
