/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When to stop the guest, and the stop.
 *
 * Judging: only at the end of a round, when what is left is known exactly. Iteration goes on while
 * it pays: the guest is stopped when the predicted pause is at most min(10 ms, downtime-limit), or
 * when two rounds in a row brought less than a tenth each and the limit is kept. It is never
 * stopped merely because the limit would be kept. The prediction counts the fixed costs: the last
 * dirty sync, a round trip, device state.
 *
 * Stopping: switchover_run() guarantees: true, the guest is the destination's; false, the guest is
 * ours (or, after the commit point, is stopped here for good: outgoing.committed). The caller gives
 * it back.
 *
 * The commit point. Between Ferries: everything is loaded and checked over there (READY), then GO
 * leaves; only a destination that then says it gave up gives the guest back. Towards a QEMU the end
 * of the stream leaves, and from then on nobody can cancel; with a return path the guest still
 * comes back when the destination reports a failure or closes without having said SHUT 0, but not
 * when it only falls silent: it may be running. A file is decided when it is complete and closed.
 */
#include <inttypes.h>
#include <string.h>

#include "block/block.h"
#include "migration/announce-wire.h"
#include "migration/internal.h"
#include "migration/postcopy/source.h"
#include "migration/ram/save.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "migration/switchover.h"
#include "migration/vmstate/savevm.h"
#include "qapi/qapi-events.h"
#include "system/config.h"
#include "system/memory-lease.h"
#include "system/vm.h"
#include "target/i386/cpu.h"
#include "util/error.h"

/* A limit below the fixed costs cannot be kept; then sending the rest may take this long. */
#define MEMORY_MS_LEAST 1.0
/* While the policy has the guest stopped: how long a slice takes, and how long beyond its time the
 * link may take nothing at all. */
#define SUSPEND_SLICE_S  0.02
#define SUSPEND_STALL_MS 500
/* Longer than this a second round only for a shorter pause is not worth it. */
#define SECOND_ROUND_MS 50
/* While an operator decides (pause-before-switchover) the destination hears from us. */
#define KEEPALIVE_MS 5000

/* The pause if the guest were stopped now. */
static struct predicted_pause predict(struct outgoing *out, uint64_t remaining_pages)
{
    struct migration_options now;

    migration_options_get(out->m, &now);
    return predict_pause(&out->prediction, remaining_pages, (double)now.avail_switchover_bandwidth);
}

int64_t switchover_expect(struct outgoing *out, uint64_t remaining_pages)
{
    struct predicted_pause p = predict(out, remaining_pages);
    int64_t us = (int64_t)MIN(p.fixed_us + p.memory_us, 1e15);

    mutex_lock(&out->m->lock);
    out->stats.expected_downtime_us = us;
    mutex_unlock(&out->m->lock);
    return us;
}

/*
 * The first round goes through all memory and says little about how fast a few pages travel. Where
 * they are most of the pause, and sending them is a matter of moments, a second round makes the
 * pause shorter and its prediction good.
 */
static bool second_round_pays(const struct outgoing *out, const struct migration_round *round,
                              const struct predicted_pause *p, uint64_t max_bandwidth)
{
    double rate = predict_bandwidth(&out->prediction);

    if (max_bandwidth) {
        rate = MIN(rate, (double)max_bandwidth);
    }
    return round->number == 1 && p->memory_us > p->fixed_us &&
           (double)round->remaining_pages * TARGET_PAGE_SIZE * 1e3 <= rate * SECOND_ROUND_MS;
}

bool switchover_due(struct outgoing *out, struct switchover_judge *j,
                    const struct migration_round *round)
{
    struct migration_options now;
    struct predicted_pause p = predict(out, round->remaining_pages);
    double fixed_ms = p.fixed_us / 1e3, memory_ms = p.memory_us / 1e3, limit_ms;
    uint64_t remaining = round->remaining_pages;
    bool paid = remaining < j->remaining_before - j->remaining_before / 10;

    migration_options_get(out->m, &now);
    limit_ms = (double)now.downtime_limit;
    if (now.max_bandwidth != j->max_bandwidth) {
        paid = true; /* what a slower link brought says nothing about this one */
        j->max_bandwidth = now.max_bandwidth;
    }
    j->stalled = paid ? 0 : j->stalled + 1;
    j->remaining_before = remaining;
    if (second_round_pays(out, round, &p, now.max_bandwidth)) {
        return false;
    }
    if (fixed_ms + memory_ms <= MIN(GOOD_ENOUGH_MS, limit_ms)) {
        history_decide(out, MIGRATION_ACTION_SWITCHOVER, -1,
                       "A pause of %.1f ms is expected, which no further round makes much shorter",
                       fixed_ms + memory_ms);
        return true;
    }
    /* where the fixed costs alone exceed the limit, only the memory's part can still be judged */
    if (j->stalled >= 2 && memory_ms <= MAX(limit_ms - fixed_ms, MEMORY_MS_LEAST)) {
        history_decide(out, MIGRATION_ACTION_SWITCHOVER, -1,
                       "A pause of %.1f ms is expected, the limit is %.0f ms, and two more rounds "
                       "brought less than a tenth each",
                       fixed_ms + memory_ms, limit_ms);
        return true;
    }
    return false;
}

