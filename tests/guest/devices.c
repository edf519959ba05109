/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * devstate=1, the chips of a microvm as ring 0 sees them: IOAPICs, RTC, PIC, PIT, serial port,
 * fw_cfg. cpustate.c has the CPU's own registers.
 *
 * Each item has a function that sets it up (returns 0 where this machine lacks it) and one that
 * compares (returns 0 for good, else a code that says what differs, listed in README.md). Besides
 * plain registers, the half-way states are set up that are easily forgotten: an index register left
 * pointing somewhere, a latched counter, the first byte of two written, received bytes not yet
 * read.
 */
#include "guest.h"

#define RTC_INDEX_LEFT 0x45
#define RX_BYTES       5
#define IOAPIC_PINS    24

static u8 pic_elcr;
static u16 pit_before, pit_allow;
static u8 pit_valid;
static u8 rtc_misses;
static u8 serial_round;
static u8 serial_on;
static u8 extra[16]; /* bytes that came in behind ours: commands */
static u32 extra_n;

/* ---- IOAPIC ---- */

static volatile u32 *ioapic_base(u32 n)
{
    return (volatile u32 *)(u64)(0xfec00000u + n * 0x10000u);
}

static u32 ioapic_read(u32 n, u32 reg)
{
    ioapic_base(n)[0] = reg;
    return ioapic_base(n)[4];
}

static void ioapic_write(u32 n, u32 reg, u32 v)
{
    ioapic_base(n)[0] = reg;
    ioapic_base(n)[4] = v;
}

/* Every entry differs, all are masked: vector, delivery, mode, polarity, trigger. */
static u32 ioapic_low(u32 n, u32 pin)
{
    return 1u << 16 | (0x50 + pin + n * 0x40) | (pin & 1) << 8 | (pin >> 1 & 1) << 11 |
           (pin >> 2 & 1) << 13 | (pin >> 3 & 1) << 15;
}

static u32 ioapic_high(u32 n, u32 pin)
{
    return (pin + n + 1) << 24;
}

static int ioapic_init(u32 n)
{
    u32 version = ioapic_read(n, 1);

    if (version == 0 || version == ~0u || (version >> 16 & 0xff) != IOAPIC_PINS - 1) {
        return 0;
    }
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
        ioapic_write(n, 0x10 + pin * 2, ioapic_low(n, pin));
        ioapic_write(n, 0x11 + pin * 2, ioapic_high(n, pin));
    }
    ioapic_base(n)[0] = 0x1d + n * 2; /* left selected */
    return 1;
}

static u32 ioapic_check(u32 n)
{
    u32 left = (0x1d + n * 2 - 0x11) / 2;

    if (ioapic_base(n)[4] != ioapic_high(n, left)) {
        return 0x1ff;
    }
    for (u32 pin = 0; pin < IOAPIC_PINS; pin++) {
        /* delivery status and remote IRR are the chip's own */
        if ((ioapic_read(n, 0x10 + pin * 2) & ~0x5000u) != ioapic_low(n, pin)) {
            return 0x110 + pin;
        }
        if (ioapic_read(n, 0x11 + pin * 2) != ioapic_high(n, pin)) {
            return 0x130 + pin;
        }
    }
    ioapic_base(n)[0] = 0x1d + n * 2;
    return 0;
}

static int ioapic0_init(struct cpu *c)
{
    (void)c;
    return ioapic_init(0);
}

static u32 ioapic0_check(struct cpu *c)
{
    (void)c;
    return ioapic_check(0);
}

static int ioapic1_init(struct cpu *c)
{
    (void)c;
    return ioapic_init(1);
}

static u32 ioapic1_check(struct cpu *c)
{
    (void)c;
    return ioapic_check(1);
}

/* ---- RTC ---- */

