/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transports: address syntax and its errors, and for each kind the way from listening and
 * connecting to a channel that carries bytes, with cancel, timeouts and the failures that people
 * meet.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/channel-private.h"
#include "io/channel.h"
#include "io/socket.h"
#include "io/transport.h"
#include "util/error.h"

/* Of this host too, but not the address that one connects from. */
#define OTHER_ADDRESS "127.0.0.2"

static char *scratch; /* a directory for this run */

static char *in_scratch(const char *name)
{
    return g_build_filename(scratch, name, NULL);
}

static struct transport_address *parse(const char *uri)
{
    g_autoptr(GError) err = NULL;
    struct transport_address *addr = transport_parse_uri(uri, &err);

    g_assert_no_error(err);
    return addr;
}

static struct channel *connect_uri(const char *uri, GError **err)
{
    g_autoptr(transport_address) addr = parse(uri);

    return transport_connect(addr, -1, -1, 5000, err);
}

static struct listener *listen_uri(const char *uri, GError **err)
{
    g_autoptr(transport_address) addr = parse(uri);

    return transport_listen(addr, -1, err);
}

static void expect_error(GError **err, enum ferry_error_code code, const char *text)
{
    g_assert_error(*err, FERRY_ERROR, (int)code);
    g_assert_cmpstr((*err)->message, ==, text);
    g_clear_error(err);
}

