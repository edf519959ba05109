/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * devstate=1: the workload guest sets up device and CPU state that a migration must not lose, and
 * looks again and again whether it is still there.
 *
 * This file has the list of items, runs their checks one per turn of the work loop (so that no turn
 * becomes long where ring 0 is slow), reports, and holds the items that live in ring 3: x87, SSE
 * and AVX registers and the progress of the timers. Those of ring 0 are in devices.c and
 * cpustate.c.
 *
 * An item found wrong is reported once as `DEV bad` and then set up anew. Checks that depend on the
 * passing of time complain only when they fail twice in a row: right after a pause too little may
 * have happened yet.
 */
#include "guest.h"

#define FPU_RENEW 64 /* comparisons before the registers get new values */

struct fx_image {
    u16 fcw, fsw;
    u8 ftw, pad0;
    u16 fop;
    u64 fip, fdp;
    u32 mxcsr, mxcsr_mask;
    u64 st[8][2];
    u64 xmm[16][2];
    u64 pad1[12];
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct fx_image) == 512, "hardware");

static struct fx_state {
    struct fx_image set, seen;
    u64 ymm_set[16][4] __attribute__((aligned(64)));
    u64 ymm_seen[16][4];
    u64 gen;
    u64 ticks, pit_ticks;
    u32 bad; /* detail of the last bad comparison, for the item's check */
    u8 on, avx;
    u8 stuck, pit_stuck;
} fx[CPU_MAX];

static u64 items_on[CPU_MAX];
static volatile u64 news;            /* items with a failure not yet reported */
static volatile u32 news_detail[64]; /* what was wrong */
static volatile u8 news_cpu[64];
static u64 round_nr;

/* ---- x87, SSE, AVX ---- */

static u64 fpu_value(struct cpu *c, struct fx_state *f, u32 i)
{
    return pattern_mix((f->gen << 20 | c->index << 8 | i) * 0x9b05688c1f83d9abu);
}

static void fpu_load(struct cpu *c, struct fx_state *f)
{
    u32 top = (u32)(f->gen % 8);

    f->gen++;
    f->set.fcw = f->gen & 1 ? 0x0f7f : 0x067f; /* all masked; precision and rounding vary */
    f->set.fsw = (u16)(top << 11 | 0x4100 * (f->gen & 1));
    f->set.ftw = (u8)(0xffu << top); /* some registers empty, most not */
    f->set.mxcsr = 0x1f80 | (u32)(f->gen & 3) << 13;
    for (u32 i = 0; i < 8; i++) {
        f->set.st[i][0] = fpu_value(c, f, i) | 1ull << 63;
        f->set.st[i][1] = 0x3ff0 + i + (f->gen & 1 ? 0x8000 : 0);
    }
    for (u32 i = 0; i < 16; i++) {
        f->set.xmm[i][0] = fpu_value(c, f, 16 + i);
        f->set.xmm[i][1] = fpu_value(c, f, 32 + i);
    }
    asm volatile("fxrstor64 %0" : : "m"(f->set));
    if (f->avx) {
        for (u32 i = 0; i < 16; i++) {
            f->ymm_set[i][0] = f->set.xmm[i][0];
            f->ymm_set[i][1] = f->set.xmm[i][1];
            f->ymm_set[i][2] = fpu_value(c, f, 48 + i);
            f->ymm_set[i][3] = fpu_value(c, f, 64 + i);
        }
        asm volatile("vmovdqu (%0), %%ymm0; vmovdqu 32(%0), %%ymm1\n\t"
                     "vmovdqu 64(%0), %%ymm2; vmovdqu 96(%0), %%ymm3\n\t"
                     "vmovdqu 128(%0), %%ymm4; vmovdqu 160(%0), %%ymm5\n\t"
                     "vmovdqu 192(%0), %%ymm6; vmovdqu 224(%0), %%ymm7\n\t"
                     "vmovdqu 256(%0), %%ymm8; vmovdqu 288(%0), %%ymm9\n\t"
                     "vmovdqu 320(%0), %%ymm10; vmovdqu 352(%0), %%ymm11\n\t"
                     "vmovdqu 384(%0), %%ymm12; vmovdqu 416(%0), %%ymm13\n\t"
                     "vmovdqu 448(%0), %%ymm14; vmovdqu 480(%0), %%ymm15"
                     :
                     : "r"(f->ymm_set)
                     : "memory");
    }
}

