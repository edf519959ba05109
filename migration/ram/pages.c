/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is in a page. Memory never touched is never read: reading an untouched page of a shared
 * mapping would allocate it, and even for anonymous memory it costs a fault; so the kernel is asked
 * first, by /proc/self/pagemap for what this process has mapped and by SEEK_DATA for what the
 * backing file holds.
 */
#include "migration/ram/pages.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bitmap.h"

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

#define SCAN_PAGES 4096u

bool page_is_zero(const void *page)
{
    /* may_alias: guest memory has no type of ours */
    typedef uint64_t __attribute__((may_alias, vector_size(32), aligned(8))) word;
    const word *p = page;
    word acc;

    /* most pages with data say so in their first bytes */
    acc = p[0];
    if (acc[0] | acc[1] | acc[2] | acc[3]) {
        return false;
    }
    for (unsigned i = 0; i < TARGET_PAGE_SIZE / sizeof(word); i += 8) {
        acc = p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7];
        if (acc[0] | acc[1] | acc[2] | acc[3]) {
            return false;
        }
    }
    return true;
}

int pagemap_open(void)
{
    return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

/*
 * PAGEMAP_SCAN (same document, Linux 6.7; the headers of older systems do not have it) answers in
 * regions and steps over empty page tables, where reading the file costs a word for each page.
 */
struct pm_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t inverted, all_of, any_of, report;
};
struct pm_region {
    uint64_t start, end, categories;
};
#define PM_SCAN         _IOWR('f', 16, struct pm_scan)
#define PM_IS_PRESENT   (UINT64_C(1) << 3)
#define PM_IS_SWAPPED   (UINT64_C(1) << 4)
#define PM_IS_ZERO_PAGE (UINT64_C(1) << 5)

/* As mark_mapped(); also false where the kernel has no such call. */
static bool scan_mapped(const struct ram_block *b, int pagemap_fd, uint64_t first, uint64_t pages,
                        unsigned long *populated)
{
    uint64_t base = (uint64_t)(uintptr_t)b->host + first * TARGET_PAGE_SIZE;
    struct pm_region regions[128];
    struct pm_scan scan = {
        .size = sizeof(scan),
        .start = base,
        .end = base + pages * TARGET_PAGE_SIZE,
        .vec = (uint64_t)(uintptr_t)regions,
        .vec_len = G_N_ELEMENTS(regions),
        .inverted = PM_IS_ZERO_PAGE,
        .all_of = PM_IS_ZERO_PAGE, /* inverted: not the kernel's page of zeroes */
        .any_of = PM_IS_PRESENT | PM_IS_SWAPPED,
        .report = PM_IS_PRESENT,
    };

    while (scan.start < scan.end) {
        int n = ioctl(pagemap_fd, PM_SCAN, &scan);

        if (n < 0 || scan.walk_end <= scan.start) {
            return false;
        }
        for (int i = 0; i < n; i++) {
            bitmap_set_range(populated, (regions[i].start - base) / TARGET_PAGE_SIZE,
                             (regions[i].end - regions[i].start) / TARGET_PAGE_SIZE);
        }
        scan.start = scan.walk_end;
    }
    return true;
}

/* Pages that this process has mapped or swapped out. False: the kernel does not say. */
static bool mark_mapped(const struct ram_block *b, int pagemap_fd, uint64_t first, uint64_t pages,
                        unsigned long *populated)
{
    uint64_t entries[512];
    uint64_t host_page = (uint64_t)(uintptr_t)b->host / TARGET_PAGE_SIZE + first;

    if (scan_mapped(b, pagemap_fd, first, pages, populated)) {
        return true;
    }
    for (uint64_t done = 0; done < pages;) {
        uint64_t n = MIN(pages - done, G_N_ELEMENTS(entries));
        ssize_t got = pread(pagemap_fd, entries, n * sizeof(entries[0]),
                            (off_t)((host_page + done) * sizeof(entries[0])));

        if (got != (ssize_t)(n * sizeof(entries[0]))) {
            return false;
        }
        for (uint64_t i = 0; i < n; i++) {
            if (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) {
                bitmap_set(populated, done + i);
            }
        }
        done += n;
    }
    return true;
}

