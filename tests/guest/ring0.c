/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ring 0 of the workload guest: descriptor tables, local APIC, serial port, MSRs, traps, and the
 * services that ring 3 asks for.
 *
 * Some hosts emulate ring 0 at about a million instructions per second and know only common
 * instructions there: no floating point, no INT n, no SYSCALL. So nothing here loops over memory,
 * and what can be done in ring 3 is done there.
 *
 * A trap that nobody expected is printed as `PANIC …` and stops the vCPU for good.
 */
#include <stddef.h>
#include "guest.h"

struct frame {
    u64 r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax;
    u64 vec, err, rip, cs, rflags, rsp, ss;
};

struct entry {
    void (*code)(struct cpu *);
    u64 stack;
};

struct idt_gate {
    u16 lo;
    u16 sel;
    u16 type;
    u16 mid;
    u32 hi;
    u32 zero;
};

struct tss {
    u32 pad0;
    u64 rsp0;
    u64 pad1[11];
    u16 pad2, iomap;
} __attribute__((packed));

_Static_assert(offsetof(struct cpu, ticks) == CPU_TICKS, "boot.S");
_Static_assert(offsetof(struct cpu, pit_ticks) == CPU_PIT_TICKS, "boot.S");
_Static_assert(offsetof(struct cpu, pv_eoi) == CPU_PV_EOI, "boot.S");
_Static_assert(sizeof(struct tss) == 104, "hardware");
_Static_assert(sizeof(struct mailbox_cpu) == MAILBOX_CPU_SIZE, "mailbox.h");
_Static_assert(sizeof(struct mailbox_bad) == MAILBOX_BAD_SIZE, "mailbox.h");
_Static_assert(sizeof(struct mailbox_header) <= MAILBOX_CPU_OFF, "mailbox.h");

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_KVM_WALL     0x4b564d00
#define MSR_KVM_CLOCK    0x4b564d01
#define MSR_KVM_APF      0x4b564d02
#define MSR_KVM_STEAL    0x4b564d03
#define MSR_KVM_EOI      0x4b564d04
#define MSR_KVM_APF_INT  0x4b564d06
#define MSR_KVM_APF_ACK  0x4b564d07
#define KVM_F_CLOCK      (1u << 3)
#define KVM_F_APF        (1u << 4)
#define KVM_F_STEAL      (1u << 5)
#define KVM_F_EOI        (1u << 6)
#define KVM_F_APF_INT    (1u << 14)

#define APIC_BASE    0xfee00000u
#define APIC_ID      0x20
#define APIC_TPR     0x80
#define APIC_EOI     0xb0
#define APIC_SVR     0xf0
#define APIC_ICR     0x300
#define APIC_ICR_HI  0x310
#define APIC_TIMER   0x320
#define APIC_LINT0   0x350
#define APIC_INITIAL 0x380
#define APIC_CURRENT 0x390
#define APIC_DIVIDE  0x3e0

/* registers of the generic event device, at the place the FADT of a microvm gives */
#define GED_SLEEP 0xfea00200u
#define GED_RESET 0xfea00202u

#define SERIAL 0x3f8

extern u64 gdt[];
extern u32 start_info, ap_stack;
extern u64 isr_trap_table[32];
extern char trampoline[], trampoline_end[];
extern void isr_timer(void), isr_timer_rearm(void), isr_pit(void), isr_apf(void), isr_ud(void),
    isr_ignore(void);
extern void main0(struct cpu *c);

struct cpu cpus[CPU_MAX];
struct pvwall pvwall __attribute__((aligned(64)));
u8 x2apic_on;
u32 kvm_base, kvm_features;
u32 cpuid1_ecx, cpuid1_edx;
u64 tsc_khz;

