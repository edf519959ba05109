/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The socket chardev: a TCP or UNIX stream socket, as server or as client.
 *
 * A server has one client at a time. While there is none, its listening sockets are watched; while
 * there is one, they are not, and further clients wait in the kernel's queue until it has gone. A
 * client that has `reconnect` tries again that many seconds after a failure or a disconnect, on a
 * thread of its own (connect-job.c); without it the connection made at the start is the only one.
 *
 * Descriptors that come with SCM_RIGHTS are kept in order, close-on-exec, at most FD_LIMIT; what
 * nobody took is closed with the connection.
 *
 * Trust: whoever connects is let in (who may is up to the socket's path and address). It is read
 * only as far as the front end has room, and what it does not read is bounded by the front end.
 */
#include "chardev-private.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connect-job.h"
#include "io/socket.h"
#include "util/error.h"

#define FD_LIMIT         16
#define LISTEN_BACKLOG   8
#define CONNECT_LIMIT_MS 30000 /* for a client that is connected when the chardev is opened */
#define ACCEPT_RETRY_S   1     /* after accept() failed for want of descriptors or memory */

struct socket_chardev {
    struct chardev chr;
    struct transport_address *addr; /* as asked for; NULL for an inherited descriptor */
    bool server;
    bool nodelay;
    unsigned reconnect_s;      /* 0: never */
    bool failure_reported;     /* of connecting; once until it works */
    GPtrArray *listeners;      /* struct socket_listener; server only */
    GPtrArray *listen_watches; /* while there is no client */
    int fd;                    /* the connection, -1 for none */
    char *name;                /* of the connection, for describe */
    int fds[FD_LIMIT];         /* received, not taken yet */
    unsigned fd_count;
    GSource *retry_timer;
    struct connect_job *job;
};

static const struct chardev_option socket_options[] = {
    { "path", CHARDEV_OPTION_STRING },  { "host", CHARDEV_OPTION_STRING },
    { "port", CHARDEV_OPTION_STRING },  { "to", CHARDEV_OPTION_NUMBER },
    { "ipv4", CHARDEV_OPTION_BOOL },    { "ipv6", CHARDEV_OPTION_BOOL },
    { "fd", CHARDEV_OPTION_STRING },    { "server", CHARDEV_OPTION_BOOL },
    { "wait", CHARDEV_OPTION_BOOL },    { "reconnect", CHARDEV_OPTION_NUMBER },
    { "nodelay", CHARDEV_OPTION_BOOL }, { NULL, 0 },
};

static void socket_retry_later(struct socket_chardev *s, unsigned seconds);

/* ---- names ---- */

/* "unix:/x,server=on", "tcp:127.0.0.1:4444"; the first listening address stands for all. */
static char *socket_base_name(const struct socket_chardev *s)
{
    const struct transport_address *addr = s->addr;
    const char *suffix = s->server ? ",server=on" : "";

    if (s->listeners) {
        addr = ((struct socket_listener *)s->listeners->pdata[0])->addr;
    }
    if (!addr) {
        return g_strdup_printf("fd:%s", suffix);
    }
    return addr->type == TRANSPORT_UNIX
               ? g_strdup_printf("unix:%s%s", addr->path, suffix)
               : g_strdup_printf("tcp:%s:%s%s", addr->host, addr->port, suffix);
}

static char *tcp_end_text(const struct transport_address *addr)
{
    return g_strdup_printf(addr->family == AF_INET6 ? "[%s]:%s" : "%s:%s", addr->host, addr->port);
}

static char *socket_connection_name(const struct socket_chardev *s)
{
    g_autoptr(transport_address) local = socket_local_address(s->fd);
    g_autoptr(transport_address) peer = socket_peer_address(s->fd);
    const char *suffix = s->server ? ",server=on" : "";

    if (local && peer && local->type == TRANSPORT_TCP) {
        g_autofree char *local_text = tcp_end_text(local);
        g_autofree char *peer_text = tcp_end_text(peer);

        return g_strdup_printf("tcp:%s%s <-> %s", local_text, suffix, peer_text);
    }
    if (local && peer && local->type == TRANSPORT_UNIX) {
        return g_strdup_printf("unix:%s%s", *local->path ? local->path : peer->path, suffix);
    }
    return socket_base_name(s);
}

static char *socket_describe(const struct chardev *chr)
{
    const struct socket_chardev *s = (const struct socket_chardev *)chr;
    g_autofree char *base = NULL;

    if (s->fd >= 0) {
        return g_strdup(s->name);
    }
    base = socket_base_name(s);
    return g_strconcat("disconnected:", base, NULL);
}

/* ---- received descriptors ---- */

static void fds_close_all(struct socket_chardev *s)
{
    for (unsigned i = 0; i < s->fd_count; i++) {
        close(s->fds[i]);
    }
    s->fd_count = 0;
}

static void fds_collect(struct socket_chardev *s, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t bytes;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        bytes = c->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
            if (s->fd_count < FD_LIMIT) {
                s->fds[s->fd_count++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static int socket_take_fd(struct chardev *chr)
{
    struct socket_chardev *s = (struct socket_chardev *)chr;
    int fd;

    if (s->fd_count == 0) {
        return -1;
    }
    fd = s->fds[0];
    s->fd_count--;
    memmove(s->fds, s->fds + 1, s->fd_count * sizeof(int));
    return fd;
}

/* ---- bytes ---- */

static ssize_t socket_read(struct chardev *chr, void *buf, size_t len)
{
    struct socket_chardev *s = (struct socket_chardev *)chr;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * FD_LIMIT)];
    } control;
    struct iovec iov = { .iov_base = buf, .iov_len = len };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n >= 0) {
        fds_collect(s, &msg);
    }
    return n;
}

