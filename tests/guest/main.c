/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Start of the workload guest in ring 3, on vCPU 0: reads the command line and the memory map of
 * the PVH start info, lays out the pool of data pages, maps what lies above 4 GiB, sets up the
 * clock, starts the other vCPUs and then joins them in work_loop(). The order matters: APs read
 * `cfg` and the layout without further synchronisation, so both are final before the first SIPI.
 *
 * Layout of the pool, from the end of the mailbox on, as far as the memory map says RAM:
 * page directories for memory above 4 GiB, the generation table, then the data pages.
 */
#include "guest.h"
#include "virtio.h"

struct start_info_page {
    u32 magic, version, flags, nr_modules;
    u64 modlist, cmdline, rsdp, memmap;
    u32 memmap_entries, reserved;
};

struct memmap_entry {
    u64 addr, size;
    u32 type, reserved;
};

#define START_MAGIC 0x336ec578u
#define MEMMAP_RAM  1u
#define POOL_START  (MAILBOX_ADDR + MAILBOX_SIZE)
#define LOW_MAPPED  (1ull << 32)

extern u32 start_info;
extern u64 pdpt[];

struct config cfg = {
    .rate = 1000,
    .vrate = ~1ull, /* not given */
    .report_ns = 1000000000,
    .poll_ns = 100000000,
    .dev_ns = 1000000000,
    .seed = 1,
    .hz = 100,
    .halt = 1,
    .precheck = 1,
    .apf = 1,
    .pv = 1,
};

struct region regions[MAILBOX_REGIONS];
u32 region_count;
u32 *gens;
u64 wall_base;

/* ---- command line ---- */

struct word {
    const char *name;
    u64 value;
};

static const struct word picks[] = {
    { "seq", PICK_SEQ }, { "random", PICK_RANDOM }, { "hot", PICK_HOT }, { 0, 0 }
};
static const struct word datas[] = {
    { "random", PATTERN_RANDOM }, { "zero", PATTERN_ZERO },   { "text", PATTERN_TEXT },
    { "sparse", PATTERN_SPARSE }, { "mixed", PATTERN_MIXED }, { 0, 0 },
};
static const struct word timers[] = { { "periodic", TIMER_PERIODIC },
                                      { "oneshot", TIMER_ONESHOT },
                                      { "tsc", TIMER_TSC },
                                      { "pit", TIMER_PIT },
                                      { 0, 0 } };
static const struct word exits[] = {
    { "off", EXIT_OFF },
    { "reset", EXIT_RESET },
    { "acpireset", EXIT_ACPI_RESET },
    { "halt", EXIT_HALT },
    { 0, 0 },
};
static const struct word rates[] = { { "max", ~0ull }, { 0, 0 } };
static const struct word nics[] = {
    { "off", NIC_OFF }, { "send", NIC_SEND }, { "recv", NIC_RECV }, { "both", NIC_BOTH }, { 0, 0 }
};

