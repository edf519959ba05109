/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * calc-dirty-rate and query-dirty-rate. A measurement is a thread that looks, sleeps and looks
 * again, without the machine lock; its result is put down with it. One at a time.
 *
 * Counting with KVM's log or ring takes nothing from a migration (accel/kvm/dirty.c), so that both
 * may be under way. Where a migration begins in between, the count goes on.
 */
#include "migration/converge/dirty-rate.h"

#include "accel/accel.h"
#include "accel/kvm.h"
#include "migration/converge/sample.h"
#include "migration/internal.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

#define CALC_MS_MIN    50
#define CALC_MS_MAX    60000
#define SAMPLE_DEFAULT 512
#define SAMPLE_MIN     128
#define SAMPLE_MAX     16384

#define PAGES_PER_MIB (double)(1 << (20 - TARGET_PAGE_BITS))

struct dirty_rate {
    struct vm *vm;
    GThread *thread;
    struct mutex lock; /* for quit; a leaf */
    struct cond wake;
    bool quit;

    /* constant while it is measured; machine lock */
    DirtyRateStatus status;
    DirtyRateMeasureMode mode;
    int64_t start_time; /* s since 1970 */
    int64_t calc_ms;
    uint64_t sample_pages;
    double rate;       /* MiB/s */
    double *vcpu_rate; /* NULL: not in this mode */
};

struct dirty_rate *dirty_rate_new(struct vm *vm)
{
    struct dirty_rate *r = g_new0(struct dirty_rate, 1);

    r->vm = vm;
    mutex_init(&r->lock);
    cond_init(&r->wake);
    return r;
}

/* The thread has its return left at the most, unless it was told to quit. */
static void join(struct dirty_rate *r)
{
    if (r->thread) {
        vm_unlock(r->vm);
        g_thread_join(r->thread);
        vm_lock(r->vm);
        r->thread = NULL;
    }
}

void dirty_rate_free(struct dirty_rate *r)
{
    if (!r) {
        return;
    }
    mutex_lock(&r->lock);
    r->quit = true;
    cond_signal(&r->wake);
    mutex_unlock(&r->lock);
    join(r);
    mutex_clear(&r->lock);
    cond_clear(&r->wake);
    g_free(r->vcpu_rate);
    g_free(r);
}

/* Until the time is over; how long that was, in seconds. */
static double wait(struct dirty_rate *r, int64_t begun_ns)
{
    int64_t until = begun_ns / 1000 + r->calc_ms * 1000;

    mutex_lock(&r->lock);
    while (!r->quit && cond_wait_until(&r->wake, &r->lock, until)) {
    }
    mutex_unlock(&r->lock);
    return MAX((double)(monotonic_ns() - begun_ns) / 1e9, 1e-3);
}

static double by_sampling(struct dirty_rate *r)
{
    int64_t begun = monotonic_ns();
    struct sample *s = sample_take(r->vm->memory, r->sample_pages);
    double seconds = wait(r, begun);
    double rate = (double)sample_changed(s) / PAGES_PER_MIB / seconds;

    sample_free(s);
    return rate;
}

static bool by_log(struct dirty_rate *r, double *rate)
{
    uint64_t before, after;
    int64_t begun;
    double seconds;
    bool ok;

    *rate = 0;
    if (!kvm_enabled(r->vm)) {
        wait(r, monotonic_ns()); /* nothing runs */
        return true;
    }
    if (!kvm_dirty_use(r->vm, KVM_DIRTY_RATE, NULL)) {
        return false;
    }
    begun = monotonic_ns();
    ok = r->vm->accel->ops->dirty_count(r->vm, &before);
    seconds = wait(r, begun);
    ok = ok && r->vm->accel->ops->dirty_count(r->vm, &after);
    kvm_dirty_unuse(r->vm, KVM_DIRTY_RATE);
    if (ok) {
        *rate = (double)(after - before) / PAGES_PER_MIB / seconds;
    }
    return ok;
}

static bool by_ring(struct dirty_rate *r, double *rate, double *vcpu_rate)
{
    unsigned n = r->vm->vcpu_count;
    g_autofree uint64_t *before = g_new(uint64_t, n);
    int64_t begun;
    double seconds;

    *rate = 0;
    if (!kvm_dirty_use(r->vm, KVM_DIRTY_RATE, NULL)) {
        return false;
    }
    begun = monotonic_ns();
    for (unsigned i = 0; i < n; i++) {
        before[i] = kvm_vcpu_dirtied(r->vm->vcpus[i]);
    }
    seconds = wait(r, begun);
    for (unsigned i = 0; i < n; i++) {
        uint64_t pages = kvm_vcpu_dirtied(r->vm->vcpus[i]) - before[i];

        vcpu_rate[i] = (double)pages / PAGES_PER_MIB / seconds;
        *rate += vcpu_rate[i];
    }
    kvm_dirty_unuse(r->vm, KVM_DIRTY_RATE);
    return true;
}

