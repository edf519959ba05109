/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one transport is: a row of the table in transport.c. Only io/ includes this.
 */
#ifndef IO_TRANSPORT_PRIVATE_H
#define IO_TRANSPORT_PRIVATE_H

#include "io/transport.h"

struct listener {
    struct transport_address *asked; /* what transport_listen() was given; owned */
    GPtrArray *sockets;              /* struct socket_listener; NULL for a single channel */
    struct channel *single;          /* fd:, exec:, file:, until it is accepted */
    GPtrArray *addresses;            /* struct transport_address, owned by the sockets */
};

struct transport_ops {
    const char *scheme; /* with the colon */
    /* `rest` is what follows the scheme */
    bool (*parse)(struct transport_address *addr, const char *rest, GError **err);
    char *(*text)(const struct transport_address *addr);
    struct channel *(*connect)(const struct transport_address *addr, int fd, int cancel_fd,
                               unsigned timeout_ms, GError **err);
    /* Fills l->sockets or l->single. */
    bool (*listen)(const struct transport_address *addr, int fd, struct listener *l, GError **err);
};

extern const struct transport_ops transport_tcp_ops;
extern const struct transport_ops transport_unix_ops;
extern const struct transport_ops transport_fd_ops;
extern const struct transport_ops transport_exec_ops;
extern const struct transport_ops transport_file_ops;

#endif
