/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The core of the chardevs: the set, the front end's side and the flow of bytes; see
 * include/chardev/chardev.h, and chardev-private.h for the back end's side.
 *
 * Input: the descriptor is watched for reading only while the front end has room; otherwise bytes
 * stay in the kernel, and the sender sees a full socket. Output: what the kernel does not take is
 * the caller's (chardev_write) or is queued here (chardev_write_queued) and goes first from then
 * on. A back end whose reader has gone swallows: a guest or a monitor never waits for somebody who
 * is not there.
 *
 * Connecting and disconnecting happen only on the main loop's thread. A write error on another
 * thread therefore only swallows; the watch on the input sees the end soon after.
 */
#include "chardev-private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "io/socket.h"
#include "util/error.h"

#define READ_CHUNK 16384 /* bytes given to a front end at a time */

static const struct chardev_ops *const backends[] = {
    &chardev_null_ops, &chardev_file_ops, &chardev_stdio_ops, &chardev_pty_ops, &chardev_socket_ops,
};

struct chardev_set {
    GPtrArray *chardevs; /* in the order of opening */
    struct chardev *stdio_owner;
    chardev_open_fdset_fn open_fdset;
    void *open_fdset_opaque;
};

/* ---- input ---- */

static void chardev_update_input(struct chardev *chr);

static size_t chardev_room(struct chardev *chr)
{
    return chr->fe ? chr->fe->can_receive(chr->fe_opaque) : 0;
}

static void chardev_hangup(struct chardev *chr)
{
    if (chr->ops->hangup) {
        chr->ops->hangup(chr);
    } else {
        chardev_use_fds(chr, -1, chr->out_fd);
        chardev_set_connected(chr, false);
    }
}

static void chardev_on_input(void *opaque, GIOCondition revents)
{
    struct chardev *chr = opaque;
    size_t room = chardev_room(chr);
    uint8_t buf[READ_CHUNK];
    ssize_t n;

    if (room == 0) {
        if (chr->ops->watch_hangup && (revents & (G_IO_HUP | G_IO_ERR))) {
            chardev_hangup(chr);
        } else {
            chardev_update_input(chr);
        }
        return;
    }
    room = MIN(room, sizeof(buf));
    n = chr->ops->read ? chr->ops->read(chr, buf, room) : read(chr->in_fd, buf, room);
    if (n > 0) {
        chr->fe->receive(chr->fe_opaque, buf, n);
        chardev_update_input(chr);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        chardev_hangup(chr);
    }
}

static void chardev_update_input(struct chardev *chr)
{
    GIOCondition condition = 0;

    if (chr->in_fd >= 0) {
        if (chardev_room(chr) > 0) {
            condition = G_IO_IN | G_IO_HUP | G_IO_ERR;
        } else if (chr->ops->watch_hangup) {
            condition = G_IO_HUP | G_IO_ERR;
        }
    }
    if (!condition) {
        /* not just no condition: poll() would report a hang-up all the same, again and again */
        chardev_watch_free(g_steal_pointer(&chr->in_watch));
    } else if (chr->in_watch) {
        chardev_watch_set(chr->in_watch, condition);
    } else {
        chr->in_watch = chardev_watch_new(chr->in_fd, condition, chardev_on_input, chr);
    }
}

void chardev_accept_input(struct chardev *chr)
{
    chardev_update_input(chr);
}

/* ---- output ---- */

size_t chardev_queue_length(const struct chardev *chr)
{
    return chr->queue->len - chr->queue_start;
}

static void chardev_log(struct chardev *chr, const void *buf, size_t len)
{
    const uint8_t *p = buf;

    while (chr->log_fd >= 0 && len > 0) {
        ssize_t n = write(chr->log_fd, p, len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            /* a full disk must not stop a guest; the log has a hole at its end then */
            report_warning("Failed to write the log file of chardev '%s': %s; logging ends",
                           chr->id, g_strerror(errno));
            close(chr->log_fd);
            chr->log_fd = -1;
            return;
        }
        p += n;
        len -= n;
    }
}

