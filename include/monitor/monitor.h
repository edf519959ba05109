/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QMP server: clients on character devices, their commands, and the events they are told.
 *
 * The vm owns one monitor_set (vm->monitors) with any number of QMP servers, each on a chardev of
 * its own and with one client at a time. Everything runs on the main loop's thread with the machine
 * lock held, except monitor_emit_event(), which any thread may call that holds the machine lock.
 * Nothing blocks: a client that does not read is not read from either.
 */
#ifndef MONITOR_MONITOR_H
#define MONITOR_MONITOR_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct chardev;
struct monitor_set;
struct vm;

/* The caller stores it in vm->monitors. */
struct monitor_set *monitor_set_new(struct vm *vm);
/* Detaches from the chardevs (which must still exist) and closes all descriptors kept for clients.
 */
void monitor_set_free(struct monitor_set *set);

/* Serves QMP on a chardev; `pretty` indents what is sent. Fails when the chardev is in use. */
bool monitor_add_qmp(struct monitor_set *set, struct chardev *chr, bool pretty, GError **err);

/*
 * Sends an event to every client that has finished negotiation. data is stolen, NULL for none. Use
 * the typed functions of "qapi/qapi-events.h" instead. Does nothing before vm->monitors is set.
 */
void monitor_emit_event(struct vm *vm, const char *name, json_t *data);

/*
 * Takes the descriptor that `fd:NAME` means: what the client whose command is being handled has
 * stored with getfd (else what any client has), or, when the name is a number, a descriptor that
 * the process has inherited. It then belongs to the caller. -1 with *err set when there is none.
 */
int monitor_get_fd(struct vm *vm, const char *name, GError **err);

/*
 * Adds a descriptor to a numbered set, as -add-fd does; fdset_id -1 makes a new set. The descriptor
 * then belongs to the set, also on failure. Returns the id of the set, -1 with *err set on failure.
 */
int64_t monitor_fdset_add(struct monitor_set *set, int fd, int64_t fdset_id, const char *opaque,
                          GError **err);

/* Does the path name a set (/dev/fdset/N)? */
bool monitor_fdset_is_path(const char *path);

/*
 * Opens /dev/fdset/N: a copy (close-on-exec) of the first descriptor of the set whose access mode
 * is that of `flags` (O_RDONLY, O_WRONLY, O_RDWR). The copy belongs to the caller. -1 with *err
 * set.
 */
int monitor_fdset_open(struct monitor_set *set, const char *path, int flags, GError **err);

#endif
