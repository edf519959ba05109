/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands that ask or tell a machine one thing: status, cancel, pause, resume, block, unblock,
 * quit. */
#include "check.h"
#include "machines.h"
#include "move.h"
#include "text.h"

#include <string.h>

/* What is known of a machine and its migration; run_state is set. */
static move *look(const struct ctl *ctl, qmp *q, GError **err)
{
    g_autoptr(move) m = move_query(ctl, q, err);

    if (!m || !(m->run_state = machines_run_state(ctl, q, err))) {
        return NULL;
    }
    return g_steal_pointer(&m);
}

/* The options that all have and no others, a connection, and a look. */
static bool begin(struct ctl *ctl, const struct command *self, int argc, char **argv, qmp **q,
                  move **m, GError **err)
{
    g_auto(GStrv) rest = command_parse(ctl, self, NULL, argc, argv, 0, 0, err);

    return rest && (*q = machines_connect(ctl, err)) && (*m = look(ctl, *q, err));
}

static bool status_is(const move *m, const char *status)
{
    return !g_strcmp0(m->status, status);
}

/* ---- status ---- */

static void line(const char *label, char *value)
{
    if (value) {
        g_print("%-12s %s\n", label, value);
    }
    g_free(value);
}

static char *asked(const struct ctl *ctl, qmp *q, const char *command, const char *member)
{
    g_autoptr(json_t) result = qmp_execute(q, command, NULL, NULL);
    const char *s = json_string_value(json_object_get(result, member));

    return s && *s ? text_clean(s, ctl->utf8) : NULL;
}

static char *ms(int64_t value)
{
    return value < 0 ? NULL : text_duration_us(value * 1000);
}

/* "2.10 ms: stop 120 us, memory 900 us..." */
static char *pause_text(const move *m)
{
    g_autoptr(GString) s = NULL;
    g_autofree char *whole = text_duration_us(move_pause_us(m));

    if (move_pause_us(m) < 0) {
        return NULL;
    }
    s = g_string_new(whole);
    for (unsigned i = 1; i < MOVE_PAUSE_PARTS; i++) {
        g_autofree char *part = text_duration_us(m->pause_us[i]);

        if (m->pause_us[i] > 0) {
            g_string_append_printf(s, "%s %s %s", strchr(s->str, ':') ? "," : ":",
                                   move_pause_names[i], part);
        }
    }
    return g_strdup(s->str);
}

static void print_migration(const move *m)
{
    line("migration", g_strdup(m->status    ? m->status
                               : m->listens ? "waiting for a guest"
                                            : "none"));
    line("now", g_strdup(move_phase_text(m)));
    line("error", g_strdup(m->error));
    line("took", ms(m->total_ms));
    line("paused", pause_text(m));
    line("would pause", ms(m->expected_downtime_ms));
    line("policy", g_strdup(m->policy));
    line("deadline", m->deadline_ms < 0 ? NULL : text_clock_ms(m->deadline_ms));
    if (m->throttle > 0) {
        line("throttle", g_strdup_printf("%d %%", (int)MIN(m->throttle, 100)));
    }
    if (m->total > 0) {
        g_autofree char *sent = text_bytes((double)m->transferred);
        g_autofree char *remain = text_bytes((double)m->remaining);
        g_autofree char *total = text_bytes((double)m->total);
        g_autofree char *rounds = text_plural(move_round_count(m), "round", "rounds");

        line("memory",
             g_strdup_printf("%s sent in %s, %s of %s remain", sent, rounds, remain, total));
    }
    if (m->status && g_str_has_prefix(m->status, "postcopy-")) {
        line("where", move_whereabouts(m)); /* and what a person does about it */
    }
    for (guint i = 0; i < m->blocked->len; i++) {
        line("blocked", g_strdup(m->blocked->pdata[i]));
    }
}

static int status_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                      GError **err)
{
    g_autoptr(qmp) q = NULL;
    g_autoptr(move) m = NULL;
    g_autofree char *name = NULL;
    g_autofree char *uuid = NULL;

    if (!begin(ctl, self, argc, argv, &q, &m, err)) {
        return CTL_USAGE;
    }
    name = asked(ctl, q, "query-name", "name");
    uuid = asked(ctl, q, "query-uuid", "UUID");
    if (ctl->json) {
        json_t *o = move_to_json(m, "status");
        json_t *blocked = json_array();

        for (guint i = 0; i < m->blocked->len; i++) {
            json_array_append_new(blocked, json_string(m->blocked->pdata[i]));
        }
        json_object_set_new(o, "blocked", blocked);
        json_object_set_new(o, "version", json_string(qmp_version(q)));
        if (name) {
            json_object_set_new(o, "name", json_string(name));
        }
        if (uuid) {
            json_object_set_new(o, "uuid", json_string(uuid));
        }
        ctl_print_json(o);
        return CTL_DONE;
    }
    line("name", g_steal_pointer(&name));
    line("uuid", g_steal_pointer(&uuid));
    line("machine", g_strdup(qmp_version(q)));
    line("guest", g_strdup(m->run_state));
    print_migration(m);
    return CTL_DONE;
}

