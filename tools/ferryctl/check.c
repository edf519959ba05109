/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command check; see check.h. */
#include "check.h"
#include "text.h"

#include <string.h>

/* The machine asks its peer, with a deadline of its own. */
#define CHECK_PATIENCE_MS 30000
#define FINDINGS_MAX      10000

bool check_parse_peer(const char *text, enum check_peer *peer, GError **err)
{
    *peer = CHECK_PEER_FERRY;
    if (!text || !strcmp(text, "ferry")) {
        return true;
    }
    if (!strcmp(text, "qemu")) {
        *peer = CHECK_PEER_QEMU;
        return true;
    }
    ctl_fail(err, CTL_USAGE, "--peer takes ferry or qemu, not '%s'", text);
    return false;
}

/* A path for a machine on this host, as this process sees it. */
static char *absolute(const qmp_address *machine, const char *path)
{
    return machine->path ? g_canonicalize_filename(path, NULL) : g_strdup(path);
}

char *check_destination(const qmp_address *machine, const char *text, bool *live, GError **err)
{
    g_autofree char *host = NULL;
    g_autofree char *port = NULL;
    g_autofree char *path = NULL;

    *live = true;
    if (g_str_has_prefix(text, "tcp:") && machines_split_host_port(text + 4, &host, &port)) {
        return g_strdup(text);
    }
    if (g_str_has_prefix(text, "unix:") && text[5]) {
        path = absolute(machine, text + 5);
        return g_strconcat("unix:", path, NULL);
    }
    if ((g_str_has_prefix(text, "file:") || g_str_has_prefix(text, "exec:")) && text[5]) {
        *live = false;
        path = text[0] == 'f' ? absolute(machine, text + 5) : g_strdup(text + 5);
        return g_strdup_printf("%.5s%s", text, path);
    }
    if (strchr(text, '/') && text[strspn(text, "abcdefghijklmnopqrstuvwxyz")] != ':') {
        path = absolute(machine, text);
        return g_strconcat("unix:", path, NULL);
    }
    if (!g_str_has_prefix(text, "fd:") && machines_split_host_port(text, &host, &port)) {
        return g_strconcat("tcp:", text, NULL);
    }
    ctl_fail(err, CTL_USAGE,
             "'%s' is no destination: give HOST:PORT, tcp:HOST:PORT, unix:PATH, file:PATH or "
             "exec:COMMAND",
             text);
    return NULL;
}

/* ---- asking ---- */

static char *member(const struct ctl *ctl, const json_t *object, const char *name)
{
    const char *s = json_string_value(json_object_get(object, name));

    return text_clean(s ? s : "-", ctl->utf8);
}

/* `ferryctl migrate` switches the return path on, so a machine's advice to do so is none here. */
static bool is_settled(const json_t *finding)
{
    return !g_strcmp0(json_string_value(json_object_get(finding, "severity")), "warning") &&
           !g_strcmp0(json_string_value(json_object_get(finding, "kind")), "capability") &&
           !g_strcmp0(json_string_value(json_object_get(finding, "subject")), "return-path");
}

/* Returns whether it is an obstacle. */
static bool print_finding(const struct ctl *ctl, const json_t *finding)
{
    g_autofree char *severity = member(ctl, finding, "severity");
    g_autofree char *kind = member(ctl, finding, "kind");
    g_autofree char *subject = member(ctl, finding, "subject");
    g_autofree char *reason = member(ctl, finding, "reason");

    if (ctl->json) {
        ctl_print_json(json_pack("{s:s, s:s, s:s, s:s, s:s}", "type", "finding", "severity",
                                 severity, "kind", kind, "subject", subject, "reason", reason));
    } else {
        g_print("%-8s  %-10s  %s: %s\n", severity, kind, subject, reason);
    }
    /* What is not known to be harmless is none to pass over. */
    return strcmp(severity, "warning") != 0;
}

