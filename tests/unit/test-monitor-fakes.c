/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands about the VM for test-monitor.c. They do as little as lets a client see that the right
 * one was called with the right arguments.
 */
#include "test-monitor-fakes.h"

#include <string.h>

#include "monitor/monitor.h"
#include "block/block.h"
#include "net/net.h"
#include "qapi/json.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "system/vm.h"
#include "util/error.h"

/* Commands that no test runs: one symbol for all, whatever their types. A new command of the schema
 * needs a line here. */
void fake_never_called(void);
void fake_never_called(void)
{
    g_assert_not_reached();
}
#define FAKE(name) __asm__(".globl qmp_" #name "\n.set qmp_" #name ", fake_never_called")
FAKE(balloon);
FAKE(block_resize);
FAKE(blockdev_add);
FAKE(blockdev_del);
FAKE(calc_dirty_rate);
FAKE(cancel_vcpu_dirty_limit);
FAKE(migrate_clear_blocker);
FAKE(migrate_continue);
FAKE(migrate_incoming);
FAKE(migrate_recover);
FAKE(migrate_set_blocker);
FAKE(migrate_set_capabilities);
FAKE(migrate_set_policy);
FAKE(migrate_start_postcopy);
FAKE(migrate_take_back);
FAKE(netdev_add);
FAKE(netdev_del);
FAKE(set_link);
FAKE(announce_self);
FAKE(query_rx_filter);
FAKE(object_add);
FAKE(object_del);
FAKE(qom_list);
FAKE(qom_set);
FAKE(qom_list_types);
FAKE(query_balloon);
FAKE(query_block);
FAKE(query_blockstats);
FAKE(query_dirty_rate);
FAKE(query_machines);
FAKE(query_memory_size_summary);
FAKE(query_named_block_nodes);
FAKE(query_migrate_policy);
FAKE(query_target);
FAKE(query_vcpu_dirty_limit);
FAKE(set_vcpu_dirty_limit);
FAKE(system_powerdown);
FAKE(system_reset);
FAKE(x_migrate_hold);
FAKE(x_query_dirty_tracking);
FAKE(x_query_migrate_hold);
FAKE(x_query_migrate_side);

/* what the monitor for people asks the network */
void block_describe(struct vm *vm G_GNUC_UNUSED, const char *arg, GString *out)
{
    g_string_append_printf(out, "disks %s\r\n", arg ? arg : "");
}

void block_describe_stats(struct vm *vm G_GNUC_UNUSED, GString *out G_GNUC_UNUSED)
{
}

void net_describe(struct net_set *set G_GNUC_UNUSED, GString *out G_GNUC_UNUSED)
{
    g_assert_not_reached();
}

void net_hostfwd(struct net_set *set G_GNUC_UNUSED, bool add G_GNUC_UNUSED,
                 const char *args G_GNUC_UNUSED, GString *out G_GNUC_UNUSED)
{
    g_assert_not_reached();
}

struct fake fake;

bool qmp_migrate_check(struct vm *vm G_GNUC_UNUSED, const struct qmp_migrate_check_arg *arg,
                       struct qmp_answer *answer, GError **err)
{
    if (arg->peer == MIGRATION_PEER_QEMU) {
        MigrationCheckResult *result = g_new0(MigrationCheckResult, 1);

        result->possible = true;
        result->findings = qapi_migration_finding_list_new();
        qmp_migrate_check_answer(answer, result, NULL);
        return true;
    }
    if (!arg->uri) {
        error_set(err, FERRY_ERROR_USER, "No way");
        return false;
    }
    fake.answer = answer;
    return true;
}

bool qmp_stop(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    vm->run_state = RUN_STATE_PAUSED;
    qapi_event_send_stop(vm);
    return true;
}

bool qmp_cont(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    vm->run_state = RUN_STATE_RUNNING;
    qapi_event_send_resume(vm);
    return true;
}

