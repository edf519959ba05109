/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A recording front end and a main loop with a deadline, for the chardev tests. */
#ifndef TEST_CHARDEV_COMMON_H
#define TEST_CHARDEV_COMMON_H

#include <errno.h>
#include <glib.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "chardev/chardev.h"
#include "util/error.h"

struct front {
    GString *got;
    GString *events; /* 'O' and 'C' */
    size_t room;     /* SIZE_MAX: without limit */
    unsigned writable_calls;
};

static size_t front_can_receive(void *opaque)
{
    return ((struct front *)opaque)->room;
}

static void front_receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct front *f = opaque;

    g_assert_cmpuint(len, <=, f->room);
    g_string_append_len(f->got, (const char *)buf, len);
    if (f->room != SIZE_MAX) {
        f->room -= len;
    }
}

static void front_event(void *opaque, enum chardev_event event)
{
    g_string_append_c(((struct front *)opaque)->events, event == CHARDEV_EVENT_OPENED ? 'O' : 'C');
}

static const struct chardev_frontend front_ops = {
    .can_receive = front_can_receive,
    .receive = front_receive,
    .event = front_event,
};

static inline struct front *front_attach(struct chardev *chr)
{
    struct front *f = g_new0(struct front, 1);

    f->got = g_string_new(NULL);
    f->events = g_string_new(NULL);
    f->room = SIZE_MAX;
    g_assert_true(chardev_attach(chr, &front_ops, f, NULL));
    return f;
}

static inline void front_free(struct front *f)
{
    g_string_free(f->got, TRUE);
    g_string_free(f->events, TRUE);
    g_free(f);
}

static inline void front_writable(void *opaque)
{
    ((struct front *)opaque)->writable_calls++;
}

/* Lets the main loop run until the condition holds; fails after a minute. */
#define RUN_UNTIL(condition)                                                                       \
    do {                                                                                           \
        gint64 run_end = g_get_monotonic_time() + 60 * G_TIME_SPAN_SECOND;                         \
        while (!(condition)) {                                                                     \
            g_assert_cmpint(g_get_monotonic_time(), <, run_end);                                   \
            if (!g_main_context_iteration(NULL, FALSE)) {                                          \
                g_usleep(500);                                                                     \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* Lets the main loop do all that it has to do now, and what comes within the next few milliseconds.
 */
static inline void run_idle(void)
{
    for (int i = 0; i < 10; i++) {
        while (g_main_context_iteration(NULL, FALSE)) {
        }
        g_usleep(1000);
    }
}

static inline struct chardev *open_json(struct chardev_set *set, const char *text, GError **err)
{
    json_t *options = json_loads(text, 0, NULL);
    struct chardev *chr;

    g_assert_nonnull(options);
    chr = chardev_open(set, options, err);
    json_decref(options);
    return chr;
}

/* "backend=socket,id=a,...": all values as strings */
static inline struct chardev *open_text(struct chardev_set *set, const char *text, GError **err)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    json_t *options = json_object();
    struct chardev *chr;

    for (char **p = parts; *p; p++) {
        char *value = strchr(*p, '=');

        *value++ = '\0';
        json_object_set_new(options, *p, json_string(value));
    }
    chr = chardev_open(set, options, err);
    json_decref(options);
    return chr;
}

static inline int client_connect(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    return fd;
}

/* Reads exactly the text from a blocking descriptor. */
static inline void expect_bytes(int fd, const char *text)
{
    size_t len = strlen(text), done = 0;
    g_autofree char *buf = g_malloc0(len + 1);

    while (done < len) {
        ssize_t n = read(fd, buf + done, len - done);

        g_assert_cmpint(n, >, 0);
        done += n;
    }
    g_assert_cmpstr(buf, ==, text);
}

static inline void send_text(int fd, const char *text)
{
    g_assert_cmpint(write(fd, text, strlen(text)), ==, (ssize_t)strlen(text));
}

#endif
