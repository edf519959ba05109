/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rounds of a migration as a picture; see chart.h.
 *
 * Three panels over one axis of time. Numbers are written with a point whatever the locale, texts
 * are escaped, and every value was brought into range when it was read (move.c), so that no input
 * makes an invalid file.
 */
#include "chart.h"

#include <math.h>
#include <string.h>

#include "text.h"

#define WIDTH      960.0
#define LEFT       84.0 /* of the panels */
#define RIGHT      936.0
#define GAP        44.0
#define LIST_LINE  18.0
#define LIST_MAX   40  /* decisions written out */
#define WRAP       118 /* characters of a decision in one line */
#define WRAP_LINES 4

#define COLOR_REMAIN "#1f5fa8"
#define COLOR_LINK   "#2a8a4a"
#define COLOR_DIRTY  "#c0392b"
#define COLOR_SLOW   "#b8860b"
#define COLOR_PAUSE  "#7d3c98"
#define COLOR_MARK   "#555555"

struct panel {
    double top, height, max; /* max: at the top, in bytes or percent */
};

struct chart {
    GString *out;
    const move *m;
    double seconds; /* that the axis spans */
};

/* A coordinate. */
static const char *num(char *buffer, double value)
{
    return g_ascii_formatd(buffer, G_ASCII_DTOSTR_BUF_SIZE, "%.2f", value);
}

#define NUM(value) num((char[G_ASCII_DTOSTR_BUF_SIZE]){ 0 }, (value))

static double x_of(const struct chart *c, double seconds)
{
    return LEFT + CLAMP(seconds / c->seconds, 0, 1) * (RIGHT - LEFT);
}

static double y_of(const struct panel *p, double value)
{
    return p->top + p->height * (1 - CLAMP(value / p->max, 0, 1));
}

static void text(struct chart *c, double x, double y, const char *attributes, const char *content)
{
    g_autofree char *escaped = g_markup_escape_text(content, -1);

    g_string_append_printf(c->out, "<text x=\"%s\" y=\"%s\" %s>%s</text>\n", NUM(x), NUM(y),
                           attributes, escaped);
}

static void line(struct chart *c, double x1, double y1, double x2, double y2,
                 const char *attributes)
{
    g_string_append_printf(c->out, "<line x1=\"%s\" y1=\"%s\" x2=\"%s\" y2=\"%s\" %s/>\n", NUM(x1),
                           NUM(y1), NUM(x2), NUM(y2), attributes);
}

/* ---- axes ---- */

/* 1, 2 or 5 times a power of ten, so that about n of them fill the range. */
static double nice_step(double range, unsigned n)
{
    double raw = range / n;
    double power = pow(10, floor(log10(raw)));
    double f = raw / power;

    return power * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}

static char *tick_text(double value, double step)
{
    int decimals = step >= 1 ? 0 : (int)MIN(ceil(-log10(step) - 1e-9), 6);
    char format[] = "%.0f";
    char buffer[G_ASCII_DTOSTR_BUF_SIZE];

    format[2] = (char)('0' + decimals);
    return g_strdup(g_ascii_formatd(buffer, sizeof(buffer), format, value));
}

/* The unit in which a number of bytes is written on an axis. */
static const char *byte_unit(double max, double *unit)
{
    static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    unsigned i = 0;

    for (*unit = 1; max / *unit >= 4096 && i + 1 < G_N_ELEMENTS(names); i++) {
        *unit *= 1024;
    }
    return names[i];
}

/* Frame, grid and labels; stretches max to a whole number of steps. */
static void value_axis(struct chart *c, struct panel *p, double unit, const char *title)
{
    double step = nice_step(p->max / unit, 7);
    double top = ceil(p->max / unit / step - 1e-9) * step;
    g_autofree char *attributes = NULL;

    p->max = top * unit;
    for (double v = 0; v <= top + step / 2; v += step) {
        double y = y_of(p, v * unit);
        g_autofree char *label = tick_text(v, step);

        line(c, LEFT, y, RIGHT, y, v == 0 ? "class=\"axis\"" : "class=\"grid\"");
        text(c, LEFT - 8, y + 4, "class=\"tick\" text-anchor=\"end\"", label);
    }
    attributes =
        g_strdup_printf("class=\"unit\" text-anchor=\"middle\" transform=\"rotate(-90 %s %s)\"",
                        NUM(22), NUM(p->top + p->height / 2));
    text(c, 22, p->top + p->height / 2, attributes, title);
    line(c, LEFT, p->top, LEFT, p->top + p->height, "class=\"axis\"");
}