static ssize_t socket_write(struct chardev *chr, const void *buf, size_t len)
{
    struct socket_chardev *s = (struct socket_chardev *)chr;

    return send(s->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- connections ---- */

static void socket_connected(struct socket_chardev *s, int fd)
{
    int nodelay = s->nodelay;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof(nodelay));
    s->fd = fd;
    s->failure_reported = false;
    s->chr.output_failed = false;
    s->name = socket_connection_name(s);
    chardev_use_fds(&s->chr, fd, fd);
    chardev_set_connected(&s->chr, true);
}

static void socket_stop_listening(struct socket_chardev *s)
{
    g_clear_pointer(&s->listen_watches, g_ptr_array_unref);
}

static void socket_try_accept(struct socket_chardev *s)
{
    for (unsigned i = 0; s->fd < 0 && i < s->listeners->len; i++) {
        struct socket_listener *sl = s->listeners->pdata[i];
        g_autoptr(GError) error = NULL;
        int fd = socket_accept(sl->fd, &error);

        if (fd >= 0) {
            socket_stop_listening(s);
            socket_connected(s, fd);
        } else if (error) {
            /* the connection stays in the queue: look again later, not in a busy loop */
            report_warning("Chardev '%s': %s", s->chr.id, error->message);
            socket_stop_listening(s);
            socket_retry_later(s, ACCEPT_RETRY_S);
            return;
        }
    }
}

static void socket_on_incoming(void *opaque, GIOCondition revents G_GNUC_UNUSED)
{
    socket_try_accept(opaque);
}

static void socket_start_listening(struct socket_chardev *s)
{
    s->listen_watches = g_ptr_array_new_with_free_func((GDestroyNotify)chardev_watch_free);
    for (unsigned i = 0; i < s->listeners->len; i++) {
        struct socket_listener *sl = s->listeners->pdata[i];

        g_ptr_array_add(s->listen_watches,
                        chardev_watch_new(sl->fd, G_IO_IN, socket_on_incoming, s));
    }
}

static void socket_on_connect(void *opaque, int fd, const GError *error)
{
    struct socket_chardev *s = opaque;

    s->job = NULL;
    if (fd >= 0) {
        socket_connected(s, fd);
        return;
    }
    if (!s->failure_reported) {
        s->failure_reported = true;
        report_warning("Unable to connect character device %s: %s", s->chr.id, error->message);
    }
    socket_retry_later(s, s->reconnect_s);
}

static void socket_start_connecting(struct socket_chardev *s)
{
    g_autoptr(GError) error = NULL;

    s->job = connect_job_start(s->addr, socket_on_connect, s, &error);
    if (!s->job) {
        socket_on_connect(s, -1, error);
    }
}

static gboolean socket_on_retry(gpointer opaque)
{
    struct socket_chardev *s = opaque;

    g_clear_pointer(&s->retry_timer, g_source_unref);
    if (s->server) {
        socket_start_listening(s);
    } else {
        socket_start_connecting(s);
    }
    return G_SOURCE_REMOVE;
}

static void socket_retry_later(struct socket_chardev *s, unsigned seconds)
{
    s->retry_timer = g_timeout_source_new_seconds(seconds);
    g_source_set_callback(s->retry_timer, socket_on_retry, s, NULL);
    g_source_attach(s->retry_timer, NULL);
}

static void socket_drop_connection(struct socket_chardev *s)
{
    chardev_use_fds(&s->chr, -1, -1);
    fds_close_all(s);
    close(s->fd);
    s->fd = -1;
    g_clear_pointer(&s->name, g_free);
}

static void socket_hangup(struct chardev *chr)
{
    struct socket_chardev *s = (struct socket_chardev *)chr;

    socket_drop_connection(s);
    chardev_set_connected(chr, false);
    if (s->server) {
        socket_start_listening(s);
    } else if (s->reconnect_s) {
        socket_retry_later(s, s->reconnect_s);
    }
}

/* ---- opening ---- */

static bool socket_wait_for_client(struct socket_chardev *s, GError **err)
{
    g_autofree char *name = socket_describe(&s->chr);
    unsigned n = s->listeners->len;
    g_autofree struct pollfd *p = g_new0(struct pollfd, n);

    report_info("Ferry waiting for connection on: %s", name);
    for (unsigned i = 0; i < n; i++) {
        p[i].fd = ((struct socket_listener *)s->listeners->pdata[i])->fd;
        p[i].events = POLLIN;
    }
    for (;;) {
        if (poll(p, n, -1) < 0 && errno != EINTR) {
            error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to wait for a client on %s",
                            name);
            return false;
        }
        for (unsigned i = 0; i < n; i++) {
            GError *local = NULL;
            int fd = socket_accept(p[i].fd, &local);

            if (fd >= 0) {
                socket_connected(s, fd);
                return true;
            }
            if (local) {
                g_propagate_error(err, local);
                return false;
            }
        }
    }
}

