/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connecting a socket without holding up the main loop. Private to chardev/.
 */
#ifndef CHARDEV_CONNECT_JOB_H
#define CHARDEV_CONNECT_JOB_H

#include "io/transport.h"

struct connect_job;

/*
 * Starts connecting to addr (copied). done is called once on the main loop with a descriptor that
 * it owns, or with -1 and an error; the job frees itself after that. NULL if no job could be
 * started.
 */
struct connect_job *connect_job_start(const struct transport_address *addr,
                                      void (*done)(void *opaque, int fd, const GError *error),
                                      void *opaque, GError **err);
/* Gives up: done is not called any more. Does not wait for name servers or peers. */
void connect_job_cancel(struct connect_job *job);

#endif
