/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command migrate: look, settle, check, go, watch.
 *
 * Nothing is changed before the options, the machine's state and its capabilities are known to be
 * good; what can still refuse after that is the check of the destination (exit status 3, settings
 * stay) and migrate itself. Settings that no option names are left as they are.
 */
#include "check.h"
#include "policy.h"
#include "text.h"
#include "watch.h"

#include <string.h>

#define TIMEOUT_GRACE_MS 2000

struct migrate_options {
    char *policy, *bandwidth, *max_downtime, *timeout, *peer, *post_copy_after, *interval;
    gboolean auto_converge, detach, no_check;

    /* parsed */
    uint64_t bandwidth_bytes, post_copy_rounds;
    int64_t max_downtime_ms, timeout_ms, interval_ms;
    enum check_peer peer_kind;
    char *uri;
    bool live;
};

static void clear_options(struct migrate_options *o)
{
    char **strings[] = { &o->policy, &o->bandwidth,       &o->max_downtime, &o->timeout,
                         &o->peer,   &o->post_copy_after, &o->interval,     &o->uri };

    for (unsigned i = 0; i < G_N_ELEMENTS(strings); i++) {
        g_clear_pointer(strings[i], g_free);
    }
}

static bool parse_bandwidth(const char *text, uint64_t *bytes, GError **err)
{
    if (!strcmp(text, "unlimited")) {
        *bytes = 0;
        return true;
    }
    return text_parse_bytes(text, bytes, err);
}

static bool parse_values(struct migrate_options *o, GError **err)
{
    o->interval_ms = WATCH_INTERVAL_MS;
    if ((o->bandwidth && !parse_bandwidth(o->bandwidth, &o->bandwidth_bytes, err)) ||
        (o->max_downtime && !text_parse_duration(o->max_downtime, &o->max_downtime_ms, err)) ||
        (o->timeout && !text_parse_duration(o->timeout, &o->timeout_ms, err)) ||
        (o->interval && !watch_parse_interval(o->interval, &o->interval_ms, err)) ||
        (o->post_copy_after && !text_parse_count("number of rounds", o->post_copy_after, 1, 1000000,
                                                 &o->post_copy_rounds, err)) ||
        !check_parse_peer(o->peer, &o->peer_kind, err)) {
        return false;
    }
    if (o->timeout && o->timeout_ms < 1) {
        ctl_fail(err, CTL_USAGE, "--timeout must be at least 1ms");
        return false;
    }
    if (o->detach && o->post_copy_after) {
        ctl_fail(err, CTL_USAGE,
                 "--post-copy-after is kept by ferryctl itself, so it goes without --detach; a "
                 "policy holds without ferryctl, see ferryctl policy --help");
        return false;
    }
    return true;
}

/* ---- settling ---- */

static bool is_idle(const struct ctl *ctl, qmp *q, GError **err)
{
    g_autoptr(move) m = move_query(ctl, q, err);

    if (!m) {
        return false;
    }
    if (move_is_running(m) || m->listens) {
        ctl_fail(err, CTL_REFUSED, "%s",
                 m->listens
                     ? "This machine waits for a guest itself"
                     : "A migration is going on already: see ferryctl watch and ferryctl cancel");
        return false;
    }
    return true;
}

static bool has_capability(json_t *list, const char *name)
{
    size_t i;
    json_t *entry;

    json_array_foreach(list, i, entry)
    {
        if (!g_strcmp0(json_string_value(json_object_get(entry, "capability")), name)) {
            return true;
        }
    }
    return false;
}

static bool want(json_t *changes, json_t *list, qmp *q, const char *name, const char *option,
                 GError **err)
{
    if (!has_capability(list, name)) {
        ctl_fail(err, CTL_REFUSED,
                 "%s needs the capability %s, which this machine (%s) does not have", option, name,
                 qmp_version(q));
        return false;
    }
    json_array_append_new(changes, json_pack("{s:s, s:b}", "capability", name, "state", 1));
    return true;
}

static bool set_capabilities(const struct migrate_options *o, qmp *q, GError **err)
{
    g_autoptr(json_t) list = qmp_execute(q, "query-migrate-capabilities", NULL, err);
    g_autoptr(json_t) changes = json_array();

    if (!list ||
        (o->auto_converge && !want(changes, list, q, "auto-converge", "--auto-converge", err)) ||
        (o->post_copy_after && !want(changes, list, q, "postcopy-ram", "--post-copy-after", err))) {
        return false;
    }
    if (has_capability(list, "return-path")) {
        /* only a socket has a way back */
        json_array_append_new(changes, json_pack("{s:s, s:b}", "capability", "return-path", "state",
                                                 o->live ? 1 : 0));
    }
    return qmp_do(q, "migrate-set-capabilities", json_pack("{s:O}", "capabilities", changes), err);
}

static bool set_parameters(const struct migrate_options *o, qmp *q, GError **err)
{
    g_autoptr(json_t) arguments = json_object();

    if (o->bandwidth) {
        json_object_set_new(arguments, "max-bandwidth",
                            json_integer((json_int_t)o->bandwidth_bytes));
    }
    if (o->max_downtime) {
        json_object_set_new(arguments, "downtime-limit", json_integer(o->max_downtime_ms));
    }
    return !json_object_size(arguments) ||
           qmp_do(q, "migrate-set-parameters", g_steal_pointer(&arguments), err);
}

/* The machine keeps the time too, so that it holds when nobody watches any more. Where we do, we
 * cancel first. */
