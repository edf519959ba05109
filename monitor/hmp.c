/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The monitor for people, as far as it is offered: human-monitor-command with a few commands and
 * the pages of `info`. Each is a row of a table, and prints what the QMP command behind it returns,
 * so there is nothing here that QMP does not have. Scripts read some of these lines; their labels
 * are QEMU's.
 *
 * A command that fails is not a failure of human-monitor-command: it prints "Error: " and the text.
 *
 * Trust: as a client of QMP. A line is split into words here, every word is judged by the QMP
 * command behind it.
 */
#include "monitor/monitor.h"

#include <inttypes.h>
#include <string.h>

#include "block/block.h"
#include "net/net.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

struct hmp_command {
    const char *name;
    const char *alias;  /* or NULL */
    const char *params; /* shown in help */
    const char *help;
    /* arg is what follows the name, NULL for nothing, not NULL only where params is not empty */
    void (*run)(struct vm *vm, GString *out, const char *arg, GError **err);
};

static void G_GNUC_PRINTF(2, 3) print(GString *out, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_string_append_vprintf(out, fmt, ap);
    va_end(ap);
    g_string_append(out, "\r\n");
}

static const char *on_off(bool on)
{
    return on ? "on" : "off";
}

/* ---- pages of info ---- */

static void info_balloon(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(BalloonInfo) info = qmp_query_balloon(vm, err);

    if (info) {
        print(out, "balloon: actual=%" PRId64, info->actual >> 20);
    }
}

static void info_block(struct vm *vm, GString *out, const char *arg, GError **err G_GNUC_UNUSED)
{
    block_describe(vm, arg, out);
}

static void info_blockstats(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED,
                            GError **err G_GNUC_UNUSED)
{
    block_describe_stats(vm, out);
}

static void info_chardev(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(GPtrArray) list = qmp_query_chardev(vm, err);

    for (guint i = 0; list && i < list->len; i++) {
        const ChardevInfo *chr = list->pdata[i];

        print(out, "%s: filename=%s", chr->label, chr->filename);
    }
}

static void info_cpus(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(GPtrArray) list = qmp_query_cpus_fast(vm, err);

    for (guint i = 0; list && i < list->len; i++) {
        const CpuInfoFast *cpu = list->pdata[i];

        print(out, "%c CPU #%" PRId64 ": thread_id=%" PRId64, i ? ' ' : '*', cpu->cpu_index,
              cpu->thread_id);
    }
}

static void info_kvm(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(KvmInfo) info = qmp_query_kvm(vm, err);

    if (info) {
        print(out, "kvm support: %s", info->enabled ? "enabled" : "disabled");
    }
}

static void print_ram(GString *out, const MigrationStats *ram)
{
    print(out, "transferred ram: %" PRId64 " kbytes", ram->transferred >> 10);
    print(out, "throughput: %0.2f mbps", ram->mbps);
    print(out, "remaining ram: %" PRId64 " kbytes", ram->remaining >> 10);
    print(out, "total ram: %" PRId64 " kbytes", ram->total >> 10);
    print(out, "duplicate: %" PRId64 " pages", ram->duplicate);
    print(out, "skipped: %" PRId64 " pages", ram->skipped);
    print(out, "normal: %" PRId64 " pages", ram->normal);
    print(out, "normal bytes: %" PRId64 " kbytes", ram->normal_bytes >> 10);
    print(out, "dirty sync count: %" PRId64, ram->dirty_sync_count);
    print(out, "page size: %" PRId64 " kbytes", ram->page_size >> 10);
    print(out, "multifd bytes: %" PRIu64 " kbytes", ram->multifd_bytes >> 10);
    print(out, "pages-per-second: %" PRIu64, ram->pages_per_second);
    if (ram->dirty_pages_rate) {
        print(out, "dirty pages rate: %" PRId64 " pages", ram->dirty_pages_rate);
    }
    if (ram->postcopy_requests) {
        print(out, "postcopy request count: %" PRId64, ram->postcopy_requests);
    }
    if (ram->precopy_bytes) {
        print(out, "precopy ram: %" PRIu64 " kbytes", ram->precopy_bytes >> 10);
    }
    if (ram->downtime_bytes) {
        print(out, "downtime ram: %" PRIu64 " kbytes", ram->downtime_bytes >> 10);
    }
    if (ram->postcopy_bytes) {
        print(out, "postcopy ram: %" PRIu64 " kbytes", ram->postcopy_bytes >> 10);
    }
}

