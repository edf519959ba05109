/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vCPU 0 of the workload guest talks: lines for the serial port, and the commands that come in
 * through it or through the mailbox. Ring 3.
 *
 * A port access can cost a millisecond where ring 0 is emulated, and a line must not show as a gap
 * in the clock. So lines are composed into a ring and leave it sixteen bytes per turn of the work
 * loop. A line that does not fit is dropped whole and counted.
 */
#include "guest.h"

#define OUT_SIZE  4096u /* power of two */
#define LINE_MAX  400u
#define BAD_LINES 4u /* BAD lines per T line, so that a lost migration does not fill the disk */

static char out[OUT_SIZE];
static u32 out_head, out_tail; /* run on; the difference is what is waiting */
static u64 next_report, next_poll, next_pump, bad_printed, bad_budget, started;
static u64 zero_next, zero_bad; /* check of never touched pages; zero_next 0: not running */
static u64 rate_before;
static u8 ending;

void report_init(void)
{
    bad_budget = BAD_LINES;
}

/* ---- text ---- */

static u32 put_number(char *to, u64 v, u32 base)
{
    char tmp[24];
    u32 n = 0, len;

    do {
        tmp[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    len = n;
    while (n) {
        *to++ = tmp[--n];
    }
    return len;
}

/* Knows %u (u64), %x (u64), %s. Returns the length, at most size; no zero at the end. */
static u32 format(char *to, u32 size, const char *fmt, __builtin_va_list ap)
{
    char tmp[24];
    u32 n = 0;

    for (; *fmt && n < size; fmt++) {
        const char *s = tmp;

        if (*fmt != '%') {
            to[n++] = *fmt;
            continue;
        }
        fmt++;
        if (*fmt == 's') {
            s = __builtin_va_arg(ap, const char *);
        } else {
            tmp[put_number(tmp, __builtin_va_arg(ap, u64), *fmt == 'x' ? 16 : 10)] = 0;
        }
        while (*s && n < size) {
            to[n++] = *s++;
        }
    }
    return n;
}

u32 report_format(char *to, u32 size, const char *fmt, ...)
{
    __builtin_va_list ap;
    u32 n;

    __builtin_va_start(ap, fmt);
    n = format(to, size, fmt, ap);
    __builtin_va_end(ap);
    return n;
}

/* Queues a line for the serial port. */
void report_line(const char *fmt, ...)
{
    char line[LINE_MAX + 1];
    __builtin_va_list ap;
    u32 n;

    __builtin_va_start(ap, fmt);
    n = format(line, LINE_MAX, fmt, ap);
    __builtin_va_end(ap);
    line[n++] = '\n';
    if (n > OUT_SIZE - (out_tail - out_head)) {
        mailbox->lines_dropped++;
        return;
    }
    for (u32 i = 0; i < n; i++) {
        out[out_tail++ % OUT_SIZE] = line[i];
    }
}

/* Returns whether something went out. While nobody takes what is sent, the port is asked rarely. */
static int pump(u64 now)
{
    u32 n = out_tail - out_head, at = out_head % OUT_SIZE, sent;

    if (!n || now < next_pump) {
        return 0;
    }
    n = n > 16 ? 16 : n;
    n = n > OUT_SIZE - at ? OUT_SIZE - at : n;
    sent = (u32)sys(SYS_PUTS, (u64)(out + at), n);
    out_head += sent;
    if (!sent) {
        next_pump = now + 2000000;
    }
    return sent != 0;
}

/* ---- lines ---- */

static void tick_line(struct cpu *c)
{
    u64 writes = 0, bad = 0, gap = 0, back = 0, ticks = 0, rounds = ~0ull;

    for (u32 i = 0; i < mailbox->cpus; i++) {
        struct mailbox_cpu *m = cpus[i].mb;
        u64 g = __atomic_exchange_n(&m->gap_ns, 0, __ATOMIC_RELAXED);

        gap = g > gap ? g : gap;
        writes += m->writes;
        bad += m->bad_words;
        back += m->back + m->tsc_back;
        ticks += m->ticks;
        rounds = m->rounds < rounds ? m->rounds : rounds;
    }
    if (mailbox->clock_kind == 1) {
        sys(SYS_WALL, 0, 0);
        mailbox->wall_fresh_ns = pvwall.sec * 1000000000ull + pvwall.nsec + clock_now(c, 0);
    }
    report_line("T seq=%u tsc=%u clock_ns=%u wall_ns=%u rounds=%u writes=%u bad=%u gap_us=%u "
                "back=%u ticks=%u",
                mailbox->seq, mailbox->tsc, mailbox->clock_ns, mailbox->wall_ns, rounds, writes,
                bad, gap / 1000, back, ticks);
    mailbox->seq++;
    bad_budget = BAD_LINES;
}

static void bad_lines(void)
{
    static const char *const kinds[] = { "?", "word", "sum", "zero", "text" };

    while (bad_printed < mailbox->bad_records && bad_budget) {
        volatile struct mailbox_bad *b =
            (volatile struct mailbox_bad *)(u64)(MAILBOX_ADDR + MAILBOX_BAD_OFF +
                                                 bad_printed % MAILBOX_BAD_MAX * MAILBOX_BAD_SIZE);

        if (bad_printed + MAILBOX_BAD_MAX < mailbox->bad_records) {
            bad_printed = mailbox->bad_records - MAILBOX_BAD_MAX;
            continue;
        }
        if (b->number == bad_printed + 1) {
            report_line("BAD cpu=%u page=%u word=%u expected=%x got=%x n=%u kind=%s", b->cpu,
                        b->page, b->word, b->expected, b->got, b->count, kinds[b->kind % 5]);
        }
        bad_printed++;
        bad_budget--;
    }
}

/* A full verification is reported when the last vCPU is through. */
static void verify_lines(void)
{
    u64 bad = 0, total = 0, req = mailbox->verify_req;

    if (mailbox->verify_done == req) {
        return;
    }
    for (u32 i = 0; i < mailbox->cpus; i++) {
        if (mailbox_cpu(i)->verify_done != req) {
            return;
        }
        bad += mailbox_cpu(i)->verify_bad;
        total += mailbox_cpu(i)->bad_words;
    }
    mailbox->verify_pages = mailbox->pages_init;
    mailbox->verify_bad = bad;
    mailbox->verify_done = req;
    bad_lines();
    report_line("VERIFIED pages=%u bad=%u total=%u", mailbox->pages_init, bad, total);
}

/* Reads the pages that were never written: they must be as zero as they were at boot. */
static int zero_step(struct cpu *c)
{
    u64 init = mailbox->pages_init, total = mailbox->pages_total;

    if (!zero_next) {
        return 0;
    }
    for (u32 i = 0; i < 16 && zero_next <= total - init; i++, zero_next++) {
        u64 page = init + zero_next - 1, n = 0, word = 0;
        const volatile u64 *p = (const volatile u64 *)page_addr(page);

        for (u64 w = 0; w < PATTERN_WORDS; w++) {
            if (p[w] && !n++) {
                word = w;
            }
        }
        if (n) {
            bad_record(c, MAILBOX_BAD_ZERO, page, word, 0, p[word], n);
            zero_bad += n;
        }
    }
    if (zero_next > total - init) {
        report_line("UNTOUCHED pages=%u bad=%u", total - init, zero_bad);
        zero_next = 0;
    }
    return 1;
}

/* ---- end and commands ---- */

/* Ends the guest the way exit= says, once what is to be printed is printed. */
void guest_end(void)
{
    mailbox->state = MAILBOX_STATE_END;
    if (cfg.exit == EXIT_OFF || cfg.exit == EXIT_ACPI_RESET) {
        sys(cfg.exit == EXIT_OFF ? SYS_OFF : SYS_ACPI_RESET, 0, 0);
        /* takes effect a little later, if at all: there may be no ACPI */
        for (u32 i = 0; i < cfg.hz; i++) {
            sys(SYS_WAIT, 0, 0);
        }
    }
    while (cfg.exit == EXIT_HALT) {
        sys(SYS_WAIT, 0, 0);
    }
    sys(SYS_RESET, 0, 0);
}

static void command(struct cpu *c, char ch)
{
    mailbox->commands++;
    switch (ch) {
    case 'v':
        mailbox->verify_req++;
        break;
    case 'u':
        zero_next = 1;
        zero_bad = 0;
        break;
    case 't':
        tick_line(c);
        break;
    case 'p': /* stop writing */
        if (mailbox->rate) {
            rate_before = mailbox->rate;
            mailbox->rate = 0;
        }
        report_line("PAUSED");
        break;
    case 'g': /* go on writing */
        if (!mailbox->rate) {
            mailbox->rate = rate_before;
        }
        report_line("GOING");
        break;
    case 'q':
    case 'r':
        cfg.exit = ch == 'r' ? EXIT_RESET : cfg.exit;
        ending = 1;
        report_line("BYE");
        break;
    default:
        mailbox->commands--;
    }
}

static void commands(struct cpu *c, u64 now)
{
    if (mailbox->command) {
        char ch = (char)mailbox->command;

        mailbox->command = 0;
        command(c, ch);
    }
    if (cfg.poll_ns && now >= next_poll) {
        u64 ch;

        next_poll = now + cfg.poll_ns;
        ch = sys(SYS_GETC, 0, 0);
        if (ch != ~0ull) {
            command(c, (char)ch);
            next_poll = now;
        }
    }
}

/* vCPU 0's turn of the work loop; returns whether there is more to do at once. */
int report_step(struct cpu *c, u64 now)
{
    int busy;

    mailbox->heartbeat++;
    mailbox->tsc = c->last_tsc;
    mailbox->clock_ns = now;
    mailbox->wall_ns = wall_base ? wall_base + now : 0;
    if (mailbox->state != MAILBOX_STATE_INIT) {
        commands(c, now);
        verify_lines();
        if (!started) {
            started = now;
            next_report = now;
        }
        if (cfg.report_ns && now >= next_report) {
            next_report += cfg.report_ns;
            if (next_report <= now) {
                next_report = now + cfg.report_ns;
            }
            tick_line(c);
        }
        if (cfg.run_ns && now - started >= cfg.run_ns && !ending) {
            ending = 1;
            report_line("BYE");
        }
        bad_lines();
    }
    busy = zero_step(c);
    busy |= pump(now);
    if (ending && out_head == out_tail) {
        guest_end();
    }
    return busy;
}
