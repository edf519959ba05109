/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between the files of the option parser: what the table in options.c refers to. */
#ifndef SYSTEM_OPTIONS_INTERNAL_H
#define SYSTEM_OPTIONS_INTERNAL_H

#include "qapi/json.h"
#include "system/options.h"

/* Handlers of one use of an option; arg is NULL where the option takes none. */
typedef bool option_fn(struct options *o, const char *arg, GError **err);

option_fn option_machine, option_accel, option_enable_kvm, option_cpu, option_smp, option_m,
    option_mem_path, option_mem_prealloc, option_kernel, option_initrd, option_append, option_bios,
    option_L, option_rtc, option_boot, option_overcommit, option_no_acpi;
option_fn option_name, option_uuid, option_msg, option_global, option_action, option_no_reboot,
    option_no_shutdown, option_S, option_only_migratable, option_migrate_blocker, option_incoming,
    option_daemonize, option_pidfile, option_sandbox;
option_fn option_object, option_device, option_blockdev, option_drive, option_chardev,
    option_serial, option_mon, option_qmp, option_qmp_pretty, option_monitor, option_qtest,
    option_qtest_log, option_add_fd, option_display, option_vga, option_nographic,
    option_nodefaults, option_no_user_config, option_audiodev, option_netdev, option_net;

/* What can only be checked when all options are known; fills in what follows from several. */
bool options_complete_machine(struct options *o, GError **err);

/* Replaces a string. */
void option_set_string(char **at, const char *value);
/* Remembers a use for main(); opts is stolen, may be NULL. */
void option_remember(GPtrArray *list, const char *option, const char *arg, json_t *opts,
                     bool is_json);

#endif
