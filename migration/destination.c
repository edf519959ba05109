/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The incoming side. One thread, "mig/incoming":
 *
 *   listen (main loop) -> zero memory, accept -> read header and configuration -> records until EOF
 *     -> put devices in -> [READY, wait for GO] -> run the guest, say SHUT 0
 *
 * This file parses what the peer sent. Trust: none. Every length, id and name is checked before
 * use; memory is written only inside known blocks (migration/ram/load.c); device state is parsed
 * into plain structs and touches a device only after the last byte of the stream was good
 * (migration/vmstate/savevm.c).
 *
 * Failure: the guest never runs here; the source is told why where it listens, and the process
 * exits with status 1 (or stays, with exit-on-error=false). Who connects must begin within a
 * minute; after that waiting has no deadline until READY: a source may be held at its switchover
 * for hours; TCP's keepalive finds a dead link. Between READY and GO it has one.
 *
 * One connection is all there is: the listening socket is closed behind it, so that a second source
 * is turned away instead of sending its guest to nobody.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "accel/accel.h"
#include "migration/internal.h"
#include "migration/ram/load.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "migration/vmstate/savevm.h"
#include "qapi/qapi-events.h"
#include "system/vm-init.h"
#include "target/i386/cpu.h"
#include "util/error.h"

/* Who connects says who he is at once; a port scanner does not. */
#define HEADER_TIMEOUT_MS 60000
/* A Ferry source that got READY says GO at once; only a test's hold point lies between. */
#define GO_TIMEOUT_MS 60000
/* How long to wait for a description that a QEMU may have left out. */
#define DRAIN_TIMEOUT_MS 1000

struct load {
    struct incoming *in;
    struct vm *vm;
    struct stream_in *s;
    struct ram_load *ram;
    struct savevm_load *devices;
    bool ram_open;  /* the ram section's START has come */
    bool ram_ended; /* and its END */
    uint32_t ram_id;
    bool return_path; /* the source reads one */
    bool offered;     /* FERRY_PING_MAGIC came: HELLO was sent */
    uint64_t can;     /* FERRY_FEATURE_* that this side has */
    uint64_t features;
    bool go;           /* FERRY_GO came */
    uint64_t pause_ns; /* what it said */
    int64_t go_at_ns;
    int64_t ran_at_ns;
};

static bool refuse(struct load *l, GError **err, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

static bool refuse(struct load *l, GError **err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(err, FERRY_ERROR_PEER, "%s, at offset %" PRIu64 " of the migration stream", what,
              in_offset(l->s));
    return false;
}

static void phase(struct load *l, MigrationPhase phase)
{
    mutex_lock(&l->in->m->lock);
    l->in->phase = phase;
    mutex_unlock(&l->in->m->lock);
}

/* --- commands --- */

static bool command_open_return_path(struct load *l, GError **err)
{
    if (!channel_is_duplex(l->in->ch)) {
        return refuse(l, err, "The source asks for a return path, and %s carries none",
                      channel_name(l->in->ch));
    }
    l->return_path = true;
    return true;
}

static bool send_hello(struct load *l, GError **err)
{
    static const char version[] = "ferry " FERRY_VERSION;
    uint8_t payload[12 + 1 + sizeof(version)];
    uint32_t v = GUINT32_TO_BE(FERRY_VERSION_1);
    uint64_t f = GUINT64_TO_BE(l->can);

    memcpy(payload, &v, 4);
    memcpy(payload + 4, &f, 8);
    payload[12] = sizeof(version) - 1;
    memcpy(payload + 13, version, sizeof(version) - 1);
    return return_path_send(l->in->ch, RETURN_FERRY_HELLO, payload, 13 + sizeof(version) - 1, err);
}

static bool command_ping(struct load *l, GError **err)
{
    uint32_t value;

    if (!in_be32(l->s, &value, err)) {
        return false;
    }
    if (!l->return_path) {
        return refuse(l, err, "A ping without a return path");
    }
    if (value == FERRY_PING_MAGIC && !l->offered) {
        l->offered = true;
        if (!send_hello(l, err)) {
            return false;
        }
    }
    return return_path_send_be32(l->in->ch, RETURN_PONG, value, err);
}

static bool command_features(struct load *l, GError **err)
{
    uint64_t features;

    if (!in_be64(l->s, &features, err)) {
        return false;
    }
    if (!l->offered || (features & ~l->can)) {
        return refuse(l, err, "Ferry features 0x%" PRIx64 " that were not offered", features);
    }
    l->features = features;
    return true;
}

static bool command_go(struct load *l, GError **err)
{
    (void)l;
    /* only wait_for_go() takes it, after everything is loaded */
    return refuse(l, err, "A go before the guest was loaded");
}

static bool command_nothing(struct load *l, GError **err)
{
    (void)l;
    (void)err;
    return true;
}

static const struct command {
    unsigned command, length;
    bool (*handle)(struct load *l, GError **err); /* reads its payload */
} commands[] = {
    { STREAM_CMD_OPEN_RETURN_PATH, 0, command_open_return_path },
    { STREAM_CMD_PING, 4, command_ping },
    { STREAM_CMD_SWITCHOVER_START, 0, command_nothing },
    { STREAM_CMD_FERRY_FEATURES, 8, command_features },
    { STREAM_CMD_FERRY_GO, 8, command_go },
};

static bool load_command(struct load *l, GError **err)
{
    uint16_t command, len;

    if (!in_be16(l->s, &command, err) || !in_be16(l->s, &len, err)) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (commands[i].command == command) {
            if (commands[i].length != len) {
                return refuse(l, err, "Command 0x%x with %u bytes instead of %u", command, len,
                              commands[i].length);
            }
            return commands[i].handle(l, err);
        }
    }
    if (command >= STREAM_CMD_POSTCOPY_ADVISE && command <= STREAM_CMD_RECV_BITMAP) {
        return refuse(l, err,
                      "Command 0x%x of post-copy or COLO, which this destination does not offer",
                      command);
    }
    return refuse(l, err, "MIG_CMD 0x%x unknown (len 0x%x)", command, len);
}

