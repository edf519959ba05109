/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which machine is meant, and the list of all; see machines.h. */
#include "machines.h"
#include "move.h"
#include "text.h"

#include <string.h>
#include <sys/stat.h>

#define SUFFIX       ".qmp"
#define LIST_THREADS 8
#define LIST_PATIENCE_MS                                                                           \
    2000 /* a machine that somebody else talks to must not hold up the list                        \
          */

/* ---- finding ---- */

static GPtrArray *run_folders(void)
{
    GPtrArray *folders = g_ptr_array_new_with_free_func(g_free);
    const char *own = g_getenv("XDG_RUNTIME_DIR");

    if (own && g_path_is_absolute(own)) {
        g_ptr_array_add(folders, g_build_filename(own, "ferry", NULL));
    }
    g_ptr_array_add(folders, g_strdup("/run/ferry"));
    return folders;
}

/* Without the suffix, so that web comes before web-2. */
static int by_name(gconstpointer a, gconstpointer b)
{
    const char *left = *(const char *const *)a, *right = *(const char *const *)b;
    g_autofree char *l = g_strndup(left, strlen(left) - strlen(SUFFIX));
    g_autofree char *r = g_strndup(right, strlen(right) - strlen(SUFFIX));

    return strcmp(l, r);
}

GPtrArray *machines_scan(void)
{
    g_autoptr(GPtrArray) folders = run_folders();
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < folders->len; i++) {
        g_autoptr(GDir) dir = g_dir_open(folders->pdata[i], 0, NULL);
        const char *name;

        while (dir && (name = g_dir_read_name(dir))) {
            g_autofree char *path = g_build_filename(folders->pdata[i], name, NULL);
            struct stat st;

            if (g_str_has_suffix(name, SUFFIX) && stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
                g_ptr_array_add(found, g_steal_pointer(&path));
            }
        }
    }
    g_ptr_array_sort(found, by_name);
    return found;
}

char *machines_name(const struct ctl *ctl, const qmp_address *address)
{
    g_autofree char *base = address->path ? g_path_get_basename(address->path) : NULL;

    if (!base) {
        return g_strdup(address->text);
    }
    if (g_str_has_suffix(base, SUFFIX) && strlen(base) > strlen(SUFFIX)) {
        base[strlen(base) - strlen(SUFFIX)] = 0;
    }
    return text_clean(base, ctl->utf8);
}

bool machines_split_host_port(const char *text, char **host, char **port)
{
    const char *colon = strrchr(text, ':');
    size_t len;

    if (!colon || colon == text || !colon[1] ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1)) {
        return false;
    }
    len = (size_t)(colon - text);
    if (text[0] == '[' && colon[-1] == ']' && len > 2) {
        text++;
        len -= 2;
    } else if (memchr(text, ':', len)) {
        return false; /* an IPv6 address needs its brackets */
    }
    *host = g_strndup(text, len);
    *port = g_strdup(colon + 1);
    return true;
}

static char *find_named(const char *name)
{
    g_autoptr(GPtrArray) folders = run_folders();
    g_autofree char *file = g_strconcat(name, SUFFIX, NULL);

    for (guint i = 0; i < folders->len; i++) {
        g_autofree char *path = g_build_filename(folders->pdata[i], file, NULL);

        if (g_file_test(path, G_FILE_TEST_EXISTS)) {
            return g_steal_pointer(&path);
        }
    }
    return NULL;
}

