/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside of the workload guest: what its assembler, ring-0 and ring-3 parts share.
 *
 *   boot.S      PVH entry, AP trampoline, interrupt entries
 *   ring0.c     traps, local APIC, serial port, MSRs: small, because ring 0 may be emulated
 *   main.c      ring 3: arguments, memory layout, start of the APs, first writing of all pages
 *   work.c      ring 3: the loop every vCPU stays in
 *   report.c    ring 3, vCPU 0: lines for the serial port, commands
 *   devstate.c  ring 3: device state that a migration must not lose (devstate=1)
 *   devices.c   ring 0: the same, registers of the chips
 *   cpustate.c  ring 0: the same, registers of the vCPU
 *   virtio.c    ring 3, vCPU 0: virtio devices; disk.c and nic.c: work for them (blk=1, net=)
 *
 * All memory is mapped one to one and open to ring 3; the guest protects nothing from itself.
 * Ring 3 asks ring 0 by UD2, see sys().
 */
#ifndef TESTS_GUEST_GUEST_H
#define TESTS_GUEST_GUEST_H

#define GUEST_KSTACK      4096 /* per vCPU ring-0 stack; its lowest word points to the struct cpu */
#define GUEST_USTACK      8192
#define GUEST_TRAMPOLINE  0x8000
#define GUEST_VECTORS     0x60
#define VEC_PIT           0x20 /* PIC: 0x20-0x27 and 0x28-0x2f */
#define VEC_TIMER         0x30 /* LAPIC timer, periodic */
#define VEC_TIMER_ONESHOT 0x31
#define VEC_TIMER_TSC     0x32
#define VEC_APF           0x34
#define VEC_SPURIOUS      0x3f
#define VEC_PENDING       0x2e      /* raised, but held back by the task priority (devstate=1) */
#define APIC_TIMER_HZ     62500000u /* KVM's and TCG's local APIC count at 1 GHz; divided by 16 */
#define SEL_CODE0         0x08
#define SEL_DATA0         0x10
#define SEL_CODE32        0x18
#define SEL_DATA3         0x23
#define SEL_CODE3         0x2b
#define SEL_TSS           0x30

/* offsets of struct cpu for boot.S, checked in ring0.c */
#define CPU_TICKS     0
#define CPU_PIT_TICKS 8
#define CPU_PV_EOI    16

#ifndef __ASSEMBLER__

#include <stdint.h>
#include "mailbox.h"
#include "pattern.h"

#define PAGE_SIZE 4096u
#define CPU_MAX   MAILBOX_CPU_MAX

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t s64;

/* ring-0 services */
enum sys_nr {
    SYS_WAIT,       /* halt until the next interrupt */
    SYS_PUTS,       /* a: text, b: length, at most 16; returns how much was taken */
    SYS_GETC,       /* returns a received byte or -1 */
    SYS_OFF,        /* power off; comes back, and for good if there is no such register */
    SYS_ACPI_RESET, /* likewise */
    SYS_RESET,      /* reset by triple fault */
    SYS_WALL,       /* have the wall clock structure filled in again */
    SYS_CPUS,       /* returns the number of vCPUs according to fw_cfg */
    SYS_INIT_APS,   /* INIT to all others */
    SYS_SIPI,       /* a: APIC id, b: vCPU index */
    SYS_CALIBRATE,  /* a=0: LAPIC timer counts down from ~0 without interrupt; a=1: current count */
    SYS_TIMER,      /* start this vCPU's timer */
    SYS_DEV_INIT,   /* a: item of device state; returns whether it exists here */
    SYS_DEV_AVX,    /* switch AVX on; returns 1 if there is any */
    SYS_DEV_CHECK,  /* a: item; returns 0 for good or a detail code */
};

enum timer_kind { TIMER_PERIODIC, TIMER_ONESHOT, TIMER_TSC, TIMER_PIT };
enum pick_kind { PICK_SEQ, PICK_RANDOM, PICK_HOT };
enum exit_kind { EXIT_OFF, EXIT_RESET, EXIT_ACPI_RESET, EXIT_HALT };

/* The command line, read once by vCPU 0 before the others start. */
struct config {
    u64 mem;       /* bytes to initialise, 0 for all */
    u64 ws;        /* bytes of working set, 0 for all that is initialised */
    u64 rate;      /* pages written per second by all vCPUs together; ~0 as fast as possible */
    u64 vrate;     /* pages verified per second, likewise */
    u64 report_ns; /* between T lines, 0 for none */
    u64 poll_ns;   /* between looks at the serial input, 0 for never */
    u64 run_ns;    /* stop after so long, 0 for never */
    u64 dev_ns;    /* between device state checks */
    u64 seed;
    u64 cpus;     /* 0: ask fw_cfg */
    u64 stall_ns; /* first touches of pages that take so long are noted, 0 for none */
    u32 hz;
    u8 pick;     /* enum pick_kind */
    u8 data;     /* enum pattern_kind */
    u8 timer;    /* enum timer_kind */
    u8 exit;     /* enum exit_kind */
    u8 idle;     /* write nothing after initialisation, verify on demand only */
    u8 halt;     /* wait in HLT (1) or spin (0) when there is nothing to do */
    u8 precheck; /* verify a page before it is overwritten */
    u8 devstate;
    u8 untouched; /* leave half of the memory untouched unless mem= says otherwise */
    u8 x2apic;
    u8 apf; /* async page faults */
    u8 fpu;
    u8 avx;
    u8 pv; /* use the KVM paravirtual MSRs */
};

struct pvclock {
    u32 version;
    u32 pad0;
    u64 tsc_timestamp;
    u64 system_time;
    u32 mul;
    signed char shift;
    u8 flags;
    u8 pad[2];
} __attribute__((packed));

