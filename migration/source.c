/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The outgoing side, from `migrate` to `completed`, top to bottom. One thread, "migration", does
 * all of it:
 *
 *   connect -> greet -> setup -> rounds.c, while the guest runs -> switchover.c -> end
 *
 * Failure: whatever goes wrong before the commit point ends in outgoing_end(), which makes the
 * guest run here again if it did before, and says why. The migration thread holds the machine lock
 * only for run-state changes and while devices are saved; it never waits for the peer with it.
 * Every wait ends at a cancel: the channel is shut down, cancel_fd becomes readable, and m->cond is
 * signalled.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/block.h"
#include "migration/check/ask.h"
#include "migration/converge/apply.h"
#include "migration/internal.h"
#include "migration/migration.h"
#include "migration/rounds.h"
#include "migration/postcopy/source.h"
#include "migration/ram/save.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "qapi/qapi-events.h"
#include "system/vm.h"
#include "target/i386/cpu.h"
#include "util/error.h"

/* How long a link that broke is listened to for the reason. Its end ends that; only a link that is
 * closed in one direction and silent in the other takes so long. */
#define REASON_TIMEOUT_MS 500

/* --- cancel --- */

bool outgoing_check(struct outgoing *out, GError **err)
{
    if (atomic_load(&out->cancelled)) {
        error_set(err, FERRY_ERROR_CANCELLED, "The migration was cancelled");
        return false;
    }
    return !out->rp || return_path_check(out->rp, err);
}

bool outgoing_sleep(struct outgoing *out, unsigned ms)
{
    struct pollfd pfd = { .fd = out->cancel_fd, .events = POLLIN };

    return poll(&pfd, 1, (int)ms) <= 0;
}

bool outgoing_cancel(struct outgoing *out, GError **err)
{
    struct migration *m = out->m;
    uint64_t one = 1;

    mutex_lock(&m->lock);
    if (out->committed) {
        mutex_unlock(&m->lock);
        error_set(err, FERRY_ERROR_USER,
                  "The migration cannot be cancelled any more: the destination has been told to "
                  "run the guest");
        return false;
    }
    atomic_store(&out->cancelled, true);
    if (out->ch) {
        channel_shutdown(out->ch);
    }
    cond_broadcast(&m->cond);
    mutex_unlock(&m->lock);
    if (write(out->cancel_fd, &one, sizeof(one)) < 0) {
        report_warning("Cannot signal the migration thread: %s", g_strerror(errno));
    }
    return true;
}

void outgoing_abandon(struct outgoing *out)
{
    uint64_t one = 1;

    mutex_lock(&out->m->lock);
    out->postcopy.abandoned = true;
    if (out->ch) {
        channel_shutdown(out->ch);
    }
    out->m->hold = MIGRATION_HOLD_POINT_NONE;
    cond_broadcast(&out->m->cond);
    mutex_unlock(&out->m->lock);
    if (write(out->cancel_fd, &one, sizeof(one)) < 0) {
        report_warning("Cannot signal the migration thread: %s", g_strerror(errno));
    }
}

void outgoing_phase(struct outgoing *out, MigrationPhase phase)
{
    mutex_lock(&out->m->lock);
    out->phase = phase;
    mutex_unlock(&out->m->lock);
}

/* --- from nothing to a stream --- */

bool outgoing_connect(struct outgoing *out, const struct transport_address *addr, int fd,
                      unsigned timeout_ms, GError **err)
{
    struct channel *ch = transport_connect(addr, fd, out->cancel_fd, timeout_ms, err);

    if (!ch) {
        return false;
    }
    channel_set_timeout(ch, migration_timeout(out->m, link_timeout));
    mutex_lock(&out->m->lock);
    out->ch = ch;
    mutex_unlock(&out->m->lock);
    out->o = out_new_channel(ch);
    return outgoing_check(out, err) && postcopy_connect_urgent(out, addr, timeout_ms, err);
}

static bool connect_first(struct outgoing *out, GError **err)
{
    int fd = out->fd;

    out->fd = -1;
    return outgoing_connect(out, out->addr, fd, migration_timeout(out->m, connect_timeout), err);
}

void stream_put_command(struct stream_out *o, unsigned command, const void *payload, uint16_t len)
{
    out_u8(o, STREAM_COMMAND);
    out_be16(o, (uint16_t)command);
    out_be16(o, len);
    out_bytes(o, payload, len);
}

bool outgoing_ping(struct outgoing *out, uint32_t value)
{
    uint32_t be = GUINT32_TO_BE(value);

    if (!return_path_ask_pong(out->rp, value)) {
        return false;
    }
    stream_put_command(out->o, STREAM_CMD_PING, &be, sizeof(be));
    return true;
}