/* One row per argument: name, where it goes and how wide that is, factor, words it may be. */
static const struct arg {
    const char *name;
    void *to;
    u32 size;
    u32 factor;
    const struct word *words;
} args[] = {
    { "mem", &cfg.mem, 8, 1, 0 },
    { "ws", &cfg.ws, 8, 1, 0 },
    { "rate", &cfg.rate, 8, 1, rates },
    { "vrate", &cfg.vrate, 8, 1, rates },
    { "report", &cfg.report_ns, 8, 1000000, 0 },
    { "poll", &cfg.poll_ns, 8, 1000000, 0 },
    { "run", &cfg.run_ns, 8, 1000000, 0 },
    { "devms", &cfg.dev_ns, 8, 1000000, 0 },
    { "seed", &cfg.seed, 8, 1, 0 },
    { "stall", &cfg.stall_ns, 8, 1, 0 },
    { "cpus", &cfg.cpus, 8, 1, 0 },
    { "hz", &cfg.hz, 4, 1, 0 },
    { "pattern", &cfg.pick, 1, 1, picks },
    { "data", &cfg.data, 1, 1, datas },
    { "timer", &cfg.timer, 1, 1, timers },
    { "exit", &cfg.exit, 1, 1, exits },
    { "idle", &cfg.idle, 1, 1, 0 },
    { "halt", &cfg.halt, 1, 1, 0 },
    { "precheck", &cfg.precheck, 1, 1, 0 },
    { "devstate", &cfg.devstate, 1, 1, 0 },
    { "untouched", &cfg.untouched, 1, 1, 0 },
    { "x2apic", &cfg.x2apic, 1, 1, 0 },
    { "apf", &cfg.apf, 1, 1, 0 },
    { "fpu", &cfg.fpu, 1, 1, 0 },
    { "avx", &cfg.avx, 1, 1, 0 },
    { "pv", &cfg.pv, 1, 1, 0 },
    { "blk", &vcfg.disk, 1, 1, 0 },
    { "blksize", &vcfg.disk_size, 8, 1, 0 },
    { "blkbs", &vcfg.disk_bytes, 4, 1, 0 },
    { "blkdepth", &vcfg.disk_depth, 4, 1, 0 },
    { "blkread", &vcfg.disk_reads, 4, 1, 0 },
    { "blkpick", &vcfg.disk_pick, 1, 1, picks },
    { "blkflush", &vcfg.disk_flush, 4, 1, 0 },
    { "blkcheck", &vcfg.disk_check, 1, 1, 0 },
    { "blkrate", &vcfg.disk_rate, 8, 1, rates },
    { "net", &vcfg.nic, 1, 1, nics },
    { "netcheck", &vcfg.nic_check, 1, 1, 0 },
    { "netlen", &vcfg.nic_bytes, 4, 1, 0 },
    { "netdepth", &vcfg.nic_depth, 4, 1, 0 },
    { "netrate", &vcfg.nic_rate, 8, 1, rates },
    { "virtidx", &vcfg.event_idx, 1, 1, 0 },
    { "virtind", &vcfg.indirect, 1, 1, 0 },
    { "virtirq", &vcfg.interrupts, 1, 1, 0 },
};

/* Whether `s` starts with `word` and then a character of the set "= \0". */
static int word_is(const char *s, const char *word, char end)
{
    while (*word && *s == *word) {
        s++;
        word++;
    }
    return !*word && (*s == end || (end == ' ' && !*s));
}

static int number(const char *s, u64 *v)
{
    u64 n = 0;
    u32 base = 10;

    if (s[0] == '0' && s[1] == 'x') {
        base = 16;
        s += 2;
    }
    for (;; s++) {
        u32 d = *s >= '0' && *s <= '9'   ? (u32)(*s - '0')
                : *s >= 'a' && *s <= 'f' ? (u32)(*s - 'a' + 10)
                                         : 99;

        if (d >= base) {
            break;
        }
        n = n * base + d;
    }
    switch (*s) {
    case 'k':
    case 'K':
        n <<= 10;
        s++;
        break;
    case 'M':
        n <<= 20;
        s++;
        break;
    case 'G':
        n <<= 30;
        s++;
        break;
    }
    *v = n;
    return *s == 0 || *s == ' ';
}

static int value(const struct arg *a, const char *s)
{
    u64 v = 0;

    for (const struct word *w = a->words; w && w->name; w++) {
        if (word_is(s, w->name, ' ')) {
            v = w->value;
            goto found;
        }
    }
    if ((a->words && a->words != rates) || !number(s, &v)) {
        return 0;
    }
    v *= a->factor;
found:
    if (a->size == 8) {
        *(u64 *)a->to = v;
    } else if (a->size == 4) {
        *(u32 *)a->to = (u32)v;
    } else {
        *(u8 *)a->to = (u8)v;
    }
    return 1;
}

/* Words that are not ours (a VMM may add some) are passed over; a wrong value is reported. */
static void parse(const char *s)
{
    char bad[32];

    while (*s) {
        for (u32 i = 0; i < sizeof(args) / sizeof(args[0]); i++) {
            u32 n = 0;

            if (!word_is(s, args[i].name, '=')) {
                continue;
            }
            while (s[n] && s[n] != ' ' && n < sizeof(bad) - 1) {
                bad[n] = s[n];
                n++;
            }
            bad[n] = 0;
            n = 0;
            while (args[i].name[n]) {
                n++;
            }
            if (!value(&args[i], s + n + 1)) {
                report_line("ARG bad %s", bad);
            }
        }
        while (*s && *s != ' ') {
            s++;
        }
        while (*s == ' ') {
            s++;
        }
    }
    if (cfg.hz < 10 || cfg.hz > 2000) {
        cfg.hz = 100;
    }
}

/* ---- memory ---- */

static void clear(u64 addr, u64 n)
{
    for (u64 i = 0; i < n; i += 8) {
        *(volatile u64 *)(addr + i) = 0;
    }
}

