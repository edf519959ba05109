/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Channels over sockets, pipes and files: order and completeness of bytes, the end of a stream,
 * timeouts, shutdown from another thread, and the same with every system call cut short
 * (FERRY_IO_CHOP).
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/channel.h"
#include "io/transport.h"
#include "util/error.h"

/* A channel over a descriptor, in the way that fd: makes one. */
static struct channel *wrap(int fd, bool writing)
{
    struct transport_address addr = { .type = TRANSPORT_FD, .fd_name = (char *)"test" };
    g_autoptr(GError) err = NULL;
    struct channel *ch;

    if (writing) {
        ch = transport_connect(&addr, fd, -1, 1000, &err);
    } else {
        struct listener *l = transport_listen(&addr, fd, &err);

        g_assert_no_error(err);
        ch = transport_accept(l, -1, 1000, &err);
        listener_free(l);
    }
    g_assert_no_error(err);
    return ch;
}

enum kind { KIND_SOCKET, KIND_PIPE };

struct pair {
    struct channel *out;
    struct channel *in;
};

static struct pair pair_new(enum kind kind)
{
    int fds[2];

    if (kind == KIND_SOCKET) {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    } else {
        g_assert_cmpint(pipe(fds), ==, 0);
    }
    return (struct pair){ .in = wrap(fds[0], false), .out = wrap(fds[1], true) };
}

static void pair_free(struct pair *p)
{
    channel_unref(p->in);
    channel_unref(p->out);
}

static uint8_t pattern(size_t i)
{
    return i * 31 + (i >> 8) * 7 + (i >> 16);
}

#define LOTS_ENTRIES (IOV_MAX * 3 + 17)

/* Writes many entries of many lengths, empty ones included, in one call. */
static gpointer lots_writer(gpointer data)
{
    struct channel *ch = data;
    g_autofree struct iovec *iov = g_new0(struct iovec, LOTS_ENTRIES);
    g_autofree uint8_t *bytes = NULL;
    g_autoptr(GError) err = NULL;
    size_t total = 0, at = 0;
    bool ok;

    for (int i = 0; i < LOTS_ENTRIES; i++) {
        iov[i].iov_len = i % 5 == 0 ? 0 : (i * 37) % 211;
        total += iov[i].iov_len;
    }
    bytes = g_malloc(total);
    for (size_t i = 0; i < total; i++) {
        bytes[i] = pattern(i);
    }
    for (int i = 0; i < LOTS_ENTRIES; i++) {
        iov[i].iov_base = bytes + at;
        at += iov[i].iov_len;
    }
    ok = channel_writev_all(ch, iov, LOTS_ENTRIES, &err);
    g_assert_no_error(err);
    g_assert_true(ok);
    g_assert_cmpuint(channel_bytes_written(ch), ==, total);
    g_assert_true(channel_finish(ch, &err));
    return GSIZE_TO_POINTER(total);
}

static void test_lots(gconstpointer data)
{
    struct pair p = pair_new(GPOINTER_TO_INT(data));
    GThread *writer = g_thread_new("writer", lots_writer, p.out);
    g_autoptr(GError) err = NULL;
    size_t total = 0;

    for (;;) {
        uint8_t a[100], b[1000];
        struct iovec iov[3] = { { a, sizeof(a) }, { NULL, 0 }, { b, sizeof(b) } };
        ssize_t n = channel_readv(p.in, iov, 3, &err);

        g_assert_no_error(err);
        g_assert_cmpint(n, >=, 0);
        if (n == 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(i < 100 ? a[i] : b[i - 100], ==, pattern(total + i));
        }
        total += n;
    }
    g_assert_cmpuint(total, ==, GPOINTER_TO_SIZE(g_thread_join(writer)));
    g_assert_cmpuint(channel_bytes_read(p.in), ==, total);
    pair_free(&p);
}

