/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Errors and the lines people read on stderr; see include/util/error.h. */
#include "util/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static GQuark quark;

/* Before there are threads: the first error may come from any of them. glib, too, makes a lock at
 * the first error, in a way that the thread sanitizer does not understand. */
static void __attribute__((constructor)) make_quark(void)
{
    quark = g_quark_from_static_string("ferry-error-quark");
    g_error_free(g_error_new_literal(quark, 0, ""));
}

GQuark ferry_error_quark(void)
{
    return quark;
}

/* How lines on stderr look is a property of the process, like stderr itself. */
static struct {
    bool timestamp;
    char *guest_name;
} report_style;

void error_set(GError **err, enum ferry_error_code code, const char *fmt, ...)
{
    va_list ap;

    if (!err) {
        return;
    }
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(err, FERRY_ERROR, code, text);
}

void error_set_errno(GError **err, enum ferry_error_code code, int errnum, const char *fmt, ...)
{
    va_list ap;

    if (!err) {
        return;
    }
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error(err, FERRY_ERROR, code, "%s: %s", text, g_strerror(errnum));
}

void error_append(GError *error, const char *fmt, ...)
{
    va_list ap;
    g_autofree char *more = NULL;
    char *whole;

    va_start(ap, fmt);
    more = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    whole = g_strconcat(error->message, more, NULL);
    g_free(error->message);
    error->message = whole;
}

const char *error_qmp_class(const GError *err)
{
    if (err->domain != FERRY_ERROR) {
        return "GenericError";
    }
    switch (err->code) {
    case FERRY_ERROR_COMMAND_NOT_FOUND:
        return "CommandNotFound";
    case FERRY_ERROR_DEVICE_NOT_FOUND:
        return "DeviceNotFound";
    case FERRY_ERROR_DEVICE_NOT_ACTIVE:
        return "DeviceNotActive";
    case FERRY_ERROR_KVM_MISSING_CAP:
        return "KVMMissingCap";
    default:
        return "GenericError";
    }
}

/* Messages quote what others said. Of a line of ours they may be no more than this, and they must
 * not look like other lines or move the terminal's cursor. */
#define LINE_HEAD 700
#define LINE_TAIL 300

static char *one_line(const char *text)
{
    GString *line = g_string_new(NULL);
    size_t len = strlen(text);

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (i == LINE_HEAD && len > LINE_HEAD + LINE_TAIL) {
            g_string_append(line, "[...]");
            i = len - LINE_TAIL;
            c = (unsigned char)text[i];
        }
        if (c < ' ' || c == 0x7f) {
            g_string_append_printf(line, "\\x%02x", c);
        } else {
            g_string_append_c(line, (char)c);
        }
    }
    return g_string_free(line, FALSE);
}

static void report(const char *level, const char *fmt, va_list ap)
{
    g_autofree char *whole = g_strdup_vprintf(fmt, ap);
    g_autofree char *text = one_line(whole);
    g_autofree char *stamp = NULL;

    if (report_style.timestamp) {
        g_autoptr(GDateTime) now = g_date_time_new_now_utc();
        g_autofree char *day = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S");

        stamp = g_strdup_printf("%s.%06dZ ", day, g_date_time_get_microsecond(now));
    }
    /* one fprintf: lines of different threads do not mix */
    fprintf(stderr, "%s%s%sferry-system-x86_64: %s%s\n", stamp ? stamp : "",
            report_style.guest_name ? report_style.guest_name : "",
            report_style.guest_name ? " " : "", level, text);
}

void report_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    report("", fmt, ap);
    va_end(ap);
}

void report_warning(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    report("warning: ", fmt, ap);
    va_end(ap);
}

void report_info(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    report("info: ", fmt, ap);
    va_end(ap);
}

void report_configure(bool timestamp, const char *guest_name)
{
    report_style.timestamp = timestamp;
    g_free(report_style.guest_name);
    report_style.guest_name = g_strdup(guest_name);
}
