/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a machine says about its migration; see move.h. */
#include "move.h"
#include "text.h"

#include <math.h>
#include <string.h>

#define ROUNDS_MAX    65536
#define DECISIONS_MAX 4096
#define NUMBER_MAX    (1LL << 53) /* sums and products of two stay within an int64_t's double */

/* A number between 0 and NUMBER_MAX; -1 when there is none. */
static int64_t number(const json_t *object, const char *name)
{
    const json_t *v = json_object_get(object, name);
    double d = json_number_value(v);

    if (!json_is_number(v) || isnan(d) || d < 0) {
        return -1;
    }
    return d >= (double)NUMBER_MAX ? NUMBER_MAX : (int64_t)d;
}

static char *string(const struct ctl *ctl, const json_t *object, const char *name)
{
    const char *s = json_string_value(json_object_get(object, name));

    return s ? text_clean(s, ctl->utf8) : NULL;
}

static void decision_free(struct move_decision *d)
{
    g_free(d->action);
    g_free(d->reason);
    g_free(d);
}

static move *new_move(void)
{
    move *m = g_new0(move, 1);

    m->references = 1;
    m->taken_us = g_get_monotonic_time();
    m->transferred = m->remaining = m->total = m->dirty_pages_rate = m->syncs = m->page_size = -1;
    m->total_ms = m->setup_ms = m->downtime_ms = m->expected_downtime_ms = -1;
    m->expected_total_ms = m->deadline_ms = m->throttle = -1;
    m->bandwidth = -1;
    m->blocked = g_ptr_array_new_with_free_func(g_free);
    m->rounds = g_array_new(FALSE, FALSE, sizeof(struct move_round));
    m->decisions = g_ptr_array_new_with_free_func((GDestroyNotify)decision_free);
    return m;
}

move *move_ref(move *m)
{
    m->references++;
    return m;
}

void move_unref(move *m)
{
    if (--m->references) {
        return;
    }
    g_free(m->run_state);
    g_free(m->status);
    g_free(m->error);
    g_free(m->policy);
    g_free(m->phase);
    g_ptr_array_unref(m->blocked);
    g_array_unref(m->rounds);
    g_ptr_array_unref(m->decisions);
    g_free(m);
}

/* ---- reading ---- */

const char *const move_pause_names[MOVE_PAUSE_PARTS] = { "whole",   "stop", "sync",   "memory",
                                                         "devices", "load", "confirm" };

static void read_pause(move *m, const json_t *pause)
{
    for (unsigned i = 0; i < MOVE_PAUSE_PARTS; i++) {
        m->pause_us[i] = number(pause, move_pause_names[i]);
    }
}

/* Names of a round's members; the same in QMP and in --json. */
static const struct {
    const char *name;
    size_t offset;
} round_members[] = {
    { "number", offsetof(struct move_round, number) },
    { "start", offsetof(struct move_round, start_us) },
    { "duration", offsetof(struct move_round, duration_us) },
    { "bytes", offsetof(struct move_round, bytes) },
    { "dirtied-pages", offsetof(struct move_round, dirtied_pages) },
    { "remaining-pages", offsetof(struct move_round, remaining_pages) },
    { "bandwidth", offsetof(struct move_round, bandwidth) },
    { "throttle", offsetof(struct move_round, throttle) },
    { "expected-downtime", offsetof(struct move_round, expected_downtime_us) },
};

static void add_round(move *m, const json_t *entry)
{
    struct move_round round;

    if (!json_is_object(entry) || m->rounds->len >= ROUNDS_MAX) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(round_members); i++) {
        *(int64_t *)((char *)&round + round_members[i].offset) =
            number(entry, round_members[i].name);
    }
    g_array_append_val(m->rounds, round);
}

