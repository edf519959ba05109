/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What test-departure.c works on: a guest with two blocks of memory under a fake accelerator, whose
 * dirty log is of KVM's kind (all pages set at first, read without clearing, cleared by range), and
 * a peer that reads the stream, keeps an image of the guest and counts what comes how often.
 */
#ifndef TESTS_UNIT_TEST_DEPARTURE_MACHINE_H
#define TESTS_UNIT_TEST_DEPARTURE_MACHINE_H

#include "accel/accel.h"
#include "migration/postcopy/departure.h"
#include "migration/stream/format.h"
#include "migration/stream/in.h"
#include "system/vm-init.h"

#define PAGES     8192u /* two chunks */
#define ROM_PAGES 3u
#define HUGE      512u /* pages in a huge one */
#define KINDS     2u   /* blocks */

struct fake {
    struct accel accel;
    unsigned long *dirty; /* the kernel's */
    unsigned long *seen;  /* what the last sync showed: only that may be cleared */
    uint64_t touch_at; /* page that the guest touches in the middle of the next clear; or PAGES */
    bool touch_before;
    uint8_t *ram;
    unsigned clears;
};

struct options {
    bool share, huge, zeroed, release;
    bool hugetlb; /* huge, and truly so */
};

struct peer_block {
    uint8_t *image;
    uint64_t pages;
    unsigned long *missing; /* discarded and not here */
    uint8_t *times;         /* how often it came since the first discard */
};

struct fixture {
    const struct options *options;
    struct vm *vm;
    struct fake fake;
    struct ram_block *ram, *rom;
    struct ram_save *rs;
    struct departure *d;
    GByteArray *bytes;
    struct stream_out *o;
    struct departure_stream s;

    struct peer_block peer[KINDS];
    const struct peer_block *named;
    bool postcopy;
    unsigned commands, pairs, most_pairs;
    uint64_t discarded_pages;
};

void set_up(struct fixture *f, gconstpointer options);
void tear_down(struct fixture *f, gconstpointer options);
/* True, and the test is skipped, where the fixture has no memory for want of huge pages. */
bool without_huge_pages(const struct fixture *f);

/* The guest. Pages with something in them at all distances, some of them touched and zero: */
void fill(struct fixture *f);
void guest_writes(struct fake *fake, uint64_t page, uint8_t value);
bool resident(struct fixture *f, uint64_t page);

/* The migration up to the switch, step by step; leave() is the guest's stop and what follows. */
void start(struct fixture *f);
void discard(struct fixture *f);
void leave(struct fixture *f);
void send_all(struct fixture *f);
struct departure_stats stats_of(struct fixture *f);
uint64_t remaining(struct fixture *f); /* pages; precopy's figure and ours agree */

/* The peer. */
struct peer_block *peer_find(struct fixture *f, const char *name);
uint64_t unit_of(const struct fixture *f, const struct peer_block *b);
/* A page of RAM; false for EOS, or the end of a channel of bare records. */
bool read_page(struct fixture *f, struct stream_in *in, const struct peer_block **named);
/* Reads all that is in the stream, and empties it. */
void peer_reads(struct fixture *f);
uint64_t peer_missing(struct fixture *f);
void assert_same_memory(struct fixture *f);

#endif
