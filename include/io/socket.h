/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stream sockets by address: what the tcp: and unix: transports and the socket chardev share. Plain
 * descriptors in and out; who uses them puts a channel or a chardev on top.
 *
 * No state and no locks: any thread. socket_connect() and name resolution block, so they belong on
 * a thread that may wait, or get a numeric address.
 */
#ifndef IO_SOCKET_H
#define IO_SOCKET_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

#include "io/transport.h"

/* One listening descriptor. A UNIX path that it made is removed with it, if it still is the same
 * socket. */
struct socket_listener {
    int fd;                         /* close-on-exec, non-blocking */
    struct transport_address *addr; /* as bound: numeric host, the port the kernel chose */
    char *owned_path;               /* NULL: there is no socket file that is ours to remove */
    dev_t dev;                      /* identity of the socket file of owned_path */
    ino_t ino;
};

/* Closes and, where owned_path, unlinks. */
void socket_listener_free(struct socket_listener *sl);
/* Wraps an inherited listening descriptor (ownership passes on success only); its path is not ours
 * to remove. */
struct socket_listener *socket_listener_new_from_fd(int fd, GError **err);

/*
 * Connects to a TRANSPORT_TCP or TRANSPORT_UNIX address, trying every address the name has until
 * timeout_ms are over (0 = without limit) or cancel_fd (-1 = none) becomes readable. Returns a
 * close-on-exec, non-blocking descriptor, or -1: LINK ("Failed to connect to 'h:1': Connection
 * refused", "address resolution failed for ..."), HOST (no descriptor left), USER (path too long),
 * CANCELLED.
 */
int socket_connect(const struct transport_address *addr, int cancel_fd, unsigned timeout_ms,
                   GError **err);

/*
 * Binds and listens on every address the name has (one is enough for success); addr->to names the
 * last port to try. A UNIX socket file that no process has open any more is replaced; one in use
 * and a file that is no socket are refused. Returns an array of struct socket_listener, NULL on
 * failure (HOST, USER).
 */
GPtrArray *socket_listen(const struct transport_address *addr, int backlog, GError **err);

/*
 * Accepts one connection: a close-on-exec, non-blocking descriptor; -1 with *err unset when there
 * is none to take (or it has gone again), -1 with *err set (HOST) otherwise.
 */
int socket_accept(int listen_fd, GError **err);

/* True for a socket; *listening and *stream tell what kind. */
bool socket_inspect(int fd, bool *listening, bool *stream);
/* The address of one end, NULL where it has none (an unnamed UNIX socket gives an empty path). */
struct transport_address *socket_local_address(int fd);
struct transport_address *socket_peer_address(int fd);
bool socket_is_unix(int fd);
/* TCP: no delay for small writes, and probes that find a dead peer in a minute. UNIX: a larger
 * buffer. */
void socket_tune(int fd);
/* See channel_limit_ahead(). */
void socket_limit_ahead(int fd, unsigned bytes);

/*
 * Waits until fd has one of the poll events (or an error), for at most timeout_ms (0 = without
 * limit), or until cancel_fd (-1 = none) is readable. 1 ready, 0 timeout, -1 cancelled. Interrupted
 * waits go on.
 */
int socket_wait(int fd, short events, int cancel_fd, unsigned timeout_ms);

/* Makes writes to a closed pipe fail with EPIPE instead of ending the process, unless the process
 * has a handler of its own. */
void io_ignore_sigpipe(void);

#endif
