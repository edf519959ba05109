/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every vCPU of the workload guest does, in ring 3 and for ever: look at the clock and give a
 * sign of life, write pages as the rate allows, verify pages, take part in full verifications;
 * vCPU 0 also reports. Nothing is shared between vCPUs but the mailbox: each writes and verifies
 * only its own slice of pages.
 *
 * The rule that makes every lost update visible: the page is written first, its generation in the
 * table after it, and a vCPU that verifies is the same that writes. mailbox_cpu.cur_page says which
 * page is between two generations when somebody looks from outside.
 */
#include "guest.h"

#define NS_PER_S  1000000000ull
#define BURST_NS  50000000ull /* after a pause, catch up with at most so much work */
#define BATCH     4           /* pages between two looks at the clock */
#define PASS_STEP 8

extern char text_start[], text_end[];

/* A clock value every vCPU has reached: reading an older one later is a step back. */
static volatile u64 clock_shown;

/* ---- clock ---- */

u64 tsc_mul;

/* Nanoseconds; `tsc`, if given, gets the TSC it was made from. */
u64 clock_now(struct cpu *c, u64 *tsc)
{
    volatile struct pvclock *pv = &c->pv;
    u64 t, ns;
    u32 v;

    if (mailbox->clock_kind != 1) {
        t = rdtsc_ordered();
        ns = (u64)((unsigned __int128)t * tsc_mul >> 32);
    } else {
        do {
            u64 delta;

            v = pv->version;
            t = rdtsc_ordered();
            delta = t - pv->tsc_timestamp;
            delta = pv->shift < 0 ? delta >> -pv->shift : delta << pv->shift;
            ns = pv->system_time + (u64)((unsigned __int128)delta * pv->mul >> 32);
            barrier();
        } while ((v & 1) || v != pv->version);
    }
    if (tsc) {
        *tsc = t;
    }
    return ns;
}

/*
 * Sign of life: what this vCPU sees of time goes to the mailbox, and gaps and steps back are
 * noticed. A vCPU that halted was away for up to a tick of its own will: that much is not counted.
 */
static u64 life(struct cpu *c)
{
    volatile struct mailbox_cpu *m = c->mb;
    u64 shown = clock_shown;
    u64 tsc, now = clock_now(c, &tsc);
    u64 gap = now - c->last_ns;

    if ((s64)gap < 0) {
        m->back++;
        if (-gap > m->back_max_ns) {
            m->back_max_ns = -gap;
        }
    } else {
        if (c->halted) {
            u64 tick = NS_PER_S / cfg.hz;

            gap = gap > tick ? gap - tick : 0;
        }
        if (gap > m->gap_ns) {
            m->gap_ns = gap;
        }
        if (gap > m->gap_max_ns) {
            m->gap_max_ns = gap;
            m->gap_max_at = now;
        }
    }
    if (tsc < c->last_tsc) {
        m->tsc_back++;
    }
    if (now < shown) {
        m->xback++;
        if (shown - now > m->xback_max_ns) {
            m->xback_max_ns = shown - now;
        }
    } else {
        clock_shown = now;
    }
    c->halted = 0;
    c->last_ns = now;
    c->last_tsc = tsc;
    m->clock_ns = now;
    m->tsc = tsc;
    m->ticks = cfg.timer == TIMER_PIT && !c->index ? c->pit_ticks : c->ticks;
    m->pit_ticks = c->pit_ticks;
    m->loops++;
    return now;
}

/* Forgets what happened until now: initialisation is one long loop. */
static void life_reset(struct cpu *c)
{
    c->last_ns = clock_now(c, &c->last_tsc);
    c->halted = 0;
    c->mb->gap_ns = 0;
    c->mb->gap_max_ns = 0;
    c->mb->gap_max_at = 0;
}

/* ---- pages ---- */

u64 page_addr(u64 page)
{
    u32 i = region_count - 1;

    while (i && page < regions[i].first) {
        i--;
    }
    return regions[i].addr + (page - regions[i].first) * PAGE_SIZE;
}

