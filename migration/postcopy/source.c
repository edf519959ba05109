/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest leaves before its memory has.
 *
 *   source                                             destination
 *   DISCARD of what is dirty (the guest runs)      ->  drops it
 *   --- guest stops ---
 *   DISCARD of what got dirty since                ->
 *   PACKAGED { LISTEN, devices }                   ->  watches its memory, loads devices
 *                                                  <-  READY (may ask for pages from LISTEN on)
 *   GO (commit point)                              ->  runs the guest
 *   pages, those asked for first                   ->  <- RUNS, requests
 *   ram END, EOF                                   ->
 *                                                  <-  SHUT 0
 *   BYE                                            ->
 *
 * A QEMU gets RUN as the last record of the package instead of GO, which is the commit point then.
 * It answers the PING before RUN when it has loaded everything: one that closes the connection
 * without that answer has not run the guest, and it is ours again.
 *
 * Guarantee of postcopy_run(): as switchover_run() up to the commit point. Behind it nothing makes
 * the guest run here again; whatever fails is a pause (pause.c), and the memory stays.
 *
 * With postcopy-preempt a page that is asked for leaves at once on a connection of its own, written
 * by the very thread that reads the request ("mig/return"): no other thread has to wake up first,
 * and what the main connection has queued does not matter. Its peer reads it with a thread that
 * does nothing else, so that this write waits for nobody who waits for us.
 *
 * Most of what is dirty is dropped over there while the guest still runs, so that the pause does
 * not grow with it. Until GO only what is asked for is sent: GO must not queue up behind pages.
 */
#include "migration/postcopy/source.h"

#include <inttypes.h>
#include <string.h>

#include "migration/announce-wire.h"
#include "migration/postcopy/departure.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "migration/switchover.h"
#include "migration/vmstate/savevm.h"
#include "system/vm.h"
#include "util/error.h"

/* So many bytes are written between two looks for requests. */
#define SLICE_BYTES (UINT64_C(64) << 10)
/*
 * And so many lie in the socket: a page that is asked for when it has just left with the others
 * cannot overtake what is ahead of it there (docs/performance.md has what was measured).
 */
#define AHEAD_BYTES (256u << 10)
/* Discarding while the guest runs goes on while it finds so many pages and halves them. */
#define DISCARD_AGAIN_PAGES 512u
#define DISCARD_ROUNDS      3u
/* While nothing may be sent (max-postcopy-bandwidth) the destination hears from us. */
#define KEEPALIVE_US 1000000
/* release-ram: after so many bytes the destination is asked whether they have come. */
#define RELEASE_BYTES (UINT64_C(64) << 20)

void postcopy_advise(struct outgoing *out)
{
    uint64_t payload[2] = { GUINT64_TO_BE(ram_save_page_sizes(out->ram)),
                            GUINT64_TO_BE(TARGET_PAGE_SIZE) };

    stream_put_command(out->o, STREAM_CMD_POSTCOPY_ADVISE, payload, sizeof(payload));
}

bool postcopy_wanted(struct outgoing *out)
{
    return atomic_load(&out->postcopy.wanted);
}

void postcopy_want(struct outgoing *out)
{
    atomic_store(&out->postcopy.wanted, true);
}

/* --- pages that were asked for --- */

bool postcopy_connect_urgent(struct outgoing *out, const struct transport_address *addr,
                             unsigned timeout_ms, GError **err)
{
    struct channel *ch;

    if (!out->options.caps[MIGRATION_CAPABILITY_POSTCOPY_PREEMPT]) {
        return true;
    }
    if (addr->type != TRANSPORT_TCP && addr->type != TRANSPORT_UNIX) {
        error_set(err, FERRY_ERROR_USER,
                  "Capability 'postcopy-preempt' needs an address to connect to twice, and %s is "
                  "one connection: switch it off for this migration",
                  channel_name(out->ch));
        return false;
    }
    ch = transport_connect(addr, -1, out->cancel_fd, timeout_ms, err);
    if (!ch) {
        g_prefix_error(err, "The connection for urgent pages (postcopy-preempt): ");
        return false;
    }
    channel_set_timeout(ch, migration_timeout(out->m, link_timeout));
    mutex_lock(&out->postcopy.urgent_lock);
    out->postcopy.urgent_ch = ch;
    out->postcopy.urgent = (struct departure_stream){ .o = out_new_channel(ch), .bare = true };
    mutex_unlock(&out->postcopy.urgent_lock);
    return true;
}