const struct command command_status = {
    .name = "status",
    .arguments = "",
    .summary = "show the guest's state and its migration",
    .run = status_run,
};

/* ---- cancel ---- */

#define CANCEL_PAUSE_US 20000

static void say(const struct ctl *ctl, const char *text)
{
    if (!ctl->json) {
        g_print("%s\n", text);
    }
}

static int cancel_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                      GError **err)
{
    g_autoptr(qmp) q = NULL;
    g_autoptr(move) m = NULL;
    int64_t deadline = g_get_monotonic_time() + ctl->patience_ms * 1000;

    if (!begin(ctl, self, argc, argv, &q, &m, err)) {
        return CTL_USAGE;
    }
    if (!move_is_running(m)) {
        ctl_fail(err, CTL_REFUSED, "There is no migration to cancel%s%s",
                 m->status ? ": the last one is " : "", m->status ? m->status : "");
        return CTL_REFUSED;
    }
    if (!qmp_do(q, "migrate_cancel", NULL, err)) {
        return CTL_REFUSED;
    }
    do {
        g_usleep(CANCEL_PAUSE_US);
        g_clear_pointer(&m, move_unref);
        m = look(ctl, q, err);
    } while (m && !move_is_over(m) && g_get_monotonic_time() < deadline);
    if (!m) {
        return CTL_UNREACHABLE;
    }
    if (!status_is(m, "cancelled")) {
        g_autofree char *where = move_whereabouts(m);

        ctl_fail(err, CTL_FAILED, "The migration was not cancelled, it is %s. %s",
                 m->status ? m->status : "gone", where);
        return CTL_FAILED;
    }
    say(ctl, "Cancelled. The guest is where it was.");
    return CTL_DONE;
}

const struct command command_cancel = {
    .name = "cancel",
    .arguments = "",
    .summary = "give the migration up; the guest stays here",
    .run = cancel_run,
};

/* ---- pause, resume ---- */

static int pause_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                     GError **err)
{
    g_autoptr(qmp) q = NULL;
    g_autoptr(move) m = NULL;

    if (!begin(ctl, self, argc, argv, &q, &m, err)) {
        return CTL_USAGE;
    }
    if (status_is(m, "postcopy-active") || status_is(m, "postcopy-recover")) {
        if (!qmp_do(q, "migrate-pause", NULL, err)) {
            return CTL_REFUSED;
        }
        say(ctl, "The migration is paused; ferryctl resume DEST takes it up.");
        return CTL_DONE;
    }
    if (strcmp(m->run_state, "running") != 0) {
        g_autofree char *where = move_whereabouts(m);

        ctl_fail(err, CTL_REFUSED, "There is nothing to pause. %s", where);
        return CTL_REFUSED;
    }
    if (!qmp_do(q, "stop", NULL, err)) {
        return CTL_REFUSED;
    }
    say(ctl, "The guest is paused.");
    return CTL_DONE;
}

const struct command command_pause = {
    .name = "pause",
    .arguments = "",
    .summary = "pause the guest, or a migration in post-copy",
    .description = "A paused guest moves and stays paused.",
    .run = pause_run,
};

/* States in which cont is not what a person can want. */
static const struct {
    const char *state, *reason;
    bool forced; /* --force does it all the same */
} not_resumed[] = {
    { "running", "The guest runs already", false },
    { "inmigrate", "The guest has not arrived here; it starts by itself", false },
    { "finish-migrate", "The guest is changing sides; wait, or ferryctl cancel", false },
    { "postmigrate",
      "The guest has left and may run elsewhere; a second copy destroys its disks. If it "
      "certainly runs nowhere, --force",
      true },
};

static bool resume_guest(const struct ctl *ctl, qmp *q, const move *m, bool force, GError **err)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(not_resumed); i++) {
        if (!strcmp(m->run_state, not_resumed[i].state) && !(force && not_resumed[i].forced)) {
            ctl_fail(err, CTL_REFUSED, "%s", not_resumed[i].reason);
            return false;
        }
    }
    if (!qmp_do(q, "cont", NULL, err)) {
        return false;
    }
    say(ctl, "The guest runs.");
    return true;
}

