/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of an arrival share.
 *
 * A host page has two bits. `absent`: the source's data is not in place yet; whoever touches it
 * waits. `missing`: and nobody has begun to put it in place. Who has all of a page's data claims it
 * by clearing `missing`, places it, and then clears `absent`. So "mig/fault" never takes a page
 * that is just being placed for one that is zero, and of two readers with the same page one wins.
 */
#ifndef MIGRATION_POSTCOPY_ARRIVAL_INTERNAL_H
#define MIGRATION_POSTCOPY_ARRIVAL_INTERNAL_H

#include <stdatomic.h>

#include "migration/postcopy/arrival.h"
#include "util/bitmap.h"
#include "util/sync.h"

typedef _Atomic unsigned long atomic_word;

/* How memory is kept away from who touches it, and put in place. */
enum arrival_kind {
    ARRIVAL_ANON,    /* of this process alone: dropped, and copied in */
    ARRIVAL_PRIVATE, /* a private mapping of a file without a name: also a hole in the file */
    ARRIVAL_SHARED,  /* a file: a hole is made, and data copied into it */
    /*
     * A file whose pages stay where they are and are only taken out of this process's mapping: what
     * comes is written to the file and mapped then (userfaultfd's minor mode). A discard costs a
     * third of a hole, and no page is freed to be allocated again: huge ones might be somebody
     * else's by then.
     */
    ARRIVAL_CACHED,
};

struct arrival_block {
    struct ram_block *b;
    bool travels; /* its pages come in the stream */
    enum arrival_kind kind;
    unsigned shift;       /* log2 of the host page size */
    uint8_t *alias;       /* CACHED and huge, which pwrite() cannot: the file mapped once more */
    atomic_word *missing; /* host pages */
    atomic_word *absent;
    atomic_word *wanted; /* somebody waits (faults.c) */
};

struct faults;
struct drop;

struct arrival {
    struct vm *vm;
    bool ignore_shared;
    unsigned count;
    struct arrival_block *blocks;  /* by block index */
    _Atomic uint64_t absent_pages; /* target pages */
    struct drop *drop;             /* until listen */
    bool no_thp;                   /* transparent huge pages were switched off */
    int uffd;                      /* -1 before listen, then constant */
    const void *zeroes;            /* a host page of the largest size; mapped by listen */
    uint64_t zeroes_length;
    struct faults *faults;  /* NULL before listen */
    struct mutex stop_lock; /* around: */
    bool stopped;
};

static inline bool atomic_bit_test(const atomic_word *map, uint64_t bit)
{
    return atomic_load((atomic_word *)(uintptr_t)&map[bit / BITS_PER_LONG]) >>
               (bit % BITS_PER_LONG) &
           1;
}
static inline void atomic_bit_set(atomic_word *map, uint64_t bit)
{
    atomic_fetch_or(&map[bit / BITS_PER_LONG], 1ul << (bit % BITS_PER_LONG));
}
static inline bool atomic_bit_test_and_clear(atomic_word *map, uint64_t bit)
{
    unsigned long mask = 1ul << (bit % BITS_PER_LONG);

    return atomic_fetch_and(&map[bit / BITS_PER_LONG], ~mask) & mask;
}

static inline uint64_t arrival_host_pages(const struct arrival_block *ab)
{
    return ab->b->used_length >> ab->shift;
}
static inline uint8_t *arrival_host(const struct arrival_block *ab, uint64_t page)
{
    return ab->b->host + (page << ab->shift);
}

/* --- arrival.c --- */
/* Which kind a block is of; false and *err (HOST): of one that cannot be watched. */
bool arrival_block_kind(const struct ram_block *b, enum arrival_kind *kind, GError **err);
/*
 * Puts host pages in place that are missing, from `data` or, when that is NULL, as zeroes; those
 * that are not are left alone. Any thread, after listen. False and *err (HOST): the host has no
 * memory.
 */
bool arrival_place(struct arrival *a, struct arrival_block *ab, uint64_t first, uint64_t n,
                   const uint8_t *data, GError **err);
/*
 * Somebody touched a page that is not absent. The host has nothing for it: it is zero; or, with
 * `minor`, its file has it and it is only not mapped.
 */
bool arrival_place_here(struct arrival *a, struct arrival_block *ab, uint64_t page, bool minor);

/* --- drop.c --- */
/* Gives memory back to the host in large batches. One thread. */
struct drop *drop_new(void);
void drop_free(struct drop *d); /* NULL is fine; what was added and not flushed stays */
bool drop_add(struct drop *d, struct arrival_block *ab, uint64_t offset, uint64_t length,
              GError **err);
bool drop_flush(struct drop *d, GError **err);

#endif