/* Ends a part of the pause. */
void switchover_pause_part(struct outgoing *out, enum pause_part part)
{
    int64_t now = monotonic_ns();

    mutex_lock(&out->m->lock);
    out->stats.pause_ns[part] += now - out->pause_mark_ns;
    mutex_unlock(&out->m->lock);
    out->pause_mark_ns = now;
}

/*
 * Stops the guest for the switchover. False without *err: it asked for a reset or a shutdown
 * meanwhile, which goes first; it is as it was. Machine lock held.
 */
static bool stop_guest(struct outgoing *out, GError **err)
{
    struct migration *m = out->m;
    int64_t begun = monotonic_ns();

    if (!vm_stop_to_migrate(out->vm, &out->state_before, err)) {
        return false;
    }
    mutex_lock(&m->lock);
    out->stats.stop_ns = begun;
    memset(out->stats.pause_ns, 0, sizeof(out->stats.pause_ns));
    mutex_unlock(&m->lock);
    out->was_running = out->state_before == RUN_STATE_RUNNING;
    m->saved_state = out->state_before;
    out->guest_stopped = true;
    /* it has waited for the vCPUs, and the guest's time went on meanwhile */
    out->clocks_stopped_ns = x86_clock_stopped_at(out->vm);
    out->stop_bytes = out->o->bytes;
    out->pause_mark_ns = begun;
    switchover_pause_part(out, PAUSE_STOP);
    return true;
}

/* Status pre-switchover until migrate-continue. Machine lock held; dropped meanwhile. */
static bool pause_for_operator(struct outgoing *out, GError **err)
{
    struct migration *m = out->m;
    int64_t begun = monotonic_ns();
    bool ok = true;

    migration_set_status(m, MIGRATION_STATUS_PRE_SWITCHOVER);
    vm_unlock(out->vm);
    outgoing_phase(out, MIGRATION_PHASE_OPERATOR);
    mutex_lock(&m->lock);
    while (!out->continued && !atomic_load(&out->cancelled) && ok) {
        int64_t limit_ms = (int64_t)m->options.pre_switchover_timeout, wait_ms = KEEPALIVE_MS;

        if (limit_ms) {
            wait_ms = MIN(wait_ms, limit_ms - (monotonic_ns() - begun) / 1000000);
        }
        if (wait_ms <= 0) {
            error_set(err, FERRY_ERROR_USER,
                      "Nobody said migrate-continue within the %" PRId64
                      " ms that pre-switchover-timeout allows",
                      limit_ms);
            ok = false;
        } else if (!cond_wait_until(&m->cond, &m->lock, g_get_monotonic_time() + wait_ms * 1000) &&
                   out->rp) {
            mutex_unlock(&m->lock);
            outgoing_ping(out, STREAM_PING_START); /* none to one that has stopped answering */
            ok = out_flush(out->o, err) && outgoing_check(out, err);
            mutex_lock(&m->lock);
        }
    }
    mutex_unlock(&m->lock);
    vm_lock(out->vm);
    return ok && outgoing_check(out, err);
}

/*
 * The disks are given up, as the last thing before the guest is. False: the guest keeps them.
 */
static bool leave_disks(struct outgoing *out, GError **err)
{
    GError *error = NULL;

    vm_lock(out->vm);
    bool ok = block_inactivate_all(out->vm, &error);
    int64_t left_ns = block_inactive_since_ns(out->vm);
    vm_unlock(out->vm);
    if (!ok) {
        g_propagate_prefixed_error(err, error, "The disks cannot be handed over: ");
        return false;
    }
    mutex_lock(&out->m->lock);
    out->stats.disks_left_ns = left_ns;
    mutex_unlock(&out->m->lock);
    if (left_ns) {
        switchover_pause_part(out, PAUSE_DISKS);
    }
    return true;
}

