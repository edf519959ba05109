/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the workload guest tells the world without using a device: a mailbox at a fixed guest
 * physical address (which, below 3 GiB, is also the offset in a memory-backend-file), read by a
 * third process through the backing file, or by a test with `pmemsave` or qtest `read`.
 *
 * Every field is a little-endian 64-bit integer, one per line, in order, nothing is conditional:
 * guest_mailbox.py parses this very file, so keep it that way. A reader sees each single field
 * whole (the guest writes them with one aligned store) but two fields may come from different
 * moments.
 *
 * Guest and host both include this header, so it needs nothing but <stdint.h>.
 */
#ifndef TESTS_GUEST_MAILBOX_H
#define TESTS_GUEST_MAILBOX_H

#include <stdint.h>

#define MAILBOX_ADDR     0x200000u           /* guest physical */
#define MAILBOX_SIZE     0x3000u             /* three pages: header, vCPUs, bad log */
#define MAILBOX_MAGIC    0x31424d5952524546u /* "FERRYMB1" in memory order */
#define MAILBOX_VERSION  1u
#define MAILBOX_CPU_OFF  0x1000u
#define MAILBOX_CPU_SIZE 0x100u
#define MAILBOX_CPU_MAX  16u
#define MAILBOX_BAD_OFF  0x2000u
#define MAILBOX_BAD_SIZE 0x40u
#define MAILBOX_BAD_MAX  64u /* a ring: record n is in slot n % 64 */
#define MAILBOX_REGIONS  6u
/* With stall=: an area for each vCPU at stall_addr, mailbox_stalls and then a ring of
 * mailbox_stall: record n is in slot n % MAILBOX_STALL_MAX. */
#define MAILBOX_STALL_AREA 0x10000u
#define MAILBOX_STALL_OFF  0x20u
#define MAILBOX_STALL_SIZE 0x10u
#define MAILBOX_STALL_MAX  4094u

#define MAILBOX_NIC_OFF 0x800u

/* disk.state */
#define MAILBOX_DISK_FILL 1u /* all blocks are written for the first time */
#define MAILBOX_DISK_RUN  2u

/* header.state */
#define MAILBOX_STATE_BOOT  0u
#define MAILBOX_STATE_INIT  1u /* pages are being written for the first time */
#define MAILBOX_STATE_RUN   2u
#define MAILBOX_STATE_END   3u /* told to power off or to reset */
#define MAILBOX_STATE_PANIC 4u

/* bad.kind */
#define MAILBOX_BAD_WORD 1u /* a word of a data page */
#define MAILBOX_BAD_SUM                                                                            \
    2u /* generations of a slice do not add up: page is the first of the slice */
#define MAILBOX_BAD_ZERO 3u /* a never touched page is not zero */
#define MAILBOX_BAD_TEXT 4u /* the guest's own code changed */

