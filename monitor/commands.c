/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands about the QMP server itself: negotiation, version, introspection; and the chardevs. */
#include "monitor-internal.h"

#include "chardev/chardev.h"
#include "qapi/qapi-commands.h"
#include "system/vm.h"
#include "util/error.h"

#ifndef FERRY_VERSION
#define FERRY_VERSION "unknown"
#endif

bool qmp_qmp_capabilities(struct vm *vm, const struct qmp_qmp_capabilities_arg *arg, GError **err)
{
    struct monitor *mon = vm->monitors->current;

    if (!mon) {
        error_set(err, FERRY_ERROR_USER, "Only a QMP client can negotiate its capabilities");
        return false;
    }
    /* the schema lets pass only what the greeting offers, that is oob */
    mon->oob = arg->enable && arg->enable->len > 0;
    mon->negotiated = true;
    return true;
}

VersionInfo *qmp_query_version(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    VersionInfo *info = g_new0(VersionInfo, 1);

    /* what clients of QEMU go by: the interface is that of this release */
    info->qemu = g_new0(VersionTriple, 1);
    info->qemu->major = 7;
    info->qemu->minor = 2;
    info->qemu->micro = 22;
    info->package = g_strdup("ferry-" FERRY_VERSION);
    return info;
}

GPtrArray *qmp_query_commands(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_command_info_list_new();

    for (size_t i = 0; i < qmp_command_count; i++) {
        CommandInfo *info = g_new0(CommandInfo, 1);

        info->name = g_strdup(qmp_commands[i].name);
        g_ptr_array_add(list, info);
    }
    return list;
}

json_t *qmp_query_qmp_schema(struct vm *vm G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    return qapi_introspection();
}

static void add_chardev(struct chardev *chr, void *opaque)
{
    ChardevInfo *info = g_new0(ChardevInfo, 1);

    info->label = g_strdup(chardev_id(chr));
    info->filename = chardev_describe(chr);
    info->frontend_open = chardev_frontend_open(chr);
    g_ptr_array_add(opaque, info);
}

GPtrArray *qmp_query_chardev(struct vm *vm, GError **err G_GNUC_UNUSED)
{
    GPtrArray *list = qapi_chardev_info_list_new();

    if (vm->chardevs) {
        chardev_foreach(vm->chardevs, add_chardev, list);
    }
    return list;
}
