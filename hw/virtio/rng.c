/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-rng: the guest puts buffers into the one queue and finds them full of random bytes
 * (VIRTIO 1.1, 5.4). They come from the host's kernel, or from a file that `rng=` names; one that
 * has nothing to give now is waited for on the I/O thread.
 *
 * max-bytes and period bound what a guest may draw: so many bytes in so many milliseconds of the
 * virtual clock. Neither travels, nor is a request in flight when the machine stops: a buffer is
 * taken from the queue only when bytes are there.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <sys/random.h>
#include <unistd.h>

#include "hw/virtio/queue.h"
#include "hw/virtio/virtio.h"
#include "system/objects.h"
#include "system/vm.h"
#include "util/error.h"

#define QUEUE_SIZE 8
#define PORTION    4096u /* at most so many bytes are drawn for one request */

struct virtio_rng {
    struct virtio_device vdev;
    char *rng;          /* id of the object; NULL: the kernel */
    uint64_t max_bytes; /* in one period */
    uint32_t period_ms;

    struct virtqueue *vq;
    int fd; /* -1: getrandom() */
    GSource *readable;
    uint64_t left;          /* in this period */
    struct vm_timer *timer; /* its end */
    bool failed;            /* the file has ended; was said */
};

static struct virtio_rng *rng_of(struct virtio_device *v)
{
    return (struct virtio_rng *)v;
}

/* The file has something again, or the machine has stopped waiting for it. */
static gboolean readable(gint fd G_GNUC_UNUSED, GIOCondition what G_GNUC_UNUSED, gpointer opaque)
{
    struct virtio_rng *r = opaque;
    struct vm *vm = r->vdev.dev.vm;

    vm_lock(vm);
    g_clear_pointer(&r->readable, g_source_unref);
    virtqueue_kick(r->vq);
    vm_unlock(vm);
    return G_SOURCE_REMOVE;
}

static void wait_readable(struct virtio_rng *r)
{
    if (!r->readable) {
        r->readable = g_unix_fd_source_new(r->fd, G_IO_IN);
        g_source_set_can_recurse(r->readable, TRUE);
        g_source_set_callback(r->readable, G_SOURCE_FUNC(readable), r, NULL);
        g_source_attach(r->readable, virtio_context(r->vdev.dev.vm));
    }
}

/* Bytes of buf that were filled; 0: not now. */
static size_t draw(struct virtio_rng *r, uint8_t *buf, size_t len)
{
    ssize_t n;

    do {
        n = r->fd < 0 ? getrandom(buf, len, 0) : read(r->fd, buf, len);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        return (size_t)n;
    }
    if (n < 0 && errno == EAGAIN) {
        wait_readable(r);
    } else if (!r->failed) {
        r->failed = true;
        report_warning("%s: The source of random numbers '%s' has no more: %s", r->vdev.dev.path,
                       r->rng, n < 0 ? g_strerror(errno) : "it has ended");
    }
    return 0;
}

static void period_over(void *opaque)
{
    struct virtio_rng *r = opaque;

    r->left = r->max_bytes;
    virtqueue_kick(r->vq);
}

static void handle_requests(struct virtio_device *v, struct virtqueue *vq)
{
    struct virtio_rng *r = rng_of(v);
    struct virtqueue_element *elem;
    uint8_t bytes[PORTION];
    bool used = false;

    while (r->left && (elem = virtqueue_pop(vq, sizeof(*elem)))) {
        size_t want = (size_t)MIN(MIN(elem->in_bytes, r->left), PORTION);
        size_t n = want ? draw(r, bytes, want) : 0;

        if (want && !n) {
            virtqueue_unpop(vq, elem);
            g_free(elem);
            break;
        }
        iov_write(elem->in, elem->in_count, 0, bytes, n);
        virtqueue_push(vq, elem, (uint32_t)n);
        used = true;
        r->left -= n;
        if (r->max_bytes != INT64_MAX && vm_timer_expire_ns(r->timer) < 0) {
            vm_timer_mod(r->timer, vm_clock_ns(v->dev.vm) + (int64_t)r->period_ms * 1000000);
        }
        g_free(elem);
    }
    if (used) {
        virtqueue_notify(vq);
    }
}

static bool rng_realize(struct virtio_device *v, GError **err)
{
    struct virtio_rng *r = rng_of(v);
    g_autofree char *filename = NULL;

    r->fd = -1;
    if (!r->period_ms) {
        error_set(err, FERRY_ERROR_USER, "'period' parameter expects a positive integer");
        return false;
    }
    if (r->max_bytes > INT64_MAX) {
        error_set(err, FERRY_ERROR_USER,
                  "'max-bytes' parameter must be non-negative, and less than 2^63");
        return false;
    }
    if (r->rng && !object_use_rng(v->dev.vm->objects, r->rng, &filename, err)) {
        return false;
    }
    if (filename) {
        r->fd = open(filename, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (r->fd < 0) {
            error_set_errno(err, FERRY_ERROR_HOST, errno, "Could not open '%s'", filename);
            object_release(v->dev.vm->objects, r->rng);
            return false;
        }
    }
    r->left = r->max_bytes;
    r->timer = vm_timer_new(v->dev.vm, period_over, r);
    r->vq = virtio_add_queue(v, QUEUE_SIZE, handle_requests);
    return true;
}

static void rng_unrealize(struct virtio_device *v)
{
    struct virtio_rng *r = rng_of(v);

    if (r->readable) {
        g_source_destroy(r->readable);
        g_source_unref(r->readable);
    }
    if (r->fd >= 0) {
        close(r->fd);
    }
    vm_timer_free(r->timer);
    if (r->rng) {
        object_release(v->dev.vm->objects, r->rng);
    }
}

static const struct property rng_properties[] = {
    { .name = "rng",
      .type = PROPERTY_STRING,
      .offset = offsetof(struct virtio_rng, rng),
      .help = "id of the rng object; the host's kernel unless given" },
    { .name = "max-bytes",
      .type = PROPERTY_UINT64,
      .offset = offsetof(struct virtio_rng, max_bytes),
      .def = INT64_MAX,
      .help = "bytes that the guest may draw in a period" },
    { .name = "period",
      .type = PROPERTY_UINT32,
      .offset = offsetof(struct virtio_rng, period_ms),
      .def = 1 << 16,
      .help = "the period in milliseconds" },
    VIRTIO_PROPERTIES,
    {},
};

static const struct virtio_class rng_class = {
    .device = { VIRTIO_DEVICE_LIFE, .name = "virtio-rng-device",
                .description = "source of random numbers", .size = sizeof(struct virtio_rng),
                .properties = rng_properties },
    .device_id = 4,
    .wire_name = "virtio-rng",
    .version = 1,
    .realize = rng_realize,
    .unrealize = rng_unrealize,
};
VIRTIO_CLASS(rng_class);