static void add_decision(const struct ctl *ctl, move *m, const json_t *entry)
{
    struct move_decision *d;

    if (!json_is_object(entry) || m->decisions->len >= DECISIONS_MAX) {
        return;
    }
    d = g_new0(struct move_decision, 1);
    d->round = number(entry, "round");
    d->time_ms = number(entry, "time");
    d->value = number(entry, "value");
    d->action = string(ctl, entry, "action");
    d->reason = string(ctl, entry, "reason");
    if (!d->action) {
        d->action = g_strdup("?");
    }
    g_ptr_array_add(m->decisions, d);
}

move *move_parse(const struct ctl *ctl, json_t *info)
{
    move *m = new_move();
    const json_t *ram = json_object_get(info, "ram");
    const json_t *mbps = json_object_get(ram, "mbps");
    json_t *entry;
    size_t i;

    m->status = string(ctl, info, "status");
    m->error = string(ctl, info, "error-desc");
    m->policy = string(ctl, info, "policy");
    m->phase = string(ctl, info, "phase");
    m->listens = json_array_size(json_object_get(info, "socket-address")) > 0;
    m->total_ms = number(info, "total-time");
    m->setup_ms = number(info, "setup-time");
    m->downtime_ms = number(info, "downtime");
    m->expected_downtime_ms = number(info, "expected-downtime");
    m->expected_total_ms = number(info, "expected-total-time");
    m->deadline_ms = number(info, "deadline");
    m->throttle = number(info, "cpu-throttle-percentage");
    read_pause(m, json_object_get(info, "pause"));
    if (json_is_object(ram)) {
        m->has_ram = true;
        m->transferred = number(ram, "transferred");
        m->remaining = number(ram, "remaining");
        m->total = number(ram, "total");
        m->dirty_pages_rate = number(ram, "dirty-pages-rate");
        m->syncs = number(ram, "dirty-sync-count");
        m->page_size = number(ram, "page-size");
        if (json_is_number(mbps) && json_number_value(mbps) >= 0) {
            m->bandwidth = MIN(json_number_value(mbps), 1e12) * 1e6 / 8;
        }
    }
    json_array_foreach(json_object_get(info, "blocked-reasons"), i, entry)
    {
        if (json_is_string(entry) && i < DECISIONS_MAX) {
            g_ptr_array_add(m->blocked, text_clean(json_string_value(entry), ctl->utf8));
        }
    }
    json_array_foreach(json_object_get(info, "rounds"), i, entry)
    {
        add_round(m, entry);
    }
    json_array_foreach(json_object_get(info, "decisions"), i, entry)
    {
        add_decision(ctl, m, entry);
    }
    return m;
}

move *move_query(const struct ctl *ctl, qmp *q, GError **err)
{
    g_autoptr(json_t) info = qmp_execute(q, "query-migrate", NULL, err);

    return info ? move_parse(ctl, info) : NULL;
}

/* ---- saying ---- */

static bool is_one_of(const char *s, const char *const *list)
{
    return s && g_strv_contains(list, s);
}

bool move_is_over(const move *m)
{
    static const char *const over[] = { "completed", "failed", "cancelled", NULL };

    return is_one_of(m->status, over);
}

bool move_is_running(const move *m)
{
    return m->status && strcmp(m->status, "none") != 0 && !move_is_over(m);
}

int64_t move_page_size(const move *m)
{
    return m->page_size > 0 && m->page_size <= (1 << 30) ? m->page_size : 4096;
}

int64_t move_round_count(const move *m)
{
    const struct move_round *last =
        m->rounds->len ? &g_array_index(m->rounds, struct move_round, m->rounds->len - 1) : NULL;

    return MAX(last ? last->number : m->syncs, 0);
}

double move_dirty_rate(const move *m)
{
    return m->dirty_pages_rate < 0 ? -1 : (double)m->dirty_pages_rate * (double)move_page_size(m);
}

