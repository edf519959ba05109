/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's end of the return path: what its end says about a guest that was given away, and
 * peers that answer nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/channel.h"
#include "io/channel-private.h"
#include "migration/return-path.h"
#include "util/error.h"

#define WAIT_MS 60000

static struct channel *channel_of(int fd)
{
    g_autoptr(GError) error = NULL;
    struct channel *ch = channel_new_socket("test", fd, &error);

    g_assert_no_error(error);
    return ch;
}

static struct return_path *path_of(struct channel *ch)
{
    g_autoptr(GError) error = NULL;
    struct return_path *rp = return_path_new(ch, &error);

    g_assert_no_error(error);
    return rp;
}

/* A destination that closes has not taken the guest. */
static void test_closed(void)
{
    g_autoptr(GError) error = NULL;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    struct channel *ch = channel_of(fds[0]);
    struct return_path *rp = path_of(ch);

    return_path_ask(rp, RETURN_WAIT_SHUT);
    g_assert_false(return_path_refused(rp, true));
    close(fds[1]);
    g_assert_false(return_path_wait(rp, RETURN_WAIT_SHUT, WAIT_MS, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_PEER);
    g_assert_true(return_path_refused(rp, true));
    g_assert_false(return_path_refused(rp, false));
    return_path_free(rp);
    channel_unref(ch);
}

/* One that cannot be reached any more may run it. The error of the link is that of a datagram to a
 * port where nobody listens. */
static void test_lost(void)
{
    g_autoptr(GError) error = NULL;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(to);
    int other = socket(AF_INET, SOCK_DGRAM, 0), fd = socket(AF_INET, SOCK_DGRAM, 0);

    g_assert_cmpint(bind(other, (struct sockaddr *)&to, len), ==, 0);
    g_assert_cmpint(getsockname(other, (struct sockaddr *)&to, &len), ==, 0);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&to, len), ==, 0);
    close(other);
    struct channel *ch = channel_of(fd);
    struct return_path *rp = path_of(ch);

    return_path_ask(rp, RETURN_WAIT_SHUT);
    g_assert_cmpint(send(fd, "", 1, 0), ==, 1);
    g_assert_false(return_path_wait(rp, RETURN_WAIT_SHUT, WAIT_MS, &error));
    g_assert_error(error, FERRY_ERROR, FERRY_ERROR_LINK);
    g_assert_nonnull(strstr(error->message, g_strerror(ECONNREFUSED)));
    g_assert_false(return_path_refused(rp, true));
    return_path_free(rp);
    channel_unref(ch);
}

/* No number of pings without an answer does harm. */
static void test_deaf(void)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    struct channel *ch = channel_of(fds[0]);
    struct return_path *rp = path_of(ch);
    unsigned asked = 0;

    for (unsigned i = 0; i < 1000; i++) {
        asked += return_path_ask_pong(rp, 1);
    }
    g_assert_cmpuint(asked, >=, 3); /* of a greeting and a round */
    g_assert_cmpuint(asked, <, 1000);
    g_assert_true(return_path_check(rp, NULL));
    return_path_free(rp);
    channel_unref(ch);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/return-path/closed", test_closed);
    g_test_add_func("/return-path/lost", test_lost);
    g_test_add_func("/return-path/deaf", test_deaf);
    return g_test_run();
}