/* --- sections --- */

static bool load_footer(struct load *l, uint32_t id, const char *idstr, GError **err)
{
    uint8_t type;
    uint32_t got;

    if (!in_u8(l->s, &type, err)) {
        return false;
    }
    if (type != STREAM_FOOTER) {
        return refuse(l, err, "Missing section footer for %s", idstr);
    }
    if (!in_be32(l->s, &got, err)) {
        return false;
    }
    if (got != id) {
        return refuse(l, err, "Mismatched section id in footer for %s - read 0x%x expected 0x%x",
                      idstr, got, id);
    }
    return true;
}

static bool load_section_header(struct load *l, uint8_t type, GError **err)
{
    uint32_t id, instance, version;
    char idstr[256];

    if (!in_be32(l->s, &id, err) || !in_pstr(l->s, idstr, err) || !in_be32(l->s, &instance, err) ||
        !in_be32(l->s, &version, err)) {
        return false;
    }
    if (g_str_equal(idstr, "ram")) {
        if (type != STREAM_SECTION_START || instance || l->ram_open) {
            return refuse(l, err, "A ram section of the wrong kind or a second one");
        }
        if (version != RAM_VERSION) {
            return refuse(l, err, "savevm: unsupported version %u for 'ram' v%u", version,
                          RAM_VERSION);
        }
        l->ram_open = true;
        l->ram_id = id;
        if (!ram_load_section(l->ram, l->s, err) || !load_footer(l, id, idstr, err)) {
            return false;
        }
        migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_ACTIVE, &l->in->cancelled);
        return true;
    }
    if (!savevm_load_section(l->devices, l->s, idstr, instance, version, err)) {
        return false;
    }
    return load_footer(l, id, idstr, err);
}

static bool load_section_part(struct load *l, uint8_t type, GError **err)
{
    uint32_t id;

    if (!in_be32(l->s, &id, err)) {
        return false;
    }
    if (!l->ram_open || id != l->ram_id) {
        return refuse(l, err, "Unknown savevm section %u", id);
    }
    l->ram_ended = type == STREAM_SECTION_END;
    return ram_load_section(l->ram, l->s, err) && load_footer(l, id, "ram", err);
}

static bool load_header(struct load *l, GError **err)
{
    uint32_t magic, version;
    uint8_t type;

    if (!in_be32(l->s, &magic, err) || !in_be32(l->s, &version, err)) {
        return false;
    }
    if (magic != STREAM_MAGIC) {
        return refuse(l, err, "Not a migration stream");
    }
    if (version != STREAM_VERSION) {
        return refuse(l, err,
                      version == 2 ? "SaveVM v2 format is obsolete and don't work anymore"
                                   : "Unsupported migration stream version");
    }
    if (!in_u8(l->s, &type, err)) {
        return false;
    }
    if (type != STREAM_CONFIGURATION) {
        return refuse(l, err, "Configuration section missing");
    }
    if (!configuration_load(l->in, l->s, err)) {
        return false;
    }
    l->can = FERRY_FEATURE_COMMIT | FERRY_FEATURE_RUNS;
    if (ram_load_begin(l->ram, l->in->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED])) {
        l->can |= FERRY_FEATURE_ZEROED;
    }
    return true;
}

