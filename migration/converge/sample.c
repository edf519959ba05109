/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages picked at random, and what they hold; see sample.h. */
#include "migration/converge/sample.h"

#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "migration/ram/pages.h"

#define GIB_PAGES (UINT64_C(1) << (30 - TARGET_PAGE_BITS))
/* Of a small block some are looked at, too. */
#define LEAST 16u

struct sampled_page {
    uint64_t page;
    uint64_t digest;
};

struct sampled_block {
    const struct ram_block *block;
    struct sampled_page *pages;
    uint64_t count;
};

struct sample {
    struct sampled_block *blocks;
    unsigned count;
};

/* Not a strong one: it must only hardly ever be the same after a write. */
static uint64_t digest(const uint8_t *page)
{
    uint64_t h = 0;

    for (unsigned i = 0; i < TARGET_PAGE_SIZE; i += sizeof(uint64_t)) {
        uint64_t w;

        memcpy(&w, page + i, sizeof(w));
        h = (h ^ w) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h;
}

/* A page the host holds nothing for reads as zeros, and is not read. */
static uint64_t look(const struct ram_block *b, int pagemap_fd, uint64_t page)
{
    static const uint8_t zeros[TARGET_PAGE_SIZE];
    struct data_extent extent = { 0 };
    unsigned long populated[1];

    pages_populated(b, pagemap_fd, page, 1, &extent, populated);
    return digest(populated[0] & 1 ? b->host + page * TARGET_PAGE_SIZE : zeros);
}

static void take(struct sampled_block *sb, const struct ram_block *b, int pagemap_fd,
                 uint64_t pages_per_gib)
{
    uint64_t all = ram_block_pages(b);
    uint64_t count = MAX(all * pages_per_gib / GIB_PAGES, (uint64_t)LEAST);

    sb->block = b;
    sb->count = MIN(count, all);
    sb->pages = g_new(struct sampled_page, sb->count);
    for (uint64_t i = 0; i < sb->count; i++) {
        /* one of each stretch, so that they are spread and none is there twice */
        uint64_t first = all * i / sb->count, end = all * (i + 1) / sb->count;
        uint64_t page = first + g_random_int() % (end - first);

        sb->pages[i] = (struct sampled_page){ page, look(b, pagemap_fd, page) };
    }
}

struct sample *sample_take(struct memory *mem, uint64_t pages_per_gib)
{
    struct sample *s = g_new0(struct sample, 1);
    unsigned n = ram_block_count(mem);
    int pagemap_fd = pagemap_open();

    s->blocks = g_new0(struct sampled_block, n);
    for (unsigned i = 0; i < n; i++) {
        const struct ram_block *b = ram_block_at(mem, i);

        if (b->migratable && ram_block_pages(b)) {
            take(&s->blocks[s->count++], b, pagemap_fd, pages_per_gib);
        }
    }
    if (pagemap_fd >= 0) {
        close(pagemap_fd);
    }
    return s;
}

uint64_t sample_changed(const struct sample *s)
{
    double changed = 0;
    int pagemap_fd = pagemap_open();

    for (unsigned i = 0; i < s->count; i++) {
        const struct sampled_block *sb = &s->blocks[i];
        uint64_t here = 0;

        for (uint64_t p = 0; p < sb->count; p++) {
            here += look(sb->block, pagemap_fd, sb->pages[p].page) != sb->pages[p].digest;
        }
        changed += (double)here * (double)ram_block_pages(sb->block) / (double)sb->count;
    }
    if (pagemap_fd >= 0) {
        close(pagemap_fd);
    }
    return (uint64_t)(changed + 0.5);
}

void sample_free(struct sample *s)
{
    if (!s) {
        return;
    }
    for (unsigned i = 0; i < s->count; i++) {
        g_free(s->blocks[i].pages);
    }
    g_free(s->blocks);
    g_free(s);
}