void page_fill(u64 page, u64 gen)
{
    volatile u64 *p = (volatile u64 *)page_addr(page);
    u64 base = pattern_base(page, gen, cfg.seed), base0, win;

    switch (pattern_kind_of(cfg.data, base)) {
    case PATTERN_ZERO:
        for (u64 w = 0; w < PATTERN_WORDS; w++) {
            p[w] = 0;
        }
        break;
    case PATTERN_TEXT:
        for (u64 w = 0; w < PATTERN_WORDS; w++) {
            p[w] = pattern_text(base, w);
        }
        break;
    case PATTERN_SPARSE:
        base0 = pattern_base(page, 0, cfg.seed);
        win = pattern_window(base);
        for (u64 w = 0; w < PATTERN_WORDS; w++) {
            p[w] = pattern_random(w - win < 8 ? base : base0, w);
        }
        break;
    default:
        for (u64 w = 0; w < PATTERN_WORDS; w++) {
            p[w] = pattern_random(base, w);
        }
    }
}

/* How many words differ from `gen`; the first of them is described in first, expected, got. */
static u64 page_compare(u64 page, u64 gen, u64 *first, u64 *expected, u64 *got)
{
    const volatile u64 *p = (const volatile u64 *)page_addr(page);
    u64 base = pattern_base(page, gen, cfg.seed), base0, win, bad = 0;

#define COMPARE(expr)                                                                              \
    for (u64 w = 0; w < PATTERN_WORDS; w++) {                                                      \
        u64 e = (expr), g = p[w];                                                                  \
        if (__builtin_expect(e != g, 0)) {                                                         \
            if (!bad++) {                                                                          \
                *first = w;                                                                        \
                *expected = e;                                                                     \
                *got = g;                                                                          \
            }                                                                                      \
        }                                                                                          \
    }
    switch (pattern_kind_of(cfg.data, base)) {
    case PATTERN_ZERO:
        COMPARE(0);
        break;
    case PATTERN_TEXT:
        COMPARE(pattern_text(base, w));
        break;
    case PATTERN_SPARSE:
        base0 = pattern_base(page, 0, cfg.seed);
        win = pattern_window(base);
        COMPARE(pattern_random(w - win < 8 ? base : base0, w));
        break;
    default:
        COMPARE(pattern_random(base, w));
    }
#undef COMPARE
    return bad;
}

void bad_record(struct cpu *c, u64 kind, u64 page, u64 word, u64 expected, u64 got, u64 count)
{
    static u64 next;
    u64 n = __atomic_fetch_add(&next, 1, __ATOMIC_SEQ_CST);
    volatile struct mailbox_bad *b =
        (volatile struct mailbox_bad *)(u64)(MAILBOX_ADDR + MAILBOX_BAD_OFF +
                                             n % MAILBOX_BAD_MAX * MAILBOX_BAD_SIZE);

    b->number = 0;
    b->kind = kind;
    b->cpu = c->index;
    b->page = page;
    b->word = word;
    b->expected = expected;
    b->got = got;
    b->count = count;
    b->number = n + 1;
    __atomic_fetch_add((u64 *)&mailbox->bad_records, 1, __ATOMIC_SEQ_CST);
    c->mb->bad_words += count;
    c->mb->bad_pages += 1;
}

/* Verifies a page of this vCPU and returns the number of wrong words; a wrong page is recorded and
 * then repaired, so that each corruption counts once. */
u64 page_verify(struct cpu *c, u64 page)
{
    u64 first = 0, expected = 0, got = 0;
    u64 bad = page_compare(page, gens[page], &first, &expected, &got);

    if (bad) {
        bad_record(c, MAILBOX_BAD_WORD, page, first, expected, got, bad);
        page_fill(page, gens[page]);
    }
    c->mb->verified++;
    return bad;
}

/*
 * The first access to a page and to its generation: where memory has not arrived yet, this is where
 * the vCPU waits. The page's content stays as it is.
 */
