/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory of a guest that runs here before all of it has come. Pages that the source will send again
 * are *missing*: whoever touches one (a vCPU, KVM in the kernel, a device) waits in the kernel
 * (userfaultfd), thread "mig/fault" asks the source for it, and whoever reads the stream places it.
 * Pages that are not missing and that the host holds nothing for are zero; a touch of one is
 * answered here.
 *
 * From arrival_listen() on the missing pages only become fewer, each is placed exactly once, and
 * one that has been placed is never written again by us: it is the guest's.
 *
 * Threads: advise and discard on "mig/incoming"; placing from any number of threads, each with a
 * reader of its own; the rest says so. No function takes or needs the machine lock.
 */
#ifndef MIGRATION_POSTCOPY_ARRIVAL_H
#define MIGRATION_POSTCOPY_ARRIVAL_H

#include "migration/stream/in.h"
#include "system/memory.h"

struct arrival;
struct ram_load;

/*
 * Whether the host lets a guest come in post-copy: userfaultfd may be used for faults of the kernel
 * too, and the memory of every block is of a kind that it can watch. False and *err (HOST): one
 * sentence that names what is in the way and the remedy. Changes nothing. Any thread.
 */
bool arrival_possible(struct vm *vm, bool ignore_shared, GError **err);
/* POSTCOPY_ADVISE came: the source may switch. */
struct arrival *arrival_new(struct vm *vm, bool ignore_shared, GError **err);
/*
 * Ends "mig/fault" and the watch: whoever still waits for a page gets zeroes (all have come, or the
 * process ends). Figures stay. Idempotent; any thread but mig/fault.
 */
void arrival_stop(struct arrival *a);
/* All threads that place have ended; stops it. NULL is fine. */
void arrival_free(struct arrival *a);
/* The payload of ADVISE; false and *err (PEER) when the source's page sizes are not ours. */
bool arrival_check_page_sizes(struct vm *vm, uint64_t summary, uint64_t target_page, GError **err);

/* These bytes of the block will come again. Whole host pages, or *err (PEER). Before listen. */
bool arrival_discard(struct arrival *a, struct ram_block *b, uint64_t offset, uint64_t length,
                     GError **err);

/*
 * Asks the source for a host page. Called on "mig/fault", never twice for a page unless
 * arrival_ask_again() or an answer of false: the link is down, and the page stays wanted.
 */
typedef bool arrival_request(void *opaque, struct ram_block *b, uint64_t offset, uint64_t length);
/* From here on a touch of a missing page waits. vCPUs have never run. False and *err (HOST): as
 * before the call. */
bool arrival_listen(struct arrival *a, arrival_request *request, void *opaque, GError **err);
/*
 * Makes the calling thread go before others on a busy host: "mig/fault" does so itself; who reads
 * pages that were asked for should. Best effort. The guest's own memory is never touched by such a
 * thread: it would wait for itself.
 */
void arrival_thread_urgent(void);
/* A new link: all pages that are waited for are requested (again). Any thread, after listen. */
void arrival_ask_again(struct arrival *a);

/* Reads RAM records from one stream: where it is in it, and the host page that is being put
 * together. A page that was begun and not completed when a link broke is simply missing. */
struct arrival_reader;
struct arrival_reader *arrival_reader_new(struct arrival *a);
void arrival_reader_free(struct arrival_reader *r);
/* A record may continue the block that another reader of the same stream named last: what precopy
 * has named is where post-copy goes on. */
void arrival_reader_set_block(struct arrival_reader *r, struct ram_block *b);
/* Up to and with the word EOS. False and *err: LINK, or PEER with the offset. */
bool arrival_read_section(struct arrival_reader *r, struct stream_in *in, GError **err);
/* The same for a channel of bare records (preempt): an end of the stream between two records, or
 * after EOS, is *ended and no error. */
bool arrival_read_bare(struct arrival_reader *r, struct stream_in *in, bool *ended, GError **err);

/* Any thread. */
bool arrival_is_missing(const struct arrival *a, const struct ram_block *b, uint64_t offset);
uint64_t arrival_missing_pages(const struct arrival *a);
/* Which pages need not be sent: bit i of byte i / 8 is target page i, padded to 8 bytes with zeroes
 * (the payload of RECV_BITMAP). g_free(). */
uint8_t *arrival_received(const struct arrival *a, const struct ram_block *b, size_t *len);

/* What the guest waited, with capability postcopy-blocktime or not: it costs next to nothing. All
 * times in microseconds. */
#define ARRIVAL_LATENCY_BUCKETS 24
struct arrival_blocktime {
    uint64_t all_blocked_us; /* all vCPUs waited at the same time */
    uint64_t *vcpu_us;       /* per vCPU; owned by the caller, g_free() */
    unsigned vcpus;
    uint64_t faults;    /* answered by a page of the source */
    uint64_t local;     /* answered here */
    uint64_t requests;  /* sent, repeated ones included */
    unsigned queue_max; /* most faults that waited to be looked at at once */
    double mean_us;     /* from the fault until the page is there */
    uint64_t p50_us, p99_us;
    uint64_t buckets[ARRIVAL_LATENCY_BUCKETS]; /* [i]: 2^i <= us < 2^(i+1); [0] includes 0 */
};
void arrival_get_blocktime(const struct arrival *a, struct arrival_blocktime *t);

#endif