/* Memory for what the vCPUs note of their stalls, from the start of the pool. */
static void stalls_layout(u32 n)
{
    u64 pages = (u64)n * MAILBOX_STALL_AREA / PAGE_SIZE;

    if (!cfg.stall_ns || !region_count || regions[0].pages <= pages) {
        return;
    }
    mailbox->stall_addr = regions[0].addr;
    clear(regions[0].addr, pages * PAGE_SIZE);
    for (u32 i = 0; i < n; i++) {
        cpus[i].stalls = (void *)(regions[0].addr + i * MAILBOX_STALL_AREA);
    }
    regions[0].addr += pages * PAGE_SIZE;
    regions[0].pages -= pages;
}

static void layout(const struct start_info_page *si, u32 n)
{
    const struct memmap_entry *map = (const void *)si->memmap;
    u64 total = 0, top = 0, init, gen_pages, pds;
    volatile u64 *pair = &mailbox->region_addr0;

    if (si->magic != START_MAGIC || si->version < 1) {
        report_line("PANIC no PVH start info with a memory map");
        return;
    }
    for (u32 i = 0; i < si->memmap_entries && region_count < MAILBOX_REGIONS; i++) {
        u64 from = map[i].addr, to = map[i].addr + map[i].size;

        from = from < POOL_START ? POOL_START : (from + PAGE_SIZE - 1) & ~(u64)(PAGE_SIZE - 1);
        to &= ~(u64)(PAGE_SIZE - 1);
        if (map[i].type != MEMMAP_RAM || from >= to) {
            continue;
        }
        regions[region_count++] = (struct region){ .addr = from, .pages = (to - from) / PAGE_SIZE };
        top = to > top ? to : top;
    }
    /* what is above 4 GiB is mapped here, with page directories from the start of the pool */
    pds = top > LOW_MAPPED ? (top - LOW_MAPPED + (1ull << 30) - 1) >> 30 : 0;
    pds = pds > 508 ? 508 : pds;
    for (u64 g = 0; g < pds; g++) {
        u64 *pd = (u64 *)regions[0].addr;

        for (u64 i = 0; i < 512; i++) {
            pd[i] = ((4 + g) << 30 | i << 21) + 0xe7;
        }
        pdpt[4 + g] = (u64)pd + 0x67;
        regions[0].addr += PAGE_SIZE;
        regions[0].pages--;
    }
    stalls_layout(n);
    virtio_layout();
    for (u32 i = 0; i < region_count; i++) {
        total += regions[i].pages;
    }
    gen_pages = (total + PAGE_SIZE / 4 - 1) / (PAGE_SIZE / 4);
    gens = (u32 *)regions[0].addr;
    regions[0].addr += gen_pages * PAGE_SIZE;
    regions[0].pages -= gen_pages;
    total = 0;
    for (u32 i = 0; i < region_count; i++) {
        regions[i].first = total;
        total += regions[i].pages;
        *pair++ = regions[i].addr;
        *pair++ = regions[i].pages;
    }
    init = cfg.mem ? cfg.mem / PAGE_SIZE : cfg.untouched ? total / 2 : total;
    init = init > total ? total : init;
    mailbox->pages_total = total;
    mailbox->pages_init = init;
    mailbox->pages_ws = cfg.ws && cfg.ws / PAGE_SIZE < init ? cfg.ws / PAGE_SIZE : init;
    mailbox->gen_addr = (u64)gens;
    mailbox->regions = region_count;
}

/* Pages are dealt out evenly: vCPU i has [n*i/cpus, n*(i+1)/cpus), and of it the first part as
 * its share of the working set. */
static void slices(u32 n)
{
    u64 init = mailbox->pages_init, ws = mailbox->pages_ws;

    for (u32 i = 0; i < n; i++) {
        volatile struct mailbox_cpu *m = mailbox_cpu(i);

        m->index = i;
        m->first_page = init * i / n;
        m->pages = init * (i + 1) / n - m->first_page;
        m->ws_pages = ws * (i + 1) / n - ws * i / n;
        if (m->ws_pages > m->pages) {
            m->ws_pages = m->pages;
        }
        cpus[i].mb = (struct mailbox_cpu *)m;
        cpus[i].rng = pattern_mix(cfg.seed + i * 0x9e3779b97f4a7c15u) | 1;
    }
}

/* ---- clock ---- */

