/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connecting stream sockets; see include/io/socket.h. Listening is in socket-listen.c, names become
 * addresses in resolve.c.
 *
 * Connecting goes address by address: a non-blocking connect(), a wait that a cancel descriptor
 * ends, the result from SO_ERROR. The error of the last address tried is the one reported.
 */
#include "io/socket.h"
#include "socket-private.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

/* How long to pause when the queue of a listening UNIX socket is full; there is nothing to poll
 * for. */
#define BACKLOG_RETRY_MS 10

void io_ignore_sigpipe(void)
{
    struct sigaction sa;

    if (sigaction(SIGPIPE, NULL, &sa) == 0 && !(sa.sa_flags & SA_SIGINFO) &&
        sa.sa_handler == SIG_DFL) {
        sa.sa_handler = SIG_IGN;
        sigaction(SIGPIPE, &sa, NULL);
    }
}

int socket_wait(int fd, short events, int cancel_fd, unsigned timeout_ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    struct pollfd p[2] = {
        { .fd = fd, .events = events },
        { .fd = cancel_fd, .events = POLLIN },
    };

    for (;;) {
        int wait_ms = -1;
        int n;

        if (timeout_ms) {
            gint64 left = deadline - g_get_monotonic_time();

            wait_ms = left > 0 ? MIN((left + 999) / 1000, G_MAXINT) : 0;
        }
        n = poll(p, 2, wait_ms);
        if (n > 0) {
            return p[1].revents ? -1 : 1;
        }
        if (n == 0) {
            return 0;
        }
        if (errno != EINTR) {
            return 1; /* only ENOMEM is left; the next system call will tell */
        }
    }
}

bool socket_deadline_left(gint64 deadline, unsigned *ms)
{
    gint64 left;

    *ms = 0;
    if (!deadline) {
        return true;
    }
    left = deadline - g_get_monotonic_time();
    if (left <= 0) {
        return false;
    }
    *ms = MIN((left + 999) / 1000, G_MAXINT);
    return true;
}

bool socket_check_port(const char *port, GError **err)
{
    guint64 number;

    if (*port && strspn(port, "0123456789") == strlen(port) &&
        !g_ascii_string_to_unsigned(port, 10, 0, 65535, &number, NULL)) {
        error_set(err, FERRY_ERROR_USER, "The port '%s' is not in the range 0 to 65535", port);
        return false;
    }
    return true;
}

bool socket_is_unix(int fd)
{
    int domain = 0;
    socklen_t len = sizeof(domain);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

/*
 * Both ends of a UNIX socket sleep by turns: the writer until three quarters of its buffer are
 * read. The more it holds, the less often. The kernel cuts this to what the host allows
 * (net.core.wmem_max), which by default still doubles it. TCP sizes its buffers itself, as long as
 * nobody else does.
 */
#define UNIX_SEND_BUFFER (4 << 20)

/* Both ends have the same address: what is sent never leaves this host. */
static bool stays_on_host(int fd)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage room;
    } here, there;
    socklen_t len = sizeof(here), there_len = sizeof(there);

    if (getsockname(fd, &here.sa, &len) < 0 || getpeername(fd, &there.sa, &there_len) < 0 ||
        here.sa.sa_family != there.sa.sa_family) {
        return false;
    }
    if (here.sa.sa_family == AF_INET) {
        return here.in.sin_addr.s_addr == there.in.sin_addr.s_addr;
    }
    return here.sa.sa_family == AF_INET6 &&
           memcmp(&here.in6.sin6_addr, &there.in6.sin6_addr, sizeof(here.in6.sin6_addr)) == 0;
}

/*
 * A congestion control that paces (bbr) arms a timer for every few segments, a tenth of a
 * migration's time, and between two processes of one host there is no link that could be congested:
 * the plainest one then. Every kernel has it and allows it to everybody; on a link the host's
 * choice stays.
 */
#define LOCAL_CONGESTION_CONTROL "reno"

void socket_tune(int fd)
{
    int on = 1, buffer = UNIX_SEND_BUFFER;
    int idle_s = 30, interval_s = 10, probes = 3;

    if (socket_is_unix(fd)) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
        return;
    }
    if (stays_on_host(fd)) {
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, LOCAL_CONGESTION_CONTROL,
                   sizeof(LOCAL_CONGESTION_CONTROL) - 1);
    }
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

void socket_limit_ahead(int fd, unsigned bytes)
{
    int n = (int)bytes;

    if (socket_is_unix(fd)) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n));
    } else {
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &n, sizeof(n));
    }
}

bool socket_inspect(int fd, bool *listening, bool *stream)
{
    int accepting = 0, type = 0;
    socklen_t len = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0) {
        return false;
    }
    len = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &len) < 0) {
        accepting = 0;
    }
    *listening = accepting != 0;
    *stream = type == SOCK_STREAM;
    return true;
}

struct transport_address *socket_address_from_sockaddr(const struct sockaddr *sa, socklen_t len)
{
    struct transport_address *addr;

    if (sa->sa_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)sa;
        size_t head = offsetof(struct sockaddr_un, sun_path);

        addr = g_new0(struct transport_address, 1);
        addr->type = TRANSPORT_UNIX;
        addr->path = g_strndup(un->sun_path, len > head ? len - head : 0);
        return addr;
    }
    if (sa->sa_family == AF_INET || sa->sa_family == AF_INET6) {
        char host[NI_MAXHOST], port[NI_MAXSERV];

        if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
                        NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
            return NULL;
        }
        addr = g_new0(struct transport_address, 1);
        addr->type = TRANSPORT_TCP;
        addr->host = g_strdup(host);
        addr->port = g_strdup(port);
        addr->family = sa->sa_family;
        return addr;
    }
    return NULL;
}

