/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The transports tcp: and unix:. What they do is in socket.c and socket-listen.c; here is their
 * address syntax. */
#include "transport-private.h"

#include <string.h>
#include <sys/socket.h>

#include "channel-private.h"
#include "io/socket.h"
#include "socket-private.h"
#include "util/error.h"

/* A post-copy or multifd source opens its channels in one go; they wait here until they are
 * accepted. */
#define LISTEN_BACKLOG 64

/* Splits "HOST:PORT" or "[HOST]:PORT"; a host without brackets ends at the first colon. */
static bool parse_host_port(struct transport_address *addr, const char *text, GError **err)
{
    const char *port;

    if (*text == '[') {
        const char *end = strchr(text, ']');

        if (!end || end == text + 1 || end[1] != ':') {
            error_set(err, FERRY_ERROR_USER,
                      "Failed to parse the IPv6 address '%s': use tcp:[ADDRESS]:PORT", text);
            return false;
        }
        addr->host = g_strndup(text + 1, end - text - 1);
        port = end + 2;
    } else {
        const char *colon = strchr(text, ':');

        if (!colon) {
            error_set(err, FERRY_ERROR_USER, "The address '%s' has no port: use tcp:HOST:PORT",
                      text);
            return false;
        }
        addr->host = g_strndup(text, colon - text);
        port = colon + 1;
    }
    if (!*port) {
        error_set(err, FERRY_ERROR_USER, "The address '%s' has no port: use tcp:HOST:PORT", text);
        return false;
    }
    addr->port = g_strdup(port);
    return socket_check_port(port, err);
}

/* "ipv4" alone means on. */
static bool parse_on_off(const char *key, const char *value, int *out, GError **err)
{
    if (!value || strcmp(value, "on") == 0) {
        *out = 1;
    } else if (strcmp(value, "off") == 0) {
        *out = 0;
    } else {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    return true;
}

bool transport_family_from_flags(int ipv4, int ipv6, int *family, GError **err)
{
    *family = AF_UNSPEC;
    if (ipv4 == 0 && ipv6 == 0) {
        error_set(err, FERRY_ERROR_USER, "Cannot disable IPv4 and IPv6 at same time");
        return false;
    }
    if (ipv6 == 0 || (ipv4 == 1 && ipv6 != 1)) {
        *family = AF_INET;
    } else if (ipv4 == 0 || (ipv6 == 1 && ipv4 != 1)) {
        *family = AF_INET6;
    }
    return true;
}

static bool tcp_parse(struct transport_address *addr, const char *rest, GError **err)
{
    g_auto(GStrv) parts = g_strsplit(rest, ",", -1);
    int ipv4 = -1, ipv6 = -1;

    if (!parse_host_port(addr, parts[0] ? parts[0] : "", err)) {
        return false;
    }
    for (char **opt = parts[0] ? parts + 1 : parts; *opt; opt++) {
        char *value = strchr(*opt, '=');
        guint64 to;

        if (value) {
            *value++ = '\0';
        }
        if (strcmp(*opt, "ipv4") == 0 || strcmp(*opt, "ipv6") == 0) {
            if (!parse_on_off(*opt, value, (*opt)[3] == '4' ? &ipv4 : &ipv6, err)) {
                return false;
            }
        } else if (strcmp(*opt, "to") == 0) {
            if (!value || !g_ascii_string_to_unsigned(value, 10, 1, 65535, &to, NULL)) {
                error_set(err, FERRY_ERROR_USER, "Parameter 'to' expects a port number");
                return false;
            }
            addr->to = to;
        } else if (**opt) { /* a trailing comma is an empty option */
            error_set(err, FERRY_ERROR_USER, "Invalid parameter '%s'", *opt);
            return false;
        }
    }
    return transport_family_from_flags(ipv4, ipv6, &addr->family, err);
}

static char *tcp_text(const struct transport_address *addr)
{
    const char *format = strchr(addr->host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s";

    return g_strdup_printf(format, addr->host, addr->port);
}

static bool unix_parse(struct transport_address *addr, const char *rest, GError **err)
{
    if (!*rest) {
        error_set(err, FERRY_ERROR_USER, "A UNIX socket address needs a path: use unix:PATH");
        return false;
    }
    addr->path = g_strdup(rest);
    return true;
}

static char *unix_text(const struct transport_address *addr)
{
    return g_strconcat("unix:", addr->path, NULL);
}

static struct channel *socket_transport_connect(const struct transport_address *addr, int fd,
                                                int cancel_fd, unsigned timeout_ms, GError **err)
{
    g_autofree char *name = transport_address_text(addr);

    fd = socket_connect(addr, cancel_fd, timeout_ms, err);
    return fd >= 0 ? channel_new_socket(name, fd, err) : NULL;
}

static bool socket_transport_listen(const struct transport_address *addr, int fd G_GNUC_UNUSED,
                                    struct listener *l, GError **err)
{
    l->sockets = socket_listen(addr, LISTEN_BACKLOG, err);
    return l->sockets != NULL;
}

const struct transport_ops transport_tcp_ops = {
    .scheme = "tcp:",
    .parse = tcp_parse,
    .text = tcp_text,
    .connect = socket_transport_connect,
    .listen = socket_transport_listen,
};

const struct transport_ops transport_unix_ops = {
    .scheme = "unix:",
    .parse = unix_parse,
    .text = unix_text,
    .connect = socket_transport_connect,
    .listen = socket_transport_listen,
};