qmp_address *machines_parse(const struct ctl *ctl, const char *text, GError **err)
{
    g_autoptr(qmp_address) a = g_new0(qmp_address, 1);

    a->text = text_clean(text, ctl->utf8);
    if (g_str_has_prefix(text, "unix:") && text[5]) {
        a->path = g_strdup(text + 5);
    } else if (g_str_has_prefix(text, "tcp:")) {
        if (!machines_split_host_port(text + 4, &a->host, &a->port)) {
            ctl_fail(err, CTL_USAGE, "'%s' is no address: tcp: takes HOST:PORT", a->text);
            return NULL;
        }
    } else if (strchr(text, '/')) {
        a->path = g_strdup(text);
    } else if (!machines_split_host_port(text, &a->host, &a->port)) {
        a->path = *text ? find_named(text) : NULL;
        if (!a->path) {
            ctl_fail(err, CTL_UNREACHABLE,
                     "There is no machine '%s' in the run folders: give its QMP socket as a path, "
                     "unix:PATH or tcp:HOST:PORT, or see ferryctl list",
                     a->text);
            return NULL;
        }
    }
    return g_steal_pointer(&a);
}

qmp_address *machines_chosen(const struct ctl *ctl, GError **err)
{
    g_autoptr(GPtrArray) found = NULL;

    if (ctl->socket) {
        return machines_parse(ctl, ctl->socket, err);
    }
    found = machines_scan();
    if (found->len == 1) {
        return machines_parse(ctl, found->pdata[0], err);
    }
    if (found->len) {
        ctl_fail(err, CTL_USAGE,
                 "There are %u machines: say which one with -s NAME or FERRY_SOCKET, see ferryctl "
                 "list",
                 found->len);
    } else {
        ctl_fail(err, CTL_UNREACHABLE,
                 "No machine found in $XDG_RUNTIME_DIR/ferry and /run/ferry: give its QMP socket "
                 "with -s or FERRY_SOCKET");
    }
    return NULL;
}

qmp *machines_connect(const struct ctl *ctl, GError **err)
{
    g_autoptr(qmp_address) address = machines_chosen(ctl, err);

    return address ? qmp_connect(address, ctl->patience_ms, -1, err) : NULL;
}

/* ---- asking ---- */

char *machines_run_state(const struct ctl *ctl, qmp *q, GError **err)
{
    g_autoptr(json_t) status = qmp_execute(q, "query-status", NULL, err);
    const char *state = json_string_value(json_object_get(status, "status"));

    return status ? text_clean(state ? state : "unknown", ctl->utf8) : NULL;
}

/* ---- list ---- */

struct listed {
    const struct ctl *ctl;
    qmp_address *address;
    char *name, *version, *state, *migration;
    GError *error;
};

static char *guest_name(const struct ctl *ctl, qmp *q)
{
    g_autoptr(json_t) result = qmp_execute(q, "query-name", NULL, NULL);
    const char *name = json_string_value(json_object_get(result, "name"));

    return name && *name ? text_clean(name, ctl->utf8) : NULL;
}

static void ask(gpointer data, gpointer opaque)
{
    struct listed *m = data;
    g_autoptr(qmp) q =
        qmp_connect(m->address, MIN(m->ctl->patience_ms, LIST_PATIENCE_MS), -1, &m->error);
    g_autoptr(move) move = NULL;
    char *own;

    (void)opaque;
    m->name = machines_name(m->ctl, m->address);
    if (!q) {
        return;
    }
    m->version = g_strdup(qmp_version(q));
    own = guest_name(m->ctl, q);
    if (own) {
        g_free(m->name);
        m->name = own;
    }
    m->state = machines_run_state(m->ctl, q, &m->error);
    move = m->state ? move_query(m->ctl, q, &m->error) : NULL;
    m->migration = move && move->status ? g_strdup(move->status) : NULL;
}

static void listed_free(struct listed *m)
{
    qmp_address_free(m->address);
    g_free(m->name);
    g_free(m->version);
    g_free(m->state);
    g_free(m->migration);
    g_clear_error(&m->error);
    g_free(m);
}

static void print_row(const char *const *cells, const unsigned *widths, unsigned n)
{
    GString *line = g_string_new(NULL);

    for (unsigned i = 0; i < n; i++) {
        g_string_append(line, cells[i]);
        for (unsigned w = text_width(cells[i]); i + 1 < n && w < widths[i] + 2; w++) {
            g_string_append_c(line, ' ');
        }
    }
    g_print("%s\n", line->str);
    g_string_free(line, TRUE);
}

