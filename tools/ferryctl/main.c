/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ferryctl: migrations by hand. The command line, the table of commands, and how a command ends:
 * with
 * --json a last line of the type "end", otherwise what went wrong on stderr, and an exit status
 * (enum ctl_exit) either way. ctl.h says how the rest is laid out.
 */
#include "ctl.h"

#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

#define PATIENCE_MS 10000

static const struct command *const commands[] = {
    &command_list,    &command_status, &command_check,  &command_migrate, &command_watch,
    &command_cancel,  &command_pause,  &command_resume, &command_policy,  &command_block,
    &command_unblock, &command_report, &command_quit,
};

G_DEFINE_QUARK(ferryctl - error, ctl_error)

void ctl_fail(GError **err, enum ctl_exit code, const char *fmt, ...)
{
    va_list ap;

    if (err) {
        va_start(ap, fmt);
        *err = g_error_new_valist(CTL_ERROR, (int)code, fmt, ap);
        va_end(ap);
    }
}

const char *ctl_exit_name(int code)
{
    static const char *const names[] = {
        [CTL_DONE] = "done",
        [CTL_FAILED] = "failed",
        [CTL_USAGE] = "usage",
        [CTL_REFUSED] = "refused",
        [CTL_CANCELLED] = "cancelled",
        [CTL_UNREACHABLE] = "unreachable",
        [CTL_LEFT_RUNNING] = "left-running",
    };

    return names[code];
}

void ctl_print_json(json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII);

    /* Strings are clean before they get here; this is for those that are the user's own. */
    for (char *p = text; p && *p; p++) {
        if (*p == 0x7f) {
            *p = '?';
        }
    }
    puts(text ? text : "{}");
    fflush(stdout);
    free(text);
    json_decref(line);
}

/* The options that go before the command as well as behind it. */
struct common_options {
    GOptionEntry entries[5];
    char *socket, *wait;
    gboolean json, plain;
};

static void common_init(struct common_options *c)
{
    const GOptionEntry entries[] = {
        { "socket", 's', 0, G_OPTION_ARG_STRING, &c->socket,
          "the machine: its name in a run folder, or its QMP socket [FERRY_SOCKET]",
          "NAME|PATH|tcp:HOST:PORT" },
        { "json", 0, 0, G_OPTION_ARG_NONE, &c->json, "one JSON object a line", NULL },
        { "plain", 0, 0, G_OPTION_ARG_NONE, &c->plain, "lines also on a terminal", NULL },
        { "wait", 'w', 0, G_OPTION_ARG_STRING, &c->wait,
          "how long to wait for each answer of the machine [10s]", "TIME" },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };

    memset(c, 0, sizeof(*c));
    memcpy(c->entries, entries, sizeof(entries));
}

static bool common_apply(struct common_options *c, struct ctl *ctl, GError **err)
{
    bool ok = !c->wait || text_parse_duration(c->wait, &ctl->patience_ms, err);

    if (c->socket) {
        g_free(ctl->socket);
        ctl->socket = g_steal_pointer(&c->socket);
    }
    ctl->json |= c->json;
    ctl->plain |= c->plain;
    if (ok && ctl->patience_ms < 1) {
        ctl_fail(err, CTL_USAGE, "--wait must be at least 1ms");
        ok = false;
    }
    g_free(c->socket);
    g_free(c->wait);
    return ok;
}

static bool parse(GOptionContext *context, struct ctl *ctl, const GOptionEntry *entries,
                  char ***argv, GError **err)
{
    struct common_options common;
    g_autoptr(GError) error = NULL;
    bool parsed;

    common_init(&common);
    if (entries) {
        g_option_context_add_main_entries(context, entries, NULL);
    }
    g_option_context_add_main_entries(context, common.entries, NULL);
    parsed = g_option_context_parse_strv(context, argv, &error);
    if (!common_apply(&common, ctl, parsed ? err : NULL)) {
        return false;
    }
    if (!parsed) {
        ctl_fail(err, CTL_USAGE, "%s", error->message);
    }
    return parsed;
}