const char *move_phase_text(const move *m)
{
    static const struct {
        const char *phase, *text;
    } texts[] = {
        { "connect", "connecting" },
        { "greeting", "waiting for the destination's first answer" },
        { "setup", "switching dirty tracking on" },
        { "memory", "sending memory" },
        { "drain", "waiting until the destination has read the round" },
        { "suspended", "stopped by the policy, sending memory" },
        { "operator", "stopped, waiting for ferryctl resume" },
        { "switchover", "stopped, sending the rest" },
        { "ready", "waiting until the destination has loaded it" },
        { "confirm", "waiting for word that it runs there" },
        { "listen", "waiting for a source to connect" },
        { "begin", "connected, waiting for the stream" },
        { "stream", "receiving" },
        { "load", "loading devices" },
        { "go", "loaded, waiting for the source to hand over" },
    };

    for (unsigned i = 0; m->phase && i < G_N_ELEMENTS(texts); i++) {
        if (!strcmp(m->phase, texts[i].phase)) {
            return texts[i].text;
        }
    }
    return m->phase;
}

int64_t move_pause_us(const move *m)
{
    return m->pause_us[MOVE_PAUSE_WHOLE] >= 0 ? m->pause_us[MOVE_PAUSE_WHOLE]
           : m->downtime_ms >= 0              ? m->downtime_ms * 1000
                                              : -1;
}

/* In post-copy: whether the guest came here. */
bool move_is_incoming(const move *m)
{
    return !m->has_ram && m->run_state && strcmp(m->run_state, "finish-migrate") != 0;
}

char *move_whereabouts(const move *m)
{
    static const struct {
        const char *state, *text;
    } texts[] = {
        { "running", "The guest runs here" },
        { "paused", "The guest is here, paused" },
        { "prelaunch", "The guest is here and has not been started" },
        { "inmigrate", "The guest has not arrived here" },
        { "postmigrate", "The guest has left; what is here is a stopped copy" },
        { "finish-migrate", "The guest is stopped and changing sides" },
        { "suspended", "The guest is here, asleep" },
        { "shutdown", "The guest has shut down" },
    };

    static const struct {
        const char *status, *source, *destination;
    } post_copy[] = {
        { "postcopy-active",
          "The guest runs on the other side and its memory follows: leave both running",
          "The guest runs here and its memory follows: leave both running" },
        { "postcopy-paused",
          "The guest is on the other side and waits for memory that is here: let that side listen "
          "(resume ADDRESS), then resume ADDRESS here",
          "The guest runs here until it needs memory that has not come: resume ADDRESS here, then "
          "on "
          "the other side" },
        { "postcopy-recover", "A new link to the guest, which is on the other side, begins",
          "The guest runs here until it needs memory that has not come; a new link begins" },
    };

    for (unsigned i = 0; m->run_state && m->status && i < G_N_ELEMENTS(post_copy); i++) {
        if (!strcmp(m->status, post_copy[i].status)) {
            return g_strdup(move_is_incoming(m) ? post_copy[i].destination : post_copy[i].source);
        }
    }
    for (unsigned i = 0; m->run_state && i < G_N_ELEMENTS(texts); i++) {
        if (!strcmp(m->run_state, texts[i].state)) {
            return g_strdup(texts[i].text);
        }
    }
    return m->run_state ? g_strdup_printf("The machine is in state '%s'", m->run_state)
                        : g_strdup("Where the guest runs is not known");
}

char *move_decision_text(const struct move_decision *d)
{
    static const struct {
        const char *action, *unit;
    } units[] = { { "downtime-limit", " ms" }, { "throttle", " %" }, { "suspend", " ms" } };
    GString *s = g_string_new(d->action);

    if (d->value >= 0) {
        g_string_append_printf(s, " %" G_GINT64_FORMAT, d->value);
        for (unsigned i = 0; i < G_N_ELEMENTS(units); i++) {
            if (!strcmp(d->action, units[i].action)) {
                g_string_append(s, units[i].unit);
            }
        }
    }
    if (d->reason) {
        g_string_append_printf(s, ": %s", d->reason);
    }
    return g_string_free(s, FALSE);
}

/* ---- --json ---- */

