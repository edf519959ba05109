/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a connection begins, on the destination: who is there, and what for.
 *
 *   QEVM 3 CONFIGURATION [OPEN_RETURN_PATH, PING... [FEATURES, CHECK...]]   a guest will follow
 *   QEVM 3               OPEN_RETURN_PATH, PING...,  FEATURES, CHECK...     only a check
 *
 * A check is answered with what stands in the way; the source may then bring the guest, or go.
 * Whether the configuration fits is judged when a guest really comes: until then the source may ask
 * for the whole list of what is wrong, and by then there is a return path to tell it on.
 *
 * Nothing here changes the machine: greetings run on threads of their own, and one that stalls must
 * not keep another from bringing the guest. Trust: none; see destination.c.
 */
#include <inttypes.h>
#include <string.h>

#include "migration/announce-wire.h"
#include "migration/check/answer.h"
#include "migration/check/wire.h"
#include "migration/destination.h"
#include "migration/postcopy/destination.h"
#include "migration/ram/load.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "util/error.h"

/* How long a source that failed may take to read why. */
#define FAILURE_TIMEOUT_MS 1000

bool load_refuse(struct load *l, GError **err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(err, FERRY_ERROR_PEER, "%s, at offset %" PRIu64 " of the migration stream", what,
              in_offset(l->s));
    return false;
}

struct load *load_new(struct incoming *in, struct channel *ch)
{
    struct load *l = g_new0(struct load, 1);

    l->in = in;
    l->vm = in->vm;
    l->ch = channel_ref(ch);
    l->s = in_new_channel(ch);
    l->ram = in->ram;
    l->can = FERRY_FEATURE_CHECK;
    return l;
}

void load_free(struct load *l)
{
    if (l) {
        in_free(l->s);
        channel_unref(l->ch);
        if (l->check) {
            g_byte_array_unref(l->check);
        }
        g_clear_pointer(&l->addresses, g_array_unref);
        g_free(l);
    }
}

/* --- commands --- */

static bool command_open_return_path(struct load *l, unsigned len, GError **err)
{
    (void)len;
    (void)err;
    /* the recording of a live move, say, through exec: nobody waits for the answers */
    l->mute = !channel_is_duplex(l->ch);
    l->return_path = !l->mute;
    return true;
}

/* What a guest that comes here may use. */
static void offer(struct load *l)
{
    struct incoming *in = l->in;

    l->can |=
        FERRY_FEATURE_COMMIT | FERRY_FEATURE_RUNS | FERRY_FEATURE_BYE | FERRY_FEATURE_ADDRESSES;
    mutex_lock(&in->ram_lock);
    if (ram_load_begin(in->ram, l->configuration.ignore_shared)) {
        l->can |= FERRY_FEATURE_ZEROED;
    }
    mutex_unlock(&in->ram_lock);
}

static bool send_hello(struct load *l, GError **err)
{
    static const char version[] = "ferry " FERRY_VERSION;
    uint8_t payload[12 + 1 + sizeof(version)];
    uint32_t v = GUINT32_TO_BE(FERRY_VERSION_1);
    uint64_t f;

    if (!l->check_only && !l->claimed) {
        offer(l);
    }
    f = GUINT64_TO_BE(l->can);
    memcpy(payload, &v, 4);
    memcpy(payload + 4, &f, 8);
    payload[12] = sizeof(version) - 1;
    memcpy(payload + 13, version, sizeof(version) - 1);
    return return_path_send(l->ch, RETURN_FERRY_HELLO, payload, 13 + sizeof(version) - 1, err);
}

static bool command_ping(struct load *l, unsigned len, GError **err)
{
    uint32_t value;

    (void)len;
    if (!in_be32(l->s, &value, err)) {
        return false;
    }
    if (l->mute) {
        return true;
    }
    if (!l->return_path) {
        return load_refuse(l, err, "A ping without a return path");
    }
    if (value == FERRY_PING_MAGIC && !l->offered) {
        l->offered = true;
        if (!send_hello(l, err)) {
            return false;
        }
    }
    value = GUINT32_TO_BE(value);
    return postcopy_say(l, RETURN_PONG, &value, sizeof(value), err);
}

