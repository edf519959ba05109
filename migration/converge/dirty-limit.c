/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits of vCPUs: the operator's (set-vcpu-dirty-limit) and a migration's (capability
 * dirty-limit). While a migration limits, its limit is in force; at its end the operator's are
 * again.
 *
 * The vCPU's own thread keeps the limit (system/throttle.c); here is only who wants which, and what
 * is told about it.
 */
#include "migration/converge/dirty-limit.h"

#include "accel/accel.h"
#include "accel/kvm.h"
#include "migration/internal.h"
#include "qapi/qapi-commands.h"
#include "system/throttle.h"
#include "system/vm.h"
#include "util/error.h"

/* Rounds in a row that left more than throttle-trigger-threshold. */
#define ROUNDS 2
/* How often query-vcpu-dirty-limit has a new rate. */
#define MEASURE_MS 1000

struct limited_vcpu {
    _Atomic uint64_t mib_per_s; /* the operator's; 0: none */
    uint64_t dirtied, rate;     /* machine; pages by the last look, MiB/s between the last two */
};

struct dirty_limits {
    struct vm *vm;
    struct limited_vcpu *vcpus;
    bool in_use;    /* machine; the ring counts for us */
    guint timer;    /* machine */
    int64_t looked; /* machine; ns */
};

struct dirty_limits *dirty_limits_new(struct vm *vm)
{
    struct dirty_limits *l = g_new0(struct dirty_limits, 1);

    l->vm = vm;
    return l;
}

static uint64_t pages_of(uint64_t mib)
{
    return MIN(mib, UINT64_MAX >> (20 - TARGET_PAGE_BITS)) << (20 - TARGET_PAGE_BITS);
}

/* ---- the operator's ---- */

static void measure(struct dirty_limits *l)
{
    int64_t now = monotonic_ns();
    double seconds = (double)(now - l->looked) / 1e9;

    for (unsigned i = 0; i < l->vm->vcpu_count; i++) {
        struct limited_vcpu *v = &l->vcpus[i];
        uint64_t dirtied = kvm_vcpu_dirtied(l->vm->vcpus[i]);

        v->rate = l->looked && seconds > 0 ? (uint64_t)((double)(dirtied - v->dirtied) / seconds) >>
                                                 (20 - TARGET_PAGE_BITS)
                                           : 0;
        v->dirtied = dirtied;
    }
    l->looked = now;
}

static gboolean on_timer(gpointer opaque)
{
    measure(opaque);
    return G_SOURCE_CONTINUE;
}

static bool any_limit(const struct dirty_limits *l)
{
    for (unsigned i = 0; l->vcpus && i < l->vm->vcpu_count; i++) {
        if (atomic_load(&l->vcpus[i].mib_per_s)) {
            return true;
        }
    }
    return false;
}

/* Counting goes with the first limit and ends with the last. */
static bool follow(struct dirty_limits *l, GError **err)
{
    bool want = any_limit(l);

    if (want && !l->in_use) {
        if (!kvm_dirty_use(l->vm, KVM_DIRTY_LIMIT, err)) {
            return false;
        }
        l->looked = 0;
        measure(l);
        l->timer = g_timeout_add(MEASURE_MS, on_timer, l);
    } else if (!want && l->in_use) {
        g_source_remove(l->timer);
        kvm_dirty_unuse(l->vm, KVM_DIRTY_LIMIT);
    }
    l->in_use = want;
    return true;
}

void dirty_limits_free(struct dirty_limits *l)
{
    if (l) {
        for (unsigned i = 0; l->vcpus && i < l->vm->vcpu_count; i++) {
            atomic_store(&l->vcpus[i].mib_per_s, 0);
        }
        follow(l, NULL);
        g_free(l->vcpus);
        g_free(l);
    }
}

static bool has_ring(const struct vm *vm)
{
    return kvm_enabled(vm) && vm->accel->dirty_ring_size;
}

static bool migration_limits(const struct vm *vm)
{
    return migration_is_active(vm->migration) && vm->migration->out &&
           vm->migration->out->options.caps[MIGRATION_CAPABILITY_DIRTY_LIMIT];
}

static bool check_index(const struct vm *vm, bool has, int64_t index, GError **err)
{
    if (has && (index < 0 || index >= vm->vcpu_count)) {
        error_set(err, FERRY_ERROR_USER, "incorrect cpu index specified");
        return false;
    }
    return true;
}

static bool set(struct vm *vm, bool has_index, int64_t index, uint64_t mib_per_s, GError **err)
{
    struct dirty_limits *l = vm->migration->dirty_limits;
    unsigned first = has_index ? (unsigned)index : 0;
    unsigned end = has_index ? first + 1 : vm->vcpu_count;

    if (!l->vcpus) {
        l->vcpus = g_new0(struct limited_vcpu, vm->vcpu_count);
    }
    for (unsigned i = first; i < end; i++) {
        atomic_store(&l->vcpus[i].mib_per_s, mib_per_s);
    }
    if (!follow(l, err)) {
        for (unsigned i = first; i < end; i++) {
            atomic_store(&l->vcpus[i].mib_per_s, 0);
        }
        return false;
    }
    for (unsigned i = first; i < end; i++) {
        vcpu_limit_set(vm, i, pages_of(mib_per_s));
    }
    return true;
}

