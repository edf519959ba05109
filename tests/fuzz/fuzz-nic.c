/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Networks behind the virtio-net devices of a fuzz target: user networking (u0, u1; restricted, so
 * that nothing leaves it) and taps (t0, t1; two queues) that are sockets of ours: what the kernel
 * does to a tap is done by functions that take the place of ioctl(), read(), write() and writev()
 * in the program. Frames come, are not taken, and the tap vanishes when the program says so.
 */
#include "fuzz-driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hw/net/virtio-net.h"
#include "hw/virtio/virtio-internal.h"
#include "net/net-private.h"
#include "net/net.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"

#define TAPS   2u
#define QUEUES 2u
#define NICS   4u

static struct tap_end {
    int device, peer; /* descriptors; 0: none yet */
} ends[TAPS][QUEUES];
static bool gone[TAPS], refuses[TAPS]; /* by the program's wish */

int __real_ioctl(int fd, unsigned long what, ...);
ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __real_writev(int fd, const struct iovec *iov, int count);
int __wrap_ioctl(int fd, unsigned long what, ...);
ssize_t __wrap_read(int fd, void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);

/* Of which tap a descriptor is; TAPS: none. */
static unsigned tap_of(int fd)
{
    for (unsigned i = 0; i < TAPS * QUEUES; i++) {
        if (fd > 0 && ends[i / QUEUES][i % QUEUES].device == fd) {
            return i / QUEUES;
        }
    }
    return TAPS;
}

static int fail_with(int error)
{
    errno = error;
    return -1;
}

int __wrap_ioctl(int fd, unsigned long what, ...)
{
    unsigned tap = tap_of(fd);
    struct ifreq *ifr;
    va_list args;
    void *arg;

    va_start(args, what);
    arg = va_arg(args, void *);
    va_end(args);
    if (tap == TAPS) {
        return __real_ioctl(fd, what, arg);
    }
    if (gone[tap] || (refuses[tap] && what == TUNSETQUEUE)) {
        return fail_with(EBADFD);
    }
    if (what == TUNGETIFF) {
        ifr = arg;
        snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "fuzz%u", tap);
        ifr->ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
    }
    return 0;
}

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
    unsigned tap = tap_of(fd);

    return tap < TAPS && gone[tap] ? fail_with(EBADFD) : __real_read(fd, buf, len);
}

ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
    unsigned tap = tap_of(fd);

    return tap < TAPS && gone[tap] ? fail_with(EBADFD) : __real_write(fd, buf, len);
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count)
{
    unsigned tap = tap_of(fd);

    return tap < TAPS && gone[tap] ? fail_with(EBADFD) : __real_writev(fd, iov, count);
}

static void open_one(struct fuzz_driver *d, const char *text)
{
    GError *err = NULL;
    Netdev *options = net_parse_option(text, &err);

    fuzz_must(options, &err);
    fuzz_must(net_open(d->m->vm->net, options, &err), &err);
    qapi_netdev_free(options);
}

static void nics_open(struct fuzz_driver *d)
{
    for (unsigned i = 0; i < TAPS; i++) {
        g_autofree char *user = g_strdup_printf("user,id=u%u,restrict=on,hostname=fuzz", i);
        g_autofree char *tap = NULL;

        for (unsigned q = 0; q < QUEUES; q++) {
            int fds[2], room = 16 << 10;

            /* taken over only if it could have been there from the beginning */
            g_assert_true(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fds) == 0);
            g_assert_true(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
            fcntl(fds[0], F_SETFD, FD_CLOEXEC);
            ends[i][q] = (struct tap_end){ .device = fds[1], .peer = fds[0] };
        }
        tap = g_strdup_printf("tap,id=t%u,fds=%d:%d", i, ends[i][0].device, ends[i][1].device);
        open_one(d, user);
        open_one(d, tap);
    }
}

static void read_all(unsigned tap)
{
    char frame[4096];

    for (unsigned q = 0; q < QUEUES; q++) {
        while (recv(ends[tap][q].peer, frame, sizeof(frame), MSG_DONTWAIT) >= 0) {
        }
    }
}

static void set_link(struct fuzz_driver *d, const char *id, bool up)
{
    struct qmp_set_link_arg arg = { .name = (char *)(uintptr_t)id, .up = up };

    qmp_set_link(d->m->vm, &arg, NULL);
}

static void nics_reset(struct fuzz_driver *d)
{
    static const char *const names[NICS] = { "t0", "u0", "t1", "u1" };

    for (unsigned i = 0; i < TAPS; i++) {
        g_autofree char *id = g_strdup_printf("t%u", i);

        gone[i] = refuses[i] = false;
        net_find(d->m->vm->net, id)->broken = false;
        read_all(i);
    }
    for (unsigned i = 0; i < NICS; i++) {
        set_link(d, names[i], false);
        set_link(d, names[i], true); /* which has taps read again */
    }
    fuzz_driver_rest(d); /* frames of the last input find nobody */
}

/* u8 queue, a length, u8 n, n bytes (vnet header first), the others are zero. */
static void frame_comes(struct fuzz_driver *d, unsigned tap, struct fuzz_reader *r)
{
    unsigned queue = fuzz_next8(r) % QUEUES, len = fuzz_next_length(r), n = fuzz_next8(r);
    g_autofree uint8_t *frame = g_malloc0(len + 1);

    for (unsigned i = 0; i < n; i++) {
        uint8_t b = fuzz_next8(r);

        if (i < len) {
            frame[i] = b;
        }
    }
    send(ends[tap][queue].peer, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    fuzz_driver_rest(d);
}

/* What migration and clients do to a network device. */
static void announce(struct netdev *nd, const struct net_client *client, void *client_opaque,
                     const char *name G_GNUC_UNUSED, void *opaque G_GNUC_UNUSED)
{
    static const uint8_t rarp[60];

    client->announce(client_opaque);
    netdev_send_raw(nd, rarp, sizeof(rarp));
}

static void nics_extra(struct fuzz_driver *d, unsigned device, struct fuzz_reader *r)
{
    struct qmp_query_rx_filter_arg all = { 0 };
    unsigned what = fuzz_next8(r), tap = device & 1;
    g_autofree char *id = g_strdup_printf("%c%u", what & 0x80 ? 'u' : 't', tap);
    GPtrArray *filters;

    switch (what % 8) {
    case 0:
        frame_comes(d, tap, r);
        break;
    case 1:
        read_all(tap);
        fuzz_driver_rest(d);
        break;
    case 2:
        set_link(d, id, false);
        break;
    case 3:
        set_link(d, id, true);
        fuzz_driver_rest(d);
        break;
    case 4:
        net_foreach_client(d->m->vm->net, announce, NULL);
        break;
    case 5:
        filters = qmp_query_rx_filter(d->m->vm, &all, NULL);
        g_assert_true(filters->len);
        g_ptr_array_unref(filters);
        break;
    case 6:
        refuses[tap] = !refuses[tap];
        break;
    default:
        gone[tap] = what & 0x40;
    }
}

/* A frame is in its ring or gone: nothing is in use at rest. */
static void nics_check(struct fuzz_driver *d)
{
    struct virtio_device *v;

    for (unsigned i = 0; (v = fuzz_find(d->m->vm, "virtio-net-device", i)); i++) {
        if (!v->broken && fuzz_in_use(v)) {
            g_error("Network device %u has %u requests in use", i, fuzz_in_use(v));
        }
    }
}

const struct fuzz_kind fuzz_nic = {
    .open = nics_open,
    .reset = nics_reset,
    .extra = nics_extra,
    .check = nics_check,
};