static struct idt_gate idt[GUEST_VECTORS] __attribute__((aligned(4096)));
static struct tss tss[CPU_MAX] __attribute__((aligned(128)));
__attribute__((section(".noinit,\"aw\",@nobits#"), aligned(GUEST_KSTACK)))
u8 kstacks[CPU_MAX][GUEST_KSTACK];
__attribute__((section(".noinit,\"aw\",@nobits#"), aligned(4096)))
u8 ustacks[CPU_MAX][GUEST_USTACK];

/* ---- ports, MSRs, local APIC ---- */

void outb(u16 port, u8 v)
{
    asm volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

u8 inb(u16 port)
{
    u8 v;

    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static void outw(u16 port, u16 v)
{
    asm volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

/* Both return 0, or -1 if the MSR is refused (#GP), which is an answer here and no panic. */
int msr_write(struct cpu *c, u32 msr, u64 v)
{
    int ok = -1;

    asm volatile("leaq 1f(%%rip), %%r8; movq %%r8, %1\n\t"
                 "wrmsr\n\t"
                 "xorl %0, %0\n"
                 "1: movq $0, %1"
                 : "+r"(ok), "=m"(c->fixup)
                 : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32))
                 : "r8", "memory", "cc");
    return ok;
}

int msr_read(struct cpu *c, u32 msr, u64 *v)
{
    u32 lo = 0, hi = 0;
    int ok = -1;

    asm volatile("leaq 1f(%%rip), %%r8; movq %%r8, %1\n\t"
                 "rdmsr\n\t"
                 "xorl %0, %0\n"
                 "1: movq $0, %1"
                 : "+r"(ok), "=m"(c->fixup), "+a"(lo), "+d"(hi)
                 : "c"(msr)
                 : "r8", "memory", "cc");
    *v = (u64)hi << 32 | lo;
    return ok;
}

u32 apic_read(u32 reg)
{
    u32 lo, hi;

    if (x2apic_on) {
        asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(0x800 + (reg >> 4)));
        return lo;
    }
    return *(volatile u32 *)(u64)(APIC_BASE + reg);
}

void apic_write(u32 reg, u32 v)
{
    if (x2apic_on) {
        asm volatile("wrmsr" : : "a"(v), "d"(0), "c"(0x800 + (reg >> 4)) : "memory");
    } else {
        *(volatile u32 *)(u64)(APIC_BASE + reg) = v;
    }
}

static void apic_icr(u32 id, u32 v)
{
    if (x2apic_on) {
        asm volatile("wrmsr" : : "a"(v), "d"(id), "c"(0x830) : "memory");
    } else {
        apic_write(APIC_ICR_HI, id << 24);
        apic_write(APIC_ICR, v);
    }
}

static void cpuid(u32 leaf, u32 *a, u32 *b, u32 *c, u32 *d)
{
    asm volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(0));
}

/* ---- panic ---- */

static void putc_now(char ch)
{
    for (int i = 0; i < 1000 && !(inb(SERIAL + 5) & 0x20); i++) {
    }
    outb(SERIAL, (u8)ch);
}

static void puts_now(const char *s)
{
    while (*s) {
        putc_now(*s++);
    }
}

static void hex_now(const char *name, u64 v)
{
    int shift = 60;

    puts_now(name);
    while (shift > 0 && !(v >> shift)) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        putc_now("0123456789abcdef"[v >> shift & 15]);
    }
}

static void panic(struct frame *f, struct cpu *c)
{
    u64 cr2;

    asm volatile("mov %%cr2, %0" : "=r"(cr2));
    mailbox->state = MAILBOX_STATE_PANIC;
    puts_now("\nPANIC");
    hex_now(" cpu=0x", c->index);
    hex_now(" vec=0x", f->vec);
    hex_now(" err=0x", f->err);
    hex_now(" cs=0x", f->cs);
    hex_now(" rip=0x", f->rip);
    hex_now(" rsp=0x", f->rsp);
    hex_now(" cr2=0x", cr2);
    puts_now("\n");
    for (;;) {
        asm volatile("cli; hlt");
    }
}

