/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keeps known values in the processor's registers for a long time and looks whether they are still
 * there, in the guest:
 *
 *     vectors LINE_MS
 *
 * One process per CPU, bound to it, loads all YMM registers (XMM without AVX), MXCSR and the x87
 * control word and stack, computes in general registers for some milliseconds, and compares.
 * Nothing in between calls the kernel, so that what a migration stops is most likely this state.
 * Prints
 *
 *     VECTORS 12 cpu=0 avx=1 rounds=345 bad=0
 */

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REGISTERS 16
#define SPINS     200000

struct state {
    uint8_t vector[REGISTERS][32];
    double stack;
    uint32_t mxcsr;
    uint16_t control;
} __attribute__((aligned(32)));

#define EACH(F)                                                                                    \
    F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#define LOAD_YMM(n)  "vmovdqa 32*" #n "(%0), %%ymm" #n "\n\t"
#define STORE_YMM(n) "vmovdqa %%ymm" #n ", 32*" #n "(%1)\n\t"
#define LOAD_XMM(n)  "movdqa 32*" #n "(%0), %%xmm" #n "\n\t"
#define STORE_XMM(n) "movdqa %%xmm" #n ", 32*" #n "(%1)\n\t"
#define HOLD                                                                                       \
    "fldl %3\n\tldmxcsr %4\n\tfldcw %5\n\t"                                                        \
    "1: dec %2\n\tjnz 1b\n\t"
#define RELEASE "fnstcw %8\n\tstmxcsr %7\n\tfstpl %6\n\tfninit\n\t"
#define OPERANDS(spins)                                                                            \
    : "+r"(in), "+r"(out), "+r"(spins)                                                             \
    : "m"(in->stack), "m"(in->mxcsr), "m"(in->control), "m"(out->stack), "m"(out->mxcsr),          \
      "m"(out->control)                                                                            \
    : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",      \
      "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "st"

static void hold_ymm(struct state *in, struct state *out)
{
    uint64_t spins = SPINS;

    __asm__ volatile(EACH(LOAD_YMM) HOLD EACH(STORE_YMM) RELEASE "vzeroupper" OPERANDS(spins));
}

static void hold_xmm(struct state *in, struct state *out)
{
    uint64_t spins = SPINS;

    __asm__ volatile(EACH(LOAD_XMM) HOLD EACH(STORE_XMM) RELEASE "" OPERANDS(spins));
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void fill(struct state *s, unsigned round, int cpu)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < sizeof(s->vector); i++) {
        s->vector[i / 32][i % 32] = (uint8_t)(round * 29 + i * 7 + (unsigned)cpu * 101);
    }
    s->stack = 1.0 / 3 + round;
    s->mxcsr = 0x1f80 | (round & 3) << 13; /* rounding modes, all exceptions masked */
    s->control = (uint16_t)(0x37f & ~0xc00) | (round & 3) << 10;
}

int main(int argc, char **argv)
{
    int line_ms = argc == 2 ? atoi(argv[1]) : 0, cpus = sysconf(_SC_NPROCESSORS_ONLN), cpu = 0;
    bool avx = __builtin_cpu_supports("avx");
    unsigned long line = 0, bad = 0;
    static struct state in, out;
    int64_t next = 0;
    cpu_set_t set;

    if (line_ms < 1) {
        fprintf(stderr, "usage: vectors LINE_MS\n");
        return 1;
    }
    if (nice(19) != 19) { /* whatever else the guest does goes first */
        perror("vectors: nice");
    }
    while (cpu < cpus - 1 && fork()) {
        cpu++;
    }
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
    for (unsigned round = 0;; round++) {
        fill(&in, round, cpu);
        memset(&out, 0, sizeof(out));
        if (avx) {
            hold_ymm(&in, &out);
        } else {
            hold_xmm(&in, &out);
            for (int i = 0; i < REGISTERS; i++) {
                memcpy(out.vector[i] + 16, in.vector[i] + 16, 16);
            }
        }
        bad += memcmp(&in, &out, sizeof(in)) != 0;
        if (now_ms() >= next) {
            char text[128];
            int n = snprintf(text, sizeof(text), "VECTORS %lu cpu=%d avx=%d rounds=%u bad=%lu\n",
                             line++, cpu, avx, round, bad);

            next = now_ms() + line_ms;
            if (write(1, text, n) != n) {
                return 1;
            }
        }
    }
}
