/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The views that print lines, for people and for programs; see view.h. */
#include "view.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

#define LINE_EVERY_US (5 * G_USEC_PER_SEC) /* where nothing else happens */

const struct view_ops *view_choose(const struct ctl *ctl)
{
    const char *term = g_getenv("TERM");

    if (ctl->json) {
        return &view_json;
    }
    /* a job in the background would be stopped for touching the terminal's mode */
    if (ctl->plain || tcgetpgrp(STDIN_FILENO) != getpgrp() || !isatty(STDIN_FILENO) ||
        !isatty(STDOUT_FILENO) || !term || !*term || !strcmp(term, "dumb")) {
        return &view_lines;
    }
    return &view_terminal;
}

/* ---- lines for people ---- */

struct view {
    const struct ctl *ctl;
    char *status;
    int64_t syncs, printed_us;
};

static struct view *lines_open(const struct ctl *ctl, const char *title, const char *keys)
{
    struct view *v = g_new0(struct view, 1);

    (void)keys;
    v->ctl = ctl;
    v->syncs = -1;
    if (!ctl->json) {
        g_print("%s\n", title);
        fflush(stdout);
    }
    return v;
}

static void lines_print(int64_t time_ms, const char *text)
{
    g_autofree char *clock = text_clock_ms(time_ms);

    printf("%s %s\n", clock, text);
    fflush(stdout);
}

static void lines_round(struct view *v, const move *m, const struct move_round *r)
{
    double page = (double)move_page_size(m);
    g_autofree char *bytes = text_bytes((double)r->bytes);
    g_autofree char *rate = text_rate((double)r->bandwidth);
    g_autofree char *remain = text_bytes((double)MAX(r->remaining_pages, 0) * page);
    g_autofree char *dirtied = text_bytes((double)MAX(r->dirtied_pages, 0) * page);
    g_autofree char *pause = text_duration_us(r->expected_downtime_us);
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_printf(line, "round %" G_GINT64_FORMAT ": %s sent at %s, %s dirtied, %s remain",
                    r->number, bytes, rate, dirtied, remain);
    if (r->throttle > 0) {
        g_string_append_printf(line, ", throttle %d %%", (int)MIN(r->throttle, 100));
    }
    if (r->expected_downtime_us >= 0) {
        g_string_append_printf(line, ", would pause %s", pause);
    }
    lines_print((MAX(r->start_us, 0) + MAX(r->duration_us, 0)) / 1000, line->str);
    v->printed_us = g_get_monotonic_time();
}

static void lines_decision(struct view *v, const struct move_decision *d)
{
    g_autofree char *what = move_decision_text(d);
    g_autofree char *line = g_strdup_printf("decided: %s", what);

    lines_print(d->time_ms, line);
    v->printed_us = g_get_monotonic_time();
}

/* One line about the whole. */
static char *lines_summary(const move *m)
{
    g_autoptr(GString) line = g_string_new(m->status ? m->status : "no migration yet");

    if (m->phase) {
        g_string_append_printf(line, " (%s)", move_phase_text(m));
    }
    if (m->has_ram && m->total > 0) {
        g_autofree char *sent = text_bytes((double)MAX(m->transferred, 0));
        g_autofree char *remain = text_bytes((double)MAX(m->remaining, 0));
        g_autofree char *total = text_bytes((double)m->total);

        g_string_append_printf(line, ": %s sent, %s of %s remain", sent, remain, total);
        if (m->bandwidth > 0) {
            g_autofree char *rate = text_rate(m->bandwidth);

            g_string_append_printf(line, ", %s", rate);
        }
        if (m->dirty_pages_rate > 0) {
            g_autofree char *rate = text_rate(move_dirty_rate(m));

            g_string_append_printf(line, ", %s dirtied", rate);
        }
        if (m->throttle > 0) {
            g_string_append_printf(line, ", throttle %d %%", (int)MIN(m->throttle, 100));
        }
    }
    return g_strdup(line->str);
}

static void lines_progress(struct view *v, move *m)
{
    int64_t now = g_get_monotonic_time();
    bool changed;

    if (!m) {
        return;
    }
    /* Rounds speak for themselves where the machine reports them. */
    changed = g_strcmp0(m->status, v->status) != 0 || (!m->rounds->len && m->syncs > v->syncs);
    if (changed || now - v->printed_us >= LINE_EVERY_US) {
        g_autofree char *text = lines_summary(m);

        lines_print(MAX(m->total_ms, 0), text);
        v->printed_us = now;
    }
    g_free(v->status);
    v->status = g_strdup(m->status);
    v->syncs = m->syncs;
}

static void lines_notice(struct view *v, const char *text)
{
    (void)v;
    printf("%s\n", text);
    fflush(stdout);
}

static void lines_close(struct view *v)
{
    g_free(v->status);
    g_free(v);
}

const struct view_ops view_lines = {
    .open = lines_open,
    .round = lines_round,
    .decision = lines_decision,
    .progress = lines_progress,
    .notice = lines_notice,
    .close = lines_close,
};

/* ---- JSON for programs ---- */

static void json_round(struct view *v, const move *m, const struct move_round *r)
{
    (void)v;
    (void)m;
    ctl_print_json(move_round_to_json(r));
}

static void json_decision(struct view *v, const struct move_decision *d)
{
    (void)v;
    ctl_print_json(move_decision_to_json(d));
}

static void json_progress(struct view *v, move *m)
{
    (void)v;
    if (m) {
        ctl_print_json(move_to_json(m, "progress"));
    }
}

static void json_notice(struct view *v, const char *text)
{
    (void)v;
    ctl_print_json(json_pack("{s:s, s:s}", "type", "notice", "message", text));
}

const struct view_ops view_json = {
    .open = lines_open,
    .round = json_round,
    .decision = json_decision,
    .progress = json_progress,
    .notice = json_notice,
    .close = lines_close,
};
