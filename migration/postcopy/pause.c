/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A post-copy whose link is lost, on the side that the guest has left.
 *
 * The guest runs at the destination and waits there wherever it needs memory that has not come. So
 * nothing is given up: the migration thread waits here, with all memory, until somebody names an
 * address (migrate with resume), or one of `reconnect-addresses` answers. The new link begins with
 * commands, without a header:
 *
 *   RECV_BITMAP of each block     ->
 *                                 <-  RECV_BITMAP: what has come
 *   POSTCOPY_RESUME               ->
 *                                 <-  RESUME_ACK
 *   GO, if it is not known to have come; then pages as before
 *
 * Any failure on the way leads back to the wait; what is known of the destination's memory is
 * learned anew each time. The wait ends without a link only when the process ends, or with
 * migrate-take-back for a guest that never ran there.
 */
#include <string.h>
#include <unistd.h>

#include "migration/postcopy/departure.h"
#include "migration/postcopy/source.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "migration/switchover.h"
#include "system/vm.h"
#include "util/error.h"

/* How long one try to reach one of reconnect-addresses may take. */
#define LOOK_TIMEOUT_MS 1000
/* Without such addresses: so often it is looked whether there are some by now. */
#define IDLE_LOOK_US 200000

bool postcopy_pause(struct outgoing *out, GError **err)
{
    if (out->m->status != MIGRATION_STATUS_POSTCOPY_ACTIVE &&
        out->m->status != MIGRATION_STATUS_POSTCOPY_RECOVER) {
        error_set(err, FERRY_ERROR_USER,
                  "migrate-pause is currently only supported during postcopy-active state");
        return false;
    }
    mutex_lock(&out->m->lock);
    out->postcopy.paused_by_us = true;
    if (out->ch) {
        channel_shutdown(out->ch);
    }
    mutex_unlock(&out->m->lock);
    return true;
}

void postcopy_resume(struct outgoing *out, struct transport_address *addr, int fd)
{
    mutex_lock(&out->m->lock);
    struct transport_address *before = out->postcopy.resume_addr;
    int fd_before = out->postcopy.resume_fd;

    out->postcopy.resume_addr = addr;
    out->postcopy.resume_fd = fd;
    cond_broadcast(&out->m->cond);
    mutex_unlock(&out->m->lock);
    if (before) {
        transport_address_free(before); /* not taken up yet */
        if (fd_before >= 0) {
            close(fd_before);
        }
    }
}

bool postcopy_ran_there(const struct outgoing *out)
{
    return out->postcopy.ran;
}

void postcopy_give_up(struct outgoing *out)
{
    mutex_lock(&out->m->lock);
    out->postcopy.given_up = true;
    cond_broadcast(&out->m->cond);
    mutex_unlock(&out->m->lock);
}

/* A link that was ended because of what came on the return path, or because nothing comes there any
 * more: that is the reason, not the end. Takes why. */
static GError *real_reason(struct outgoing *out, GError *why)
{
    GError *said = NULL;

    if (!g_error_matches(why, FERRY_ERROR, FERRY_ERROR_CANCELLED) || !out->rp ||
        return_path_check(out->rp, &said)) {
        return why;
    }
    g_error_free(why);
    return said;
}

/* Status and reason; the link's end. Takes why. */
static void enter_pause(struct outgoing *out, GError *why)
{
    bool ours;

    why = real_reason(out, why);
    postcopy_note_run(out);
    outgoing_close_link(out);
    mutex_lock(&out->m->lock);
    ours = out->postcopy.paused_by_us;
    out->postcopy.paused_by_us = false;
    mutex_unlock(&out->m->lock);
    outgoing_phase(out, MIGRATION_PHASE_PAUSED);
    vm_lock(out->vm);
    g_free(out->error);
    out->error = ours ? g_strdup("Paused by migrate-pause") : g_strdup(why->message);
    migration_set_status(out->m, MIGRATION_STATUS_POSTCOPY_PAUSED);
    vm_unlock(out->vm);
    if (!ours) {
        report_warning("Post-copy is paused, the guest waits at the destination for memory: %s",
                       why->message);
    }
    g_error_free(why);
}

/* The wait is over without a link. */
static void end_wait(struct outgoing *out, bool given_up, GError **err)
{
    if (given_up) {
        switchover_uncommit(out);
    }
    error_set(err, FERRY_ERROR_USER,
              given_up ? "The guest was taken back by migrate-take-back"
                       : "The source ended while post-copy was paused");
}

/*
 * False and *err: migrate-take-back or the end of the process came while a link was being made.
 * Both are accepted with the machine lock in status postcopy-paused only, so behind this they come
 * too late: the guest goes there.
 */
static bool set_recovering(struct outgoing *out, GError **err)
{
    bool given_up, abandoned;

    vm_lock(out->vm);
    mutex_lock(&out->m->lock);
    given_up = out->postcopy.given_up;
    abandoned = out->postcopy.abandoned;
    mutex_unlock(&out->m->lock);
    if (!given_up && !abandoned) {
        migration_set_status(out->m, MIGRATION_STATUS_POSTCOPY_RECOVER);
    }
    vm_unlock(out->vm);
    if (given_up || abandoned) {
        end_wait(out, given_up, err);
        return false;
    }
    outgoing_phase(out, MIGRATION_PHASE_RECOVER);
    return true;
}

/* One look at each of reconnect-addresses. The link that stands, or none. */
static bool look_around(struct outgoing *out)
{
    g_autoptr(GPtrArray) list = migration_reconnect_addresses(out->m);

    for (unsigned i = 0; i < list->len; i++) {
        if (outgoing_connect(out, g_ptr_array_index(list, i), -1, LOOK_TIMEOUT_MS, NULL)) {
            return true;
        }
        outgoing_close_link(out);
    }
    return false;
}