static void page_touch(struct cpu *c, u64 page)
{
    volatile u64 *p = (volatile u64 *)page_addr(page);
    u64 begun = rdtsc_ordered(), end, took;
    volatile struct mailbox_stall *s;

    *p = *p;
    (void)((volatile u32 *)gens)[page];
    end = rdtsc_ordered();
    took = (u64)((unsigned __int128)(end - begun) * tsc_mul >> 32);
    c->stalls->touches++;
    if (took < cfg.stall_ns) {
        return;
    }
    s = (volatile struct mailbox_stall *)((u64)c->stalls + MAILBOX_STALL_OFF +
                                          c->stalls->count % MAILBOX_STALL_MAX *
                                              MAILBOX_STALL_SIZE);
    s->at_ns = (u64)((unsigned __int128)end * tsc_mul >> 32);
    s->took_ns = took;
    c->stalls->total_ns += took;
    if (took > c->stalls->max_ns) {
        c->stalls->max_ns = took;
    }
    barrier();
    c->stalls->count++;
}

static void page_write(struct cpu *c, u64 page)
{
    volatile struct mailbox_cpu *m = c->mb;

    if (c->stalls) {
        page_touch(c, page);
    }

    if (cfg.precheck) {
        page_verify(c, page);
    }
    m->cur_page = page + 1;
    barrier();
    page_fill(page, gens[page] + 1ull);
    barrier();
    ((volatile u32 *)gens)[page]++;
    m->writes++;
    m->cur_page = 0;
}

u64 text_sum(void)
{
    u64 sum = 0;

    for (u64 *p = (u64 *)text_start; p < (u64 *)text_end; p++) {
        sum = pattern_mix(sum + *p);
    }
    return sum;
}

/* End of a pass: all generations of the slice together are one per page and one per write. */
static u64 slice_sum(struct cpu *c)
{
    struct mailbox_cpu *m = c->mb;
    u64 sum = 0, want = m->pages + m->writes, bad = 0;
    const volatile u32 *g = gens;

    for (u64 i = 0; i < m->pages; i++) {
        sum += g[m->first_page + i];
    }
    if (sum != want) {
        bad_record(c, MAILBOX_BAD_SUM, m->first_page, 0, want, sum, 1);
        m->writes = sum - m->pages;
        bad = 1;
    }
    if (c->index == 0) {
        u64 text = text_sum();

        if (text != mailbox->text_sum) {
            bad_record(c, MAILBOX_BAD_TEXT, 0, 0, mailbox->text_sum, text, 1);
            mailbox->text_sum = text;
            bad++;
        }
    }
    return bad;
}

/* ---- the loop ---- */

static u64 rng_next(struct cpu *c)
{
    c->rng ^= c->rng << 13;
    c->rng ^= c->rng >> 7;
    c->rng ^= c->rng << 17;
    return c->rng * 0x9b05688c1f83d9abu >> 11;
}

static u64 pick(struct cpu *c)
{
    u64 n = c->mb->ws_pages, hot = n / 10 ? n / 10 : 1, r;

    switch (cfg.pick) {
    case PICK_RANDOM:
        return rng_next(c) % n;
    case PICK_HOT: /* nine writes of ten go to a tenth of the working set */
        r = rng_next(c);
        return r % 10 ? (r / 10) % hot : (r / 10) % n;
    default:
        r = c->write_next;
        c->write_next = r + 1 < n ? r + 1 : 0;
        return r;
    }
}

/* How many pages are due now at `rate` pages/s for all vCPUs; advances the account by as many.
 * The account is kept in 1/1024 ns. */
static u32 due(u64 *at, u64 now, u64 rate)
{
    u64 t = now << 10, step;
    u32 n = 0;

    if (!rate) {
        return 0;
    }
    if (rate == ~0ull) {
        return BATCH;
    }
    step = (NS_PER_S << 10) * mailbox->cpus / rate;
    if (*at + (BURST_NS << 10) < t) {
        *at = t - (BURST_NS << 10);
    }
    while (n < BATCH && *at <= t) {
        *at += step;
        n++;
    }
    return n;
}

