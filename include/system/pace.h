/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For accelerators: how a vCPU's thread carries out the brakes of system/throttle.h. Before it
 * enters the guest it asks for the slice and sees to it that it is back after so long; when it is
 * back it asks for the rest and sleeps it outside the guest. Called by the vCPU's own thread, which
 * owns the pace; no locks.
 */
#ifndef SYSTEM_PACE_H
#define SYSTEM_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct vcpu;

struct vcpu_pace {
    int64_t limit_slice_ns; /* follows how fast the vCPU writes */
    int64_t owed_ns;        /* to be slept for pages that were written */
};

/* Is there a brake on it at all? Any thread. */
bool vcpu_is_braked(const struct vcpu *vcpu);
/* How long the vCPU may stay in the guest, ns; 0: as long as it likes. */
int64_t vcpu_pace_slice_ns(const struct vcpu *vcpu, struct vcpu_pace *pace);
/*
 * It was gone for ran_ns, in which its thread used used_ns of processor and dirtied so many pages
 * (0 where nobody counts): how long to sleep, ns.
 */
int64_t vcpu_pace_rest_ns(struct vcpu *vcpu, struct vcpu_pace *pace, int64_t ran_ns,
                          int64_t used_ns, uint64_t dirtied);

#endif