static void info_migrate(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(MigrationInfo) info = qmp_query_migrate(vm, err);

    if (!info) {
        return;
    }
    for (guint i = 0; info->blocked_reasons && i < info->blocked_reasons->len; i++) {
        print(out, "Outgoing migration blocked: %s", (char *)info->blocked_reasons->pdata[i]);
    }
    if (info->has_status) {
        print(out, "Migration status: %s%s%s%s", qapi_migration_status_str(info->status),
              info->error_desc ? " (" : "", info->error_desc ? info->error_desc : "",
              info->error_desc ? ")" : "");
    }
    if (info->has_total_time) {
        print(out, "total time: %" PRId64 " ms", info->total_time);
    }
    if (info->has_expected_downtime) {
        print(out, "expected downtime: %" PRId64 " ms", info->expected_downtime);
    }
    if (info->has_downtime) {
        print(out, "downtime: %" PRId64 " ms", info->downtime);
    }
    if (info->has_setup_time) {
        print(out, "setup: %" PRId64 " ms", info->setup_time);
    }
    if (info->ram) {
        print_ram(out, info->ram);
    }
}

static void info_migrate_capabilities(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED,
                                      GError **err)
{
    g_autoptr(GPtrArray) list = qmp_query_migrate_capabilities(vm, err);

    for (guint i = 0; list && i < list->len; i++) {
        const MigrationCapabilityStatus *status = list->pdata[i];

        print(out, "%s: %s", qapi_migration_capability_str(status->capability),
              on_off(status->state));
    }
}

static void info_migrate_parameters(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED,
                                    GError **err)
{
    g_autoptr(MigrationParameters) params = qmp_query_migrate_parameters(vm, err);

    if (!params) {
        return;
    }
    if (params->has_max_bandwidth) {
        print(out, "max-bandwidth: %" PRIu64 " bytes/second", params->max_bandwidth);
    }
    if (params->has_downtime_limit) {
        print(out, "downtime-limit: %" PRIu64 " ms", params->downtime_limit);
    }
    if (params->has_avail_switchover_bandwidth) {
        print(out, "avail-switchover-bandwidth: %" PRIu64 " bytes/second",
              params->avail_switchover_bandwidth);
    }
    if (params->has_max_postcopy_bandwidth) {
        print(out, "max-postcopy-bandwidth: %" PRIu64 " bytes/second",
              params->max_postcopy_bandwidth);
    }
}

static void info_name(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(NameInfo) info = qmp_query_name(vm, err);

    if (info && info->name) {
        print(out, "%s", info->name);
    }
}

static void info_network(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED,
                         GError **err G_GNUC_UNUSED)
{
    net_describe(vm->net, out);
}

static void info_status(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(StatusInfo) info = qmp_query_status(vm, err);

    if (!info) {
        return;
    }
    if (info->running || info->status == RUN_STATE_PAUSED) {
        print(out, "VM status: %s", info->running ? "running" : "paused");
    } else {
        print(out, "VM status: paused (%s)", qapi_run_state_str(info->status));
    }
}

static void info_uuid(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(UuidInfo) info = qmp_query_uuid(vm, err);

    if (info) {
        print(out, "%s", info->UUID);
    }
}

static void info_version(struct vm *vm, GString *out, const char *arg G_GNUC_UNUSED, GError **err)
{
    g_autoptr(VersionInfo) info = qmp_query_version(vm, err);

    if (info) {
        print(out, "%" PRId64 ".%" PRId64 ".%" PRId64 " (%s)", info->qemu->major, info->qemu->minor,
              info->qemu->micro, info->package);
    }
}

