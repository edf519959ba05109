/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The socket chardev: clients that come, wait, vanish and do not read; descriptors passed along;
 * inherited sockets; reconnecting.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "test-chardev-common.h"

static char *scratch;
static char *sock_path; /* removed by whoever made it */

static struct chardev *open_server(struct chardev_set *set)
{
    g_autofree char *text =
        g_strdup_printf("backend=socket,id=s,server=on,wait=off,path=%s", sock_path);
    g_autoptr(GError) err = NULL;
    struct chardev *chr = open_text(set, text, &err);

    g_assert_no_error(err);
    return chr;
}

static bool at_end(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void test_server(void)
{
    struct chardev_set *set = chardev_set_new();
    struct chardev *chr = open_server(set);
    struct front *f = front_attach(chr);
    g_autofree char *idle_name = chardev_describe(chr);
    g_autofree char *idle_expected = g_strdup_printf("disconnected:unix:%s,server=on", sock_path);
    g_autofree char *name = NULL;
    g_autofree char *expected = g_strdup_printf("unix:%s,server=on", sock_path);
    int a, b;

    g_assert_cmpstr(idle_name, ==, idle_expected);
    g_assert_cmpuint(chardev_write(chr, "nobody", 6), ==, 6);
    chardev_write_queued(chr, "nobody", 6);
    a = client_connect(sock_path);
    RUN_UNTIL(chardev_is_connected(chr));
    name = chardev_describe(chr);
    g_assert_cmpstr(name, ==, expected);
    send_text(a, "hello");
    RUN_UNTIL(f->got->len == 5);
    chardev_write_queued(chr, "answer", 6);
    expect_bytes(a, "answer");
    /* the second waits in the queue, and may already talk */
    b = client_connect(sock_path);
    send_text(b, "second");
    run_idle();
    g_assert_cmpstr(f->got->str, ==, "hello");
    g_assert_cmpstr(f->events->str, ==, "O");
    close(a);
    RUN_UNTIL(f->got->len == 11);
    g_assert_cmpstr(f->got->str, ==, "hellosecond");
    g_assert_cmpstr(f->events->str, ==, "OCO");
    chardev_write_queued(chr, "for b", 5);
    expect_bytes(b, "for b");
    chardev_set_free(set);
    g_assert_true(at_end(b));
    close(b);
    g_assert_false(g_file_test(sock_path, G_FILE_TEST_EXISTS));
    front_free(f);
}

/* Bytes that the front end cannot take stay where they are. */
static void test_room(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_server(set);
    struct front *f = front_attach(chr);
    int fd = client_connect(sock_path);

    f->room = 3;
    send_text(fd, "0123456789");
    RUN_UNTIL(f->got->len == 3);
    run_idle();
    g_assert_cmpstr(f->got->str, ==, "012");
    f->room = 2;
    chardev_accept_input(chr);
    RUN_UNTIL(f->got->len == 5);
    /* without a front end nothing is read either */
    f->room = SIZE_MAX;
    chardev_detach(chr);
    run_idle();
    g_assert_cmpuint(f->got->len, ==, 5);
    g_assert_true(chardev_attach(chr, &front_ops, f, NULL));
    RUN_UNTIL(f->got->len == 10);
    g_assert_cmpstr(f->got->str, ==, "0123456789");
    g_assert_cmpstr(f->events->str, ==, "OO");
    /* a client that leaves is noticed although there is no room, so that the next one gets its turn
     */
    f->room = 0;
    chardev_accept_input(chr);
    send_text(fd, "x");
    close(fd);
    RUN_UNTIL(!chardev_is_connected(chr));
    chardev_detach(chr);
    front_free(f);
}

/* What a half-closing client sent before the end arrives in full. */
static void test_half_close(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_server(set);
    struct front *f = front_attach(chr);
    int fd = client_connect(sock_path);
    g_autofree char *block = g_strnfill(100000, 'z');

    send_text(fd, block);
    shutdown(fd, SHUT_WR);
    RUN_UNTIL(g_str_equal(f->events->str, "OC"));
    g_assert_cmpuint(f->got->len, ==, 100000);
    g_assert_true(at_end(fd));
    close(fd);
    chardev_detach(chr);
    front_free(f);
}

static void test_client_does_not_read(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_server(set);
    struct front *f = front_attach(chr);
    int fd = client_connect(sock_path);
    size_t size = 8 << 20, taken, done = 0;
    g_autofree uint8_t *block = g_malloc(size);
    g_autofree uint8_t *back = g_malloc(size);

    for (size_t i = 0; i < size; i++) {
        block[i] = i * 7 + (i >> 12);
    }
    RUN_UNTIL(chardev_is_connected(chr));
    taken = chardev_write(chr, block, size);
    g_assert_cmpuint(taken, >, 0);
    g_assert_cmpuint(taken, <, size);
    g_assert_cmpuint(chardev_write(chr, block, 1), ==, 0);
    /* the rest by way of the queue; nothing may overtake it */
    chardev_write_queued(chr, block + taken, size - taken - 2);
    chardev_write_queued(chr, block + size - 2, 2);
    g_assert_cmpuint(chardev_queue_length(chr), ==, size - taken);
    g_assert_cmpuint(chardev_write(chr, block, 1), ==, 0);
    chardev_notify_writable(chr, front_writable, f);
    run_idle();
    g_assert_cmpuint(f->writable_calls, ==, 0);
    while (done < size) {
        ssize_t n = recv(fd, back + done, size - done, MSG_DONTWAIT);

        if (n > 0) {
            done += n;
        } else {
            g_assert_cmpint(errno, ==, EAGAIN);
            g_main_context_iteration(NULL, FALSE);
        }
    }
    g_assert_true(memcmp(block, back, size) == 0);
    RUN_UNTIL(f->writable_calls == 1);
    g_assert_cmpuint(chardev_queue_length(chr), ==, 0);
    run_idle();
    g_assert_cmpuint(f->writable_calls, ==, 1);
    close(fd);
    chardev_detach(chr);
    front_free(f);
}

/* A client that goes away with everything pending. */
static void test_gone_client(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_server(set);
    struct front *f = front_attach(chr);
    g_autofree char *block = g_malloc0(8 << 20);

    for (int round = 0; round < 3; round++) {
        int fd = client_connect(sock_path);

        RUN_UNTIL(chardev_is_connected(chr));
        chardev_write_queued(chr, block, 8 << 20);
        chardev_notify_writable(chr, front_writable, f);
        close(fd);
        /* before the main loop knows */
        g_assert_cmpuint(chardev_write(chr, "x", 1), ==, 0);
        RUN_UNTIL(!chardev_is_connected(chr));
        g_assert_cmpuint(chardev_queue_length(chr), ==, 0);
        RUN_UNTIL(f->writable_calls == (unsigned)round + 1);
        g_assert_cmpuint(chardev_write(chr, "x", 1), ==, 1);
    }
    g_assert_cmpstr(f->events->str, ==, "OCOCOC");
    chardev_detach(chr);
    front_free(f);
}

static void send_fds(int sock, const char *text, const int *fds, unsigned n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 32)];
    } control;
    struct iovec iov = { (char *)text, strlen(text) };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = CMSG_SPACE(sizeof(int) * n),
    };

    memset(&control, 0, sizeof(control));
    control.align.cmsg_level = SOL_SOCKET;
    control.align.cmsg_type = SCM_RIGHTS;
    control.align.cmsg_len = CMSG_LEN(sizeof(int) * n);
    memcpy(CMSG_DATA(&control.align), fds, sizeof(int) * n);
    g_assert_cmpint(sendmsg(sock, &msg, 0), ==, (ssize_t)iov.iov_len);
}

