/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compares a guest's time of day with that of the machine it runs on:
 *
 *     clockwatch FILE OFFSET MILLISECONDS
 *
 * FILE is the guest's memory, OFFSET (hexadecimal) where its mailbox is. Each time the guest shows
 * a new time, the difference to the time here is taken: how long ago, by its own clock, it showed
 * it. What delays the view makes the difference larger, never smaller, so the smallest of many is
 * the truth but for some microseconds. Prints "samples=N behind_ns=SMALLEST", negative when the
 * guest is ahead.
 */

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "../guest/mailbox.h"

#define PAGE 4096

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    int64_t end, smallest = INT64_MAX;
    volatile struct mailbox *box;
    uint64_t shown, samples = 0;
    int fd;

    if (argc != 4) {
        fprintf(stderr, "usage: clockwatch FILE OFFSET MILLISECONDS\n");
        return 1;
    }
    fd = open(argv[1], O_RDONLY);
    box = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, strtoull(argv[2], NULL, 16));
    if (fd < 0 || box == MAP_FAILED || box->magic != MAILBOX_MAGIC) {
        fprintf(stderr, "clockwatch: no mailbox at %s of %s\n", argv[2], argv[1]);
        return 1;
    }
    end = now_ns(CLOCK_MONOTONIC) + strtoll(argv[3], NULL, 10) * 1000000;
    for (shown = box->real_ns; now_ns(CLOCK_MONOTONIC) < end; sched_yield()) {
        uint64_t now = box->real_ns;

        if (now != shown) {
            int64_t behind = now_ns(CLOCK_REALTIME) - (int64_t)now;

            shown = now;
            samples++;
            smallest = behind < smallest ? behind : smallest;
        }
    }
    if (!samples) {
        fprintf(stderr, "clockwatch: the guest showed no new time\n");
        return 1;
    }
    printf("samples=%" PRIu64 " behind_ns=%" PRId64 "\n", samples, smallest);
    return 0;
}
