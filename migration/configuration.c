/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The configuration section: what both sides must agree on before anything is loaded. The machine's
 * name always; the capabilities that change the stream (x-ignore-shared), and the UUID
 * (validate-uuid), as subsections. The reading half parses what the peer sent. Trust: none. Names
 * and counts are bounded before anything is read by them, what is not known is refused by name, and
 * a name that goes into a message is made one printable line first. Whether it fits is another
 * question, asked when the guest comes.
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
#define SUBSECTIONS_MAX  2u

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

static bool read_capabilities(struct stream_in *s, struct configuration *c, GError **err)
{
    uint32_t count;
    char name[256];

    if (!in_be32(s, &count, err)) {
        return false;
    }
    if (count > MIGRATION_CAPABILITY__MAX) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream has a list of %u capabilities",
                  count);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        MigrationCapability cap;

        if (!in_pstr(s, name, err)) {
            return false;
        }
        if (!qapi_migration_capability_parse(name, &cap)) {
            g_strlcpy(c->unknown, name[0] ? name : "?", sizeof(c->unknown));
        } else if (cap == MIGRATION_CAPABILITY_X_IGNORE_SHARED) {
            c->ignore_shared = true;
        }
    }
    return true;
}

static bool read_machine(struct stream_in *s, struct configuration *c, GError **err)
{
    uint32_t len;

    if (!in_be32(s, &len, err)) {
        return false;
    }
    if (len >= sizeof(c->machine)) {
        error_set(err, FERRY_ERROR_PEER, "The migration stream's machine name has %u bytes", len);
        return false;
    }
    memset(c->machine, 0, sizeof(c->machine));
    for (uint32_t i = 0; i < len; i++) {
        uint8_t byte;

        if (!in_u8(s, &byte, err)) {
            return false;
        }
        /* at once: a peer whose length is wrong waits for our answer and sends no more */
        if (!g_ascii_isgraph(byte)) {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream's machine name has a byte 0x%02x", byte);
            return false;
        }
        c->machine[i] = (char)byte;
    }
    return true;
}

bool configuration_read(struct stream_in *s, struct configuration *c, GError **err)
{
    char name[256];
    unsigned subsections = 0;
    uint32_t version;
    uint8_t type;

    memset(c, 0, sizeof(*c));
    if (!read_machine(s, c, err)) {
        return false;
    }
    while (in_peek(s, 0, &type) && type == STREAM_SUBSECTION) {
        if (!in_u8(s, &type, err) || !in_pstr(s, name, err) || !in_be32(s, &version, err)) {
            return false;
        }
        if (++subsections > SUBSECTIONS_MAX) {
            error_set(
                err, FERRY_ERROR_PEER,
                "The migration stream has more subsections of its configuration than there are");
            return false;
        }
        if (g_str_equal(name, SUB_CAPABILITIES) && version == 1) {
            if (!read_capabilities(s, c, err)) {
                return false;
            }
        } else if (g_str_equal(name, SUB_UUID) && version == 1) {
            c->has_uuid = true;
            if (!in_bytes(s, c->uuid, sizeof(c->uuid), err)) {
                return false;
            }
        } else {
            error_set(err, FERRY_ERROR_PEER,
                      "The migration stream has the unknown subsection '%s' version %u", name,
                      version);
            return false;
        }
    }
    return true;
}

bool configuration_check(const struct incoming *in, const struct configuration *c, GError **err)
{
    const char *machine = board_name(in->vm);

    if (!g_str_equal(c->machine, machine)) {
        g_autofree char *shown = g_strescape(c->machine, NULL); /* it stays one line */

        error_set(err, FERRY_ERROR_PEER, "Machine type received is '%.100s' and local is '%s'",
                  shown, machine);
        return false;
    }
    if (c->unknown[0]) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source uses capability '%s', which this side does not have", c->unknown);
        return false;
    }
    if (c->has_uuid && in->options.caps[MIGRATION_CAPABILITY_VALIDATE_UUID] &&
        memcmp(c->uuid, in->vm->uuid, sizeof(c->uuid))) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source's machine has another UUID than this one: give both the same -uuid, "
                  "or switch off validate-uuid");
        return false;
    }
    if (c->ignore_shared != in->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED]) {
        error_set(err, FERRY_ERROR_PEER,
                  "Capability x-ignore-shared is %s, but received capability is %s",
                  c->ignore_shared ? "off" : "on", c->ignore_shared ? "on" : "off");
        return false;
    }
    return true;
}