/* Hands bytes to the back end until it is full. A lost reader takes them all. */
static size_t chardev_push(struct chardev *chr, const void *buf, size_t len)
{
    const uint8_t *p = buf;
    size_t done = 0;

    while (done < len && chr->out_fd >= 0) {
        ssize_t n = chr->ops->write ? chr->ops->write(chr, p + done, len - done)
                                    : write(chr->out_fd, p + done, len - done);

        if (n >= 0) {
            done += n;
        } else if (errno == EAGAIN) {
            return done;
        } else if (errno != EINTR) {
            if (!chr->output_failed && errno != EPIPE && errno != ECONNRESET) {
                report_warning("Failed to write to chardev '%s': %s; its output is lost", chr->id,
                               g_strerror(errno));
                chr->output_failed = true;
            }
            return len;
        }
    }
    return len;
}

static void chardev_flush(struct chardev *chr)
{
    size_t left = chardev_queue_length(chr);

    if (left == 0) {
        return;
    }
    chr->queue_start += chardev_push(chr, chr->queue->data + chr->queue_start, left);
    if (chr->queue_start == chr->queue->len) {
        g_byte_array_set_size(chr->queue, 0);
        chr->queue_start = 0;
    }
}

static void chardev_call_writable(struct chardev *chr)
{
    void (*fn)(void *opaque) = g_steal_pointer(&chr->writable_fn);

    if (fn) {
        fn(chr->writable_opaque);
    }
}

static void chardev_on_output(void *opaque, GIOCondition revents G_GNUC_UNUSED)
{
    struct chardev *chr = opaque;

    chardev_flush(chr);
    if (chardev_queue_length(chr) == 0) {
        chardev_call_writable(chr);
    }
    if (chardev_queue_length(chr) == 0 && !chr->writable_fn) {
        chardev_watch_free(g_steal_pointer(&chr->out_watch));
    }
}

static void chardev_await_output(struct chardev *chr)
{
    if (!chr->out_watch && chr->out_fd >= 0) {
        chr->out_watch =
            chardev_watch_new(chr->out_fd, G_IO_OUT | G_IO_HUP | G_IO_ERR, chardev_on_output, chr);
    }
}

size_t chardev_write(struct chardev *chr, const void *buf, size_t len)
{
    size_t done;

    if (chardev_queue_length(chr) > 0) {
        return 0;
    }
    done = chardev_push(chr, buf, len);
    chardev_log(chr, buf, done);
    return done;
}

void chardev_write_queued(struct chardev *chr, const void *buf, size_t len)
{
    size_t done = 0;

    chardev_log(chr, buf, len);
    if (chardev_queue_length(chr) == 0) {
        done = chardev_push(chr, buf, len);
    }
    if (done < len) {
        if (chr->queue_start > 0) {
            g_byte_array_remove_range(chr->queue, 0, chr->queue_start);
            chr->queue_start = 0;
        }
        g_byte_array_append(chr->queue, (const uint8_t *)buf + done, len - done);
        chardev_await_output(chr);
    }
}

static void chardev_drop_idle(struct chardev *chr)
{
    if (chr->writable_idle) {
        g_source_destroy(chr->writable_idle);
        g_clear_pointer(&chr->writable_idle, g_source_unref);
    }
}

static gboolean chardev_on_idle(gpointer opaque)
{
    struct chardev *chr = opaque;

    chardev_drop_idle(chr);
    chardev_call_writable(chr);
    return G_SOURCE_REMOVE;
}

static void chardev_writable_when_idle(struct chardev *chr)
{
    if (!chr->writable_idle) {
        chr->writable_idle = g_idle_source_new();
        g_source_set_priority(chr->writable_idle, G_PRIORITY_DEFAULT);
        g_source_set_callback(chr->writable_idle, chardev_on_idle, chr, NULL);
        g_source_attach(chr->writable_idle, NULL);
    }
}

