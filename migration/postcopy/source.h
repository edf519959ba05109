/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Post-copy on the side that the guest leaves: the switch, sending the rest, pause and recovery. */
#ifndef MIGRATION_POSTCOPY_SOURCE_H
#define MIGRATION_POSTCOPY_SOURCE_H

#include "migration/internal.h"
#include "migration/return-path.h"

/* Capability postcopy-ram: the stream says at its beginning that it may come to that. */
void postcopy_advise(struct outgoing *out);
/* Whether somebody wants the guest to leave now: migrate-start-postcopy, or the policy. Any thread.
 */
bool postcopy_wanted(struct outgoing *out);
void postcopy_want(struct outgoing *out);
/*
 * Stops the guest and lets it run at the destination, sends the rest of its memory, and waits until
 * the destination has everything. A link that breaks after the guest has left pauses that until
 * there is a new one. True: the destination has the guest and all of it. False: as
 * switchover_run().
 */
bool postcopy_run(struct outgoing *out, GError **err);

/*
 * Capability postcopy-preempt: the second connection of a link, to the same address. It is opened
 * right after the first one, as a QEMU 7.2 wants it; later ones take it at any time.
 */
bool postcopy_connect_urgent(struct outgoing *out, const struct transport_address *addr,
                             unsigned timeout_ms, GError **err);
void postcopy_close_urgent(struct outgoing *out); /* nobody writes on it any more */

/* pause.c */
/* Ends the link of a post-copy that is under way; machine lock held. False and *err (USER): none
 * is. */
bool postcopy_pause(struct outgoing *out, GError **err);
/* Gives a paused post-copy a new address; takes addr and fd. Machine lock held. */
void postcopy_resume(struct outgoing *out, struct transport_address *addr, int fd);
/*
 * The link is lost (*why, taken): status postcopy-paused until another one carries on. False and
 * *err: the process ends, or the guest was taken back.
 */
bool postcopy_recover(struct outgoing *out, GError *why, GError **err);
/* Whether the guest has certainly run at the destination: what is here is no guest any more.
 * Machine lock held. */
bool postcopy_ran_there(const struct outgoing *out);
/* Ends the run of a paused post-copy whose guest never ran there. Machine lock held. */
void postcopy_give_up(struct outgoing *out);

/* source.c, for pause.c */
/* Serves requests until `what` has come on the return path. */
bool postcopy_wait(struct outgoing *out, enum return_wait what, unsigned timeout_ms, GError **err);
/* Tells the return path that pages may be asked for. */
void postcopy_serve(struct outgoing *out);
/* Puts what the destination says of its state into ours: it runs the guest. */
void postcopy_note_run(struct outgoing *out);

#endif