static const struct hmp_command info_pages[] = {
    { "balloon", NULL, "", "show how much memory the balloon leaves the guest", info_balloon },
    { "block", NULL, "[-n] [-v] [device]",
      "show one disk or all (-n: named nodes; -v: show details)", info_block },
    { "blockstats", NULL, "", "show what the disks have done", info_blockstats },
    { "chardev", NULL, "", "show the character devices", info_chardev },
    { "cpus", NULL, "", "show the vCPUs and their threads", info_cpus },
    { "kvm", NULL, "", "show whether KVM is used", info_kvm },
    { "migrate", NULL, "", "show how the migration goes", info_migrate },
    { "migrate_capabilities", NULL, "", "show which migration capabilities are on",
      info_migrate_capabilities },
    { "migrate_parameters", NULL, "", "show the migration parameters", info_migrate_parameters },
    { "name", NULL, "", "show the name of the guest", info_name },
    { "network", NULL, "", "show the network devices and back ends", info_network },
    { "status", NULL, "", "show whether the guest runs", info_status },
    { "uuid", NULL, "", "show the UUID of the guest", info_uuid },
    { "version", NULL, "", "show the version of Ferry", info_version },
    { 0 },
};

/* ---- commands ---- */

static void run_help(struct vm *vm, GString *out, const char *arg, GError **err);
static void run_info(struct vm *vm, GString *out, const char *arg, GError **err);

#define PLAIN(fn, handler)                                                                         \
    static void fn(struct vm *vm, GString *out G_GNUC_UNUSED, const char *arg G_GNUC_UNUSED,       \
                   GError **err)                                                                   \
    {                                                                                              \
        handler(vm, err);                                                                          \
    }

PLAIN(run_cont, qmp_cont)
PLAIN(run_migrate_cancel, qmp_migrate_cancel)
PLAIN(run_quit, qmp_quit)
PLAIN(run_stop, qmp_stop)
PLAIN(run_system_powerdown, qmp_system_powerdown)
PLAIN(run_system_reset, qmp_system_reset)

static void run_balloon(struct vm *vm, GString *out G_GNUC_UNUSED, const char *arg, GError **err)
{
    guint64 mib;

    if (!g_ascii_string_to_unsigned(arg ? arg : "", 10, 0, INT64_MAX >> 20, &mib, NULL)) {
        error_set(err, FERRY_ERROR_USER, "'%s' is no number of MiB", arg ? arg : "");
        return;
    }
    qmp_balloon(vm, &(struct qmp_balloon_arg){ .value = (int64_t)(mib << 20) }, err);
}

static void run_hostfwd_add(struct vm *vm, GString *out, const char *arg,
                            GError **err G_GNUC_UNUSED)
{
    net_hostfwd(vm->net, true, arg ? arg : "", out);
}

static void run_hostfwd_remove(struct vm *vm, GString *out, const char *arg,
                               GError **err G_GNUC_UNUSED)
{
    net_hostfwd(vm->net, false, arg ? arg : "", out);
}

static const struct hmp_command commands[] = {
    { "balloon", NULL, "target", "ask the guest to leave itself so many MiB", run_balloon },
    { "cont", "c", "", "let the guest run", run_cont },
    { "help", "?", "[cmd]", "show the help", run_help },
    { "hostfwd_add", NULL, "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
      "let a port of the host lead to the guest", run_hostfwd_add },
    { "hostfwd_remove", NULL, "[netdev_id] [tcp|udp]:[hostaddr]:hostport", "take such a port back",
      run_hostfwd_remove },
    { "info", NULL, "[subcommand]", "show various information about the system state", run_info },
    { "migrate_cancel", NULL, "", "give up the migration", run_migrate_cancel },
    { "quit", "q", "", "end Ferry", run_quit },
    { "stop", "s", "", "stop the guest", run_stop },
    { "system_powerdown", NULL, "", "press the power button", run_system_powerdown },
    { "system_reset", NULL, "", "reset the machine", run_system_reset },
    { 0 },
};