/* From here on no cancel; false: one came just before, or the disks cannot be given up. */
bool switchover_commit(struct outgoing *out, GError **err)
{
    if (!leave_disks(out, err)) {
        return false;
    }
    mutex_lock(&out->m->lock);
    bool ok = !atomic_load(&out->cancelled);
    out->committed = ok;
    mutex_unlock(&out->m->lock);
    if (ok && out->options.caps[MIGRATION_CAPABILITY_X_IGNORE_SHARED]) {
        memory_lease_drop(out->vm->memory); /* the destination takes it when it runs the guest */
    }
    return ok || outgoing_check(out, err);
}

/* The destination is known not to run the guest: it is ours again. */
void switchover_uncommit(struct outgoing *out)
{
    g_autoptr(GError) error = NULL;

    /* its word is not enough where its locks on memory or disks say otherwise */
    vm_lock(out->vm);
    bool ours = memory_lease_take(out->vm->memory, &error) && block_activate_all(out->vm, &error);
    vm_unlock(out->vm);
    if (!ours) {
        report_warning("The guest stays stopped here: %s", error->message);
        return;
    }
    mutex_lock(&out->m->lock);
    out->committed = false;
    mutex_unlock(&out->m->lock);
}

/* The byte after which a QEMU runs the guest without asking; a Ferry waits for GO, and a file for
 * somebody who reads it when it is complete. */
static bool send_eof(struct outgoing *out, GError **err)
{
    bool decides = !(out->features & FERRY_FEATURE_COMMIT) && !channel_is_file(out->ch);

    if (!outgoing_check(out, err) || (decides && !switchover_commit(out, err))) {
        return false;
    }
    if (out->rp) {
        return_path_ask(out->rp, out->features & FERRY_FEATURE_COMMIT ? RETURN_WAIT_READY
                                                                      : RETURN_WAIT_SHUT);
    }
    out_u8(out->o, STREAM_EOF);
    if (!out_flush(out->o, err)) {
        switchover_uncommit(out); /* a single byte that could not be sent */
        return false;
    }
    return true;
}

/* The rest of the memory and all devices. */
static bool send_state(struct outgoing *out, json_t *devices, GError **err)
{
    struct ram_save_stats rs;

    if (!ram_save_sync(out->ram, err)) {
        return false;
    }
    ram_save_get_stats(out->ram, &rs);
    vm_lock(out->vm);
    if (out->options.caps[MIGRATION_CAPABILITY_EVENTS]) {
        qapi_event_send_migration_pass(out->vm, (int64_t)rs.sync_count);
    }
    vm_unlock(out->vm);
    switchover_pause_part(out, PAUSE_SYNC);
    ram_save_section(out->ram, out->o, UINT64_MAX, true);
    if (!out_flush(out->o, err) || !outgoing_check(out, err)) {
        return false;
    }
    switchover_pause_part(out, PAUSE_MEMORY);
    vm_lock(out->vm);
    announce_save_addresses(out, out->o);
    bool ok = savevm_save(out->vm->savevm, out->o, devices, err);
    vm_unlock(out->vm);
    if (!ok || !out_flush(out->o, err) || !send_eof(out, err)) {
        return false;
    }
    switchover_pause_part(out, PAUSE_DEVICES);
    mutex_lock(&out->m->lock);
    out->stats.bytes = out->o->bytes;
    out->stats.downtime_bytes = out->o->bytes - out->stop_bytes;
    mutex_unlock(&out->m->lock);
    return true;
}

/* Takes over `devices`; NULL: none is wanted. It comes after the end: the destination loads while
 * this is made and sent. */
static bool send_description(struct outgoing *out, json_t *devices, GError **err)
{
    g_autofree char *text = NULL;
    json_t *desc;

    if (!devices) {
        return true;
    }
    desc = json_object();
    json_object_set_new(desc, "page_size", json_integer((json_int_t)TARGET_PAGE_SIZE));
    json_object_set_new(desc, "devices", devices);
    text = json_dumps(desc, JSON_COMPACT);
    json_decref(desc);
    out_u8(out->o, STREAM_VMDESCRIPTION);
    out_be32(out->o, (uint32_t)strlen(text));
    out_bytes(out->o, text, strlen(text));
    return out_flush(out->o, err);
}