static bool set_timeout(const struct migrate_options *o, qmp *q, GError **err)
{
    GError *error = NULL;
    json_t *arguments =
        policy_with_timeout(q, o->timeout_ms + (o->detach ? 0 : TIMEOUT_GRACE_MS), &error);

    if (arguments) {
        return policy_set(q, arguments, err);
    }
    if (error) {
        g_propagate_error(err, error);
        return false;
    }
    if (o->detach) {
        ctl_fail(err, CTL_REFUSED,
                 "This machine (%s) keeps no time for a migration: --timeout goes without --detach "
                 "there",
                 qmp_version(q));
        return false;
    }
    return true;
}

static bool set_policy(const struct migrate_options *o, qmp *q, GError **err)
{
    const struct policy_options options = {
        .name = o->policy,
        .max_downtime = o->max_downtime, /* the ladder's cap too */
        .auto_converge = o->auto_converge,
        .post_copy = o->post_copy_after != NULL,
    };
    json_t *arguments;

    if (o->policy &&
        (!(arguments = policy_arguments(&options, err)) || !policy_set(q, arguments, err))) {
        return false;
    }
    return !o->timeout || set_timeout(o, q, err);
}

/* Asks the machine whether the guest can go there, where it can say so. */
static bool checked(const struct ctl *ctl, const struct migrate_options *o, qmp *q, GError **err)
{
    g_autoptr(GError) error = NULL;

    if (o->no_check || !o->live || check_ask(ctl, q, o->uri, o->peer_kind, &error) ||
        qmp_is_missing(q)) {
        return true;
    }
    g_propagate_error(err, g_steal_pointer(&error));
    return false;
}

static bool start(const struct ctl *ctl, const struct migrate_options *o,
                  const qmp_address *address, GError **err)
{
    g_autoptr(qmp) q = qmp_connect(address, ctl->patience_ms, -1, err);

    if (!q || !is_idle(ctl, q, err) || !set_capabilities(o, q, err) || !set_parameters(o, q, err) ||
        !set_policy(o, q, err) || !checked(ctl, o, q, err)) {
        return false;
    }
    /* A Ctrl-C after this line finds a migration, and watch_run() to deal with it. */
    if (!o->detach) {
        watch_hold_signals();
    }
    return qmp_do(q, "migrate", json_pack("{s:s}", "uri", o->uri), err);
}

/* ---- the command ---- */

static int migrate(struct ctl *ctl, struct migrate_options *o, const char *destination,
                   GError **err)
{
    g_autoptr(qmp_address) address = machines_chosen(ctl, err);
    g_autofree char *name = NULL;
    g_autofree char *where = NULL;
    g_autofree char *title = NULL;

    if (!address || !(o->uri = check_destination(address, destination, &o->live, err)) ||
        !start(ctl, o, address, err)) {
        return CTL_REFUSED;
    }
    if (o->detach) {
        if (!ctl->json) {
            g_print("Started; see ferryctl watch and ferryctl cancel.\n");
        }
        return CTL_DONE;
    }
    name = machines_name(ctl, address);
    where = text_clean(o->uri, ctl->utf8);
    title = g_strdup_printf("%s %s %s", name, ctl->utf8 ? "→" : "->", where);
    return watch_run(
        ctl, address,
        &(const struct watch_options){ .title = title,
                                       .destination = where,
                                       .own = true,
                                       .interval_ms = o->interval_ms,
                                       .timeout_ms = o->timeout_ms,
                                       .post_copy_after = (int64_t)o->post_copy_rounds },
        err);
}

static int migrate_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                       GError **err)
{
    struct migrate_options o = { 0 };
    const GOptionEntry entries[] = {
        { "policy", 0, 0, G_OPTION_ARG_STRING, &o.policy,
          "what the machine does without progress, see ferryctl policy", "NAME" },
        { "auto-converge", 0, 0, G_OPTION_ARG_NONE, &o.auto_converge,
          "slow the guest down where that is needed", NULL },
        { "post-copy-after", 0, 0, G_OPTION_ARG_STRING, &o.post_copy_after,
          "switch to post-copy after so many rounds", "ROUNDS" },
        { "bandwidth", 0, 0, G_OPTION_ARG_STRING, &o.bandwidth,
          "bytes per second, as 400M, or unlimited", "RATE" },
        { "max-downtime", 0, 0, G_OPTION_ARG_STRING, &o.max_downtime,
          "the longest pause allowed, as 100ms", "TIME" },
        { "timeout", 0, 0, G_OPTION_ARG_STRING, &o.timeout, "cancel when it takes longer, as 10m",
          "TIME" },
        { "peer", 0, 0, G_OPTION_ARG_STRING, &o.peer, "what waits at DEST [ferry]", "ferry|qemu" },
        { "no-check", 0, 0, G_OPTION_ARG_NONE, &o.no_check, "do not ask DEST beforehand", NULL },
        { "detach", 'd', 0, G_OPTION_ARG_NONE, &o.detach, "start it and return", NULL },
        { "interval", 'i', 0, G_OPTION_ARG_STRING, &o.interval, "how often to look [200ms]",
          "TIME" },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 1, 1, err);
    int status = rest && parse_values(&o, err) ? migrate(ctl, &o, rest[0], err) : (int)CTL_USAGE;

    clear_options(&o);
    return status;
}

const struct command command_migrate = {
    .name = "migrate",
    .arguments = "DEST",
    .summary = "move the guest to DEST and show how it goes",
    .description =
        "DEST is where the other side waits (-incoming): HOST:PORT, tcp:HOST:PORT, unix:PATH; "
        "or file:PATH\nand exec:COMMAND, which save the guest. Ctrl-C asks whether to cancel or "
        "to detach; without a\nterminal it cancels. Settings stay in force afterwards.",
    .run = migrate_run,
};