static u8 rtc_read(u8 reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void rtc_write(u8 reg, u8 v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

/* Alarm time, rate and interrupt enables, and some of the memory. */
static const u8 rtc_regs[][2] = {
    { 0x01, 0x59 }, { 0x03, 0x58 }, { 0x05, 0x23 }, { 0x0a, 0x2a }, { 0x0b, 0x62 },
    { 0x40, 0xa5 }, { 0x41, 0x5a }, { 0x44, 0x17 }, { 0x7f, 0x3c },
};

static int rtc_init(struct cpu *c)
{
    (void)c;
    if (rtc_read(0x0d) != 0x80) {
        return 0;
    }
    for (u32 i = 0; i < sizeof(rtc_regs) / sizeof(rtc_regs[0]); i++) {
        rtc_write(rtc_regs[i][0], rtc_regs[i][1]);
    }
    outb(0x70, RTC_INDEX_LEFT);
    return 1;
}

static u32 rtc_check(struct cpu *c)
{
    u32 bcd[3];

    (void)c;
    for (u32 i = 0; i < sizeof(rtc_regs) / sizeof(rtc_regs[0]); i++) {
        /* the top bit of register A says that an update is going on */
        u8 mask = rtc_regs[i][0] == 0x0a ? 0x7f : 0xff;

        if ((rtc_read(rtc_regs[i][0]) & mask) != rtc_regs[i][1]) {
            return 0x100u + rtc_regs[i][0];
        }
    }
    for (u32 i = 0; i < 3; i++) {
        u8 v = rtc_read((u8)(4 - i * 2));

        bcd[i] = (v >> 4) * 10u + (v & 15);
    }
    mailbox->rtc_seconds = bcd[0] * 3600 + bcd[1] * 60 + bcd[2];
    outb(0x70, RTC_INDEX_LEFT);
    return 0;
}

static int rtc_index_init(struct cpu *c)
{
    (void)c;
    if (rtc_read(0x0d) != 0x80) {
        return 0;
    }
    rtc_write(RTC_INDEX_LEFT, 0xc3);
    return 1;
}

/* The index register still points where the last access left it. */
static u32 rtc_index_check(struct cpu *c)
{
    u8 v = inb(0x71);

    (void)c;
    return v != 0xc3 ? 0x10000u | v : 0;
}

static int rtc_tick_init(struct cpu *c)
{
    (void)c;
    rtc_misses = 0;
    return rtc_read(0x0d) == 0x80 && (outb(0x70, RTC_INDEX_LEFT), 1);
}

/* 64 times per second the chip sets its periodic flag; reading clears it. */
static u32 rtc_tick_check(struct cpu *c)
{
    u8 flags = rtc_read(0x0c);

    (void)c;
    outb(0x70, RTC_INDEX_LEFT);
    rtc_misses = flags & 0x40 ? 0 : rtc_misses + 1;
    return rtc_misses >= 2 ? 0x10c : 0;
}

/* ---- PIC ---- */

/* Line 0 may be in use by the PIT; nobody drives the other unmasked ones. */
static int pic_init(struct cpu *c)
{
    (void)c;
    outb(0x21, 0xba);
    outb(0xa1, 0x5b);
    if (inb(0x21) != 0xba || inb(0xa1) != 0x5b) {
        return 0;
    }
    outb(0x4d0, 0x20);
    outb(0x4d1, 0x0c);
    pic_elcr = inb(0x4d0) == 0x20 && inb(0x4d1) == 0x0c;
    outb(0xa0, 0x68); /* special mask mode */
    outb(0xa0, 0x0b); /* reads of port 0xa0 give what is in service, not what is requested */
    outb(0x20, 0x0b);
    return 1;
}

static u32 pic_check(struct cpu *c)
{
    (void)c;
    if (inb(0x21) != 0xba) {
        return 0x121;
    }
    if (inb(0xa1) != 0x5b) {
        return 0x1a1;
    }
    /* the RTC's periodic request is pending on the slave, but not in service */
    if (inb(0xa0) != 0) {
        return 0x1a0;
    }
    if (pic_elcr && (inb(0x4d0) != 0x20 || inb(0x4d1) != 0x0c)) {
        return 0x4d0;
    }
    return 0;
}

/* ---- PIT ---- */

#define PIT_LOAD 59659u /* channel 0 at 20 Hz, see ring0.c */

static u8 pit_status(u32 channel)
{
    outb(0x43, (u8)(0xe0 | 2u << channel));
    return inb((u16)(0x40 + channel)) & 0x3f;
}

static u16 pit_count(u32 channel)
{
    u16 port = (u16)(0x40 + channel);
    u16 lo;

    outb(0x43, (u8)(channel << 6));
    lo = inb(port);
    return (u16)(lo | inb(port) << 8);
}

/* Channel 1: mode 5, BCD, only the low byte is accessed. */
static int pit_init(struct cpu *c)
{
    (void)c;
    outb(0x43, 0x5b);
    outb(0x41, 0x42);
    return pit_status(1) == 0x1b;
}

static u32 pit_check(struct cpu *c)
{
    (void)c;
    return pit_status(1) != 0x1b ? 0x141 : 0;
}

/* Latches channel 0 and leaves it so, knowing from a reading just before what it must hold. */
static int pit_latch_init(struct cpu *c)
{
    u64 t0, us;

    if (!c->pit_ticks || cfg.timer == TIMER_PIT) {
        return 0;
    }
    pit_count(0); /* gets rid of what an earlier life may have latched */
    t0 = rdtsc_ordered();
    pit_before = pit_count(0);
    outb(0x43, 0x00);
    us = (rdtsc_ordered() - t0) * 1000 / tsc_khz;
    pit_valid = us < 15000;
    pit_allow = (u16)(us * 5 / 4 + 100);
    return 1;
}

static u32 pit_latch_check(struct cpu *c)
{
    u16 lo = inb(0x40), got = (u16)(lo | inb(0x40) << 8);
    u32 passed = pit_before + (pit_before >= got ? 0 : PIT_LOAD) - got;
    u32 bad = pit_valid && passed > pit_allow ? 0x10000u | got : 0;

    pit_latch_init(c);
    return bad;
}

/* Channel 2 has the first byte of a new, small count written; the check writes the second. Were the
 * first one lost, the old, large count would go on, and be as small by chance once in a thousand.
 */
#define PIT_SMALL 0x40u

static int pit_half_init(struct cpu *c)
{
    (void)c;
    outb(0x43, 0xb4);
    outb(0x42, 0xf0);
    outb(0x42, 0xff);
    if (pit_count(2) <= PIT_SMALL && pit_count(2) <= PIT_SMALL) {
        return 0;
    }
    outb(0x42, PIT_SMALL);
    return 1;
}

static u32 pit_half_check(struct cpu *c)
{
    u16 count;

    outb(0x42, 0x00);
    count = pit_count(2);
    pit_half_init(c);
    return count > PIT_SMALL ? 0x10000u | count : 0;
}

/* ---- serial port ---- */

#define SERIAL 0x3f8

static const u8 serial_regs[][2] = {
    { 3, 0x03 }, { 4, 0x0b }, { 1, 0x05 }, /* LCR, MCR, IER */
};

/* Through the loopback the guest sends itself bytes that it leaves unread in the FIFO. */
static int serial_init(struct cpu *c)
{
    (void)c;
    serial_on = 0;
    outb(SERIAL + 7, 0xa7);
    if (inb(SERIAL + 7) != 0xa7) {
        return 0;
    }
    for (u32 i = 0; i < 100 && inb(SERIAL + 5) & 1; i++) {
        inb(SERIAL);
    }
    outb(SERIAL + 2, 0x81); /* FIFO on, trigger at 8 */
    outb(SERIAL + 3, 0x83);
    outb(SERIAL + 0, 0x0c);
    outb(SERIAL + 1, 0x00);
    for (u32 i = 0; i < sizeof(serial_regs) / sizeof(serial_regs[0]); i++) {
        outb((u16)(SERIAL + serial_regs[i][0]), serial_regs[i][1]);
    }
    serial_round = serial_round == 0xff ? 1 : serial_round + 1; /* 0: never set up */
    outb(SERIAL + 7, serial_round);
    if (!(inb(SERIAL + 5) & 0x40)) {
        return 1; /* still sending: the loopback would swallow that */
    }
    outb(SERIAL + 4, 0x1b);
    for (u32 i = 0; i < RX_BYTES; i++) {
        outb(SERIAL, (u8)(serial_round + i * 17));
    }
    outb(SERIAL + 4, 0x0b);
    serial_on = 1;
    return 1;
}

static u32 serial_regs_check(void)
{
    u8 lo, hi;

    if (inb(SERIAL + 7) != serial_round) {
        return 0x107;
    }
    for (u32 i = 0; i < sizeof(serial_regs) / sizeof(serial_regs[0]); i++) {
        if (inb((u16)(SERIAL + serial_regs[i][0])) != serial_regs[i][1]) {
            return 0x100u + serial_regs[i][0];
        }
    }
    if ((inb(SERIAL + 2) & 0xc0) != 0xc0) {
        return 0x102;
    }
    outb(SERIAL + 3, 0x83);
    lo = inb(SERIAL);
    hi = inb(SERIAL + 1);
    outb(SERIAL + 3, 0x03);
    return lo == 0x0c && hi == 0 ? 0 : 0x110;
}

static u32 serial_check(struct cpu *c)
{
    u32 bad = serial_regs_check();

    for (u32 i = 0; serial_on && i < RX_BYTES; i++) {
        u8 lsr = inb(SERIAL + 5);

        if (!(lsr & 1) || inb(SERIAL) != (u8)(serial_round + i * 17)) {
            bad = 0x120 + i;
            break;
        }
    }
    while (inb(SERIAL + 5) & 1) {
        u8 ch = inb(SERIAL);

        if (extra_n < sizeof(extra)) {
            extra[extra_n++] = ch;
        }
    }
    serial_init(c);
    return bad;
}

/* What SYS_GETC gives while the serial port is under test; ~1: ask the port. */
u64 dev_getc(void)
{
    u64 ch;

    if (!serial_round) {
        return ~1ull;
    }
    if (!extra_n) {
        return ~0ull;
    }
    ch = extra[0];
    extra_n--;
    for (u32 i = 0; i < extra_n; i++) {
        extra[i] = extra[i + 1];
    }
    return ch;
}

/* ---- fw_cfg ---- */

/* The signature item is left half read. */
static int fwcfg_init(struct cpu *c)
{
    (void)c;
    asm volatile("outw %0, %1" : : "a"((u16)0), "Nd"((u16)0x510));
    return inb(0x511) == 'Q' && inb(0x511) == 'E';
}

static u32 fwcfg_check(struct cpu *c)
{
    u32 bad = inb(0x511) == 'M' && inb(0x511) == 'U' ? 0 : 1;

    fwcfg_init(c);
    return bad;
}

/* ---- the list ---- */

static const struct device devices[DEV_ITEMS] = {
    [DEV_IOAPIC0] = { ioapic0_init, ioapic0_check },
    [DEV_IOAPIC1] = { ioapic1_init, ioapic1_check },
    [DEV_RTC_INDEX] = { rtc_index_init, rtc_index_check },
    [DEV_RTC] = { rtc_init, rtc_check },
    [DEV_RTC_TICK] = { rtc_tick_init, rtc_tick_check },
    [DEV_PIC] = { pic_init, pic_check },
    [DEV_PIT] = { pit_init, pit_check },
    [DEV_PIT_LATCH] = { pit_latch_init, pit_latch_check },
    [DEV_PIT_HALF] = { pit_half_init, pit_half_check },
    [DEV_SERIAL] = { serial_init, serial_check },
    [DEV_FWCFG] = { fwcfg_init, fwcfg_check },
};

static const struct device *device(u32 item)
{
    return devices[item].init ? &devices[item] : &cpu_devices[item];
}

int dev_init_r0(struct cpu *c, u32 item)
{
    return item < DEV_ITEMS && device(item)->init ? device(item)->init(c) : 0;
}

u32 dev_check_r0(struct cpu *c, u32 item)
{
    return item < DEV_ITEMS && device(item)->check ? device(item)->check(c) : 0;
}