/*
 * The data extent that contains `at` or is the next one behind it. SEEK_HOLE walks all of the data
 * page by page, so its answer is kept: what it found may have grown since, which the next question
 * finds, and shrinks only where the block says so (a balloon). A file with as many blocks as it is
 * long has no holes; should a file system count more blocks than there are, pages are read that
 * need not be.
 */
static bool find_extent(const struct ram_block *b, off_t at, struct data_extent *extent)
{
    unsigned discards = atomic_load(&b->discards);
    struct stat st;

    if (extent->discards != discards) {
        *extent = (struct data_extent){ .discards = discards };
    }
    if (at >= extent->start && at < extent->end) {
        return true;
    }
    if (!extent->end && fstat(b->fd, &st) == 0 && st.st_size > at &&
        (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size) {
        *extent = (struct data_extent){ 0, st.st_size, discards };
        return true;
    }
    off_t data = lseek(b->fd, at, SEEK_DATA);

    if (data < 0) {
        *extent = (struct data_extent){ INT64_MAX, INT64_MAX, discards };
        return errno == ENXIO; /* no data up to the end of the file */
    }
    off_t hole = lseek(b->fd, data, SEEK_HOLE);

    *extent = (struct data_extent){ data, hole, discards };
    return hole >= 0;
}

/* Pages for which the backing file holds data. */
static bool mark_file_data(const struct ram_block *b, uint64_t first, uint64_t pages,
                           struct data_extent *extent, unsigned long *populated)
{
    off_t start = (off_t)(first * TARGET_PAGE_SIZE),
          end = (off_t)((first + pages) * TARGET_PAGE_SIZE);

    for (off_t at = start; at < end; at = extent->end) {
        if (!find_extent(b, at, extent)) {
            return false;
        }
        off_t from = MAX(at, extent->start), to = MIN(end, extent->end);

        if (from >= end) {
            break;
        }
        uint64_t page = (uint64_t)(from - start) / TARGET_PAGE_SIZE;

        bitmap_set_range(populated, page,
                         ((uint64_t)(to - start) + TARGET_PAGE_SIZE - 1) / TARGET_PAGE_SIZE - page);
    }
    return true;
}

void pages_populated(const struct ram_block *b, int pagemap_fd, uint64_t first, uint64_t pages,
                     struct data_extent *extent, unsigned long *populated)
{
    bool known;

    memset(populated, 0, BITMAP_WORDS(pages) * sizeof(*populated));
    if (b->fd >= 0) {
        known = mark_file_data(b, first, pages, extent, populated);
        /* a private mapping also has pages of its own */
        if (known && !b->shared) {
            known = pagemap_fd >= 0 && mark_mapped(b, pagemap_fd, first, pages, populated);
        }
    } else {
        known = pagemap_fd >= 0 && mark_mapped(b, pagemap_fd, first, pages, populated);
    }
    if (!known) {
        bitmap_set_range(populated, 0, pages);
    }
}

void ram_block_zero(struct ram_block *b)
{
    unsigned long populated[BITMAP_WORDS(SCAN_PAGES)];
    struct data_extent extent = { 0 };
    int fd = pagemap_open();

    for (uint64_t first = 0; first < ram_block_pages(b); first += SCAN_PAGES) {
        uint64_t n = MIN(SCAN_PAGES, ram_block_pages(b) - first);

        pages_populated(b, fd, first, n, &extent, populated);
        for (uint64_t i = bitmap_next_set(populated, n, 0); i < n;
             i = bitmap_next_set(populated, n, i + 1)) {
            uint8_t *page = b->host + (first + i) * TARGET_PAGE_SIZE;

            if (!page_is_zero(page)) {
                memset(page, 0, TARGET_PAGE_SIZE);
            }
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}
