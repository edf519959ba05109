/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rounds of memory while the guest runs. Each sends what is dirty, in slices, waits until the
 * destination has read it, and collects what was dirtied meanwhile; then convergence, policy and
 * switchover.c say what comes next. Between two slices max-bandwidth is kept, and cancel, deadlines
 * and changed parameters are seen.
 */
#include "block/block.h"
#include "migration/rounds.h"

#include "accel/accel.h"
#include "migration/converge/apply.h"
#include "migration/internal.h"
#include "migration/migration.h"
#include "migration/postcopy/source.h"
#include "migration/ram/save.h"
#include "migration/return-path.h"
#include "migration/stream/format.h"
#include "migration/stream/out.h"
#include "qapi/qapi-events.h"
#include "system/throttle.h"
#include "system/vm.h"
#include "util/error.h"

/* A PART section carries at most this much, so that cancel and statistics do not wait for a whole
 * round. */
#define SLICE_BYTES (UINT64_C(16) << 20)
/* After a round this small the next one waits a moment. */
#define SMALL_ROUND_BYTES (UINT64_C(256) << 10)
#define SMALL_ROUND_MS    5

/* After so many, one each round, the round trip is known well enough. */
#define RTT_DRAINS 4u

/* vCPUs that come out of the guest so late are looked at again. */
#define LONG_STOP_NS 300000

/* With a bandwidth limit: slices of this length, and at most so long without a look at the limit.
 */
#define SLICE_MS     20
#define SLEEP_MAX_MS 100
#define KEEPALIVE_MS 5000 /* where stream-timeout is not shorter */

static void count_bytes(struct outgoing *out)
{
    mutex_lock(&out->m->lock);
    out->stats.bytes = out->o->bytes;
    out->stats.precopy_bytes = out->o->bytes;
    mutex_unlock(&out->m->lock);
}

/*
 * Sleeps until what has been sent is within the limit, which may change meanwhile. Less than a
 * millisecond is not slept but owed, from one slice and one round to the next, and a sleep that
 * took too long is made good: so the average keeps the limit, whatever the length of a slice. A
 * page at a time over a very slow link: the destination, which waits for stream-timeout at most,
 * hears from us between them.
 */
static bool keep_limit(struct outgoing *out, GError **err)
{
    int64_t heard = monotonic_ns();

    for (;;) {
        struct migration_options now;
        int64_t keepalive_ms = KEEPALIVE_MS, now_ns = monotonic_ns();
        double limit, left_ms;

        migration_options_get(out->m, &now);
        limit = (double)now.max_bandwidth;
        out->owed_ns = out->owed_ns ? out->owed_ns : now_ns;
        out->owed_bytes -= limit * (double)(now_ns - out->owed_ns) / 1e9;
        out->owed_bytes = MAX(out->owed_bytes, -limit * SLICE_MS / 1e3);
        out->owed_ns = now_ns;
        if (!now.max_bandwidth) {
            out->owed_bytes = 0;
            return true;
        }
        left_ms = out->owed_bytes * 1e3 / limit;
        if (left_ms < 1 || !outgoing_sleep(out, (unsigned)MIN(left_ms, SLEEP_MAX_MS))) {
            return true;
        }
        if (now.stream_timeout) {
            keepalive_ms = MIN(keepalive_ms, (int64_t)now.stream_timeout / 3);
        }
        if (out->rp && (monotonic_ns() - heard) / 1000000 >= keepalive_ms) {
            heard = monotonic_ns();
            outgoing_ping(out, STREAM_PING_START); /* none to one that has stopped answering */
            if (!out_flush(out->o, err) || !outgoing_check(out, err) || !policy_check(out, err)) {
                return false;
            }
        }
    }
}

/* The cache of xbzrle may change its size between two slices. */
static void follow_cache_size(struct outgoing *out, const struct migration_options *now)
{
    g_autoptr(GError) err = NULL;

    if (out->options.caps[MIGRATION_CAPABILITY_XBZRLE] &&
        !ram_save_use_xbzrle(out->ram, now->xbzrle_cache_size, &err)) {
        report_warning("%s; the cache stays as it was", err->message);
    }
}