static void clock_setup(struct cpu *c)
{
    mailbox->clock_kind = 2;
    if (cfg.pv && kvm_features & 1u << 3 && c->pv.mul) {
        u64 f = 1000000ull << 32;

        mailbox->clock_kind = 1;
        f /= c->pv.mul;
        tsc_khz = c->pv.shift < 0 ? f << -c->pv.shift : f >> c->pv.shift;
        sys(SYS_WALL, 0, 0);
        wall_base = pvwall.sec * 1000000000ull + pvwall.nsec;
    } else if (!tsc_khz) {
        u64 t0, t1, n0, n1;

        sys(SYS_CALIBRATE, 0, 0);
        n0 = sys(SYS_CALIBRATE, 1, 0);
        t0 = rdtsc_ordered();
        while (rdtsc_ordered() - t0 < 50000000) {
        }
        n1 = sys(SYS_CALIBRATE, 1, 0);
        t1 = rdtsc_ordered();
        tsc_khz = (t1 - t0) * (APIC_TIMER_HZ / 1000) / (n0 > n1 ? n0 - n1 : 1);
    }
    tsc_mul = (1000000ull << 32) / tsc_khz;
    mailbox->tsc_khz = tsc_khz;
    mailbox->boot_clock_ns = clock_now(c, 0);
}

static u32 start_aps(struct cpu *c, u32 n)
{
    u32 up = 1;

    for (u32 id = 1; up < n && id < 255; id++) {
        u64 t0 = clock_now(c, 0);

        sys(SYS_SIPI, id, up);
        while (!cpus[up].online && clock_now(c, 0) - t0 < 300000000) {
            cpu_relax();
        }
        up += cpus[up].online;
    }
    return up;
}

void main0(struct cpu *c) __attribute__((noreturn));
void main0(struct cpu *c)
{
    const struct start_info_page *si = (const void *)(u64)start_info;
    u32 n, up;

    clear(MAILBOX_ADDR, MAILBOX_SIZE);
    report_init();
    if (si->cmdline) {
        parse((const char *)si->cmdline);
    }
    if (cfg.idle) {
        cfg.rate = 0;
        cfg.vrate = cfg.vrate == ~1ull ? 0 : cfg.vrate;
    }
    n = (u32)(cfg.cpus ? cfg.cpus : sys(SYS_CPUS, 0, 0));
    n = n < 1 ? 1 : n > CPU_MAX ? CPU_MAX : n;
    layout(si, n);
    if (cfg.vrate == ~1ull) {
        cfg.vrate = mailbox->pages_init / 2;
        cfg.vrate = cfg.vrate < 1000 ? 1000 : cfg.vrate > 50000 ? 50000 : cfg.vrate;
    }
    mailbox->rate = cfg.rate;
    mailbox->seed = cfg.seed;
    mailbox->data_kind = cfg.data;
    mailbox->version = MAILBOX_VERSION;
    mailbox->cpus = n;
    mailbox->text_sum = text_sum();
    slices(n);
    if (cfg.timer == TIMER_TSC && !(cpuid1_ecx & 1u << 24)) {
        cfg.timer = TIMER_PERIODIC;
        report_line("NOTE no TSC deadline, timer=periodic");
    }
    sys(SYS_INIT_APS, n, 0);
    clock_setup(c);
    mailbox->state = MAILBOX_STATE_INIT;
    barrier();
    mailbox->magic = MAILBOX_MAGIC;
    report_line("INIT cpus=%u pages=%u ws=%u total=%u clock=%s tsc_khz=%u", (u64)n,
                mailbox->pages_init, mailbox->pages_ws, mailbox->pages_total,
                mailbox->clock_kind == 1 ? "kvmclock" : "tsc", tsc_khz);
    up = start_aps(c, n);
    if (up != n) {
        report_line("PANIC only %u of %u vCPUs came up", (u64)up, (u64)n);
    }
    work_loop(c);
}

/* The compiler may call these two. */
void *memset(void *p, int v, unsigned long n);
void *memset(void *p, int v, unsigned long n)
{
    for (unsigned long i = 0; i < n; i++) {
        ((volatile u8 *)p)[i] = (u8)v;
    }
    return p;
}

void *memcpy(void *to, const void *from, unsigned long n);
void *memcpy(void *to, const void *from, unsigned long n)
{
    for (unsigned long i = 0; i < n; i++) {
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    }
    return to;
}