void chardev_notify_writable(struct chardev *chr, void (*fn)(void *opaque), void *opaque)
{
    chr->writable_fn = fn;
    chr->writable_opaque = opaque;
    if (!fn) {
        return;
    }
    if (chr->out_fd >= 0) {
        chardev_await_output(chr);
    } else {
        chardev_writable_when_idle(chr);
    }
}

/* ---- the back end's side ---- */

void chardev_use_fds(struct chardev *chr, int in_fd, int out_fd)
{
    if (in_fd != chr->in_fd) {
        chardev_watch_free(g_steal_pointer(&chr->in_watch));
        chr->in_fd = in_fd;
    }
    if (out_fd != chr->out_fd) {
        chardev_watch_free(g_steal_pointer(&chr->out_watch));
        chr->out_fd = out_fd;
        g_byte_array_set_size(chr->queue, 0);
        chr->queue_start = 0;
        if (chr->writable_fn) {
            chardev_writable_when_idle(chr);
        }
    }
    chardev_update_input(chr);
}

void chardev_set_connected(struct chardev *chr, bool connected)
{
    if (chr->connected == connected) {
        return;
    }
    chr->connected = connected;
    if (chr->fe && chr->fe->event) {
        chr->fe->event(chr->fe_opaque, connected ? CHARDEV_EVENT_OPENED : CHARDEV_EVENT_CLOSED);
    }
}

int chardev_open_path(struct chardev_set *set, const char *path, int flags, const char *verb,
                      GError **err)
{
    int fd;

    if (set->open_fdset && g_str_has_prefix(path, "/dev/fdset/")) {
        return set->open_fdset(set->open_fdset_opaque, path, flags, err);
    }
    /* O_NONBLOCK: opening a fifo or a terminal without a partner must not stop the machine */
    fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
    if (fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not %s '%s'", verb, path);
    }
    return fd;
}

bool chardev_claim_stdio(struct chardev *chr, GError **err)
{
    if (chr->set->stdio_owner) {
        error_set(err, FERRY_ERROR_USER, "cannot use stdio by multiple character devices");
        return false;
    }
    chr->set->stdio_owner = chr;
    return true;
}

/* ---- the set ---- */

struct chardev_set *chardev_set_new(void)
{
    struct chardev_set *set = g_new0(struct chardev_set, 1);

    set->chardevs = g_ptr_array_new();
    /* a pipe whose reader has gone is EPIPE, not the end of the virtual machine */
    io_ignore_sigpipe();
    return set;
}

static void chardev_free(struct chardev *chr)
{
    chr->fe = NULL;
    chr->writable_fn = NULL;
    chardev_flush(chr);
    chardev_watch_free(g_steal_pointer(&chr->in_watch));
    chardev_watch_free(g_steal_pointer(&chr->out_watch));
    chardev_drop_idle(chr);
    if (chr->open_tried && chr->ops->close) {
        chr->ops->close(chr);
    }
    if (chr->log_fd >= 0) {
        close(chr->log_fd);
    }
    if (chr->set->stdio_owner == chr) {
        chr->set->stdio_owner = NULL;
    }
    g_byte_array_unref(chr->queue);
    g_free(chr->id);
    g_free(chr);
}

void chardev_set_free(struct chardev_set *set)
{
    if (!set) {
        return;
    }
    for (unsigned i = 0; i < set->chardevs->len; i++) {
        chardev_free(set->chardevs->pdata[i]);
    }
    g_ptr_array_unref(set->chardevs);
    g_free(set);
}

void chardev_set_fdset_opener(struct chardev_set *set, chardev_open_fdset_fn fn, void *opaque)
{
    set->open_fdset = fn;
    set->open_fdset_opaque = opaque;
}

struct chardev *chardev_find(struct chardev_set *set, const char *id)
{
    for (unsigned i = 0; i < set->chardevs->len; i++) {
        struct chardev *chr = set->chardevs->pdata[i];

        if (strcmp(chr->id, id) == 0) {
            return chr;
        }
    }
    return NULL;
}

