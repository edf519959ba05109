/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The display on a terminal; see view.h.
 *
 * A full-screen page on the alternate screen, composed anew for each picture and cut to the size
 * the terminal has at that moment, so that a resize leaves nothing behind. Lines never wrap. Only
 * sequences that every terminal of the last decades knows are used. The terminal's mode is changed
 * only so that a key answers a question at once; close() and suspend() give it back.
 */
#include "view.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "text.h"

#define ENTER "\033[?1049h\033[?25l\033[?7l" /* alternate screen, no cursor, no wrapping */
#define LEAVE "\033[?7h\033[?25h\033[?1049l"

#define COLUMN_WIDTH 40 /* of the figures, where two columns of them fit */
#define LABEL_WIDTH  11
#define DECISIONS    6 /* the latest */

enum style { PLAIN, STRONG, FAINT, ALERT };

static const char *const style_on[] = {
    [PLAIN] = "", [STRONG] = "\033[1m", [FAINT] = "\033[2m", [ALERT] = "\033[7m"
};

struct view {
    const struct ctl *ctl;
    char *title, *notice, *question;
    const char *keys; /* a literal */
    move *latest;     /* a reference */
    struct termios before;
    bool termios_saved, styled;
    unsigned rows, columns;
    GPtrArray *lines; /* char *, each begins with a style's number */
    int64_t heard_us; /* when the latest state came */
};

static void emit(const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(STDOUT_FILENO, data, len);

        if (n < 0 && errno == EAGAIN) {
            g_usleep(1000);
        } else if (n < 0 && errno != EINTR) {
            return; /* a terminal that is gone says so by SIGHUP */
        } else if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
}

/* ---- composing ---- */