/*
 * Where zero pages may be left out, only END tells that nothing is missing. Elsewhere each page has
 * been named, and END may be absent: QEMU's background snapshots have none.
 */
static bool memory_complete(struct load *l, GError **err)
{
    if (!l->ram_open || (!l->ram_ended && (l->features & FERRY_FEATURE_ZEROED))) {
        return refuse(l, err, "The end before all of the memory has come");
    }
    return (l->features & FERRY_FEATURE_ZEROED) || l->in->m->partial_memory ||
           ram_load_complete(l->ram, err);
}

static bool load_records(struct load *l, GError **err)
{
    for (;;) {
        uint8_t type;
        bool ok;

        if (!in_u8(l->s, &type, err)) {
            return false;
        }
        switch (type) {
        case STREAM_EOF:
            /* what is missing would silently keep its state after reset */
            return memory_complete(l, err) && savevm_load_complete(l->devices, err);
        case STREAM_SECTION_START:
        case STREAM_SECTION_FULL:
            ok = load_section_header(l, type, err);
            break;
        case STREAM_SECTION_PART:
        case STREAM_SECTION_END:
            ok = load_section_part(l, type, err);
            break;
        case STREAM_COMMAND:
            ok = load_command(l, err);
            break;
        default:
            return refuse(l, err, "Unknown savevm section type %d", type);
        }
        if (!ok) {
            return false;
        }
        if (atomic_load(&l->in->cancelled)) {
            error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
            return false;
        }
    }
}

/* --- after the end of the stream --- */

static bool skip_description(struct load *l, GError **err)
{
    uint32_t len;

    if (!in_be32(l->s, &len, err)) {
        return false;
    }
    if (len > VMDESC_MAX_LENGTH) {
        return refuse(l, err, "A description of %u bytes", len);
    }
    return in_skip(l->s, len, err);
}

/* Between Ferries: the description and then GO. */
static bool wait_for_go(struct load *l, GError **err)
{
    uint8_t type;
    uint16_t command, len;

    phase(l, MIGRATION_PHASE_GO);
    channel_set_read_timeout(l->in->ch, GO_TIMEOUT_MS);
    for (;;) {
        if (!in_u8(l->s, &type, err)) {
            g_prefix_error(err, "The source did not hand over the guest, which stays there: ");
            return false;
        }
        if (type == STREAM_VMDESCRIPTION) {
            if (!skip_description(l, err)) {
                return false;
            }
            continue;
        }
        if (type != STREAM_COMMAND || !in_be16(l->s, &command, err) || !in_be16(l->s, &len, err) ||
            command != STREAM_CMD_FERRY_GO || len != 8) {
            return (err && *err) ? false : refuse(l, err, "Something else than a go after the end");
        }
        if (!in_be64(l->s, &l->pause_ns, err)) {
            return false;
        }
        l->go = true;
        l->go_at_ns = migration_now_ns();
        return true;
    }
}

/* Puts the loaded state in. Machine lock held. */
static bool put_devices(struct load *l, GError **err)
{
    l->in->m->loaded_state_set = false;
    return savevm_load_commit(l->devices, err) &&
           (!l->vm->accel->ops->post_load || l->vm->accel->ops->post_load(l->vm, err));
}

/* The guest is ours now. Machine lock held. */
static bool run_guest(struct load *l, GError **err)
{
    struct migration *m = l->in->m;
    RunState state = m->loaded_state_set ? m->loaded_state : RUN_STATE_RUNNING;

    if (l->go && state == RUN_STATE_RUNNING) {
        int64_t pause =
            (int64_t)MIN(l->pause_ns, (uint64_t)INT64_MAX / 4) + (migration_now_ns() - l->go_at_ns);

        if (!x86_clock_adjust(l->vm, pause)) {
            report_warning("The guest's clocks could not be moved past the pause of %" PRId64 " ms",
                           pause / 1000000);
        }
    }
    (void)err;
    l->ran_at_ns = migration_now_ns();
    if (state == RUN_STATE_RUNNING) {
        if (l->vm->autostart) {
            vm_start(l->vm);
        } else {
            vm_set_run_state(l->vm, RUN_STATE_PAUSED);
        }
    } else {
        vm_set_run_state(l->vm, state);
    }
    migration_set_status(m, MIGRATION_STATUS_COMPLETED);
    return true;
}

