/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Model-specific registers, in the guest (needs the module msr):
 *
 *     msrs set     writes what Linux leaves at its power-on value, on each CPU
 *     msrs show    prints what a move must carry, a line for each that this CPU has:
 *
 *         MSR cpu=0 index=4b564d05 value=0
 *
 * and "MSRS done" at the end. What changes by itself (time, the timer's deadline) is not shown.
 */

#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    uint32_t index;
    unsigned count;
} shown[] = {
    { 0x1b, 1 },                                   /* APIC base */
    { 0x34, 1 },                                   /* number of SMIs */
    { 0x3a, 1 },                                   /* feature control */
    { 0x3b, 1 },                                   /* TSC adjustment */
    { 0x48, 1 },                                   /* speculation control */
    { 0x174, 3 },                                  /* SYSENTER */
    { 0x17a, 2 },                                  /* machine check: status, control */
    { 0x1a0, 1 },                                  /* miscellaneous enables */
    { 0x200, 16 },                                 /* variable MTRRs */
    { 0x250, 1 },                                  /* fixed MTRRs */
    { 0x258, 2 },      { 0x268, 8 }, { 0x277, 1 }, /* PAT */
    { 0x2ff, 1 },                                  /* MTRR default type */
    { 0x400, 40 },                                 /* machine check banks */
    { 0xda0, 1 },                                  /* supervisor state */
    { 0x4b564d00, 7 }, /* KVM: clocks, asynchronous page faults, stolen time, EOI, polling */
    { 0xc0000080, 5 }, /* EFER, SYSCALL */
    { 0xc0000103, 1 }, /* TSC_AUX */
};

static const struct {
    uint32_t index;
    uint64_t value;
} written[] = {
    { 0x3b, 0x12345 },     /* the TSC, some microseconds ahead */
    { 0x20e, 0x40000006 }, /* the last variable MTRR, which stays off */
    { 0x4b564d05, 0 },     /* the host shall not poll */
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int set(int fd, long cpu)
{
    for (unsigned i = 0; i < COUNT(written); i++) {
        if (pwrite(fd, &written[i].value, 8, written[i].index) != 8) {
            printf("MSR cpu=%ld index=%x cannot be written\n", cpu, written[i].index);
        }
    }
    return 0;
}

static int show(int fd, long cpu)
{
    for (unsigned i = 0; i < COUNT(shown); i++) {
        for (unsigned n = 0; n < shown[i].count; n++) {
            uint64_t value;

            if (pread(fd, &value, 8, shown[i].index + n) == 8) {
                printf("MSR cpu=%ld index=%x value=%" PRIx64 "\n", cpu, shown[i].index + n, value);
            }
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    int (*act)(int fd, long cpu) = argc == 2 && !strcmp(argv[1], "set")    ? set
                                   : argc == 2 && !strcmp(argv[1], "show") ? show
                                                                           : NULL;

    if (!act) {
        fprintf(stderr, "usage: msrs set|show\n");
        return 1;
    }
    for (long cpu = 0; cpu < cpus; cpu++) {
        char path[64];
        int fd;

        snprintf(path, sizeof(path), "/dev/cpu/%ld/msr", cpu);
        fd = open(path, O_RDWR);
        if (fd < 0) {
            perror(path);
            return 1;
        }
        act(fd, cpu);
        close(fd);
    }
    printf("MSRS done\n");
    return 0;
}
