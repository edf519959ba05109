/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Prints how many thousand times a second the time stamp counter counts. The emulated machine shows
 * this host's; its kernel would measure it against an emulated timer, and gets it wrong where the
 * host has much other work.
 */

#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

#define TRIES 500

struct moment {
    int64_t ns;
    uint64_t tsc;
};

/* Both clocks at once: of many readings the one between whose ends the least time has passed. */
static struct moment now(void)
{
    uint64_t best = UINT64_MAX;
    struct moment m = { 0 };

    for (int i = 0; i < TRIES; i++) {
        struct timespec t;
        uint64_t before = __rdtsc(), after;

        clock_gettime(CLOCK_MONOTONIC, &t);
        after = __rdtsc();
        if (after - before < best) {
            best = after - before;
            m.ns = t.tv_sec * 1000000000LL + t.tv_nsec;
            m.tsc = before + best / 2;
        }
    }
    return m;
}

int main(void)
{
    struct moment a = now(), b;
    struct timespec pause = { .tv_nsec = 100000000 };

    nanosleep(&pause, NULL);
    b = now();
    printf("%.0f\n", (double)(b.tsc - a.tsc) * 1e6 / (double)(b.ns - a.ns));
    return 0;
}