static unsigned open_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static void test_fd_passing(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_server(set);
    struct front *f = front_attach(chr);
    int sock = client_connect(sock_path);
    int pipes[2][2], many[32], first, second;
    unsigned before;

    g_assert_cmpint(pipe(pipes[0]) | pipe(pipes[1]), ==, 0);
    RUN_UNTIL(chardev_is_connected(chr));
    send_fds(sock, "one", &pipes[0][1], 1);
    send_fds(sock, "two", &pipes[1][1], 1);
    RUN_UNTIL(f->got->len == 6);
    first = chardev_take_fd(chr);
    second = chardev_take_fd(chr);
    g_assert_cmpint(chardev_take_fd(chr), ==, -1);
    g_assert_cmpint(fcntl(first, F_GETFD) & FD_CLOEXEC, !=, 0);
    send_text(first, "1");
    send_text(second, "2");
    expect_bytes(pipes[0][0], "1");
    expect_bytes(pipes[1][0], "2");
    close(first);
    close(second);
    /* more than anybody needs: bounded, and gone with the connection */
    before = open_descriptors();
    for (int i = 0; i < 32; i++) {
        many[i] = pipes[0][1];
    }
    for (int i = 0; i < 4; i++) {
        send_fds(sock, "x", many, 32);
    }
    RUN_UNTIL(f->got->len == 10);
    g_assert_cmpuint(open_descriptors(), ==, before + 16);
    g_assert_cmpint((first = chardev_take_fd(chr)), >=, 0);
    close(first);
    close(sock);
    RUN_UNTIL(!chardev_is_connected(chr));
    g_assert_cmpint(chardev_take_fd(chr), ==, -1);
    g_assert_cmpuint(open_descriptors(), ==, before - 2); /* both ends of the connection */
    for (int i = 0; i < 4; i++) {
        close(pipes[i / 2][i % 2]);
    }
    chardev_detach(chr);
    front_free(f);
}