void postcopy_close_urgent(struct outgoing *out)
{
    mutex_lock(&out->postcopy.urgent_lock);
    if (out->postcopy.urgent_ch) {
        channel_shutdown(out->postcopy.urgent_ch);
        out_free(out->postcopy.urgent.o);
        out->postcopy.urgent.o = NULL;
        channel_unref(out->postcopy.urgent_ch);
        out->postcopy.urgent_ch = NULL;
    }
    mutex_unlock(&out->postcopy.urgent_lock);
}

static bool send_urgent(struct outgoing *out, GError **err)
{
    struct postcopy_out *p = &out->postcopy;
    bool ok = true;

    mutex_lock(&p->urgent_lock);
    while (ok && p->urgent_ch && departure_send_requested(p->departure, &p->urgent)) {
        ok = out_flush(p->urgent.o, err);
    }
    mutex_unlock(&p->urgent_lock);
    return ok;
}

/* The last word on the second connection: no page follows. */
static void end_urgent(struct outgoing *out)
{
    struct postcopy_out *p = &out->postcopy;

    mutex_lock(&p->urgent_lock);
    if (p->urgent_ch) {
        out_be64(p->urgent.o, RAM_FLAG_EOS);
        out_flush(p->urgent.o, NULL); /* whoever reads it has everything */
    }
    mutex_unlock(&p->urgent_lock);
}

static bool on_request(void *opaque, const char *idstr, uint64_t offset, uint64_t length,
                       GError **err)
{
    struct outgoing *out = opaque;

    return departure_request(out->postcopy.departure, idstr, offset, length, err) &&
           (!out->postcopy.urgent_ch || send_urgent(out, err));
}

/* --- the return path --- */

static bool on_received(void *opaque, const char *idstr, const uint8_t *bits, size_t len,
                        GError **err)
{
    struct outgoing *out = opaque;

    return departure_received(out->postcopy.departure, idstr, bits, len, err);
}

static void on_woken(void *opaque)
{
    struct outgoing *out = opaque;

    mutex_lock(&out->m->lock);
    out->postcopy.events++;
    cond_broadcast(&out->m->cond);
    mutex_unlock(&out->m->lock);
}

static const struct return_path_ops serve_ops = {
    .request = on_request,
    .received = on_received,
    .woken = on_woken,
};

void postcopy_serve(struct outgoing *out)
{
    /* a QEMU would put a page in place twice */
    departure_overtake(out->postcopy.departure,
                       out->postcopy.urgent_ch && out->features & FERRY_FEATURE_COMMIT);
    return_path_serve(out->rp, &serve_ops, out);
}

static uint64_t events(struct outgoing *out)
{
    mutex_lock(&out->m->lock);
    uint64_t n = out->postcopy.events;
    mutex_unlock(&out->m->lock);
    return n;
}

/* Sleeps until something has come since `seen` events, or deadline_us. */
static bool sleep_for_events(struct outgoing *out, uint64_t seen, int64_t deadline_us)
{
    bool in_time = true;

    mutex_lock(&out->m->lock);
    while (out->postcopy.events == seen && !atomic_load(&out->cancelled) && in_time) {
        in_time = cond_wait_until(&out->m->cond, &out->m->lock, deadline_us);
    }
    mutex_unlock(&out->m->lock);
    return in_time;
}

/* --- sending --- */

static void count(struct outgoing *out)
{
    mutex_lock(&out->m->lock);
    out->stats.bytes = out->o->bytes;
    out->postcopy.bytes = out->o->bytes - out->postcopy.bytes_before;
    mutex_unlock(&out->m->lock);
}

