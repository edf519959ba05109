/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of machine types. A new one is a row here and its board. */
#include "machine-type.h"

#include <string.h>

#include "system/config.h"

const struct machine_type machine_types[] = {
    { "microvm", "microvm (i386)", true, VM_MAX_CPUS, "qemu64-x86_64-cpu", "microvm.ram",
      microvm_build },
    /* for managers that only ask what this program can do */
    { "none", "empty machine", false, 1, NULL, "ram", NULL },
    {},
};

const struct machine_type *machine_type_find(const char *name)
{
    for (const struct machine_type *m = machine_types; m->name; m++) {
        if (strcmp(m->name, name) == 0) {
            return m;
        }
    }
    return NULL;
}