static void test_chop(gconstpointer data)
{
    g_setenv("FERRY_IO_CHOP", "7", TRUE);
    test_lots(data);
    g_unsetenv("FERRY_IO_CHOP");
}

static void test_chop_cuts(void)
{
    struct pair p;
    uint8_t buf[64];
    struct iovec iov = { buf, sizeof(buf) };
    unsigned sizes = 0;

    g_setenv("FERRY_IO_CHOP", "5", TRUE);
    p = pair_new(KIND_SOCKET);
    g_unsetenv("FERRY_IO_CHOP");
    for (int round = 0; round < 50; round++) {
        struct iovec all = { buf, sizeof(buf) };
        size_t left = sizeof(buf);

        g_assert_true(channel_writev_all(p.out, &all, 1, NULL));
        while (left > 0) {
            ssize_t n = channel_readv(p.in, &iov, 1, NULL);

            g_assert_cmpint(n, >=, 1);
            g_assert_cmpint(n, <=, 5);
            sizes |= 1u << n;
            left -= n;
        }
    }
    g_assert_cmphex(sizes, ==, 0x3e); /* each of 1..5 was seen */
    pair_free(&p);
}

static void test_read_all(gconstpointer data)
{
    struct pair p = pair_new(GPOINTER_TO_INT(data));
    struct iovec iov = { (char *)"0123456789", 10 };
    g_autoptr(GError) err = NULL;
    char buf[16];

    g_assert_true(channel_writev_all(p.out, &iov, 1, &err));
    g_assert_true(channel_finish(p.out, &err));
    g_assert_true(channel_finish(p.out, &err)); /* again is harmless */
    g_assert_true(channel_read_all(p.in, buf, 0, &err));
    g_assert_true(channel_read_all(p.in, buf, 4, &err));
    g_assert_cmpmem(buf, 4, "0123", 4);
    g_assert_false(channel_read_all(p.in, buf, 7, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_cmpstr(err->message, ==, "The channel fd:test ended after 10 bytes, 1 too early");
    pair_free(&p);
}

static void test_empty_vector(void)
{
    struct pair p = pair_new(KIND_SOCKET);
    struct iovec none = { NULL, 0 };
    g_autoptr(GError) err = NULL;

    g_assert_true(channel_writev_all(p.out, &none, 1, &err));
    g_assert_true(channel_writev_all(p.out, NULL, 0, &err));
    g_assert_cmpint(channel_readv(p.in, &none, 1, &err), ==, -1); /* not 0: that is the end */
    g_assert_nonnull(err);
    pair_free(&p);
}

/* A peer that has gone is an error, not a signal. */
static void test_gone_reader(gconstpointer data)
{
    struct pair p = pair_new(GPOINTER_TO_INT(data));
    struct iovec iov = { (char *)"x", 1 };
    g_autoptr(GError) err = NULL;

    g_clear_pointer(&p.in, channel_unref);
    g_assert_false(channel_writev_all(p.out, &iov, 1, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_cmpstr(err->message, ==, "Failed to write to the channel fd:test: Broken pipe");
    pair_free(&p);
}

static void test_timeout(gconstpointer data)
{
    struct pair p = pair_new(GPOINTER_TO_INT(data));
    g_autofree char *block = g_malloc0(64 << 20); /* larger than any send buffer */
    struct iovec in = { block, 1 }, out = { block, 64 << 20 };
    g_autoptr(GError) err = NULL;
    gint64 start = g_get_monotonic_time();

    channel_set_timeout(p.in, 60);
    channel_set_timeout(p.out, 60);
    g_assert_cmpint(channel_readv(p.in, &in, 1, &err), ==, -1);
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_cmpstr(err->message, ==,
                    "Timeout on the channel fd:test: no bytes came for 0.06 seconds");
    g_clear_error(&err);
    g_assert_false(channel_writev_all(p.out, &out, 1, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_cmpstr(err->message, ==,
                    "Timeout on the channel fd:test: the peer took no bytes for 0.06 seconds");
    g_assert_cmpint(g_get_monotonic_time() - start, >=, 110000);
    pair_free(&p);
}

static gpointer slow_writer(gpointer data)
{
    struct channel *ch = data;

    for (int i = 0; i < 6; i++) {
        struct iovec iov = { (char *)"x", 1 };

        g_usleep(300000);
        g_assert_true(channel_writev_all(ch, &iov, 1, NULL));
    }
    return NULL;
}

/* A slow peer is no dead peer: the timeout counts from the last byte. */
static void test_slow_peer(void)
{
    struct pair p = pair_new(KIND_PIPE);
    GThread *writer = g_thread_new("writer", slow_writer, p.out);
    g_autoptr(GError) err = NULL;
    char buf[6];

    channel_set_timeout(p.in, 1500); /* less than all of it takes, more than a busy host may */
    g_assert_true(channel_read_all(p.in, buf, sizeof(buf), &err));
    g_assert_no_error(err);
    g_thread_join(writer);
    pair_free(&p);
}

struct blocked {
    struct channel *ch;
    bool writing;
    GError *err;
};

/* More than any send buffer holds. */
#define BLOCKING (64u << 20)

static gpointer blocked_thread(gpointer data)
{
    struct blocked *b = data;
    g_autofree char *block = g_malloc0(BLOCKING);
    struct iovec iov = { block, BLOCKING };

    if (b->writing) {
        g_assert_false(channel_writev_all(b->ch, &iov, 1, &b->err));
    } else {
        g_assert_cmpint(channel_readv(b->ch, &iov, 1, &b->err), ==, -1);
    }
    return NULL;
}

static void test_shutdown(gconstpointer data)
{
    struct pair p = pair_new(GPOINTER_TO_INT(data));
    struct blocked reader = { .ch = p.in }, writer = { .ch = p.out, .writing = true };
    struct pair other = pair_new(GPOINTER_TO_INT(data));
    GThread *threads[2];
    gint64 start;

    reader.ch = other.in; /* nothing comes there */
    threads[0] = g_thread_new("reader", blocked_thread, &reader);
    threads[1] = g_thread_new("writer", blocked_thread, &writer);
    g_usleep(50000);
    start = g_get_monotonic_time();
    channel_shutdown(other.in);
    channel_shutdown(p.out);
    channel_shutdown(p.out);
    g_thread_join(threads[0]);
    g_thread_join(threads[1]);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 20000000);
    g_assert_error(reader.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_assert_error(writer.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_clear_error(&reader.err);
    g_clear_error(&writer.err);
    /* and for good */
    g_assert_false(channel_read_all(other.in, &start, 1, &reader.err));
    g_assert_error(reader.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_assert_false(channel_finish(p.out, &writer.err));
    g_assert_error(writer.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_clear_error(&reader.err);
    g_clear_error(&writer.err);
    pair_free(&p);
    pair_free(&other);
}

/* Both directions of one socket, two threads in them, a third ends it; the peer sees the end at
 * once. */
static void test_shutdown_duplex(void)
{
    struct pair p = pair_new(KIND_SOCKET);
    struct blocked reader = { .ch = p.out }, writer = { .ch = p.out, .writing = true };
    GThread *r = g_thread_new("reader", blocked_thread, &reader);
    GThread *w = g_thread_new("writer", blocked_thread, &writer);
    g_autofree char *block = g_malloc(1 << 16);
    struct iovec iov = { block, 1 << 16 };
    ssize_t n;

    g_assert_true(channel_is_duplex(p.out));
    g_usleep(20000);
    channel_shutdown(p.out);
    g_thread_join(r);
    g_thread_join(w);
    g_assert_error(reader.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_assert_error(writer.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_clear_error(&reader.err);
    g_clear_error(&writer.err);
    do {
        n = channel_readv(p.in, &iov, 1, NULL);
    } while (n > 0);
    g_assert_cmpint(n, ==, 0);
    pair_free(&p);
}

/* Shutdown at every moment of a running transfer. */
static void test_shutdown_race(void)
{
    for (int i = 0; i < 100; i++) {
        struct pair p = pair_new(i % 2 ? KIND_SOCKET : KIND_PIPE);
        struct blocked writer = { .ch = p.out, .writing = true };
        GThread *w = g_thread_new("writer", blocked_thread, &writer);
        char buf[4096];

        for (int k = 0; k < i; k++) {
            g_assert_true(channel_read_all(p.in, buf, sizeof(buf), NULL));
        }
        channel_shutdown(p.out);
        g_thread_join(w);
        g_assert_error(writer.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
        g_clear_error(&writer.err);
        pair_free(&p);
    }
}

static void test_unsent(void)
{
    struct pair p = pair_new(KIND_SOCKET);
    struct iovec iov = { (char *)"0123456789", 10 };
    char buf[10];

    g_assert_cmpuint(channel_unsent(p.out), ==, 0);
    g_assert_true(channel_writev_all(p.out, &iov, 1, NULL));
    g_assert_cmpuint(channel_unsent(p.out), >=, 10);
    g_assert_true(channel_read_all(p.in, buf, 10, NULL));
    g_assert_cmpuint(channel_unsent(p.out), ==, 0);
    pair_free(&p);
}

/* The description of a pipe is shared with who gave it to us: its mode is put back. */
static void test_blocking_mode_restored(void)
{
    struct channel *ch;
    int fds[2], other;

    g_assert_cmpint(pipe(fds), ==, 0);
    other = dup(fds[1]);
    ch = wrap(fds[1], true);
    g_assert_cmpint(fcntl(other, F_GETFL) & O_NONBLOCK, !=, 0);
    channel_unref(ch);
    g_assert_cmpint(fcntl(other, F_GETFL) & O_NONBLOCK, ==, 0);
    close(other);
    close(fds[0]);
}

static void test_full_disk(void)
{
    struct transport_address addr = { .type = TRANSPORT_FILE, .path = (char *)"/dev/full" };
    struct iovec iov = { (char *)"x", 1 };
    g_autoptr(GError) err = NULL;
    g_autoptr(channel) ch = transport_connect(&addr, -1, -1, 0, &err);

    g_assert_no_error(err);
    g_assert_false(channel_writev_all(ch, &iov, 1, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
    g_assert_cmpstr(err->message, ==,
                    "Failed to write to the channel file:/dev/full: No space left on device");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    static const struct {
        const char *name;
        int kind;
    } kinds[] = { { "socket", KIND_SOCKET }, { "pipe", KIND_PIPE } };
    static const struct {
        const char *name;
        void (*fn)(gconstpointer data);
    } both[] = {
        { "lots", test_lots },         { "chop", test_chop },
        { "read-all", test_read_all }, { "gone-reader", test_gone_reader },
        { "timeout", test_timeout },   { "shutdown", test_shutdown },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
            g_autofree char *path =
                g_strdup_printf("/io/channel/%s/%s", both[i].name, kinds[k].name);

            g_test_add_data_func(path, GINT_TO_POINTER(kinds[k].kind), both[i].fn);
        }
    }
    g_test_add_func("/io/channel/chop-cuts", test_chop_cuts);
    g_test_add_func("/io/channel/empty-vector", test_empty_vector);
    g_test_add_func("/io/channel/slow-peer", test_slow_peer);
    g_test_add_func("/io/channel/shutdown-duplex", test_shutdown_duplex);
    g_test_add_func("/io/channel/shutdown-race", test_shutdown_race);
    g_test_add_func("/io/channel/unsent", test_unsent);
    g_test_add_func("/io/channel/blocking-mode-restored", test_blocking_mode_restored);
    g_test_add_func("/io/channel/full-disk", test_full_disk);
    return g_test_run();
}