struct transport_address *socket_local_address(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0) {
        return NULL;
    }
    return socket_address_from_sockaddr((struct sockaddr *)&ss, len);
}

struct transport_address *socket_peer_address(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0) {
        return NULL;
    }
    return socket_address_from_sockaddr((struct sockaddr *)&ss, len);
}

bool socket_fill_unix(struct sockaddr_un *un, const char *path, GError **err)
{
    memset(un, 0, sizeof(*un));
    un->sun_family = AF_UNIX;
    if (!*path) {
        error_set(err, FERRY_ERROR_USER, "A UNIX socket address needs a path: use unix:PATH");
        return false;
    }
    if (strlen(path) >= sizeof(un->sun_path)) {
        error_set(err, FERRY_ERROR_USER,
                  "UNIX socket path '%s' is too long: path must be less than %zu bytes", path,
                  sizeof(un->sun_path));
        return false;
    }
    strcpy(un->sun_path, path);
    return true;
}

static void set_connect_error(const char *target, int errnum, GError **err)
{
    if (errnum == ECANCELED) {
        error_set(err, FERRY_ERROR_CANCELLED, "Connecting to '%s' was cancelled", target);
    } else {
        error_set_errno(err, FERRY_ERROR_LINK, errnum, "Failed to connect to '%s'", target);
    }
}

/* 0 or an errno; ECANCELED for the cancel descriptor, ETIMEDOUT for the deadline (0 = none). */
static int connect_wait(int fd, const struct sockaddr *sa, socklen_t len, int cancel_fd,
                        gint64 deadline)
{
    for (;;) {
        unsigned left_ms;
        int errnum = 0;
        socklen_t errlen = sizeof(errnum);
        int r;

        if (connect(fd, sa, len) == 0 || errno == EISCONN) {
            return 0;
        }
        errnum = errno;
        if (errnum == EAGAIN) {
            /* UNIX only: the server exists but has too many waiting */
            if (!socket_deadline_left(deadline, &left_ms)) {
                return ETIMEDOUT;
            }
            if (socket_wait(-1, 0, cancel_fd, BACKLOG_RETRY_MS) < 0) {
                return ECANCELED;
            }
            continue;
        }
        if (errnum != EINPROGRESS && errnum != EINTR && errnum != EALREADY) {
            return errnum;
        }
        if (!socket_deadline_left(deadline, &left_ms)) {
            return ETIMEDOUT;
        }
        r = socket_wait(fd, POLLOUT, cancel_fd, left_ms);
        if (r <= 0) {
            return r < 0 ? ECANCELED : ETIMEDOUT;
        }
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &errlen) < 0) {
            return errno;
        }
        return errnum;
    }
}

/* A connected descriptor or -errno. */
static int connect_one(int family, int protocol, const struct sockaddr *sa, socklen_t len,
                       int cancel_fd, gint64 deadline)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    int errnum;

    if (fd < 0) {
        return -errno;
    }
    errnum = connect_wait(fd, sa, len, cancel_fd, deadline);
    if (errnum) {
        close(fd);
        return -errnum;
    }
    socket_tune(fd);
    return fd;
}

static int connect_unix(const struct transport_address *addr, int cancel_fd, gint64 deadline,
                        GError **err)
{
    struct sockaddr_un un;
    int fd;

    if (!socket_fill_unix(&un, addr->path, err)) {
        return -1;
    }
    fd = connect_one(AF_UNIX, 0, (struct sockaddr *)&un, sizeof(un), cancel_fd, deadline);
    if (fd < 0) {
        set_connect_error(addr->path, -fd, err);
        return -1;
    }
    return fd;
}

static int connect_tcp(const struct transport_address *addr, int cancel_fd, gint64 deadline,
                       GError **err)
{
    g_autofree char *target = g_strdup_printf("%s:%s", addr->host, addr->port);
    struct addrinfo *list = NULL;
    unsigned untried = 0;
    int fd = -EADDRNOTAVAIL;

    if (!resolve_tcp(addr, RESOLVE_CONNECT, cancel_fd, deadline, &list, err)) {
        return -1;
    }
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        untried++;
    }
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next, untried--) {
        gint64 now = g_get_monotonic_time();
        /* an address that swallows packets gets its share of the time, not all of it */
        gint64 share = deadline ? now + MAX((deadline - now) / untried, 1) : 0;

        fd = connect_one(ai->ai_family, ai->ai_protocol, ai->ai_addr, ai->ai_addrlen, cancel_fd,
                         share);
        if (fd >= 0 || fd == -ECANCELED) {
            break;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) {
        set_connect_error(target, -fd, err);
        return -1;
    }
    return fd;
}

int socket_connect(const struct transport_address *addr, int cancel_fd, unsigned timeout_ms,
                   GError **err)
{
    gint64 deadline = timeout_ms ? g_get_monotonic_time() + (gint64)timeout_ms * 1000 : 0;

    switch (addr->type) {
    case TRANSPORT_TCP:
        return connect_tcp(addr, cancel_fd, deadline, err);
    case TRANSPORT_UNIX:
        return connect_unix(addr, cancel_fd, deadline, err);
    default:
        error_set(err, FERRY_ERROR_USER, "Only tcp: and unix: addresses name a socket");
        return -1;
    }
}