/* Entered from boot.S for every exception but UD2 of ring 3. */
void trap(struct frame *f, struct cpu *c);
void trap(struct frame *f, struct cpu *c)
{
    if (f->vec == 14 && (c->apf.flags & 1)) {
        /* Async page fault, page not present: going back to fault again makes the host wait. */
        c->apf.flags = 0;
        c->apf_events++;
        return;
    }
    if (!(f->cs & 3) && c->fixup && (f->vec == 13 || f->vec == 6)) {
        f->rip = c->fixup;
        return;
    }
    panic(f, c);
}

void apf_ready(struct cpu *c);
void apf_ready(struct cpu *c)
{
    c->apf_events++;
    c->apf.token = 0;
    msr_write(c, MSR_KVM_APF_ACK, 1);
}

/* ---- timer ---- */

void timer_rearm(struct cpu *c);
void timer_rearm(struct cpu *c)
{
    if (cfg.timer == TIMER_TSC) {
        u64 t = rdtsc_ordered() + c->timer_count;

        asm volatile("wrmsr" : : "c"(MSR_TSC_DEADLINE), "a"((u32)t), "d"((u32)(t >> 32)));
    } else {
        apic_write(APIC_INITIAL, c->timer_count);
    }
}

static void pic_start(void)
{
    static const u16 seq[][2] = {
        { 0x20, 0x11 },        { 0x21, VEC_PIT }, { 0x21, 4 }, { 0x21, 1 },    { 0xa0, 0x11 },
        { 0xa1, VEC_PIT + 8 }, { 0xa1, 2 },       { 0xa1, 1 }, { 0xa1, 0xff }, { 0x21, 0xfe },
    };

    for (u32 i = 0; i < sizeof(seq) / sizeof(seq[0]); i++) {
        outb(seq[i][0], (u8)seq[i][1]);
    }
}

/* Channel 0 as rate generator, through the PIC and LINT0 (ExtINT). */
static void pit_start(u32 hz)
{
    u32 count = 1193182 / hz;

    count = count > 0xffff ? 0 : count;
    pic_start();
    outb(0x43, 0x34);
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
    apic_write(APIC_LINT0, 0x700);
}

static void timer_start(struct cpu *c)
{
    static const u32 lvt[] = {
        [TIMER_PERIODIC] = VEC_TIMER | 1u << 17,
        [TIMER_ONESHOT] = VEC_TIMER_ONESHOT,
        [TIMER_TSC] = VEC_TIMER_TSC | 2u << 17,
        [TIMER_PIT] = VEC_TIMER | 1u << 17, /* for all but vCPU 0 */
    };

    if (cfg.timer == TIMER_PIT && c->index == 0) {
        pit_start(cfg.hz);
        return;
    }
    if (cfg.devstate && c->index == 0) {
        pit_start(20);
    }
    apic_write(APIC_DIVIDE, 3);
    apic_write(APIC_TIMER, lvt[cfg.timer]);
    if (cfg.timer == TIMER_TSC) {
        c->timer_count = (u32)(tsc_khz * 1000 / cfg.hz);
        timer_rearm(c);
    } else {
        c->timer_count = APIC_TIMER_HZ / cfg.hz;
        apic_write(APIC_INITIAL, c->timer_count);
    }
}

/* ---- start of a vCPU ---- */

static void idt_gate(u32 vec, u64 addr)
{
    idt[vec] = (struct idt_gate){
        .lo = (u16)addr,
        .sel = SEL_CODE0,
        .type = 0x8e00,
        .mid = (u16)(addr >> 16),
        .hi = (u32)(addr >> 32),
    };
}

