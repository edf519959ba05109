/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Errors.
 *
 * Every fallible function takes a `GError **err` as its last argument and returns false, NULL or a
 * negative number when it fails; *err is then set. There is one domain, FERRY_ERROR; the code says
 * whose fault it is, so that a caller can decide (retry a link, refuse a peer) without reading
 * text. The message is one sentence, starts with a capital, names the thing and, where there is
 * one, the remedy. It ends up verbatim in a QMP error or in query-migrate's error-desc.
 */
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#include <glib.h>
#include <stdbool.h>

#define FERRY_ERROR (ferry_error_quark())
GQuark ferry_error_quark(void);

enum ferry_error_code {
    FERRY_ERROR_USER,      /* what was asked cannot be: options, QMP arguments, wrong state */
    FERRY_ERROR_HOST,      /* this host refused: memory, files, KVM */
    FERRY_ERROR_LINK,      /* the connection: closed, reset, timed out */
    FERRY_ERROR_PEER,      /* the other side sent what it must not, or said it failed */
    FERRY_ERROR_GUEST,     /* the guest's own state does not allow it */
    FERRY_ERROR_CANCELLED, /* somebody asked us to stop; never shown as a failure */
    /* these only pick another QMP error class than GenericError */
    FERRY_ERROR_COMMAND_NOT_FOUND,
    FERRY_ERROR_DEVICE_NOT_FOUND,
    FERRY_ERROR_DEVICE_NOT_ACTIVE,
    FERRY_ERROR_KVM_MISSING_CAP,
};

/* Sets *err (when err is not NULL) to a message in printf form. */
void error_set(GError **err, enum ferry_error_code code, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* The same, with ": " and the text of errnum behind the message. */
void error_set_errno(GError **err, enum ferry_error_code code, int errnum, const char *fmt, ...)
    G_GNUC_PRINTF(4, 5);

/* Puts more behind the message of an error. */
void error_append(GError *error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* The QMP class name ("GenericError", ...) for an error. */
const char *error_qmp_class(const GError *err);

/* Lines for people on stderr: "ferry-system-x86_64: <text>", with a timestamp after -msg
 * timestamp=on. Thread-safe. */
void report_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void report_warning(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
void report_info(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* -msg timestamp=on|off, guest-name=on|off with the guest's name (copied; NULL for none) */
void report_configure(bool timestamp, const char *guest_name);

#endif