char **command_parse(struct ctl *ctl, const struct command *self, const GOptionEntry *entries,
                     int argc, char **argv, unsigned min, unsigned max, GError **err)
{
    g_autofree char *synopsis =
        g_strdup_printf("%s%s- %s", self->arguments, *self->arguments ? " " : "", self->summary);
    g_autoptr(GOptionContext) context = g_option_context_new(synopsis);
    g_auto(GStrv) args = g_new0(char *, (gsize)argc + 1);
    char *prgname = g_strdup_printf("ferryctl %s", self->name);
    unsigned n;

    for (int i = 0; i < argc; i++) {
        args[i] = g_strdup(argv[i]);
    }
    g_set_prgname(prgname); /* what --help shows */
    g_free(prgname);
    g_option_context_set_description(context, self->description);
    if (!parse(context, ctl, entries, &args, err)) {
        return NULL;
    }
    n = g_strv_length(args) - 1;
    if (n && !strcmp(args[1], "--")) {
        g_free(args[1]);
        memmove(args + 1, args + 2, n * sizeof(*args));
        n--;
    }
    if (n < min || n > max) {
        ctl_fail(err, CTL_USAGE, "%s takes %s, see ferryctl %s --help", self->name,
                 *self->arguments ? self->arguments : "no arguments", self->name);
        return NULL;
    }
    g_free(args[0]);
    memmove(args, args + 1, (n + 1) * sizeof(*args));
    return g_steal_pointer(&args);
}

static char *table_of_commands(void)
{
    GString *s = g_string_new("Commands:\n");

    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_string_append_printf(s, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    }
    g_string_append(
        s, "\nferryctl COMMAND --help tells about each. Exit status: 0 done, 1 failed, 2 usage,\n"
           "3 refused, 4 cancelled, 5 machine not reachable, 6 left running.");
    return g_string_free(s, FALSE);
}

static const struct command *find_command(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(name, commands[i]->name)) {
            return commands[i];
        }
    }
    return NULL;
}

static int run(struct ctl *ctl, char **argv, GError **err)
{
    g_autoptr(GOptionContext) context = g_option_context_new("COMMAND [ARGUMENT...]");
    g_autofree char *table = table_of_commands();
    const struct command *command;
    gboolean version = FALSE;
    const GOptionEntry entries[] = {
        { "version", 'V', 0, G_OPTION_ARG_NONE, &version, "show the version", NULL },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) args = g_strdupv(argv);

    g_set_prgname("ferryctl");
    g_option_context_set_summary(context, "Moves guests between Ferry virtual machine monitors.");
    g_option_context_set_description(context, table);
    g_option_context_set_strict_posix(context, TRUE); /* the rest is the command's */
    if (!parse(context, ctl, entries, &args, err)) {
        return CTL_USAGE;
    }
    if (version) {
        g_print("ferryctl (Ferry) %s\n", FERRY_VERSION);
        return CTL_DONE;
    }
    if (!args[1]) {
        ctl_fail(err, CTL_USAGE, "Say what to do, see ferryctl --help");
        return CTL_USAGE;
    }
    command = find_command(args[1]);
    if (!command) {
        g_autofree char *name = text_clean(args[1], ctl->utf8);

        ctl_fail(err, CTL_USAGE, "There is no command '%s', see ferryctl --help", name);
        return CTL_USAGE;
    }
    return command->run(ctl, command, (int)g_strv_length(args + 1), args + 1, err);
}

int main(int argc, char **argv)
{
    struct ctl ctl = { .patience_ms = PATIENCE_MS, .socket = g_strdup(g_getenv("FERRY_SOCKET")) };
    g_autoptr(GError) error = NULL;
    int status;

    /* known before anything is parsed, so that a command line that cannot be ends in JSON too */
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        ctl.json |= !strcmp(argv[i], "--json");
    }
    setlocale(LC_CTYPE, ""); /* characters only: numbers stay as they are everywhere */
    ctl.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
    ctl.end = json_object();
    if (ctl.socket && !*ctl.socket) {
        g_clear_pointer(&ctl.socket, g_free);
    }

    status = run(&ctl, argv, &error);
    if (error) {
        g_autofree char *text = text_clean(error->message, ctl.utf8);

        status = error->domain == CTL_ERROR ? error->code : CTL_FAILED;
        fflush(stdout);
        fprintf(stderr, "ferryctl: %s\n", text);
        json_object_set_new(ctl.end, "message", json_string(text));
    }
    if (ctl.json) {
        json_object_set_new(ctl.end, "type", json_string("end"));
        json_object_set_new(ctl.end, "outcome", json_string(ctl_exit_name(status)));
        json_object_set_new(ctl.end, "exit-status", json_integer(status));
        ctl_print_json(g_steal_pointer(&ctl.end));
    }
    json_decref(ctl.end);
    g_free(ctl.socket);
    return status;
}
