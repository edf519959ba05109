/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Addresses of a migration and the table of transports; see include/io/transport.h. Each transport
 * is a struct transport_ops in a transport-*.c file; adding one means a row here and in enum
 * transport_type.
 *
 * Trust: an address comes from the operator, who may run commands and open files with it; that it
 * is well formed is checked here.
 */
#include "io/transport.h"
#include "transport-private.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "channel-private.h"
#include "io/socket.h"
#include "socket-private.h"
#include "util/error.h"

static const struct transport_ops *const transports[] = {
    [TRANSPORT_TCP] = &transport_tcp_ops,   [TRANSPORT_UNIX] = &transport_unix_ops,
    [TRANSPORT_FD] = &transport_fd_ops,     [TRANSPORT_EXEC] = &transport_exec_ops,
    [TRANSPORT_FILE] = &transport_file_ops,
};

struct transport_address *transport_parse_uri(const char *uri, GError **err)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(transports); i++) {
        size_t len = strlen(transports[i]->scheme);

        if (strncmp(uri, transports[i]->scheme, len) == 0) {
            g_autoptr(transport_address) addr = g_new0(struct transport_address, 1);

            addr->type = i;
            return transports[i]->parse(addr, uri + len, err) ? g_steal_pointer(&addr) : NULL;
        }
    }
    error_set(err, FERRY_ERROR_USER, "Parameter 'uri' expects a valid migration protocol");
    return NULL;
}

struct transport_address *transport_address_copy(const struct transport_address *addr)
{
    struct transport_address *copy = g_new(struct transport_address, 1);

    *copy = *addr;
    copy->host = g_strdup(addr->host);
    copy->port = g_strdup(addr->port);
    copy->path = g_strdup(addr->path);
    copy->fd_name = g_strdup(addr->fd_name);
    copy->argv = g_strdupv(addr->argv);
    return copy;
}

void transport_address_free(struct transport_address *addr)
{
    if (!addr) {
        return;
    }
    g_free(addr->host);
    g_free(addr->port);
    g_free(addr->path);
    g_free(addr->fd_name);
    g_strfreev(addr->argv);
    g_free(addr);
}

char *transport_address_text(const struct transport_address *addr)
{
    return transports[addr->type]->text(addr);
}

struct channel *transport_connect(const struct transport_address *addr, int fd, int cancel_fd,
                                  unsigned timeout_ms, GError **err)
{
    return transports[addr->type]->connect(addr, fd, cancel_fd, timeout_ms, err);
}

struct listener *transport_listen(const struct transport_address *addr, int fd, GError **err)
{
    struct listener *l = g_new0(struct listener, 1);

    l->addresses = g_ptr_array_new();
    l->asked = transport_address_copy(addr);
    if (!transports[addr->type]->listen(addr, fd, l, err)) {
        listener_free(l);
        return NULL;
    }
    for (unsigned i = 0; l->sockets && i < l->sockets->len; i++) {
        struct socket_listener *sl = l->sockets->pdata[i];

        if (sl->addr) {
            g_ptr_array_add(l->addresses, sl->addr);
        }
    }
    return l;
}

/*
 * Waits on all listening sockets. Which one is ready does not matter: accept() never blocks and
 * says "none" where nobody waits.
 */
static int listener_poll(struct listener *l, int cancel_fd, unsigned timeout_ms)
{
    unsigned n = l->sockets->len;
    g_autofree struct pollfd *p = g_new0(struct pollfd, n + 1);
    gint64 deadline = timeout_ms ? g_get_monotonic_time() + (gint64)timeout_ms * 1000 : 0;

    for (unsigned i = 0; i < n; i++) {
        p[i].fd = ((struct socket_listener *)l->sockets->pdata[i])->fd;
        p[i].events = POLLIN;
    }
    p[n].fd = cancel_fd;
    p[n].events = POLLIN;
    for (;;) {
        unsigned left_ms;
        int r;

        if (!socket_deadline_left(deadline, &left_ms)) {
            return 0;
        }
        r = poll(p, n + 1, left_ms ? (int)left_ms : -1);
        if (r > 0) {
            return p[n].revents ? -1 : 1;
        }
    }
}

static struct channel *listener_take(struct listener *l, GError **err)
{
    for (unsigned i = 0; i < l->sockets->len; i++) {
        struct socket_listener *sl = l->sockets->pdata[i];
        GError *local = NULL;
        int fd = socket_accept(sl->fd, &local);

        if (fd >= 0) {
            g_autofree char *name = transport_address_text(sl->addr ? sl->addr : l->asked);

            return channel_new_socket(name, fd, err);
        }
        if (local) {
            g_propagate_error(err, local);
            return NULL;
        }
    }
    return NULL;
}

struct channel *transport_accept(struct listener *l, int cancel_fd, unsigned timeout_ms,
                                 GError **err)
{
    g_autofree char *name = transport_address_text(l->asked);

    if (!l->sockets) {
        if (!l->single) {
            error_set(err, FERRY_ERROR_USER, "The address %s gives only one channel", name);
        }
        return g_steal_pointer(&l->single);
    }
    for (;;) {
        GError *local = NULL;
        struct channel *ch;
        int r = listener_poll(l, cancel_fd, timeout_ms);

        if (r < 0) {
            error_set(err, FERRY_ERROR_CANCELLED, "Waiting for a connection on %s was cancelled",
                      name);
            return NULL;
        }
        if (r == 0) {
            error_set(err, FERRY_ERROR_LINK, "Timeout: nobody connected to %s for %g seconds", name,
                      timeout_ms / 1000.0);
            return NULL;
        }
        ch = listener_take(l, &local);
        if (ch || local) {
            if (local) {
                g_propagate_error(err, local);
            }
            return ch;
        }
    }
}

unsigned transport_listener_addresses(struct listener *l,
                                      const struct transport_address *const **out)
{
    *out = (const struct transport_address *const *)l->addresses->pdata;
    return l->addresses->len;
}

void listener_free(struct listener *l)
{
    if (!l) {
        return;
    }
    g_ptr_array_unref(l->addresses);
    if (l->sockets) {
        g_ptr_array_unref(l->sockets);
    }
    channel_unref(l->single);
    transport_address_free(l->asked);
    g_free(l);
}