static void add(struct view *v, enum style style, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

static void add(struct view *v, enum style style, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    g_autofree char *fitted = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fitted = text_fit(text, v->columns);
    g_ptr_array_add(v->lines, g_strdup_printf("%c%s", '0' + (int)style, fitted));
}

static char *pad(const char *text, unsigned width)
{
    unsigned w = text_width(text);

    return w < width ? g_strdup_printf("%s%*s", text, (int)(width - w), "") : g_strdup(text);
}

/* Two texts at the ends of a line. */
static void add_ends(struct view *v, enum style style, const char *left, const char *right)
{
    unsigned w = text_width(right) + 2;
    g_autofree char *fitted = text_fit(left, v->columns > w ? v->columns - w : v->columns);
    g_autofree char *padded = pad(fitted, v->columns > w ? v->columns - w + 2 : 0);

    add(v, style, "%s%s", padded, right);
}

static void add_bar(struct view *v, const move *m)
{
    bool ascii = !v->ctl->utf8;
    double left = m->total > 0 && m->remaining >= 0
                      ? CLAMP((double)m->remaining / (double)m->total, 0, 1)
                      : 1;
    g_autofree char *remain = text_bytes((double)MAX(m->remaining, 0));
    g_autofree char *total = text_bytes((double)MAX(m->total, 0));
    g_autofree char *text = m->total > 0 ? g_strdup_printf(" %3d %%  %s of %s remain",
                                                           (int)((1 - left) * 100), remain, total)
                                         : g_strdup("   - %");
    unsigned room = v->columns > text_width(text) + 12 ? v->columns - text_width(text) - 2 : 10;
    unsigned done = m->total > 0 ? (unsigned)floor((1 - left) * room) : 0;
    g_autoptr(GString) bar = g_string_new("[");

    for (unsigned i = 0; i < room; i++) {
        g_string_append(bar, i < done ? (ascii ? "#" : "█") : (ascii ? "." : "░"));
    }
    add(v, PLAIN, "%s]%s", bar->str, text);
}

/* A label with its value, which is freed; add_figures() puts them into two columns where they fit.
 */
static void figure(GPtrArray *cells, const char *label, char *value)
{
    g_ptr_array_add(cells, g_strdup_printf("%-*s%s", LABEL_WIDTH, label, value ? value : "-"));
    g_free(value);
}

static void add_figures(struct view *v, GPtrArray *cells)
{
    unsigned across = v->columns >= 2 * COLUMN_WIDTH ? 2 : 1;

    for (guint i = 0; i < cells->len; i += across) {
        g_autofree char *left = pad(cells->pdata[i], COLUMN_WIDTH - 1);

        add(v, PLAIN, "%s %s", left,
            across == 2 && i + 1 < cells->len ? (const char *)cells->pdata[i + 1] : "");
    }
}

static char *rate_or_null(double bytes_per_s)
{
    return bytes_per_s < 0 ? NULL : text_rate(bytes_per_s);
}

static char *dirty_text(const move *m)
{
    g_autofree char *rate = rate_or_null(move_dirty_rate(m));
    g_autofree char *pages = text_count(m->dirty_pages_rate);

    return rate ? g_strdup_printf("%s (%s pages/s)", rate, pages) : NULL;
}

static void compose_figures(struct view *v, const move *m)
{
    g_autoptr(GPtrArray) cells = g_ptr_array_new_with_free_func(g_free);

    figure(cells, "sent", m->transferred < 0 ? NULL : text_bytes((double)m->transferred));
    figure(cells, "throttle",
           m->throttle > 0 ? g_strdup_printf("%d %%", (int)MIN(m->throttle, 100))
                           : g_strdup("none"));
    figure(cells, "link", rate_or_null(m->bandwidth));
    figure(cells, "policy", g_strdup(m->policy));
    figure(cells, "dirtied", dirty_text(m));
    figure(cells, "deadline",
           m->deadline_ms < 0 ? g_strdup("none") : text_clock_ms(m->deadline_ms));
    figure(cells, "pause",
           m->downtime_ms >= 0
               ? text_duration_us(m->downtime_ms * 1000)
               : (m->expected_downtime_ms < 0 ? NULL
                                              : text_duration_us(m->expected_downtime_ms * 1000)));
    figure(cells, "whole move",
           m->expected_total_ms < 0 ? NULL : text_duration_us(m->expected_total_ms * 1000));
    if (m->phase) {
        figure(cells, "now", g_strdup(move_phase_text(m)));
    }
    add_figures(v, cells);
}

static void compose_rounds(struct view *v, const move *m, unsigned room)
{
    double page = (double)move_page_size(m);
    guint first;

    if (!m->rounds->len || room < 2) {
        return;
    }
    add(v, FAINT, "%5s %10s %12s %10s %10s %9s %9s %9s", "round", "sent", "link", "dirtied",
        "remain", "throttle", "pause", "took");
    first = m->rounds->len > room - 1 ? m->rounds->len - (room - 1) : 0;
    for (guint i = first; i < m->rounds->len; i++) {
        const struct move_round *r = &g_array_index(m->rounds, struct move_round, i);
        g_autofree char *sent = text_bytes((double)r->bytes);
        g_autofree char *rate = text_rate((double)r->bandwidth);
        g_autofree char *dirtied = text_bytes((double)r->dirtied_pages * page);
        g_autofree char *remain = text_bytes((double)r->remaining_pages * page);
        g_autofree char *pause = text_duration_us(r->expected_downtime_us);
        g_autofree char *took = text_duration_us(r->duration_us);

        add(v, PLAIN, "%5" G_GINT64_FORMAT " %10s %12s %10s %10s %7d %% %9s %9s", r->number, sent,
            rate, dirtied, remain, (int)CLAMP(r->throttle, 0, 100), pause, took);
    }
}

static void compose_decisions(struct view *v, const move *m)
{
    guint first = m->decisions->len > DECISIONS ? m->decisions->len - DECISIONS : 0;

    for (guint i = first; i < m->decisions->len; i++) {
        const struct move_decision *d = m->decisions->pdata[i];
        g_autofree char *clock = text_clock_ms(d->time_ms);
        g_autofree char *what = move_decision_text(d);

        add(v, PLAIN, "%s round %" G_GINT64_FORMAT ": %s", clock, MAX(d->round, 0), what);
    }
}

static void compose(struct view *v)
{
    const move *m = v->latest;
    int64_t silent_us = g_get_monotonic_time() - v->heard_us;
    g_autofree char *clock = NULL;
    g_autofree char *where = NULL;
    g_autofree char *state = NULL;
    unsigned decisions, below;

    g_ptr_array_set_size(v->lines, 0);
    if (!m) {
        add(v, STRONG, "%s", v->title);
        add(v, PLAIN, "%s", "");
        add(v, PLAIN, "Waiting for the machine...");
        return;
    }
    /* between two answers the clock goes on by itself */
    clock = text_clock_ms(MAX(m->total_ms, 0) + (move_is_running(m) ? silent_us / 1000 : 0));
    add_ends(v, STRONG, v->title, clock);
    where = move_whereabouts(m);
    state = m->syncs > 0
                ? g_strdup_printf("%s, round %" G_GINT64_FORMAT ". %s.", m->status, m->syncs, where)
                : g_strdup_printf("%s. %s.", m->status ? m->status : "waiting", where);
    add(v, PLAIN, "%s", state);
    add_bar(v, m);
    add(v, PLAIN, "%s", "");
    compose_figures(v, m);
    add(v, PLAIN, "%s", "");

    decisions = MIN(m->decisions->len, DECISIONS);
    below = (decisions ? decisions + 1 : 0) + 2;
    compose_rounds(v, m, v->rows > v->lines->len + below ? v->rows - v->lines->len - below : 0);
    if (decisions) {
        add(v, PLAIN, "%s", "");
        compose_decisions(v, m);
    }
}

/* The last line of the screen: the question, what there is to say, or the keys. */
static void compose_footer(struct view *v)
{
    int64_t silent_us = g_get_monotonic_time() - v->heard_us;

    while (v->lines->len + 1 < v->rows) {
        add(v, PLAIN, "%s", "");
    }
    if (v->lines->len + 1 > v->rows) {
        g_ptr_array_set_size(v->lines, MAX(v->rows, 1) - 1);
    }
    if (v->question) {
        add(v, ALERT, "%s", v->question);
    } else if (silent_us > 2 * G_USEC_PER_SEC) {
        add(v, ALERT, "No answer from the machine for %d s", (int)(silent_us / G_USEC_PER_SEC));
    } else if (v->notice) {
        add(v, STRONG, "%s", v->notice);
    } else {
        add(v, FAINT, "%s", v->keys);
    }
}

static void draw(struct view *v)
{
    struct winsize size = { 0 };
    g_autoptr(GString) out = g_string_new("\033[H");

    v->rows = 24;
    v->columns = 80;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col) {
        v->rows = size.ws_row;
        v->columns = size.ws_col;
    }
    compose(v);
    compose_footer(v);
    for (guint i = 0; i < v->lines->len; i++) {
        const char *line = v->lines->pdata[i];
        enum style style = (enum style)(line[0] - '0');
        bool styled = v->styled || style == ALERT;

        /* erased first: behind a line that reaches the edge, that would take its last character */
        g_string_append_printf(out, "\033[K%s%s%s%s", styled ? style_on[style] : "", line + 1,
                               styled ? "\033[0m" : "", i + 1 < v->lines->len ? "\r\n" : "");
    }
    emit(out->str, out->len);
}

