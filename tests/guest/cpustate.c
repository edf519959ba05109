/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * devstate=1, what belongs to each vCPU: MSRs, control and debug registers, local APIC with an
 * interrupt held back, steal time. Ring 0. As in devices.c each item has a function that sets it up
 * and one that compares.
 *
 * An MSR that a host refuses or does not keep as written is not under test there: what counts is
 * that what the guest could read before a migration it reads after it.
 */
#include "guest.h"

struct saved {
    u64 msr[32];
    u32 msr_on;
    u64 cr[4];
    u64 dr[5];
    u32 apic[16];
    u64 steal;
};

static struct saved saved[CPU_MAX];

/* ---- MSRs, control and debug registers ---- */

enum msr_how {
    KEEP,     /* only what is there is remembered */
    SET,      /* written first */
    SET_EACH, /* likewise, with a different value on each vCPU */
};

static const struct {
    u32 msr;
    enum msr_how how;
    u64 value;
} msrs[] = {
    { 0xc0000080, KEEP, 0 },                      /* EFER */
    { 0xc0000081, SET_EACH, 0x0018000800000000 }, /* STAR */
    { 0xc0000082, SET_EACH, 0x00007fff12345000 }, /* LSTAR */
    { 0xc0000083, SET_EACH, 0x00007ffe12345000 }, /* CSTAR */
    { 0xc0000084, SET_EACH, 0x47700 },            /* SYSCALL mask */
    { 0xc0000100, SET_EACH, 0x0000123456789000 }, /* FS base */
    { 0xc0000101, SET_EACH, 0x0000223456789000 }, /* GS base */
    { 0xc0000102, SET_EACH, 0x0000323456789000 }, /* kernel GS base */
    { 0xc0000103, SET_EACH, 0x1234 },             /* TSC_AUX */
    { 0x174, SET_EACH, 0x10 },                    /* SYSENTER CS, ESP, EIP */
    { 0x175, SET_EACH, 0x0000423456789000 },
    { 0x176, SET_EACH, 0x0000523456789000 },
    { 0x277, SET, 0x0007010600070106 }, /* PAT */
    { 0x2ff, KEEP, 0 },                 /* MTRR default type */
    { 0x250, SET, 0x0606060606060606 }, /* MTRR fixed 64K */
    { 0x200, SET, 0xc0000000 },         /* MTRR variable 0 */
    { 0x201, SET, 0x000000ffc0000800 },
    { 0x1b, KEEP, 0 },       /* APIC base */
    { 0x1a0, KEEP, 0 },      /* MISC_ENABLE */
    { 0x3a, KEEP, 0 },       /* FEATURE_CONTROL */
    { 0x3b, KEEP, 0 },       /* TSC_ADJUST */
    { 0x48, KEEP, 0 },       /* SPEC_CTRL */
    { 0x17a, KEEP, 0 },      /* MCG_STATUS */
    { 0x4b564d00, KEEP, 0 }, /* KVM: wall clock */
    { 0x4b564d01, KEEP, 0 }, /* system time */
    { 0x4b564d02, KEEP, 0 }, /* async page faults */
    { 0x4b564d03, KEEP, 0 }, /* steal time */
    { 0x4b564d04, KEEP, 0 }, /* EOI */
    { 0x4b564d05, SET, 0 },  /* poll control: 1 without this */
    { 0x4b564d06, KEEP, 0 }, /* async page fault vector */
};

#define MSRS (sizeof(msrs) / sizeof(msrs[0]))
_Static_assert(MSRS <= 32, "saved.msr_on");

static int msr_init(struct cpu *c)
{
    struct saved *s = &saved[c->index];

    s->msr_on = 0;
    for (u32 i = 0; i < MSRS; i++) {
        u64 v = msrs[i].value + (msrs[i].how == SET_EACH ? c->index * 16 : 0);

        if (msrs[i].how != KEEP && msr_write(c, msrs[i].msr, v)) {
            continue;
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
    apic_write(0x340, 1u << 16 | 0x400);             /* performance counters: NMI, masked */
    apic_write(0x360, c->index ? 1u << 16 : 0x400);  /* LINT1: NMI */
    apic_write(0x370, 1u << 16 | (0x50 + c->index)); /* error, masked */
    apic_write(0x80, 0x20);                          /* holds back vectors up to 0x2f */
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

/* ---- the list ---- */

const struct device cpu_devices[DEV_ITEMS] = {
    [DEV_MSR] = { msr_init, msr_check }, [DEV_CR] = { cr_init, cr_check },
    [DEV_DR] = { dr_init, dr_check },    [DEV_LAPIC] = { lapic_init, lapic_check },
    [DEV_IRR] = { irr_init, irr_check }, [DEV_STEAL] = { steal_init, steal_check },
};
