/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What waiting for pages cost: per vCPU, all of them at once, and the distribution over the faults.
 * No lock of its own: faults.c holds its own around every call. Times are CLOCK_MONOTONIC in ns.
 */
#ifndef MIGRATION_POSTCOPY_BLOCKTIME_H
#define MIGRATION_POSTCOPY_BLOCKTIME_H

#include "migration/postcopy/arrival.h"

struct blocktime;
struct blocktime *blocktime_new(unsigned vcpus);
void blocktime_free(struct blocktime *bt); /* NULL is fine */
void blocktime_begin(struct blocktime *bt, unsigned vcpu, int64_t now);
/* Nothing happens when it does not wait. */
void blocktime_end(struct blocktime *bt, unsigned vcpu, int64_t now);
/* A fault was answered by a page of the source after so long. */
void blocktime_answered(struct blocktime *bt, int64_t ns);
/* Fills in all but the counters of requests, local answers and the queue. Those who wait now are
 * counted up to `now`. */
void blocktime_get(const struct blocktime *bt, int64_t now, struct arrival_blocktime *t);

#endif
