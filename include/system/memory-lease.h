/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may run a guest on memory that is a shared file. Two processes that map the same file see
 * each other's writes; a second guest on it, or a stream that is loaded into it, would write over
 * the first. So whoever runs a guest, or loads one, holds a lock on each such file of its machine:
 *
 *   a machine that is started     from its start
 *   a destination                 from the first byte of the guest's state; with x-ignore-shared,
 *                                 where the file is the source's own on purpose, when it runs it
 *   a source                      with x-ignore-shared lets go at the commit point, and takes it
 * again when the guest comes back (also by `cont`)
 *
 * The lock is one of the open file (F_OFD_SETLK), beyond any byte of the memory: it ends with the
 * process, and programs that know nothing of it are not in its way. Any thread, any time.
 */
#ifndef SYSTEM_MEMORY_LEASE_H
#define SYSTEM_MEMORY_LEASE_H

#include <glib.h>
#include <stdbool.h>

struct memory;

/* True when it is held, also where it was before, or where the file system knows no locks. False
 * and *err (USER): another process has it. */
bool memory_lease_take(struct memory *mem, GError **err);
void memory_lease_drop(struct memory *mem);

#endif
