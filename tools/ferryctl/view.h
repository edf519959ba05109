/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a migration is shown while it is watched: a display on a terminal, lines, or JSON. watch.c
 * calls a view from one thread, in this order: open; then, as things come in, round and decision
 * for each new one, progress with the whole state, notice for a sentence of ferryctl's own; close.
 */
#ifndef FERRYCTL_VIEW_H
#define FERRYCTL_VIEW_H

#include "move.h"

struct view;

struct view_ops {
    /* keys says what the keyboard does */
    struct view *(*open)(const struct ctl *ctl, const char *title, const char *keys);
    /* any of these may be NULL */
    void (*round)(struct view *v, const move *m, const struct move_round *r);
    void (*decision)(struct view *v, const struct move_decision *d);
    /* m is NULL when nothing has come for a while, and after a resize */
    void (*progress)(struct view *v, move *m);
    void (*notice)(struct view *v, const char *text);
    /* a question that stays until it is answered; NULL: it has been */
    void (*question)(struct view *v, const char *text);
    /* around a stop of the process (^Z) */
    void (*suspend)(struct view *v);
    void (*resume)(struct view *v);
    void (*close)(struct view *v);
};

extern const struct view_ops view_terminal, view_lines, view_json;

/* The one that fits standard output and the options. */
const struct view_ops *view_choose(const struct ctl *ctl);

#endif