static gpointer measure(gpointer opaque)
{
    struct dirty_rate *r = opaque;
    double *vcpu_rate =
        r->mode == DIRTY_RATE_MEASURE_MODE_DIRTY_RING ? g_new0(double, r->vm->vcpu_count) : NULL;
    double rate = 0;
    bool ok = true;

    switch (r->mode) {
    case DIRTY_RATE_MEASURE_MODE_DIRTY_RING:
        ok = by_ring(r, &rate, vcpu_rate);
        break;
    case DIRTY_RATE_MEASURE_MODE_DIRTY_BITMAP:
        ok = by_log(r, &rate);
        break;
    default:
        rate = by_sampling(r);
    }
    vm_lock(r->vm);
    r->rate = rate;
    g_free(r->vcpu_rate);
    r->vcpu_rate = vcpu_rate;
    r->status = ok ? DIRTY_RATE_STATUS_MEASURED : DIRTY_RATE_STATUS_UNSTARTED;
    if (r->mode != DIRTY_RATE_MEASURE_MODE_PAGE_SAMPLING) {
        r->sample_pages = 0;
    }
    vm_unlock(r->vm);
    if (!ok) {
        report_warning("The dirty rate could not be measured: KVM does not track dirty pages");
    }
    return NULL;
}

static bool mode_available(const struct vm *vm, DirtyRateMeasureMode mode)
{
    bool ring = kvm_enabled(vm) && vm->accel->dirty_ring_size;

    return mode == DIRTY_RATE_MEASURE_MODE_PAGE_SAMPLING ||
           ring == (mode == DIRTY_RATE_MEASURE_MODE_DIRTY_RING);
}

bool qmp_calc_dirty_rate(struct vm *vm, const struct qmp_calc_dirty_rate_arg *arg, GError **err)
{
    struct dirty_rate *r = vm->migration->dirty_rate;
    DirtyRateMeasureMode mode = arg->has_mode ? arg->mode : DIRTY_RATE_MEASURE_MODE_PAGE_SAMPLING;
    bool in_ms = arg->has_calc_time_unit && arg->calc_time_unit == TIME_UNIT_MILLISECOND;
    int64_t unit = in_ms ? 1 : 1000;

    if (r->status == DIRTY_RATE_STATUS_MEASURING) {
        error_set(err, FERRY_ERROR_USER, "the dirty rate is already being measured.");
        return false;
    }
    if (arg->calc_time < CALC_MS_MIN / unit || arg->calc_time > CALC_MS_MAX / unit ||
        arg->calc_time == 0) {
        error_set(err, FERRY_ERROR_USER, "Calculation time is out of range [%dms, %dms].",
                  CALC_MS_MIN, CALC_MS_MAX);
        return false;
    }
    if (arg->has_sample_pages && mode != DIRTY_RATE_MEASURE_MODE_PAGE_SAMPLING) {
        error_set(err, FERRY_ERROR_USER, "sample-pages is used only in page-sampling mode");
        return false;
    }
    if (arg->has_sample_pages &&
        (arg->sample_pages < SAMPLE_MIN || arg->sample_pages > SAMPLE_MAX)) {
        error_set(err, FERRY_ERROR_USER, "sample-pages is out of range[%d, %d].", SAMPLE_MIN,
                  SAMPLE_MAX);
        return false;
    }
    if (!mode_available(vm, mode)) {
        error_set(err, FERRY_ERROR_USER, "mode %s is not enabled, use other method instead.",
                  qapi_dirty_rate_measure_mode_str(mode));
        return false;
    }
    join(r);
    r->mode = mode;
    r->calc_ms = arg->calc_time * unit;
    r->sample_pages = arg->has_sample_pages ? (uint64_t)arg->sample_pages : SAMPLE_DEFAULT;
    r->start_time = g_get_real_time() / G_USEC_PER_SEC;
    r->status = DIRTY_RATE_STATUS_MEASURING;
    r->thread = g_thread_try_new("dirty-rate", measure, r, err);
    if (!r->thread) {
        r->status = DIRTY_RATE_STATUS_UNSTARTED;
        g_prefix_error(err, "Cannot start to measure: ");
    }
    return r->thread != NULL;
}

DirtyRateInfo *qmp_query_dirty_rate(struct vm *vm, const struct qmp_query_dirty_rate_arg *arg,
                                    GError **err)
{
    const struct dirty_rate *r = vm->migration->dirty_rate;
    DirtyRateInfo *info = g_new0(DirtyRateInfo, 1);

    (void)err;
    info->status = r->status;
    info->mode = r->mode;
    info->start_time = r->start_time;
    info->calc_time_unit = arg->has_calc_time_unit ? arg->calc_time_unit : TIME_UNIT_SECOND;
    info->calc_time =
        info->calc_time_unit == TIME_UNIT_MILLISECOND ? r->calc_ms : r->calc_ms / 1000;
    info->sample_pages = r->sample_pages;
    if (r->status != DIRTY_RATE_STATUS_MEASURED) {
        return info;
    }
    info->has_dirty_rate = true;
    info->dirty_rate = (int64_t)r->rate;
    if (r->vcpu_rate) {
        info->vcpu_dirty_rate =
            g_ptr_array_new_with_free_func((GDestroyNotify)qapi_dirty_rate_vcpu_free);
        for (unsigned i = 0; i < vm->vcpu_count; i++) {
            DirtyRateVcpu *v = g_new0(DirtyRateVcpu, 1);

            v->id = i;
            v->dirty_rate = (int64_t)r->vcpu_rate[i];
            g_ptr_array_add(info->vcpu_dirty_rate, v);
        }
    }
    return info;
}
