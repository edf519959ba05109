/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tap interface of the host as back end: frames go by readv() and writev() between the kernel and
 * the device, one descriptor per pair of queues, each watched on the I/O thread.
 *
 * Whether to go on reading is asked of the device first, so a frame is held here only when the
 * device had room and yet not enough for this one. What the kernel does not take (the send buffer
 * is full) stays with the device, which hears sent().
 *
 * An interface that vanishes (somebody deletes it) fails every read and write from then on: the
 * back end is broken, its link goes down, once and with one line in the log; the guest and a
 * migration go on.
 */
#include "net-tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hw/virtio/virtio.h"
#include "util/error.h"

#define BUFFER_SIZE (NET_FRAME_MAX + 12) /* with the longest vnet header */
#define BATCH       64                   /* frames before the lock is given to others */

static void tap_on_readable(void *opaque);

static void fail(struct tap *t, const char *what, int errnum)
{
    if (!t->nd.broken) {
        report_warning("Tap '%s' of '%s' does not work any more (%s: %s); its link is down",
                       t->ifname, t->nd.id, what, g_strerror(errnum));
        for (unsigned i = 0; i < t->nd.queues; i++) {
            if (t->queues[i].read) {
                net_watch_set(t->queues[i].read, 0);
                net_watch_set(t->queues[i].write, 0);
            }
        }
        netdev_set_broken(&t->nd);
    }
}

static void watch_read(struct tap_queue *q, bool on)
{
    net_watch_set(q->read, on && q->active && !q->tap->nd.broken ? G_IO_IN : 0);
}

/* Hands over what is held. False: still no room. */
static bool give(struct tap_queue *q)
{
    struct iovec iov = { q->buffer, q->held };
    size_t held = q->held;

    if (!held) {
        return true;
    }
    /* the lock may be dropped in here */
    if (!netdev_receive(&q->tap->nd, q->index, &iov, 1)) {
        return false;
    }
    if (q->held == held) {
        q->held = 0;
    }
    return true;
}

static void tap_on_readable(void *opaque)
{
    struct tap_queue *q = opaque;
    struct tap *t = q->tap;

    if (q->busy) {
        return;
    }
    netdev_ref(&t->nd);
    q->busy = true;
    for (unsigned i = 0; i < BATCH && !t->nd.closed && q->active; i++) {
        ssize_t n;

        if (!give(q) || t->nd.closed || !netdev_can_receive(&t->nd, q->index)) {
            if (!t->nd.closed) {
                watch_read(q, false);
            }
            break;
        }
        n = read(q->fd, q->buffer, BUFFER_SIZE);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EAGAIN) {
            fail(t, "read", errno);
        }
        if (n <= 0) {
            break;
        }
        q->held = (size_t)n;
        if (!give(q)) {
            if (!t->nd.closed) {
                watch_read(q, false);
            }
            break;
        }
    }
    q->busy = false;
    if (t->nd.closed) {
        g_clear_pointer(&q->buffer, g_free);
    }
    netdev_unref(&t->nd);
}

static void tap_on_writable(void *opaque)
{
    struct tap_queue *q = opaque;

    net_watch_set(q->write, 0);
    netdev_sent(&q->tap->nd, q->index);
}

/* False: the kernel has no room now. */
static bool put(struct tap *t, struct tap_queue *q, const struct iovec *iov, unsigned count)
{
    ssize_t n;

    do {
        /* one piece, the usual case, costs less without a vector: for the kernel to look at */
        n = count == 1 ? write(q->fd, iov->iov_base, iov->iov_len) : writev(q->fd, iov, (int)count);
    } while (n < 0 && errno == EINTR);
    /* EIO: the interface is down. EINVAL: what the guest put into the header. Both lose the frame
     */
    if (n < 0 && (errno == EBADFD || errno == EBADF || errno == ENODEV)) {
        fail(t, "write", errno);
        return true;
    }
    return n >= 0 || errno != EAGAIN;
}

static bool tap_send(struct netdev *nd, unsigned queue, const struct iovec *iov, unsigned count)
{
    struct tap *t = (struct tap *)nd;
    struct tap_queue *q = &t->queues[queue < nd->queues ? queue : 0];

    if (count > IOV_MAX) {
        return true; /* nothing sane looks like this: lost */
    }
    if (!put(t, q, iov, count)) {
        net_watch_set(q->write, G_IO_OUT);
        return false;
    }
    return true;
}

static void tap_send_raw(struct netdev *nd, const void *frame, size_t len)
{
    static const uint8_t none[12];
    struct tap *t = (struct tap *)nd;
    struct iovec iov[2] = { { (void *)(uintptr_t)none, t->vnet_hdr_len },
                            { (void *)(uintptr_t)frame, len } };

    (void)put(t, &t->queues[0], iov, 2);
}