static void idt_build(void)
{
    for (u32 i = 0; i < GUEST_VECTORS; i++) {
        idt_gate(i, i < 32 ? isr_trap_table[i] : (u64)isr_ignore);
    }
    idt_gate(6, (u64)isr_ud);
    idt_gate(VEC_PIT, (u64)isr_pit);
    idt_gate(VEC_TIMER, (u64)isr_timer);
    idt_gate(VEC_TIMER_ONESHOT, (u64)isr_timer_rearm);
    idt_gate(VEC_TIMER_TSC, (u64)isr_timer_rearm);
    idt_gate(VEC_APF, (u64)isr_apf);
}

static void cpu_tables(struct cpu *c)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) ptr = { sizeof(idt) - 1, (u64)idt };
    u64 t = (u64)&tss[c->index];
    u64 *d = &gdt[SEL_TSS / 8 + c->index * 2];

    tss[c->index].rsp0 = c->kstack_top;
    tss[c->index].iomap = sizeof(struct tss);
    d[0] = 0x0000890000000067 | (t & 0xffffff) << 16 | (t >> 24 & 0xff) << 56;
    d[1] = t >> 32;
    asm volatile("lidt %0" : : "m"(ptr));
    asm volatile("ltr %w0" : : "r"(SEL_TSS + c->index * 16));
}

static void kvm_find(void)
{
    u32 a, b, c, d;

    cpuid(1, &a, &b, &cpuid1_ecx, &cpuid1_edx);
    if (!(cpuid1_ecx & 1u << 31)) {
        return;
    }
    cpuid(0x40000000, &a, &b, &c, &d);
    if (b == 0x4b4d564b && c == 0x564b4d56 && d == 0x4d) {
        kvm_base = 0x40000000;
        cpuid(kvm_base + 1, &kvm_features, &b, &c, &d);
    }
    /* leaf 0x10 tells the TSC frequency where there is one */
    cpuid(0x40000000, &a, &b, &c, &d);
    if (a >= 0x40000010) {
        cpuid(0x40000010, &a, &b, &c, &d);
        tsc_khz = a;
    }
}

static void kvm_msrs(struct cpu *c)
{
    if (!cfg.pv) {
        return;
    }
    if (kvm_features & KVM_F_CLOCK) {
        msr_write(c, MSR_KVM_CLOCK, (u64)&c->pv | 1);
    }
    if (kvm_features & KVM_F_STEAL) {
        msr_write(c, MSR_KVM_STEAL, (u64)&c->steal | 1);
    }
    if (kvm_features & KVM_F_EOI) {
        msr_write(c, MSR_KVM_EOI, (u64)&c->pv_eoi | 1);
    }
    if (cfg.apf && (kvm_features & KVM_F_APF) && (kvm_features & KVM_F_APF_INT)) {
        msr_write(c, MSR_KVM_APF_INT, VEC_APF);
        msr_write(c, MSR_KVM_APF, (u64)&c->apf | 1 | 1u << 3);
    }
}

static void apic_start(struct cpu *c)
{
    u64 base;

    if (cfg.x2apic && (cpuid1_ecx & 1u << 21) && !msr_read(c, MSR_APIC_BASE, &base)) {
        if (!msr_write(c, MSR_APIC_BASE, base | 0xc00)) {
            x2apic_on = 1;
        }
    }
    apic_write(APIC_TPR, 0);
    apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
    mailbox_cpu(c->index)->apic_id = x2apic_on ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
}

/*
 * Called once per vCPU on its ring-0 stack, interrupts off. vCPU 0 comes without a configuration:
 * it starts its APIC and its PV MSRs when main0() has read the command line and asks for the timer.
 */
struct entry ring0_start(struct cpu *c);
struct entry ring0_start(struct cpu *c)
{
    if (c == cpus) {
        c->kstack_top = (u64)kstacks[1];
        c->ustack_top = (u64)ustacks[1];
        idt_build();
        cpu_tables(c);
        kvm_find();
        outb(SERIAL + 1, 0);
        outb(SERIAL + 3, 3);
        outb(SERIAL + 2, 7);
        outb(SERIAL + 4, 3);
        return (struct entry){ main0, c->ustack_top - 8 };
    }
    cpu_tables(c);
    apic_start(c);
    kvm_msrs(c);
    c->online = 1;
    return (struct entry){ work_loop, c->ustack_top - 8 };
}