struct mailbox_header {
    uint64_t magic;         /* MAILBOX_MAGIC, written last at boot */
    uint64_t version;       /* MAILBOX_VERSION */
    uint64_t cpus;          /* vCPUs at work */
    uint64_t state;         /* MAILBOX_STATE_x */
    uint64_t command;       /* written from outside: a command letter; back to 0 when taken */
    uint64_t commands;      /* how many commands were taken, from here or from the serial port */
    uint64_t rate;          /* pages written per second; may be changed from outside */
    uint64_t heartbeat;     /* vCPU 0's loop count */
    uint64_t seq;           /* number of T lines composed */
    uint64_t clock_ns;      /* vCPU 0's clock at its last loop */
    uint64_t tsc;           /* TSC at that moment */
    uint64_t wall_ns;       /* time of day: wall clock MSR as read at boot + clock_ns */
    uint64_t wall_fresh_ns; /* same with the wall clock MSR asked again at the last report */
    uint64_t clock_kind;    /* 1 kvmclock, 2 TSC only */
    uint64_t tsc_khz;       /* as the guest believes it */
    uint64_t seed;          /* of the pattern */
    uint64_t data_kind;     /* PATTERN_x */
    uint64_t pages_total;   /* data pages the pool has room for */
    uint64_t pages_init;    /* of these: initialised, pages 0..pages_init-1 */
    uint64_t pages_ws;      /* of these: in the working set (the first part of each slice) */
    uint64_t gen_addr;      /* physical address of the generation table: uint32_t[pages_init] */
    uint64_t regions;       /* entries used of the region table */
    uint64_t region_addr0;  /* physical address of the first page of region 0 */
    uint64_t region_pages0; /* pages in region 0; page numbers run on through the regions */
    uint64_t region_addr1;
    uint64_t region_pages1;
    uint64_t region_addr2;
    uint64_t region_pages2;
    uint64_t region_addr3;
    uint64_t region_pages3;
    uint64_t region_addr4;
    uint64_t region_pages4;
    uint64_t region_addr5;
    uint64_t region_pages5;
    uint64_t verify_req;     /* full verifications asked for */
    uint64_t verify_done;    /* full verifications finished and reported */
    uint64_t verify_pages;   /* pages looked at by the last one */
    uint64_t verify_bad;     /* bad words it found */
    uint64_t bad_records;    /* records ever written to the bad log */
    uint64_t dev_items;      /* device state items under test (bit mask) */
    uint64_t dev_checks;     /* device state items checked so far */
    uint64_t dev_bad;        /* bit mask of items ever found wrong */
    uint64_t dev_fails;      /* checks that failed */
    uint64_t rtc_seconds;    /* time of day in the RTC, seconds since midnight (devstate=1) */
    uint64_t lines_dropped;  /* serial lines lost because the output buffer was full */
    uint64_t text_sum;       /* checksum of the guest's code and constants */
    uint64_t boot_clock_ns;  /* clock when the guest came up */
    uint64_t ready_clock_ns; /* clock when all pages were initialised */
    uint64_t stall_addr;     /* physical address of vCPU 0's area of stalls, 0 for none */
    uint64_t virtio_addr;    /* physical address of mailbox_disk and mailbox_nic, 0 for none */
};

struct mailbox_cpu {
    uint64_t index;        /* 0..cpus-1 */
    uint64_t apic_id;      /* as read from the local APIC */
    uint64_t state;        /* MAILBOX_STATE_x of this vCPU */
    uint64_t loops;        /* loop count: the sign of life */
    uint64_t clock_ns;     /* clock at the last loop */
    uint64_t tsc;          /* TSC at the last loop */
    uint64_t ticks;        /* LAPIC timer (timer=pit: PIT) interrupts taken */
    uint64_t pit_ticks;    /* PIT interrupts taken besides (devstate=1) */
    uint64_t first_page;   /* slice: first page */
    uint64_t pages;        /* slice: pages */
    uint64_t ws_pages;     /* slice: pages in the working set */
    uint64_t cur_page;     /* 1 + number of the page being rewritten at this moment, 0 for none */
    uint64_t writes;       /* pages written after initialisation */
    uint64_t verified;     /* pages verified */
    uint64_t rounds;       /* complete passes of the verifier over the slice */
    uint64_t bad_words;    /* words found wrong, ever */
    uint64_t bad_pages;    /* pages found wrong, ever */
    uint64_t gap_ns;       /* largest gap between two loops since the last T line */
    uint64_t gap_max_ns;   /* largest gap since READY */
    uint64_t gap_max_at;   /* clock at the end of that gap */
    uint64_t back;         /* times this vCPU's clock went backwards */
    uint64_t back_max_ns;  /* by how much at most */
    uint64_t tsc_back;     /* times this vCPU's TSC went backwards */
    uint64_t xback;        /* times this vCPU read a clock older than one another vCPU had shown */
    uint64_t xback_max_ns; /* by how much at most */
    uint64_t steal_ns;     /* steal time as the host reports it, 0 without */
    uint64_t verify_done;  /* last full verification this vCPU finished */
    uint64_t verify_bad;   /* bad words it found in it */
    uint64_t fpu_checks;   /* comparisons of live x87/SSE registers */
    uint64_t fpu_bad;      /* of these: wrong */
    uint64_t apf_events;   /* async page faults taken: not present + ready */
    uint64_t halts;        /* times it waited in HLT */
};