/* 0, or what differs: 1 control words, 2 tags, 0x10+i ST(i), 0x20+i XMMi, 0x30+i YMMi. */
static u32 fpu_compare(struct fx_state *f)
{
    u32 top = f->set.fsw >> 11 & 7;

    asm volatile("fxsave64 %0" : "=m"(f->seen));
    if (f->seen.fcw != f->set.fcw || f->seen.fsw != f->set.fsw || f->seen.mxcsr != f->set.mxcsr) {
        return 1;
    }
    if (f->seen.ftw != f->set.ftw) {
        return 2;
    }
    for (u32 i = 0; i < 8; i++) {
        if (f->set.ftw >> ((top + i) & 7) & 1 &&
            (f->seen.st[i][0] != f->set.st[i][0] || (u16)f->seen.st[i][1] != f->set.st[i][1])) {
            return 0x10 + i;
        }
    }
    for (u32 i = 0; i < 16; i++) {
        if (f->seen.xmm[i][0] != f->set.xmm[i][0] || f->seen.xmm[i][1] != f->set.xmm[i][1]) {
            return 0x20 + i;
        }
    }
    if (!f->avx) {
        return 0;
    }
    asm volatile("vmovdqu %%ymm0, (%0); vmovdqu %%ymm1, 32(%0)\n\t"
                 "vmovdqu %%ymm2, 64(%0); vmovdqu %%ymm3, 96(%0)\n\t"
                 "vmovdqu %%ymm4, 128(%0); vmovdqu %%ymm5, 160(%0)\n\t"
                 "vmovdqu %%ymm6, 192(%0); vmovdqu %%ymm7, 224(%0)\n\t"
                 "vmovdqu %%ymm8, 256(%0); vmovdqu %%ymm9, 288(%0)\n\t"
                 "vmovdqu %%ymm10, 320(%0); vmovdqu %%ymm11, 352(%0)\n\t"
                 "vmovdqu %%ymm12, 384(%0); vmovdqu %%ymm13, 416(%0)\n\t"
                 "vmovdqu %%ymm14, 448(%0); vmovdqu %%ymm15, 480(%0)"
                 :
                 : "r"(f->ymm_seen)
                 : "memory");
    for (u32 i = 0; i < 16; i++) {
        if (f->ymm_seen[i][2] != f->ymm_set[i][2] || f->ymm_seen[i][3] != f->ymm_set[i][3]) {
            return 0x30 + i;
        }
    }
    return 0;
}

static int fpu_init(struct cpu *c)
{
    struct fx_state *f = &fx[c->index];

    f->on = 1;
    f->bad = 0;
    fpu_load(c, f);
    return 1;
}

static int avx_init(struct cpu *c)
{
    struct fx_state *f = &fx[c->index];

    f->avx = sys(SYS_DEV_AVX, 0, 0) == 1;
    fpu_load(c, f);
    return f->avx;
}

/* Every turn of the work loop; the items' checks collect what this saw. */
static void fpu_step(struct cpu *c)
{
    struct fx_state *f = &fx[c->index];
    u32 bad = fpu_compare(f);

    c->mb->fpu_checks++;
    if (bad) {
        c->mb->fpu_bad++;
        f->bad = bad;
    }
    if (bad || c->mb->fpu_checks % FPU_RENEW == 0) {
        fpu_load(c, f);
    }
}

static u32 fpu_check(struct cpu *c)
{
    u32 bad = fx[c->index].bad;

    if (bad >= 0x30) {
        return 0;
    }
    fx[c->index].bad = 0;
    return bad;
}

static u32 avx_check(struct cpu *c)
{
    u32 bad = fx[c->index].bad;

    if (bad < 0x30) {
        return 0;
    }
    fx[c->index].bad = 0;
    return bad;
}

/* ---- timers ---- */

static int always(struct cpu *c)
{
    (void)c;
    return 1;
}

/* The PIT was started with the local timer; where there is one, its first tick is soon here. */
static int pit_tick_init(struct cpu *c)
{
    volatile u64 *ticks = &c->pit_ticks;
    u64 t0 = clock_now(c, 0);

    while (!*ticks && clock_now(c, 0) - t0 < 200000000) {
        cpu_relax();
    }
    return *ticks != 0;
}

static u32 stuck(u64 now, u64 *before, u8 *times)
{
    *times = now == *before ? *times + 1 : 0;
    *before = now;
    return *times >= 2 ? *times : 0;
}

static u32 timer_check(struct cpu *c)
{
    return stuck(c->mb->ticks, &fx[c->index].ticks, &fx[c->index].stuck);
}

static u32 pit_tick_check(struct cpu *c)
{
    return stuck(c->pit_ticks, &fx[c->index].pit_ticks, &fx[c->index].pit_stuck);
}

/* ---- the list ---- */

