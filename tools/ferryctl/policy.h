/* SPDX-License-Identifier: GPL-2.0-or-later */
/* migrate-set-policy's arguments from options. */
#ifndef FERRYCTL_POLICY_H
#define FERRYCTL_POLICY_H

#include "qmp.h"

/* The options that make a policy; shared by `policy` and `migrate`. Strings are as they were given.
 */
struct policy_options {
    const char *name; /* NULL: none */
    char **steps;     /* STALLS:ACTION[=VALUE] */
    const char *completion_timeout_per_gib, *progress_timeout, *max_downtime; /* durations */
    bool auto_converge, post_copy;                                            /* allow */
};

/* The arguments of migrate-set-policy, a new reference. */
json_t *policy_arguments(const struct policy_options *options, GError **err);
/* Sets it; a machine without the command is told apart in the error. */
bool policy_set(qmp *q, json_t *arguments, GError **err);

#endif
