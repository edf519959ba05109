/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The accelerator under which nothing runs: qtest drives the devices instead of a guest. vCPUs
 * exist (their state can be saved and loaded) but have no threads; interrupt lines are remembered,
 * and told to whoever asked (qtest's irq_intercept).
 */
#include <string.h>

#include "accel/accel.h"
#include "accel/qtest.h"
#include "system/vm-init.h"
#include "system/vm.h"

#define QTEST_LINES 24

struct qtest_accel {
    struct accel accel;
    bool lines[QTEST_LINES];
    uint64_t msi_count, msi_address;
    uint32_t msi_data;
    void (*irq_fn)(void *opaque, unsigned gsi, bool level);
    void *irq_opaque;
};

static const struct accel_ops qtest_ops;

static struct qtest_accel *qtest_of(struct vm *vm)
{
    return (struct qtest_accel *)vm->accel;
}

bool qtest_enabled(const struct vm *vm)
{
    return vm->accel && vm->accel->ops == &qtest_ops;
}

static bool qtest_start(struct vm *vm, GError **err)
{
    (void)err;
    vm_clock_use_manual(vm);
    return true;
}

static void qtest_nothing(struct vm *vm)
{
    (void)vm;
}

static bool qtest_pause(struct vm *vm, unsigned timeout_ms, GError **err)
{
    (void)vm;
    (void)timeout_ms;
    (void)err;
    return true;
}

static void qtest_irq_line(struct vm *vm, unsigned gsi, bool level)
{
    struct qtest_accel *q = qtest_of(vm);

    if (gsi < QTEST_LINES && q->lines[gsi] != level) {
        q->lines[gsi] = level;
        if (q->irq_fn) {
            q->irq_fn(q->irq_opaque, gsi, level);
        }
    }
}

bool qtest_irq_level(struct vm *vm, unsigned gsi)
{
    return gsi < QTEST_LINES && qtest_of(vm)->lines[gsi];
}

void qtest_irq_watch(struct vm *vm, void (*fn)(void *opaque, unsigned gsi, bool level),
                     void *opaque)
{
    qtest_of(vm)->irq_fn = fn;
    qtest_of(vm)->irq_opaque = opaque;
}

static void qtest_msi(struct vm *vm, uint64_t address, uint32_t data)
{
    struct qtest_accel *q = qtest_of(vm);

    q->msi_count++;
    q->msi_address = address;
    q->msi_data = data;
}

uint64_t qtest_last_msi(struct vm *vm, uint64_t *address, uint32_t *data)
{
    struct qtest_accel *q = qtest_of(vm);

    *address = q->msi_address;
    *data = q->msi_data;
    return q->msi_count;
}

/* No guest, no guest writes: what devices and the test write is marked in the blocks themselves. */
static bool qtest_dirty_start(struct vm *vm, GError **err)
{
    (void)vm;
    (void)err;
    return true;
}

static bool qtest_dirty_sync(struct vm *vm, struct ram_block *block, struct dirty_set *set,
                             GError **err)
{
    (void)vm;
    (void)block;
    (void)set;
    (void)err;
    return true;
}

static void qtest_dirty_clear(struct vm *vm, struct ram_block *block, uint64_t first_page,
                              uint64_t pages)
{
    (void)vm;
    (void)block;
    (void)first_page;
    (void)pages;
}

static bool qtest_post_load(struct vm *vm, GError **err)
{
    (void)vm;
    (void)err;
    return true;
}

static void qtest_free(struct accel *a)
{
    g_free(a);
}

static const struct accel_ops qtest_ops = {
    .name = "qtest",
    .start = qtest_start,
    .stop = qtest_nothing,
    .resume = qtest_nothing,
    .pause = qtest_pause,
    .reset = qtest_nothing,
    .irq_line = qtest_irq_line,
    .msi = qtest_msi,
    .dirty_start = qtest_dirty_start,
    .dirty_stop = qtest_nothing,
    .dirty_sync = qtest_dirty_sync,
    .dirty_clear = qtest_dirty_clear,
    .post_load = qtest_post_load,
    .free = qtest_free,
};

struct accel *accel_qtest_new(struct vm *vm, GError **err)
{
    struct qtest_accel *q = g_new0(struct qtest_accel, 1);

    (void)vm;
    (void)err;
    q->accel.ops = &qtest_ops;
    return &q->accel;
}