struct mailbox_bad {
    uint64_t number;   /* 1 + record number, written last; 0 while being written */
    uint64_t kind;     /* MAILBOX_BAD_x */
    uint64_t cpu;      /* who found it */
    uint64_t page;     /* page number */
    uint64_t word;     /* index of the first bad word in the page */
    uint64_t expected; /* that word */
    uint64_t got;      /* what was there */
    uint64_t count;    /* bad words in this page */
};

/* First touches of pages about to be written: how long they took by the TSC. */
struct mailbox_stalls {
    uint64_t touches;  /* all of them */
    uint64_t count;    /* of these: stalls, which are those of stall= nanoseconds and more */
    uint64_t total_ns; /* of the stalls */
    uint64_t max_ns;
};

struct mailbox_stall {
    uint64_t at_ns; /* TSC at its end, as nanoseconds */
    uint64_t took_ns;
};

/* With blk=1, at virtio_addr. */
struct mailbox_disk {
    uint64_t state;           /* MAILBOX_DISK_x, 0: no disk */
    uint64_t stop;            /* written from outside: 1 begins no more requests */
    uint64_t depth;           /* requests in flight, at most blkdepth=; may be changed likewise */
    uint64_t percent;         /* of the requests that read; may be changed likewise */
    uint64_t idle;            /* 1 when told so and nothing is in flight */
    uint64_t slot;            /* of virtio-mmio */
    uint64_t features;        /* agreed on */
    uint64_t capacity;        /* bytes */
    uint64_t block_bytes;     /* of a block, and of every request but flushes */
    uint64_t blocks;          /* in use, from the begin of the disk */
    uint64_t generation_addr; /* physical address of uint32_t[blocks]; highest bit: in flight */
    uint64_t submitted;       /* requests */
    uint64_t completed;
    uint64_t in_flight;
    uint64_t reads; /* completed */
    uint64_t writes;
    uint64_t flushes;
    uint64_t kicks;        /* notifications written */
    uint64_t sectors_read; /* and compared */
    uint64_t failed;       /* with a status or a length that is not the right one */
    uint64_t unasked;      /* completions of what was not in flight */
    uint64_t bad_sectors;  /* with another content than they must have */
    uint64_t bad_sector;   /* the first of them */
    uint64_t bad_word;
    uint64_t bad_expected;
    uint64_t bad_got;
    uint64_t latency_ns; /* of all completed ones together */
    uint64_t latency_max_ns;
};

/* With net=, MAILBOX_NIC_OFF behind virtio_addr. */
struct mailbox_nic {
    uint64_t state; /* 0: no device, 1: it works */
    uint64_t stop;  /* written from outside: 1 sends no more */
    uint64_t idle;  /* 1 when told so and nothing that was sent is in flight */
    uint64_t slot;
    uint64_t features;
    uint64_t mac;       /* the first byte highest */
    uint64_t sent;      /* frames put into the ring: the last number */
    uint64_t completed; /* of these: came back */
    uint64_t in_flight;
    uint64_t received;    /* frames of ours */
    uint64_t last;        /* the highest number */
    uint64_t gaps;        /* numbers that were passed over */
    uint64_t back;        /* frames whose number was not above the highest */
    uint64_t back_number; /* the first of them, */
    uint64_t back_last;   /* the highest number then, */
    uint64_t back_place;  /* where it lay, */
    uint64_t back_again;  /* the number there a little later, */
    uint64_t back_count;  /* and `received` then */
    uint64_t bad;         /* with wrong content */
    uint64_t others;      /* frames that are not ours */
    uint64_t unasked;     /* buffers that came back without being in flight */
    uint64_t kicks;
};

#endif
