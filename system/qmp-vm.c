/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP commands about the machine: run state, vCPUs, memory, identity, objects. Each is a few lines
 * over what the vm owns; all run on the main loop thread with the machine lock held.
 */
#include <string.h>

#include "accel/accel.h"
#include "block/block.h"
#include "machine-type.h"
#include "migration/migration.h"
#include "qapi/qapi-commands.h"
#include "system/config.h"
#include "system/memory-lease.h"
#include "system/objects.h"
#include "system/vcpu.h"
#include "system/vm.h"
#include "util/error.h"

StatusInfo *qmp_query_status(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    StatusInfo *info = g_new0(StatusInfo, 1);

    info->running = vm_is_running(vm);
    info->status = vm->run_state;
    return info;
}

bool qmp_stop(struct vm *vm, GError **err)
{
    if (migration_incoming_pending(vm)) {
        vm->autostart = false;
        return true;
    }
    migration_keep_stopped(vm); /* one that only stands still for a while */
    return vm_stop(vm, RUN_STATE_PAUSED, err);
}

/*
 * What stands in the way of `cont` in a run state; NULL: nothing. A guest that is about to leave
 * must not run on beside its copy.
 */
static const char *const cont_refusals[RUN_STATE__MAX] = {
    [RUN_STATE_SHUTDOWN] = "Resetting the Virtual Machine is required",
    [RUN_STATE_INTERNAL_ERROR] = "Resetting the Virtual Machine is required",
    [RUN_STATE_FINISH_MIGRATE] =
        "The guest is stopped for the end of its migration; use migrate_cancel to keep it here",
    [RUN_STATE_SAVE_VM] = "The guest's state is being saved; it can run when that is done",
    [RUN_STATE_RESTORE_VM] = "The guest's state is being loaded; it can run when that is done",
};

bool qmp_cont(struct vm *vm, GError **err)
{
    const char *refusal = cont_refusals[vm->run_state];

    if (refusal) {
        error_set(err, FERRY_ERROR_USER, "%s", refusal);
        return false;
    }
    if (migration_incoming_pending(vm)) {
        vm->autostart = true;
        return true;
    }
    if (!migration_may_run(vm, err)) {
        return false;
    }
    /* a guest that was handed over in its memory may run in another process */
    if (!memory_lease_take(vm->memory, err)) {
        return false;
    }
    if (!block_activate_all(vm, err)) {
        return false;
    }
    vm_start(vm);
    return true;
}

bool qmp_quit(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    vm_request_shutdown(vm, SHUTDOWN_CAUSE_HOST_QMP_QUIT);
    return true;
}

bool qmp_system_reset(struct vm *vm, GError **err)
{
    /* it would undo what of the guest has been loaded already */
    if (migration_incoming_pending(vm)) {
        error_set(err, FERRY_ERROR_USER,
                  "The guest has not arrived yet: reset it at the source, or here once it runs");
        return false;
    }
    vm_request_reset(vm, SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET);
    return true;
}

bool qmp_system_powerdown(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    vm_request_powerdown(vm);
    return true;
}

TargetInfo *qmp_query_target(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    TargetInfo *info = g_new0(TargetInfo, 1);

    info->arch = SYS_EMU_TARGET_X86_64;
    return info;
}

/* The place of a vCPU: threads count fastest, then cores, dies, sockets. */
static CpuInstanceProperties *cpu_place(const struct vm_config *c, unsigned index)
{
    CpuInstanceProperties *place = g_new0(CpuInstanceProperties, 1);

    place->has_thread_id = place->has_core_id = place->has_socket_id = true;
    place->thread_id = index % c->threads;
    index /= c->threads;
    place->core_id = index % c->cores;
    index /= c->cores;
    if (c->dies > 1) {
        place->has_die_id = true;
        place->die_id = index % c->dies;
    }
    place->socket_id = index / c->dies;
    return place;
}

GPtrArray *qmp_query_cpus_fast(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_list_new(&qapi_type_cpu_info_fast);

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        CpuInfoFast *info = g_new0(CpuInfoFast, 1);

        info->cpu_index = i;
        info->qom_path = g_strdup_printf("/machine/unattached/cpu[%u]", i);
        info->thread_id = vm->vcpus[i]->thread_id;
        info->props = cpu_place(vm->config, i);
        info->target = SYS_EMU_TARGET_X86_64;
        g_ptr_array_add(list, info);
    }
    return list;
}

GPtrArray *qmp_query_machines(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_list_new(&qapi_type_machine_info);

    for (const struct machine_type *m = machine_types; m->name; m++) {
        MachineInfo *info = g_new0(MachineInfo, 1);

        info->name = g_strdup(m->name);
        info->cpu_max = m->cpu_max;
        info->has_is_default = info->is_default = m->is_default;
        info->default_cpu_type = g_strdup(m->default_cpu_type);
        info->default_ram_id = g_strdup(m->default_ram_id);
        g_ptr_array_add(list, info);
    }
    return list;
}

KvmInfo *qmp_query_kvm(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    KvmInfo *info = g_new0(KvmInfo, 1);

    info->enabled = strcmp(vm->accel->ops->name, "kvm") == 0;
    info->present = true;
    return info;
}

NameInfo *qmp_query_name(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    NameInfo *info = g_new0(NameInfo, 1);

    info->name = g_strdup(vm->name);
    return info;
}

UuidInfo *qmp_query_uuid(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    UuidInfo *info = g_new0(UuidInfo, 1);
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < sizeof(vm->uuid); i++) {
        bool dash = i == 4 || i == 6 || i == 8 || i == 10;

        g_string_append_printf(text, "%s%02x", dash ? "-" : "", vm->uuid[i]);
    }
    info->UUID = g_string_free(text, FALSE);
    return info;
}

MemoryInfo *qmp_query_memory_size_summary(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    MemoryInfo *info = g_new0(MemoryInfo, 1);

    info->base_memory = vm->board ? vm->config->ram_size : 0;
    info->has_plugged_memory = true;
    return info;
}

bool qmp_object_add(struct vm *vm, const ObjectOptions *arg, GError **err)
{
    return object_add(vm->objects, arg, err);
}

bool qmp_object_del(struct vm *vm, const struct qmp_object_del_arg *arg, GError **err)
{
    return object_del(vm->objects, arg->id, err);
}
