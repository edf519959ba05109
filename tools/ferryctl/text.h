/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text for people: made safe, measured, and numbers with units, both ways.
 *
 * All functions return new strings (g_free()). None of them depends on the locale's idea of
 * numbers. Those that parse take what the option's help says and nothing else.
 */
#ifndef FERRYCTL_TEXT_H
#define FERRYCTL_TEXT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * What a machine said, fit for a terminal: one line, valid UTF-8, without control characters (C0,
 * DEL, C1), without characters that turn the direction of writing, at most 4,096 characters. What
 * is taken out leaves a '?' behind. Without utf8 the same holds for everything that is not ASCII.
 */
char *text_clean(const char *s, bool utf8);

/* Columns that a clean text takes. */
unsigned text_width(const char *s);
/* The text cut to this many columns. */
char *text_fit(const char *s, unsigned width);

char *text_bytes(double bytes);                                  /* "1.2 GiB" */
char *text_rate(double bytes_per_s);                             /* "412 MiB/s" */
char *text_count(int64_t n);                                     /* "97,280" */
char *text_duration_us(int64_t us);                              /* "84 ms", "12.3 s", "4:12" */
char *text_clock_ms(int64_t ms);                                 /* "0:04:12" */
char *text_plural(int64_t n, const char *one, const char *many); /* "1 round", "7 rounds" */

/* "400M", "400MiB/s", "1.5G", "0": bytes, or bytes per second. */
bool text_parse_bytes(const char *s, uint64_t *bytes, GError **err);
/* "100ms", "10s", "10m", "1h"; a unit is required. */
bool text_parse_duration(const char *s, int64_t *ms, GError **err);
/* A whole number in a range; what names it in the error. */
bool text_parse_count(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *n,
                      GError **err);

#endif