/* Between Ferries: what stands in the way is found out before anything is sent. */
static bool ask_whether_possible(struct outgoing *out, GError **err)
{
    g_autoptr(GPtrArray) findings = findings_new();
    g_autofree char *obstacles = NULL;

    if (!check_ask(out->m, out->o, out->rp, migration_timeout(out->m, greeting_timeout), findings,
                   NULL, err)) {
        return false;
    }
    if (!findings_have_obstacle(findings)) {
        return true;
    }
    obstacles = findings_obstacles_text(findings);
    error_set(err, FERRY_ERROR_PEER, "The destination cannot take the guest: %s", obstacles);
    return false;
}

/* Opens the return path and learns who answers. */
static bool open_return_path(struct outgoing *out, GError **err)
{
    int64_t asked;

    if (!channel_is_duplex(out->ch)) {
        error_set(
            err, FERRY_ERROR_USER,
            "Capability '%s' needs a socket, and %s carries no answers: switch it off for this "
            "migration",
            out->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM] ? "postcopy-ram" : "return-path",
            channel_name(out->ch));
        return false;
    }
    out->rp = return_path_new(out->ch, err);
    if (!out->rp) {
        return false;
    }
    stream_put_command(out->o, STREAM_CMD_OPEN_RETURN_PATH, NULL, 0);
    outgoing_ping(out, STREAM_PING_START);
    outgoing_ping(out, FERRY_PING_MAGIC);
    asked = monotonic_ns();
    if (!out_flush(out->o, err)) {
        return false;
    }
    /* from here on the destination knows that this is a migration */
    outgoing_phase(out, MIGRATION_PHASE_GREETING);
    if (!return_path_wait(out->rp, RETURN_WAIT_FERRY_PONG,
                          migration_timeout(out->m, greeting_timeout), err)) {
        return false;
    }
    mutex_lock(&out->m->lock);
    out->stats.rtt_ns = monotonic_ns() - asked;
    mutex_unlock(&out->m->lock);
    out->features = return_path_features(out->rp);
    if (out->features) {
        uint64_t be = GUINT64_TO_BE(out->features);

        stream_put_command(out->o, STREAM_CMD_FERRY_FEATURES, &be, sizeof(be));
    }
    return !(out->features & FERRY_FEATURE_CHECK) || ask_whether_possible(out, err);
}

static bool greet(struct outgoing *out, GError **err)
{
    out_be32(out->o, STREAM_MAGIC);
    out_be32(out->o, STREAM_VERSION);
    configuration_save(out, out->o);
    if ((out->options.caps[MIGRATION_CAPABILITY_RETURN_PATH] ||
         out->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM]) &&
        !open_return_path(out, err)) {
        return false;
    }
    return out_flush(out->o, err);
}

static bool setup(struct outgoing *out, GError **err)
{
    out->prediction.vcpus = out->vm->vcpu_count;
    out->prediction.ferry = out->features & FERRY_FEATURE_COMMIT;
    struct ram_save_config config = {
        .ignore_shared = out->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED],
        .zeroed = out->features & FERRY_FEATURE_ZEROED,
        .postcopy = out->options.caps[MIGRATION_CAPABILITY_POSTCOPY_RAM],
    };
    struct ram_save *ram = ram_save_new(out->vm);

    mutex_lock(&out->m->lock);
    out->phase = MIGRATION_PHASE_SETUP;
    out->ram = ram;
    mutex_unlock(&out->m->lock);
    if (out->options.caps[MIGRATION_CAPABILITY_XBZRLE] &&
        !ram_save_use_xbzrle(out->ram, out->options.xbzrle_cache_size, err)) {
        return false;
    }
    if (!ram_save_start_tracking(out->ram, err)) {
        return false;
    }
    converge_start(out);
    if (config.postcopy) {
        postcopy_advise(out);
    }
    ram_save_setup(out->ram, &config, out->o);
    if (!out_flush(out->o, err)) {
        return false;
    }
    vm_lock(out->vm);
    bool ok = outgoing_check(out, err);
    if (ok) {
        if (out->options.caps[MIGRATION_CAPABILITY_EVENTS]) {
            qapi_event_send_migration_pass(out->vm, 1);
        }
        migration_set_status(out->m, MIGRATION_STATUS_ACTIVE);
        mutex_lock(&out->m->lock);
        out->stats.active_ns = monotonic_ns();
        mutex_unlock(&out->m->lock);
    }
    vm_unlock(out->vm);
    if (ok) {
        page_hints_begin(out);
    }
    return ok && policy_start(out, err);
}

