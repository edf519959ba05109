/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What runs vCPUs: KVM, or qtest (nothing runs, the test drives devices). One table of operations;
 * the machine and the migration code call through it and do not know which it is.
 */
#ifndef ACCEL_ACCEL_H
#define ACCEL_ACCEL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "system/memory.h"

struct dirty_set;
struct vm;
struct vcpu;
struct accel;

struct accel_ops {
    const char *name;

    /* The machine is built: all RAM maps and the vCPU count are known. Creates slots and vCPUs
     * (threads wait stopped). */
    bool (*start)(struct vm *vm, GError **err);
    void (*stop)(struct vm *vm); /* ends the vCPU threads, for exit */

    /*
     * Lets vCPUs run / makes them stop. pause returns when none executes guest code; machine lock
     * held, may be dropped inside. Neither touches the run state. A vCPU may be held up in the
     * host's kernel (a page of the guest that the host cannot bring); after timeout_ms, 0 for
     * never, pause gives up, all of them run again, and *err (HOST) names one that did not stop.
     */
    void (*resume)(struct vm *vm);
    /*
     * After resume: false and *err (HOST) when it is certain that the guest has not executed one
     * instruction and will not, since no vCPU could enter it. Waits for that to show, timeout_us at
     * most once all have tried; when nothing has shown by then, the guest may be running. No lock
     * held. NULL: nothing runs.
     */
    bool (*entered)(struct vm *vm, unsigned timeout_us, GError **err);
    bool (*pause)(struct vm *vm, unsigned timeout_ms, GError **err);
    /* Makes every vCPU look up from the guest once, so that it sees what has changed for it. Any
     * thread, no lock needed. NULL: no vCPUs run. */
    void (*kick)(struct vm *vm);
    /* Kicks, and waits until every vCPU that was in the guest has come out of it once; it goes on
     * by itself. Any thread, no lock. NULL: no vCPUs run. */
    bool (*flush)(struct vm *vm, GError **err);
    void (*reset)(struct vm *vm); /* vCPUs and in-kernel devices to power-on state; stopped */

    /*
     * Whether a vCPU that has nothing to do may keep its host CPU for a moment. A guest whose
     * memory is still on its way waits for pages so often that who fetches them would wait for that
     * CPU. Any thread. NULL: no vCPUs run.
     */
    void (*idle_spin)(struct vm *vm, bool may);

    void (*irq_line)(struct vm *vm, unsigned gsi, bool level); /* GSIs 0-23 */
    void (*msi)(struct vm *vm, uint64_t address, uint32_t data);
    /*
     * While on, a vCPU that writes `value` with four bytes to guest-physical addr signals the
     * eventfd fd and does not leave the guest; nobody else's write does. False: not offered, or the
     * host has no room; the write then reaches the I/O region. Machine lock held. NULL: not
     * offered.
     */
    bool (*ioeventfd)(struct vm *vm, uint64_t addr, uint32_t value, int fd, bool on);

    /*
     * Dirty tracking of guest writes (any thread but one at a time; no machine lock needed).
     * start/stop switch it for all maps. sync adds the block's pages that were dirtied since the
     * last sync to `set`, and re-arms them, unless the backend clears later (manual protect): then
     * pages [first, first+n) are re-armed by clear before they are sent.
     */
    bool (*dirty_start)(struct vm *vm, GError **err);
    void (*dirty_stop)(struct vm *vm);
    bool (*dirty_sync)(struct vm *vm, struct ram_block *block, struct dirty_set *set, GError **err);
    void (*dirty_clear)(struct vm *vm, struct ram_block *block, uint64_t first_page,
                        uint64_t pages);
    /*
     * How many pages the guest has dirtied since some time in the past: what counts is the
     * difference between two calls while tracking is on. A page counts again once it has been
     * re-armed. False where that cannot be known (NULL, or a log that re-arms as it is read). Any
     * thread; takes nothing from whoever syncs.
     */
    bool (*dirty_count)(struct vm *vm, uint64_t *pages);

    /*
     * All sections of a stream have been given to their owners' load(): puts what they hold into
     * the accelerator, in the one order that works. vCPUs stopped, machine lock held. What the host
     * refuses (an MSR, a CPU feature in use) is an error, and the machine must not be started.
     */
    bool (*post_load)(struct vm *vm, GError **err);
    void (*free)(struct accel *accel); /* what accel_*_new made; vCPUs are gone */
};

struct accel {
    const struct accel_ops *ops;
    /* options of -accel that were given */
    uint32_t dirty_ring_size; /* entries per vCPU; 0 = dirty log */
};

/* "kvm", "qtest"; in order of preference for `kvm:qtest` lists. Options checked by the accelerator.
 */
struct accel *accel_kvm_new(struct vm *vm, uint32_t dirty_ring_size, GError **err);
struct accel *accel_qtest_new(struct vm *vm, GError **err);
void accel_free(struct accel *a);

#endif
