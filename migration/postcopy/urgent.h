/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections for pages that were asked for (postcopy-preempt), at the destination. They come to
 * the address of the main one, behind it, and say nothing until they bring a page: so whoever
 * connects there and is silent is read from.
 */
#ifndef MIGRATION_POSTCOPY_URGENT_H
#define MIGRATION_POSTCOPY_URGENT_H

#include "io/transport.h"
#include "migration/internal.h"

struct arrival;
struct urgent;

/* Takes the listener and goes on accepting, thread "mig/accept". NULL and *err (HOST): the listener
 * is the caller's still. */
struct urgent *urgent_new(struct listener *listener, GError **err);
/* One that came before the main one was known to bring a guest; takes a reference. */
void urgent_add(struct urgent *u, struct channel *ch);
/* From here on they are read from, a thread "mig/urgent" each. */
void urgent_listen(struct urgent *u, struct arrival *a);
/* Whether one of them may still bring something. */
bool urgent_is_open(struct urgent *u);
/* Ends all of it. NULL is fine. */
void urgent_free(struct urgent *u);

#endif
