/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Thread "mig/fault": who waits for which page, and asking for it. Private to the arrival. */
#ifndef MIGRATION_POSTCOPY_FAULTS_H
#define MIGRATION_POSTCOPY_FAULTS_H

#include "migration/postcopy/arrival-internal.h"

/* Starts the thread; a->uffd is open. NULL and *err (HOST): no thread to be had. */
struct faults *faults_new(struct arrival *a, arrival_request *request, void *opaque, GError **err);
/* Ends the thread, once; figures stay. Who waits goes on doing so until the watch ends. */
void faults_stop(struct faults *f);
/* After faults_stop(). NULL is fine. */
void faults_free(struct faults *f);
/* A page that is `wanted` is in place. Any thread. */
void faults_placed(struct faults *f, struct arrival_block *ab, uint64_t page);
void faults_ask_again(struct faults *f);                                  /* any thread */
void faults_get_blocktime(struct faults *f, struct arrival_blocktime *t); /* any; NULL is fine */

#endif