static gpointer late_client(gpointer data)
{
    int fd;

    g_usleep(50000);
    fd = client_connect(data);
    send_text(fd, "late");
    return GINT_TO_POINTER(fd);
}

static void test_wait(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    g_autofree char *text = g_strdup_printf("backend=socket,id=s,server=on,path=%s", sock_path);
    GThread *client = NULL;
    struct chardev *chr;
    struct front *f;
    int probe;

    /* made ready first, so that the client's connect cannot come too early */
    probe = g_file_test(sock_path, G_FILE_TEST_EXISTS);
    g_assert_false(probe);
    client = g_thread_new("client", late_client, sock_path);
    chr = open_text(set, text, NULL);
    g_assert_nonnull(chr);
    g_assert_true(chardev_is_connected(chr));
    f = front_attach(chr);
    RUN_UNTIL(f->got->len == 4);
    close(GPOINTER_TO_INT(g_thread_join(client)));
    RUN_UNTIL(!chardev_is_connected(chr));
    chardev_detach(chr);
    front_free(f);
}

static void test_stale_path(void)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct chardev_set *set = chardev_set_new();
    g_autofree char *text =
        g_strdup_printf("backend=socket,id=t,server=on,wait=off,path=%s", sock_path);
    g_autoptr(GError) err = NULL;

    g_strlcpy(un.sun_path, sock_path, sizeof(un.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    close(fd);
    open_server(set);
    g_assert_null(open_text(set, text, &err));
    g_assert_nonnull(strstr(err->message, "Address already in use"));
    close(client_connect(sock_path));
    run_idle();
    chardev_set_free(set);
}

static int tcp_connect(unsigned port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), ==, 0);
    return fd;
}

static void test_tcp(void)
{
    g_autoptr(chardev_set) set = chardev_set_new();
    struct chardev *chr = open_text(
        set, "backend=socket,id=s,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on", NULL);
    struct chardev *client;
    struct front *f = front_attach(chr), *g;
    g_autofree char *name = chardev_describe(chr);
    g_autofree char *client_text = NULL;
    g_autofree char *connected = NULL;
    g_autofree char *client_name = NULL;
    unsigned port;
    int fd;

    g_assert_true(g_str_has_prefix(name, "disconnected:tcp:127.0.0.1:"));
    g_assert_true(g_str_has_suffix(name, ",server=on"));
    port = atoi(name + strlen("disconnected:tcp:127.0.0.1:"));
    fd = tcp_connect(port);
    send_text(fd, "tcp");
    RUN_UNTIL(f->got->len == 3);
    connected = chardev_describe(chr);
    g_assert_true(g_str_has_prefix(connected, name + strlen("disconnected:")));
    g_assert_nonnull(strstr(connected, ",server=on <-> 127.0.0.1:"));
    close(fd);
    RUN_UNTIL(!chardev_is_connected(chr));
    /* and with a chardev at both ends */
    client_text = g_strdup_printf("backend=socket,id=c,host=127.0.0.1,port=%u", port);
    client = open_text(set, client_text, NULL);
    g_assert_true(chardev_is_connected(client));
    client_name = chardev_describe(client);
    g_assert_true(g_str_has_prefix(client_name, "tcp:127.0.0.1:"));
    g = front_attach(client);
    RUN_UNTIL(chardev_is_connected(chr));
    chardev_write_queued(client, "ping", 4);
    RUN_UNTIL(f->got->len == 7);
    chardev_write_queued(chr, "pong", 4);
    RUN_UNTIL(g->got->len == 4);
    chardev_detach(chr);
    chardev_detach(client);
    front_free(f);
    front_free(g);
}