/* ---- the view ---- */

static void enter(struct view *v)
{
    if (tcgetattr(STDIN_FILENO, &v->before) == 0) {
        struct termios now = v->before;

        v->termios_saved = true;
        now.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
        now.c_cc[VMIN] = 1;
        now.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSADRAIN, &now);
    }
    emit(ENTER, strlen(ENTER));
}

static void leave(struct view *v)
{
    emit(LEAVE, strlen(LEAVE));
    if (v->termios_saved) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &v->before);
    }
}

static struct view *terminal_open(const struct ctl *ctl, const char *title, const char *keys)
{
    struct view *v = g_new0(struct view, 1);
    const char *no_color = g_getenv("NO_COLOR");

    v->ctl = ctl;
    v->title = g_strdup(title);
    v->keys = keys;
    v->styled = !no_color || !*no_color;
    v->lines = g_ptr_array_new_with_free_func(g_free);
    v->heard_us = g_get_monotonic_time();
    enter(v);
    draw(v);
    return v;
}

static void terminal_progress(struct view *v, move *m)
{
    if (m) {
        g_clear_pointer(&v->latest, move_unref);
        v->latest = move_ref(m);
        v->heard_us = m->taken_us;
    }
    draw(v);
}

static void terminal_notice(struct view *v, const char *text)
{
    g_free(v->notice);
    v->notice = g_strdup(text);
    draw(v);
}

static void terminal_question(struct view *v, const char *text)
{
    g_free(v->question);
    v->question = g_strdup(text);
    draw(v);
}

static void terminal_resume(struct view *v)
{
    enter(v);
    draw(v);
}

static void terminal_close(struct view *v)
{
    leave(v);
    g_clear_pointer(&v->latest, move_unref);
    g_ptr_array_unref(v->lines);
    g_free(v->title);
    g_free(v->notice);
    g_free(v->question);
    g_free(v);
}

const struct view_ops view_terminal = {
    .open = terminal_open,
    .progress = terminal_progress,
    .notice = terminal_notice,
    .question = terminal_question,
    .suspend = leave,
    .resume = terminal_resume,
    .close = terminal_close,
};