static bool finish(struct load *l, GError **err)
{
    bool ferry = l->features & FERRY_FEATURE_COMMIT;
    GError *late = NULL;
    uint8_t type;
    bool ok;

    phase(l, MIGRATION_PHASE_LOAD);
    migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_LOADED, &l->in->cancelled);
    vm_lock(l->vm);
    ok = put_devices(l, err);
    vm_unlock(l->vm);
    if (!ok) {
        return false;
    }
    if (ferry) {
        migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_READY, &l->in->cancelled);
        if (!return_path_send(l->in->ch, RETURN_FERRY_READY, NULL, 0, err) ||
            !wait_for_go(l, err)) {
            return false;
        }
        migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_GO, &l->in->cancelled);
    }
    vm_lock(l->vm);
    ok = !l->vm->exiting && run_guest(l, err);
    vm_unlock(l->vm);
    if (!ok) {
        error_set(err, FERRY_ERROR_CANCELLED, "The incoming migration was ended");
        return false;
    }
    /* the guest runs: from here on nothing is a failure any more */
    if (!ferry && in_wait(l->s, DRAIN_TIMEOUT_MS) && in_u8(l->s, &type, NULL) &&
        type == STREAM_VMDESCRIPTION) {
        skip_description(l, NULL); /* only so that closing does not throw away what it carries */
    }
    /* without this the source would run the guest too */
    if (l->features & FERRY_FEATURE_RUNS) {
        uint64_t took = GUINT64_TO_BE((uint64_t)(l->ran_at_ns - l->go_at_ns));

        return_path_send(l->in->ch, RETURN_FERRY_RUNS, &took, sizeof(took), NULL);
    }
    if (l->return_path) {
        return_path_send_be32(l->in->ch, RETURN_SHUT, 0, &late);
    }
    if (late) {
        report_warning("The guest runs here, but the source could not be told: %s", late->message);
        g_clear_error(&late);
    }
    return true;
}

/* Tells the source why; best effort. */
static void send_failure(struct load *l, const GError *error)
{
    if (!l->return_path) {
        return;
    }
    channel_set_timeout(l->in->ch, DRAIN_TIMEOUT_MS);
    if (l->offered) {
        return_path_send(l->in->ch, RETURN_FERRY_ERROR, error->message,
                         MIN(strlen(error->message), RETURN_MAX_PAYLOAD), NULL);
    }
    return_path_send_be32(l->in->ch, RETURN_SHUT, 1, NULL);
}

static bool load_all(struct load *l, GError **err)
{
    vm_lock(l->vm);
    migration_options_get(l->in->m, &l->in->options); /* until now they could be changed */
    migration_set_status(l->in->m, MIGRATION_STATUS_ACTIVE);
    vm_unlock(l->vm);
    phase(l, MIGRATION_PHASE_BEGIN);
    migration_hold(l->in->m, MIGRATION_HOLD_POINT_INCOMING_SETUP, &l->in->cancelled);
    if (!load_header(l, err)) {
        return false;
    }
    phase(l, MIGRATION_PHASE_STREAM);
    channel_set_read_timeout(l->in->ch, 0);
    return load_records(l, err) && finish(l, err);
}

/* --- the thread --- */

static void exit_later(void *opaque)
{
    vm_exit(opaque, 1);
}

static void fail(struct incoming *in, const GError *error)
{
    if (g_error_matches(error, FERRY_ERROR, FERRY_ERROR_CANCELLED)) {
        return; /* the process ends: nobody asks */
    }
    report_error("load of migration failed: %s", error->message);
    vm_lock(in->vm);
    in->error = g_strdup(error->message);
    if (in->m->status == MIGRATION_STATUS_SETUP || in->m->status == MIGRATION_STATUS_ACTIVE) {
        migration_set_status(in->m, MIGRATION_STATUS_FAILED);
    }
    if (in->exit_on_error) {
        vm_run_in_main_loop(in->vm, exit_later, in->vm);
    }
    vm_unlock(in->vm);
}