static void time_axis(struct chart *c, const struct panel *p, bool labels)
{
    bool short_one = c->seconds < 1;
    double unit = short_one ? 1e-3 : 1;
    double span = c->seconds / unit;
    double step = nice_step(span, 10);
    double bottom = p->top + p->height;

    for (double t = 0; t <= span * (1 + 1e-9); t += step) {
        double x = x_of(c, t * unit);
        g_autofree char *label = tick_text(t, step);

        line(c, x, bottom, x, bottom + 4, "class=\"axis\"");
        if (labels) {
            text(c, x, bottom + 18, "class=\"tick\" text-anchor=\"middle\"", label);
        }
    }
    if (labels) {
        text(c, (LEFT + RIGHT) / 2, bottom + 36, "class=\"unit\" text-anchor=\"middle\"",
             short_one ? "milliseconds since the migration began"
                       : "seconds since the migration began");
    }
}

struct key {
    const char *color, *label;
};

static void legend(struct chart *c, const struct panel *p, const struct key *keys, unsigned n)
{
    double x = LEFT;

    for (unsigned i = 0; i < n; i++) {
        g_autofree char *attributes =
            g_strdup_printf("stroke=\"%s\" stroke-width=\"3\"", keys[i].color);

        line(c, x, p->top - 12, x + 22, p->top - 12, attributes);
        text(c, x + 28, p->top - 8, "class=\"key\"", keys[i].label);
        x += 28 + 7.2 * (double)strlen(keys[i].label) + 24;
    }
}

/* ---- what is drawn ---- */

static const struct move_round *round_at(const struct chart *c, guint i)
{
    return &g_array_index(c->m->rounds, struct move_round, i);
}

static double begin_s(const struct move_round *r)
{
    return (double)MAX(r->start_us, 0) / 1e6;
}

static double end_s(const struct move_round *r)
{
    return begin_s(r) + (double)MAX(r->duration_us, 0) / 1e6;
}

static double decision_s(const struct move_decision *d)
{
    return (double)MAX(d->time_ms, 0) / 1e3;
}

static double dirty_rate(const struct chart *c, const struct move_round *r)
{
    return r->duration_us > 0 && r->dirtied_pages > 0
               ? (double)r->dirtied_pages * (double)move_page_size(c->m) /
                     ((double)r->duration_us / 1e6)
               : 0;
}

static double link_rate(const struct chart *c, const struct move_round *r)
{
    (void)c;
    return (double)MAX(r->bandwidth, 0);
}

static double remaining(const struct chart *c, const struct move_round *r)
{
    return (double)MAX(r->remaining_pages, 0) * (double)move_page_size(c->m);
}

typedef double (*value_fn)(const struct chart *c, const struct move_round *r);

static double largest(const struct chart *c, value_fn value)
{
    double max = 0;

    for (guint i = 0; i < c->m->rounds->len; i++) {
        max = MAX(max, value(c, round_at(c, i)));
    }
    return max;
}

/* A value that holds for a whole round: a step each. */
static void steps(struct chart *c, const struct panel *p, value_fn value, const char *attributes)
{
    g_string_append(c->out, "<path fill=\"none\" d=\"");
    for (guint i = 0; i < c->m->rounds->len; i++) {
        const struct move_round *r = round_at(c, i);
        double y = y_of(p, value(c, r));

        g_string_append_printf(c->out, "%s%s %s H%s ", i ? "L" : "M", NUM(x_of(c, begin_s(r))),
                               NUM(y), NUM(x_of(c, end_s(r))));
    }
    g_string_append_printf(c->out, "\" %s/>\n", attributes);
}

