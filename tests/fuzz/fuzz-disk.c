/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks behind the virtio-blk devices of a fuzz target: small files in memory, one for each device,
 * d0, d1 and so on: what differs is in `disks`. Requests fail when the program says so, files
 * become shorter under the machine, disks are handed over and taken back.
 */
#include "fuzz-driver.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "hw/block/virtio-blk.h"
#include "hw/virtio/virtio-internal.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

#define BYTES (128 << 10)

static const char *const disks[] = {
    "'werror': 'stop', 'rerror': 'stop', 'discard': 'unmap'",
    "'readonly': 'on', 'aio': 'threads'",
    "'werror': 'enospc', 'cache': 'writethrough'",
    "'aio': 'threads', 'discard': 'unmap', 'cache': 'none', 'rerror': 'ignore', 'werror': 'ignore'",
};
#define DISKS G_N_ELEMENTS(disks)

static char *fault_path;
static int files[DISKS];

static void disks_open(struct fuzz_driver *d)
{
    struct vm *vm = d->m->vm;

    fault_path = g_strdup_printf("%s/ferry-fuzz-fault-%d", g_get_tmp_dir(), getpid());
    g_setenv("FERRY_FAIL_BLOCK", fault_path, TRUE);
    vm->blocks = block_set_new(vm, virtio_context, true);
    for (unsigned i = 0; i < DISKS; i++) {
        g_autofree char *text = NULL;
        g_autoptr(json_t) options = NULL;
        GError *err = NULL;

        files[i] = memfd_create("disk", MFD_CLOEXEC);
        g_assert_true(files[i] >= 0 && ftruncate(files[i], BYTES) == 0);
        text = g_strdup_printf("{'if': 'none', 'format': 'raw', 'id': 'd%u', 'locking': 'off', "
                               "'file': '/proc/self/fd/%d', %s}",
                               i, files[i], disks[i]);
        options = json_loads(g_strdelimit(text, "'", '"'), 0, NULL);
        fuzz_must(block_open_drive(vm->blocks, options, &err), &err);
    }
}

static void give_size(struct fuzz_driver *d, unsigned disk, int64_t bytes)
{
    g_autofree char *id = g_strdup_printf("d%u", disk);
    struct qmp_block_resize_arg arg = { .device = id, .size = bytes };
    g_autoptr(GError) err = NULL;

    qmp_block_resize(d->m->vm, &arg, &err); /* refused where it is read-only */
}

static void disks_reset(struct fuzz_driver *d)
{
    GError *err = NULL;

    g_unlink(fault_path);
    fuzz_must(block_activate_all(d->m->vm, &err), &err);
    for (unsigned i = 0; i < DISKS; i++) {
        g_assert_true(ftruncate(files[i], 0) == 0 && ftruncate(files[i], BYTES) == 0);
        give_size(d, i, BYTES);
    }
}

static void fail_some(unsigned kinds)
{
    static const char *const names[] = { "read ", "write ", "flush ", "discard ", "zeroes " };
    g_autoptr(GString) text = g_string_new("");

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_string_append(text, kinds >> i & 1 ? names[i] : "");
    }
    g_unlink(fault_path);
    if (text->len) {
        g_file_set_contents(fault_path, text->str, (gssize)text->len, NULL);
    }
}

static void hand_over(struct fuzz_driver *d, bool take_back)
{
    struct vm *vm = d->m->vm;
    g_autoptr(GError) err = NULL;

    vm_stop(vm, RUN_STATE_PAUSED, NULL);
    if (block_inactivate_all(vm, &err)) {
        g_assert_false(block_is_active(vm));
    }
    if (take_back) {
        g_clear_error(&err);
        block_activate_all(vm, &err);
    }
}

static void ask(struct fuzz_driver *d)
{
    g_autoptr(GPtrArray) block = qmp_query_block(d->m->vm, NULL);
    struct qmp_query_blockstats_arg arg = { 0 };
    g_autoptr(GPtrArray) stats = qmp_query_blockstats(d->m->vm, &arg, NULL);

    g_assert_true(block && stats && block->len == DISKS);
}

static void disks_extra(struct fuzz_driver *d, unsigned device, struct fuzz_reader *r)
{
    unsigned what = fuzz_next8(r), operand = fuzz_next8(r);
    g_autoptr(GError) err = NULL;

    switch (what % 8) {
    case 0:
        fail_some(operand);
        break;
    case 1:
        fuzz_must(block_drain_all(d->m->vm, &err), &err);
        fuzz_driver_rest(d);
        break;
    case 2:
        hand_over(d, true);
        vm_start(d->m->vm);
        break;
    case 3:
        hand_over(d, operand & 1);
        vm_start(d->m->vm);
        break;
    case 4:
        give_size(d, device % DISKS, operand * 2048);
        break;
    case 5: /* behind the machine's back */
        g_assert_true(ftruncate(files[device % DISKS], operand * 512) == 0);
        break;
    case 6:
        ask(d);
        break;
    default:
        block_flush_ahead(d->m->vm);
    }
}

/* Nothing is in flight; so what a queue has in use is what waits for another try. */
static void disks_check(struct fuzz_driver *d)
{
    struct virtio_device *v;
    GError *err = NULL;

    fuzz_must(block_drain_all(d->m->vm, &err), &err);
    fuzz_driver_rest(d);
    fuzz_must(block_drain_all(d->m->vm, &err), &err);
    for (unsigned i = 0; (v = fuzz_find(d->m->vm, "virtio-blk-device", i)); i++) {
        struct virtio_blk *b = (struct virtio_blk *)v;
        unsigned waiting = 0;

        for (struct blk_request *q = b->waiting.first; q; q = q->next) {
            waiting += !virtqueue_element_is_stale(&q->elem);
        }
        if (!v->broken && fuzz_in_use(v) != waiting) {
            g_error("Disk %u has %u requests in use and %u that wait", i, fuzz_in_use(v), waiting);
        }
    }
}

const struct fuzz_kind fuzz_disk = {
    .open = disks_open,
    .reset = disks_reset,
    .extra = disks_extra,
    .check = disks_check,
};