static const struct hmp_command *find(const struct hmp_command *table, const char *name)
{
    for (; table->name; table++) {
        if (!strcmp(table->name, name) || (table->alias && !strcmp(table->alias, name))) {
            return table;
        }
    }
    return NULL;
}

static void print_help(GString *out, const char *prefix, const struct hmp_command *command)
{
    print(out, "%s%s%s%s %s -- %s", prefix, command->name, command->alias ? "|" : "",
          command->alias ? command->alias : "", command->params, command->help);
}

static void print_help_table(GString *out, const char *prefix, const struct hmp_command *table)
{
    for (; table->name; table++) {
        print_help(out, prefix, table);
    }
}

/* Splits the first word off a line; *rest is NULL when nothing follows. */
static char *first_word(const char *line, const char **rest)
{
    size_t length;

    line += strspn(line, " \t");
    length = strcspn(line, " \t");
    *rest = line + length + strspn(line + length, " \t");
    if (!**rest) {
        *rest = NULL;
    }
    return g_strndup(line, length);
}

/* Runs one line against a table; prefix is what was typed before it. */
static void run_line(struct vm *vm, GString *out, const char *prefix,
                     const struct hmp_command *table, const char *line)
{
    const char *arg;
    g_autofree char *name = first_word(line, &arg);
    const struct hmp_command *command = find(table, name);
    g_autoptr(GError) error = NULL;

    if (!command) {
        print(out, "unknown command: '%s%s'", prefix, name);
        return;
    }
    if (arg && !*command->params) {
        print(out, "%s: extraneous characters at the end of line", name);
        print(out, "Try \"help %s%s\" for more information", prefix, name);
        return;
    }
    command->run(vm, out, arg, &error);
    if (error) {
        print(out, "Error: %s", error->message);
    }
}

static void run_info(struct vm *vm, GString *out, const char *arg, GError **err G_GNUC_UNUSED)
{
    if (!arg) {
        print_help_table(out, "info ", info_pages);
    } else {
        run_line(vm, out, "info ", info_pages, arg);
    }
}

static void run_help(struct vm *vm G_GNUC_UNUSED, GString *out, const char *arg,
                     GError **err G_GNUC_UNUSED)
{
    const char *rest = NULL;
    g_autofree char *name = arg ? first_word(arg, &rest) : NULL;
    const struct hmp_command *command = name ? find(commands, name) : NULL;

    if (!name) {
        print_help_table(out, "", commands);
    } else if (!command) {
        print(out, "unknown command: '%s'", name);
    } else if (strcmp(name, "info")) {
        print_help(out, "", command);
    } else if (!rest) {
        print_help_table(out, "info ", info_pages);
    } else {
        g_autofree char *page = first_word(rest, &rest);
        const struct hmp_command *info = find(info_pages, page);

        if (info) {
            print_help(out, "info ", info);
        } else {
            print(out, "unknown command: 'info %s'", page);
        }
    }
}

char *qmp_human_monitor_command(struct vm *vm, const struct qmp_human_monitor_command_arg *arg,
                                GError **err)
{
    GString *out;

    if (arg->has_cpu_index) {
        g_autoptr(GPtrArray) cpus = qmp_query_cpus_fast(vm, err);

        if (!cpus) {
            return NULL;
        }
        if (arg->cpu_index < 0 || arg->cpu_index >= cpus->len) {
            error_set(err, FERRY_ERROR_USER, "Parameter 'cpu-index' expects a CPU number");
            return NULL;
        }
    }
    out = g_string_new(NULL);
    if (arg->command_line[strspn(arg->command_line, " \t")]) {
        run_line(vm, out, "", commands, arg->command_line);
    }
    return g_string_free(out, FALSE);
}