/* A write that stalls fails when the policy's time is over, if not before. */
static void be_patient(struct outgoing *out)
{
    unsigned most = migration_timeout(out->m, link_timeout);

    channel_set_write_timeout(out->ch, policy_patience_ms(out, most));
}

/*
 * Sends what the round has, in slices. With a limit each slice waits until its share is free; the
 * limit is looked up again for each slice, so that a change takes effect at once.
 */
static bool send_round(struct outgoing *out, GError **err)
{
    bool done = false;

    while (!done && !postcopy_wanted(out)) {
        struct migration_options now;
        uint64_t slice = SLICE_BYTES, before = out->o->bytes;

        if (!keep_limit(out, err)) {
            return false;
        }
        migration_options_get(out->m, &now);
        if (now.max_bandwidth) {
            slice = CLAMP(now.max_bandwidth / 1000 * SLICE_MS, TARGET_PAGE_SIZE, SLICE_BYTES);
        }
        out->burst_ns = monotonic_ns();
        follow_cache_size(out, &now);
        be_patient(out);
        done = ram_save_section(out->ram, out->o, slice, false);
        be_patient(out); /* most of the slice has left, and that may have taken its time */
        if (!out_flush(out->o, err)) {
            return policy_blame(out, err);
        }
        count_bytes(out);
        out->burst_bytes = out->o->bytes - before;
        out->owed_bytes += (double)out->burst_bytes;
        if (!outgoing_check(out, err) || !policy_check(out, err)) {
            return false;
        }
        converge_tick(out);
    }
    return true;
}

/* How long all vCPUs take to come out of the guest. One long time may be an accident (a kick that
 * was missed, a thread that lost its CPU): then it is the middle one of three. */
static bool try_stop(struct outgoing *out, int64_t *ns, GError **err)
{
    bool (*flush)(struct vm * vm, GError * *err) = out->vm->accel->ops->flush;
    int64_t took[3] = { 0 };

    for (unsigned i = 0; flush && i < G_N_ELEMENTS(took); i++) {
        int64_t begun = monotonic_ns();

        if (!flush(out->vm, err)) {
            return false;
        }
        took[i] = monotonic_ns() - begun;
        if (!i && took[i] < LONG_STOP_NS) {
            *ns = took[i];
            return true;
        }
    }
    *ns = MAX(MIN(took[0], took[1]), MIN(MAX(took[0], took[1]), took[2]));
    return true;
}

/*
 * Collects what was dirtied in the round and fills in the rest of its line; `round` has its number,
 * beginning and bytes, and ended at ended_ns. What the link carried is not known exactly where
 * nobody confirms it.
 */
static bool sync_round(struct outgoing *out, struct migration_round *round, int64_t ended_ns,
                       GError **err)
{
    int64_t round_ns = MAX(ended_ns - out->stats.start_ns - round->began_ns, 1000);
    double carried = (double)round->bytes * 1e9 / (double)round_ns;
    struct ram_save_stats rs;
    int64_t burst_ns = ended_ns - out->burst_ns, stop_ns, sync_ns;

    if (!try_stop(out, &stop_ns, err)) {
        return false;
    }
    sync_ns = monotonic_ns();
    if (!ram_save_sync(out->ram, err)) {
        return false;
    }
    sync_ns = monotonic_ns() - sync_ns;
    ram_save_get_stats(out->ram, &rs);

    mutex_lock(&out->m->lock);
    out->stats.bytes_per_s = carried;
    out->stats.pages_per_s = (uint64_t)(carried / TARGET_PAGE_SIZE);
    out->prediction.dirty_pages_per_s = (double)rs.dirtied_last * 1e9 / (double)round_ns;
    out->stats.dirty_pages_per_s = (uint64_t)out->prediction.dirty_pages_per_s;
    predict_link(&out->prediction, round->bytes, round_ns, out->rp, true);
    predict_link(&out->prediction, out->burst_bytes, burst_ns, out->rp, false);
    predict_stop(&out->prediction, stop_ns);
    predict_sync(&out->prediction, sync_ns);
    out->prediction.rtt_us = (double)out->stats.rtt_ns / 1e3;
    out->prediction.page_bytes = rs.page_bytes;
    mutex_unlock(&out->m->lock);
    round->duration_ns = monotonic_ns() - out->stats.start_ns - round->began_ns;
    round->dirtied_pages = rs.dirtied_last;
    round->remaining_pages = rs.remaining_pages;
    round->bytes_per_s = carried;
    if (out->options.caps[MIGRATION_CAPABILITY_EVENTS]) {
        vm_lock(out->vm);
        qapi_event_send_migration_pass(out->vm, (int64_t)rs.sync_count);
        vm_unlock(out->vm);
    }
    return true;
}

