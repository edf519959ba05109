/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client; see qmp.h.
 *
 * Messages are found by counting brackets outside of strings, each byte once, so that indented
 * answers (pretty=on) work and a hostile server cannot make the search expensive. What stands
 * between brackets is then jansson's.
 */
#include "qmp.h"
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "text.h"

#define MESSAGE_MAX  (16U << 20)
#define READ_AT_ONCE 65536U
#define RETRY_MS     10 /* where the queue of a UNIX socket is full, there is nothing to poll for */

struct qmp {
    int fd, abort_fd;
    int64_t patience_us;
    char *where; /* for messages */
    char *version;
    bool ferry;
    bool missing;
    json_int_t serial;

    GByteArray *input;
    guint scanned; /* bytes of input that the search has seen */
    unsigned depth;
    bool in_string, escaped;
};

void qmp_address_free(qmp_address *address)
{
    g_free(address->text);
    g_free(address->path);
    g_free(address->host);
    g_free(address->port);
    g_free(address);
}

static int64_t deadline_of(const qmp *q)
{
    return g_get_monotonic_time() + q->patience_us;
}

/* ---- waiting, reading, writing ---- */

/* Returns true when fd is ready. The caller says in `waiting` what for. */
static bool wait_until(qmp *q, short events, int64_t deadline, const char *waiting, GError **err)
{
    for (;;) {
        struct pollfd fds[] = { { q->fd, events, 0 }, { q->abort_fd, POLLIN, 0 } };
        int64_t left = deadline - g_get_monotonic_time();
        int n;

        if (left <= 0) {
            ctl_fail(err, CTL_UNREACHABLE, "No %s from %s within %.3g s", waiting, q->where,
                     (double)q->patience_us / 1e6);
            return false;
        }
        n = poll(fds, G_N_ELEMENTS(fds), (int)MIN(left / 1000 + 1, 60000));
        if (n < 0 && errno != EINTR) {
            ctl_fail(err, CTL_UNREACHABLE, "Cannot wait for %s: %s", q->where, g_strerror(errno));
            return false;
        }
        if (n > 0 && fds[1].revents) {
            ctl_fail(err, CTL_UNREACHABLE, "Gave up waiting for %s", q->where);
            return false;
        }
        if (n > 0) {
            return true;
        }
    }
}

