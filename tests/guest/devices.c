/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * devstate=1, the part in ring 0: registers of the CPU and of the devices of a microvm. Each item
 * has a function that sets it up (returns 0 where this machine lacks it) and one that compares
 * (returns 0 for good, else a code that says what differs, listed in README.md).
 *
 * Besides plain registers, the half-way states are set up that are easily forgotten: an index
 * register left pointing somewhere, a latched counter, the first byte of two written, received
 * bytes not yet read, an interrupt held back.
 */
#include "guest.h"

#define RTC_INDEX_LEFT 0x45
#define RX_BYTES       5
#define IOAPIC_PINS    24

struct saved {
    u64 msr[32];
    u32 msr_on;
    u64 cr[4];
    u64 dr[5];
    u32 apic[16];
    u64 steal;
};

static struct saved saved[CPU_MAX];

static u8 pic_elcr;
static u16 pit_before, pit_allow;
static u8 pit_valid;
static u8 rtc_misses;
static u8 serial_round;
static u8 serial_on;
static u8 extra[16]; /* bytes that came in behind ours: commands */
static u32 extra_n;

/* ---- MSRs, control and debug registers ---- */

/* `set`: written first, with the vCPU's number added; else only what is there is remembered. */
static const struct {
    u32 msr;
    u8 set;
    u64 value;
} msrs[] = {
    { 0xc0000080, 0, 0 },                  /* EFER */
    { 0xc0000081, 1, 0x0018000800000000 }, /* STAR */
    { 0xc0000082, 1, 0x00007fff12345000 }, /* LSTAR */
    { 0xc0000083, 1, 0x00007ffe12345000 }, /* CSTAR */
    { 0xc0000084, 1, 0x47700 },            /* SYSCALL mask */
    { 0xc0000100, 1, 0x0000123456789000 }, /* FS base */
    { 0xc0000101, 1, 0x0000223456789000 }, /* GS base */
    { 0xc0000102, 1, 0x0000323456789000 }, /* kernel GS base */
    { 0xc0000103, 1, 0x1234 },             /* TSC_AUX */
    { 0x174, 1, 0x10 },                    /* SYSENTER */
    { 0x175, 1, 0x0000423456789000 },
    { 0x176, 1, 0x0000523456789000 },
    { 0x277, 1, 0x0007010600070106 }, /* PAT, as firmware leaves it; the vCPU's number is not added */
    { 0x2ff, 0, 0 },                  /* MTRR default type */
    { 0x250, 1, 0x0606060606060606 }, /* MTRR fixed 64K */
    { 0x200, 1, 0xc0000000 },         /* MTRR variable 0 */
    { 0x201, 1, 0x000000ffc0000800 },
    { 0x1b, 0, 0 },       /* APIC base */
    { 0x1a0, 0, 0 },      /* MISC_ENABLE */
    { 0x3a, 0, 0 },       /* FEATURE_CONTROL */
    { 0x3b, 0, 0 },       /* TSC_ADJUST */
    { 0x48, 0, 0 },       /* SPEC_CTRL */
    { 0x17a, 0, 0 },      /* MCG_STATUS */
    { 0x4b564d00, 0, 0 }, /* KVM: wall clock */
    { 0x4b564d01, 0, 0 }, /* system time */
    { 0x4b564d02, 0, 0 }, /* async page faults */
    { 0x4b564d03, 0, 0 }, /* steal time */
    { 0x4b564d04, 0, 0 }, /* EOI */
    { 0x4b564d05, 1, 0 }, /* poll control */
    { 0x4b564d06, 0, 0 }, /* async page fault vector */
};

#define MSRS (sizeof(msrs) / sizeof(msrs[0]))
_Static_assert(MSRS <= 32, "saved.msr_on");