static bool send_requested(struct outgoing *out, GError **err)
{
    while (!out->postcopy.urgent_ch &&
           departure_send_requested(out->postcopy.departure, &out->postcopy.stream)) {
        if (!out_flush(out->o, err)) {
            return false;
        }
    }
    return true;
}

bool postcopy_wait(struct outgoing *out, enum return_wait what, unsigned timeout_ms, GError **err)
{
    int64_t deadline = g_get_monotonic_time() + (int64_t)timeout_ms * 1000;

    for (;;) {
        uint64_t seen = events(out);

        if (!send_requested(out, err)) {
            return false;
        }
        if (return_path_has(out->rp, what)) {
            return true;
        }
        if (!outgoing_check(out, err)) {
            return false;
        }
        if (!sleep_for_events(out, seen, deadline)) {
            return return_path_wait(out->rp, what, 0, err); /* says what is missing */
        }
    }
}

void postcopy_note_run(struct outgoing *out)
{
    /* there is none where a new link did not come about */
    if (!out->postcopy.ran && out->rp && return_path_has(out->rp, RETURN_WAIT_RUNS)) {
        vm_lock(out->vm);
        out->postcopy.ran = true;
        vm_unlock(out->vm);
        switchover_end_pause(out);
    }
}

/* Waits until `bytes` since begun_us are within the limit, sending what is asked for meanwhile. */
static bool keep_limit(struct outgoing *out, uint64_t bytes, int64_t begun_us, GError **err)
{
    for (;;) {
        uint64_t seen = events(out);
        struct migration_options now;
        int64_t until;

        migration_options_get(out->m, &now);
        if (!send_requested(out, err) || !outgoing_check(out, err)) {
            return false;
        }
        if (!now.max_postcopy_bandwidth) {
            return true;
        }
        until = begun_us + (int64_t)((double)bytes * 1e6 / (double)now.max_postcopy_bandwidth);
        if (until <= g_get_monotonic_time()) {
            return true;
        }
        if (!sleep_for_events(out, seen, MIN(until, g_get_monotonic_time() + KEEPALIVE_US)) &&
            until > g_get_monotonic_time()) {
            outgoing_ping(out, STREAM_PING_START);
            if (!out_flush(out->o, err)) {
                return false;
            }
        }
    }
}

/* Capability release-ram: a PING now and then, whose answer says that what went before it is there.
 */
static void release_sent(struct outgoing *out)
{
    struct postcopy_out *p = &out->postcopy;

    if (!out->options.caps[MIGRATION_CAPABILITY_RELEASE_RAM]) {
        return;
    }
    if (p->release_ping && return_path_answered(out->rp, p->release_ping)) {
        departure_release(p->departure);
        p->release_ping = 0;
    }
    if (!p->release_ping && out->o->bytes - p->release_at >= RELEASE_BYTES) {
        p->release_at = out->o->bytes;
        departure_mark(p->departure);
        p->release_ping = STREAM_PING_ROUND + ++out->drains;
        if (!outgoing_ping(out, p->release_ping)) {
            p->release_ping = 0; /* the mark stays, and the next one adds to it */
        }
    }
}