static bool socket_use_inherited(struct socket_chardev *s, const char *text, GError **err)
{
    bool listening, stream;
    guint64 number;
    int fd;

    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT, &number, NULL)) {
        error_set(err, FERRY_ERROR_USER, "Unable to parse FD number %s", text);
        return false;
    }
    fd = number;
    if (!socket_inspect(fd, &listening, &stream)) {
        error_set(err, FERRY_ERROR_USER, "File descriptor '%s' is not a socket", text);
        return false;
    }
    if (s->server) {
        struct socket_listener *sl = socket_listener_new_from_fd(fd, err);

        if (!sl) {
            return false;
        }
        s->listeners = g_ptr_array_new_with_free_func((GDestroyNotify)socket_listener_free);
        g_ptr_array_add(s->listeners, sl);
        return true;
    }
    if (listening || !stream) {
        error_set(err, FERRY_ERROR_USER,
                  "File descriptor '%s' is not a connected stream socket: use server=on for a "
                  "listening one",
                  text);
        return false;
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to set up file descriptor '%s'",
                        text);
        return false;
    }
    socket_connected(s, fd);
    return true;
}

/* -1 where the option is absent */
static int option_flag(json_t *options, const char *key)
{
    return json_object_get(options, key) ? chardev_option_bool(options, key, false) : -1;
}