static int msr_init(struct cpu *c)
{
    struct saved *s = &saved[c->index];

    s->msr_on = 0;
    for (u32 i = 0; i < MSRS; i++) {
        u64 v = msrs[i].value;

        if (msrs[i].set) {
            /* MTRR, PAT and poll control take no odd numbers */
            v += msrs[i].msr > 0x1ff && msrs[i].msr < 0x300 ? 0
               : msrs[i].msr == 0x4b564d05                  ? 0
                                                            : c->index * 16;
            if (msr_write(c, msrs[i].msr, v)) {
                continue;
            }
        }
        if (!msr_read(c, msrs[i].msr, &s->msr[i])) {
            s->msr_on |= 1u << i;
        }
    }
    return s->msr_on != 0;
}

static u32 msr_check(struct cpu *c)
{
    struct saved *s = &saved[c->index];

    for (u32 i = 0; i < MSRS; i++) {
        u64 v;

        if (s->msr_on >> i & 1 && (msr_read(c, msrs[i].msr, &v) || v != s->msr[i])) {
            return msrs[i].msr;
        }
    }
    return 0;
}

static void cr_read(u64 *cr)
{
    asm volatile("mov %%cr0, %0" : "=r"(cr[0]));
    asm volatile("mov %%cr3, %0" : "=r"(cr[1]));
    asm volatile("mov %%cr4, %0" : "=r"(cr[2]));
    asm volatile("mov %%cr8, %0" : "=r"(cr[3]));
}

static int cr_init(struct cpu *c)
{
    cr_read(saved[c->index].cr);
    return 1;
}

static u32 cr_check(struct cpu *c)
{
    static const u8 number[] = { 0, 3, 4, 8 };
    u64 cr[4];

    cr_read(cr);
    for (u32 i = 0; i < 4; i++) {
        if (cr[i] != saved[c->index].cr[i]) {
            return 0x100u + number[i];
        }
    }
    return 0;
}

static void dr_read(u64 *dr)
{
    asm volatile("mov %%dr0, %0" : "=r"(dr[0]));
    asm volatile("mov %%dr1, %0" : "=r"(dr[1]));
    asm volatile("mov %%dr2, %0" : "=r"(dr[2]));
    asm volatile("mov %%dr3, %0" : "=r"(dr[3]));
    asm volatile("mov %%dr7, %0" : "=r"(dr[4]));
}

static int dr_init(struct cpu *c)
{
    u64 *dr = saved[c->index].dr;

    asm volatile("mov %0, %%dr0" : : "r"(0x11110000ull + c->index));
    asm volatile("mov %0, %%dr1" : : "r"(0x22220000ull));
    asm volatile("mov %0, %%dr2" : : "r"(0x33330000ull));
    asm volatile("mov %0, %%dr3" : : "r"(0x44440000ull));
    dr_read(dr);
    return dr[0] == 0x11110000ull + c->index && dr[3] == 0x44440000ull;
}

static u32 dr_check(struct cpu *c)
{
    u64 dr[5];

    dr_read(dr);
    for (u32 i = 0; i < 5; i++) {
        if (dr[i] != saved[c->index].dr[i]) {
            return 0x200 + i;
        }
    }
    return 0;
}

/*
 * Whether this CPU can AVX and the command line wants it tested (avx=1); if so it is switched on.
 * Not by default: some hosts cannot keep CPUID from showing AVX though their VMM does not move it.
 */
int dev_avx(struct cpu *c)
{
    u32 want = 1u << 26 | 1u << 28;
    u64 cr4;

    (void)c;
    if (!cfg.avx || (cpuid1_ecx & want) != want) {
        return 0;
    }
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    asm volatile("mov %0, %%cr4" : : "r"(cr4 | 1u << 18));
    asm volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    return 1;
}

/* ---- local APIC ---- */

/* TPR, LDR, DFR, SVR, the LVTs, divide and initial count, ICR */
static const u16 apic_regs[] = { 0x080, 0x0d0, 0x0e0, 0x0f0, 0x330, 0x340,
                                 0x350, 0x360, 0x370, 0x3e0, 0x380, 0x300 };

#define APIC_REGS (sizeof(apic_regs) / sizeof(apic_regs[0]))