/* An item without functions is one of ring 0, in devices.c. */
static const struct item {
    char name[12];
    u8 boot_cpu_only;
    int (*init)(struct cpu *);
    u32 (*check)(struct cpu *);
} items[] = {
    [DEV_FPU] = { "fpu", 0, fpu_init, fpu_check },
    [DEV_AVX] = { "avx", 0, avx_init, avx_check },
    [DEV_TIMER] = { "timer", 0, always, timer_check },
    [DEV_PIT_TICK] = { "pit-tick", 1, pit_tick_init, pit_tick_check },
    [DEV_MSR] = { "msr", 0, 0, 0 },
    [DEV_CR] = { "cr", 0, 0, 0 },
    [DEV_DR] = { "dr", 0, 0, 0 },
    [DEV_LAPIC] = { "lapic", 0, 0, 0 },
    [DEV_IRR] = { "irr", 0, 0, 0 },
    [DEV_STEAL] = { "steal", 0, 0, 0 },
    [DEV_IOAPIC0] = { "ioapic0", 1, 0, 0 },
    [DEV_IOAPIC1] = { "ioapic1", 1, 0, 0 },
    [DEV_RTC_INDEX] = { "rtc-index", 1, 0, 0 },
    [DEV_RTC] = { "rtc", 1, 0, 0 },
    [DEV_RTC_TICK] = { "rtc-tick", 1, 0, 0 },
    [DEV_PIC] = { "pic", 1, 0, 0 },
    [DEV_PIT] = { "pit", 1, 0, 0 },
    [DEV_PIT_LATCH] = { "pit-latch", 1, 0, 0 },
    [DEV_PIT_HALF] = { "pit-half", 1, 0, 0 },
    [DEV_SERIAL] = { "serial", 1, 0, 0 },
    [DEV_FWCFG] = { "fwcfg", 1, 0, 0 },
};

_Static_assert(sizeof(items) / sizeof(items[0]) == DEV_ITEMS, "guest.h");

static int item_init(struct cpu *c, u32 i)
{
    return items[i].init ? items[i].init(c) : (int)sys(SYS_DEV_INIT, i, 0);
}

/* Sets up on this vCPU what there is; called before the work loop. */
void dev_start(struct cpu *c)
{
    char names[DEV_ITEMS * sizeof(items[0].name) + 1];
    u32 n = 0;

    if (!cfg.devstate && !cfg.fpu) {
        return;
    }
    for (u32 i = 0; i < DEV_ITEMS; i++) {
        if ((items[i].boot_cpu_only && c->index) || (!cfg.devstate && i != DEV_FPU)) {
            continue;
        }
        if (!item_init(c, i)) {
            continue;
        }
        items_on[c->index] |= 1ull << i;
        for (const char *s = items[i].name; *s; s++) {
            names[n++] = *s;
        }
        names[n++] = ',';
    }
    if (c->index == 0) {
        names[n ? n - 1 : 0] = 0;
        mailbox->dev_items = items_on[0];
        report_line("DEV items=%s", names);
    }
}

static void dev_report(void)
{
    u64 bad = __atomic_exchange_n(&news, 0, __ATOMIC_SEQ_CST);
    const u32 width = 32;
    char text[256];
    u32 n = 0;

    round_nr++;
    if (!bad) {
        report_line("DEV ok n=%u", round_nr);
        return;
    }
    for (u32 i = 0; i < DEV_ITEMS && n + width < sizeof(text); i++) {
        if (bad >> i & 1) {
            n += report_format(text + n, width, " %s:%x@%u", items[i].name, (u64)news_detail[i],
                               (u64)news_cpu[i]);
        }
    }
    text[n] = 0;
    report_line("DEV bad n=%u%s", round_nr, text);
}

static void item_check(struct cpu *c, u32 i)
{
    u32 detail = items[i].check ? items[i].check(c) : (u32)sys(SYS_DEV_CHECK, i, 0);

    __atomic_fetch_add((u64 *)&mailbox->dev_checks, 1, __ATOMIC_RELAXED);
    if (!detail) {
        return;
    }
    news_detail[i] = detail;
    news_cpu[i] = (u8)c->index;
    __atomic_fetch_or(&news, 1ull << i, __ATOMIC_SEQ_CST);
    __atomic_fetch_or((u64 *)&mailbox->dev_bad, 1ull << i, __ATOMIC_RELAXED);
    __atomic_fetch_add((u64 *)&mailbox->dev_fails, 1, __ATOMIC_RELAXED);
    item_init(c, i);
}

/* One item, when it is time; returns whether the round goes on. */
int dev_step(struct cpu *c, u64 now)
{
    u64 on = items_on[c->index];

    if (!on) {
        return 0;
    }
    if (fx[c->index].on) {
        fpu_step(c);
    }
    if (now < c->next_dev) {
        return 0;
    }
    while (c->dev_item < DEV_ITEMS && !(on >> c->dev_item & 1)) {
        c->dev_item++;
    }
    if (c->dev_item < DEV_ITEMS) {
        item_check(c, c->dev_item++);
        return 1;
    }
    c->dev_item = 0;
    c->next_dev = now + cfg.dev_ns;
    if (c->index == 0) {
        dev_report();
    }
    return 0;
}
