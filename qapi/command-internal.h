/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What commands that are answered at once (command.c) and later (answer.c) share. */
#ifndef QAPI_COMMAND_INTERNAL_H
#define QAPI_COMMAND_INTERNAL_H

#include "qapi/command.h"

/* Reads the arguments (borrowed, NULL for none); *arg is what the handler gets. */
bool qmp_arguments_read(const struct qmp_command *command, json_t *arguments, void **arg,
                        GError **err);
void qmp_arguments_free(const struct qmp_command *command, void *arg);

#endif
