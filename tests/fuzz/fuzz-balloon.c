/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients and a migration do to the balloon of a fuzz target. On a machine with nothing but it
 * on legacy registers the host's pages are larger than the guest's.
 */
#include "fuzz-driver.h"

#include "hw/device.h"
#include "hw/virtio/balloon-internal.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "system/vm-init.h"

#define HOST_PAGE 0x10000

static struct virtio_balloon *balloon(struct fuzz_driver *d)
{
    return balloon_of(fuzz_find(d->m->vm, BALLOON_TYPE, 0));
}

static void set_interval(struct virtio_balloon *b, unsigned seconds)
{
    const struct live_property *p = b->vdev.dev.class->live;
    g_autoptr(json_t) value = json_integer(seconds);
    g_autoptr(GError) err = NULL;

    while (!p->set) {
        p++;
    }
    g_assert_true(p->set(&b->vdev.dev, value, &err));
}

static void ask(struct fuzz_driver *d)
{
    g_autofree BalloonInfo *info = qmp_query_balloon(d->m->vm, NULL);

    g_assert_true(info->actual >= 0 && (uint64_t)info->actual <= FUZZ_RAM);
    for (const struct live_property *p = balloon(d)->vdev.dev.class->live; p->name; p++) {
        json_decref(p->get(&balloon(d)->vdev.dev));
    }
}

static void balloon_plug(struct fuzz_driver *d)
{
    if (d->legacy == d->count) {
        ram_block_find(d->m->vm->memory, FUZZ_RAM_ID)->page_size = HOST_PAGE;
    }
}

static void balloon_reset(struct fuzz_driver *d)
{
    struct virtio_balloon *b = balloon(d);

    b->hinter.stop(&b->hinter);
    b->num_pages = b->actual = 0;
    b->hint_id = BALLOON_HINT_ID_MIN;
    b->hint_status = BALLOON_HINT_STOP;
    set_interval(b, 0);
}

static void balloon_extra(struct fuzz_driver *d, unsigned device G_GNUC_UNUSED,
                          struct fuzz_reader *r)
{
    struct virtio_balloon *b = balloon(d);
    unsigned what = fuzz_next8(r), operand = fuzz_next8(r);
    struct qmp_balloon_arg arg = { .value = (int64_t)operand << 16 };
    g_autoptr(GError) err = NULL;

    switch (what % 6) {
    case 0:
        b->hinter.start(&b->hinter);
        break;
    case 1:
        b->hinter.stop(&b->hinter);
        break;
    case 2:
        qmp_balloon(d->m->vm, &arg, &err);
        break;
    case 3:
        set_interval(b, operand);
        break;
    case 4:
        ask(d);
        break;
    default:
        vm_main_loop_once(d->m->vm, 0);
    }
}

static void balloon_check(struct fuzz_driver *d)
{
    struct virtio_balloon *b = balloon(d);
    unsigned kept = b->stats_elem && !virtqueue_element_is_stale(b->stats_elem);

    if (!b->vdev.broken && fuzz_in_use(&b->vdev) != kept) {
        g_error("The balloon has %u requests in use, of which it knows %u", fuzz_in_use(&b->vdev),
                kept);
    }
}

const struct fuzz_kind fuzz_balloon = {
    .plug = balloon_plug,
    .reset = balloon_reset,
    .extra = balloon_extra,
    .check = balloon_check,
};
