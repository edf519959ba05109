/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A list of findings of a check: GPtrArray of MigrationFinding *, bounded in number and length. */
#ifndef MIGRATION_CHECK_FINDINGS_H
#define MIGRATION_CHECK_FINDINGS_H

#include "qapi/qapi-types.h"

/* Longest list, subject and reason, in bytes; what goes beyond is cut, and the list says so. A full
 * list fits into CHECK_MAX_BYTES however its text is escaped. */
#define FINDINGS_MAX         128u
#define FINDING_MAX_SUBJECT  128u
#define FINDING_MAX_SENTENCE 500u

GPtrArray *findings_new(void);
void finding_obstacle(GPtrArray *list, MigrationFindingKind kind, const char *subject,
                      const char *fmt, ...) G_GNUC_PRINTF(4, 5);
void finding_warning(GPtrArray *list, MigrationFindingKind kind, const char *subject,
                     const char *fmt, ...) G_GNUC_PRINTF(4, 5);

/* Valid UTF-8 without control characters, short enough for a subject; g_free(). */
char *finding_clean_text(const char *text);
/* Moves the findings of `more` behind those of `list`, as far as they fit, with anything that is no
 * printable text taken out: they may be a peer's. `more` is empty afterwards. */
void findings_append(GPtrArray *list, GPtrArray *more);
/* Obstacles first, else in the order of their coming. */
void findings_sort(GPtrArray *list);
bool findings_have_obstacle(const GPtrArray *list);
/* The reasons of all obstacles in one sentence; g_free(). */
char *findings_obstacles_text(const GPtrArray *list);

#endif
