/* SPDX-License-Identifier: GPL-2.0-or-later */
/* query-migrate: what a running or ended migration has to say, in QEMU's fields. Machine lock held.
 */
#include "migration/internal.h"
#include "migration/postcopy/arrival.h"
#include "migration/postcopy/destination.h"
#include "system/throttle.h"
#include "system/vm.h"

static void add_ram(MigrationInfo *info, const struct outgoing_stats *s,
                    const struct ram_save_stats *r)
{
    MigrationStats *ram = g_new0(MigrationStats, 1);
    int64_t end = s->end_ns ? s->end_ns : monotonic_ns();
    int64_t active = s->active_ns ? MAX(end - s->active_ns, 1) : 1;

    ram->transferred = (int64_t)s->bytes;
    ram->remaining = (int64_t)(r->remaining_pages * TARGET_PAGE_SIZE);
    ram->total = (int64_t)r->total_bytes;
    ram->duplicate = (int64_t)r->zero_pages;
    ram->normal = (int64_t)r->normal_pages;
    ram->normal_bytes = (int64_t)(r->normal_pages * TARGET_PAGE_SIZE);
    ram->dirty_pages_rate = (int64_t)s->dirty_pages_per_s;
    ram->mbps = s->bytes_per_s ? s->bytes_per_s * 8 / 1e6 : (double)s->bytes * 8e3 / (double)active;
    ram->dirty_sync_count = (int64_t)r->sync_count;
    ram->page_size = (int64_t)TARGET_PAGE_SIZE;
    ram->pages_per_second = s->pages_per_s;
    ram->precopy_bytes = s->precopy_bytes;
    ram->downtime_bytes = s->downtime_bytes;
    info->ram = ram;
}

/* Pages that left after the guest; until then d is zero. */
static void add_postcopy(MigrationStats *ram, const struct departure_stats *d, uint64_t bytes,
                         bool left)
{
    ram->postcopy_bytes = bytes;
    ram->postcopy_requests = (int64_t)d->requests;
    if (left) {
        ram->remaining = (int64_t)(d->remaining_pages * TARGET_PAGE_SIZE);
    }
}

static void add_xbzrle(MigrationInfo *info, const struct xbzrle_stats *x)
{
    XBZRLECacheStats *stats = g_new0(XBZRLECacheStats, 1);

    stats->cache_size = x->cache_bytes;
    stats->bytes = (int64_t)x->bytes;
    stats->pages = (int64_t)x->pages;
    stats->cache_miss = (int64_t)x->misses;
    stats->cache_miss_rate = x->miss_rate;
    stats->encoding_rate = x->encoding_rate;
    stats->overflow = (int64_t)x->overflows;
    info->xbzrle_cache = stats;
}

/* When it will be over: the rest of the first round, at what has been carried so far, or what is
 * left after the last one. m held. */
static void add_expected_total_time(MigrationInfo *info, const struct outgoing *out,
                                    const struct outgoing_stats *s, const struct ram_save_stats *r)
{
    int64_t now = monotonic_ns();
    double rate = s->bytes_per_s;
    uint64_t enough;
    int64_t rest;

    if (!rate) {
        rate = (double)s->bytes * 1e9 / (double)MAX(now - s->active_ns, 1);
    }
    enough = (uint64_t)(predict_bandwidth(&out->prediction) *
                        MIN((double)out->m->options.downtime_limit / 1e3, GOOD_ENOUGH_MS / 1e3) /
                        TARGET_PAGE_SIZE);
    rest = s->stop_ns ? 0 : predict_rest_ms(&out->prediction, r->remaining_pages, rate, enough);
    if (rest >= 0) {
        info->has_expected_total_time = true;
        info->expected_total_time =
            (now - s->start_ns) / 1000000 + rest + s->expected_downtime_us / 1000;
    }
}

static void add_outgoing(MigrationInfo *info, struct outgoing *out, MigrationStatus status)
{
    struct outgoing_stats s;
    struct departure_stats d;
    struct ram_save_stats r;
    uint64_t postcopy_bytes;
    bool left;

    mutex_lock(&out->m->lock);
    s = out->stats;
    r = out->final_ram;
    d = out->final_departure;
    postcopy_bytes = out->postcopy.bytes;
    left = out->postcopy.left;
    if (out->ram) {
        ram_save_get_stats(out->ram, &r);
    }
    if (out->postcopy.departure) {
        departure_get_stats(out->postcopy.departure, &d);
    }
    info->has_policy = true;
    info->policy = out->policy.policy.name;
    info->rounds = history_rounds(&out->history);
    info->decisions = history_decisions(&out->history);
    info->has_phase = migration_is_active(out->m);
    info->phase = out->phase;
    if (info->has_phase && s.active_ns) {
        int64_t deadline = policy_deadline_ns(&out->policy.policy, r.total_bytes);

        info->has_deadline = deadline;
        info->deadline = MAX(s.start_ns + deadline - monotonic_ns(), 0) / 1000000;
        add_expected_total_time(info, out, &s, &r);
    }
    if (info->has_phase && out->options.caps[MIGRATION_CAPABILITY_DIRTY_LIMIT]) {
        info->has_dirty_limit_throttle_time_per_round = true;
        info->dirty_limit_throttle_time_per_round = out->converge.limit_slept_us;
        info->has_dirty_limit_ring_full_time = true;
        info->dirty_limit_ring_full_time = out->converge.ring_full_us;
    }
    mutex_unlock(&out->m->lock);
    info->cpu_throttle_percentage = vcpu_throttle_get(out->vm);
    info->has_cpu_throttle_percentage = info->cpu_throttle_percentage > 0;

    info->error_desc = g_strdup(out->error);
    if (status == MIGRATION_STATUS_SETUP || status == MIGRATION_STATUS_CANCELLED || !s.active_ns) {
        return;
    }
    info->has_setup_time = true;
    info->setup_time = (s.active_ns - s.start_ns) / 1000000;
    info->has_total_time = true;
    info->total_time = ((s.end_ns ? s.end_ns : monotonic_ns()) - s.start_ns) / 1000000;
    if (status == MIGRATION_STATUS_COMPLETED) {
        info->has_downtime = true;
        info->downtime = (s.downtime_ns + 999999) / 1000000;
        if (s.stop_ns) {
            MigrationPause *p = g_new0(MigrationPause, 1);

            p->whole = s.downtime_ns / 1000;
            p->stop = s.pause_ns[PAUSE_STOP] / 1000;
            p->sync = s.pause_ns[PAUSE_SYNC] / 1000;
            p->memory = s.pause_ns[PAUSE_MEMORY] / 1000;
            p->devices = s.pause_ns[PAUSE_DEVICES] / 1000;
            p->load = s.pause_ns[PAUSE_LOAD] / 1000;
            p->disks = s.pause_ns[PAUSE_DISKS] / 1000;
            p->has_disk_lock_gap = s.lock_gap_ns > 0;
            p->disk_lock_gap = s.lock_gap_ns / 1000;
            p->confirm = s.pause_ns[PAUSE_CONFIRM] / 1000;
            info->pause = p;
        }
    } else {
        info->has_expected_downtime = true;
        info->expected_downtime = (s.expected_downtime_us + 999) / 1000;
    }
    if (status != MIGRATION_STATUS_FAILED) {
        add_ram(info, &s, &r);
        add_postcopy(info->ram, &d, postcopy_bytes, left);
        if (out->options.caps[MIGRATION_CAPABILITY_XBZRLE]) {
            add_xbzrle(info, &r.xbzrle);
        }
    }
}

