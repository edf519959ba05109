/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live migration, as the rest of the program sees it. Everything else is QMP (migration/qmp.c). All
 * with the machine lock held.
 */
#ifndef MIGRATION_MIGRATION_H
#define MIGRATION_MIGRATION_H

#include <glib.h>
#include <stdbool.h>

struct vm;
struct vm_config;

/* Makes vm->migration and registers the sections that are the machine's own: timer, globalstate. */
bool migration_init(struct vm *vm, const struct vm_config *cfg, GError **err);
/* Ends what is under way (threads are cancelled and joined; drops the lock meanwhile) and frees
 * vm->migration. */
void migration_free(struct vm *vm);

/*
 * -incoming URI: listens at once and waits for the source on a thread of its own. "defer": only
 * from here on migrate-incoming may be used. The run state becomes inmigrate.
 */
bool migration_start_incoming_from_options(struct vm *vm, const char *uri, GError **err);

/* Marks the guest as one that is not to migrate (replacing an earlier mark), as migrate-set-blocker
 * and -migrate-blocker do. USER: not a sensible reason, -only-migratable, a migration is under way.
 */
bool migration_set_operator_blocker(struct vm *vm, const char *reason, GError **err);
/* Whether a text will do as such a reason (USER); needs no machine and no lock. */
bool migration_reason_valid(const char *reason, GError **err);

/* False and *err: the guest has left, and its destination has confirmed that it runs there: a
 * second copy is not to run here. Machine lock held. */
bool migration_may_run(struct vm *vm, GError **err);

/* `stop` of a guest that stands still for its switchover: wherever it is afterwards, it does not
 * run by itself. Nothing at any other time. Machine lock held. */
void migration_keep_stopped(struct vm *vm);

/* While a destination waits or loads: `cont` and `stop` only decide whether the guest is to run
 * afterwards. */
bool migration_incoming_pending(struct vm *vm);

/* A guest leaves or comes at this moment. Machine lock held. */
bool migration_is_under_way(const struct vm *vm);

#endif
