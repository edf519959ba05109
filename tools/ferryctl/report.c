/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command report: the last migration as a picture, from the machine's own history or from what
 * `migrate --json` or `watch --json` printed (the machine that sent the guest may be gone by then).
 */
#include "chart.h"
#include "machines.h"
#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static move *from_machine(const struct ctl *ctl, char **name, GError **err)
{
    g_autoptr(qmp_address) address = machines_chosen(ctl, err);
    g_autoptr(qmp) q = address ? qmp_connect(address, ctl->patience_ms, -1, err) : NULL;
    g_autoptr(move) m = q ? move_query(ctl, q, err) : NULL;

    if (!m) {
        return NULL;
    }
    if (!m->rounds->len) {
        ctl_fail(err, CTL_REFUSED,
                 qmp_is_ferry(q)
                     ? "There is no round to draw: this machine (%s) has not sent a guest"
                     : "This machine (%s) keeps no history of rounds",
                 qmp_version(q));
        return NULL;
    }
    *name = machines_name(ctl, address);
    return g_steal_pointer(&m);
}

static move *from_file(const struct ctl *ctl, const char *path, GError **err)
{
    g_autoptr(json_t) empty = json_object();
    g_autoptr(move) m = move_parse(ctl, empty);
    g_autofree char *clean = text_clean(path, ctl->utf8);
    g_autofree char *contents = NULL;
    g_autoptr(GError) error = NULL;
    char *next;
    gsize len;

    if (!g_file_get_contents(path, &contents, &len, &error)) {
        ctl_fail(err, CTL_FAILED, "Cannot read the recording: %s", error->message);
        return NULL;
    }
    for (char *line = contents; line < contents + len; line = next) {
        char *end = memchr(line, '\n', (size_t)(contents + len - line));
        size_t n = (size_t)((end ? end : contents + len) - line);
        g_autoptr(json_t) object = n ? json_loadb(line, n, 0, NULL) : NULL;

        next = line + n + 1;
        if (n && !json_is_object(object)) {
            ctl_fail(err, CTL_USAGE, "%s is no recording of ferryctl --json", clean);
            return NULL;
        }
        move_from_json(ctl, m, object);
    }
    if (!m->rounds->len) {
        ctl_fail(err, CTL_REFUSED, "There is no round to draw in %s", clean);
        return NULL;
    }
    return g_steal_pointer(&m);
}

static bool write_out(const struct ctl *ctl, const char *path, const char *svg, GError **err)
{
    g_autoptr(GError) error = NULL;

    if (path && strcmp(path, "-") != 0) {
        if (!g_file_set_contents(path, svg, -1, &error)) {
            ctl_fail(err, CTL_FAILED, "Cannot write the report: %s", error->message);
            return false;
        }
        if (!ctl->json) {
            g_autofree char *clean = text_clean(path, ctl->utf8);

            g_print("Written: %s\n", clean);
        }
        return true;
    }
    if (fputs(svg, stdout) < 0 || fflush(stdout) != 0) {
        ctl_fail(err, CTL_FAILED, "Cannot write the report: %s", g_strerror(errno));
        return false;
    }
    return true;
}

static int report_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                      GError **err)
{
    g_autofree char *output = NULL;
    g_autofree char *input = NULL;
    const GOptionEntry entries[] = {
        { "output", 'o', 0, G_OPTION_ARG_FILENAME, &output, "the SVG [standard output]", "FILE" },
        { "from", 'f', 0, G_OPTION_ARG_FILENAME, &input,
          "draw what --json printed, instead of asking the machine", "FILE" },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 0, 0, err);
    g_autoptr(move) m = NULL;
    g_autofree char *name = NULL;
    g_autofree char *title = NULL;
    g_autofree char *svg = NULL;
    bool to_stdout = !output || !strcmp(output, "-");

    if (!rest) {
        return CTL_USAGE;
    }
    if (to_stdout && (ctl->json || isatty(STDOUT_FILENO))) {
        ctl_fail(err, CTL_USAGE, "Say where the picture goes: -o FILE.svg");
        return CTL_USAGE;
    }
    m = input ? from_file(ctl, input, err) : from_machine(ctl, &name, err);
    if (!m) {
        return CTL_FAILED;
    }
    title = name ? g_strdup_printf("Migration of %s", name) : g_strdup("Migration");
    svg = chart_draw(m, title);
    return write_out(ctl, output, svg, err) ? CTL_DONE : CTL_FAILED;
}

const struct command command_report = {
    .name = "report",
    .arguments = "",
    .summary = "draw the last migration's rounds as an SVG",
    .description =
        "Ask the machine that sent the guest before it is ended, or keep what migrate --json "
        "prints.",
    .run = report_run,
};