static void test_parse(void)
{
    static const struct {
        const char *uri;
        const char *text; /* NULL: as uri */
    } good[] = {
        { "tcp:127.0.0.1:4444", NULL },
        { "tcp::4444", NULL },
        { "tcp:[::1]:4444", NULL },
        { "tcp:host.example:http", NULL },
        { "tcp:h:1,ipv4=on,", "tcp:h:1" },
        { "tcp:h:1,ipv4,to=20", "tcp:h:1" },
        { "unix:/a,b", NULL },
        { "fd:name", NULL },
        { "fd:3", NULL },
        { "exec:cat >x | tee", NULL },
        { "file:/x", NULL },
        { "file:/x,offset=4096", NULL },
        { "file:/x,offset=0x10", "file:/x,offset=16" },
        { "file:/x,offset=0", "file:/x" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(transport_address) addr = parse(good[i].uri);
        g_autoptr(transport_address) copy = transport_address_copy(addr);
        g_autofree char *text = transport_address_text(copy);

        g_assert_cmpstr(text, ==, good[i].text ? good[i].text : good[i].uri);
    }
    g_autoptr(transport_address) tcp = parse("tcp:[fe80::1]:9,ipv6=on,to=11");

    g_assert_cmpstr(tcp->host, ==, "fe80::1");
    g_assert_cmpstr(tcp->port, ==, "9");
    g_assert_cmpint(tcp->family, ==, AF_INET6);
    g_assert_cmpuint(tcp->to, ==, 11);
}

static void test_parse_errors(void)
{
    static const struct {
        const char *uri;
        const char *message;
    } bad[] = {
        { "", "Parameter 'uri' expects a valid migration protocol" },
        { "bogus:x", "Parameter 'uri' expects a valid migration protocol" },
        { "tcp", "Parameter 'uri' expects a valid migration protocol" },
        { "tcp:", "The address '' has no port: use tcp:HOST:PORT" },
        { "tcp::", "The address ':' has no port: use tcp:HOST:PORT" },
        { "tcp:h", "The address 'h' has no port: use tcp:HOST:PORT" },
        { "tcp:[::1", "Failed to parse the IPv6 address '[::1': use tcp:[ADDRESS]:PORT" },
        { "tcp:[]:1", "Failed to parse the IPv6 address '[]:1': use tcp:[ADDRESS]:PORT" },
        { "tcp:h:65536", "The port '65536' is not in the range 0 to 65535" },
        { "tcp:h:1,foo=2", "Invalid parameter 'foo'" },
        { "tcp:h:1,ipv4=maybe", "Parameter 'ipv4' expects 'on' or 'off'" },
        { "tcp:h:1,to=x", "Parameter 'to' expects a port number" },
        { "tcp:h:1,ipv4=off,ipv6=off", "Cannot disable IPv4 and IPv6 at same time" },
        { "unix:", "A UNIX socket address needs a path: use unix:PATH" },
        { "exec:", "An exec: address needs a command: use exec:COMMAND" },
        { "file:", "A file address needs a path: use file:PATH" },
        { "file:/x,offset=-1", "Parameter 'offset' expects a number of bytes, not '-1'" },
        { "file:/x,offset=9999999999999999999",
          "Parameter 'offset' expects a number of bytes, not '9999999999999999999'" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *err = NULL;

        g_assert_null(transport_parse_uri(bad[i].uri, &err));
        expect_error(&err, FERRY_ERROR_USER, bad[i].message);
    }
}

static void exchange(struct channel *a, struct channel *b)
{
    struct iovec ping = { (char *)"ping", 4 }, pong = { (char *)"pong", 4 };
    g_autoptr(GError) err = NULL;
    char buf[4];

    g_assert_true(channel_writev_all(a, &ping, 1, &err));
    g_assert_true(channel_read_all(b, buf, 4, &err));
    g_assert_cmpmem(buf, 4, "ping", 4);
    if (channel_is_duplex(b)) {
        g_assert_true(channel_writev_all(b, &pong, 1, &err));
        g_assert_true(channel_read_all(a, buf, 4, &err));
        g_assert_cmpmem(buf, 4, "pong", 4);
    }
    g_assert_true(channel_finish(a, &err));
    g_assert_false(channel_read_all(b, buf, 1, NULL));
    g_assert_no_error(err);
}

/* What the host paces its links with is not for a connection that never leaves it. */
static void congestion_control(int fd, char name[16])
{
    socklen_t len = 16;

    g_assert_cmpint(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len), ==, 0);
}

static void check_congestion_control(struct channel *ch, bool same_address)
{
    int fd = channel_read_fd(ch), fresh;
    char name[16], usual[16];

    if (socket_is_unix(fd)) {
        return;
    }
    fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    congestion_control(fresh, usual);
    close(fresh);
    congestion_control(fd, name);
    g_assert_cmpstr(name, ==, same_address ? "reno" : usual);
}

/* Several connections over one listener, as multifd and post-copy need. */
static void listen_and_connect(const char *listen_text, unsigned min_addresses)
{
    g_autoptr(GError) err = NULL;
    struct listener *l = listen_uri(listen_text, &err);
    const struct transport_address *const *addrs;
    unsigned n;

    g_assert_no_error(err);
    n = transport_listener_addresses(l, &addrs);
    g_assert_cmpuint(n, >=, min_addresses);
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < 3; k++) {
            g_autoptr(channel) out = transport_connect(addrs[i], -1, -1, 5000, &err);
            g_autoptr(channel) in = NULL;

            g_assert_no_error(err);
            in = transport_accept(l, -1, 5000, &err);
            g_assert_no_error(err);
            g_assert_true(channel_is_duplex(in));
            check_congestion_control(out, !strstr(listen_text, OTHER_ADDRESS));
            exchange(out, in);
        }
    }
    listener_free(l);
}

