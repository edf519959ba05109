/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ferryctl: what its files share.
 *
 * The program is one process that answers one question or follows one migration. main.c parses the
 * command line and calls the command; a command talks QMP (qmp.c) with the machine that machines.c
 * finds, and prints through text.c, which lets no control character of a machine's reach the
 * terminal. Following a migration is watch.c (the loop), poller.c (a thread that asks) and one view
 * for each kind of output.
 *
 * Everything fallible takes a GError whose code is the exit status that it means.
 */
#ifndef FERRYCTL_CTL_H
#define FERRYCTL_CTL_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(json_t, json_decref)

/* Exit statuses; scripts depend on them. The words are in ctl_exit_name(). */
enum ctl_exit {
    CTL_DONE = 0,         /* what was asked has been done */
    CTL_FAILED = 1,       /* it was tried and failed; a migration that failed */
    CTL_USAGE = 2,        /* the command line makes no sense */
    CTL_REFUSED = 3,      /* the machine refused, nothing was begun */
    CTL_CANCELLED = 4,    /* the migration was cancelled, by whomever */
    CTL_UNREACHABLE = 5,  /* no machine, or it stopped answering */
    CTL_LEFT_RUNNING = 6, /* the migration goes on, ferryctl has stopped looking */
};

#define CTL_ERROR (ctl_error_quark())
GQuark ctl_error_quark(void);
void ctl_fail(GError **err, enum ctl_exit code, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
const char *ctl_exit_name(int code);

struct ctl {
    /* options that every command takes */
    char *socket;        /* -s, or FERRY_SOCKET; NULL: the only machine there is */
    bool json;           /* --json */
    bool plain;          /* --plain: lines although it is a terminal */
    int64_t patience_ms; /* --wait: for each answer */

    bool utf8;   /* the locale's characters */
    json_t *end; /* further members of the last line of --json */
};

struct command {
    const char *name;
    const char *arguments; /* as the synopsis has them */
    const char *summary;
    const char *description; /* behind the options in its --help; may be NULL */
    /* argv[0] is the command's name. Returns the exit status; with *err set that of the error. */
    int (*run)(struct ctl *ctl, const struct command *self, int argc, char **argv, GError **err);
};

/*
 * Parses a command's options: entries (ended by one without long_name, or NULL) and those that all
 * have. Between min and max arguments must remain. Returns them (g_strfreev()), NULL with *err set.
 * --help is answered here and ends the process.
 */
char **command_parse(struct ctl *ctl, const struct command *self, const GOptionEntry *entries,
                     int argc, char **argv, unsigned min, unsigned max, GError **err);

/* Prints one line of --json and flushes it; takes the reference. */
void ctl_print_json(json_t *line);

extern const struct command command_list, command_status, command_check, command_migrate,
    command_watch, command_cancel, command_pause, command_resume, command_policy, command_block,
    command_unblock, command_report, command_quit;

#endif