static void add_addresses(MigrationInfo *info, struct incoming *in)
{
    const struct transport_address *const *list;
    unsigned n = in->listener ? transport_listener_addresses(in->listener, &list) : 0;

    for (unsigned i = 0; i < n; i++) {
        SocketAddress *a = g_new0(SocketAddress, 1);

        if (!info->socket_address) {
            info->socket_address =
                g_ptr_array_new_with_free_func((GDestroyNotify)qapi_socket_address_free);
        }
        if (list[i]->type == TRANSPORT_TCP) {
            a->type = SOCKET_ADDRESS_TYPE_INET;
            a->u.inet.host = g_strdup(list[i]->host);
            a->u.inet.port = g_strdup(list[i]->port);
        } else {
            a->type = SOCKET_ADDRESS_TYPE_UNIX;
            a->u.q_unix.path = g_strdup(list[i]->path);
        }
        g_ptr_array_add(info->socket_address, a);
    }
}

static GArray *list_of_ms(const uint64_t *us, unsigned n)
{
    GArray *list = g_array_new(false, false, sizeof(uint32_t));

    for (unsigned i = 0; i < n; i++) {
        uint32_t ms = (uint32_t)(us[i] / 1000);

        g_array_append_val(list, ms);
    }
    return list;
}

static void add_arrival(MigrationInfo *info, struct incoming *in)
{
    const struct arrival *a = postcopy_arrival(in);
    struct arrival_blocktime t = { 0 };
    PostcopyFaults *faults;

    if (!a) {
        return;
    }
    arrival_get_blocktime(a, &t);
    faults = g_new0(PostcopyFaults, 1);
    faults->missing_pages = arrival_missing_pages(a);
    faults->faults = t.faults;
    faults->local = t.local;
    faults->requests = t.requests;
    faults->queue_max = (int64_t)t.queue_max;
    info->postcopy_faults = faults;
    if (in->options.caps[MIGRATION_CAPABILITY_POSTCOPY_BLOCKTIME]) {
        info->has_postcopy_blocktime = true;
        info->postcopy_blocktime = (uint32_t)(t.all_blocked_us / 1000);
        info->postcopy_vcpu_blocktime = list_of_ms(t.vcpu_us, t.vcpus);
        info->has_postcopy_latency = true;
        info->postcopy_latency = (uint64_t)(t.mean_us * 1e3);
        info->has_postcopy_latency_p50 = info->has_postcopy_latency_p99 = true;
        info->postcopy_latency_p50 = t.p50_us;
        info->postcopy_latency_p99 = t.p99_us;
        info->postcopy_latency_dist = g_array_new(false, false, sizeof(uint64_t));
        g_array_append_vals(info->postcopy_latency_dist, t.buckets, ARRIVAL_LATENCY_BUCKETS);
    }
    g_free(t.vcpu_us);
}

MigrationInfo *migration_info(struct migration *m)
{
    MigrationInfo *info = g_new0(MigrationInfo, 1);

    if (m->status != MIGRATION_STATUS_NONE) {
        /* a destination that only listens has an address and no status yet, as with QEMU */
        info->has_status = m->out || m->status != MIGRATION_STATUS_SETUP;
        info->status = m->status;
    }
    if (m->out) {
        add_outgoing(info, m->out, m->status);
    } else if (m->in) {
        info->error_desc = g_strdup(m->in->error);
        info->has_phase = migration_is_active(m);
        mutex_lock(&m->lock);
        info->phase = m->in->phase;
        mutex_unlock(&m->lock);
        if (m->status == MIGRATION_STATUS_SETUP || m->status == MIGRATION_STATUS_ACTIVE ||
            m->status == MIGRATION_STATUS_POSTCOPY_PAUSED) {
            add_addresses(info, m->in);
        }
        add_arrival(info, m->in);
    }
    if (m->blockers->len) {
        info->blocked_reasons = migration_blocker_reasons(m);
    }
    return info;
}
