/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Options about what the guest and its user are connected to. Most only remember what was asked;
 * main() opens chardevs, monitors and objects in its own order and then names the option again.
 */
#include "options-internal.h"

#include <stdio.h>
#include <string.h>

#include "block/block.h"
#include "hw/device.h"
#include "net/net.h"
#include "system/keyval.h"
#include "util/error.h"

#define MACHINE_SERIAL_PORTS 1 /* of microvm */

/* Kinds that QEMU has, and what to do without them. */
static const struct {
    const char *option, *key, *kind, *remedy;
} absent[] = {
    { "object", "qom-type", "iothread",
      "all devices share the machine's I/O thread, leave it out" },
    { "object", "qom-type", "throttle-group", "limit a disk with the host's io.max" },
    { "object", "qom-type", "secret", "nothing here is encrypted" },
    { "object", "qom-type", "tls-creds-x509", "TLS is not offered, move through a tunnel" },
    { "object", "qom-type", "tls-creds-psk", "TLS is not offered, move through a tunnel" },
    { "object", "qom-type", "rng-egd", "use rng-random" },
    { "object", "qom-type", "memory-backend-epc", "there are no enclaves" },
    { "netdev", "type", "bridge", "make a tap in the bridge and use type=tap with ifname=" },
    { "netdev", "type", "hubport", "there are no hubs, use user or tap" },
    { "netdev", "type", "l2tpv3", "use user or tap" },
    { "netdev", "type", "socket", "use user or tap" },
    { "netdev", "type", "stream", "use user or tap" },
    { "netdev", "type", "dgram", "use user or tap" },
    { "netdev", "type", "vde", "use user or tap" },
    { "netdev", "type", "vhost-user", "frames must pass through Ferry, use tap" },
    { "netdev", "type", "vhost-vdpa", "frames must pass through Ferry, use tap" },
    { "blockdev", "driver", "qcow2", "images are raw" },
    { "blockdev", "driver", "qed", "images are raw" },
    { "blockdev", "driver", "vmdk", "images are raw" },
    { "blockdev", "driver", "vdi", "images are raw" },
    { "blockdev", "driver", "vpc", "images are raw" },
    { "blockdev", "driver", "vhdx", "images are raw" },
    { "blockdev", "driver", "luks", "images are raw" },
    { "blockdev", "driver", "nbd", "images are files and block devices of the host" },
    { "blockdev", "driver", "rbd", "images are files and block devices of the host" },
    { "blockdev", "driver", "iscsi", "images are files and block devices of the host" },
    { "blockdev", "driver", "nvme", "images are files and block devices of the host" },
    { "blockdev", "driver", "throttle", "limit a disk with the host's io.max" },
};

static bool is_offered(const char *option, const json_t *opts, GError **err)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(absent); i++) {
        const char *kind = json_string_value(json_object_get(opts, absent[i].key));

        if (kind && g_str_equal(option, absent[i].option) && g_str_equal(kind, absent[i].kind)) {
            error_set(err, FERRY_ERROR_USER, "Parameter '%s' does not accept value '%s': %s",
                      absent[i].key, kind, absent[i].remedy);
            return false;
        }
    }
    return true;
}

bool option_object(struct options *o, const char *arg, GError **err)
{
    bool is_json;
    json_t *opts;

    if (strcmp(arg, "help") == 0) {
        printf("List of user creatable objects:\n"
               "  memory-backend-file\n  memory-backend-memfd\n  memory-backend-ram\n"
               "  rng-builtin\n  rng-random\n");
        o->done = true;
        return true;
    }
    opts = keyval_parse_or_json(arg, "qom-type", o->warnings, &is_json, err);
    if (!opts || !is_offered("object", opts, err)) {
        json_decref(opts);
        return false;
    }
    option_remember(o->objects, "object", arg, opts, is_json);
    return true;
}

