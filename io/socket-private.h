/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the socket files of io/ only; see include/io/socket.h. */
#ifndef IO_SOCKET_PRIVATE_H
#define IO_SOCKET_PRIVATE_H

#include <glib.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "io/transport.h"

enum resolve_purpose {
    RESOLVE_CONNECT,
    RESOLVE_LISTEN, /* an empty host means all addresses */
};

/*
 * Host and port to a list for freeaddrinfo(). A name is looked up on a thread of its own, so that
 * the deadline (monotonic microseconds, 0 = none) and cancel_fd hold although getaddrinfo() knows
 * neither; a lookup given up on ends by itself later. Errors: LINK ("address resolution failed for
 * HOST:PORT:
 * ..."), CANCELLED.
 */
bool resolve_tcp(const struct transport_address *addr, enum resolve_purpose purpose, int cancel_fd,
                 gint64 deadline, struct addrinfo **list, GError **err);

/* False and *err (USER) for a number that no port has; service names are for the resolver. */
bool socket_check_port(const char *port, GError **err);
/* Milliseconds to the deadline, 0 for none; false when it has passed. */
bool socket_deadline_left(gint64 deadline, unsigned *ms);
/* Checks the path's length in the one place where it is copied. */
bool socket_fill_unix(struct sockaddr_un *un, const char *path, GError **err);
struct transport_address *socket_address_from_sockaddr(const struct sockaddr *sa, socklen_t len);

#endif