struct pvwall {
    u32 version;
    u32 sec;
    u32 nsec;
} __attribute__((packed));

struct pvsteal {
    u64 steal;
    u32 version;
    u32 flags;
    u32 pad[12];
};

struct pvapf {
    u32 flags;
    u32 token;
    u8 pad[56];
};

struct cpu {
    u64 ticks;
    u64 pit_ticks;
    u32 pv_eoi;
    u32 index;
    u64 fixup; /* ring 0 goes on here after #GP or #UD; 0: that is a panic */
    u64 kstack_top;
    u64 ustack_top;
    u64 apf_events;
    volatile u32 online;
    u32 timer_count; /* LAPIC timer: initial count, or TSC cycles for TSC deadline */
    struct pvclock pv __attribute__((aligned(64)));
    struct pvsteal steal __attribute__((aligned(64)));
    struct pvapf apf __attribute__((aligned(64)));
    struct mailbox_cpu *mb;
    /* ring-3 state of the work loop */
    u64 rng;
    u64 last_ns, last_tsc;
    u64 write_credit_at, verify_credit_at;
    u64 write_next, verify_next;
    u64 pass_seen; /* full verification this vCPU is in or has done */
    u64 pass_next, pass_bad;
    u64 next_dev;
    struct mailbox_stalls *stalls; /* 0: none are noted */
    u32 dev_item;
    u8 halted;
} __attribute__((aligned(1024)));

struct region {
    u64 addr;
    u64 pages;
    u64 first; /* number of its first data page */
};

extern struct config cfg;
extern struct cpu cpus[CPU_MAX];
extern struct pvwall pvwall;
extern u8 x2apic_on;
extern u32 kvm_base, kvm_features; /* CPUID leaves of the hypervisor; 0: not KVM */
extern u32 cpuid1_ecx, cpuid1_edx;
extern u64 tsc_khz;
extern u64 wall_base;

#define mailbox ((volatile struct mailbox_header *)(u64)MAILBOX_ADDR)

static inline volatile struct mailbox_cpu *mailbox_cpu(u32 i)
{
    return (volatile struct mailbox_cpu *)(u64)(MAILBOX_ADDR + MAILBOX_CPU_OFF +
                                                i * MAILBOX_CPU_SIZE);
}

/* Calls ring 0. The entry keeps only what a C function keeps, hence the clobbers. */
static inline u64 sys(enum sys_nr nr, u64 a, u64 b)
{
    u64 ret;
    u64 n = nr;

    asm volatile("ud2"
                 : "=a"(ret), "+D"(n), "+S"(a), "+d"(b)
                 :
                 : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
    return ret;
}

static inline u64 rdtsc_ordered(void)
{
    u32 lo, hi;

    asm volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) : : "memory");
    return (u64)hi << 32 | lo;
}

static inline void barrier(void)
{
    asm volatile("" : : : "memory");
}

static inline void cpu_relax(void)
{
    asm volatile("pause" : : : "memory");
}

/* ring0.c */
void outb(u16 port, u8 v);
u8 inb(u16 port);
u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 v);
int msr_write(struct cpu *c, u32 msr, u64 v);
int msr_read(struct cpu *c, u32 msr, u64 *v);

/* work.c */
extern u64 tsc_mul; /* ns = tsc * tsc_mul >> 32, where there is no kvmclock */
u64 clock_now(struct cpu *c, u64 *tsc);
u64 page_addr(u64 page);
void page_fill(u64 page, u64 gen);
u64 page_verify(struct cpu *c, u64 page);
u64 text_sum(void);
void bad_record(struct cpu *c, u64 kind, u64 page, u64 word, u64 expected, u64 got, u64 count);
void work_loop(struct cpu *c) __attribute__((noreturn));
extern struct region regions[MAILBOX_REGIONS];
extern u32 region_count;
extern u32 *gens;

/* report.c */
void report_init(void);
void report_line(const char *fmt, ...);
u32 report_format(char *to, u32 size, const char *fmt, ...);
int report_step(struct cpu *c, u64 now);
void guest_end(void);

/* devstate.c: items of device state, in the order of their checks */
enum dev_item {
    DEV_FPU,
    DEV_AVX,
    DEV_TIMER,
    DEV_PIT_TICK,
    DEV_MSR,
    DEV_LAPIC, /* sets the task priority, so before DEV_CR and DEV_IRR */
    DEV_IRR,
    DEV_CR,
    DEV_DR,
    DEV_STEAL,
    DEV_IOAPIC0,
    DEV_IOAPIC1,
    DEV_PIC,
    DEV_RTC_INDEX, /* before the other accesses to the RTC */
    DEV_RTC,
    DEV_RTC_TICK,
    DEV_PIT,
    DEV_PIT_LATCH,
    DEV_PIT_HALF,
    DEV_SERIAL,
    DEV_FWCFG,
    DEV_ITEMS
};

/* virtio.c: sets devices up before data pages are dealt out; work for them */
void virtio_layout(void);
int virtio_step(struct cpu *c, u64 now);

void dev_start(struct cpu *c);
int dev_step(struct cpu *c, u64 now);

/* cpustate.c */
struct device {
    int (*init)(struct cpu *c);
    u32 (*check)(struct cpu *c);
};

extern const struct device cpu_devices[DEV_ITEMS];
int dev_avx(struct cpu *c);

/* devices.c */
u64 dev_getc(void);
int dev_init_r0(struct cpu *c, u32 item);
u32 dev_check_r0(struct cpu *c, u32 item);

#endif
#endif
