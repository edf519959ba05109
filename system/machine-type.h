/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The machine types: one table that -machine, query-machines and main() read. */
#ifndef SYSTEM_MACHINE_TYPE_H
#define SYSTEM_MACHINE_TYPE_H

#include <glib.h>
#include <stdbool.h>

struct vm;
struct vm_config;

struct machine_type {
    const char *name, *description;
    bool is_default;
    unsigned cpu_max;
    const char *default_cpu_type, *default_ram_id;
    /* NULL: there is nothing to build, neither board nor vCPUs */
    bool (*build)(struct vm *vm, const struct vm_config *cfg, GError **err);
};

/* Ends with a NULL name; the first one is the default. */
extern const struct machine_type machine_types[];

const struct machine_type *machine_type_find(const char *name); /* NULL: unknown */

#endif
