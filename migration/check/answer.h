/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The destination's half of a check. */
#ifndef MIGRATION_CHECK_ANSWER_H
#define MIGRATION_CHECK_ANSWER_H

#include <glib.h>
#include <stdbool.h>

struct channel;
struct migration;

/*
 * Compares the description that came (JSON) with this side, and sends what was found. Changes
 * nothing here. Any thread, without the machine lock. PEER when the description makes no sense.
 */
bool check_answer(struct migration *m, const GByteArray *text, struct channel *ch, GError **err);

#endif
