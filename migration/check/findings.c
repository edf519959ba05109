/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The list of findings. Whatever is added is cut to its bounds here, in one place, because subjects
 * and reasons quote what a peer sent (names of its memory, of its devices), and whole findings may
 * be a peer's. A list that is full says so in its last entry, which is an obstacle if anything left
 * out was one.
 *
 * Trust: none, see above; text of a peer is shown to people and never interpreted.
 */
#include "migration/check/findings.h"

#include <string.h>

GPtrArray *findings_new(void)
{
    return qapi_migration_finding_list_new();
}

/* Valid UTF-8 without control characters, cut at a character. */
static char *clean(const char *text, size_t max)
{
    char *valid = g_utf8_make_valid(text, -1);

    if (strlen(valid) > max) {
        char *end = g_utf8_find_prev_char(valid, valid + max + 1);

        *end = '\0';
    }
    for (char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (c < 0x80) {
            *p = g_unichar_iscntrl(c) ? ' ' : *p;
        } else if (!g_unichar_isprint(c)) {
            memset(p, '?', (size_t)(g_utf8_next_char(p) - p));
        }
    }
    return valid;
}

char *finding_clean_text(const char *text)
{
    return clean(text, FINDING_MAX_SUBJECT);
}

static void replace(char **text, size_t max)
{
    char *cleaned = clean(*text, max);

    g_free(*text);
    *text = cleaned;
}

/* Takes f. */
static void add(GPtrArray *list, MigrationFinding *f)
{
    MigrationFinding *last;

    if (list->len < FINDINGS_MAX) {
        replace(&f->subject, FINDING_MAX_SUBJECT);
        replace(&f->reason, FINDING_MAX_SENTENCE);
        g_ptr_array_add(list, f);
        return;
    }
    last = g_ptr_array_index(list, list->len - 1);
    g_free(last->subject);
    g_free(last->reason);
    last->subject = g_strdup("more");
    last->reason = g_strdup("There are more findings than can be listed");
    if (f->severity == MIGRATION_FINDING_SEVERITY_OBSTACLE) {
        last->severity = f->severity;
    }
    qapi_migration_finding_free(f);
}

static void add_text(GPtrArray *list, MigrationFindingSeverity severity, MigrationFindingKind kind,
                     const char *subject, const char *fmt, va_list ap)
{
    MigrationFinding *f = g_new0(MigrationFinding, 1);

    f->severity = severity;
    f->kind = kind;
    f->subject = g_strdup(subject);
    f->reason = g_strdup_vprintf(fmt, ap);
    add(list, f);
}

void finding_obstacle(GPtrArray *list, MigrationFindingKind kind, const char *subject,
                      const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add_text(list, MIGRATION_FINDING_SEVERITY_OBSTACLE, kind, subject, fmt, ap);
    va_end(ap);
}

void finding_warning(GPtrArray *list, MigrationFindingKind kind, const char *subject,
                     const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    add_text(list, MIGRATION_FINDING_SEVERITY_WARNING, kind, subject, fmt, ap);
    va_end(ap);
}

void findings_append(GPtrArray *list, GPtrArray *more)
{
    for (unsigned i = 0; i < more->len; i++) {
        add(list, g_steal_pointer(&more->pdata[i]));
    }
    g_ptr_array_set_size(more, 0);
}

void findings_sort(GPtrArray *list)
{
    g_autofree gpointer *warnings = g_new(gpointer, list->len);
    unsigned obstacles = 0, n = 0;

    for (unsigned i = 0; i < list->len; i++) {
        MigrationFinding *f = list->pdata[i];

        if (f->severity == MIGRATION_FINDING_SEVERITY_OBSTACLE) {
            list->pdata[obstacles++] = f;
        } else {
            warnings[n++] = f;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        list->pdata[obstacles + i] = warnings[i];
    }
}

bool findings_have_obstacle(const GPtrArray *list)
{
    for (unsigned i = 0; i < list->len; i++) {
        const MigrationFinding *f = list->pdata[i];

        if (f->severity == MIGRATION_FINDING_SEVERITY_OBSTACLE) {
            return true;
        }
    }
    return false;
}

char *findings_obstacles_text(const GPtrArray *list)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < list->len; i++) {
        const MigrationFinding *f = list->pdata[i];

        if (f->severity == MIGRATION_FINDING_SEVERITY_OBSTACLE) {
            g_string_append_printf(s, "%s%s", s->len ? "; " : "", f->reason);
        }
    }
    return g_string_free(s, FALSE);
}
