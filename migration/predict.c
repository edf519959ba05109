/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a pause will be, and when a migration will be over. See predict.h. */
#include "migration/predict.h"

#include <glib.h>

#include "migration/ram/save.h"

/* A page and its record. */
#define PAGE_BYTES (TARGET_PAGE_SIZE + 8)
/* Less than this measures round trips rather than the link. */
#define LINK_BYTES_LEAST (UINT64_C(256) << 10)
/* Of the stop: how much the last measurement counts. */
#define STOP_WEIGHT 0.5
/* Waking a thread, and parking it, for each vCPU that has come out of the guest. */
#define PARK_US_BASE     10.0
#define PARK_US_PER_VCPU 10.0
/* Device state, saving, sending and loading; between Ferries, and with a QEMU, which gets a
 * description too and loads more slowly. */
#define FERRY_US_BASE     190.0
#define FERRY_US_PER_VCPU 180.0
#define QEMU_US_BASE      700.0
#define QEMU_US_PER_VCPU  400.0
/* READY and GO, and the confirmation's way is not part of the pause. */
#define FERRY_ROUND_TRIPS 1.5
#define QEMU_ROUND_TRIPS  1.0

void predict_link(struct prediction *p, uint64_t bytes, int64_t ns, bool drained, bool new_round)
{
    double carried = (double)bytes * 1e9 / (double)MAX(ns, 1);

    if (new_round || !p->links) {
        if (bytes < LINK_BYTES_LEAST && p->links && !(drained && carried > predict_bandwidth(p))) {
            return;
        }
        for (unsigned i = PREDICT_LINKS - 1; i > 0; i--) {
            p->link[i] = p->link[i - 1];
        }
        p->link[0] = carried;
        p->links = MIN(p->links + 1, PREDICT_LINKS);
    } else if (drained && bytes >= LINK_BYTES_LEAST) {
        p->link[0] = MAX(p->link[0], carried);
    }
}

void predict_stop(struct prediction *p, int64_t ns)
{
    double us = (double)ns / 1e3;

    p->stop_us = p->stop_known ? p->stop_us + (us - p->stop_us) * STOP_WEIGHT : us;
    p->stop_known = true;
}

void predict_sync(struct prediction *p, int64_t ns)
{
    p->sync_us = (double)ns / 1e3;
}

/* The best of the last rounds: while the guest runs it competes with us for the host, and what the
 * link has carried it can carry. */
double predict_bandwidth(const struct prediction *p)
{
    double best = 0;

    for (unsigned i = 0; i < p->links; i++) {
        best = MAX(best, p->link[i]);
    }
    return best;
}

static double page_bytes(const struct prediction *p)
{
    return p->page_bytes > 0 ? p->page_bytes : PAGE_BYTES;
}

struct predicted_pause predict_pause(const struct prediction *p, uint64_t remaining_pages,
                                     double bytes_per_s)
{
    struct predicted_pause pause;
    double n = p->vcpus;

    if (!(bytes_per_s > 0)) {
        bytes_per_s = predict_bandwidth(p);
    }
    pause.fixed_us = p->stop_us + PARK_US_BASE + PARK_US_PER_VCPU * n + p->sync_us;
    pause.fixed_us += p->ferry
                          ? FERRY_US_BASE + FERRY_US_PER_VCPU * n + FERRY_ROUND_TRIPS * p->rtt_us
                          : QEMU_US_BASE + QEMU_US_PER_VCPU * n + QEMU_ROUND_TRIPS * p->rtt_us;
    /* what is dirtied between the look at it and the stop is sent too */
    double pages = (double)remaining_pages + p->dirty_pages_per_s * (p->sync_us + p->stop_us) / 1e6;

    pause.memory_us = pages * page_bytes(p) * 1e6 / MAX(bytes_per_s, 1.0);
    return pause;
}

int64_t predict_rest_ms(const struct prediction *p, uint64_t remaining_pages, double bytes_per_s,
                        uint64_t enough_pages)
{
    double pages_per_s = bytes_per_s / page_bytes(p);
    double gain = pages_per_s - p->dirty_pages_per_s;
    double ms;

    if (remaining_pages <= enough_pages || !(pages_per_s > 0)) {
        return pages_per_s > 0 ? 0 : -1;
    }
    if (gain <= pages_per_s / 10) {
        return -1;
    }
    ms = (double)(remaining_pages - enough_pages) * 1e3 / gain;
    return ms < (double)INT64_MAX / 2 ? (int64_t)ms : -1;
}
