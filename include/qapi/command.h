/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands of the schema as data: "qapi/qapi-commands.h" declares their handlers, and the generated
 * table qmp_commands[] (sorted as in the schema) leads to them. The QMP server and tests call
 * handlers only through qmp_command_call().
 */
#ifndef QAPI_COMMAND_H
#define QAPI_COMMAND_H

#include "qapi/type.h"

struct vm;

struct qmp_command {
    const char *name;
    const struct qapi_type *arg; /* NULL: takes none, or raw JSON when gen is false */
    bool allow_oob;
    bool gen; /* false: arguments and result pass as JSON, unchecked by the schema */
    /* arg points to the arguments as a C struct (or is a json_t * when gen is false), *ret is set
     * to the JSON result, or stays NULL for none */
    bool (*call)(struct vm *vm, void *arg, json_t **ret, GError **err);
};

extern const struct qmp_command qmp_commands[];
extern const size_t qmp_command_count;

/* Looks a command up by name; NULL when there is none. */
const struct qmp_command *qmp_command_find(const char *name);

/*
 * Checks the arguments (borrowed; NULL for none) against the schema, runs the handler on the
 * calling thread, and returns the "return" member of the answer, which the caller owns; NULL with
 * *err set when it failed. Main loop thread, machine lock held.
 */
json_t *qmp_command_call(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                         GError **err);

/* The introspection document, as query-qmp-schema returns it; the caller owns it. */
json_t *qapi_introspection(void);

#endif
