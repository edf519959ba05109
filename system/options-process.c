/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options about the guest as a whole and about the process: names, life, messages, defaults. */
#include "options-internal.h"

#include <string.h>

#include "hw/device.h"
#include "migration/migration.h"
#include "system/keyval.h"
#include "util/error.h"

struct name_options {
    char *guest, *process;
    bool debug_threads;
};

static const struct keyval_field name_fields[] = {
    KEYVAL_ROW("guest", KEYVAL_STRING, struct name_options, guest),
    KEYVAL_ROW("process", KEYVAL_STRING, struct name_options, process),
    KEYVAL_ROW("debug-threads", KEYVAL_BOOL, struct name_options, debug_threads),
    {},
};

bool option_name(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, "guest", o->warnings, err);
    struct name_options names = {};
    bool ok = opts && keyval_read(name_fields, opts, &names, err);

    if (names.guest) {
        option_set_string(&o->name, names.guest);
    }
    if (names.process) {
        option_set_string(&o->process_name, names.process);
    }
    g_free(names.guest);
    g_free(names.process);
    return ok;
}

bool option_uuid(struct options *o, const char *arg, GError **err)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    unsigned digits = 0;
    uint8_t uuid[16] = {};

    for (size_t i = 0; i < sizeof(form); i++) {
        if (form[i] == 'x' ? !g_ascii_isxdigit(arg[i]) : arg[i] != form[i]) {
            error_set(err, FERRY_ERROR_USER, "failed to parse UUID string: wrong format");
            return false;
        }
        if (form[i] == 'x') {
            uuid[digits / 2] = uuid[digits / 2] << 4 | g_ascii_xdigit_value(arg[i]);
            digits++;
        }
    }
    memcpy(o->uuid, uuid, sizeof(uuid));
    o->uuid_set = true;
    return true;
}

static const struct keyval_field msg_fields[] = {
    KEYVAL_ROW("timestamp", KEYVAL_BOOL, struct options, timestamp),
    KEYVAL_ROW("guest-name", KEYVAL_BOOL, struct options, timestamp_guest_name),
    {},
};

bool option_msg(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, NULL, o->warnings, err);

    return opts && keyval_read(msg_fields, opts, o, err);
}

/*
 * DRIVER.PROP=VALUE or driver=D,property=P,value=V. The driver and the property must exist, as far
 * as they are known before the machine is built.
 */
bool option_global(struct options *o, const char *arg, GError **err)
{
    const char *dot = strchr(arg, '.'), *equals = strchr(arg, '=');
    const char *driver, *property, *value;
    const struct device_class *class;
    g_autoptr(json_t) opts = NULL;

    if (dot && equals && dot < equals) {
        opts = json_object();
        json_object_set_new(opts, "driver", json_stringn(arg, dot - arg));
        json_object_set_new(opts, "property", json_stringn(dot + 1, equals - dot - 1));
        json_object_set_new(opts, "value", json_string(equals + 1));
    } else {
        opts = keyval_parse(arg, NULL, NULL, err);
        if (!opts) {
            return false;
        }
    }
    if (json_unpack(opts, "{s:s, s:s, s:s !}", "driver", &driver, "property", &property, "value",
                    &value) != 0 ||
        !*driver || !*property) {
        error_set(err, FERRY_ERROR_USER,
                  "DRIVER.PROPERTY=VALUE is expected, or driver=, property= and value=");
        return false;
    }
    class = device_class_find(driver);
    if (class) {
        const struct property *p = class->properties;

        while (p && p->name && strcmp(p->name, property) != 0) {
            p++;
        }
        if (!p || !p->name) {
            error_set(err, FERRY_ERROR_USER, "Property '%s.%s' not found", driver, property);
            return false;
        }
    } else {
        error_set(err, FERRY_ERROR_USER, "There is no driver '%s'", driver);
        return false;
    }
    option_remember(o->globals, "global", arg, g_steal_pointer(&opts), false);
    return true;
}

struct action_options {
    unsigned reboot, shutdown;
};