/*
 * The throttle is known for whole rounds and, where it was decided within one, from then on. The
 * number of a round that saw such a decision is what was in force at its end.
 */
static void throttle_line(struct chart *c, const struct panel *p)
{
    double level = 0;
    guint next = 0;

    g_string_append(c->out,
                    "<path fill=\"none\" stroke=\"" COLOR_SLOW "\" stroke-width=\"2\" d=\"");
    for (guint i = 0; i < c->m->rounds->len; i++) {
        const struct move_round *r = round_at(c, i);
        bool decided = false;

        for (guint k = next; k < c->m->decisions->len; k++) {
            const struct move_decision *d = c->m->decisions->pdata[k];

            if (decision_s(d) >= end_s(r)) {
                break;
            }
            decided |= !strcmp(d->action, "throttle") && d->value >= 0;
        }
        level = decided ? level : (double)CLAMP(r->throttle, 0, 100);
        g_string_append_printf(c->out, "%s%s %s ", i ? "L" : "M", NUM(x_of(c, begin_s(r))),
                               NUM(y_of(p, level)));
        for (; next < c->m->decisions->len; next++) {
            const struct move_decision *d = c->m->decisions->pdata[next];

            if (decision_s(d) >= end_s(r)) {
                break;
            }
            if (!strcmp(d->action, "throttle") && d->value >= 0) {
                level = (double)MIN(d->value, 100);
                g_string_append_printf(c->out, "H%s V%s ", NUM(x_of(c, decision_s(d))),
                                       NUM(y_of(p, level)));
            }
        }
        g_string_append_printf(c->out, "H%s ", NUM(x_of(c, end_s(r))));
    }
    g_string_append(c->out, "\"/>\n");
}

/* What remains is known at the ends of rounds; within one it falls and grows at once. */
static void remainder_line(struct chart *c, const struct panel *p)
{
    const struct move_round *first = round_at(c, 0);
    double total = c->m->total > 0 ? (double)c->m->total : remaining(c, first);
    GString *points = g_string_new(NULL);

    /* a history that has lost its beginning says nothing about the start */
    if (first->number <= 1) {
        g_string_append_printf(points, "%s,%s ", NUM(x_of(c, begin_s(first))), NUM(y_of(p, total)));
    }
    for (guint i = 0; i < c->m->rounds->len; i++) {
        const struct move_round *r = round_at(c, i);
        double x = x_of(c, end_s(r)), y = y_of(p, remaining(c, r));

        g_string_append_printf(points, "%s,%s ", NUM(x), NUM(y));
        g_string_append_printf(c->out, "<circle cx=\"%s\" cy=\"%s\" r=\"2.5\" fill=\"%s\"/>\n",
                               NUM(x), NUM(y), COLOR_REMAIN);
    }
    if (!g_strcmp0(c->m->status, "completed") && c->m->total_ms >= 0) {
        g_string_append_printf(points, "%s,%s ", NUM(x_of(c, (double)c->m->total_ms / 1e3)),
                               NUM(y_of(p, 0)));
    }
    g_string_append_printf(c->out,
                           "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" "
                           "points=\"%s\"/>\n",
                           COLOR_REMAIN, points->str);
    g_string_free(points, TRUE);
}

static void band(struct chart *c, const struct panel *p, double begin, double end)
{
    double x = x_of(c, MAX(begin, 0));

    g_string_append_printf(c->out,
                           "<rect x=\"%s\" y=\"%s\" width=\"%s\" height=\"%s\" fill=\"%s\" "
                           "fill-opacity=\"0.35\"/>\n",
                           NUM(x), NUM(p->top), NUM(MAX(x_of(c, end) - x, 2)), NUM(p->height),
                           COLOR_PAUSE);
}

