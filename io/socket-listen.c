/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Listening stream sockets; see include/io/socket.h.
 *
 * TCP: every address of the name gets a socket; one that can be had is enough, as a name may give
 * addresses of a family this host has switched off. UNIX: a file left behind by a process that died
 * would make bind() fail for ever, so it is replaced, but only after asking the kernel whether any
 * process has it open. The question is a connect() with a datagram socket, which is answered
 * without a trace at a living stream server.
 */
#include "io/socket.h"
#include "socket-private.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

/* Who listens may hold everything else up meanwhile, for instance QMP: a name server gets this
 * long. */
#define LOOKUP_TIMEOUT_US (10 * G_USEC_PER_SEC)

static struct socket_listener *listener_wrap(int fd)
{
    struct socket_listener *sl = g_new0(struct socket_listener, 1);

    sl->fd = fd;
    sl->addr = socket_local_address(fd);
    return sl;
}

void socket_listener_free(struct socket_listener *sl)
{
    struct stat st;

    if (!sl) {
        return;
    }
    /* Another process may have taken the path over meanwhile: then it is not ours any more. */
    if (sl->owned_path && lstat(sl->owned_path, &st) == 0 && st.st_dev == sl->dev &&
        st.st_ino == sl->ino) {
        unlink(sl->owned_path);
    }
    g_free(sl->owned_path);
    close(sl->fd);
    transport_address_free(sl->addr);
    g_free(sl);
}

struct socket_listener *socket_listener_new_from_fd(int fd, GError **err)
{
    bool listening, stream;
    struct socket_listener *sl;
    int flags;

    if (!socket_inspect(fd, &listening, &stream)) {
        error_set(err, FERRY_ERROR_USER, "File descriptor '%d' is not a socket", fd);
        return NULL;
    }
    if (!stream || (!listening && listen(fd, 1) < 0)) {
        error_set(err, FERRY_ERROR_USER,
                  "File descriptor '%d' is not a listening stream socket: pass a bound one", fd);
        return NULL;
    }
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to set up file descriptor '%d'", fd);
        return NULL;
    }
    sl = listener_wrap(fd);
    if (!sl->addr) {
        error_set(err, FERRY_ERROR_USER,
                  "File descriptor '%d' is neither a TCP nor a UNIX socket: pass one of these", fd);
        g_free(sl);
        return NULL;
    }
    return sl;
}

/* A socket file that belongs to no process any more. */
static bool unix_path_is_stale(const struct sockaddr_un *un)
{
    struct stat st;
    bool stale;
    int fd;

    if (lstat(un->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    /* ECONNREFUSED: nobody. EPROTOTYPE: somebody, of another kind than datagram. */
    stale = connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static GPtrArray *listen_unix(const struct transport_address *addr, int backlog, GError **err)
{
    struct sockaddr_un un;
    struct socket_listener *sl;
    struct stat st;
    GPtrArray *list;
    int fd;

    if (!socket_fill_unix(&un, addr->path, err)) {
        return NULL;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to create a UNIX socket");
        return NULL;
    }
    if (unix_path_is_stale(&un)) {
        unlink(un.sun_path);
    }
    if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to bind socket to %s", addr->path);
        close(fd);
        return NULL;
    }
    if (listen(fd, backlog) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to listen on socket %s", addr->path);
        unlink(un.sun_path);
        close(fd);
        return NULL;
    }
    sl = listener_wrap(fd);
    if (lstat(un.sun_path, &st) == 0) {
        /* absolute: going into the background changes the working directory */
        sl->owned_path = g_canonicalize_filename(un.sun_path, NULL);
        sl->dev = st.st_dev;
        sl->ino = st.st_ino;
    }
    list = g_ptr_array_new_with_free_func((GDestroyNotify)socket_listener_free);
    g_ptr_array_add(list, sl);
    return list;
}

static void sockaddr_set_port(struct sockaddr *sa, unsigned port)
{
    if (sa->sa_family == AF_INET) {
        ((struct sockaddr_in *)sa)->sin_port = htons(port);
    } else if (sa->sa_family == AF_INET6) {
        ((struct sockaddr_in6 *)sa)->sin6_port = htons(port);
    }
}

static unsigned sockaddr_port(const struct sockaddr *sa)
{
    return ntohs(sa->sa_family == AF_INET6 ? ((const struct sockaddr_in6 *)sa)->sin6_port
                                           : ((const struct sockaddr_in *)sa)->sin_port);
}

/* A listening descriptor on the first free port from sa's own to `to`, or -errno. */
static int listen_tcp_one(struct addrinfo *ai, bool only_v6, unsigned to, int backlog)
{
    unsigned port = sockaddr_port(ai->ai_addr);
    unsigned last = port ? MAX(port, MIN(to, 65535)) : 0;
    int errnum = EADDRINUSE;
    int on = 1, v6only = only_v6;

    for (; port <= last; port++) {
        int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);

        if (fd < 0) {
            return -errno;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (ai->ai_family == AF_INET6) {
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
        }
        sockaddr_set_port(ai->ai_addr, port);
        /* With SO_REUSEADDR two sockets may bind one port; only listen() shows that it is taken. */
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, backlog) == 0) {
            return fd;
        }
        errnum = errno;
        close(fd);
        if (errnum != EADDRINUSE) {
            break;
        }
    }
    return -errnum;
}

