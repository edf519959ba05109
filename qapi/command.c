/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a command's JSON arguments to its handler and back; see include/qapi/command.h. The handler
 * sees checked arguments only, and what it returns is converted by the same tables.
 *
 * Trust: none in the arguments, before read.c has built them; a handler then only has to judge what
 * they mean.
 */
#include "qapi/command.h"
#include "command-internal.h"

#include <string.h>

#include "qapi/qapi-introspect.h"
#include "util/error.h"

const struct qmp_command *qmp_command_find(const char *name)
{
    for (size_t i = 0; i < qmp_command_count; i++) {
        if (!strcmp(qmp_commands[i].name, name)) {
            return &qmp_commands[i];
        }
    }
    return NULL;
}

bool qmp_arguments_read(const struct qmp_command *command, json_t *arguments, void **arg,
                        GError **err)
{
    static const struct qapi_type no_arguments = { .kind = QAPI_KIND_OBJECT, .name = "object" };
    json_t *args = arguments ? json_incref(arguments) : json_object();
    bool ok = true;

    if (!command->gen) {
        *arg = args;
        return true;
    }
    ok = qapi_read(command->arg ? command->arg : &no_arguments, NULL, args, QAPI_READ_JSON, arg,
                   err);
    json_decref(args);
    return ok;
}

void qmp_arguments_free(const struct qmp_command *command, void *arg)
{
    if (!command->gen) {
        json_decref(arg);
    } else if (command->arg) {
        qapi_free_struct(command->arg, arg);
    } else {
        g_free(arg);
    }
}

json_t *qmp_command_call(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                         GError **err)
{
    GError *local = NULL;
    json_t *ret = NULL;
    void *arg = NULL;
    bool ok;

    if (!qmp_arguments_read(command, arguments, &arg, err)) {
        return NULL;
    }
    ok = command->call(vm, arg, &ret, &local);
    qmp_arguments_free(command, arg);
    if (ok) {
        g_clear_error(&local); /* a handler that succeeds has nothing to complain about */
        return ret ? ret : json_object();
    }
    json_decref(ret);
    if (!local) {
        error_set(&local, FERRY_ERROR_HOST, "Command '%s' failed without naming a reason",
                  command->name);
    }
    g_propagate_error(err, local);
    return NULL;
}

json_t *qapi_introspection(void)
{
    /* the literal is ours and known to be sound: the unit tests parse it */
    return json_loads(qapi_introspection_text, JSON_REJECT_DUPLICATES, NULL);
}