bool option_device(struct options *o, const char *arg, GError **err)
{
    g_auto(GStrv) words = g_strsplit(arg, ",", 3);
    json_t *opts;
    bool is_json;

    if (strcmp(arg, "help") == 0) {
        device_print_list();
        o->done = true;
        return true;
    }
    if (words[0] && words[1] && !words[2] && strcmp(words[1], "help") == 0) {
        o->done = true;
        return device_print_properties(words[0], err);
    }
    opts = keyval_parse_or_json(arg, "driver", o->warnings, &is_json, err);
    if (!opts) {
        return false;
    }
    option_remember(o->devices, "device", arg, opts, is_json);
    return true;
}

bool option_chardev(struct options *o, const char *arg, GError **err)
{
    json_t *opts;

    if (strcmp(arg, "help") == 0) {
        printf("Available chardev backend types: \n"
               "  file\n  null\n  pty\n  socket\n  stdio\n");
        o->done = true;
        return true;
    }
    opts = keyval_parse(arg, "backend", o->warnings, err);
    if (!opts) {
        return false;
    }
    if (!json_object_get(opts, "backend")) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'backend' is missing");
        json_decref(opts);
        return false;
    }
    option_remember(o->chardevs, "chardev", arg, opts, false);
    return true;
}

bool option_netdev(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = NULL;
    bool is_json;
    Netdev *netdev;

    if (strcmp(arg, "help") == 0) {
        printf("Available netdev backend types:\ntap\nuser\n");
        o->done = true;
        return true;
    }
    opts = keyval_parse_or_json(arg, "type", NULL, &is_json, NULL);
    if (opts && !is_offered("netdev", opts, err)) {
        return false;
    }
    netdev = net_parse_option(arg, err);
    if (!netdev) {
        return false;
    }
    qapi_netdev_free(netdev);
    option_remember(o->netdevs, "netdev", arg, NULL, false);
    return true;
}

bool option_net(struct options *o G_GNUC_UNUSED, const char *arg, GError **err)
{
    if (strcmp(arg, "none") == 0) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER,
              "Only 'none' is possible: make a back end with -netdev and a device with -device");
    return false;
}

bool option_blockdev(struct options *o, const char *arg, GError **err)
{
    bool is_json;
    json_t *opts = keyval_parse_or_json(arg, "driver", NULL, &is_json, err);

    if (!opts || !is_offered("blockdev", opts, err)) {
        json_decref(opts);
        return false;
    }
    option_remember(o->blockdevs, "blockdev", arg, opts, is_json);
    return true;
}

bool option_drive(struct options *o, const char *arg, GError **err)
{
    json_t *opts;

    if (strcmp(arg, "help") == 0) {
        block_print_drive_help();
        o->done = true;
        return true;
    }
    opts = keyval_parse(arg, "file", NULL, err);
    if (opts && !json_object_get(opts, "if")) {
        error_set(err, FERRY_ERROR_USER,
                  "The machine has no disk controllers: give if=none, and the device with -device "
                  "virtio-blk-device,drive=ID");
        json_decref(opts);
        return false;
    }
    if (opts) {
        option_remember(o->drives, "drive", arg, opts, false);
    }
    return opts != NULL;
}

bool option_serial(struct options *o, const char *arg, GError **err)
{
    if (o->serials->len == MACHINE_SERIAL_PORTS) {
        error_set(err, FERRY_ERROR_USER, "The machine has only %u serial port",
                  MACHINE_SERIAL_PORTS);
        return false;
    }
    option_remember(o->serials, "serial", arg, NULL, false);
    return true;
}

struct mon_options {
    char *chardev, *id;
    unsigned mode;
    bool pretty;
};

enum { MON_READLINE, MON_CONTROL };

static const struct keyval_field mon_fields[] = {
    KEYVAL_ROW("chardev", KEYVAL_STRING, struct mon_options, chardev),
    KEYVAL_ROW("id", KEYVAL_STRING, struct mon_options, id),
    KEYVAL_ROW(
        "mode", KEYVAL_ENUM, struct mon_options, mode,
        .names =
            (const char *const[]){ [MON_READLINE] = "readline", [MON_CONTROL] = "control", NULL }),
    KEYVAL_ROW("pretty", KEYVAL_BOOL, struct mon_options, pretty),
    {},
};

