/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands of the schema as data: "qapi/qapi-commands.h" declares their handlers, and the generated
 * table qmp_commands[] (sorted as in the schema) leads to them. The QMP server and tests call
 * handlers only through qmp_command_start() and qmp_command_call().
 */
#ifndef QAPI_COMMAND_H
#define QAPI_COMMAND_H

#include "qapi/type.h"

struct vm;

/*
 * Where the answer to a command goes. Who serves a client embeds it in its own record of the
 * request. send() is called exactly once, main loop thread, machine lock held, with exactly one of
 * ret (stolen) and error set; the answer is gone afterwards.
 */
struct qmp_answer {
    void (*send)(struct qmp_answer *answer, json_t *ret, const GError *error);
};

struct qmp_command {
    const char *name;
    const struct qapi_type *arg; /* NULL: takes none, or raw JSON when gen is false */
    bool allow_oob;
    bool gen; /* false: arguments and result pass as JSON, unchecked by the schema */
    /* arg points to the arguments as a C struct (or is a json_t * when gen is false), *ret is set
     * to the JSON result, or stays NULL for none */
    bool (*call)(struct vm *vm, void *arg, json_t **ret, GError **err);
    /* of a command with 'deferred' in the schema, which has no call: true when the answer was or
     * will be given, false with *err set when it was not touched */
    bool (*call_deferred)(struct vm *vm, void *arg, struct qmp_answer *answer, GError **err);
};

extern const struct qmp_command qmp_commands[];
extern const size_t qmp_command_count;

/* Looks a command up by name; NULL when there is none. */
const struct qmp_command *qmp_command_find(const char *name);

/*
 * Checks the arguments (borrowed; NULL for none) against the schema, runs the handler on the
 * calling thread, and returns the "return" member of the answer, which the caller owns; NULL with
 * *err set when it failed. Not for deferred commands. Main loop thread, machine lock held.
 */
json_t *qmp_command_call(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                         GError **err);
/*
 * The same for any command; the answer, an error included, goes through `answer`: before the return
 * or, for a deferred command, maybe later.
 */
void qmp_command_start(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                       struct qmp_answer *answer);

/* For the generated qmp_..._answer(): value points to a result of this type (stolen), error is
 * stolen too. */
void qmp_answer_give(struct qmp_answer *answer, const struct qapi_type *type, void *value,
                     GError *error);

/* The introspection document, as query-qmp-schema returns it; the caller owns it. */
json_t *qapi_introspection(void);

#endif
