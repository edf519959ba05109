/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of monitor/ share. */
#ifndef MONITOR_INTERNAL_H
#define MONITOR_INTERNAL_H

#include "monitor/monitor.h"
#include "qapi/json.h"

/* One QMP server: a chardev and the client on it, if there is one. */
struct monitor {
    struct monitor_set *set;
    struct chardev *chr;
    bool pretty;
    struct qapi_json_framer *framer;
    bool connected;
    bool negotiated;         /* this client has sent qmp_capabilities */
    bool oob;                /* and enabled this capability */
    bool waiting;            /* its output is full: nothing is read until it has gone */
    bool dropping;           /* its output is overfull: events are dropped, and that was reported */
    struct pending *pending; /* the request that is being answered, NULL: none */
    GQueue queue;            /* struct queued *: what came behind it */
    bool draining;           /* the queue is being worked off: no need to begin that again */
    GHashTable *fds; /* of getfd: name -> descriptor + 1; outlive the connection, as in QEMU */
};

/* A numbered set of descriptors, shared by all monitors. */
struct fdset {
    int64_t id;
    bool from_command_line;
    bool opened;    /* a copy was handed out, and the path may be opened again */
    GPtrArray *fds; /* struct fdset_fd *, at least one */
};

struct monitor_set {
    struct vm *vm;
    GPtrArray *monitors;     /* struct monitor * */
    struct monitor *current; /* whose command is being handled, or NULL */
    GPtrArray *fdsets;       /* struct fdset *, by ascending id */
};

/* monitor.c: the server at work on a chardev. Fails when that has a front end already. */
struct monitor *monitor_new(struct monitor_set *set, struct chardev *chr, bool pretty,
                            GError **err);
void monitor_free(struct monitor *mon);
/* Sends one message, borrowed. */
void monitor_send(struct monitor *mon, json_t *message);
/* The same, unless the client is so far behind that it must do without. */
void monitor_send_event(struct monitor *mon, json_t *event);

/* fds.c */
GHashTable *monitor_fds_new(void);
void fdset_free(struct fdset *fdset);
/* The last client has gone: forget the sets that only a client can have wanted. */
void monitor_fdsets_cleanup(struct monitor_set *set);

#endif