static bool send_all(qmp *q, const char *data, size_t len, int64_t deadline, GError **err)
{
    while (len) {
        ssize_t n;

        if (!wait_until(q, POLLOUT, deadline, "room for a command", err)) {
            return false;
        }
        n = send(q->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            ctl_fail(err, CTL_UNREACHABLE, "Lost the connection to %s: %s", q->where,
                     g_strerror(errno));
            return false;
        }
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return true;
}

static bool receive_some(qmp *q, int64_t deadline, const char *waiting, GError **err)
{
    guint have = q->input->len;
    ssize_t n;

    do {
        if (!wait_until(q, POLLIN, deadline, waiting, err)) {
            return false;
        }
        g_byte_array_set_size(q->input, have + READ_AT_ONCE);
        n = recv(q->fd, q->input->data + have, READ_AT_ONCE, 0);
        g_byte_array_set_size(q->input, have + (guint)MAX(n, 0));
    } while (n < 0 && (errno == EAGAIN || errno == EINTR));
    if (n < 0) {
        ctl_fail(err, CTL_UNREACHABLE, "Lost the connection to %s: %s", q->where,
                 g_strerror(errno));
        return false;
    }
    if (!n) {
        ctl_fail(err, CTL_UNREACHABLE, "%s closed the connection", q->where);
        return false;
    }
    return true;
}

/* ---- messages ---- */

static bool is_blank(guint8 c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Looks on where it stopped. Returns the length of a complete object at the start of the input, 0
 * when there is none yet, -1 when what is there is no object. */
static ssize_t find_message(qmp *q)
{
    for (; q->scanned < q->input->len; q->scanned++) {
        guint8 c = q->input->data[q->scanned];

        if (q->in_string) {
            if (q->escaped) {
                q->escaped = false;
            } else if (c == '\\') {
                q->escaped = true;
            } else if (c == '"') {
                q->in_string = false;
            }
        } else if (c == '{' || c == '[') {
            q->depth++;
        } else if (!q->depth) {
            return -1;
        } else if (c == '"') {
            q->in_string = true;
        } else if ((c == '}' || c == ']') && --q->depth == 0) {
            return q->scanned + 1;
        }
    }
    return 0;
}

static void drop_blanks(qmp *q)
{
    guint n = 0;

    if (q->scanned) {
        return;
    }
    while (n < q->input->len && is_blank(q->input->data[n])) {
        n++;
    }
    if (n) {
        g_byte_array_remove_range(q->input, 0, n);
    }
}

static json_t *parse(qmp *q, size_t len, GError **err)
{
    json_error_t error;
    json_t *message = json_loadb((const char *)q->input->data, len, JSON_ALLOW_NUL, &error);

    /* Numbers above 2^63-1 exist in QMP; as a floating point number they are good enough here. */
    if (!message && json_error_code(&error) == json_error_numeric_overflow) {
        message = json_loadb((const char *)q->input->data, len,
                             JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    }
    if (!json_is_object(message)) {
        json_decref(message);
        ctl_fail(err, CTL_UNREACHABLE, "What %s sends is not QMP: %s", q->where,
                 message ? "a list" : error.text);
        return NULL;
    }
    return message;
}

static json_t *read_message(qmp *q, int64_t deadline, const char *waiting, GError **err)
{
    for (;;) {
        ssize_t len;
        json_t *message;

        drop_blanks(q);
        len = find_message(q);
        if (len > 0) {
            message = parse(q, (size_t)len, err);
            g_byte_array_remove_range(q->input, 0, (guint)len);
            q->scanned = 0;
            return message;
        }
        if (len < 0) {
            ctl_fail(err, CTL_UNREACHABLE,
                     "What %s sends is not QMP; is this the socket of -qmp or -mon mode=control?",
                     q->where);
            return NULL;
        }
        if (q->input->len > MESSAGE_MAX) {
            ctl_fail(err, CTL_UNREACHABLE, "%s sent a message of more than %u MiB", q->where,
                     MESSAGE_MAX >> 20);
            return NULL;
        }
        if (!receive_some(q, deadline, waiting, err)) {
            return NULL;
        }
    }
}

/* ---- connecting ---- */

static int connect_one(qmp *q, const struct sockaddr *sa, socklen_t len, int64_t deadline,
                       GError **err)
{
    int error = 0;
    socklen_t size = sizeof(error);

    q->fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (q->fd < 0) {
        return errno;
    }
    while (connect(q->fd, sa, len) < 0) {
        if (errno == EAGAIN && g_get_monotonic_time() < deadline) {
            struct pollfd abort_only = { q->abort_fd, POLLIN, 0 };

            if (poll(&abort_only, 1, RETRY_MS) > 0) {
                ctl_fail(err, CTL_UNREACHABLE, "Gave up waiting for %s", q->where);
                return -1;
            }
            continue;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EINPROGRESS) {
            return errno;
        }
        if (!wait_until(q, POLLOUT, deadline, "connection", err)) {
            return -1;
        }
        if (getsockopt(q->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) {
            error = errno;
        }
        return error;
    }
    return 0;
}

static bool cannot_connect(qmp *q, int error, GError **err)
{
    if (error > 0) {
        const char *hint = error == ENOENT         ? "; is the machine running?"
                           : error == ECONNREFUSED ? "; the machine is gone"
                           : error == EACCES       ? "; run ferryctl as the user who runs it"
                                                   : "";

        ctl_fail(err, CTL_UNREACHABLE, "Cannot connect to %s: %s%s", q->where, g_strerror(error),
                 hint);
    }
    return false;
}

static bool connect_unix(qmp *q, const char *path, int64_t deadline, GError **err)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int error;

    if (strlen(path) >= sizeof(sa.sun_path)) {
        ctl_fail(err, CTL_UNREACHABLE,
                 "Cannot connect to %s: a socket's path has at most %zu bytes", q->where,
                 sizeof(sa.sun_path) - 1);
        return false;
    }
    strcpy(sa.sun_path, path);
    error = connect_one(q, (const struct sockaddr *)&sa, sizeof(sa), deadline, err);
    return error ? cannot_connect(q, error, err) : true;
}

static bool connect_tcp(qmp *q, const char *host, const char *port, int64_t deadline, GError **err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    int error = getaddrinfo(host, port, &hints, &list);

    if (error) {
        ctl_fail(err, CTL_UNREACHABLE, "Cannot find the host of %s: %s", q->where,
                 gai_strerror(error));
        return false;
    }
    error = ENOENT;
    for (struct addrinfo *a = list; a && error > 0; a = a->ai_next) {
        if (q->fd >= 0) {
            close(q->fd);
            q->fd = -1;
        }
        error = connect_one(q, a->ai_addr, a->ai_addrlen, deadline, err);
    }
    freeaddrinfo(list);
    return error ? cannot_connect(q, error, err) : true;
}

static bool greet(qmp *q, int64_t deadline, GError **err)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) greeting = read_message(q, deadline, "greeting", &error);
    json_t *version = json_object_get(json_object_get(greeting, "QMP"), "version");
    json_t *triple = json_object_get(version, "qemu");
    const char *package = json_string_value(json_object_get(version, "package"));

    if (!greeting) {
        if (g_get_monotonic_time() >= deadline) {
            ctl_fail(err, CTL_UNREACHABLE,
                     "%s does not greet: most likely another program holds it; give the machine a "
                     "second -qmp",
                     q->where);
        } else {
            g_propagate_error(err, g_steal_pointer(&error));
        }
        return false;
    }
    if (!json_is_object(version)) {
        ctl_fail(err, CTL_UNREACHABLE, "What %s sends is not QMP: it has no greeting", q->where);
        return false;
    }
    q->ferry = package && g_str_has_prefix(package, "ferry-");
    if (q->ferry) {
        g_autofree char *number = text_clean(package + strlen("ferry-"), false);

        q->version = g_strdup_printf("Ferry %.60s", number);
    } else {
        q->version = g_strdup_printf("QEMU %d.%d.%d",
                                     (int)json_integer_value(json_object_get(triple, "major")),
                                     (int)json_integer_value(json_object_get(triple, "minor")),
                                     (int)json_integer_value(json_object_get(triple, "micro")));
    }
    return true;
}

qmp *qmp_connect(const qmp_address *address, int64_t patience_ms, int abort_fd, GError **err)
{
    g_autoptr(qmp) q = g_new0(qmp, 1);
    int64_t deadline;

    q->fd = -1;
    q->abort_fd = abort_fd;
    q->patience_us = patience_ms * 1000;
    q->where = g_strdup(address->text);
    q->input = g_byte_array_new();
    deadline = deadline_of(q);

    if (!(address->path ? connect_unix(q, address->path, deadline, err)
                        : connect_tcp(q, address->host, address->port, deadline, err)) ||
        !greet(q, deadline, err) || !qmp_do(q, "qmp_capabilities", NULL, err)) {
        return NULL;
    }
    return g_steal_pointer(&q);
}

void qmp_close(qmp *q)
{
    if (q->fd >= 0) {
        close(q->fd);
    }
    g_byte_array_unref(q->input);
    g_free(q->where);
    g_free(q->version);
    g_free(q);
}

/* ---- commands ---- */

static json_t *answer(qmp *q, json_t *message, GError **err)
{
    json_t *error = json_object_get(message, "error");
    json_t *result = json_object_get(message, "return");
    const char *desc = json_string_value(json_object_get(error, "desc"));
    const char *class = json_string_value(json_object_get(error, "class"));

    if (result) {
        return json_incref(result);
    }
    q->missing = class && !strcmp(class, "CommandNotFound");
    ctl_fail(err, CTL_REFUSED, "%s", desc ? desc : "The machine gave an error without a reason");
    return NULL;
}

json_t *qmp_execute(qmp *q, const char *command, json_t *arguments, GError **err)
{
    int64_t deadline = deadline_of(q);
    g_autofree char *waiting = g_strdup_printf("answer to %s", command);
    g_autoptr(json_t) request = json_pack("{s:s, s:I}", "execute", command, "id", ++q->serial);
    g_autofree char *line = NULL;
    char *text;

    q->missing = false;
    if (arguments) {
        json_object_set_new(request, "arguments", arguments);
    }
    text = json_dumps(request, JSON_COMPACT);
    if (!text) { /* a string that is not UTF-8 */
        ctl_fail(err, CTL_USAGE, "An argument of %s is not UTF-8 text", command);
        return NULL;
    }
    line = g_strconcat(text, "\n", NULL);
    free(text);
    if (!send_all(q, line, strlen(line), deadline, err)) {
        return NULL;
    }
    for (;;) {
        g_autoptr(json_t) message = read_message(q, deadline, waiting, err);
        json_t *id;

        if (!message) {
            return NULL;
        }
        if (json_object_get(message, "event")) {
            continue;
        }
        id = json_object_get(message, "id");
        /* An error without an id is about a request that could not be read at all. */
        if (id ? json_number_value(id) != (double)q->serial : !json_object_get(message, "error")) {
            ctl_fail(err, CTL_UNREACHABLE, "%s answers something else than it was asked", q->where);
            return NULL;
        }
        return answer(q, message, err);
    }
}

bool qmp_do(qmp *q, const char *command, json_t *arguments, GError **err)
{
    g_autoptr(json_t) result = qmp_execute(q, command, arguments, err);

    return result != NULL;
}

bool qmp_wait_closed(qmp *q)
{
    int64_t deadline = deadline_of(q);

    for (;;) { /* whatever still comes is of no interest */
        g_byte_array_set_size(q->input, 0);
        q->scanned = 0;
        if (!receive_some(q, deadline, "end", NULL)) {
            return g_get_monotonic_time() < deadline;
        }
    }
}

bool qmp_is_missing(const qmp *q)
{
    return q->missing;
}

void qmp_set_patience(qmp *q, int64_t patience_ms)
{
    q->patience_us = patience_ms * 1000;
}

bool qmp_is_ferry(const qmp *q)
{
    return q->ferry;
}

const char *qmp_version(const qmp *q)
{
    return q->version;
}
