/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text for people; see text.h. */
#include "text.h"
#include "ctl.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLEAN_MAX 4096 /* characters */

/* Characters that reorder what stands around them: a name could look like another one. */
static bool turns_direction(gunichar c)
{
    return c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

static bool is_safe(gunichar c, bool utf8)
{
    if (c < 0x20 || (c >= 0x7f && c < 0xa0)) {
        return false;
    }
    return c < 0x80 || (utf8 && g_unichar_isprint(c) && !turns_direction(c));
}

char *text_clean(const char *s, bool utf8)
{
    GString *out = g_string_new(NULL);

    for (unsigned n = 0; *s; n++) {
        gunichar c = g_utf8_get_char_validated(s, -1);
        bool valid = c != (gunichar)-1 && c != (gunichar)-2;

        if (n == CLEAN_MAX) {
            g_string_append(out, "...");
            break;
        }
        if (valid && (c == '\n' || c == '\t')) {
            g_string_append_c(out, ' ');
        } else if (valid && is_safe(c, utf8)) {
            g_string_append_unichar(out, c);
        } else {
            g_string_append_c(out, '?');
        }
        s = valid ? g_utf8_next_char(s) : s + 1;
    }
    return g_string_free(out, FALSE);
}

static unsigned char_width(gunichar c)
{
    return g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
}

unsigned text_width(const char *s)
{
    unsigned width = 0;

    for (; *s; s = g_utf8_next_char(s)) {
        width += char_width(g_utf8_get_char(s));
    }
    return width;
}

char *text_fit(const char *s, unsigned width)
{
    unsigned used = 0;
    const char *p = s;

    for (; *p; p = g_utf8_next_char(p)) {
        unsigned w = char_width(g_utf8_get_char(p));

        if (used + w > width) {
            break;
        }
        used += w;
    }
    return g_strndup(s, (gsize)(p - s));
}

/* Three significant digits where there is a fraction at all. */
static char *with_digits(double value, const char *unit)
{
    int decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    char number[G_ASCII_DTOSTR_BUF_SIZE];
    char format[] = "%.0f";

    format[2] = (char)('0' + decimals);
    g_ascii_formatd(number, sizeof(number), format, value);
    return g_strconcat(number, unit, NULL);
}

char *text_bytes(double bytes)
{
    static const char *const units[] = { " KiB", " MiB", " GiB", " TiB", " PiB" };
    unsigned unit = 0;

    if (!(bytes > 0)) {
        return g_strdup("0 B");
    }
    if (bytes < 1024) {
        return g_strdup_printf("%d B", (int)bytes);
    }
    for (bytes /= 1024; bytes >= 1023.5 && unit + 1 < G_N_ELEMENTS(units); unit++) {
        bytes /= 1024;
    }
    return with_digits(bytes, units[unit]);
}

char *text_rate(double bytes_per_s)
{
    g_autofree char *bytes = text_bytes(bytes_per_s);

    return g_strconcat(bytes, "/s", NULL);
}

char *text_count(int64_t n)
{
    g_autofree char *digits = g_strdup_printf("%" G_GINT64_FORMAT, n);
    GString *out = g_string_new(NULL);
    const char *p = digits;
    size_t left;

    if (*p == '-') {
        g_string_append_c(out, *p++);
    }
    for (left = strlen(p); left; left--) {
        g_string_append_c(out, *p++);
        if (left > 1 && (left - 1) % 3 == 0) {
            g_string_append_c(out, ',');
        }
    }
    return g_string_free(out, FALSE);
}

char *text_duration_us(int64_t us)
{
    if (us < 0) {
        return g_strdup("-");
    }
    if (us < 1000) {
        return g_strdup_printf("%d us", (int)us);
    }
    if (us < 10 * 1000) {
        return with_digits((double)us / 1e3, " ms");
    }
    if (us < 1000 * 1000) {
        return g_strdup_printf("%d ms", (int)((us + 500) / 1000));
    }
    if (us < 60 * 1000 * 1000) {
        return with_digits((double)us / 1e6, " s");
    }
    if (us < 3600LL * 1000 * 1000) {
        return g_strdup_printf("%d:%02d min", (int)(us / 60000000), (int)(us / 1000000 % 60));
    }
    return text_clock_ms(us / 1000);
}

char *text_clock_ms(int64_t ms)
{
    int64_t s = MAX(ms, 0) / 1000;

    return g_strdup_printf("%" G_GINT64_FORMAT ":%02d:%02d", s / 3600, (int)(s / 60 % 60),
                           (int)(s % 60));
}

char *text_plural(int64_t n, const char *one, const char *many)
{
    g_autofree char *count = text_count(n);

    return g_strdup_printf("%s %s", count, n == 1 ? one : many);
}

/* A non-negative decimal number at the start of s; NULL when there is none. No hex, no exponents,
 * no "inf", no sign, which strtod() would take. */
static const char *parse_number(const char *s, double *value)
{
    g_autofree char *digits = NULL;
    size_t n = strspn(s, "0123456789.");

    if (!n || *s == '.' || strchr(s, '.') != strrchr(s, '.') || n > 20) {
        return NULL;
    }
    digits = g_strndup(s, n);
    *value = g_ascii_strtod(digits, NULL);
    return s + n;
}

bool text_parse_bytes(const char *s, uint64_t *bytes, GError **err)
{
    static const char letters[] = "kMGT";
    double value = 0, factor = 1;
    const char *p = parse_number(s, &value);
    const char *letter;

    if (!p) {
        goto bad;
    }
    letter = *p ? strchr(letters, *p == 'K' ? 'k' : *p) : NULL;
    if (letter) {
        factor = pow(1024, (double)(letter - letters + 1));
        p++;
        if (g_str_has_prefix(p, "iB")) {
            p += 2;
        }
    } else if (*p == 'B') {
        p++;
    }
    if ((*p && strcmp(p, "/s") != 0) || value * factor >= 0x1p63) {
        goto bad;
    }
    *bytes = (uint64_t)(value * factor);
    return true;
bad:
    ctl_fail(err, CTL_USAGE, "'%s' is not a size: give a number and k, M, G or T, as in 400M", s);
    return false;
}

bool text_parse_duration(const char *s, int64_t *ms, GError **err)
{
    static const struct {
        const char *name;
        double ms;
    } units[] = { { "ms", 1 }, { "s", 1e3 }, { "m", 60e3 }, { "min", 60e3 }, { "h", 3600e3 } };
    double value = 0;
    const char *p = parse_number(s, &value);

    for (unsigned i = 0; p && i < G_N_ELEMENTS(units); i++) {
        if (!strcmp(p, units[i].name) && value * units[i].ms < 1e12) {
            *ms = (int64_t)(value * units[i].ms + 0.5);
            return true;
        }
    }
    ctl_fail(err, CTL_USAGE, "'%s' is not a time: give a number and ms, s, m or h, as in 100ms", s);
    return false;
}

bool text_parse_count(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *n,
                      GError **err)
{
    char *end = NULL;

    errno = 0;
    *n = g_ascii_isdigit(*s) ? g_ascii_strtoull(s, &end, 10) : 0;
    if (!end || *end || errno || *n < min || *n > max) {
        ctl_fail(err, CTL_USAGE,
                 "'%s' is no %s: give a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT, s,
                 what, min, max);
        return false;
    }
    return true;
}