/* --- the end --- */

void migration_keep_stopped(struct vm *vm)
{
    struct outgoing *out = vm->migration ? vm->migration->out : NULL;

    if (out && out->guest_stopped && vm->run_state == RUN_STATE_FINISH_MIGRATE &&
        out->was_running) {
        out->was_running = false;
        out->state_before = RUN_STATE_PAUSED;
        vm->migration->saved_state = RUN_STATE_PAUSED;
    }
}

void outgoing_give_back(struct outgoing *out)
{
    if (!out->guest_stopped) {
        return;
    }
    out->guest_stopped = false;
    if (!block_is_active(out->vm)) {
        GError *error = NULL;

        /* a cancel came between the disks and the commit: nobody else was told to take them */
        if (!block_activate_all(out->vm, &error)) {
            report_warning("The guest stays stopped here: %s", error->message);
            g_error_free(error);
            out->was_running = false;
            out->state_before = RUN_STATE_PAUSED;
        }
    }
    if (out->was_running && out->vm->run_state == RUN_STATE_FINISH_MIGRATE && !out->vm->exiting) {
        /* the guest's time went on while it stood */
        x86_clock_adjust(out->vm, monotonic_ns() - out->clocks_stopped_ns);
        vm_start(out->vm);
    } else if (out->vm->run_state == RUN_STATE_FINISH_MIGRATE) {
        /* at the end of the process a guest that ran is not started any more */
        vm_set_run_state(out->vm, out->was_running ? RUN_STATE_PAUSED : out->state_before);
    }
}

static void end(struct outgoing *out, GError *error)
{
    struct migration *m = out->m;

    page_hints_end(out); /* where it did not come to a round */
    converge_stop(out);
    policy_end(out);
    vm_lock(out->vm);
    /* a cancel that came while this waited for the lock has set the status to cancelling */
    bool cancelled = atomic_load(&out->cancelled);

    mutex_lock(&m->lock);
    out->stats.end_ns = monotonic_ns();
    if (error && !out->committed) {
        out->stats.downtime_ns = 0;
    }
    bool committed = out->committed;
    mutex_unlock(&m->lock);

    /* also where the confirmation broke off behind it */
    out->runs_there = committed && (out->postcopy.ran || (!error && out->postcopy.departure) ||
                                    (out->rp && return_path_runs_ns(out->rp) != UINT64_MAX));
    if (!error) {
        vm_set_run_state(out->vm, RUN_STATE_POSTMIGRATE);
        migration_set_status(m, MIGRATION_STATUS_COMPLETED);
    } else if (committed) {
        /* the destination may run the guest: never run it here by ourselves */
        vm_set_run_state(out->vm, RUN_STATE_POSTMIGRATE);
        g_free(out->error);
        out->error = g_strdup_printf(
            "%s. The guest was handed over and is stopped here; it probably runs on the "
            "destination. Look there, "
            "and use 'cont' here only when it is certain that it does not run there",
            error->message);
        migration_set_status(m, MIGRATION_STATUS_FAILED);
    } else {
        outgoing_give_back(out);
        if (cancelled) {
            migration_set_status(m, MIGRATION_STATUS_CANCELLED);
        } else {
            g_free(out->error);
            out->error = g_strdup(error->message);
            migration_set_status(m, MIGRATION_STATUS_FAILED);
        }
    }
    if (out->error) {
        report_error("Migration failed: %s", out->error);
    }
    vm_unlock(out->vm);
}

void outgoing_close_link(struct outgoing *out)
{
    if (out->ch) {
        channel_shutdown(out->ch);
    }
    if (out->postcopy.urgent_ch) {
        channel_shutdown(out->postcopy.urgent_ch); /* "mig/return" may be writing to it */
    }
    return_path_free(out->rp);
    out->rp = NULL;
    postcopy_close_urgent(out);
    out_free(out->o);
    out->o = NULL;
    if (out->ch) {
        mutex_lock(&out->m->lock);
        struct channel *ch = out->ch;
        out->ch = NULL;
        mutex_unlock(&out->m->lock);
        channel_unref(ch);
    }
}

/* Frees what only the run needed; statistics stay. */
static void clean_up(struct outgoing *out)
{
    struct departure *departure;
    struct ram_save *ram;

    outgoing_close_link(out);
    mutex_lock(&out->m->lock);
    ram = out->ram;
    departure = out->postcopy.departure;
    if (ram) {
        ram_save_get_stats(ram, &out->final_ram);
    }
    if (departure) {
        departure_get_stats(departure, &out->final_departure);
    }
    out->ram = NULL;
    out->postcopy.departure = NULL;
    mutex_unlock(&out->m->lock);
    departure_free(departure);
    ram_save_free(ram);
    if (out->fd >= 0) {
        close(out->fd);
        out->fd = -1;
    }
}