static void tap_flush(struct netdev *nd, unsigned queue)
{
    struct tap *t = (struct tap *)nd;

    if (queue < nd->queues && t->queues[queue].read) {
        /* what is held is seen only if the descriptor is readable, or the watch is made to fire */
        watch_read(&t->queues[queue], true);
        if (t->queues[queue].held) {
            net_watch_fire(t->queues[queue].read);
        }
    }
}

static bool tap_set_queues(struct netdev *nd, unsigned active, GError **err)
{
    struct tap *t = (struct tap *)nd;

    for (unsigned i = 0; i < nd->queues; i++) {
        struct tap_queue *q = &t->queues[i];
        bool on = i < active;

        if (q->active == on) {
            continue;
        }
        /* a queue that is not used is detached, else the kernel spreads flows over it */
        if (nd->queues > 1 && !nd->broken) {
            struct ifreq ifr = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

            if (ioctl(q->fd, TUNSETQUEUE, &ifr) < 0) {
                error_set_errno(err, FERRY_ERROR_HOST, errno,
                                "Cannot switch a queue of tap '%s' %s", t->ifname,
                                on ? "on" : "off");
                return false;
            }
        }
        q->active = on;
        q->held = on ? q->held : 0;
        watch_read(q, on);
    }
    return true;
}

static void tap_set_vnet_hdr_len(struct netdev *nd, unsigned len)
{
    struct tap *t = (struct tap *)nd;
    int n = (int)len;

    if (!nd->has_vnet_hdr || t->vnet_hdr_len == len) {
        return;
    }
    for (unsigned i = 0; i < nd->queues; i++) {
        /* what is held has the old header: lost, as all that arrives at such a moment */
        t->queues[i].held = 0;
        if (ioctl(t->queues[i].fd, TUNSETVNETHDRSZ, &n) < 0) {
            fail(t, "TUNSETVNETHDRSZ", errno);
            return;
        }
    }
    t->vnet_hdr_len = len;
}

static void tap_set_offload(struct netdev *nd, bool csum, bool tso4, bool tso6, bool ecn, bool ufo)
{
    struct tap *t = (struct tap *)nd;
    unsigned flags = 0;

    if (!nd->has_vnet_hdr) {
        return;
    }
    if (csum) {
        flags = TUN_F_CSUM | (tso4 ? TUN_F_TSO4 : 0) | (tso6 ? TUN_F_TSO6 : 0) |
                (ecn && (tso4 || tso6) ? TUN_F_TSO_ECN : 0) | (ufo ? TUN_F_UFO : 0);
    }
    /* a property of the interface: the first queue will do */
    if (ioctl(t->queues[0].fd, TUNSETOFFLOAD, flags) < 0 &&
        ioctl(t->queues[0].fd, TUNSETOFFLOAD, flags & ~TUN_F_UFO) < 0) {
        fail(t, "TUNSETOFFLOAD", errno);
    }
}

static void tap_describe(struct netdev *nd, GString *out)
{
    struct tap *t = (struct tap *)nd;

    g_string_append_printf(out, "ifname=%s,queues=%u,vnet_hdr=%s", t->ifname, nd->queues,
                           nd->has_vnet_hdr ? "on" : "off");
}

static void tap_close(struct netdev *nd)
{
    struct tap *t = (struct tap *)nd;

    for (unsigned i = 0; i < nd->queues; i++) {
        struct tap_queue *q = &t->queues[i];

        net_watch_free(g_steal_pointer(&q->read));
        net_watch_free(g_steal_pointer(&q->write));
        if (!q->busy) {
            g_clear_pointer(&q->buffer, g_free);
        }
    }
    if (t->down_script) {
        g_autoptr(GError) err = NULL;

        if (!tap_run_script(t->down_script, t->ifname, &err)) {
            report_warning("%s", err->message);
        }
    }
    for (unsigned i = 0; i < nd->queues; i++) {
        if (t->queues[i].fd >= 0) {
            close(t->queues[i].fd);
        }
    }
    g_clear_pointer(&t->down_script, g_free);
}

const struct netdev_ops net_tap_ops = {
    .kind = "tap",
    .send = tap_send,
    .send_raw = tap_send_raw,
    .flush = tap_flush,
    .describe = tap_describe,
    .set_queues = tap_set_queues,
    .set_vnet_hdr_len = tap_set_vnet_hdr_len,
    .set_offload = tap_set_offload,
    .close = tap_close,
};

void tap_start(struct tap *t)
{
    for (unsigned i = 0; i < t->nd.queues; i++) {
        struct tap_queue *q = &t->queues[i];

        q->buffer = g_malloc(BUFFER_SIZE);
        q->active = true;
        q->read = net_watch_new(t->nd.vm, q->fd, G_IO_IN, tap_on_readable, q);
        q->write = net_watch_new(t->nd.vm, q->fd, 0, tap_on_writable, q);
    }
}
