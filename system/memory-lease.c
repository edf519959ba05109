/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See include/system/memory-lease.h. */
#include "system/memory-lease.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "system/memory.h"
#include "util/error.h"

/* Of the byte that is locked; no memory is so large. */
#define LEASE_OFFSET (INT64_C(1) << 62)

static bool lock_file(const struct ram_block *b, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = LEASE_OFFSET, .l_len = 1
    };

    return fcntl(b->fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES);
}

static char *file_name(const struct ram_block *b)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", b->fd);
    char *name = g_file_read_link(link, NULL);

    return name ? name : g_strdup("?");
}

bool memory_lease_take(struct memory *mem, GError **err)
{
    const struct ram_block *b;

    for (unsigned i = 0; (b = ram_block_at(mem, i)); i++) {
        if (b->persistent && !lock_file(b, F_WRLCK)) {
            g_autofree char *name = file_name(b);

            error_set(err, FERRY_ERROR_USER,
                      "The file '%s' of memory '%s' is in use by another process, which may run a "
                      "guest on it; give this one memory of its own (to hand a guest over in the "
                      "memory it has, both sides need the capability x-ignore-shared)",
                      name, b->idstr);
            return false;
        }
    }
    return true;
}

void memory_lease_drop(struct memory *mem)
{
    const struct ram_block *b;

    for (unsigned i = 0; (b = ram_block_at(mem, i)); i++) {
        if (b->persistent) {
            lock_file(b, F_UNLCK);
        }
    }
}