static bool command_features(struct load *l, unsigned len, GError **err)
{
    uint64_t features;

    (void)len;
    if (!in_be64(l->s, &features, err)) {
        return false;
    }
    if (!l->offered || l->agreed || (features & ~l->can)) {
        return load_refuse(l, err, "Ferry features 0x%" PRIx64 " that were not offered", features);
    }
    l->agreed = true;
    l->features = features;
    return true;
}

static bool command_check(struct load *l, unsigned len, GError **err)
{
    g_autofree uint8_t *chunk = g_malloc(MAX(len, 1u));
    bool last;

    if (!(l->features & FERRY_FEATURE_CHECK) || l->claimed) {
        return load_refuse(l, err, "A check that was not agreed on, or too late");
    }
    if (!in_bytes(l->s, chunk, len, err)) {
        return false;
    }
    if (!l->check) {
        l->check = g_byte_array_new();
    }
    if (!check_collect(l->check, chunk, len, &last, err)) {
        return false;
    }
    if (last) {
        g_autoptr(GByteArray) text = g_steal_pointer(&l->check);

        l->checks++;
        return check_answer(l->in->m, text, l->ch, err);
    }
    return true;
}

static bool command_go(struct load *l, unsigned len, GError **err)
{
    (void)len;
    /* only wait_for_go() takes it, after everything is loaded */
    return load_refuse(l, err, "A go before the guest was loaded");
}

static bool command_nothing(struct load *l, unsigned len, GError **err)
{
    (void)l;
    (void)len;
    (void)err;
    return true;
}

static const struct command {
    unsigned command, min_length, max_length;
    bool greeting;                                              /* may be part of one */
    bool (*handle)(struct load *l, unsigned len, GError **err); /* reads its payload */
} commands[] = {
    { STREAM_CMD_OPEN_RETURN_PATH, 0, 0, true, command_open_return_path },
    { STREAM_CMD_PING, 4, 4, true, command_ping },
    { STREAM_CMD_POSTCOPY_ADVISE, 0, 16, false, postcopy_command_advise },
    { STREAM_CMD_POSTCOPY_LISTEN, 0, 0, false, postcopy_command_listen },
    { STREAM_CMD_POSTCOPY_RUN, 0, 0, false, postcopy_command_run },
    { STREAM_CMD_POSTCOPY_RAM_DISCARD, 3, UINT16_MAX, false, postcopy_command_discard },
    { STREAM_CMD_PACKAGED, 4, 4, false, postcopy_command_packaged },
    { STREAM_CMD_SWITCHOVER_START, 0, 0, false, command_nothing },
    { STREAM_CMD_FERRY_FEATURES, 8, 8, true, command_features },
    { STREAM_CMD_FERRY_GO, 8, 8, false, command_go },
    { STREAM_CMD_FERRY_ADDRESSES, ANNOUNCE_ENTRY, ANNOUNCE_ENTRIES_MAX *ANNOUNCE_ENTRY, false,
      announce_command_addresses },
    { STREAM_CMD_FERRY_CHECK, 1, UINT16_MAX, true, command_check },
};

static const struct command *command_find(unsigned command)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (commands[i].command == command) {
            return &commands[i];
        }
    }
    return NULL;
}

bool load_command(struct load *l, GError **err)
{
    const struct command *c;
    uint16_t command, len;

    if (!in_be16(l->s, &command, err) || !in_be16(l->s, &len, err)) {
        return false;
    }
    c = command_find(command);
    if (c) {
        /* POSTCOPY_ADVISE has one of two lengths */
        return len >= c->min_length && len <= c->max_length &&
                       (len == c->max_length || len == c->min_length || c->max_length > 16)
                   ? c->handle(l, len, err)
                   : load_refuse(l, err, "Command 0x%x with %u bytes instead of %u", command, len,
                                 c->min_length);
    }
    if (command == STREAM_CMD_ENABLE_COLO) {
        return load_refuse(l, err, "Command 0x%x of COLO, which this destination does not offer",
                           command);
    }
    if (command == STREAM_CMD_POSTCOPY_RESUME || command == STREAM_CMD_RECV_BITMAP) {
        return load_refuse(l, err, "Command 0x%x, which takes up a post-copy that is not here",
                           command);
    }
    return load_refuse(l, err, "MIG_CMD 0x%x unknown (len 0x%x)", command, len);
}

/* --- the greeting --- */

