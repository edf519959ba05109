/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Foretells the pause and the end of an outgoing migration from what has been measured so far. Pure
 * arithmetic: no clock, no lock, no vm, so that tests can step it. All times in microseconds.
 *
 * The pause = stopping the vCPUs + the last dirty sync + sending what is left + device state,
 * saved, sent and loaded + the round trips of the handshake. Stop, sync, round trip and link are
 * measured in each round while the guest runs; what devices cost cannot be tried out with a running
 * guest and is a figure per vCPU.
 */
#ifndef MIGRATION_PREDICT_H
#define MIGRATION_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#define PREDICT_LINKS 3u

struct prediction {
    unsigned vcpus;
    bool ferry;                 /* the destination takes part in the commit handshake */
    double link[PREDICT_LINKS]; /* bytes/s, of the last rounds that say something about it */
    unsigned links;
    double stop_us, sync_us, rtt_us;
    bool stop_known;
    double dirty_pages_per_s;
    double page_bytes; /* what a page takes on the wire, by the last round; 0: it goes whole */
};

/*
 * So many bytes left in so much time. drained: and have been read by the destination, so that
 * neither buffers nor a bandwidth limit flatter the figure. Two measurements of one round (its
 * whole, and its last burst, which no limit slows down) belong to the same `round`.
 */
void predict_link(struct prediction *p, uint64_t bytes, int64_t ns, bool drained, bool new_round);
/* All vCPUs took so long to come out of the guest. */
void predict_stop(struct prediction *p, int64_t ns);
void predict_sync(struct prediction *p, int64_t ns);

struct predicted_pause {
    double fixed_us;  /* what no further round can make shorter */
    double memory_us; /* sending what is left */
};

/* bytes_per_s: what somebody knows better than the measurements; 0: nobody does. */
struct predicted_pause predict_pause(const struct prediction *p, uint64_t remaining_pages,
                                     double bytes_per_s);
/* What the switchover may count on, bytes/s; 0: nothing is known yet. */
double predict_bandwidth(const struct prediction *p);

/*
 * Milliseconds until the migration is over, from so many pages left, at so many bytes/s while the
 * guest runs, up to a pause that allows `enough` pages. -1: at this rate it never is.
 */
int64_t predict_rest_ms(const struct prediction *p, uint64_t remaining_pages, double bytes_per_s,
                        uint64_t enough_pages);

#endif