static void put_number(json_t *o, const char *name, int64_t value)
{
    if (value >= 0) {
        json_object_set_new(o, name, json_integer(value));
    }
}

static void put_string(json_t *o, const char *name, const char *value)
{
    if (value) {
        json_object_set_new(o, name, json_string(value));
    }
}

json_t *move_to_json(const move *m, const char *type)
{
    json_t *o = json_pack("{s:s}", "type", type);
    double dirty = move_dirty_rate(m);

    put_string(o, "status", m->status);
    put_string(o, "run-state", m->run_state);
    put_string(o, "phase", m->phase);
    put_string(o, "policy", m->policy);
    put_number(o, "total-time", m->total_ms);
    put_number(o, "setup-time", m->setup_ms);
    put_number(o, "transferred", m->transferred);
    put_number(o, "remaining", m->remaining);
    put_number(o, "total", m->total);
    put_number(o, "bandwidth", m->bandwidth < 0 ? -1 : (int64_t)m->bandwidth);
    put_number(o, "dirty-rate", dirty < 0 ? -1 : (int64_t)MIN(dirty, (double)NUMBER_MAX));
    put_number(o, "page-size", m->page_size);
    put_number(o, "round", m->syncs);
    put_number(o, "throttle", m->throttle);
    put_number(o, "expected-downtime", m->expected_downtime_ms);
    put_number(o, "expected-total-time", m->expected_total_ms);
    put_number(o, "deadline", m->deadline_ms);
    put_number(o, "downtime", m->downtime_ms);
    if (m->pause_us[MOVE_PAUSE_WHOLE] >= 0) {
        json_t *pause = json_object();

        for (unsigned i = 0; i < MOVE_PAUSE_PARTS; i++) {
            put_number(pause, move_pause_names[i], m->pause_us[i]);
        }
        json_object_set_new(o, "pause", pause);
    }
    put_string(o, "error", m->error);
    return o;
}

json_t *move_round_to_json(const struct move_round *r)
{
    json_t *o = json_pack("{s:s}", "type", "round");

    for (unsigned i = 0; i < G_N_ELEMENTS(round_members); i++) {
        put_number(o, round_members[i].name,
                   *(const int64_t *)((const char *)r + round_members[i].offset));
    }
    return o;
}

json_t *move_decision_to_json(const struct move_decision *d)
{
    json_t *o = json_pack("{s:s}", "type", "decision");

    put_number(o, "round", d->round);
    put_number(o, "time", d->time_ms);
    put_string(o, "action", d->action);
    put_number(o, "value", d->value);
    put_string(o, "reason", d->reason);
    return o;
}

void move_from_json(const struct ctl *ctl, move *m, json_t *line)
{
    const char *type = json_string_value(json_object_get(line, "type"));
    const struct {
        const char *name;
        int64_t *value;
    } numbers[] = {
        { "total-time", &m->total_ms },
        { "setup-time", &m->setup_ms },
        { "transferred", &m->transferred },
        { "remaining", &m->remaining },
        { "total", &m->total },
        { "page-size", &m->page_size },
        { "round", &m->syncs },
        { "throttle", &m->throttle },
        { "downtime", &m->downtime_ms },
        { "expected-downtime", &m->expected_downtime_ms },
    };

    if (!g_strcmp0(type, "round")) {
        add_round(m, line);
    } else if (!g_strcmp0(type, "decision")) {
        add_decision(ctl, m, line);
    } else if (!g_strcmp0(type, "progress") || !g_strcmp0(type, "end")) {
        const char *status = json_string_value(json_object_get(line, "status"));

        if (status) {
            g_free(m->status);
            m->status = text_clean(status, ctl->utf8);
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(numbers); i++) {
            int64_t value = number(line, numbers[i].name);

            if (value >= 0) {
                *numbers[i].value = value;
            }
        }
        if (json_object_get(line, "pause")) {
            read_pause(m, json_object_get(line, "pause"));
        }
        m->has_ram |= m->total >= 0;
    }
}
