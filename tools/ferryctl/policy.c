/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command policy: what a machine does by itself when a migration makes no progress. */
#include "policy.h"
#include "machines.h"
#include "move.h"
#include "text.h"

#include <string.h>

/* "3:downtime-limit=500". Which actions there are is the machine's business. */
static json_t *parse_step(const char *text, GError **err)
{
    const char *colon = strchr(text, ':');
    const char *equals = colon ? strchr(colon, '=') : NULL;
    g_autofree char *stalls = colon ? g_strndup(text, (gsize)(colon - text)) : NULL;
    g_autofree char *action = NULL;
    uint64_t n, value = 0;

    if (!colon || !colon[1] || equals == colon + 1) {
        ctl_fail(err, CTL_USAGE,
                 "'%s' is no step: give STALLS:ACTION or STALLS:ACTION=VALUE, as in "
                 "3:downtime-limit=500",
                 text);
        return NULL;
    }
    if (!text_parse_count("number of stalls", stalls, 0, 1000000, &n, err) ||
        (equals && !text_parse_count("value of a step", equals + 1, 0, INT64_MAX, &value, err))) {
        return NULL;
    }
    action = equals ? g_strndup(colon + 1, (gsize)(equals - colon - 1)) : g_strdup(colon + 1);
    return equals ? json_pack("{s:I, s:s, s:I}", "stalls", (json_int_t)n, "action", action, "value",
                              (json_int_t)value)
                  : json_pack("{s:I, s:s}", "stalls", (json_int_t)n, "action", action);
}

static bool put_time(json_t *arguments, const char *name, const char *text, int64_t unit_ms,
                     GError **err)
{
    int64_t ms;

    if (!text) {
        return true;
    }
    if (!text_parse_duration(text, &ms, err)) {
        return false;
    }
    /* never less than asked for: 0 would be "none" */
    json_object_set_new(arguments, name, json_integer((ms + unit_ms - 1) / unit_ms));
    return true;
}

json_t *policy_arguments(const struct policy_options *o, GError **err)
{
    g_autoptr(json_t) arguments = json_pack("{s:s}", "policy", o->name);

    if (!arguments) {
        ctl_fail(err, CTL_USAGE, "The name of the policy is not UTF-8 text");
        return NULL;
    }
    if (o->steps) {
        json_t *steps = json_array();

        json_object_set_new(arguments, "steps", steps);
        for (char **s = o->steps; *s; s++) {
            json_t *step = parse_step(*s, err);

            if (!step) {
                return NULL;
            }
            json_array_append_new(steps, step);
        }
    }
    if (!put_time(arguments, "completion-timeout-per-gib", o->completion_timeout_per_gib, 1000,
                  err) ||
        !put_time(arguments, "completion-timeout", o->completion_timeout, 1, err) ||
        !put_time(arguments, "progress-timeout", o->progress_timeout, 1000, err) ||
        !put_time(arguments, "max-downtime", o->max_downtime, 1, err)) {
        return NULL;
    }
    if (o->auto_converge) {
        json_object_set_new(arguments, "allow-auto-converge", json_true());
    }
    if (o->post_copy) {
        json_object_set_new(arguments, "allow-post-copy", json_true());
    }
    return g_steal_pointer(&arguments);
}

json_t *policy_with_timeout(qmp *q, int64_t ms, GError **err)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) policy = qmp_execute(q, "query-migrate-policy", NULL, &error);

    if (!policy) {
        if (!qmp_is_missing(q)) {
            g_propagate_error(err, g_steal_pointer(&error));
        }
        return NULL;
    }
    if (!json_object_get(policy, "completion-timeout")) {
        return NULL;
    }
    if (g_strcmp0(json_string_value(json_object_get(policy, "policy")), "custom") != 0) {
        json_object_del(policy, "steps"); /* they are the name's */
    }
    json_object_set_new(policy, "completion-timeout", json_integer(ms));
    return g_steal_pointer(&policy);
}

static int no_policies(qmp *q, GError **err)
{
    ctl_fail(err, CTL_REFUSED, "This machine (%s) has no migration policies", qmp_version(q));
    return CTL_REFUSED;
}

bool policy_set(qmp *q, json_t *arguments, GError **err)
{
    g_autoptr(GError) error = NULL;

    if (qmp_do(q, "migrate-set-policy", arguments, &error)) {
        return true;
    }
    if (qmp_is_missing(q)) {
        no_policies(q, err);
    } else {
        g_propagate_error(err, g_steal_pointer(&error));
    }
    return false;
}