static void print_table(GPtrArray *machines)
{
    static const char *const head[] = { "NAME", "GUEST", "MIGRATION", "VERSION", "SOCKET" };
    enum { COLUMNS = G_N_ELEMENTS(head) };
    unsigned widths[COLUMNS] = { 0 };
    g_autofree const char *(*rows)[COLUMNS] = g_malloc0_n(machines->len + 1, sizeof(*rows));

    memcpy(rows[0], head, sizeof(head));
    for (guint i = 0; i < machines->len; i++) {
        const struct listed *m = machines->pdata[i];

        rows[i + 1][0] = m->name;
        rows[i + 1][1] = m->state ? m->state : "no answer";
        rows[i + 1][2] = m->migration ? m->migration : "-";
        rows[i + 1][3] = m->version ? m->version : "-";
        rows[i + 1][4] = m->address->text;
    }
    for (guint i = 0; i <= machines->len; i++) {
        for (unsigned c = 0; c < COLUMNS; c++) {
            widths[c] = MAX(widths[c], text_width(rows[i][c]));
        }
    }
    for (guint i = 0; i <= machines->len; i++) {
        print_row(rows[i], widths, COLUMNS);
    }
}

static void print_lines(GPtrArray *machines)
{
    for (guint i = 0; i < machines->len; i++) {
        const struct listed *m = machines->pdata[i];
        json_t *line = json_pack("{s:s, s:s, s:s, s:s*, s:s*, s:s*}", "type", "machine", "socket",
                                 m->address->text, "name", m->name, "run-state", m->state, "status",
                                 m->migration, "version", m->version);

        if (m->error) {
            g_autofree char *reason = text_clean(m->error->message, true);

            json_object_set_new(line, "error", json_string(reason));
        }
        ctl_print_json(line);
    }
}

static int list_run(struct ctl *ctl, const struct command *self, int argc, char **argv,
                    GError **err)
{
    g_auto(GStrv) rest = command_parse(ctl, self, NULL, argc, argv, 0, 0, err);
    g_autoptr(GPtrArray) paths = NULL;
    g_autoptr(GPtrArray) machines = g_ptr_array_new_with_free_func((GDestroyNotify)listed_free);
    GThreadPool *pool;

    if (!rest) {
        return CTL_USAGE;
    }
    paths = machines_scan();
    if (ctl->socket) { /* one that lies elsewhere, first */
        g_autoptr(qmp_address) given = machines_parse(ctl, ctl->socket, err);

        if (!given) {
            return CTL_USAGE;
        }
        if (!given->path ||
            !g_ptr_array_find_with_equal_func(paths, given->path, g_str_equal, NULL)) {
            g_ptr_array_insert(paths, 0, g_strdup(ctl->socket));
        }
    }
    pool = g_thread_pool_new(ask, NULL, LIST_THREADS, FALSE, NULL);
    for (guint i = 0; i < paths->len; i++) {
        struct listed *m = g_new0(struct listed, 1);

        m->ctl = ctl;
        m->address = machines_parse(ctl, paths->pdata[i], err);
        if (!m->address) {
            g_free(m);
            break;
        }
        g_ptr_array_add(machines, m);
        g_thread_pool_push(pool, m, NULL);
    }
    g_thread_pool_free(pool, FALSE, TRUE);
    if (ctl->json) {
        print_lines(machines);
    } else if (machines->len) {
        print_table(machines);
    } else {
        g_print("No machines in $XDG_RUNTIME_DIR/ferry and /run/ferry.\n");
    }
    return CTL_DONE;
}

const struct command command_list = {
    .name = "list",
    .arguments = "",
    .summary = "show the machines of this host",
    .description = "Machines are found by their QMP sockets NAME.qmp in $XDG_RUNTIME_DIR/ferry and "
                   "/run/ferry; start them with -qmp unix:/run/ferry/NAME.qmp,server=on,wait=off.",
    .run = list_run,
};
