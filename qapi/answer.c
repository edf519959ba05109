/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Answers to commands, given at once or later; see include/qapi/command.h. */
#include "command-internal.h"

void qmp_command_start(const struct qmp_command *command, struct vm *vm, json_t *arguments,
                       struct qmp_answer *answer)
{
    g_autoptr(GError) error = NULL;
    void *arg = NULL;

    if (!command->call_deferred) {
        json_t *ret = qmp_command_call(command, vm, arguments, &error);

        answer->send(answer, ret, error);
        return;
    }
    if (qmp_arguments_read(command, arguments, &arg, &error)) {
        bool started = command->call_deferred(vm, arg, answer, &error);

        qmp_arguments_free(command, arg);
        if (started) {
            return;
        }
    }
    answer->send(answer, NULL, error);
}

void qmp_answer_give(struct qmp_answer *answer, const struct qapi_type *type, void *value,
                     GError *error)
{
    void *const *result = value;

    if (*result) {
        answer->send(answer, qapi_write(type, value), NULL);
        qapi_clear(type, value);
    } else {
        answer->send(answer, NULL, error);
    }
    g_clear_error(&error);
}
