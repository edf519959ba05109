/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Facts about the host: a few small files, read anew each time. They are estimates by nature: other
 * processes take memory between the question and the move. A file that is missing or says something
 * else than expected takes away that fact and nothing more.
 *
 * Control groups: what is left below the limit of the process's group and of each group above it;
 * the smallest counts. Memory of the page cache that the group could drop is as good as free.
 */
#include "migration/check/host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* One file below the host's root; NULL when it cannot be read. */
static char *read_fact(const char *path)
{
    const char *root = g_getenv("FERRY_HOST_FACTS");
    g_autofree char *full = g_strconcat(root ? root : "", path, NULL);
    char *text = NULL;

    return g_file_get_contents(full, &text, NULL, NULL) ? text : NULL;
}

/* The number behind `key` at the beginning of a line. */
static bool find_number(const char *text, const char *key, uint64_t *value)
{
    size_t len = strlen(key);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, len)) {
            return sscanf(line + len, "%" SCNu64, value) == 1;
        }
    }
    return false;
}

static void memory_of_host(MigrationSideHost *h)
{
    g_autofree char *text = read_fact("/proc/meminfo");
    uint64_t kib;

    h->memory = INT64_MAX;
    if (!text) {
        return;
    }
    if (find_number(text, "MemAvailable:", &kib) || find_number(text, "MemFree:", &kib)) {
        h->memory = kib << 10;
    }
    if (find_number(text, "SwapFree:", &kib)) {
        h->swap = kib << 10;
    }
}

static bool read_number(const char *folder, const char *file, uint64_t *value)
{
    g_autofree char *path = g_strconcat(folder, "/", file, NULL);
    g_autofree char *text = read_fact(path);

    return text && sscanf(text, "%" SCNu64, value) == 1; /* "max" is no number: no limit */
}

/* What is left below the limit of one group. */
static bool group_left(const char *folder, bool v2, uint64_t *left)
{
    g_autofree char *stat_path = g_strconcat(folder, "/memory.stat", NULL);
    g_autofree char *stat = read_fact(stat_path);
    uint64_t limit, used, cache = 0;

    if (!read_number(folder, v2 ? "memory.max" : "memory.limit_in_bytes", &limit) ||
        !read_number(folder, v2 ? "memory.current" : "memory.usage_in_bytes", &used) ||
        limit >= (UINT64_C(1) << 60)) { /* version 1 has no word for none */
        return false;
    }
    if (stat) {
        find_number(stat, v2 ? "inactive_file " : "total_inactive_file ", &cache);
    }
    used -= MIN(cache, used);
    *left = limit > used ? limit - used : 0;
    return true;
}

/* The line "0::/path" (version 2) or "5:memory:/path" of /proc/self/cgroup. */
static char *group_path(const char *text, bool *v2)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    char *found = NULL;

    for (char **line = lines; *line; line++) {
        g_auto(GStrv) parts = g_strsplit(*line, ":", 3);

        if (g_strv_length(parts) != 3) {
            continue;
        }
        g_auto(GStrv) controllers = g_strsplit(parts[1], ",", -1);
        bool memory = g_strv_contains((const char *const *)controllers, "memory");

        if (memory || (!parts[1][0] && !found)) {
            g_free(found);
            found = g_strdup(parts[2]);
            *v2 = !memory;
        }
    }
    return found;
}

static void limit_of_group(MigrationSideHost *h)
{
    g_autofree char *text = read_fact("/proc/self/cgroup");
    bool v2 = true;
    g_autofree char *path = text ? group_path(text, &v2) : NULL;

    while (path) {
        g_autofree char *folder =
            g_strconcat(v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory", path, NULL);
        char *slash = strrchr(path, '/');
        uint64_t left;

        if (group_left(folder, v2, &left)) {
            h->memory_limit = h->has_memory_limit ? MIN(h->memory_limit, left) : left;
            h->has_memory_limit = true;
        }
        if (!slash || !path[0]) {
            return;
        }
        *slash = '\0';
    }
}

static void cpus_of_host(MigrationSideHost *h)
{
    g_autofree char *text = read_fact("/proc/loadavg");
    cpu_set_t set;

    h->cpus = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? (uint32_t)CPU_COUNT(&set)
                  : (uint32_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1);
    if (text) {
        g_auto(GStrv) words = g_strsplit(text, " ", -1);

        /* the average of five minutes: one minute is too short to say what a host is used for */
        h->load = g_strv_length(words) >= 2 ? g_ascii_strtod(words[1], NULL) : 0;
        h->load = h->load >= 0 && h->load < 1e6 ? h->load : 0;
    }
}

MigrationSideHost *host_describe(void)
{
    MigrationSideHost *h = g_new0(MigrationSideHost, 1);

    memory_of_host(h);
    limit_of_group(h);
    cpus_of_host(h);
    h->boot = read_fact("/proc/sys/kernel/random/boot_id");
    if (h->boot) {
        g_strstrip(h->boot);
    }
    return h;
}

uint64_t host_own_anonymous_bytes(void)
{
    g_autofree char *text = NULL;
    uint64_t size, resident, shared;

    if (!g_file_get_contents("/proc/self/statm", &text, NULL, NULL) ||
        sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64, &size, &resident, &shared) != 3) {
        return 0;
    }
    return (resident - MIN(shared, resident)) * (uint64_t)sysconf(_SC_PAGESIZE);
}