static int write_step(struct cpu *c, u64 now)
{
    u32 n = c->mb->ws_pages ? due(&c->write_credit_at, now, mailbox->rate) : 0;

    for (u32 i = 0; i < n; i++) {
        page_write(c, c->mb->first_page + pick(c));
    }
    return n != 0;
}

static int verify_step(struct cpu *c, u64 now)
{
    struct mailbox_cpu *m = c->mb;
    u32 n = m->pages ? due(&c->verify_credit_at, now, cfg.vrate) : 0;

    for (u32 i = 0; i < n; i++) {
        page_verify(c, m->first_page + c->verify_next);
        if (++c->verify_next >= m->pages) {
            c->verify_next = 0;
            m->rounds++;
            slice_sum(c);
        }
    }
    return n != 0;
}

/* A full verification goes on a few pages at a time, so that signs of life go on too. */
static int pass_step(struct cpu *c)
{
    struct mailbox_cpu *m = c->mb;
    volatile u64 *done = &((volatile struct mailbox_cpu *)m)->verify_done;

    if (c->pass_seen == *done) {
        if (mailbox->verify_req == *done) {
            return 0;
        }
        c->pass_seen = mailbox->verify_req;
        c->pass_next = 0;
        c->pass_bad = 0;
    }
    for (u32 i = 0; i < PASS_STEP && c->pass_next < m->pages; i++) {
        c->pass_bad += page_verify(c, m->first_page + c->pass_next++);
    }
    if (c->pass_next >= m->pages) {
        c->pass_bad += slice_sum(c);
        m->verify_bad = c->pass_bad;
        barrier();
        *done = c->pass_seen;
    }
    return 1;
}

static void first_fill(struct cpu *c)
{
    volatile struct mailbox_cpu *m = c->mb;

    for (u64 i = 0; i < m->pages; i++) {
        page_fill(m->first_page + i, 1);
        ((volatile u32 *)gens)[m->first_page + i] = 1;
        if (!(i & 15)) {
            u64 now = life(c);

            if (c->index == 0) {
                report_step(c, now);
            }
        }
    }
}

static void wait_for_all(struct cpu *c)
{
    for (;;) {
        u32 ready = 0, n = (u32)mailbox->cpus;
        u64 now = life(c);

        if (c->index == 0) {
            report_step(c, now);
        }
        for (u32 i = 0; i < n; i++) {
            ready += mailbox_cpu(i)->state >= MAILBOX_STATE_RUN;
        }
        if (ready == n) {
            return;
        }
        c->halted = 1;
        sys(SYS_WAIT, 0, 0);
    }
}

void work_loop(struct cpu *c)
{
    volatile struct mailbox_cpu *m = c->mb;

    sys(SYS_TIMER, 0, 0);
    m->state = MAILBOX_STATE_INIT;
    life_reset(c);
    first_fill(c);
    dev_start(c);
    m->state = MAILBOX_STATE_RUN;
    wait_for_all(c);
    life_reset(c);
    c->write_credit_at = c->verify_credit_at = c->last_ns << 10;
    c->next_dev = c->last_ns + cfg.dev_ns;
    if (c->index == 0) {
        mailbox->ready_clock_ns = c->last_ns;
        mailbox->state = MAILBOX_STATE_RUN;
        report_line("READY cpus=%u pages=%u", mailbox->cpus, mailbox->pages_init);
    }
    for (;;) {
        u64 now = life(c);
        int busy = write_step(c, now);

        busy |= verify_step(c, now);
        busy |= pass_step(c);
        busy |= dev_step(c, now);
        busy |= c->index == 0 && virtio_step(c, now);
        m->steal_ns = c->steal.steal;
        m->apf_events = c->apf_events;
        if (c->index == 0) {
            busy |= report_step(c, now);
        }
        if (busy) {
            continue;
        }
        if (cfg.halt) {
            c->halted = 1;
            m->halts++;
            sys(SYS_WAIT, 0, 0);
        } else {
            cpu_relax();
        }
    }
}
