/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client: one connection, one command at a time, everything with a deadline.
 *
 * A QMP socket serves one client at a time and lets the next one wait in its queue, so a connection
 * is kept for as short as possible: connect, ask, close. A greeting that does not come means that
 * somebody else holds the socket.
 *
 * The server is not trusted: garbage, endless messages, silence, drips and lies about types end in
 * an error, never in a crash, a hang beyond the deadline or more than 16 MiB of memory. Strings in
 * results are as the server sent them; text_clean() makes them fit to print.
 */
#ifndef FERRYCTL_QMP_H
#define FERRYCTL_QMP_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Where a machine's QMP socket is: a path, or host and port. */
typedef struct qmp_address {
    char *text; /* for messages, clean */
    char *path;
    char *host, *port;
} qmp_address;

void qmp_address_free(qmp_address *address);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(qmp_address, qmp_address_free)

typedef struct qmp qmp;

/*
 * Connects, reads the greeting and enters command mode. Every wait, here and in qmp_execute(), ends
 * after patience_ms, and at once when abort_fd becomes readable (-1: never). The errors have the
 * code CTL_UNREACHABLE. A host's name is looked up with the resolver's own deadline.
 */
qmp *qmp_connect(const qmp_address *address, int64_t patience_ms, int abort_fd, GError **err);
void qmp_close(qmp *q);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(qmp, qmp_close)

/*
 * Runs a command and waits for its answer; events are passed over. Takes the reference to arguments
 * (NULL for none). Returns the result, a new reference. What the server answers with an error has
 * the code CTL_REFUSED and the server's own text, not yet clean; see qmp_is_missing().
 */
json_t *qmp_execute(qmp *q, const char *command, json_t *arguments, GError **err);
/* The same where the result says nothing. */
bool qmp_do(qmp *q, const char *command, json_t *arguments, GError **err);

/* Waits until the server has closed the connection; false when it has not within the patience. */
bool qmp_wait_closed(qmp *q);

/* The last error was "no such command". */
bool qmp_is_missing(const qmp *q);

/* For commands that may work for a while. */
void qmp_set_patience(qmp *q, int64_t patience_ms);

bool qmp_is_ferry(const qmp *q);
/* "Ferry 0.1" or "QEMU 7.2.22", clean ASCII. Owned by the connection. */
const char *qmp_version(const qmp *q);

#endif