static bool socket_parse_address(struct socket_chardev *s, json_t *options, GError **err)
{
    char *path = chardev_option_string(options, "path");

    s->addr = g_new0(struct transport_address, 1);
    if (path) {
        s->addr->type = TRANSPORT_UNIX;
        s->addr->path = path;
        return true;
    }
    s->addr->type = TRANSPORT_TCP;
    s->addr->host = chardev_option_string(options, "host");
    s->addr->port = chardev_option_string(options, "port");
    s->addr->to = MIN(chardev_option_number(options, "to", 0), 65535);
    if (!s->addr->host) {
        s->addr->host = g_strdup("");
    }
    if (!s->addr->port) {
        error_set(err, FERRY_ERROR_USER, "chardev: socket: no port given");
        return false;
    }
    return transport_family_from_flags(option_flag(options, "ipv4"), option_flag(options, "ipv6"),
                                       &s->addr->family, err);
}

static bool socket_check_options(json_t *options, bool server, GError **err)
{
    static const char *const kinds[] = { "path", "fd", "host" };
    unsigned given = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        given += json_object_get(options, kinds[i]) != NULL;
    }
    if (given > 1 || (given == 0 && !json_object_get(options, "port"))) {
        error_set(err, FERRY_ERROR_USER, "One of 'path', 'fd' or 'host' option required.");
        return false;
    }
    if (server && json_object_get(options, "reconnect")) {
        error_set(err, FERRY_ERROR_USER,
                  "'reconnect' option is incompatible with socket in server listen mode");
        return false;
    }
    if (!server && json_object_get(options, "wait")) {
        error_set(err, FERRY_ERROR_USER,
                  "'wait' option is incompatible with socket in client connect mode");
        return false;
    }
    if (json_object_get(options, "reconnect") && json_object_get(options, "fd")) {
        error_set(err, FERRY_ERROR_USER, "'reconnect' option is incompatible with 'fd'");
        return false;
    }
    return true;
}

static bool socket_open_server(struct socket_chardev *s, bool wait, GError **err)
{
    if (!s->listeners) {
        s->listeners = socket_listen(s->addr, LISTEN_BACKLOG, err);
        if (!s->listeners) {
            return false;
        }
    }
    if (wait) {
        return socket_wait_for_client(s, err);
    }
    socket_start_listening(s);
    return true;
}

static bool socket_open_client(struct socket_chardev *s, GError **err)
{
    int fd;

    if (s->reconnect_s) {
        socket_start_connecting(s);
        return true;
    }
    fd = socket_connect(s->addr, -1, CONNECT_LIMIT_MS, err);
    if (fd < 0) {
        return false;
    }
    socket_connected(s, fd);
    return true;
}

static bool socket_open(struct chardev *chr, json_t *options, GError **err)
{
    struct socket_chardev *s = (struct socket_chardev *)chr;
    g_autofree char *fd_text = chardev_option_string(options, "fd");

    s->fd = -1;
    s->server = chardev_option_bool(options, "server", false);
    s->nodelay = chardev_option_bool(options, "nodelay", true);
    s->reconnect_s = MIN(chardev_option_number(options, "reconnect", 0), G_MAXINT / 1000);
    if (!socket_check_options(options, s->server, err)) {
        return false;
    }
    if (fd_text) {
        if (!socket_use_inherited(s, fd_text, err)) {
            return false;
        }
    } else if (!socket_parse_address(s, options, err)) {
        return false;
    }
    if (s->server) {
        return socket_open_server(s, chardev_option_bool(options, "wait", true), err);
    }
    return fd_text ? true : socket_open_client(s, err);
}

static void socket_close(struct chardev *chr)
{
    struct socket_chardev *s = (struct socket_chardev *)chr;

    socket_stop_listening(s);
    if (s->retry_timer) {
        g_source_destroy(s->retry_timer);
        g_source_unref(s->retry_timer);
    }
    connect_job_cancel(s->job);
    if (s->fd >= 0) {
        socket_drop_connection(s);
    }
    if (s->listeners) {
        g_ptr_array_unref(s->listeners);
    }
    transport_address_free(s->addr);
}

const struct chardev_ops chardev_socket_ops = {
    .name = "socket",
    .size = sizeof(struct socket_chardev),
    .options = socket_options,
    .open = socket_open,
    .close = socket_close,
    .read = socket_read,
    .write = socket_write,
    .hangup = socket_hangup,
    .watch_hangup = true,
    .take_fd = socket_take_fd,
    .describe = socket_describe,
};