static u64 sipi(u64 apic_id, u64 index)
{
    struct cpu *c = &cpus[index];
    volatile u8 *to = (volatile u8 *)GUEST_TRAMPOLINE;

    for (long i = 0; i < trampoline_end - trampoline; i++) {
        to[i] = (u8)trampoline[i];
    }
    c->index = (u32)index;
    c->kstack_top = (u64)kstacks[index] + GUEST_KSTACK;
    c->ustack_top = (u64)ustacks[index] + GUEST_USTACK;
    *(u64 *)kstacks[index] = (u64)c;
    ap_stack = (u32)c->kstack_top;
    apic_icr((u32)apic_id, 0x4600 | GUEST_TRAMPOLINE >> 12);
    return 0;
}

/* ---- services ---- */

static u64 serial_puts(const char *s, u64 n)
{
    /* One string instruction is one exit where sixteen OUTs are sixteen; the FIFO holds them all.
     */
    if (!(inb(SERIAL + 5) & 0x20)) {
        return 0;
    }
    n = n > 16 ? 16 : n;
    u64 left = n;

    asm volatile("rep outsb" : "+S"(s), "+c"(left) : "d"(SERIAL) : "memory");
    return n;
}

static u64 sys_getc(void)
{
    u64 ch = dev_getc();

    return ch != ~1ull ? ch : inb(SERIAL + 5) & 1 ? inb(SERIAL) : ~0ull;
}

static void sys_reset(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) none = { 0, 0 };

    asm volatile("cli; lidt %0; ud2" : : "m"(none));
}

static u64 fw_cfg_cpus(void)
{
    u64 n;

    outw(0x510, 5); /* FW_CFG_NB_CPUS, 16 bits, little endian */
    n = inb(0x511);
    return n | (u64)inb(0x511) << 8;
}

/* Called from isr_ud. */
u64 sys_dispatch(u64 nr, u64 a, u64 b, struct cpu *c);
u64 sys_dispatch(u64 nr, u64 a, u64 b, struct cpu *c)
{
    switch (nr) {
    case SYS_WAIT:
        asm volatile("sti; hlt; cli" : : : "memory");
        return 0;
    case SYS_PUTS:
        return serial_puts((const char *)a, b);
    case SYS_GETC:
        return sys_getc();
    case SYS_OFF:
        *(volatile u8 *)GED_SLEEP = 0x34; /* S5, go */
        return 0;
    case SYS_ACPI_RESET:
        *(volatile u8 *)GED_RESET = 0x42;
        return 0;
    case SYS_RESET:
        sys_reset();
        return 0;
    case SYS_WALL:
        return (u64)msr_write(c, MSR_KVM_WALL, (u64)&pvwall);
    case SYS_CPUS:
        return fw_cfg_cpus();
    case SYS_INIT_APS:
        apic_start(c);
        kvm_msrs(c);
        if (a > 1) {
            apic_icr(0, 0xc4500);
        }
        return 0;
    case SYS_SIPI:
        return sipi(a, b);
    case SYS_CALIBRATE:
        if (a) {
            return apic_read(APIC_CURRENT);
        }
        apic_write(APIC_TIMER, 1u << 16 | VEC_TIMER);
        apic_write(APIC_DIVIDE, 3);
        apic_write(APIC_INITIAL, ~0u);
        return 0;
    case SYS_TIMER:
        timer_start(c);
        return 0;
    case SYS_DEV_INIT:
        return (u64)dev_init_r0(c, (u32)a);
    case SYS_DEV_AVX:
        return (u64)dev_avx(c);
    case SYS_DEV_CHECK:
        return dev_check_r0(c, (u32)a);
    default:
        return ~0ull;
    }
}