static int resume_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                      GError **err)
{
    gboolean force = FALSE;
    const GOptionEntry entries[] = {
        { "force", 0, 0, G_OPTION_ARG_NONE, &force, "also a copy whose guest has left", NULL },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 0, 1, err);
    g_autoptr(qmp_address) address = NULL;
    g_autoptr(qmp) q = NULL;
    g_autoptr(move) m = NULL;
    g_autofree char *uri = NULL;
    bool live;

    if (!rest || !(address = machines_chosen(ctl, err)) ||
        (rest[0] && !(uri = check_destination(address, rest[0], &live, err))) ||
        !(q = qmp_connect(address, ctl->patience_ms, -1, err)) || !(m = look(ctl, q, err))) {
        return CTL_USAGE;
    }
    if (status_is(m, "postcopy-paused") && uri && move_is_incoming(m)) {
        if (!qmp_do(q, "migrate-recover", json_pack("{s:s}", "uri", uri), err)) {
            return CTL_REFUSED;
        }
        say(ctl,
            "It waits for the other side there; now: ferryctl resume, with this address, on that "
            "side.");
        return CTL_DONE;
    }
    if (status_is(m, "postcopy-paused")) {
        if (!uri) {
            ctl_fail(err, CTL_USAGE, "Say where the other side waits now: ferryctl resume DEST");
            return CTL_USAGE;
        }
        if (!qmp_do(q, "migrate", json_pack("{s:s, s:b}", "uri", uri, "resume", 1), err)) {
            return CTL_REFUSED;
        }
        say(ctl, "The migration is taken up; see ferryctl watch.");
        return CTL_DONE;
    }
    if (uri) {
        ctl_fail(err, CTL_USAGE, "DEST is for a migration paused in post-copy, and there is none");
        return CTL_USAGE;
    }
    if (status_is(m, "pre-switchover")) {
        if (!qmp_do(q, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"), err)) {
            return CTL_REFUSED;
        }
        say(ctl, "The migration goes on; see ferryctl watch.");
        return CTL_DONE;
    }
    return resume_guest(ctl, q, m, force, err) ? CTL_DONE : CTL_REFUSED;
}

const struct command command_resume = {
    .name = "resume",
    .arguments = "[DEST]",
    .summary = "let go on what is paused",
    .description =
        "That is a migration that waits before the switchover, one paused in post-copy (with "
        "DEST),\nor else the guest.",
    .run = resume_run,
};

/* ---- block, unblock ---- */

static int mark(struct ctl *ctl, qmp *q, const char *command, json_t *arguments, const char *done,
                GError **err)
{
    g_autoptr(GError) error = NULL;

    if (!qmp_do(q, command, arguments, &error)) {
        if (qmp_is_missing(q)) {
            ctl_fail(err, CTL_REFUSED, "A guest of this machine (%s) cannot be marked",
                     qmp_version(q));
        } else {
            g_propagate_error(err, g_steal_pointer(&error));
        }
        return CTL_REFUSED;
    }
    say(ctl, done);
    return CTL_DONE;
}

static int block_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                     GError **err)
{
    g_auto(GStrv) rest = command_parse(ctl, self, NULL, argc, argv, 1, 1, err);
    g_autoptr(qmp) q = NULL;
    json_t *arguments;

    if (!rest) {
        return CTL_USAGE;
    }
    if (!*rest[0] || !(arguments = json_pack("{s:s}", "reason", rest[0]))) {
        ctl_fail(err, CTL_USAGE, "The reason must be UTF-8 text that people can read");
        return CTL_USAGE;
    }
    q = machines_connect(ctl, err);
    if (!q) {
        json_decref(arguments);
        return CTL_UNREACHABLE;
    }
    return mark(ctl, q, "migrate-set-blocker", arguments, "The guest is marked: it does not move.",
                err);
}

const struct command command_block = {
    .name = "block",
    .arguments = "REASON",
    .summary = "mark the guest as one that does not move",
    .description = "Whoever tries is told the reason. The mark belongs to this machine's process.",
    .run = block_run,
};

static int unblock_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                       GError **err)
{
    g_auto(GStrv) rest = command_parse(ctl, self, NULL, argc, argv, 0, 0, err);
    g_autoptr(qmp) q = NULL;

    if (!rest || !(q = machines_connect(ctl, err))) {
        return CTL_USAGE;
    }
    return mark(ctl, q, "migrate-clear-blocker", NULL, "The guest is not marked.", err);
}

const struct command command_unblock = {
    .name = "unblock",
    .arguments = "",
    .summary = "take the mark of block back",
    .description = "Devices that cannot move still forbid it, see ferryctl status.",
    .run = unblock_run,
};

/* ---- quit ---- */

static int quit_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                    GError **err)
{
    gboolean force = FALSE;
    const GOptionEntry entries[] = {
        { "force", 0, 0, G_OPTION_ARG_NONE, &force, "also when the guest is here; it is lost",
          NULL },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 0, 0, err);
    g_autoptr(qmp) q = NULL;
    g_autoptr(move) m = NULL;

    if (!rest || !(q = machines_connect(ctl, err)) || !(m = look(ctl, q, err))) {
        return CTL_USAGE;
    }
    if (!force && !(status_is(m, "completed") && !strcmp(m->run_state, "postmigrate"))) {
        g_autofree char *where = move_whereabouts(m);

        ctl_fail(err, CTL_REFUSED, "%s (--force ends a machine whose guest has not moved away)",
                 where);
        return CTL_REFUSED;
    }
    if (!qmp_do(q, "quit", NULL, err)) {
        return CTL_REFUSED;
    }
    if (!qmp_wait_closed(q)) {
        ctl_fail(err, CTL_FAILED, "The machine has been told to end and is still there");
        return CTL_FAILED;
    }
    say(ctl, "Ended.");
    return CTL_DONE;
}

const struct command command_quit = {
    .name = "quit",
    .arguments = "",
    .summary = "end the stopped copy that a completed migration leaves here",
    .run = quit_run,
};
