/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Following a migration to its end: poller, view, keyboard and signals in one loop.
 *
 * What signals do:
 *   SIGINT   own migration on a terminal: asks whether to cancel or to detach, and cancels when it
 *            comes again; own migration without a terminal: cancels, and detaches when it comes
 * again; watching: stops looking SIGTERM, SIGHUP   stops looking; the migration goes on SIGTSTP
 * gives the terminal back meanwhile
 */
#ifndef FERRYCTL_WATCH_H
#define FERRYCTL_WATCH_H

#include "move.h"

struct watch_options {
    const char *title;       /* clean */
    const char *destination; /* clean, where it was sent to; NULL: not known */
    bool own;                /* started by this process, so that Ctrl-C may cancel it */
    int64_t interval_ms;
    int64_t timeout_ms;      /* cancels after that; 0: never */
    int64_t post_copy_after; /* rounds, then migrate-start-postcopy; 0: never */
};

#define WATCH_INTERVAL_MS 200

/* --interval's value. */
bool watch_parse_interval(const char *text, int64_t *interval_ms, GError **err);

/* From here on the signals above wait for watch_run(). */
void watch_hold_signals(void);

/* Returns an exit status; with *err set that of the error. Adds the state to ctl->end. */
int watch_run(struct ctl *ctl, const qmp_address *address, const struct watch_options *options,
              GError **err);

#endif