/* The guest's pause at the switchover, and those that a policy made on the way. */
static void pause_bands(struct chart *c, const struct panel *p)
{
    double total = c->m->total_ms < 0 ? c->seconds : (double)c->m->total_ms / 1e3;
    double pause = MAX((double)move_pause_us(c->m), 0) / 1e6;
    double suspended = -1;

    for (guint i = 0; i < c->m->decisions->len; i++) {
        const struct move_decision *d = c->m->decisions->pdata[i];

        if (!strcmp(d->action, "suspend")) {
            suspended = decision_s(d);
        } else if (suspended >= 0 &&
                   (!strcmp(d->action, "resume") || !strcmp(d->action, "abort"))) {
            band(c, p, suspended, decision_s(d));
            suspended = -1;
        }
    }
    if (suspended >= 0 || (move_pause_us(c->m) >= 0 && c->m->total_ms >= 0)) {
        band(c, p, suspended >= 0 ? MIN(suspended, total - pause) : total - pause, total);
    }
}

static void decision_marks(struct chart *c, const struct panel *p, bool numbers)
{
    double last = -1000;

    for (guint i = 0; i < c->m->decisions->len && i < LIST_MAX; i++) {
        const struct move_decision *d = c->m->decisions->pdata[i];
        double x = x_of(c, decision_s(d));
        g_autofree char *number = g_strdup_printf("%u", i + 1);

        line(c, x, p->top, x, p->top + p->height,
             "stroke=\"" COLOR_MARK "\" stroke-dasharray=\"3 3\"");
        if (numbers && x - last >= 14) { /* those that would cover each other go without */
            text(c, x, p->top + p->height + 16, "class=\"mark\" text-anchor=\"middle\"", number);
            last = x;
        }
    }
}

/* ---- the whole ---- */

/* A text in as many lines as it needs, up to WRAP_LINES; returns where the next one goes. */
static double wrapped(struct chart *c, double y, const char *content)
{
    for (unsigned i = 0; *content && i < WRAP_LINES; i++, y += LIST_LINE) {
        g_autofree char *fitted = text_fit(content, i ? WRAP - 4 : WRAP);
        size_t n = strlen(fitted);
        char *blank = content[n] ? strrchr(fitted, ' ') : NULL;

        if (blank && blank > fitted) {
            n = (size_t)(blank - fitted);
            *blank = 0;
        }
        text(c, i ? LEFT + 18 : LEFT, y, "class=\"key\"", fitted);
        content += n + (blank ? strspn(content + n, " ") : 0);
    }
    return y;
}

static double decision_list(struct chart *c, double y)
{
    const GPtrArray *list = c->m->decisions;

    if (!list->len) {
        return y;
    }
    text(c, LEFT, y, "class=\"head\"", "Decisions");
    y += LIST_LINE;
    for (guint i = 0; i < list->len && i < LIST_MAX; i++) {
        const struct move_decision *d = list->pdata[i];
        g_autofree char *what = move_decision_text(d);
        g_autofree char *when = text_duration_us(MAX(d->time_ms, 0) * 1000);
        g_autofree char *all = g_strdup_printf("%u  after %s, round %" G_GINT64_FORMAT ": %s",
                                               i + 1, when, MAX(d->round, 0), what);

        y = wrapped(c, y, all);
    }
    if (list->len > LIST_MAX) {
        g_autofree char *more = g_strdup_printf("and %u more", list->len - LIST_MAX);

        text(c, LEFT, y, "class=\"key\"", more);
        y += LIST_LINE;
    }
    return y;
}

static char *subtitle(const move *m)
{
    g_autofree char *total = text_duration_us(m->total_ms * 1000);
    g_autofree char *pause = text_duration_us(move_pause_us(m));
    g_autofree char *sent = text_bytes((double)m->transferred);
    g_autofree char *rounds = text_plural(move_round_count(m), "round", "rounds");
    GString *s = g_string_new(m->status ? m->status : "unknown");

    if (m->total_ms >= 0) {
        g_string_append_printf(s, " after %s", total);
    }
    if (move_pause_us(m) >= 0) {
        g_string_append_printf(s, ", the guest paused for %s", pause);
    }
    if (m->transferred >= 0) {
        g_string_append_printf(s, ", %s sent", sent);
    }
    g_string_append_printf(s, ", %s", rounds);
    return g_string_free(s, FALSE);
}