static bool read_header(struct load *l, GError **err)
{
    uint32_t magic, version;
    uint8_t type;

    if (!in_be32(l->s, &magic, err) || !in_be32(l->s, &version, err)) {
        return false;
    }
    if (magic != STREAM_MAGIC) {
        return load_refuse(l, err, "Not a migration stream");
    }
    if (version != STREAM_VERSION) {
        return load_refuse(l, err,
                           version == 2 ? "SaveVM v2 format is obsolete and don't work anymore"
                                        : "Unsupported migration stream version");
    }
    if (in_peek(l->s, 0, &type) && type == STREAM_COMMAND) {
        l->check_only = true;
        atomic_store(&l->seen_check, true);
        return true;
    }
    if (!in_u8(l->s, &type, err)) {
        return false;
    }
    if (type != STREAM_CONFIGURATION) {
        return load_refuse(l, err, "Configuration section missing");
    }
    l->has_configuration = true;
    return configuration_read(l->s, &l->configuration, err);
}

/* What stands next in the stream. */
enum next { NEXT_END, NEXT_GREETING, NEXT_HEADER, NEXT_OTHER };

static enum next look_ahead(struct load *l)
{
    uint8_t type, high, low;
    const struct command *c;

    if (!in_peek(l->s, 0, &type)) {
        return NEXT_END;
    }
    if (type == STREAM_MAGIC >> 24 && l->check_only) {
        return NEXT_HEADER; /* over a descriptor that is the only connection */
    }
    if (type != STREAM_COMMAND) {
        return NEXT_OTHER;
    }
    if (!in_peek(l->s, 1, &high) || !in_peek(l->s, 2, &low)) {
        return NEXT_GREETING; /* reading it says what is wrong */
    }
    c = command_find((unsigned)high << 8 | low);
    return c && c->greeting ? NEXT_GREETING : NEXT_OTHER;
}

/* A new greeting on the same connection knows nothing of the last. */
static void begin_anew(struct load *l)
{
    l->check_only = l->return_path = l->mute = l->offered = l->agreed = false;
    l->can = FERRY_FEATURE_CHECK;
    l->features = 0;
}

static enum greeting fail_greeting(struct load *l, GError **err, const char *what)
{
    load_refuse(l, err, "%s", what);
    return GREETING_FAILED;
}

enum greeting load_greet(struct load *l, GError **err)
{
    uint8_t unused;

    migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_SETUP, &l->cancelled);
    while (!channel_wait_readable(l->ch, GREETING_POLL_MS) && !atomic_load(&l->cancelled)) {
        if (atomic_load(&l->in->taken)) {
            return GREETING_SILENT;
        }
    }
    atomic_store(&l->spoken, true);
    if (!read_header(l, err)) {
        return GREETING_FAILED;
    }
    for (;;) {
        switch (look_ahead(l)) {
        case NEXT_END:
            if (l->checks && !l->check) {
                return GREETING_CHECKED;
            }
            in_u8(l->s, &unused, err); /* it ended too early: says how */
            return GREETING_FAILED;
        case NEXT_HEADER:
            begin_anew(l);
            if (!read_header(l, err)) {
                return GREETING_FAILED;
            }
            break;
        case NEXT_GREETING:
            if (!in_u8(l->s, &unused, err) || !load_command(l, err)) {
                return GREETING_FAILED;
            }
            break;
        case NEXT_OTHER:
            return l->check_only ? fail_greeting(l, err, "Configuration section missing")
                                 : GREETING_GUEST;
        }
    }
}

void load_send_failure(struct load *l, const GError *error)
{
    uint32_t one = GUINT32_TO_BE(1);

    if (!l->return_path) {
        return;
    }
    channel_set_timeout(l->ch, FAILURE_TIMEOUT_MS);
    if (l->offered) {
        postcopy_say(l, RETURN_FERRY_ERROR, error->message,
                     MIN(strlen(error->message), RETURN_MAX_PAYLOAD), NULL);
    }
    postcopy_say(l, RETURN_SHUT, &one, sizeof(one), NULL);
}

bool load_say_runs(struct load *l, GError **err)
{
    uint64_t took = GUINT64_TO_BE((uint64_t)(l->ran_at_ns - l->go_at_ns));

    return postcopy_say(l, RETURN_FERRY_RUNS, &took, sizeof(took), err);
}

void load_phase(struct load *l, MigrationPhase phase)
{
    mutex_lock(&l->in->m->lock);
    l->in->phase = phase;
    mutex_unlock(&l->in->m->lock);
}
