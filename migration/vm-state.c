/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two sections that belong to the machine as a whole: `timer`, the virtual clock that all
 * device timers refer to, always first; and `globalstate`, the run state that the guest had, always
 * last.
 *
 * Trust: none. The clock is bounded so that sums with it cannot overflow, and a run state must be
 * one in which a guest can arrive.
 */
#include <string.h>

#include "migration/internal.h"
#include "migration/vmstate.h"
#include "system/vm.h"
#include "util/error.h"

struct timer_state {
    int64_t cpu_ticks_offset, cpu_clock_offset;
};

static const struct vmstate_field timer_fields[] = {
    VMS_F(struct timer_state, "cpu_ticks_offset", VMS_I64, cpu_ticks_offset),
    VMS_PAD("unused", 8),
    /* ns on the virtual clock at the stop */
    VMS_RANGE(struct timer_state, "cpu_clock_offset", VMS_I64, cpu_clock_offset, 0, INT64_MAX / 2),
    {},
};

static bool timer_save(void *opaque, void *state, GError **err)
{
    struct migration *m = opaque;
    struct timer_state *s = state;

    (void)err;
    s->cpu_clock_offset = vm_clock_ns(m->vm);
    return true;
}

static bool timer_load(void *opaque, const void *state, int version, GError **err)
{
    struct migration *m = opaque;
    const struct timer_state *s = state;

    (void)version;
    (void)err;
    vm_clock_set_ns(m->vm, s->cpu_clock_offset);
    return true;
}

static const struct vmstate timer_vmstate = {
    .name = "timer",
    .version = 2,
    .min_version = 1,
    .size = sizeof(struct timer_state),
    .fields = timer_fields,
    .save = timer_save,
    .load = timer_load,
};

#define RUNSTATE_BYTES 100

struct global_state {
    uint32_t size; /* strlen + 1 */
    char runstate[RUNSTATE_BYTES];
};

static const struct vmstate_field global_fields[] = {
    VMS_RANGE(struct global_state, "size", VMS_U32, size, 0, RUNSTATE_BYTES),
    VMS_BYTES(struct global_state, "runstate", runstate, RUNSTATE_BYTES),
    {},
};

static bool global_save(void *opaque, void *state, GError **err)
{
    struct migration *m = opaque;
    struct global_state *s = state;

    (void)err;
    g_strlcpy(s->runstate, qapi_run_state_str(m->saved_state), sizeof(s->runstate));
    s->size = (uint32_t)strlen(s->runstate) + 1;
    return true;
}

static bool global_check(void *opaque, const void *state, GError **err)
{
    const struct global_state *s = state;
    RunState r;

    (void)opaque;
    if (!memchr(s->runstate, '\0', sizeof(s->runstate)) || !qapi_run_state_parse(s->runstate, &r)) {
        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream has an unknown run state in 'globalstate'");
        return false;
    }
    if (r == RUN_STATE_SAVE_VM || r == RUN_STATE_RESTORE_VM || r == RUN_STATE_COLO ||
        r == RUN_STATE_INMIGRATE || r == RUN_STATE_FINISH_MIGRATE) {
        error_set(err, FERRY_ERROR_PEER,
                  "The migration stream has run state '%s', in which no guest can arrive",
                  s->runstate);
        return false;
    }
    return true;
}

static bool global_load(void *opaque, const void *state, int version, GError **err)
{
    struct migration *m = opaque;
    const struct global_state *s = state;

    (void)version;
    (void)err;
    m->loaded_state_set = qapi_run_state_parse(s->runstate, &m->loaded_state);
    return true;
}

static const struct vmstate global_vmstate = {
    .name = "globalstate",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct global_state),
    .optional = true, /* QEMU has a switch that leaves it out; the guest then runs */
    .fields = global_fields,
    .save = global_save,
    .check = global_check,
    .load = global_load,
};

void migration_register_vm_state(struct migration *m)
{
    savevm_register(m->vm->savevm, NULL, 0, &timer_vmstate, m, 0);
    savevm_register(m->vm->savevm, NULL, 0, &global_vmstate, m, G_MAXUINT);
}
