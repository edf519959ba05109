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
    /* durations */
    const char *completion_timeout_per_gib, *completion_timeout, *progress_timeout, *max_downtime;
    bool auto_converge, post_copy; /* allow */
};

/* The arguments of migrate-set-policy, a new reference. */
json_t *policy_arguments(const struct policy_options *options, GError **err);
/*
 * The arguments that give the policy in force a completion timeout and leave the rest of it, a new
 * reference. NULL without *err: the machine has no such timeout.
 */
json_t *policy_with_timeout(qmp *q, int64_t ms, GError **err);
/* Sets it; a machine without the command is told apart in the error. */
bool policy_set(qmp *q, json_t *arguments, GError **err);

#endif