static bool judge(const struct ctl *ctl, const json_t *result, const char *uri, GError **err)
{
    json_t *findings = json_object_get(result, "findings");
    bool possible = json_is_true(json_object_get(result, "possible"));
    unsigned obstacles = 0, warnings = 0;
    g_autofree char *version = member(ctl, result, "peer-version");
    g_autofree char *where = text_clean(uri, ctl->utf8);
    bool asked = json_is_true(json_object_get(result, "peer-asked"));
    size_t i;
    json_t *finding;

    json_array_foreach(findings, i, finding)
    {
        if (i == FINDINGS_MAX) {
            break;
        }
        if (is_settled(finding)) {
            continue;
        }
        if (print_finding(ctl, finding)) {
            obstacles++;
        } else {
            warnings++;
        }
    }
    if (ctl->json) {
        json_object_set_new(ctl->end, "possible", json_boolean(possible && !obstacles));
        json_object_set_new(ctl->end, "peer-asked", json_boolean(asked));
        if (asked) {
            json_object_set_new(ctl->end, "peer-version", json_string(version));
        }
    }
    if (!possible || obstacles) {
        g_autofree char *n = text_plural(obstacles, "obstacle", "obstacles");

        ctl_fail(err, CTL_REFUSED, "The guest cannot go to %s: %s", where,
                 obstacles ? n : "the machine says so without a reason");
        return false;
    }
    if (!ctl->json) {
        g_autofree char *n = text_plural(warnings, "warning", "warnings");

        if (asked) {
            g_print("The guest can go to %s (%s): %s.\n", where, version, n);
        } else {
            g_print("Nothing here keeps the guest from going to %s: %s. The other side was not "
                    "asked.\n",
                    where, n);
        }
    }
    return true;
}

bool check_ask(const struct ctl *ctl, qmp *q, const char *uri, enum check_peer peer, GError **err)
{
    g_autoptr(json_t) result = NULL;

    qmp_set_patience(q, MAX(CHECK_PATIENCE_MS, ctl->patience_ms));
    result = qmp_execute(
        q, "migrate-check",
        json_pack("{s:s, s:s}", "uri", uri, "peer", peer == CHECK_PEER_FERRY ? "ferry" : "qemu"),
        err);
    qmp_set_patience(q, ctl->patience_ms);
    return result && judge(ctl, result, uri, err);
}

static int check_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                     GError **err)
{
    g_autofree char *peer_text = NULL;
    const GOptionEntry entries[] = {
        { "peer", 0, 0, G_OPTION_ARG_STRING, &peer_text, "what waits there [ferry]", "ferry|qemu" },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_auto(GStrv) rest = command_parse(ctl, self, entries, argc, argv, 1, 1, err);
    g_autoptr(qmp_address) address = NULL;
    g_autoptr(qmp) q = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *uri = NULL;
    enum check_peer peer;
    bool live;

    if (!rest || !check_parse_peer(peer_text, &peer, err) ||
        !(address = machines_chosen(ctl, err)) ||
        !(uri = check_destination(address, rest[0], &live, err)) ||
        !(q = qmp_connect(address, ctl->patience_ms, -1, err))) {
        return CTL_USAGE;
    }
    if (!live) {
        ctl_fail(err, CTL_USAGE, "Nobody answers at %s: only tcp: and unix: can be checked", uri);
        return CTL_USAGE;
    }
    if (check_ask(ctl, q, uri, peer, &error)) {
        return CTL_DONE;
    }
    if (qmp_is_missing(q)) {
        ctl_fail(err, CTL_REFUSED, "This machine (%s) cannot check beforehand", qmp_version(q));
    } else {
        g_propagate_error(err, g_steal_pointer(&error));
    }
    return CTL_REFUSED;
}

const struct command command_check = {
    .name = "check",
    .arguments = "DEST",
    .summary = "tell whether the guest can go to DEST; nothing changes",
    .description =
        "DEST is where a Ferry waits for a guest: HOST:PORT, tcp:HOST:PORT or unix:PATH. A "
        "Ferry takes any\nnumber of checks. A QEMU takes one connection, so with --peer qemu "
        "only this side is looked at.",
    .run = check_run,
};