/*
 * Ends a round: waits until the destination has read all of it, so that the time of a round is the
 * link's and not that of filling buffers. Whoever answers nothing (no return path) is taken to have
 * read what was written.
 */
bool outgoing_drain(struct outgoing *out, unsigned timeout_ms, bool *late, GError **err)
{
    uint32_t value = STREAM_PING_ROUND + ++out->drains;
    int64_t asked;

    *late = false;
    if (!out->rp) {
        return true;
    }
    if (!outgoing_ping(out, value)) {
        error_set(
            err, FERRY_ERROR_PEER,
            "The destination at %s reads, but answers no pings any more: look whether it hangs",
            channel_name(out->ch));
        return false;
    }
    if (!out_flush(out->o, err)) {
        return false;
    }
    asked = monotonic_ns();
    if (!return_path_wait_pong(out->rp, value, timeout_ms, err)) {
        *late = return_path_check(out->rp, NULL);
        return false;
    }
    mutex_lock(&out->m->lock);
    out->stats.rtt_ns = MIN(out->stats.rtt_ns, monotonic_ns() - asked);
    mutex_unlock(&out->m->lock);
    return true;
}

static bool guest_runs(struct outgoing *out)
{
    vm_lock(out->vm);
    bool runs = vm_is_running(out->vm);
    vm_unlock(out->vm);
    return runs;
}

bool rounds_run(struct outgoing *out, GError **err)
{
    struct switchover_judge judge = { .remaining_before = UINT64_MAX };
    int64_t round_ended;
    bool late;

    for (;;) {
        struct migration_round round = { .began_ns = monotonic_ns() - out->stats.start_ns };
        uint64_t before = out->o->bytes;

        outgoing_phase(out, MIGRATION_PHASE_MEMORY);
        bool sent = send_round(out, err);

        page_hints_end(out); /* they are of use in the first round */
        if (!sent) {
            return false;
        }
        /* the policy's time bounds a round: what follows has the link's */
        channel_set_write_timeout(out->ch, migration_timeout(out->m, link_timeout));
        if (postcopy_wanted(out) || !guest_runs(out)) {
            return true; /* nothing can be dirtied that the last sync would not find */
        }
        outgoing_phase(out, MIGRATION_PHASE_DRAIN);
        if (!outgoing_drain(out, policy_patience_ms(out, migration_timeout(out->m, link_timeout)),
                            &late, err)) {
            return policy_blame(out, err);
        }
        round_ended = monotonic_ns();
        /* that took as long as what was still on its way; a bare round trip is another question */
        if (out->drains <= RTT_DRAINS &&
            !outgoing_drain(out, migration_timeout(out->m, link_timeout), &late, err)) {
            return false;
        }
        round.number = ++out->rounds;
        round.bytes = out->o->bytes - before;
        if (!sync_round(out, &round, round_ended, err)) {
            return false;
        }
        round.throttle = vcpu_throttle_get(out->vm);
        vm_lock(out->vm);
        block_flush_ahead(out->vm);
        vm_unlock(out->vm);
        round.expected_downtime_us = switchover_expect(out, round.remaining_pages);
        mutex_lock(&out->m->lock);
        history_add(&out->history, &round);
        mutex_unlock(&out->m->lock);
        converge_round(out, &round);
        if (!policy_after_round(out, &round, err)) {
            return false;
        }
        if (out->suspend_ms || out->switch_now || switchover_due(out, &judge, &round)) {
            return true;
        }
        /* rounds of next to nothing only find what was dirtied while they were prepared */
        if (round.bytes < SMALL_ROUND_BYTES && !outgoing_sleep(out, SMALL_ROUND_MS)) {
            return outgoing_check(out, err);
        }
    }
}
