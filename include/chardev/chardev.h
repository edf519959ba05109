/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Character devices: where bytes of a serial port, a QMP monitor or a qtest client come from and go
 * to. A chardev is the back end (socket, file, stdio, ...); whoever uses it attaches one front end.
 *
 * Everything here runs on the main loop's thread or on a vCPU thread, always with the machine lock
 * held; nothing blocks, except that a `server=on,wait=on` socket waits for its client when it is
 * opened.
 */
#ifndef CHARDEV_CHARDEV_H
#define CHARDEV_CHARDEV_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

struct chardev;

enum chardev_event {
    CHARDEV_EVENT_OPENED, /* a client is there (sent at once on attach where always connected) */
    CHARDEV_EVENT_CLOSED, /* the client has gone */
};

struct chardev_frontend {
    /* How many bytes the front end takes now. 0 leaves them in the kernel until
     * chardev_accept_input(). */
    size_t (*can_receive)(void *opaque);
    void (*receive)(void *opaque, const uint8_t *buf, size_t len);
    void (*event)(void *opaque, enum chardev_event event); /* may be NULL */
};

/* None of these may free the set. */

/*
 * The chardevs of a process by id; owned by the vm. destroy closes all of them, flushes what it can
 * without blocking and removes UNIX socket paths it created.
 */
struct chardev_set;
struct chardev_set *chardev_set_new(void);
void chardev_set_free(struct chardev_set *set);
typedef struct chardev_set chardev_set; /* for g_autoptr(chardev_set) */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(chardev_set, chardev_set_free)
/*
 * Who opens paths below /dev/fdset/ for file and logfile; returns a descriptor that the chardev
 * then owns, or -1. Without one such a path is an ordinary path.
 */
typedef int (*chardev_open_fdset_fn)(void *opaque, const char *path, int flags, GError **err);
void chardev_set_fdset_opener(struct chardev_set *set, chardev_open_fdset_fn fn, void *opaque);

/*
 * Opens a chardev from options, a flat JSON object of strings as `-chardev` gives them: {"backend":
 * "socket", "id": "c0", "path": "/x", "server": "on", "wait": "off"}. Backends and their keys:
 *   socket  path= | host=,port=,[to=],[ipv4=],[ipv6=] | fd=  ; server=on|off wait=on|off
 * reconnect=S file    path=,[append=on|off],[input-path=]   stdio  [signal=on|off]   pty   null
 * all: id=, logfile=, logappend=. Unknown backends and keys are refused by name.
 */
struct chardev *chardev_open(struct chardev_set *set, json_t *options, GError **err);

/*
 * Opens the chardev that the short form of -serial, -qmp, -monitor or -qtest names: `stdio`,
 * `null`, `pty`, `file:PATH`, `unix:PATH[,server=on|off][,wait=..]`, `tcp:HOST:PORT[,server..]`,
 * `chardev:ID` (an open one). `id` is given to a new chardev. A -qmp socket accepts the old
 * spellings `server`, `nowait`.
 */
struct chardev *chardev_open_legacy(struct chardev_set *set, const char *id, const char *spec,
                                    GError **err);

struct chardev *chardev_find(struct chardev_set *set, const char *id);

/* Ends in an error when another front end is attached (mux is not offered). ops must outlive the
 * attachment. */
bool chardev_attach(struct chardev *chr, const struct chardev_frontend *ops, void *opaque,
                    GError **err);
void chardev_detach(struct chardev *chr);

/* Takes as many of the bytes as the back end accepts now without blocking; the rest is the caller's
 * (a serial port retries from chardev_notify_writable). Bytes for a socket without client are
 * swallowed. */
size_t chardev_write(struct chardev *chr, const void *buf, size_t len);
/* Queues all of it without limit in the chardev and writes it out from the main loop: for QMP and
 * qtest. */
void chardev_write_queued(struct chardev *chr, const void *buf, size_t len);
/* How many bytes of chardev_write_queued() still wait for the client; to stop serving one that does
 * not read. */
size_t chardev_queue_length(const struct chardev *chr);
/* Calls fn once, from the main loop, when chardev_write() may take bytes again, which is after all
 * queued bytes have gone (or the client has). One call is pending at a time; a new one replaces it.
 */
void chardev_notify_writable(struct chardev *chr, void (*fn)(void *opaque), void *opaque);
/* The front end has room again. */
void chardev_accept_input(struct chardev *chr);

/* The oldest file descriptor that came with SCM_RIGHTS and was not taken yet (caller owns it), or
 * -1. */
int chardev_take_fd(struct chardev *chr);
bool chardev_is_connected(const struct chardev *chr);
const char *chardev_id(const struct chardev *chr);
/* As in query-chardev's "filename", e.g. "unix:/x,server=on", "file", "null",
 * "disconnected:unix:/x,server=on". */
char *chardev_describe(const struct chardev *chr); /* g_free() */
bool chardev_frontend_open(const struct chardev *chr);
/* Whether somebody is behind the front end (a guest that has the port open), for query-chardev. It
 * is so from chardev_attach() on. */
void chardev_set_frontend_open(struct chardev *chr, bool open);
void chardev_foreach(struct chardev_set *set, void (*fn)(struct chardev *chr, void *opaque),
                     void *opaque);

#endif
