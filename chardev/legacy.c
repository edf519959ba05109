/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The short forms of -serial, -qmp, -monitor and -qtest: turned into the options that -chardev
 * would give.
 */
#include "chardev-private.h"

#include <string.h>

#include "io/transport.h"
#include "util/error.h"

/* One option, up to a single comma; two commas stand for one in the text. NULL at the end. */
static char *next_part(const char **spec)
{
    GString *part;
    const char *p = *spec;

    if (!p) {
        return NULL;
    }
    part = g_string_new(NULL);
    for (; *p; p++) {
        if (*p == ',' && *++p != ',') {
            *spec = p;
            return g_string_free(part, FALSE);
        }
        g_string_append_c(part, *p);
    }
    *spec = NULL;
    return g_string_free(part, FALSE);
}

/* "key=value", or a switch: "server" is server=on, "nowait" is wait=off. */
static void add_option(json_t *options, const char *part)
{
    const char *equals = strchr(part, '=');

    if (!*part) {
        return; /* a trailing comma is an empty option */
    }
    if (equals) {
        g_autofree char *key = g_strndup(part, equals - part);

        json_object_set_new(options, key, json_string_nocheck(equals + 1));
    } else if (g_str_has_prefix(part, "no") && strcmp(part, "nodelay") != 0) {
        json_object_set_new(options, part + 2, json_string_nocheck("off"));
    } else {
        json_object_set_new(options, part, json_string_nocheck("on"));
    }
}

static bool parse_plain(json_t *options G_GNUC_UNUSED, const char *rest, GError **err G_GNUC_UNUSED)
{
    return *rest == '\0';
}

static bool parse_file(json_t *options, const char *rest, GError **err G_GNUC_UNUSED)
{
    json_object_set_new(options, "path", json_string_nocheck(rest));
    return true;
}

static bool parse_unix(json_t *options, const char *rest, GError **err G_GNUC_UNUSED)
{
    g_autofree char *path = next_part(&rest);

    json_object_set_new(options, "path", json_string_nocheck(path));
    for (char *part; (part = next_part(&rest)); g_free(part)) {
        add_option(options, part);
    }
    return true;
}

static bool parse_tcp(json_t *options, const char *rest, GError **err)
{
    g_autofree char *target = next_part(&rest);
    g_autofree char *uri = g_strconcat("tcp:", target, NULL);
    g_autoptr(transport_address) addr = transport_parse_uri(uri, err);

    if (!addr) {
        return false;
    }
    json_object_set_new(options, "host", json_string_nocheck(addr->host));
    json_object_set_new(options, "port", json_string_nocheck(addr->port));
    for (char *part; (part = next_part(&rest)); g_free(part)) {
        add_option(options, part);
    }
    return true;
}

static const struct {
    const char *prefix;
    const char *backend;
    /* false without *err: not this form after all */
    bool (*parse)(json_t *options, const char *rest, GError **err);
} forms[] = {
    { "null", "null", parse_plain },   { "stdio", "stdio", parse_plain },
    { "pty", "pty", parse_plain },     { "file:", "file", parse_file },
    { "unix:", "socket", parse_unix }, { "tcp:", "socket", parse_tcp },
};

struct chardev *chardev_open_legacy(struct chardev_set *set, const char *id, const char *spec,
                                    GError **err)
{
    if (g_str_has_prefix(spec, "chardev:")) {
        struct chardev *chr = chardev_find(set, spec + strlen("chardev:"));

        if (!chr) {
            error_set(err, FERRY_ERROR_USER, "Chardev '%s' not found", spec + strlen("chardev:"));
        }
        return chr;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(forms); i++) {
        json_t *options;
        struct chardev *chr = NULL;
        GError *local = NULL;
        bool parsed;

        if (!g_str_has_prefix(spec, forms[i].prefix)) {
            continue;
        }
        options = json_pack("{s:s, s:s}", "backend", forms[i].backend, "id", id);
        parsed = forms[i].parse(options, spec + strlen(forms[i].prefix), &local);
        if (parsed) {
            chr = chardev_open(set, options, err);
        }
        json_decref(options);
        if (local) {
            g_propagate_error(err, local);
        }
        if (parsed || local) {
            return chr;
        }
    }
    error_set(err, FERRY_ERROR_USER, "'%s' is not a valid char driver%s", spec,
              g_str_has_prefix(spec, "mon:")
                  ? ": the monitor for people is not offered, leave out 'mon:'"
                  : "");
    return NULL;
}