static void test_reconnect(void)
{
    g_autoptr(chardev_set) client_set = chardev_set_new();
    g_autofree char *text = g_strdup_printf("backend=socket,id=c,path=%s,reconnect=1", sock_path);
    g_autofree char *expected = g_strdup_printf("disconnected:unix:%s", sock_path);
    g_autofree char *name = NULL;
    struct chardev_set *set;
    struct chardev *client = open_text(client_set, text, NULL), *chr;
    struct front *f;

    /* nobody there yet: no error, and not connected */
    g_assert_nonnull(client);
    f = front_attach(client);
    run_idle();
    g_assert_false(chardev_is_connected(client));
    name = chardev_describe(client);
    g_assert_cmpstr(name, ==, expected);
    for (int round = 0; round < 2; round++) {
        set = chardev_set_new();
        chr = open_server(set);
        RUN_UNTIL(chardev_is_connected(client) && chardev_is_connected(chr));
        chardev_write_queued(chr, "hi", 2);
        RUN_UNTIL(f->got->len == 2u * (round + 1));
        chardev_set_free(set);
        RUN_UNTIL(!chardev_is_connected(client));
    }
    g_assert_cmpstr(f->events->str, ==, "OCOC");
    chardev_detach(client);
    front_free(f);
}

/* Freed in the middle of an attempt that would take very long. */
static void test_reconnect_cancel(void)
{
    struct chardev_set *set = chardev_set_new();
    gint64 start = g_get_monotonic_time();

    g_assert_nonnull(open_text(set, "backend=socket,id=c,host=192.0.2.1,port=9,reconnect=1", NULL));
    chardev_set_free(set);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 20 * G_TIME_SPAN_SECOND);
}

static void test_inherited_listener(void)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), client;
    struct chardev_set *set = chardev_set_new();
    g_autofree char *text = NULL;
    g_autofree char *name = NULL;
    g_autofree char *expected = g_strdup_printf("unix:%s,server=on", sock_path);
    g_autoptr(GError) err = NULL;
    struct chardev *chr;
    struct front *f;

    g_strlcpy(un.sun_path, sock_path, sizeof(un.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    /* a client may connect before we are even started */
    client = client_connect(sock_path);
    send_text(client, "early");
    text = g_strdup_printf("backend=socket,id=s,fd=%d", fd);
    g_assert_null(open_text(set, text, &err));
    g_assert_true(g_str_has_suffix(err->message, "use server=on for a listening one"));
    g_clear_error(&err);
    g_free(text);
    text = g_strdup_printf("backend=socket,id=s,fd=%d,server=on,wait=off", fd);
    chr = open_text(set, text, &err);
    g_assert_no_error(err);
    f = front_attach(chr);
    RUN_UNTIL(f->got->len == 5);
    name = chardev_describe(chr);
    g_assert_cmpstr(name, ==, expected);
    g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, !=, 0);
    close(client);
    client = client_connect(sock_path);
    RUN_UNTIL(g_str_equal(f->events->str, "OCO"));
    close(client);
    chardev_set_free(set);
    /* not ours to remove */
    g_assert_true(g_file_test(sock_path, G_FILE_TEST_EXISTS));
    unlink(sock_path);
    front_free(f);
}

static void test_inherited_connection(void)
{
    struct chardev_set *set = chardev_set_new();
    g_autofree char *text = NULL;
    struct chardev *chr;
    struct front *f;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    text = g_strdup_printf("backend=socket,id=s,fd=%d", fds[0]);
    chr = open_text(set, text, NULL);
    f = front_attach(chr);
    send_text(fds[1], "pair");
    RUN_UNTIL(f->got->len == 4);
    chardev_write_queued(chr, "back", 4);
    expect_bytes(fds[1], "back");
    close(fds[1]);
    RUN_UNTIL(!chardev_is_connected(chr));
    g_assert_cmpuint(chardev_write(chr, "x", 1), ==, 1);
    chardev_set_free(set);
    front_free(f);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    scratch = g_dir_make_tmp("ferry-chr-XXXXXX", NULL);
    sock_path = g_build_filename(scratch, "s", NULL);
    g_test_add_func("/chardev/socket/server", test_server);
    g_test_add_func("/chardev/socket/room", test_room);
    g_test_add_func("/chardev/socket/half-close", test_half_close);
    g_test_add_func("/chardev/socket/client-does-not-read", test_client_does_not_read);
    g_test_add_func("/chardev/socket/gone-client", test_gone_client);
    g_test_add_func("/chardev/socket/fd-passing", test_fd_passing);
    g_test_add_func("/chardev/socket/wait", test_wait);
    g_test_add_func("/chardev/socket/stale-path", test_stale_path);
    g_test_add_func("/chardev/socket/tcp", test_tcp);
    g_test_add_func("/chardev/socket/reconnect", test_reconnect);
    g_test_add_func("/chardev/socket/reconnect-cancel", test_reconnect_cancel);
    g_test_add_func("/chardev/socket/inherited-listener", test_inherited_listener);
    g_test_add_func("/chardev/socket/inherited-connection", test_inherited_connection);
    status = g_test_run();
    g_rmdir(scratch);
    g_free(scratch);
    g_free(sock_path);
    return status;
}