/* All memory that is left, and the confirmation that it has come. */
static bool send_rest(struct outgoing *out, GError **err)
{
    struct migration_options now;
    bool more = true;

    outgoing_phase(out, MIGRATION_PHASE_POSTCOPY);
    channel_limit_ahead(out->ch, AHEAD_BYTES);
    while (more) {
        int64_t begun = g_get_monotonic_time();
        uint64_t before = out->o->bytes, slice = SLICE_BYTES;

        migration_options_get(out->m, &now);
        if (now.max_postcopy_bandwidth) {
            slice = CLAMP(now.max_postcopy_bandwidth / 50, TARGET_PAGE_SIZE, SLICE_BYTES);
        }
        if (!outgoing_check(out, err) || !send_requested(out, err)) {
            return false;
        }
        more = departure_send_background(out->postcopy.departure, &out->postcopy.stream, slice);
        if (!out_flush(out->o, err)) {
            return false;
        }
        count(out);
        postcopy_note_run(out);
        release_sent(out);
        if (now.max_postcopy_bandwidth && !keep_limit(out, out->o->bytes - before, begun, err)) {
            return false;
        }
    }
    if (!send_urgent(out, err)) {
        return false; /* what was asked for just before the last page was claimed */
    }
    end_urgent(out);
    return_path_ask(out->rp, RETURN_WAIT_SHUT);
    departure_end(&out->postcopy.stream);
    out_u8(out->o, STREAM_EOF);
    if (!out_flush(out->o, err)) {
        return false;
    }
    count(out);
    outgoing_phase(out, MIGRATION_PHASE_CONFIRM);
    if (!postcopy_wait(out, RETURN_WAIT_SHUT, migration_timeout(out->m, confirm_timeout), err)) {
        g_prefix_error(err, "All memory was sent, and the destination has not confirmed it (if it "
                            "says 'completed', quit here): ");
        return false;
    }
    postcopy_note_run(out);
    if (out->features & FERRY_FEATURE_BYE) {
        stream_put_command(out->o, STREAM_CMD_FERRY_BYE, NULL, 0);
        out_flush(out->o, NULL); /* if it is lost, the destination waits for somebody in vain */
    }
    return true;
}

/* --- the switch --- */

/* Drops at the destination what has to come again, while the guest runs. */
static bool discard_early(struct outgoing *out, GError **err)
{
    uint64_t before = UINT64_MAX;

    for (unsigned i = 0; i < DISCARD_ROUNDS; i++) {
        struct departure_stats s;
        uint64_t discarded;
        bool late;

        departure_get_stats(out->postcopy.departure, &s);
        discarded = s.discarded_pages;
        if (!ram_save_sync(out->ram, err)) {
            return false;
        }
        departure_discard(out->postcopy.departure, out->o);
        if (!outgoing_drain(out, migration_timeout(out->m, link_timeout), &late, err) ||
            !outgoing_check(out, err)) {
            return false;
        }
        departure_get_stats(out->postcopy.departure, &s);
        discarded = s.discarded_pages - discarded;
        if (discarded < DISCARD_AGAIN_PAGES || discarded > before / 2) {
            break;
        }
        before = discarded;
    }
    return true;
}

/* The record that lets the destination go on without the rest of the memory. */
static bool send_package(struct outgoing *out, bool ferry, GError **err)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    struct stream_out *o = out_new_memory(bytes);
    uint32_t ping = GUINT32_TO_BE(STREAM_PING_LOADED), length;
    bool ok;

    stream_put_command(o, STREAM_CMD_POSTCOPY_LISTEN, NULL, 0);
    vm_lock(out->vm);
    announce_save_addresses(out, o);
    ok = savevm_save(out->vm->savevm, o, NULL, err);
    vm_unlock(out->vm);
    if (ok && !ferry) {
        return_path_ask_pong(out->rp, STREAM_PING_LOADED);
        stream_put_command(o, STREAM_CMD_PING, &ping, sizeof(ping));
        stream_put_command(o, STREAM_CMD_POSTCOPY_RUN, NULL, 0);
    }
    ok = ok && out_flush(o, err);
    out_free(o);
    if (!ok) {
        return false;
    }
    if (bytes->len > PACKAGE_MAX_LENGTH) {
        error_set(err, FERRY_ERROR_HOST,
                  "The state of the devices has %u bytes, and post-copy carries at most %u",
                  bytes->len, PACKAGE_MAX_LENGTH);
        return false;
    }
    if (!ferry) {
        outgoing_ping(out, STREAM_PING_BEFORE_PACKAGE);
    }
    length = GUINT32_TO_BE(bytes->len);
    stream_put_command(out->o, STREAM_CMD_PACKAGED, &length, sizeof(length));
    out_bytes(out->o, bytes->data, bytes->len);
    if (!outgoing_check(out, err)) {
        return false;
    }
    postcopy_serve(out);
    if (ferry) {
        return_path_ask(out->rp, RETURN_WAIT_READY);
    } else if (!switchover_commit(out, err)) {
        return false;
    } else {
        outgoing_ping(out, STREAM_PING_AFTER_PACKAGE);
    }
    return out_flush(out->o, err);
}

