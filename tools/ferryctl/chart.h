/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rounds of a migration as a picture (SVG). */
#ifndef FERRYCTL_CHART_H
#define FERRYCTL_CHART_H

#include "move.h"

/*
 * Draws a migration with at least one round: what remained, what the link carried and what the
 * guest dirtied, the throttle, all over time; decisions are numbered marks that are listed below,
 * the pause is a band. Returns the text of an SVG file (g_free()) that needs nothing beside it.
 */
char *chart_draw(const move *m, const char *title);

#endif
