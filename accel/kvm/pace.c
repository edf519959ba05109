/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Brakes (system/throttle.h) on a vCPU's thread: a timer of the thread's own brings it back from
 * the guest at the end of its slice, then it sleeps as a parked vCPU does, so that whoever wants
 * the vCPUs to stop does not wait for it.
 *
 * The timer's signal goes to the thread itself, which is running: no other thread has to be
 * scheduled for a slice to end in time, which matters most where the host is busy with the
 * migration. Its handler sets immediate_exit like every kick, in case it comes just before KVM_RUN;
 * and the timer goes on ticking, in case even that was too early.
 *
 * All of it on the vCPU's thread.
 */
#include <time.h>

#include "kvm-internal.h"
#include "util/clock.h"
#include "util/error.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define TICK_AGAIN_NS (10 * 1000 * 1000)

static void arm(struct kvm_vcpu *v, int64_t ns)
{
    struct itimerspec when = { .it_value = { ns / 1000000000, ns % 1000000000 },
                               .it_interval = { 0, ns ? TICK_AGAIN_NS : 0 } };

    timer_settime(v->pace_timer, 0, &when, NULL);
    v->pace_armed = ns != 0;
}

static bool make_timer(struct kvm_vcpu *v)
{
    struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID,
                           .sigev_signo = KVM_KICK_SIGNAL,
                           .sigev_value.sival_ptr = v };

    ev.sigev_notify_thread_id = v->vcpu->thread_id;
    if (!v->pace_timer_made && !v->pace_timer_failed) {
        v->pace_timer_made = timer_create(CLOCK_MONOTONIC, &ev, &v->pace_timer) == 0;
        if (!v->pace_timer_made) {
            v->pace_timer_failed = true;
            report_warning("vCPU %u cannot be throttled: the host has no timer left for it (%s)",
                           v->vcpu->index, g_strerror(errno));
        }
    }
    return v->pace_timer_made;
}

void kvm_pace_enter(struct kvm_vcpu *v)
{
    int64_t slice = vcpu_pace_slice_ns(v->vcpu, &v->pace);

    v->pace_began_ns = 0;
    if (slice && make_timer(v)) {
        v->pace_dirtied = kvm_ring_dirtied(v);
        v->pace_used_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        v->pace_began_ns = monotonic_ns();
        arm(v, slice);
    } else if (v->pace_armed) {
        arm(v, 0);
    }
}

void kvm_pace_leave(struct kvm_vcpu *v)
{
    if (v->pace_began_ns) {
        int64_t now = monotonic_ns();
        int64_t used = clock_ns(CLOCK_THREAD_CPUTIME_ID) - v->pace_used_ns;

        v->rest_until_ns = now + vcpu_pace_rest_ns(v->vcpu, &v->pace, now - v->pace_began_ns, used,
                                                   kvm_ring_dirtied(v) - v->pace_dirtied);
    }
}

bool kvm_pace_resting(struct kvm_vcpu *v)
{
    if (v->rest_until_ns && vcpu_is_braked(v->vcpu) && monotonic_ns() < v->rest_until_ns) {
        return true;
    }
    v->rest_until_ns = 0;
    return false;
}

void kvm_pace_free(struct kvm_vcpu *v)
{
    if (v->pace_timer_made) {
        timer_delete(v->pace_timer);
        v->pace_timer_made = false;
    }
}