/* Every way to ask for a QMP server ends as {"spec": ..., "pretty": bool} in o->monitors. */
static void add_qmp(struct options *o, const char *option, const char *arg, const char *spec,
                    bool pretty)
{
    option_remember(o->monitors, option, arg,
                    json_pack("{s:s, s:b}", "spec", spec, "pretty", pretty), false);
}

bool option_mon(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, "chardev", o->warnings, err);
    struct mon_options mon = { .mode = MON_READLINE };
    bool ok = opts && keyval_read(mon_fields, opts, &mon, err);

    if (ok && !mon.chardev) {
        error_set(err, FERRY_ERROR_USER, "Parameter 'chardev' is missing");
        ok = false;
    }
    if (ok && mon.mode != MON_CONTROL) {
        error_set(err, FERRY_ERROR_USER,
                  "The monitor for people is not offered, use mode=control for QMP");
        ok = false;
    }
    if (ok) {
        g_autofree char *spec = g_strconcat("chardev:", mon.chardev, NULL);

        add_qmp(o, "mon", arg, spec, mon.pretty);
    }
    g_free(mon.chardev);
    g_free(mon.id);
    return ok;
}

bool option_qmp(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    add_qmp(o, "qmp", arg, arg, false);
    return true;
}

bool option_qmp_pretty(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    add_qmp(o, "qmp-pretty", arg, arg, true);
    return true;
}

bool option_monitor(struct options *o G_GNUC_UNUSED, const char *arg, GError **err)
{
    if (strcmp(arg, "none") == 0 || strcmp(arg, "null") == 0) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER,
              "The monitor for people is not offered, use -qmp and human-monitor-command");
    return false;
}

bool option_qtest(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    option_set_string(&o->qtest, arg);
    return true;
}

bool option_qtest_log(struct options *o, const char *arg, GError **err G_GNUC_UNUSED)
{
    option_set_string(&o->qtest_log, arg);
    return true;
}

bool option_add_fd(struct options *o, const char *arg, GError **err)
{
    json_t *opts = keyval_parse(arg, NULL, NULL, err);

    if (!opts) {
        return false;
    }
    option_remember(o->fds, "add-fd", arg, opts, false);
    return true;
}

static bool only_none(const char *arg, const char *what, GError **err)
{
    if (strcmp(arg, "none") == 0) {
        return true;
    }
    error_set(err, FERRY_ERROR_USER, "Only 'none' is possible, there is no %s", what);
    return false;
}

bool option_display(struct options *o G_GNUC_UNUSED, const char *arg, GError **err)
{
    return only_none(arg, "display", err);
}

bool option_vga(struct options *o G_GNUC_UNUSED, const char *arg, GError **err)
{
    return only_none(arg, "graphics card", err);
}

bool option_nographic(struct options *o, const char *arg G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    o->nographic = true;
    return true;
}

bool option_nodefaults(struct options *o, const char *arg G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    o->nodefaults = true;
    return true;
}

bool option_no_user_config(struct options *o G_GNUC_UNUSED, const char *arg G_GNUC_UNUSED,
                           GError **err G_GNUC_UNUSED)
{
    return true;
}

struct audiodev_options {
    char *id;
};

static const struct keyval_field audiodev_fields[] = {
    KEYVAL_ROW("id", KEYVAL_STRING, struct audiodev_options, id),
    KEYVAL_FIXED_ROW("driver", "there is no sound", "none"),
    {},
};

bool option_audiodev(struct options *o G_GNUC_UNUSED, const char *arg, GError **err)
{
    struct audiodev_options audio = {};
    bool is_json, ok;
    g_autoptr(json_t) opts = keyval_parse_or_json(arg, "driver", NULL, &is_json, err);

    ok = opts && keyval_read(audiodev_fields, opts, &audio, err);
    if (ok && (!audio.id || !json_object_get(opts, "driver"))) {
        error_set(err, FERRY_ERROR_USER, "Parameter '%s' is missing", audio.id ? "driver" : "id");
        ok = false;
    }
    g_free(audio.id);
    return ok;
}