/* The package was sent to a QEMU, whose word is the answer to the PING before RUN. */
static bool qemu_has_not_run(struct outgoing *out)
{
    return return_path_closed(out->rp) && !return_path_answered(out->rp, STREAM_PING_LOADED);
}

/* From the stopped guest to the one that runs over there. False without `committed`: it is ours. */
static bool let_go(struct outgoing *out, bool ferry, GError **err)
{
    if (!send_package(out, ferry, err)) {
        return false;
    }
    switchover_pause_part(out, PAUSE_DEVICES);
    mutex_lock(&out->m->lock);
    out->stats.downtime_bytes = out->o->bytes - out->stop_bytes;
    mutex_unlock(&out->m->lock);
    if (!ferry) {
        /* what it does from here on is not seen from here */
        mutex_lock(&out->m->lock);
        out->stats.downtime_ns = monotonic_ns() - out->stats.stop_ns;
        mutex_unlock(&out->m->lock);
        return true;
    }
    outgoing_phase(out, MIGRATION_PHASE_READY);
    if (!postcopy_wait(out, RETURN_WAIT_READY, migration_timeout(out->m, ready_timeout), err)) {
        return false;
    }
    switchover_pause_part(out, PAUSE_LOAD);
    migration_hold(out->m, MIGRATION_HOLD_POINT_READY, &out->cancelled);
    if (!outgoing_check(out, err) || !switchover_commit(out, err)) {
        return false;
    }
    return_path_ask(out->rp, RETURN_WAIT_RUNS);
    return switchover_go(out, err);
}

/* A failure around the commit point: is it certain that the guest has not run there? */
static void reconsider(struct outgoing *out, bool ferry)
{
    postcopy_note_run(out); /* said and then denied: it may still run */
    if (out->committed && !out->postcopy.ran &&
        (return_path_refused(out->rp, false) || (!ferry && qemu_has_not_run(out)))) {
        switchover_uncommit(out);
    }
}

static bool prepare(struct outgoing *out, GError **err)
{
    bool again;
    struct departure *d =
        departure_new(out->ram, out->options.caps[MIGRATION_CAPABILITY_RELEASE_RAM]);

    mutex_lock(&out->m->lock);
    out->postcopy.departure = d;
    mutex_unlock(&out->m->lock);
    do {
        outgoing_phase(out, MIGRATION_PHASE_DISCARD);
        again = false; /* a reset goes first */
        if (!discard_early(out, err) || (!switchover_stop(out, &again, err) && !again)) {
            return false;
        }
    } while (again);
    if (!ram_save_sync(out->ram, err)) {
        return false;
    }
    switchover_pause_part(out, PAUSE_SYNC);
    departure_discard(d, out->o);
    departure_freeze(d);
    switchover_pause_part(out, PAUSE_MEMORY);
    return true;
}

bool postcopy_run(struct outgoing *out, GError **err)
{
    bool ferry = out->features & FERRY_FEATURE_COMMIT;
    GError *error = NULL;
    bool ok;

    if (!prepare(out, err)) {
        return false;
    }
    out->postcopy.stream = (struct departure_stream){ .o = out->o };
    out->postcopy.bytes_before = out->o->bytes;
    ok = let_go(out, ferry, &error);
    if (!ok) {
        reconsider(out, ferry);
    }
    if (!ok && !out->committed) {
        g_propagate_error(err, error);
        return false;
    }
    vm_lock(out->vm);
    migration_set_status(out->m, MIGRATION_STATUS_POSTCOPY_ACTIVE);
    mutex_lock(&out->m->lock);
    out->postcopy.left = true;
    mutex_unlock(&out->m->lock);
    vm_unlock(out->vm);
    ok = ok && send_rest(out, &error);
    while (!ok) {
        reconsider(out, ferry);
        if (!out->committed) {
            g_propagate_error(err, error);
            return false;
        }
        if (!postcopy_recover(out, g_steal_pointer(&error), err)) {
            return false;
        }
        ok = send_rest(out, &error);
    }
    return true;
}
