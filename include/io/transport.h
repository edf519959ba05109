/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a migration goes to or comes from: the address forms of `migrate` and `-incoming`, and how
 * each of them becomes a channel (see io/channel.h).
 *
 *   tcp:HOST:PORT[,ipv4=on|off][,ipv6=on|off][,to=PORT]   unix:PATH   fd:NAME-OR-NUMBER
 * exec:COMMAND   file:PATH[,offset=N]
 *
 * Connecting and accepting block, so they run on a thread of the migration, never on the main loop
 * and never with the machine lock held. A cancel descriptor (an eventfd) that becomes readable ends
 * every wait at once.
 */
#ifndef IO_TRANSPORT_H
#define IO_TRANSPORT_H

#include "io/channel.h"

enum transport_type {
    TRANSPORT_TCP,
    TRANSPORT_UNIX,
    TRANSPORT_FD,
    TRANSPORT_EXEC,
    TRANSPORT_FILE,
};

struct transport_address {
    enum transport_type type;
    char *host;      /* tcp; may be empty for listening on all addresses */
    char *port;      /* tcp; number or service name, "0" lets the kernel choose */
    char *path;      /* unix, file */
    char *fd_name;   /* fd: a getfd name or a decimal number */
    char **argv;     /* exec: NULL-terminated; `exec:CMD` is {"/bin/sh", "-c", CMD} */
    uint64_t offset; /* file, bytes */
    int family; /* tcp: AF_UNSPEC, or AF_INET / AF_INET6 where `ipv4=` and `ipv6=` leave only one */
    unsigned to; /* tcp, listening: the last port to try, 0 = only `port` */
};

/* NULL and *err (USER, "Parameter 'uri' expects a valid migration protocol" for an unknown scheme).
 */
struct transport_address *transport_parse_uri(const char *uri, GError **err);
struct transport_address *transport_address_copy(const struct transport_address *addr);
void transport_address_free(struct transport_address *addr);
/* The URI form, for messages. g_free() */
char *transport_address_text(const struct transport_address *addr);
typedef struct transport_address transport_address; /* for g_autoptr(transport_address) */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(transport_address, transport_address_free)

/*
 * What `ipv4=` and `ipv6=` (1 on, 0 off, -1 not given) leave: AF_UNSPEC, AF_INET or AF_INET6. False
 * and *err (USER) when they leave nothing.
 */
bool transport_family_from_flags(int ipv4, int ipv6, int *family, GError **err);

/*
 * Opens the outgoing side. fd is the descriptor for TRANSPORT_FD, or the open file for
 * TRANSPORT_FILE where somebody else has opened it (ownership passes, also on failure), else -1.
 * cancel_fd may be -1. Errors: LINK ("Failed to connect to '/x': No such file or directory"), HOST,
 * CANCELLED. A file is created with mode 0600 and truncated only where offset is 0; an exec: child
 * gets the channel as its stdin.
 */
struct channel *transport_connect(const struct transport_address *addr, int fd, int cancel_fd,
                                  unsigned timeout_ms, GError **err);

struct listener;
/*
 * Prepares the incoming side without blocking: binds and listens (tcp: all resolved addresses,
 * SO_REUSEADDR; unix: an old socket file that nobody listens on is replaced), opens the file,
 * starts the command with the channel as its stdout.
 */
struct listener *transport_listen(const struct transport_address *addr, int fd, GError **err);
/* The first (and for fd, exec and file: the only) channel; blocks without limit unless timeout_ms,
 * until cancel_fd. */
struct channel *transport_accept(struct listener *l, int cancel_fd, unsigned timeout_ms,
                                 GError **err);
/* Bound addresses for query-migrate's socket-address: for tcp with the port that the kernel chose.
 * Owned by l. */
unsigned transport_listener_addresses(struct listener *l,
                                      const struct transport_address *const **out);
/* Closes; removes a unix path that it created. */
void listener_free(struct listener *l);

#endif
