/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host's clocks in nanoseconds. The guest's virtual clock is vm_clock_ns() (system/vm.h). */
#ifndef UTIL_CLOCK_H
#define UTIL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* CLOCK_MONOTONIC, of which g_get_monotonic_time() is the same in microseconds. Any thread. */
static inline int64_t monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

#endif
