/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Post-copy on the side that the guest comes to. */
#ifndef MIGRATION_POSTCOPY_DESTINATION_H
#define MIGRATION_POSTCOPY_DESTINATION_H

#include "migration/destination.h"

struct postcopy_in;

/* Commands of the stream (the table in greeting.c); each reads its payload. "mig/incoming". */
bool postcopy_command_advise(struct load *l, unsigned len, GError **err);
bool postcopy_command_discard(struct load *l, unsigned len, GError **err);
bool postcopy_command_listen(struct load *l, unsigned len, GError **err);
bool postcopy_command_packaged(struct load *l, unsigned len, GError **err);
bool postcopy_command_run(struct load *l, unsigned len, GError **err);

/* Whether LISTEN came: l->s is the package, and the stream belongs to "mig/listen". */
bool postcopy_listens(const struct load *l);
/* Whether the package is over and the guest may run once everything is loaded. */
bool postcopy_has_package(const struct load *l);
/* From the loaded package to a guest that runs and has all of its memory. `run` puts it to work,
 * with the machine lock held. */
bool postcopy_finish(struct load *l, bool (*run)(struct load *l, GError **err), GError **err);
/* A message on the return path, from any of the threads that send them. */
bool postcopy_say(struct load *l, unsigned type, const void *payload, size_t len, GError **err);
/* Ends the threads and the link, if it has come to that: the guest has not run, or has everything.
 */
void postcopy_in_stop(struct incoming *in);
void postcopy_in_free(struct postcopy_in *p); /* NULL is fine */

struct arrival;
/* NULL before the switch. Machine lock held. */
const struct arrival *postcopy_arrival(const struct incoming *in);
/* Machine lock held. */
bool postcopy_in_pause(struct incoming *in, GError **err);
/* A link is missing: it is paused, or it is over and the source may not know that. */
bool postcopy_in_recoverable(const struct incoming *in);
/* Listens for a new link; takes fd. */
bool postcopy_in_recover(struct incoming *in, const struct transport_address *addr, int fd,
                         GError **err);
/* The process ends: whatever waits for memory gets zeroes, and whoever waits for a link, none. */
void postcopy_in_abandon(struct incoming *in);

#endif