static int apic_has(u32 reg)
{
    /* x2APIC has no DFR; with a TSC deadline there is no initial count */
    return !(x2apic_on && reg == 0xe0) && !(cfg.timer == TIMER_TSC && reg == 0x380);
}

static int lapic_init(struct cpu *c)
{
    if (!x2apic_on) {
        apic_write(0xd0, 1u << (24 + c->index % 8));
    }
    apic_write(0x340, 1u << 16 | 0x400);               /* performance counters: NMI, masked */
    apic_write(0x360, c->index ? 1u << 16 : 0x400);    /* LINT1: NMI */
    apic_write(0x370, 1u << 16 | (0x50 + c->index));   /* error, masked */
    apic_write(0x80, 0x20);                            /* holds back vectors up to 0x2f */
    for (u32 i = 0; i < APIC_REGS; i++) {
        if (apic_has(apic_regs[i])) {
            saved[c->index].apic[i] = apic_read(apic_regs[i]);
        }
    }
    return 1;
}

static u32 lapic_check(struct cpu *c)
{
    for (u32 i = 0; i < APIC_REGS; i++) {
        if (apic_has(apic_regs[i]) && apic_read(apic_regs[i]) != saved[c->index].apic[i]) {
            return 0x1000u + apic_regs[i];
        }
    }
    return 0;
}

/* An interrupt to itself, held back by the task priority: it stays requested for ever. */
static int irr_init(struct cpu *c)
{
    (void)c;
    if (x2apic_on) {
        asm volatile("wrmsr" : : "a"(VEC_PENDING), "d"(0), "c"(0x83f) : "memory");
    } else {
        apic_write(0x300, 0x40000 | VEC_PENDING);
    }
    saved[c->index].apic[APIC_REGS - 1] = apic_read(0x300);
    return apic_read(0x210) >> (VEC_PENDING - 32) & 1;
}

static u32 irr_check(struct cpu *c)
{
    (void)c;
    return apic_read(0x210) >> (VEC_PENDING - 32) & 1 ? 0 : VEC_PENDING;
}

static int steal_init(struct cpu *c)
{
    u64 v;

    if (!cfg.pv || !(kvm_features & 1u << 5) || msr_read(c, 0x4b564d03, &v) || !(v & 1)) {
        return 0;
    }
    saved[c->index].steal = c->steal.steal;
    return 1;
}

static u32 steal_check(struct cpu *c)
{
    u64 now = c->steal.steal;
    u32 bad = now < saved[c->index].steal;

    saved[c->index].steal = now;
    return bad;
}

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

/* Channel 2 has the first byte of a new, small count written; the check writes the second. */
static int pit_half_init(struct cpu *c)
{
    (void)c;
    outb(0x43, 0xb4);
    outb(0x42, 0xf0);
    outb(0x42, 0xff);
    if (pit_count(2) <= 0x400 && pit_count(2) <= 0x400) {
        return 0;
    }
    outb(0x42, 0x00);
    return 1;
}

static u32 pit_half_check(struct cpu *c)
{
    u16 count;

    outb(0x42, 0x04);
    count = pit_count(2);
    pit_half_init(c);
    return count > 0x400 ? 0x10000u | count : 0;
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
    serial_round++;
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

static const struct {
    int (*init)(struct cpu *);
    u32 (*check)(struct cpu *);
} devices[DEV_ITEMS] = {
    [DEV_MSR] = { msr_init, msr_check },
    [DEV_CR] = { cr_init, cr_check },
    [DEV_DR] = { dr_init, dr_check },
    [DEV_LAPIC] = { lapic_init, lapic_check },
    [DEV_IRR] = { irr_init, irr_check },
    [DEV_STEAL] = { steal_init, steal_check },
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

int dev_init_r0(struct cpu *c, u32 item)
{
    return item < DEV_ITEMS && devices[item].init ? devices[item].init(c) : 0;
}

u32 dev_check_r0(struct cpu *c, u32 item)
{
    return item < DEV_ITEMS && devices[item].check ? devices[item].check(c) : 0;
}
