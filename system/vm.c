/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's run state: start, stop, and what was asked for (reset, shutdown, power button) and
 * is carried out by the main loop.
 *
 * Requests come from vCPU threads, QMP and signals; they only set a flag and wake the main loop,
 * because what they ask for stops the very vCPU that asks. They are carried out in
 * vm_handle_requests(), in this order: stop, shutdown, reset, powerdown.
 *
 * vm_stop() guarantees: on success no vCPU executes guest code, the virtual clock stands, and every
 * exit that was under way has finished; on failure (a vCPU that the host holds up) the machine runs
 * as before.
 *
 * Stopping waits for vCPUs with the lock dropped, and a client's `stop`, the guest's own reset and
 * the stop for a migration may want it at the same time. Only one of them is ever between its look
 * at the run state and its end (begin_change()); the others look again afterwards. Else `stop`
 * would turn finish-migrate into paused, and `cont` would then run a guest that is on its way out.
 */
#include "accel/accel.h"
#include "hw/virtio/virtio.h"
#include "migration/announce.h"
#include "migration/vmstate.h"
#include "net/net.h"
#include "qapi/qapi-events.h"
#include "clock.h"
#include "system/config.h"
#include "loop.h"
#include "system/vm-init.h"
#include "util/error.h"

struct vm *vm_new(void)
{
    struct vm *vm = g_new0(struct vm, 1);

    mutex_init(&vm->lock);
    vm_lock(vm);
    vm->run_state = RUN_STATE_PRELAUNCH;
    vm->autostart = true;
    vm->devices = g_ptr_array_new();
    vm->clock = vm_clock_new(vm);
    vm->loop = vm_loop_new();
    vm->memory = memory_new(vm);
    vm->savevm = savevm_new(vm);
    vm->net = net_set_new(vm);
    return vm;
}

/* How long a stop waits for the vCPUs. They leave the guest within microseconds, unless the host's
 * kernel does not let them. */
#define STOP_TIMEOUT_MS 10000
/* The same while a part of the memory has not come (post-copy): a vCPU that KVM lets wait for it
 * leaves the guest when the page comes, which may take until somebody mends the link, over QMP. */
#define GATED_STOP_TIMEOUT_MS 1000

static bool pause_vcpus(struct vm *vm, GError **err)
{
    return vm->accel->ops->pause(
        vm, memory_has_gate(vm->memory) ? GATED_STOP_TIMEOUT_MS : STOP_TIMEOUT_MS, err);
}

static void begin_change(struct vm *vm)
{
    while (vm->loop->changing) {
        cond_wait(&vm->loop->changed, &vm->lock);
    }
    vm->loop->changing = true;
}

static void end_change(struct vm *vm)
{
    vm->loop->changing = false;
    cond_broadcast(&vm->loop->changed);
}

/* A request that had to wait for another state may be carried out in this one. */
static void state_changed(struct vm *vm)
{
    if (vm_request_pending(vm)) {
        vm_loop_wake(vm);
    }
}

void vm_start(struct vm *vm)
{
    if (vm_is_running(vm)) {
        return;
    }
    vm->run_state = RUN_STATE_RUNNING;
    vm_clock_run(vm, true);
    /* before: the guest may keep this thread from its CPU for a while */
    qapi_event_send_resume(vm);
    virtio_run_state(vm, true);
    vm->accel->ops->resume(vm);
    announce_machine_runs(vm);
    state_changed(vm);
}

/* Between begin_change() and end_change(). False: it runs on. */
static bool stop(struct vm *vm, RunState state, GError **err)
{
    if (!vm_is_running(vm)) {
        vm->run_state = state;
        return true;
    }
    if (!pause_vcpus(vm, err)) {
        return false;
    }
    virtio_run_state(vm, false);
    vm_clock_run(vm, false);
    vm->run_state = state;
    qapi_event_send_stop(vm);
    return true;
}

bool vm_stop(struct vm *vm, RunState state, GError **err)
{
    begin_change(vm);
    bool ok = !vm_is_running(vm) || stop(vm, state, err);
    end_change(vm);
    return ok;
}

bool vm_stop_to_migrate(struct vm *vm, RunState *before, GError **err)
{
    begin_change(vm);
    bool ok = !vm_request_pending(vm);

    *before = vm->run_state;
    if (ok && !stop(vm, RUN_STATE_FINISH_MIGRATE, err)) {
        ok = false;
    } else if (ok) {
        ok = !vm_request_pending(vm);
        if (!ok && *before == RUN_STATE_RUNNING) {
            vm_start(vm);
        } else if (!ok) {
            vm->run_state = *before;
        }
    }
    end_change(vm);
    return ok;
}