static bool have_ipv6(void)
{
    struct sockaddr_in6 sa = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static void test_tcp(void)
{
    listen_and_connect("tcp:127.0.0.1:0", 1);
    listen_and_connect("tcp:" OTHER_ADDRESS ":0", 1);
    listen_and_connect("tcp:localhost:0", 1);
    listen_and_connect("tcp:0:0,ipv4=on", 1);
    if (have_ipv6()) {
        listen_and_connect("tcp:[::1]:0", 1);
        listen_and_connect("tcp::0", 2);
    }
}

static void test_tcp_port_range(void)
{
    g_autoptr(GError) err = NULL;
    struct listener *first = listen_uri("tcp:127.0.0.1:0", &err), *second;
    const struct transport_address *const *addrs;
    g_autofree char *taken = NULL;
    g_autofree char *range = NULL;
    unsigned port;

    g_assert_no_error(err);
    transport_listener_addresses(first, &addrs);
    port = atoi(addrs[0]->port);
    taken = g_strdup_printf("tcp:127.0.0.1:%u", port);
    g_assert_null(listen_uri(taken, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
    g_assert_nonnull(strstr(err->message, "Failed to find an available port"));
    g_assert_nonnull(strstr(err->message, "Address already in use"));
    g_clear_error(&err);
    range = g_strdup_printf("%s,to=%u", taken, MIN(port + 20, 65535));
    second = listen_uri(range, &err);
    g_assert_no_error(err);
    transport_listener_addresses(second, &addrs);
    g_assert_cmpint(atoi(addrs[0]->port), >, (int)port);
    listener_free(first);
    listener_free(second);
}

static void test_connect_errors(void)
{
    g_autofree char *long_path = g_strnfill(120, 'a');
    g_autofree char *long_uri = g_strconcat("unix:", long_path, NULL);
    g_autofree char *too_long = g_strdup_printf(
        "UNIX socket path '%s' is too long: path must be less than 108 bytes", long_path);
    g_autofree char *lost = in_scratch("nodir/x");
    g_autofree char *lost_unix = g_strconcat("unix:", lost, NULL);
    g_autofree char *lost_file = g_strconcat("file:", lost, NULL);
    g_autofree char *no_connect =
        g_strdup_printf("Failed to connect to '%s': No such file or directory", lost);
    g_autofree char *no_bind =
        g_strdup_printf("Failed to bind socket to %s: No such file or directory", lost);
    g_autofree char *no_open =
        g_strdup_printf("Could not open '%s': No such file or directory", lost);
    GError *err = NULL;

    g_assert_null(connect_uri(lost_unix, &err));
    expect_error(&err, FERRY_ERROR_LINK, no_connect);
    g_assert_null(connect_uri("tcp:127.0.0.1:1", &err));
    expect_error(&err, FERRY_ERROR_LINK, "Failed to connect to '127.0.0.1:1': Connection refused");
    g_assert_null(connect_uri("tcp:127.0.0.1:nosuchservice", &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_true(
        g_str_has_prefix(err->message, "address resolution failed for 127.0.0.1:nosuchservice: "));
    g_clear_error(&err);
    g_assert_null(connect_uri(long_uri, &err));
    expect_error(&err, FERRY_ERROR_USER, too_long);
    g_assert_null(listen_uri(long_uri, &err));
    expect_error(&err, FERRY_ERROR_USER, too_long);
    g_assert_null(listen_uri(lost_unix, &err));
    expect_error(&err, FERRY_ERROR_HOST, no_bind);
    g_assert_null(connect_uri(lost_file, &err));
    expect_error(&err, FERRY_ERROR_HOST, no_open);
    g_assert_null(listen_uri(lost_file, &err));
    expect_error(&err, FERRY_ERROR_HOST, no_open);
}

static void test_unix(void)
{
    g_autofree char *path = in_scratch("u");
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    g_autofree char *busy =
        g_strdup_printf("Failed to bind socket to %s: Address already in use", path);
    struct listener *l, *second;
    GError *err = NULL;

    listen_and_connect(uri, 1);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    l = listen_uri(uri, &err);
    g_assert_no_error(err);
    /* in use: refused, and the living server does not notice */
    g_assert_null(listen_uri(uri, &err));
    expect_error(&err, FERRY_ERROR_HOST, busy);
    g_assert_null(transport_accept(l, -1, 20, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_clear_error(&err);
    /* taken over by somebody else: not ours to remove */
    g_assert_cmpint(unlink(path), ==, 0);
    second = listen_uri(uri, &err);
    g_assert_no_error(err);
    listener_free(l);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    listener_free(second);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

static void test_unix_stale(void)
{
    g_autofree char *path = in_scratch("stale");
    g_autofree char *uri = g_strconcat("unix:", path, NULL);
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    g_autoptr(GError) err = NULL;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(un.sun_path, path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    close(fd); /* the file stays, as after a kill -9 */
    listen_and_connect(uri, 1);
    /* a file that is no socket is nobody's to delete */
    g_assert_true(g_file_set_contents(path, "data", 4, NULL));
    g_assert_null(listen_uri(uri, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_HOST);
    g_assert_true(g_file_test(path, G_FILE_TEST_IS_REGULAR));
    unlink(path);
}

struct waiter {
    struct listener *l;
    const char *uri;
    int cancel_fd;
    GError *err;
};

static gpointer accept_thread(gpointer data)
{
    struct waiter *w = data;

    g_assert_null(transport_accept(w->l, w->cancel_fd, 0, &w->err));
    return NULL;
}

static void test_accept_cancel(void)
{
    struct waiter w = { .cancel_fd = eventfd(0, EFD_CLOEXEC) };
    GThread *thread;
    uint64_t one = 1;

    w.l = listen_uri("tcp:127.0.0.1:0", &w.err);
    g_assert_no_error(w.err);
    g_assert_null(transport_accept(w.l, w.cancel_fd, 30, &w.err));
    g_assert_error(w.err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_clear_error(&w.err);
    thread = g_thread_new("accept", accept_thread, &w);
    g_usleep(20000);
    g_assert_cmpint(write(w.cancel_fd, &one, sizeof(one)), ==, sizeof(one));
    g_thread_join(thread);
    g_assert_error(w.err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    g_clear_error(&w.err);
    listener_free(w.l);
    close(w.cancel_fd);
}

/* A UNIX server whose queue is full: connecting waits, for the deadline or for the cancel. */
static void test_connect_cancel(void)
{
    g_autofree char *path = in_scratch("full");
    struct transport_address addr = { .type = TRANSPORT_UNIX, .path = path };
    g_autoptr(GError) err = NULL;
    GPtrArray *listeners = socket_listen(&addr, 0, &err);
    int cancel_fd = eventfd(1, EFD_CLOEXEC);
    int fds[8], n = 0;

    g_assert_no_error(err);
    while (n < 8) {
        fds[n] = socket_connect(&addr, -1, 50, &err);
        if (fds[n] < 0) {
            break;
        }
        n++;
    }
    g_assert_cmpint(n, <, 8);
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_nonnull(strstr(err->message, "Connection timed out"));
    g_clear_error(&err);
    g_assert_cmpint(socket_connect(&addr, cancel_fd, 0, &err), ==, -1);
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_CANCELLED);
    while (n-- > 0) {
        close(fds[n]);
    }
    close(cancel_fd);
    g_ptr_array_unref(listeners);
}

/* Names that nobody answers for, packets that nobody answers: bounded, and ended by a cancel. */
static void test_connect_deadline(void)
{
    g_autoptr(transport_address) dark = parse("tcp:192.0.2.1:9");
    g_autoptr(transport_address) nameless = parse("tcp:host.invalid:9");
    gint64 start = g_get_monotonic_time();
    g_autoptr(GError) err = NULL;
    int cancel_fd = eventfd(1, EFD_CLOEXEC);

    g_assert_null(transport_connect(dark, -1, -1, 100, &err));
    g_assert_error(err, FERRY_ERROR, FERRY_ERROR_LINK);
    g_clear_error(&err);
    g_assert_null(transport_connect(dark, -1, cancel_fd, 0, &err));
    g_assert_nonnull(err);
    g_clear_error(&err);
    g_assert_null(transport_connect(nameless, -1, cancel_fd, 0, &err));
    g_assert_nonnull(err);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 8 * G_TIME_SPAN_SECOND);
    close(cancel_fd);
}

/* fd:1 and the like: the number must not go to the next file that is opened. */
static void test_fd_stdio(void)
{
    struct transport_address addr = { .type = TRANSPORT_FD, .fd_name = (char *)"0" };
    struct iovec iov = { (char *)"x", 1 };
    g_autoptr(GError) err = NULL;
    int saved = dup(0), fds[2];
    struct channel *ch;
    struct listener *l;
    char byte;

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(dup2(fds[0], 0), ==, 0);
    close(fds[0]);
    l = transport_listen(&addr, 0, &err);
    g_assert_no_error(err);
    ch = transport_accept(l, -1, 0, &err);
    listener_free(l);
    g_assert_cmpint(write(fds[1], iov.iov_base, 1), ==, 1);
    g_assert_true(channel_read_all(ch, &byte, 1, &err));
    channel_unref(ch);
    g_assert_cmpint(fcntl(0, F_GETFD), >=, 0); /* /dev/null now */
    g_assert_cmpint(read(0, &byte, 1), ==, 0);
    g_assert_cmpint(write(fds[1], "x", 1), ==, -1); /* the pipe itself has ended */
    close(fds[1]);
    dup2(saved, 0);
    close(saved);
}

static void test_fd(void)
{
    struct transport_address addr = { .type = TRANSPORT_FD, .fd_name = (char *)"mig" };
    g_autofree char *path = in_scratch("fdfile");
    GError *err = NULL;
    struct listener *l;
    int fds[2], fd;

    /* a pipe in the wrong direction */
    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_null(transport_connect(&addr, fds[0], -1, 0, &err));
    expect_error(&err, FERRY_ERROR_USER, "The descriptor of fd:mig is not open for writing");
    g_assert_cmpint(fcntl(fds[0], F_GETFD), ==, -1); /* ownership passed all the same */
    g_assert_null(transport_listen(&addr, fds[1], &err));
    expect_error(&err, FERRY_ERROR_USER, "The descriptor of fd:mig is not open for reading");
    g_assert_null(transport_connect(&addr, 9999, -1, 0, &err));
    expect_error(&err, FERRY_ERROR_USER,
                 "The descriptor of fd:mig cannot be used: Bad file descriptor");
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    g_assert_null(transport_connect(&addr, fd, -1, 0, &err));
    expect_error(&err, FERRY_ERROR_USER, "The socket of fd:mig is not a stream socket");
    /* a file opened for appending keeps what it has */
    g_assert_true(g_file_set_contents(path, "head", 4, NULL));
    {
        struct iovec iov = { (char *)"tail", 4 };
        g_autoptr(channel) ch =
            transport_connect(&addr, open(path, O_WRONLY | O_APPEND), -1, 0, &err);
        g_autofree char *text = NULL;

        g_assert_no_error(err);
        g_assert_false(channel_is_duplex(ch));
        g_assert_true(channel_writev_all(ch, &iov, 1, &err));
        g_assert_true(channel_finish(ch, &err));
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "headtail");
    }
    /* a connected pair, and only one channel from it */
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    l = transport_listen(&addr, fds[1], &err);
    g_assert_no_error(err);
    {
        g_autoptr(channel) out = transport_connect(&addr, fds[0], -1, 0, &err);
        g_autoptr(channel) in = transport_accept(l, -1, 0, &err);

        exchange(out, in);
        g_assert_null(transport_accept(l, -1, 0, &err));
        g_assert_error(err, FERRY_ERROR, FERRY_ERROR_USER);
        g_clear_error(&err);
    }
    listener_free(l);
    unlink(path);
}

/* A listening socket handed over by a manager. */
static void test_fd_listening(void)
{
    struct transport_address addr = { .type = TRANSPORT_FD, .fd_name = (char *)"5" };
    g_autofree char *path = in_scratch("handed");
    struct transport_address target = { .type = TRANSPORT_UNIX, .path = path };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    g_autoptr(GError) err = NULL;
    struct listener *l;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(un.sun_path, path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    g_assert_cmpint(listen(fd, 2), ==, 0);
    l = transport_listen(&addr, fd, &err);
    g_assert_no_error(err);
    {
        g_autoptr(channel) out = transport_connect(&target, -1, -1, 1000, &err);
        g_autoptr(channel) in = transport_accept(l, -1, 1000, &err);

        g_assert_no_error(err);
        exchange(out, in);
    }
    listener_free(l);
    /* not made by us: not removed by us */
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    unlink(path);
}

static void test_file(void)
{
    g_autofree char *path = in_scratch("stream");
    g_autofree char *uri = g_strconcat("file:", path, NULL);
    g_autofree char *at = g_strconcat(uri, ",offset=6", NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;
    struct iovec iov = { (char *)"stream", 6 };
    struct listener *l;
    struct channel *ch;
    char buf[16] = "";
    struct stat st;

    g_assert_true(g_file_set_contents(path, "0123456789abcdef", 16, NULL));
    ch = connect_uri(at, &err);
    g_assert_no_error(err);
    g_assert_true(channel_writev_all(ch, &iov, 1, &err));
    g_assert_true(channel_finish(ch, &err));
    channel_unref(ch);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "012345streamcdef");
    l = listen_uri(at, &err);
    g_assert_no_error(err);
    ch = transport_accept(l, -1, 0, &err);
    listener_free(l);
    g_assert_true(channel_read_all(ch, buf, 6, &err));
    g_assert_cmpstr(buf, ==, "stream");
    channel_unref(ch);
    /* without an offset the old content goes; a new file is private */
    channel_unref(connect_uri(uri, &err));
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 0);
    unlink(path);
    channel_unref(connect_uri(uri, &err));
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    unlink(path);
    g_assert_no_error(err);
}

static void test_exec(void)
{
    g_autofree char *path = in_scratch("cmd");
    g_autofree char *uri = g_strdup_printf("exec:sleep 0.1; cat >%s", path);
    g_autofree char *back = g_strdup_printf("exec:cat %s; echo trailing", path);
    g_autoptr(GError) err = NULL;
    struct iovec iov = { (char *)"stream", 6 };
    g_autofree char *text = NULL;
    struct listener *l;
    struct channel *ch = connect_uri(uri, &err);
    char buf[7] = "";

    g_assert_no_error(err);
    g_assert_true(channel_writev_all(ch, &iov, 1, &err));
    g_assert_true(channel_finish(ch, &err)); /* has waited: the file is complete */
    g_assert_no_error(err);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "stream");
    channel_unref(ch);
    l = listen_uri(back, &err);
    g_assert_no_error(err);
    ch = transport_accept(l, -1, 0, &err);
    listener_free(l);
    g_assert_true(channel_read_all(ch, buf, 6, &err));
    g_assert_cmpstr(buf, ==, "stream");
    g_assert_true(channel_finish(ch, &err));
    g_assert_no_error(err);
    channel_unref(ch);
    unlink(path);
}

static void test_exec_failures(void)
{
    struct transport_address missing = { .type = TRANSPORT_EXEC };
    g_autofree char *program = in_scratch("nodir/program");
    g_autofree char *no_program =
        g_strdup_printf("Failed to start the command '%s': No such file or directory", program);
    char *argv[] = { program, NULL };
    GError *err = NULL;
    struct channel *ch;
    struct listener *l;
    g_autofree char *block = g_malloc0(1 << 20);
    struct iovec iov = { block, 1 << 20 };
    char byte;

    missing.argv = argv;
    g_assert_null(transport_connect(&missing, -1, -1, 0, &err));
    expect_error(&err, FERRY_ERROR_HOST, no_program);

    ch = connect_uri("exec:cat >/dev/null; exit 3", &err);
    g_assert_no_error(err);
    g_assert_false(channel_finish(ch, &err));
    expect_error(&err, FERRY_ERROR_PEER,
                 "The channel exec:cat >/dev/null; exit 3 failed: "
                 "the command exited with status 3");
    channel_unref(ch);

    ch = connect_uri("exec:kill -9 $$", &err);
    g_assert_false(channel_writev_all(ch, &iov, 1, &err));
    expect_error(&err, FERRY_ERROR_LINK,
                 "Failed to write to the channel exec:kill -9 $$: Broken pipe "
                 "(the command was killed by signal 9 (Killed))");
    channel_unref(ch);

    l = listen_uri("exec:exit 7", &err);
    ch = transport_accept(l, -1, 0, &err);
    g_assert_no_error(err);
    g_assert_false(channel_read_all(ch, &byte, 1, &err));
    expect_error(&err, FERRY_ERROR_LINK,
                 "The channel exec:exit 7 ended after 0 bytes, 1 too early: "
                 "the command exited with status 7");
    listener_free(l);
    channel_unref(ch);

    l = listen_uri("exec:cat /dev/zero", &err);
    ch = transport_accept(l, -1, 0, &err);
    g_assert_false(channel_finish(ch, &err));
    expect_error(&err, FERRY_ERROR_PEER,
                 "The command of exec:cat /dev/zero goes on writing after the end of the stream");
    listener_free(l);
    channel_unref(ch);

    ch = connect_uri("exec:sleep 20 <&-", &err);
    channel_set_timeout(ch, 100);
    g_assert_false(channel_finish(ch, &err));
    expect_error(&err, FERRY_ERROR_LINK,
                 "Timeout on the channel exec:sleep 20 <&-: the command did not exit for 0.1 "
                 "seconds");
    channel_shutdown(ch);
    channel_unref(ch);
}

/* The command sees no descriptor of ours, default signals and a process group of its own. */
static void test_exec_environment(void)
{
    g_autofree char *path = in_scratch("env");
    g_autofree char *uri = g_strdup_printf("exec:exec >%s; ls /proc/self/fd; "
                                           "grep -E 'SigIgn|SigBlk' /proc/self/status; "
                                           "cut -d' ' -f1,5 /proc/$$/stat; cat >/dev/null",
                                           path);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) err = NULL;
    sigset_t usr1;
    struct channel *ch;
    int open_fd = open("/dev/null", O_RDONLY); /* without O_CLOEXEC */
    int high = fcntl(open_fd, F_DUPFD, 700);
    g_auto(GStrv) ids = NULL;

    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    ch = connect_uri(uri, &err);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    g_assert_no_error(err);
    g_assert_true(channel_finish(ch, &err));
    channel_unref(ch);
    close(open_fd);
    close(high);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    /* 3 is the directory that ls itself has open */
    g_assert_cmpuint(g_strv_length(lines), ==, 8);
    g_assert_cmpstr(lines[3], ==, "3");
    g_assert_cmpstr(lines[4], ==, "SigBlk:\t0000000000000000");
    g_assert_true(g_str_has_prefix(lines[5], "SigIgn:\t"));
    /* 32 and 33 belong to the C library, which lets nobody change them */
    g_assert_cmphex(g_ascii_strtoull(lines[5] + 8, NULL, 16) & ~0x180000000ull, ==, 0);
    ids = g_strsplit(lines[6], " ", 2);
    g_assert_cmpstr(ids[0], ==, ids[1]);
    unlink(path);
}

static bool still_runs(const char *pid_path)
{
    g_autofree char *text = NULL;
    g_autofree char *stat_path = NULL;
    g_autofree char *state = NULL;

    if (!g_file_get_contents(pid_path, &text, NULL, NULL) || atoi(text) <= 0) {
        return false;
    }
    stat_path = g_strdup_printf("/proc/%d/stat", atoi(text));
    /* a zombie has ended; whether somebody reaps orphans is not our subject */
    return g_file_get_contents(stat_path, &state, NULL, NULL) && !strstr(state, ") Z");
}

/* A command that does not care about the end of its input is killed, with all its pipeline. */
static void test_exec_killed(void)
{
    g_autofree char *path = in_scratch("pid");
    g_autofree char *uri = g_strdup_printf("exec:sleep 60 & echo $! >%s; wait", path);
    g_autoptr(GError) err = NULL;
    struct channel *ch = connect_uri(uri, &err);

    g_assert_no_error(err);
    while (!still_runs(path)) {
        g_usleep(10000);
    }
    gint64 start = g_get_monotonic_time();

    channel_shutdown(ch);
    channel_unref(ch);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 20000000);
    for (int i = 0; still_runs(path) && i < 2000; i++) {
        g_usleep(10000);
    }
    g_assert_false(still_runs(path));
    unlink(path);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    scratch = g_dir_make_tmp("ferry-io-XXXXXX", NULL);
    g_test_add_func("/io/transport/parse", test_parse);
    g_test_add_func("/io/transport/parse-errors", test_parse_errors);
    g_test_add_func("/io/transport/tcp", test_tcp);
    g_test_add_func("/io/transport/tcp-port-range", test_tcp_port_range);
    g_test_add_func("/io/transport/connect-errors", test_connect_errors);
    g_test_add_func("/io/transport/unix", test_unix);
    g_test_add_func("/io/transport/unix-stale", test_unix_stale);
    g_test_add_func("/io/transport/accept-cancel", test_accept_cancel);
    g_test_add_func("/io/transport/connect-cancel", test_connect_cancel);
    g_test_add_func("/io/transport/connect-deadline", test_connect_deadline);
    g_test_add_func("/io/transport/fd", test_fd);
    g_test_add_func("/io/transport/fd-stdio", test_fd_stdio);
    g_test_add_func("/io/transport/fd-listening", test_fd_listening);
    g_test_add_func("/io/transport/file", test_file);
    g_test_add_func("/io/transport/exec", test_exec);
    g_test_add_func("/io/transport/exec-failures", test_exec_failures);
    g_test_add_func("/io/transport/exec-environment", test_exec_environment);
    g_test_add_func("/io/transport/exec-killed", test_exec_killed);
    status = g_test_run();
    g_rmdir(scratch);
    g_free(scratch);
    return status;
}
