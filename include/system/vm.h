/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The virtual machine: what owns everything else, its lock, its run state, its clock.
 *
 * Lock. vm_lock() is the machine lock. It is held by the main loop's thread while it dispatches
 * (released while it polls), by a vCPU thread while it handles an exit that reaches a device, and
 * by a migration thread for the short stretches that touch devices or the run state. It is not
 * recursive. docs/architecture.md, "Threads and locks", has the whole picture.
 */
#ifndef SYSTEM_VM_H
#define SYSTEM_VM_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "qapi/qapi-types.h"
#include "system/memory.h"
#include "util/sync.h"

struct accel;
struct block_set;
struct board;
struct chardev_set;
struct device;
struct migration;
struct monitor_set;
struct net_set;
struct object_set;
struct qtest;
struct savevm;
struct vcpu;
struct vm_clock;
struct virtio_set;
struct vm_config;

/* RunState (RUN_STATE_RUNNING, ...) and ShutdownCause (SHUTDOWN_CAUSE_GUEST_RESET, ...) come from
 * the schema. */

struct vm_loop; /* private to system/ */

struct vm {
    struct mutex lock; /* the machine lock: vm_lock() */
    atomic_uint lock_waiters;
    struct memory *memory;
    struct accel *accel;
    struct board *board; /* the machine type's own state */
    struct vm_clock *clock;
    struct vm_loop *loop;
    struct block_set *blocks; /* disk images; NULL where there can be none */
    struct chardev_set *chardevs;
    struct monitor_set *monitors;
    struct savevm *savevm; /* what is saved and loaded, in stream order */
    struct migration *migration;
    struct object_set *objects; /* -object */
    struct virtio_set *virtio;  /* virtio devices and their thread; NULL: none */
    struct net_set *net;        /* -netdev */
    struct qtest *qtest;
    GPtrArray *devices; /* struct device *, in order of realisation */
    struct vcpu **vcpus;
    unsigned vcpu_count;
    _Atomic unsigned throttle; /* system/throttle.h */

    /* what the command line said */
    const struct vm_config *config; /* of the machine; borrowed, NULL in unit tests */
    char *name;                     /* NULL: none */
    uint8_t uuid[16];               /* textual byte order */
    bool uuid_set;
    bool no_reboot, no_shutdown, only_migratable;
    bool autostart; /* not -S */

    RunState run_state; /* machine lock */
    bool exiting;
    int exit_status;
};

static inline void vm_lock(struct vm *vm)
{
    if (!mutex_trylock(&vm->lock)) {
        atomic_fetch_add(&vm->lock_waiters, 1);
        mutex_lock(&vm->lock);
        atomic_fetch_sub(&vm->lock_waiters, 1);
    }
}
/*
 * Somebody waits for it. A mutex goes to who asks first after it is free, and that is who has just
 * given it up: a thread that wants it again and again must look here, and sleep for a moment.
 */
static inline bool vm_lock_is_wanted(const struct vm *vm)
{
    return atomic_load(&vm->lock_waiters) > 0;
}
static inline void vm_unlock(struct vm *vm)
{
    mutex_unlock(&vm->lock);
}

/* All of the following: machine lock held. */

static inline bool vm_is_running(const struct vm *vm)
{
    return vm->run_state == RUN_STATE_RUNNING;
}
/*
 * Starts the vCPUs and the virtual clock and emits RESUME; the state becomes running. Nothing
 * happens when it already runs. Called on the destination and by `cont`.
 */
void vm_start(struct vm *vm);
/*
 * Stops a running machine: the vCPUs (returns when none executes guest code any more; drops the
 * machine lock meanwhile), the virtual clock; emits STOP and sets the state, which is one of the
 * stopped ones. Nothing is changed when it does not run or somebody else has stopped it meanwhile.
 * False and *err (HOST): a vCPU did not stop within ten seconds; the machine runs on.
 */
bool vm_stop(struct vm *vm, RunState state, GError **err);
/*
 * Puts the machine, running or not, into finish-migrate; *before says from where. False: it was
 * asked for a reset, a shutdown or a stop, which goes first, or (with *err) it could not be
 * stopped, see vm_stop(); the machine is as it was. Drops the machine lock meanwhile.
 */
bool vm_stop_to_migrate(struct vm *vm, RunState *before, GError **err);
/* Sets a stopped state without STOP/RESUME (finish-migrate -> postmigrate). In postmigrate a reset
 * that was asked for is forgotten. */
void vm_set_run_state(struct vm *vm, RunState state);

/*
 * Ask for something that the main loop does soon after (any thread that holds the machine lock; a
 * vCPU calls them from an exit). Guest-caused resets and shutdowns obey -no-reboot and
 * -no-shutdown.
 */
void vm_request_reset(struct vm *vm, ShutdownCause cause);
void vm_request_shutdown(struct vm *vm, ShutdownCause cause);
void vm_request_powerdown(struct vm *vm);            /* presses the power button, emits POWERDOWN */
void vm_request_stop(struct vm *vm, RunState state); /* e.g. internal-error, from a vCPU thread */
/* Registers what the power button does (the machine's GED). */
void vm_set_powerdown_handler(struct vm *vm, void (*fn)(void *opaque), void *opaque);
/* True while a reset or a shutdown is asked for and not yet done. */
bool vm_request_pending(struct vm *vm);

/* An interrupt line of the machine (GSI number) goes to a level; edge-triggered users pulse. */
void vm_irq_set(struct vm *vm, unsigned gsi, bool level);
#define VM_GSI_COUNT 48

/* Runs fn(opaque) once on the main loop with the machine lock held. Any thread, lock or not. */
void vm_run_in_main_loop(struct vm *vm, void (*fn)(void *opaque), void *opaque);

/*
 * The virtual clock, ns since the machine began to run; stands still while the vCPUs are stopped;
 * QEMU's QEMU_CLOCK_VIRTUAL. Under -accel qtest it only moves when qtest steps it.
 */
int64_t vm_clock_ns(struct vm *vm);
/* Sets the (stopped) clock: what a loaded stream says. */
void vm_clock_set_ns(struct vm *vm, int64_t ns);

/* One-shot timers on the virtual clock. Callbacks run on the main loop with the machine lock held.
 */
struct vm_timer;
struct vm_timer *vm_timer_new(struct vm *vm, void (*fn)(void *opaque), void *opaque);
void vm_timer_free(struct vm_timer *t);
void vm_timer_mod(struct vm_timer *t, int64_t expire_ns);
void vm_timer_del(struct vm_timer *t);
/* Absolute expiry, or -1 when not armed: the wire form of a `timer` field. */
int64_t vm_timer_expire_ns(const struct vm_timer *t);

#endif
