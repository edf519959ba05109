/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Watches the guest's clocks, in the guest:
 *
 *     ticker HZ LINE_MS
 *
 * HZ times a second it moves to the next CPU, reads time of day, monotonic clock and TSC, counts
 * what went backwards since the last time, and shows its time of day in the mailbox. Every LINE_MS
 * it prints what it knows:
 *
 *     MAILBOX gpa=1234000
 *     TICK 17 real=1700000000.123456789 mono_ms=5000 cpus=2 real_back=0 mono_back=0 tsc_back=0
 * gap_us=812
 *
 * gap_us is the longest time between two readings so far, less the pause it meant to make. Ends
 * with status 1 when it cannot do its work.
 */

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "mailbox.h"

#define PAGE 4096
#define NS   1000000000LL

struct readings {
    int64_t real, mono;
    uint64_t tsc;
};

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

/* Where in the guest's memory a page of ours is; 0 when the kernel does not say. */
static uint64_t physical_address(const void *page)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    off_t at = (uintptr_t)page / PAGE * sizeof(entry);

    if (fd < 0 || pread(fd, &entry, sizeof(entry), at) != sizeof(entry) || !(entry >> 63)) {
        entry = 0;
    }
    close(fd);
    return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static volatile struct mailbox *mailbox_new(void)
{
    volatile struct mailbox *box =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    uint64_t address;

    if (box == MAP_FAILED) {
        perror("ticker: mmap");
        exit(1);
    }
    box->magic = MAILBOX_MAGIC;
    address = physical_address((const void *)box);
    if (!address) {
        fprintf(stderr, "ticker: pagemap does not say where the mailbox is\n");
        exit(1);
    }
    printf("MAILBOX gpa=%llx\n", (unsigned long long)address);
    return box;
}

static void next_cpu(int *cpu, int cpus)
{
    cpu_set_t set;

    *cpu = (*cpu + 1) % cpus;
    CPU_ZERO(&set);
    CPU_SET(*cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv)
{
    int hz = argc == 3 ? atoi(argv[1]) : 0, line_ms = argc == 3 ? atoi(argv[2]) : 0;
    int cpus = sysconf(_SC_NPROCESSORS_ONLN), cpu = 0;
    unsigned long line = 0, real_back = 0, mono_back = 0, tsc_back = 0;
    volatile struct mailbox *box;
    struct readings last = {};
    int64_t gap = 0, next_line = 0;

    if (hz < 1 || line_ms < 1) {
        fprintf(stderr, "usage: ticker HZ LINE_MS\n");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    box = mailbox_new();
    for (;;) {
        struct readings now;

        next_cpu(&cpu, cpus);
        now.tsc = __rdtsc();
        now.mono = now_ns(CLOCK_MONOTONIC);
        now.real = now_ns(CLOCK_REALTIME);
        box->real_ns = now.real;
        if (last.mono) {
            real_back += now.real < last.real;
            mono_back += now.mono < last.mono;
            tsc_back += now.tsc < last.tsc;
            if (now.mono - last.mono - NS / hz > gap) {
                gap = now.mono - last.mono - NS / hz;
            }
        }
        last = now;
        if (now.mono >= next_line) {
            next_line = now.mono + line_ms * 1000000LL;
            printf("TICK %lu real=%lld.%09lld mono_ms=%lld cpus=%d real_back=%lu mono_back=%lu "
                   "tsc_back=%lu gap_us=%lld\n",
                   line++, (long long)(now.real / NS), (long long)(now.real % NS),
                   (long long)(now.mono / 1000000), cpus, real_back, mono_back, tsc_back,
                   (long long)(gap / 1000));
        }
        usleep(1000000 / hz);
    }
}