void vm_set_run_state(struct vm *vm, RunState state)
{
    g_assert(!vm_is_running(vm) && state != RUN_STATE_RUNNING);
    vm->run_state = state;
    if (state == RUN_STATE_POSTMIGRATE) {
        /* a reset that waited was meant for the guest, which has left; here it would write over
         * memory that may be shared with it */
        vm->loop->reset = SHUTDOWN_CAUSE_NONE;
    }
    state_changed(vm);
}

void vm_request_reset(struct vm *vm, ShutdownCause cause)
{
    if (vm->no_reboot && cause != SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET) {
        vm_request_shutdown(vm, cause);
        return;
    }
    vm->loop->reset = cause;
    vm_loop_wake(vm);
}

void vm_request_shutdown(struct vm *vm, ShutdownCause cause)
{
    vm->loop->shutdown = cause;
    vm_loop_wake(vm);
}

void vm_request_powerdown(struct vm *vm)
{
    vm->loop->powerdown = true;
    vm_loop_wake(vm);
}

void vm_request_stop(struct vm *vm, RunState state)
{
    vm->loop->stop = true;
    vm->loop->stop_state = state;
    vm_loop_wake(vm);
}

bool vm_request_pending(struct vm *vm)
{
    return vm->loop->reset || vm->loop->shutdown || vm->loop->stop;
}

void vm_set_powerdown_handler(struct vm *vm, void (*fn)(void *opaque), void *opaque)
{
    vm->loop->powerdown_fn = fn;
    vm->loop->powerdown_opaque = opaque;
}

static bool guest_caused(ShutdownCause cause)
{
    return cause >= SHUTDOWN_CAUSE_GUEST_SHUTDOWN && cause <= SHUTDOWN_CAUSE_GUEST_PANIC;
}

static void do_shutdown(struct vm *vm, ShutdownCause cause)
{
    qapi_event_send_shutdown(vm, guest_caused(cause), cause);
    /* somebody outside who wants the process to end gets that in any case */
    if (vm->no_shutdown && guest_caused(cause)) {
        GError *err = NULL;

        if (!stop(vm, RUN_STATE_SHUTDOWN, &err)) {
            report_error("The machine cannot be stopped after its shutdown: %s", err->message);
            g_error_free(err);
        }
    } else {
        vm_exit(vm, cause == SHUTDOWN_CAUSE_HOST_ERROR ? 1 : 0);
    }
}

static void do_reset(struct vm *vm, ShutdownCause cause)
{
    bool was_running = vm_is_running(vm);
    g_autoptr(GError) err = NULL;

    if (was_running && !pause_vcpus(vm, &err)) {
        report_error("The machine cannot be reset: %s", err->message);
        return;
    }
    board_reset(vm);
    vm->accel->ops->reset(vm);
    qapi_event_send_reset(vm, guest_caused(cause), cause);
    if (!was_running &&
        (vm->run_state == RUN_STATE_SHUTDOWN || vm->run_state == RUN_STATE_INTERNAL_ERROR)) {
        vm->run_state = RUN_STATE_PRELAUNCH; /* `cont` is possible again */
    }
    if (was_running && vm_is_running(vm)) {
        vm->accel->ops->resume(vm);
    }
}

/*
 * A machine about to be saved must not change: its reset waits until the move is over. So does one
 * of which a part has not come yet (post-copy): what a reset writes to memory must not wait for a
 * link, and not be lost either.
 */
static bool reset_due(const struct vm *vm)
{
    return vm->loop->reset && vm->run_state != RUN_STATE_FINISH_MIGRATE &&
           !memory_has_gate(vm->memory);
}

/* Between begin_change() and end_change(). */
static bool handle_one(struct vm *vm)
{
    struct vm_loop *loop = vm->loop;

    if (loop->stop) {
        GError *err = NULL;

        loop->stop = false;
        if (!stop(vm, loop->stop_state, &err)) {
            report_error("The machine cannot be stopped: %s", err->message);
            g_error_free(err);
        }
        return true;
    }
    if (loop->shutdown) {
        ShutdownCause cause = loop->shutdown;

        loop->shutdown = SHUTDOWN_CAUSE_NONE;
        do_shutdown(vm, cause);
        return true;
    }
    if (reset_due(vm)) {
        ShutdownCause cause = loop->reset;

        loop->reset = SHUTDOWN_CAUSE_NONE;
        do_reset(vm, cause);
        return true;
    }
    if (loop->powerdown) {
        loop->powerdown = false;
        qapi_event_send_powerdown(vm);
        if (loop->powerdown_fn) {
            loop->powerdown_fn(loop->powerdown_opaque);
        }
        return true;
    }
    return false;
}

bool vm_handle_requests(struct vm *vm)
{
    bool handled;

    if (!vm_request_pending(vm) && !vm->loop->powerdown) {
        return false;
    }
    begin_change(vm);
    handled = handle_one(vm);
    end_change(vm);
    return handled;
}