/*
 * The guest runs over there. Since when, the destination knows best where it says so: on a busy
 * host its confirmation may be on its way for much longer than the guest stood still. Half a round
 * trip is the way of GO. A peer that claims nonsense only harms a figure, and not by more than what
 * was seen here.
 */
void switchover_end_pause(struct outgoing *out)
{
    int64_t seen = monotonic_ns() - out->pause_mark_ns;
    uint64_t said = return_path_runs_ns(out->rp);

    mutex_lock(&out->m->lock);
    if (said < (uint64_t)seen) {
        seen = MIN(seen, (int64_t)said + out->stats.rtt_ns / 2);
    }
    out->stats.pause_ns[PAUSE_CONFIRM] = seen;
    out->stats.downtime_ns = out->pause_mark_ns + seen - out->stats.stop_ns;
    if (out->stats.disks_left_ns) {
        out->stats.lock_gap_ns = out->pause_mark_ns + seen - out->stats.disks_left_ns;
    }
    mutex_unlock(&out->m->lock);
}

/* After the commit point. The guest is ours again when the destination certainly does not run it.
 */
static bool wait_for_shut(struct outgoing *out, bool closing_refuses, GError **err)
{
    outgoing_phase(out, MIGRATION_PHASE_CONFIRM);
    if (return_path_wait(out->rp, RETURN_WAIT_SHUT, migration_timeout(out->m, confirm_timeout),
                         err)) {
        switchover_end_pause(out);
        return true;
    }
    if (return_path_refused(out->rp, closing_refuses)) {
        switchover_uncommit(out);
    }
    return false;
}

void switchover_put_go(struct outgoing *out)
{
    uint64_t pause = GUINT64_TO_BE((uint64_t)(monotonic_ns() - out->clocks_stopped_ns));

    stream_put_command(out->o, STREAM_CMD_FERRY_GO, &pause, sizeof(pause));
}

bool switchover_go(struct outgoing *out, GError **err)
{
    uint64_t written = channel_bytes_written(out->ch);

    switchover_put_go(out);
    if (!out_flush(out->o, err)) {
        if (channel_bytes_written(out->ch) == written) {
            switchover_uncommit(out); /* not a byte of it has left: the destination cannot go */
        }
        return false;
    }
    out->pause_mark_ns = monotonic_ns();
    migration_hold(out->m, MIGRATION_HOLD_POINT_GO, &out->cancelled);
    return true;
}

/* The destination says READY, we say GO, it says SHUT 0. */
static bool hand_over_to_ferry(struct outgoing *out, GError **err)
{

    outgoing_phase(out, MIGRATION_PHASE_READY);
    if (!return_path_wait(out->rp, RETURN_WAIT_READY, migration_timeout(out->m, ready_timeout),
                          err)) {
        return false;
    }
    switchover_pause_part(out, PAUSE_LOAD);
    migration_hold(out->m, MIGRATION_HOLD_POINT_READY, &out->cancelled);
    if (!outgoing_check(out, err) || !switchover_commit(out, err)) {
        return false;
    }
    return_path_ask(out->rp, RETURN_WAIT_SHUT);
    return switchover_go(out, err) && wait_for_shut(out, false, err);
}

/* Takes over `devices`. */
static bool hand_over(struct outgoing *out, json_t *devices, GError **err)
{
    bool described = send_description(out, devices, err);

    if (out->rp && !(out->features & FERRY_FEATURE_COMMIT)) {
        /* decided already: only what it says now counts, and one that failed has stopped reading */
        if (!described) {
            g_clear_error(err);
        }
        return wait_for_shut(out, true, err);
    }
    if (!described) {
        return false;
    }
    if (out->rp) {
        return hand_over_to_ferry(out, err);
    }
    bool file = channel_is_file(out->ch);

    return channel_finish(out->ch, err) && (!file || switchover_commit(out, err));
}

/* The guest has been stopped for long enough: it runs again, and so do rounds. Memory that was sent
 * meanwhile has been sent. */
static void end_suspension(struct outgoing *out)
{
    history_decide(out, MIGRATION_ACTION_RESUME, -1,
                   "The rest of the memory could not be sent in the %" PRIu64
                   " ms that the guest may be stopped",
                   out->suspend_ms);
    vm_lock(out->vm);
    outgoing_give_back(out);
    mutex_lock(&out->m->lock);
    out->stats.stop_ns = 0;
    mutex_unlock(&out->m->lock);
    vm_unlock(out->vm);
}