/* False: there was no socket to listen on, but a command, a file or a descriptor, which may take
 * its time to begin. */
static bool stop_listening(struct incoming *in)
{
    const struct transport_address *const *unused;
    bool listened;

    vm_lock(in->vm); /* query-migrate shows the addresses */
    listened = transport_listener_addresses(in->listener, &unused) > 0;
    listener_free(in->listener);
    in->listener = NULL;
    vm_unlock(in->vm);
    return listened;
}

static void load_begin(struct load *l, struct incoming *in)
{
    *l = (struct load){ .in = in, .vm = in->vm };
    l->ram = ram_load_new(in->vm, in->m->premap);
    l->devices = savevm_load_new(in->vm->savevm);
    ram_load_zero(l->ram);
}

static bool load_from(struct load *l, struct channel *ch, GError **err)
{
    GError *error = NULL;

    l->s = in_new_channel(ch);
    if (!load_all(l, &error)) {
        send_failure(l, error);
    }
    g_clear_pointer(&l->s, in_free);
    if (error) {
        g_propagate_error(err, error);
        return false;
    }
    return true;
}

static void load_end(struct load *l)
{
    ram_load_free(l->ram);
    savevm_load_free(l->devices);
}

bool incoming_load(struct incoming *in, struct channel *ch, GError **err)
{
    struct load l;

    in->ch = ch;
    load_begin(&l, in);
    bool ok = load_from(&l, ch, err);
    load_end(&l);
    return ok;
}

static gpointer incoming_thread(gpointer opaque)
{
    struct incoming *in = opaque;
    struct load l;
    GError *error = NULL;
    struct channel *ch;

    load_begin(&l, in);
    ch = transport_accept(in->listener, in->cancel_fd, 0, &error);
    if (ch) {
        mutex_lock(&in->m->lock);
        in->ch = ch;
        if (atomic_load(&in->cancelled)) {
            channel_shutdown(ch); /* incoming_free() has not seen it */
        }
        mutex_unlock(&in->m->lock);
        channel_set_read_timeout(ch, stop_listening(in) ? HEADER_TIMEOUT_MS : 0);
        load_from(&l, ch, &error);
        mutex_lock(&in->m->lock);
        in->ch = NULL;
        mutex_unlock(&in->m->lock);
        channel_unref(ch);
    }
    load_end(&l);
    if (error) {
        fail(in, error);
        g_error_free(error);
    }
    atomic_store(&in->finished, true);
    return NULL;
}

static void destroy(struct incoming *in)
{
    listener_free(in->listener);
    transport_address_free(in->addr);
    if (in->cancel_fd >= 0) {
        close(in->cancel_fd);
    }
    g_free(in->error);
    g_free(in);
}

bool incoming_start(struct migration *m, struct transport_address *addr, int fd, bool exit_on_error,
                    GError **err)
{
    struct incoming *in = g_new0(struct incoming, 1);

    in->m = m;
    in->vm = m->vm;
    in->addr = addr;
    in->exit_on_error = exit_on_error;
    in->phase = MIGRATION_PHASE_LISTEN;
    in->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (in->cancel_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot create an eventfd for the incoming migration");
        if (fd >= 0) {
            close(fd);
        }
        goto fail;
    }
    in->listener = transport_listen(addr, fd, err);
    if (!in->listener) {
        goto fail;
    }
    /* it wants the machine lock for the first thing that shows */
    in->thread = g_thread_try_new("mig/incoming", incoming_thread, in, err);
    if (!in->thread) {
        g_prefix_error(err, "Cannot start the thread of the incoming migration: ");
        goto fail;
    }
    m->in = in;
    migration_set_status(m, MIGRATION_STATUS_SETUP);
    return true;

fail:
    destroy(in);
    return false;
}

void incoming_free(struct incoming *in)
{
    uint64_t one = 1;

    if (!in) {
        return;
    }
    atomic_store(&in->cancelled, true);
    mutex_lock(&in->m->lock);
    if (in->ch) {
        channel_shutdown(in->ch);
    }
    cond_broadcast(&in->m->cond);
    mutex_unlock(&in->m->lock);
    if (write(in->cancel_fd, &one, sizeof(one)) < 0) {
        report_warning("Cannot signal the incoming migration: %s", g_strerror(errno));
    }
    vm_unlock(in->vm);
    g_thread_join(in->thread);
    vm_lock(in->vm);
    in->m->in = NULL;
    destroy(in);
}