/* What the destination said is a better reason than a broken pipe; it may still be on its way. */
static void prefer_what_was_said(struct outgoing *out, GError **error)
{
    bool cut = g_error_matches(*error, FERRY_ERROR,
                               FERRY_ERROR_CANCELLED); /* by the end of the return path */
    GError *said = NULL;

    if (!out->rp || !(cut || g_error_matches(*error, FERRY_ERROR, FERRY_ERROR_LINK))) {
        return;
    }
    if (return_path_failure(out->rp, REASON_TIMEOUT_MS, &said) ||
        ((cut || return_path_refused(out->rp, true)) && !return_path_check(out->rp, &said))) {
        g_error_free(*error);
        *error = said;
    }
}

/* Side and phase go behind the cause, unless the destination has named its own. */
static void name_place(struct outgoing *out, GError *error)
{
    if (!strstr(error->message, MIGRATION_PLACE_DESTINATION)) {
        mutex_lock(&out->m->lock);
        MigrationPhase at = out->phase;
        mutex_unlock(&out->m->lock);
        error_append(error, MIGRATION_PLACE_SOURCE "'%s'", qapi_migration_phase_str(at));
    }
}

static gpointer outgoing_thread(gpointer opaque)
{
    struct outgoing *out = opaque;
    GError *error = NULL;
    bool ok;

    migration_hold(out->m, MIGRATION_HOLD_POINT_SETUP, &out->cancelled);
    ok = outgoing_check(out, &error) && connect_first(out, &error) && greet(out, &error) &&
         setup(out, &error);
    if (ok) {
        migration_hold(out->m, MIGRATION_HOLD_POINT_ACTIVE, &out->cancelled);
    }
    ok = ok && outgoing_check(out, &error) && rounds_run(out, &error);
    while (ok) {
        bool again = false;

        ok = postcopy_wanted(out) ? postcopy_run(out, &error) : switchover_run(out, &again, &error);
        if (!again) {
            break;
        }
        ok = rounds_run(out, &error);
    }
    if (!ok && !error) {
        error_set(&error, FERRY_ERROR_HOST, "The migration failed for an unknown reason");
    }
    if (!ok && !atomic_load(&out->cancelled)) {
        prefer_what_was_said(out, &error);
    }
    if (error) {
        name_place(out, error);
    }
    /* the guest first, everything else can wait */
    end(out, error);
    clean_up(out);
    g_clear_error(&error);
    atomic_store(&out->finished, true);
    return NULL;
}

bool outgoing_start(struct migration *m, struct transport_address *addr, int fd, GError **err)
{
    struct outgoing *out;
    int cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (cancel_fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot create an eventfd for the migration");
        transport_address_free(addr);
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    outgoing_free(m->out);
    out = g_new0(struct outgoing, 1);
    out->m = m;
    out->vm = m->vm;
    out->addr = addr;
    out->fd = fd;
    out->cancel_fd = cancel_fd;
    mutex_init(&out->postcopy.urgent_lock);
    out->stats.start_ns = monotonic_ns();
    out->stats.expected_downtime_us = (int64_t)m->options.downtime_limit * 1000;
    migration_options_get(m, &out->options);
    policy_take(out);
    /* it wants the machine lock for the first thing that shows */
    out->thread = g_thread_try_new("migration", outgoing_thread, out, err);
    if (!out->thread) {
        g_prefix_error(err, "Cannot start the migration's thread: ");
        if (fd >= 0) {
            close(fd);
        }
        outgoing_free(out);
        return false;
    }
    m->out = out;
    migration_set_status(m, MIGRATION_STATUS_SETUP);
    return true;
}

void outgoing_free(struct outgoing *out)
{
    if (!out) {
        return;
    }
    struct migration *m = out->m;

    if (out->thread) {
        /* a finished thread only has its return left, and does not want the machine lock for that
         */
        vm_unlock(m->vm);
        g_thread_join(out->thread);
        vm_lock(m->vm);
    }
    if (m->out == out) {
        m->out = NULL;
    }
    close(out->cancel_fd);
    transport_address_free(out->postcopy.resume_addr);
    mutex_clear(&out->postcopy.urgent_lock);
    history_clear(&out->history);
    transport_address_free(out->addr);
    g_free(out->error);
    g_free(out);
}
