/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A thread that asks a machine again and again how its migration goes, so that the one that shows
 * it never waits: a machine that does not answer leaves the display and the keyboard alive.
 *
 * Each time is a connection of its own, some milliseconds long, because a QMP socket serves one
 * client at a time: `ferryctl cancel` in another terminal gets its turn in between.
 */
#ifndef FERRYCTL_POLLER_H
#define FERRYCTL_POLLER_H

#include "move.h"

struct poller;

/* Starts the thread. It asks quickly at first, then every interval_ms. The address is copied. */
struct poller *poller_new(const struct ctl *ctl, const qmp_address *address, int64_t interval_ms);
/* Ends the thread, also in the middle of a wait. */
void poller_free(struct poller *p);

/* Readable when there is something to take. */
int poller_fd(const struct poller *p);
/*
 * What is new: the latest state (NULL: none), the sentence with which the machine refused a command
 * (NULL: it did not; raw), and the error that has ended the polling. All become the caller's.
 */
void poller_take(struct poller *p, move **state, char **refusal, GError **error);

/* Lets the machine run a command without arguments before it is asked the next time. */
void poller_command(struct poller *p, const char *command);

#endif
