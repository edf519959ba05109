/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A memory file may come with its pages: warm memory that a host keeps for the guests to come, or
 * the file of a guest that was here before. A page that the host has but that this process has not
 * mapped costs a fault when the stream brings it, and a quarter of the destination's time for a
 * gigabyte went there. A destination has nothing to do until its source comes, so it maps what is
 * there meanwhile, and stops in the middle when the source comes first.
 *
 * Only mapped, by reading: never-touched memory stays so, and nothing is written to a file that
 * somebody else may still use.
 */
#include "migration/ram/premap.h"

#include <glib.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/ram/pages.h"
#include "system/vm.h"
#include "util/bitmap.h"

/* 2 MiB at once: a stop waits for no more than this. */
#define STEP_PAGES 512u

struct premap {
    struct vm *vm;
    GThread *thread;
    atomic_bool stop;
    int pagemap_fd;
    uint64_t end[]; /* per block index, pages; written by the thread */
};

static bool wanted(const struct ram_block *b)
{
    return b->migratable && b->persistent;
}

/* Maps the pages [first, first + n) that the file has. False: the kernel cannot do it. */
static bool map_step(struct ram_block *b, int pagemap_fd, uint64_t first, uint64_t n,
                     struct data_extent *extent)
{
    unsigned long there[BITMAP_WORDS(STEP_PAGES)];

    pages_populated(b, pagemap_fd, first, n, extent, there);
    for (uint64_t from = bitmap_next_set(there, n, 0); from < n;) {
        uint64_t to = bitmap_next_clear(there, n, from);

        if (madvise(b->host + (first + from) * TARGET_PAGE_SIZE, (to - from) * TARGET_PAGE_SIZE,
                    MADV_POPULATE_READ) < 0) {
            return false;
        }
        from = bitmap_next_set(there, n, to);
    }
    return true;
}

static gpointer premap_thread(gpointer opaque)
{
    struct premap *pm = opaque;

    for (unsigned i = 0; i < ram_block_count(pm->vm->memory); i++) {
        struct ram_block *b = ram_block_at(pm->vm->memory, i);
        struct data_extent extent = { 0 };

        while (wanted(b) && pm->end[i] < ram_block_pages(b)) {
            uint64_t n = MIN(STEP_PAGES, ram_block_pages(b) - pm->end[i]);

            if (atomic_load(&pm->stop) || !map_step(b, pm->pagemap_fd, pm->end[i], n, &extent)) {
                return NULL;
            }
            pm->end[i] += n;
        }
    }
    return NULL;
}

struct premap *premap_start(struct vm *vm)
{
    unsigned n = ram_block_count(vm->memory), wanting = 0;
    struct premap *pm;

    for (unsigned i = 0; i < n; i++) {
        wanting += wanted(ram_block_at(vm->memory, i));
    }
    if (!wanting) {
        return NULL;
    }
    pm = g_malloc0(sizeof(*pm) + n * sizeof(pm->end[0]));
    pm->vm = vm;
    pm->pagemap_fd = pagemap_open();
    pm->thread = g_thread_try_new("mig/premap", premap_thread, pm, NULL);
    if (!pm->thread) {
        premap_free(pm);
        return NULL;
    }
    return pm;
}

void premap_stop(struct premap *pm)
{
    if (pm && pm->thread) {
        atomic_store(&pm->stop, true);
        g_thread_join(pm->thread);
        pm->thread = NULL;
    }
}

uint64_t premap_end(const struct premap *pm, unsigned block_index)
{
    return pm ? pm->end[block_index] : 0;
}

void premap_free(struct premap *pm)
{
    if (pm) {
        premap_stop(pm);
        if (pm->pagemap_fd >= 0) {
            close(pm->pagemap_fd);
        }
        g_free(pm);
    }
}