static GPtrArray *listen_tcp(const struct transport_address *addr, int backlog, GError **err)
{
    g_autoptr(GPtrArray) list =
        g_ptr_array_new_with_free_func((GDestroyNotify)socket_listener_free);
    struct addrinfo *ais = NULL;
    bool several, has_v4 = false;
    int errnum = EADDRNOTAVAIL;

    if (!resolve_tcp(addr, RESOLVE_LISTEN, -1, g_get_monotonic_time() + LOOKUP_TIMEOUT_US, &ais,
                     err)) {
        return NULL;
    }
    several = ais && ais->ai_next;
    for (struct addrinfo *ai = ais; ai; ai = ai->ai_next) {
        has_v4 |= ai->ai_family == AF_INET;
    }
    for (struct addrinfo *ai = ais; ai; ai = ai->ai_next) {
        /* Beside an IPv4 socket, or where only IPv6 is wanted, "::" must not take IPv4 as well. */
        bool only_v6 = (several && has_v4) || addr->family == AF_INET6;
        int fd = listen_tcp_one(ai, only_v6, addr->to, backlog);

        if (fd >= 0) {
            g_ptr_array_add(list, listener_wrap(fd));
        } else {
            errnum = -fd;
        }
    }
    freeaddrinfo(ais);
    if (list->len == 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errnum, "%s %s:%s",
                        errnum == EADDRINUSE ? "Failed to find an available port on"
                                             : "Failed to bind socket to",
                        addr->host, addr->port);
        return NULL;
    }
    return g_steal_pointer(&list);
}

GPtrArray *socket_listen(const struct transport_address *addr, int backlog, GError **err)
{
    switch (addr->type) {
    case TRANSPORT_TCP:
        return listen_tcp(addr, backlog, err);
    case TRANSPORT_UNIX:
        return listen_unix(addr, backlog, err);
    default:
        error_set(err, FERRY_ERROR_USER, "Only tcp: and unix: addresses name a socket");
        return NULL;
    }
}

int socket_accept(int listen_fd, GError **err)
{
    int fd;

    do {
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd >= 0) {
        socket_tune(fd);
        return fd;
    }
    switch (errno) {
    case EAGAIN:
#if EAGAIN != EWOULDBLOCK
    case EWOULDBLOCK:
#endif
    /* errors of the new connection, not of the listener: it came and went */
    case ECONNABORTED:
    case EPROTO:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ETIMEDOUT:
        return -1;
    default:
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to accept a connection");
        return -1;
    }
}
