/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A machine whose memory arrives, and a source that is a function: each page has a content that
 * follows from its number. For the tests of migration/postcopy/arrival.h. */
#ifndef TEST_ARRIVAL_MACHINE_H
#define TEST_ARRIVAL_MACHINE_H

#include "migration/postcopy/arrival.h"
#include "migration/ram/load.h"
#include "system/vcpu.h"
#include "system/vm-init.h"
#include "util/sync.h"

#define PAGES     2048u /* of ram0: 8 MiB, or four huge pages */
#define ROM_PAGES 2u
#define VCPUS     16u
#define HUGE_SIZE (2u << 20)

enum memory_kind {
    ANON,
    MEMFD,
    MEMFD_HOLES, /* on a kernel that knows missing pages only */
    MEMFD_PRIVATE,
    SHM_FILE,
    HUGE_SHARED,
    HUGE_HOLES,
    HUGE_PRIVATE,
};

struct request {
    uint64_t offset, length;
};

struct fixture {
    struct vm *vm;
    struct ram_block *ram, *rom;
    struct vcpu vcpu[VCPUS];
    struct vcpu *vcpus[VCPUS];
    struct ram_load *rl;
    struct arrival *a;
    /* what was asked for; glib's own queue is one that the thread sanitizer does not see into */
    GQueue requests; /* struct request, with the lock */
    struct mutex lock;
    struct cond cond;
    _Atomic unsigned asked;
    atomic_bool link_down;
    char *file; /* of SHM_FILE */
};

/* --- the source --- */

bool source_zero(uint64_t page);
/* The first word of a page; the others count on from it. */
uint64_t source_word(uint64_t page);
void fill_page(uint64_t *words, uint64_t page);
void put_be64(GByteArray *bytes, uint64_t v);
/* name NULL: continues a block. */
void put_word(GByteArray *bytes, uint64_t offset, unsigned flags, const char *name);
void put_page(GByteArray *bytes, uint64_t page, const char *name);
void put_eos(GByteArray *bytes);

/* --- the machine --- */

/* Of an arrival: puts what is asked for into the queue. */
bool request(void *opaque, struct ram_block *b, uint64_t offset, uint64_t length);
void push_request(struct fixture *f, uint64_t offset, uint64_t length);
/* Waits for the next one. */
struct request pop_request(struct fixture *f);
/* False: the host has no such memory, or no userfaultfd; the test is skipped. tear_down() either
 * way. */
bool set_up(struct fixture *f, enum memory_kind kind);
void tear_down(struct fixture *f);
void discard(struct fixture *f, uint64_t page, uint64_t pages);
void listen_now(struct fixture *f);
void read_section(struct arrival_reader *r, const GByteArray *bytes);
/* The pages [first, first + n) arrive. */
void arrive(struct arrival_reader *r, uint64_t first, uint64_t n);
uint64_t peek(struct fixture *f, uint64_t page, unsigned word);
/* It is what the source has, but for word 1. */
void check_page(struct fixture *f, uint64_t page);

#endif