static const struct keyval_field action_fields[] = {
    KEYVAL_ROW("reboot", KEYVAL_ENUM, struct action_options, reboot,
               .names = (const char *const[]){ "reset", "shutdown", NULL }),
    KEYVAL_ROW("shutdown", KEYVAL_ENUM, struct action_options, shutdown,
               .names = (const char *const[]){ "poweroff", "pause", NULL }),
    KEYVAL_FIXED_ROW("panic", "it is none of pause, shutdown, exit-failure and none", "pause",
                     "shutdown", "exit-failure", "none"),
    KEYVAL_FIXED_ROW("watchdog",
                     "it is none of reset, shutdown, poweroff, pause, debug, none and inject-nmi",
                     "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"),
    {},
};

bool option_action(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, NULL, NULL, err);
    struct action_options actions = { o->no_reboot, o->no_shutdown };

    if (!opts || !keyval_read(action_fields, opts, &actions, err)) {
        return false;
    }
    o->no_reboot = actions.reboot;
    o->no_shutdown = actions.shutdown;
    return true;
}

bool option_no_reboot(struct options *o, const char *arg G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    o->no_reboot = true;
    return true;
}

bool option_no_shutdown(struct options *o, const char *arg G_GNUC_UNUSED,
                        GError **err G_GNUC_UNUSED)
{
    o->no_shutdown = true;
    return true;
}

bool option_S(struct options *o, const char *arg G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    o->paused = true;
    return true;
}

bool option_only_migratable(struct options *o, const char *arg G_GNUC_UNUSED,
                            GError **err G_GNUC_UNUSED)
{
    o->only_migratable = true;
    return true;
}

bool option_migrate_blocker(struct options *o, const char *arg, GError **err)
{
    if (!migration_reason_valid(arg, err)) {
        return false;
    }
    option_set_string(&o->migrate_blocker, arg);
    return true;
}

bool option_incoming(struct options *o, const char *arg, GError **err)
{
    if (!arg[0]) {
        error_set(err, FERRY_ERROR_USER, "A URI or 'defer' is expected");
        return false;
    }
    option_set_string(&o->config.incoming, arg);
    return true;
}

bool option_daemonize(struct options *o, const char *arg G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    o->daemonize = true;
    return true;
}

bool option_pidfile(struct options *o, const char *arg, GError **err)
{
    if (!arg[0]) {
        error_set(err, FERRY_ERROR_USER, "The name of the file is missing");
        return false;
    }
    option_set_string(&o->pidfile, arg);
    return true;
}

static const char *const allow_deny[] = {
    [SANDBOX_ALLOW] = "allow", [SANDBOX_DENY] = "deny", NULL
};
static const char *const allow_deny_children[] = {
    [SANDBOX_ALLOW] = "allow", [SANDBOX_DENY] = "deny", [SANDBOX_CHILDREN] = "children", NULL
};

static const struct keyval_field sandbox_fields[] = {
    KEYVAL_ROW("enable", KEYVAL_BOOL, struct options, sandbox.enable),
    KEYVAL_ROW("obsolete", KEYVAL_ENUM, struct options, sandbox.obsolete, .names = allow_deny),
    KEYVAL_ROW("elevateprivileges", KEYVAL_ENUM, struct options, sandbox.elevate_privileges,
               .names = allow_deny_children),
    KEYVAL_ROW("spawn", KEYVAL_ENUM, struct options, sandbox.spawn, .names = allow_deny),
    KEYVAL_ROW("resourcecontrol", KEYVAL_ENUM, struct options, sandbox.resource_control,
               .names = allow_deny),
    {},
};

bool option_sandbox(struct options *o, const char *arg, GError **err)
{
    g_autoptr(json_t) opts = keyval_parse(arg, "enable", NULL, err);

    /* obsolete system calls are the only ones denied unless allowed */
    o->sandbox.obsolete = SANDBOX_DENY;
    return opts && keyval_read(sandbox_fields, opts, o, err);
}