static unsigned ms_until(int64_t deadline)
{
    return (unsigned)(MAX(deadline - monotonic_ns(), 0) / 1000000);
}

static bool room_until(struct outgoing *out, int64_t deadline)
{
    unsigned left = ms_until(deadline);

    return left && channel_wait_writable(out->ch, left);
}

/*
 * Suspension by the policy: with the guest stopped, memory is sent in slices as in a round, as long
 * as suspend_ms allow. True with *again: they did not, the guest runs as before. True without: all
 * memory is at the destination, and the switchover goes on. What remains then is what every
 * switchover has.
 *
 * A link that takes nothing at all any more cannot be left in the middle of a page: after some
 * further time that fails the migration.
 */
static bool send_suspended(struct outgoing *out, bool *again, GError **err)
{
    int64_t deadline = out->stats.stop_ns + (int64_t)out->suspend_ms * 1000000;
    uint64_t slice =
        (uint64_t)CLAMP(predict_bandwidth(&out->prediction) * SUSPEND_SLICE_S, 64 << 10, 16 << 20);
    bool done = false, ok = true, late = false;

    channel_set_write_timeout(out->ch, (unsigned)out->suspend_ms + SUSPEND_STALL_MS);
    ok = ram_save_sync(out->ram, err);
    /* only what finds room: a write that blocks has no end but failure */
    while (ok && !done && (late = !room_until(out, deadline)) == false) {
        done = ram_save_section(out->ram, out->o, slice, false);
        ok = out_flush(out->o, err) && outgoing_check(out, err);
    }
    if (ok && done && !(late = !room_until(out, deadline))) {
        ok = outgoing_drain(out, ms_until(deadline), &late, err);
    }
    channel_set_write_timeout(out->ch, migration_timeout(out->m, link_timeout));
    if (!ok && !late) {
        return false;
    }
    g_clear_error(err);
    if (late) {
        end_suspension(out);
        *again = true;
    } else {
        switchover_pause_part(out, PAUSE_MEMORY);
    }
    return true;
}

bool switchover_stop(struct outgoing *out, bool *again, GError **err)
{
    struct migration *m = out->m;
    GError *stuck = NULL;
    bool ok;

    vm_lock(out->vm);
    if (!outgoing_check(out, err)) {
        vm_unlock(out->vm);
        return false;
    }
    if (!stop_guest(out, &stuck)) {
        vm_unlock(out->vm);
        if (stuck) {
            g_propagate_prefixed_error(err, stuck, "The guest cannot be stopped: ");
            return false;
        }
        *again = outgoing_sleep(out, 10) || outgoing_check(out, err);
        return false;
    }
    if (out->suspend_ms) {
        outgoing_phase(out, MIGRATION_PHASE_SUSPENDED); /* who hears STOP finds it */
        vm_unlock(out->vm);
        ok = send_suspended(out, again, err);
        out->suspend_ms = 0;
        if (!ok || *again) {
            return false;
        }
        vm_lock(out->vm);
    }
    /* stopping dropped the lock: a cancel may have come */
    ok = outgoing_check(out, err) &&
         (!out->options.caps[MIGRATION_CAPABILITY_PAUSE_BEFORE_SWITCHOVER] ||
          pause_for_operator(out, err));
    if (ok) {
        migration_set_status(m, MIGRATION_STATUS_DEVICE);
    }
    vm_unlock(out->vm);
    if (!ok) {
        return false;
    }
    outgoing_phase(out, MIGRATION_PHASE_SWITCHOVER);
    migration_hold(m, MIGRATION_HOLD_POINT_DEVICE, &out->cancelled);
    return outgoing_check(out, err);
}

bool switchover_run(struct outgoing *out, bool *again, GError **err)
{
    struct migration *m = out->m;

    if (!switchover_stop(out, again, err)) {
        return *again;
    }
    /* a description is for who looks at a stream later; between Ferries nobody does, and making it
     * would be the longest part of the pause */
    bool describe = !out->m->cfg->suppress_vmdesc && !(out->features & FERRY_FEATURE_COMMIT);
    json_t *devices = describe ? json_array() : NULL;

    if (!send_state(out, devices, err)) {
        json_decref(devices);
        return false;
    }
    if (!hand_over(out, devices, err)) {
        return false;
    }
    mutex_lock(&m->lock);
    if (!out->rp) {
        out->stats.downtime_ns = monotonic_ns() - out->stats.stop_ns;
    }
    out->stats.bytes = out->o->bytes;
    mutex_unlock(&m->lock);
    return true;
}