void chardev_foreach(struct chardev_set *set, void (*fn)(struct chardev *chr, void *opaque),
                     void *opaque)
{
    for (unsigned i = 0; i < set->chardevs->len; i++) {
        fn(set->chardevs->pdata[i], opaque);
    }
}

static bool id_is_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}

static bool chardev_check_id(struct chardev_set *set, const char *id, GError **err)
{
    if (!id) {
        error_set(err, FERRY_ERROR_USER, "chardev: no id specified");
    } else if (!id_is_wellformed(id)) {
        error_set(err, FERRY_ERROR_USER,
                  "Parameter 'id' expects an identifier: letters, digits, '-', '.', '_', starting "
                  "with a letter");
    } else if (chardev_find(set, id)) {
        error_set(err, FERRY_ERROR_USER, "Duplicate ID '%s' for chardev", id);
    } else {
        return true;
    }
    return false;
}

static const struct chardev_ops *backend_find(const char *name)
{
    for (unsigned i = 0; name && i < G_N_ELEMENTS(backends); i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            return backends[i];
        }
    }
    return NULL;
}

static bool chardev_open_log(struct chardev *chr, json_t *options, GError **err)
{
    g_autofree char *path = chardev_option_string(options, "logfile");
    bool append = chardev_option_bool(options, "logappend", false);

    if (path) {
        chr->log_fd = chardev_open_path(
            chr->set, path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC), "create", err);
    }
    return !path || chr->log_fd >= 0;
}

struct chardev *chardev_open(struct chardev_set *set, json_t *options, GError **err)
{
    const char *name = json_string_value(json_object_get(options, "backend"));
    const char *id = json_string_value(json_object_get(options, "id"));
    const struct chardev_ops *ops = backend_find(name);
    struct chardev *chr;
    bool ok = false;

    if (!chardev_check_id(set, id, err)) {
        return NULL;
    }
    if (!ops) {
        error_set(err, FERRY_ERROR_USER, "'%s' is not a valid char driver name", name ? name : "");
        return NULL;
    }
    if (!chardev_options_check(options, ops->options, err)) {
        return NULL;
    }
    chr = g_malloc0(ops->size);
    chr->ops = ops;
    chr->set = set;
    chr->id = g_strdup(id);
    chr->in_fd = chr->out_fd = chr->log_fd = -1;
    chr->queue = g_byte_array_new();
    if (chardev_open_log(chr, options, err)) {
        chr->open_tried = true;
        ok = ops->open(chr, options, err);
    }
    if (!ok) {
        chardev_free(chr);
        return NULL;
    }
    g_ptr_array_add(set->chardevs, chr);
    return chr;
}

/* ---- the front end's side ---- */

bool chardev_attach(struct chardev *chr, const struct chardev_frontend *ops, void *opaque,
                    GError **err)
{
    if (chr->fe) {
        error_set(err, FERRY_ERROR_USER, "Device '%s' is in use", chr->id);
        return false;
    }
    chr->fe = ops;
    chr->fe_opaque = opaque;
    chr->fe_closed = false;
    if (chr->connected && ops->event) {
        ops->event(opaque, CHARDEV_EVENT_OPENED);
    }
    chardev_update_input(chr);
    return true;
}

void chardev_detach(struct chardev *chr)
{
    chr->fe = NULL;
    chr->writable_fn = NULL;
    chardev_drop_idle(chr);
    chardev_update_input(chr);
}

int chardev_take_fd(struct chardev *chr)
{
    return chr->ops->take_fd ? chr->ops->take_fd(chr) : -1;
}

bool chardev_is_connected(const struct chardev *chr)
{
    return chr->connected;
}

const char *chardev_id(const struct chardev *chr)
{
    return chr->id;
}

char *chardev_describe(const struct chardev *chr)
{
    return chr->ops->describe ? chr->ops->describe(chr) : g_strdup(chr->ops->name);
}

bool chardev_frontend_open(const struct chardev *chr)
{
    return chr->fe != NULL && !chr->fe_closed;
}

void chardev_set_frontend_open(struct chardev *chr, bool open)
{
    chr->fe_closed = !open;
}