static void print_member(const struct ctl *ctl, const char *name, json_t *value)
{
    g_autofree char *label = text_clean(name, ctl->utf8);
    g_autofree char *text = NULL;

    if (json_is_string(value)) {
        text = text_clean(json_string_value(value), ctl->utf8);
    } else if (json_is_boolean(value)) {
        text = g_strdup(json_is_true(value) ? "yes" : "no");
    } else if (json_is_number(value)) {
        const char *unit = !strcmp(name, "max-downtime") || !strcmp(name, "completion-timeout")
                               ? " ms"
                           : strstr(name, "timeout") ? " s"
                                                     : "";

        text = json_number_value(value) == 0 && *unit
                   ? g_strdup("none")
                   : g_strdup_printf("%.0f%s", json_number_value(value), unit);
    } else {
        return;
    }
    g_print("%-27s %s\n", label, text);
}

static void print_policy(const struct ctl *ctl, json_t *policy)
{
    json_t *steps = json_object_get(policy, "steps");
    const char *name;
    json_t *value, *step;
    size_t i;

    json_object_foreach(policy, name, value)
    {
        print_member(ctl, name, value);
    }
    json_array_foreach(steps, i, step)
    {
        const char *action = json_string_value(json_object_get(step, "action"));
        json_t *number = json_object_get(step, "value");
        double value = json_is_number(number) ? json_number_value(number) : -1;
        g_autofree char *clean = text_clean(action ? action : "?", ctl->utf8);
        const struct move_decision d = { .action = clean,
                                         .value = (int64_t)CLAMP(value, -1, 0x1p53) };
        g_autofree char *what = move_decision_text(&d);

        g_print("after %3.0f stalls            %s\n",
                json_number_value(json_object_get(step, "stalls")), what);
    }
}

static int show(const struct ctl *ctl, qmp *q, GError **err)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_t) policy = qmp_execute(q, "query-migrate-policy", NULL, &error);

    if (!policy && qmp_is_missing(q)) {
        return no_policies(q, err);
    }
    if (!policy) {
        g_propagate_error(err, g_steal_pointer(&error));
        return CTL_REFUSED;
    }
    if (ctl->json) {
        json_t *o = json_pack("{s:s, s:O}", "type", "policy", "policy", policy);

        ctl_print_json(o);
    } else {
        print_policy(ctl, policy);
    }
    return CTL_DONE;
}

static int policy_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                      GError **err)
{
    g_auto(GStrv) steps = NULL;
    g_autofree char *per_gib = NULL;
    g_autofree char *completion = NULL;
    g_autofree char *progress = NULL;
    g_autofree char *downtime = NULL;
    gboolean auto_converge = FALSE, post_copy = FALSE;
    const GOptionEntry entries[] = {
        { "step", 0, 0, G_OPTION_ARG_STRING_ARRAY, &steps,
          "a step of the policy custom; may be given often", "STALLS:ACTION[=VALUE]" },
        { "max-downtime", 0, 0, G_OPTION_ARG_STRING, &downtime, "no step allows a longer pause",
          "TIME" },
        { "completion-timeout-per-gib", 0, 0, G_OPTION_ARG_STRING, &per_gib,
          "for the whole move, for each GiB of memory", "TIME" },
        { "completion-timeout", 0, 0, G_OPTION_ARG_STRING, &completion,
          "for the whole move, however large", "TIME" },
        { "progress-timeout", 0, 0, G_OPTION_ARG_STRING, &progress, "without progress", "TIME" },
        { "allow-auto-converge", 0, 0, G_OPTION_ARG_NONE, &auto_converge,
          "steps may slow the guest down", NULL },
        { "allow-post-copy", 0, 0, G_OPTION_ARG_NONE, &post_copy, "steps may switch to post-copy",
          NULL },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 0, 1, err);
    struct policy_options options;
    g_autoptr(qmp) q = NULL;
    g_autoptr(json_t) arguments = NULL;

    if (!rest) {
        return CTL_USAGE;
    }
    options = (struct policy_options){ rest[0],  steps,    per_gib,       completion,
                                       progress, downtime, auto_converge, post_copy };
    if (!rest[0] &&
        (steps || per_gib || completion || progress || downtime || auto_converge || post_copy)) {
        ctl_fail(err, CTL_USAGE, "Options of a policy need its NAME, see ferryctl policy --help");
        return CTL_USAGE;
    }
    if ((rest[0] && !(arguments = policy_arguments(&options, err))) ||
        !(q = machines_connect(ctl, err)) ||
        (arguments && !policy_set(q, g_steal_pointer(&arguments), err))) {
        return CTL_USAGE;
    }
    return show(ctl, q, err);
}

const struct command command_policy = {
    .name = "policy",
    .arguments = "[NAME]",
    .summary = "show or set what happens when a migration makes no progress",
    .description =
        "Names: legacy, minimal-downtime, post-copy, suspend, very-large, custom. It is the "
        "machine that\nfollows the policy, so it holds when nobody watches.",
    .run = policy_run,
};