static void remain_panel(struct chart *c, struct panel *p)
{
    static const struct key keys[] = { { COLOR_REMAIN, "memory still to be sent" },
                                       { COLOR_PAUSE, "the guest is paused" },
                                       { COLOR_MARK, "decision (numbers below)" } };
    double unit;
    g_autofree char *label = NULL;

    p->max = MAX(MAX(largest(c, remaining), (double)c->m->total), 1);
    label = g_strdup_printf("remaining, %s", byte_unit(p->max, &unit));
    value_axis(c, p, unit, label);
    time_axis(c, p, false);
    pause_bands(c, p);
    decision_marks(c, p, true);
    remainder_line(c, p);
    legend(c, p, keys, G_N_ELEMENTS(keys));
}

static void rate_panel(struct chart *c, struct panel *p)
{
    static const struct key keys[] = { { COLOR_LINK, "the link carried" },
                                       { COLOR_DIRTY, "the guest dirtied" } };
    double unit;
    g_autofree char *label = NULL;

    p->max = MAX(MAX(largest(c, link_rate), largest(c, dirty_rate)), 1);
    label = g_strdup_printf("rate, %s/s", byte_unit(p->max, &unit));
    value_axis(c, p, unit, label);
    time_axis(c, p, false);
    pause_bands(c, p);
    decision_marks(c, p, false);
    steps(c, p, link_rate, "stroke=\"" COLOR_LINK "\" stroke-width=\"2\"");
    steps(c, p, dirty_rate, "stroke=\"" COLOR_DIRTY "\" stroke-width=\"2\"");
    legend(c, p, keys, G_N_ELEMENTS(keys));
}

static void throttle_panel(struct chart *c, struct panel *p)
{
    static const struct key keys[] = { { COLOR_SLOW, "the guest's CPUs are held back" } };

    p->max = 100;
    value_axis(c, p, 1, "throttle, %");
    time_axis(c, p, true);
    pause_bands(c, p);
    decision_marks(c, p, false);
    throttle_line(c, p);
    legend(c, p, keys, G_N_ELEMENTS(keys));
}

static double span(const move *m)
{
    double end = m->total_ms > 0 ? (double)m->total_ms / 1e3 : 0;

    for (guint i = 0; i < m->rounds->len; i++) {
        end = MAX(end, end_s(&g_array_index(m->rounds, struct move_round, i)));
    }
    for (guint i = 0; i < m->decisions->len; i++) {
        const struct move_decision *d = m->decisions->pdata[i];

        end = MAX(end, decision_s(d));
    }
    return MAX(end, 1e-3);
}

char *chart_draw(const move *m, const char *title)
{
    struct chart c = { g_string_new(NULL), m, span(m) };
    struct panel remain = { 104, 200, 0 };
    struct panel rate = { remain.top + remain.height + GAP, 200, 0 };
    struct panel slow = { rate.top + rate.height + GAP, 100, 0 };
    g_autofree char *below = subtitle(m);
    GString *svg = g_string_new("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    double bottom;

    text(&c, LEFT, 36, "class=\"title\"", title);
    text(&c, LEFT, 60, "class=\"sub\"", below);
    remain_panel(&c, &remain);
    rate_panel(&c, &rate);
    throttle_panel(&c, &slow);
    bottom = decision_list(&c, slow.top + slow.height + 68);

    g_string_append_printf(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%s\" height=\"%s\" viewBox=\"0 0 %s "
        "%s\" "
        "font-family=\"DejaVu Sans, Verdana, Helvetica, sans-serif\">\n"
        "<style>.title{font-size:20px;font-weight:bold}.sub{font-size:14px;fill:#444}"
        ".tick{font-size:11px;fill:#444}.unit,.key{font-size:12px;fill:#222}"
        ".mark{font-size:10px;fill:#222;font-weight:bold}.head{font-size:13px;font-weight:bold}"
        ".grid{stroke:#e3e3e3}.axis{stroke:#777}</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
        NUM(WIDTH), NUM(bottom + 8), NUM(WIDTH), NUM(bottom + 8));
    g_string_append(svg, c.out->str);
    g_string_append(svg, "</svg>\n");
    g_string_free(c.out, TRUE);
    return g_string_free(svg, FALSE);
}
