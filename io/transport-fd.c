/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transports fd: (a descriptor that somebody handed in) and file:. Both end in a channel over
 * one descriptor; a socket gives both directions, anything else only the one that was asked for.
 */
#include "transport-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel-private.h"
#include "io/socket.h"
#include "util/error.h"

static bool fd_parse(struct transport_address *addr, const char *rest, GError **err G_GNUC_UNUSED)
{
    /* whether the name exists is known to the monitor it was given to */
    addr->fd_name = g_strdup(rest);
    return true;
}

static char *fd_text(const struct transport_address *addr)
{
    return g_strconcat("fd:", addr->fd_name, NULL);
}

/* Refuses what can only fail in the middle of the stream. */
static bool fd_check(const char *name, int fd, bool writing, GError **err)
{
    int flags = fcntl(fd, F_GETFL);
    int mode = flags & O_ACCMODE;

    if (flags < 0) {
        error_set_errno(err, FERRY_ERROR_USER, errno, "The descriptor of %s cannot be used", name);
        return false;
    }
    if (flags & O_PATH || mode == (writing ? O_RDONLY : O_WRONLY)) {
        error_set(err, FERRY_ERROR_USER, "The descriptor of %s is not open for %s", name,
                  writing ? "writing" : "reading");
        return false;
    }
    return true;
}

static bool fd_check_socket(const char *name, bool stream, bool listening, GError **err)
{
    if (!stream || listening) {
        error_set(err, FERRY_ERROR_USER,
                  stream ? "The socket of %s listens: pass a connected one"
                         : "The socket of %s is not a stream socket",
                  name);
        return false;
    }
    return true;
}

/*
 * Moves a channel off 0, 1 and 2: closed at its end, the number would go to the next file opened,
 * and what prints to stderr would land there. /dev/null stays in its place.
 */
static int fd_move_from_stdio(int fd)
{
    int moved, null;

    if (fd < 0 || fd > STDERR_FILENO) {
        return fd;
    }
    moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    null = moved < 0 ? -1 : open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, fd) < 0) {
        if (moved >= 0) {
            close(moved);
        }
        moved = fd;
    }
    if (null >= 0) {
        close(null);
    }
    return moved;
}

/* Takes fd over in every case. */
static struct channel *fd_channel(const char *name, int fd, bool writing, GError **err)
{
    bool listening, stream;

    fd = fd_move_from_stdio(fd);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        error_set_errno(err, FERRY_ERROR_USER, errno, "The descriptor of %s cannot be used", name);
        return NULL; /* nothing there to close */
    }
    if (socket_inspect(fd, &listening, &stream)) {
        if (fd_check_socket(name, stream, listening, err)) {
            return channel_new_socket(name, fd, err);
        }
    } else if (fd_check(name, fd, writing, err)) {
        return channel_new_fds(name, writing ? -1 : fd, writing ? fd : -1, err);
    }
    close(fd);
    return NULL;
}

static struct channel *fd_connect(const struct transport_address *addr, int fd,
                                  int cancel_fd G_GNUC_UNUSED, unsigned timeout_ms G_GNUC_UNUSED,
                                  GError **err)
{
    g_autofree char *name = fd_text(addr);

    return fd_channel(name, fd, true, err);
}

static bool fd_listen(const struct transport_address *addr, int fd, struct listener *l,
                      GError **err)
{
    g_autofree char *name = fd_text(addr);
    struct socket_listener *sl;
    bool listening, stream;

    if (!socket_inspect(fd, &listening, &stream) || !listening) {
        l->single = fd_channel(name, fd, false, err);
        return l->single != NULL;
    }
    sl = socket_listener_new_from_fd(fd, err);
    if (!sl) {
        close(fd);
        return false;
    }
    l->sockets = g_ptr_array_new_with_free_func((GDestroyNotify)socket_listener_free);
    g_ptr_array_add(l->sockets, sl);
    return true;
}

static bool file_parse(struct transport_address *addr, const char *rest, GError **err)
{
    const char *opt = g_strrstr(rest, ",offset=");

    if (opt) {
        const char *value = opt + strlen(",offset=");
        bool hex = g_str_has_prefix(value, "0x");

        if (!g_ascii_string_to_unsigned(hex ? value + 2 : value, hex ? 16 : 10, 0, G_MAXINT64,
                                        &addr->offset, NULL)) {
            error_set(err, FERRY_ERROR_USER,
                      "Parameter 'offset' expects a number of bytes, not '%s'", value);
            return false;
        }
    }
    addr->path = opt ? g_strndup(rest, opt - rest) : g_strdup(rest);
    if (!*addr->path) {
        error_set(err, FERRY_ERROR_USER, "A file address needs a path: use file:PATH");
        return false;
    }
    return true;
}

static char *file_text(const struct transport_address *addr)
{
    if (addr->offset) {
        return g_strdup_printf("file:%s,offset=%" G_GUINT64_FORMAT, addr->path, addr->offset);
    }
    return g_strconcat("file:", addr->path, NULL);
}

/* Takes fd over; -1: the path is opened. */
static struct channel *file_open(const struct transport_address *addr, int fd, bool writing,
                                 GError **err)
{
    g_autofree char *name = file_text(addr);
    int flags = writing ? O_WRONLY | O_CREAT | (addr->offset ? 0 : O_TRUNC) : O_RDONLY;

    if (fd < 0) {
        /* O_NONBLOCK: a fifo without a partner fails here or ends at once, it hangs no thread in
         * open() */
        fd = open(addr->path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    }
    if (fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not open '%s'", addr->path);
        return NULL;
    }
    if (addr->offset && lseek(fd, addr->offset, SEEK_SET) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Failed to seek to the offset of %s", name);
        close(fd);
        return NULL;
    }
    return channel_new_fds(name, writing ? -1 : fd, writing ? fd : -1, err);
}

static struct channel *file_connect(const struct transport_address *addr, int fd,
                                    int cancel_fd G_GNUC_UNUSED, unsigned timeout_ms G_GNUC_UNUSED,
                                    GError **err)
{
    return file_open(addr, fd, true, err);
}

static bool file_listen(const struct transport_address *addr, int fd, struct listener *l,
                        GError **err)
{
    l->single = file_open(addr, fd, false, err);
    return l->single != NULL;
}

const struct transport_ops transport_fd_ops = {
    .scheme = "fd:",
    .parse = fd_parse,
    .text = fd_text,
    .connect = fd_connect,
    .listen = fd_listen,
};

const struct transport_ops transport_file_ops = {
    .scheme = "file:",
    .parse = file_parse,
    .text = file_text,
    .connect = file_connect,
    .listen = file_listen,
};