bool qmp_set_vcpu_dirty_limit(struct vm *vm, const struct qmp_set_vcpu_dirty_limit_arg *arg,
                              GError **err)
{
    if (!has_ring(vm)) {
        error_set(err, FERRY_ERROR_USER,
                  "dirty page limit feature requires KVM with accelerator property "
                  "'dirty-ring-size' set'");
        return false;
    }
    if (!check_index(vm, arg->has_cpu_index, arg->cpu_index, err)) {
        return false;
    }
    if (migration_limits(vm)) {
        error_set(err, FERRY_ERROR_USER,
                  "can't set dirty page rate limit while migration is running");
        return false;
    }
    return set(vm, arg->has_cpu_index, arg->cpu_index, arg->dirty_rate, err);
}

bool qmp_cancel_vcpu_dirty_limit(struct vm *vm, const struct qmp_cancel_vcpu_dirty_limit_arg *arg,
                                 GError **err)
{
    if (!has_ring(vm)) {
        return true;
    }
    if (!check_index(vm, arg->has_cpu_index, arg->cpu_index, err)) {
        return false;
    }
    if (migration_limits(vm)) {
        error_set(err, FERRY_ERROR_USER,
                  "can't cancel dirty page rate limit while migration is running");
        return false;
    }
    return set(vm, arg->has_cpu_index, arg->cpu_index, 0, err);
}

GPtrArray *qmp_query_vcpu_dirty_limit(struct vm *vm, GError **err)
{
    const struct dirty_limits *l = vm->migration->dirty_limits;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)qapi_dirty_limit_info_free);

    (void)err;
    for (unsigned i = 0; l->vcpus && i < vm->vcpu_count; i++) {
        uint64_t limit = atomic_load(&l->vcpus[i].mib_per_s);

        if (limit) {
            DirtyLimitInfo *info = g_new0(DirtyLimitInfo, 1);

            info->cpu_index = i;
            info->limit_rate = limit;
            info->current_rate = l->vcpus[i].rate;
            g_ptr_array_add(list, info);
        }
    }
    return list;
}

/* ---- a migration's ---- */

void dirty_limit_begin(struct outgoing *out)
{
    struct converge *c = &out->converge;

    c->slept_ns = g_new0(uint64_t, out->vm->vcpu_count);
    c->dirtied = g_new0(uint64_t, out->vm->vcpu_count);
    for (unsigned i = 0; i < out->vm->vcpu_count; i++) {
        c->slept_ns[i] = vcpu_limit_slept_ns(out->vm, i);
        c->dirtied[i] = kvm_vcpu_dirtied(out->vm->vcpus[i]);
    }
}

/* The two figures of query-migrate. */
static void account(struct outgoing *out, const struct migration_round *round)
{
    struct converge *c = &out->converge;
    struct vm *vm = out->vm;
    uint64_t slept = 0, dirtied = 0, full_us = 0;

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        uint64_t s = vcpu_limit_slept_ns(vm, i), d = kvm_vcpu_dirtied(vm->vcpus[i]);

        slept = MAX(slept, s - c->slept_ns[i]);
        dirtied += d - c->dirtied[i];
        c->slept_ns[i] = s;
        c->dirtied[i] = d;
    }
    if (dirtied) {
        full_us = (uint64_t)((double)vm->accel->dirty_ring_size * vm->vcpu_count *
                             (double)round->duration_ns / 1e3 / (double)dirtied);
    }
    mutex_lock(&out->m->lock);
    c->limit_slept_us = slept / 1000;
    c->ring_full_us = full_us;
    mutex_unlock(&out->m->lock);
}

void dirty_limit_round(struct outgoing *out, const struct migration_round *round)
{
    struct converge *c = &out->converge;
    struct migration_options now;

    account(out, round);
    migration_options_get(out->m, &now);
    if (!c->limiting) {
        uint64_t sent = round->bytes / TARGET_PAGE_SIZE;
        bool high = round->dirtied_pages * 100 > sent * now.throttle_trigger_threshold;

        c->high_rounds = high ? c->high_rounds + 1 : 0;
        if (c->high_rounds < ROUNDS) {
            return;
        }
        c->limiting = true;
        history_decide(out, MIGRATION_ACTION_THROTTLE, -1,
                       "The guest writes faster than the link carries; no vCPU may dirty more than "
                       "vcpu-dirty-limit allows");
    }
    for (unsigned i = 0; i < out->vm->vcpu_count; i++) {
        vcpu_limit_set(out->vm, i, pages_of(now.vcpu_dirty_limit));
    }
}

void dirty_limit_end(struct outgoing *out)
{
    struct converge *c = &out->converge;

    if (c->limiting) {
        const struct dirty_limits *l = out->m->dirty_limits;

        c->limiting = false;
        for (unsigned i = 0; i < out->vm->vcpu_count; i++) {
            vcpu_limit_set(out->vm, i,
                           l->vcpus ? pages_of(atomic_load(&l->vcpus[i].mib_per_s)) : 0);
        }
    }
    g_clear_pointer(&c->slept_ns, g_free);
    g_clear_pointer(&c->dirtied, g_free);
}