/* Until when, on the monotonic clock, addresses are tried; 0: not at all. */
static int64_t look_until(struct outgoing *out, int64_t paused_us)
{
    struct migration_options now;

    migration_options_get(out->m, &now);
    mutex_lock(&out->m->lock);
    bool any = out->m->reconnect_addresses->len > 0;
    mutex_unlock(&out->m->lock);
    if (!any) {
        return 0;
    }
    return now.reconnect_timeout ? paused_us + (int64_t)now.reconnect_timeout * 1000 : INT64_MAX;
}

/*
 * Waits for a link: that somebody names an address (addr and fd are set then, and there is no link
 * yet), or that one of reconnect-addresses answers. False and *err: there will be none.
 */
static bool wait_for_link(struct outgoing *out, struct transport_address **addr, int *fd,
                          GError **err)
{
    struct postcopy_out *p = &out->postcopy;
    int64_t paused_us = g_get_monotonic_time();

    for (;;) {
        bool looks = g_get_monotonic_time() < look_until(out, paused_us);
        int64_t next;

        if (looks && look_around(out)) {
            *addr = NULL;
            return true;
        }
        next =
            g_get_monotonic_time() +
            (looks ? (int64_t)migration_timeout(out->m, reconnect_interval) * 1000 : IDLE_LOOK_US);
        mutex_lock(&out->m->lock);
        while (!p->resume_addr && !p->given_up && !p->abandoned &&
               cond_wait_until(&out->m->cond, &out->m->lock, next)) {
        }
        *addr = g_steal_pointer(&p->resume_addr);
        *fd = p->resume_fd;
        bool given_up = p->given_up, abandoned = p->abandoned;
        mutex_unlock(&out->m->lock);
        if (given_up || abandoned) {
            transport_address_free(*addr);
            end_wait(out, given_up, err);
            return false;
        }
        if (*addr) {
            return true;
        }
    }
}

/* Learns what the destination has. */
static bool exchange_bitmaps(struct outgoing *out, GError **err)
{
    struct departure *d = out->postcopy.departure;
    unsigned timeout = migration_timeout(out->m, greeting_timeout);
    const char *name;

    for (unsigned i = 0; (name = departure_block_name(d, i)); i++) {
        size_t len = strlen(name);
        uint8_t payload[256];

        payload[0] = (uint8_t)len;
        memcpy(payload + 1, name, len);
        return_path_ask_bitmap(out->rp, name,
                               ram_block_pages(ram_block_find(out->vm->memory, name)));
        stream_put_command(out->o, STREAM_CMD_RECV_BITMAP, payload, (uint16_t)(1 + len));
        if (!out_flush(out->o, err) ||
            !return_path_wait(out->rp, RETURN_WAIT_BITMAP, timeout, err)) {
            return false;
        }
    }
    departure_resume(d);
    return true;
}

static bool say_resume(struct outgoing *out, GError **err)
{
    return_path_ask(out->rp, RETURN_WAIT_RESUME);
    stream_put_command(out->o, STREAM_CMD_POSTCOPY_RESUME, NULL, 0);
    return out_flush(out->o, err) &&
           return_path_wait(out->rp, RETURN_WAIT_RESUME,
                            migration_timeout(out->m, greeting_timeout), err);
}

/* GO may have been lost with the old link; a destination that has had it ignores a second one. */
static bool say_go_again(struct outgoing *out, GError **err)
{
    if (!(out->features & FERRY_FEATURE_COMMIT) || out->postcopy.ran) {
        return true;
    }
    return_path_ask(out->rp, RETURN_WAIT_RUNS);
    switchover_put_go(out);
    return out_flush(out->o, err);
}

/* A link that stands: from its first byte to the point where pages flow again. */
static bool take_up(struct outgoing *out, GError **err)
{
    if (!channel_is_duplex(out->ch)) {
        error_set(err, FERRY_ERROR_USER, "%s carries no answers: post-copy needs a socket",
                  channel_name(out->ch));
        return false;
    }
    mutex_lock(&out->m->lock);
    bool paused = out->postcopy.paused_by_us; /* while the link was being made */
    mutex_unlock(&out->m->lock);
    if (paused) {
        error_set(err, FERRY_ERROR_CANCELLED, "Paused by migrate-pause");
        return false;
    }
    out->o->bytes = out->stats.bytes;
    out->rp = return_path_new(out->ch, err);
    if (!out->rp) {
        return false;
    }
    out->postcopy.stream = (struct departure_stream){ .o = out->o };
    out->postcopy.release_ping = 0;
    postcopy_serve(out);
    if (!exchange_bitmaps(out, err) || !say_resume(out, err) || !say_go_again(out, err)) {
        return false;
    }
    vm_lock(out->vm);
    g_clear_pointer(&out->error, g_free);
    migration_set_status(out->m, MIGRATION_STATUS_POSTCOPY_ACTIVE);
    vm_unlock(out->vm);
    return true;
}

bool postcopy_recover(struct outgoing *out, GError *why, GError **err)
{
    for (;;) {
        g_autoptr(transport_address) addr = NULL;
        GError *error = NULL;
        int fd = -1;

        enter_pause(out, why);
        if (!wait_for_link(out, &addr, &fd, err)) {
            return false;
        }
        if (!set_recovering(out, err)) {
            if (fd >= 0) {
                close(fd);
            }
            return false;
        }
        if ((!addr ||
             outgoing_connect(out, addr, fd, migration_timeout(out->m, connect_timeout), &error)) &&
            take_up(out, &error)) {
            return true;
        }
        why = error;
    }
}