bool qmp_quit(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    qapi_event_send_shutdown(vm, false, SHUTDOWN_CAUSE_HOST_QMP_QUIT);
    fake.quits++;
    return true;
}

StatusInfo *qmp_query_status(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    StatusInfo *info = g_new0(StatusInfo, 1);

    info->running = vm->run_state == RUN_STATE_RUNNING;
    info->status = vm->run_state;
    return info;
}

NameInfo *qmp_query_name(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    NameInfo *info = g_new0(NameInfo, 1);

    info->name = g_strdup(vm->name);
    return info;
}

UuidInfo *qmp_query_uuid(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    UuidInfo *info = g_new0(UuidInfo, 1);

    info->UUID = g_strdup("00000000-0000-0000-0000-000000000000");
    return info;
}

KvmInfo *qmp_query_kvm(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    KvmInfo *info = g_new0(KvmInfo, 1);

    info->enabled = info->present = true;
    return info;
}

GPtrArray *qmp_query_cpus_fast(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_cpu_info_fast_list_new();

    for (int i = 0; i < 2; i++) {
        CpuInfoFast *cpu = g_new0(CpuInfoFast, 1);

        cpu->cpu_index = i;
        cpu->qom_path = g_strdup("/machine");
        cpu->thread_id = 100 + i;
        g_ptr_array_add(list, cpu);
    }
    return list;
}

/* returns a number that JSON has to be told about */
json_t *qmp_qom_get(struct vm *vm G_GNUC_UNUSED, const struct qmp_qom_get_arg *arg, GError **err)
{
    if (strcmp(arg->path, "/machine")) {
        error_set(err, FERRY_ERROR_DEVICE_NOT_FOUND, "Device '%s' not found", arg->path);
        return NULL;
    }
    return qapi_json_uint64(UINT64_MAX);
}

bool qmp_migrate(struct vm *vm, const struct qmp_migrate_arg *arg, GError **err)
{
    if (!arg->uri || !g_str_has_prefix(arg->uri, "fd:")) {
        return false; /* without a reason: the dispatcher has to find one */
    }
    fake.migrate_fd = monitor_get_fd(vm, arg->uri + 3, err);
    return fake.migrate_fd >= 0;
}

bool qmp_migrate_cancel(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    fake.cancels++;
    return true;
}

bool qmp_migrate_pause(struct vm *vm G_GNUC_UNUSED, GError **err)
{
    error_set(err, FERRY_ERROR_USER,
              "migrate-pause is currently only supported during postcopy-active state");
    return false;
}

MigrationInfo *qmp_query_migrate(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    MigrationInfo *info = g_new0(MigrationInfo, 1);

    info->has_status = true;
    info->status = MIGRATION_STATUS_FAILED;
    info->error_desc = g_strdup("No way");
    info->has_total_time = true;
    info->total_time = 8;
    info->ram = g_new0(MigrationStats, 1);
    info->ram->total = 32844 << 10;
    info->ram->mbps = 173.59;
    return info;
}

GPtrArray *qmp_query_migrate_capabilities(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_migration_capability_status_list_new();
    MigrationCapabilityStatus *status = g_new0(MigrationCapabilityStatus, 1);

    status->capability = MIGRATION_CAPABILITY_EVENTS;
    status->state = true;
    g_ptr_array_add(list, status);
    return list;
}

bool qmp_migrate_set_parameters(struct vm *vm G_GNUC_UNUSED, const MigrateSetParameters *arg,
                                GError **err G_GNUC_UNUSED)
{
    fake.params = *arg;
    return true;
}

MigrationParameters *qmp_query_migrate_parameters(struct vm *vm G_GNUC_UNUSED,
                                                  GError **err G_GNUC_UNUSED)
{
    MigrationParameters *params = g_new0(MigrationParameters, 1);

    params->has_max_bandwidth = true;
    params->max_bandwidth = fake.params.max_bandwidth;
    return params;
}
