/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages are missing, and putting pages in place; see migration/postcopy/arrival.h for the
 * whole and arrival-internal.h for the two bits of a page.
 *
 *   advise -> discard ... -> listen (userfaultfd registered, "mig/fault" runs) -> place ... -> free
 *
 * Transparent huge pages are switched off for the process from the first discard until the end: one
 * of them would fill what is missing around a page that comes.
 *
 * What is told by the peer (ranges, sizes) is checked here against the block before it is used.
 */
#include "migration/postcopy/arrival.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/userfaultfd.h>

#include "migration/postcopy/arrival-internal.h"
#include "migration/postcopy/faults.h"
#include "migration/postcopy/uffd.h"
#include "system/vm.h"
#include "util/error.h"

static bool travels(const struct ram_block *b, bool ignore_shared)
{
    return b->migratable && !(ignore_shared && b->shared);
}

bool arrival_block_kind(const struct ram_block *b, enum arrival_kind *kind, GError **err)
{
    struct statfs fs;
    struct stat st;

    if (b->fd < 0) {
        *kind = ARRIVAL_ANON;
        return true;
    }
    if (fstatfs(b->fd, &fs) < 0 || fstat(b->fd, &st) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot examine the file of memory '%s'",
                        b->idstr);
        return false;
    }
    if (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC) {
        error_set(err, FERRY_ERROR_HOST,
                  "Post-copy cannot bring memory '%s', a file on a disk: put it on a tmpfs "
                  "(/dev/shm) or hugetlbfs, or use memory-backend-memfd or memory-backend-ram",
                  b->idstr);
        return false;
    }
    *kind = b->shared ? ARRIVAL_SHARED : ARRIVAL_PRIVATE;
    if (!b->shared && st.st_nlink) {
        error_set(err, FERRY_ERROR_HOST,
                  "Post-copy cannot bring memory '%s', a private mapping of a file that others may "
                  "use: give it share=on, or a folder as mem-path",
                  b->idstr);
        return false;
    }
    return true;
}

/* UFFD_FEATURE_* that the memory that travels needs. */
static uint64_t needed_features(struct vm *vm, bool ignore_shared)
{
    uint64_t need = 0;

    for (unsigned i = 0; i < ram_block_count(vm->memory); i++) {
        const struct ram_block *b = ram_block_at(vm->memory, i);

        if (travels(b, ignore_shared) && b->fd >= 0) {
            need |= b->page_size > TARGET_PAGE_SIZE ? UFFD_FEATURE_MISSING_HUGETLBFS
                                                    : UFFD_FEATURE_MISSING_SHMEM;
        }
    }
    return need;
}

bool arrival_possible(struct vm *vm, bool ignore_shared, GError **err)
{
    int fd;

    for (unsigned i = 0; i < ram_block_count(vm->memory); i++) {
        const struct ram_block *b = ram_block_at(vm->memory, i);
        enum arrival_kind kind;

        if (travels(b, ignore_shared) && !arrival_block_kind(b, &kind, err)) {
            return false;
        }
    }
    fd = uffd_open(needed_features(vm, ignore_shared), 0, NULL, err);
    if (fd < 0) {
        return false;
    }
    close(fd);
    return true;
}

/* Whether the file of shared memory can keep its pages. */
static void keep_pages(struct arrival_block *ab, uint64_t known)
{
    if (ab->b->page_size == TARGET_PAGE_SIZE) {
        if (known & UFFD_FEATURE_MINOR_SHMEM) {
            ab->kind = ARRIVAL_CACHED;
        }
        return;
    }
    /* EXACT_ADDRESS: of a kernel (5.18) that can take huge pages out of a mapping */
    if ((known & UFFD_FEATURE_MINOR_HUGETLBFS) && (known & UFFD_FEATURE_EXACT_ADDRESS)) {
        void *p = mmap(NULL, ab->b->used_length, PROT_READ | PROT_WRITE, MAP_SHARED, ab->b->fd, 0);

        if (p != MAP_FAILED) {
            ab->alias = p;
            ab->kind = ARRIVAL_CACHED;
        }
    }
}

struct arrival *arrival_new(struct vm *vm, bool ignore_shared, GError **err)
{
    struct arrival *a = g_new0(struct arrival, 1);
    uint64_t known;

    a->vm = vm;
    a->ignore_shared = ignore_shared;
    a->uffd = -1;
    mutex_init(&a->stop_lock);
    a->count = ram_block_count(vm->memory);
    a->blocks = g_new0(struct arrival_block, a->count);
    if (!uffd_known_features(&known, err)) {
        arrival_free(a);
        return NULL;
    }
    for (unsigned i = 0; i < a->count; i++) {
        struct arrival_block *ab = &a->blocks[i];

        ab->b = ram_block_at(vm->memory, i);
        ab->shift = (unsigned)__builtin_ctzll(ab->b->page_size);
        ab->travels = travels(ab->b, ignore_shared);
        if (!ab->travels) {
            continue;
        }
        if (!arrival_block_kind(ab->b, &ab->kind, err)) {
            arrival_free(a);
            return NULL;
        }
        if (ab->kind == ARRIVAL_SHARED) {
            keep_pages(ab, known);
        }
        uint64_t words = BITMAP_WORDS(ab->b->max_length >> ab->shift);

        ab->missing = g_new0(atomic_word, words);
        ab->absent = g_new0(atomic_word, words);
        ab->wanted = g_new0(atomic_word, words);
    }
    a->drop = drop_new();
    return a;
}

static void watch_end(struct arrival *a)
{
    for (unsigned i = 0; i < a->count; i++) {
        const struct arrival_block *ab = &a->blocks[i];

        if (ab->travels) {
            /* who waits goes on */
            (void)uffd_unregister(a->uffd, ab->b->host, ab->b->used_length);
        }
    }
}

void arrival_stop(struct arrival *a)
{
    mutex_lock(&a->stop_lock);
    if (!a->stopped) {
        a->stopped = true;
        if (a->faults) {
            faults_stop(a->faults);
            watch_end(a); /* the descriptor stays: others may just be placing with it */
        }
        if (a->no_thp) {
            (void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
        }
    }
    mutex_unlock(&a->stop_lock);
}

void arrival_free(struct arrival *a)
{
    if (!a) {
        return;
    }
    arrival_stop(a);
    faults_free(a->faults);
    if (a->uffd >= 0) {
        close(a->uffd);
    }
    mutex_clear(&a->stop_lock);
    if (a->zeroes) {
        munmap((void *)(uintptr_t)a->zeroes, a->zeroes_length);
    }
    drop_free(a->drop);
    for (unsigned i = 0; i < a->count; i++) {
        if (a->blocks[i].alias) {
            munmap(a->blocks[i].alias, a->blocks[i].b->used_length);
        }
        g_free(a->blocks[i].missing);
        g_free(a->blocks[i].absent);
        g_free(a->blocks[i].wanted);
    }
    g_free(a->blocks);
    g_free(a);
}

bool arrival_check_page_sizes(struct vm *vm, uint64_t summary, uint64_t target_page, GError **err)
{
    uint64_t all = 0, own = 0;

    for (unsigned i = 0; i < ram_block_count(vm->memory); i++) {
        const struct ram_block *b = ram_block_at(vm->memory, i);

        all |= b->migratable ? b->page_size : 0;
        own |= travels(b, true) ? b->page_size : 0;
    }
    if (target_page != TARGET_PAGE_SIZE) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source's guest has pages of %" PRIu64 " bytes, this one of %" PRIu64,
                  target_page, TARGET_PAGE_SIZE);
        return false;
    }
    if (summary != all && summary != own) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source's memory is of host pages of other sizes (0x%" PRIx64
                  ") than here (0x%" PRIx64
                  "): post-copy needs the same memory backends, huge pages included, on both sides",
                  summary, all);
        return false;
    }
    return true;
}

bool arrival_discard(struct arrival *a, struct ram_block *b, uint64_t offset, uint64_t length,
                     GError **err)
{
    struct arrival_block *ab = &a->blocks[b->index];

    if (a->faults) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source discards memory '%s' after the guest was taken over", b->idstr);
        return false;
    }
    if (!ab->travels) {
        error_set(err, FERRY_ERROR_PEER, "The source discards memory '%s', which does not travel",
                  b->idstr);
        return false;
    }
    if (offset > b->used_length || length > b->used_length - offset ||
        ((offset | length) & (b->page_size - 1))) {
        error_set(err, FERRY_ERROR_PEER,
                  "The source discards 0x%" PRIx64 " bytes at 0x%" PRIx64
                  " of memory '%s', which has 0x%" PRIx64 " bytes in pages of 0x%" PRIx64,
                  length, offset, b->idstr, b->used_length, b->page_size);
        return false;
    }
    if (!length) {
        return true;
    }
    if (!a->no_thp) {
        /* a kernel without them refuses, and nothing is lost by that */
        a->no_thp = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0 &&
                    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0;
    }
    uint64_t first = offset >> ab->shift, end = (offset + length) >> ab->shift, fresh = 0;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        unsigned long mask = bitmap_word_mask(w, first, end);

        fresh += (unsigned)__builtin_popcountl(mask & ~atomic_fetch_or(&ab->absent[w], mask));
        atomic_fetch_or(&ab->missing[w], mask);
    }
    atomic_fetch_add(&a->absent_pages, fresh << (ab->shift - TARGET_PAGE_BITS));
    return drop_add(a->drop, ab, offset, length, err);
}

/* --- listen --- */

static bool map_zeroes(struct arrival *a, GError **err)
{
    a->zeroes_length = TARGET_PAGE_SIZE;
    for (unsigned i = 0; i < a->count; i++) {
        if (a->blocks[i].travels) {
            a->zeroes_length = MAX(a->zeroes_length, a->blocks[i].b->page_size);
        }
    }
    void *p =
        mmap(NULL, a->zeroes_length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot map a page of zeroes");
        return false;
    }
    a->zeroes = p;
    return true;
}

static bool watch(struct arrival *a, GError **err)
{
    uint64_t need = needed_features(a->vm, a->ignore_shared);

    for (unsigned i = 0; i < a->count; i++) {
        if (a->blocks[i].kind == ARRIVAL_CACHED) {
            need |= a->blocks[i].alias ? UFFD_FEATURE_MINOR_HUGETLBFS : UFFD_FEATURE_MINOR_SHMEM;
        }
    }
    a->uffd = uffd_open(need, UFFD_FEATURE_THREAD_ID, NULL, err);
    if (a->uffd < 0) {
        return false;
    }
    for (unsigned i = 0; i < a->count; i++) {
        struct arrival_block *ab = &a->blocks[i];

        if (ab->travels &&
            !uffd_register(a->uffd, ab->b->host, ab->b->used_length, ab->kind == ARRIVAL_CACHED)) {
            error_set_errno(err, FERRY_ERROR_HOST, errno,
                            "Cannot watch memory '%s' for pages that have not come yet",
                            ab->b->idstr);
            close(a->uffd);
            a->uffd = -1;
            return false;
        }
    }
    return true;
}

bool arrival_listen(struct arrival *a, arrival_request *request, void *opaque, GError **err)
{
    if (a->faults) {
        error_set(err, FERRY_ERROR_PEER, "The source hands the guest over twice");
        return false;
    }
    if (!drop_flush(a->drop, err) || (!a->zeroes && !map_zeroes(a, err)) || !watch(a, err)) {
        return false;
    }
    a->faults = faults_new(a, request, opaque, err);
    if (!a->faults) {
        close(a->uffd);
        a->uffd = -1;
        return false;
    }
    return true;
}

void arrival_ask_again(struct arrival *a)
{
    faults_ask_again(a->faults);
}

/* --- placing --- */

static bool place_failed(const struct arrival_block *ab, GError **err)
{
    error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot put a page of memory '%s' in place",
                    ab->b->idstr);
    return false;
}

/* Into the file, whatever it has there; nobody maps the pages. */
static bool write_pages(struct arrival *a, const struct arrival_block *ab, uint64_t first,
                        uint64_t n, const uint8_t *data)
{
    uint64_t end = (first + n) << ab->shift, step;

    if (ab->alias) {
        uint8_t *to = ab->alias + (first << ab->shift);
        uint64_t length = n << ab->shift;

        /* where the host has no page for it this says so, and a write would end the process */
        if (madvise(to, length, MADV_POPULATE_WRITE) < 0 && errno != EINVAL) {
            return false;
        }
        if (data) {
            memcpy(to, data, length);
        } else {
            memset(to, 0, length);
        }
        return true;
    }
    for (uint64_t at = first << ab->shift; at < end; at += step) {
        ssize_t done;

        do {
            done = data ? pwrite(ab->b->fd, data, end - at, (off_t)at)
                        : pwrite(ab->b->fd, a->zeroes, MIN(end - at, a->zeroes_length), (off_t)at);
        } while (done < 0 && errno == EINTR);
        if (done < 0) {
            return false;
        }
        step = (uint64_t)done;
        data = data ? data + step : NULL;
    }
    return true;
}

static bool put(struct arrival *a, struct arrival_block *ab, uint64_t first, uint64_t n,
                const uint8_t *data)
{
    uint8_t *to = arrival_host(ab, first);
    uint64_t length = n << ab->shift, page_size = UINT64_C(1) << ab->shift;

    if (ab->kind == ARRIVAL_CACHED) {
        return write_pages(a, ab, first, n, data) && uffd_continue(a->uffd, to, length, page_size);
    }
    if (data) {
        return uffd_copy(a->uffd, to, data, length, page_size);
    }
    if (page_size == TARGET_PAGE_SIZE) {
        return uffd_zero(a->uffd, to, length, page_size);
    }
    for (uint64_t i = 0; i < n; i++) {
        if (!uffd_copy(a->uffd, to + (i << ab->shift), a->zeroes, page_size, page_size)) {
            return false;
        }
    }
    return true;
}

/* Pages of one word of the sets, all claimed. */
static bool place_claimed(struct arrival *a, struct arrival_block *ab, uint64_t word,
                          unsigned long claimed, const uint8_t *data, uint64_t data_first,
                          GError **err)
{
    while (claimed) {
        unsigned at = (unsigned)__builtin_ctzl(claimed);
        unsigned long from = claimed >> at;
        unsigned n = ~from ? (unsigned)__builtin_ctzl(~from) : BITS_PER_LONG;
        unsigned long mask = bitmap_word_mask(0, at, at + n);
        uint64_t first = word * BITS_PER_LONG + at;

        if (!put(a, ab, first, n, data ? data + ((first - data_first) << ab->shift) : NULL)) {
            /* nobody has the page: it can come once more */
            atomic_fetch_or(&ab->missing[word], claimed);
            return place_failed(ab, err);
        }
        atomic_fetch_and(&ab->absent[word], ~mask);
        atomic_fetch_sub(&a->absent_pages, (uint64_t)n << (ab->shift - TARGET_PAGE_BITS));
        for (unsigned long w = atomic_load(&ab->wanted[word]) & mask; w; w &= w - 1) {
            faults_placed(a->faults, ab, word * BITS_PER_LONG + (unsigned)__builtin_ctzl(w));
        }
        claimed &= ~mask;
    }
    return true;
}

bool arrival_place(struct arrival *a, struct arrival_block *ab, uint64_t first, uint64_t n,
                   const uint8_t *data, GError **err)
{
    uint64_t end = first + n;

    for (uint64_t w = first / BITS_PER_LONG; w * BITS_PER_LONG < end; w++) {
        unsigned long mask = bitmap_word_mask(w, first, end);
        unsigned long claimed = atomic_fetch_and(&ab->missing[w], ~mask) & mask;

        if (claimed && !place_claimed(a, ab, w, claimed, data, first, err)) {
            return false;
        }
    }
    return true;
}

/* Pages that are mapped with one that was touched, when they are here too. */
#define MAP_AHEAD 32u

bool arrival_place_here(struct arrival *a, struct arrival_block *ab, uint64_t page, bool minor)
{
    uint64_t page_size = UINT64_C(1) << ab->shift, end = page + 1;

    if (!minor) {
        /* never by writing to its file: since it was touched it may have been used */
        return page_size == TARGET_PAGE_SIZE
                   ? uffd_zero(a->uffd, arrival_host(ab, page), page_size, page_size)
                   : uffd_copy(a->uffd, arrival_host(ab, page), a->zeroes, page_size, page_size);
    }
    if (!uffd_continue(a->uffd, arrival_host(ab, page), page_size, page_size)) {
        if (errno == EFAULT) { /* its file has it no longer: it faults again, as a missing one */
            uffd_wake(a->uffd, arrival_host(ab, page), page_size);
            return true;
        }
        return false;
    }
    while (!ab->alias && end < MIN(page + MAP_AHEAD, arrival_host_pages(ab)) &&
           !atomic_bit_test(ab->absent, end)) {
        end++;
    }
    if (end > page + 1) {
        /* as far as the file has them; the rest faults by itself */
        (void)uffd_continue(a->uffd, arrival_host(ab, page + 1), (end - page - 1) << ab->shift,
                            page_size);
    }
    return true;
}

/* --- what is here --- */

bool arrival_is_missing(const struct arrival *a, const struct ram_block *b, uint64_t offset)
{
    const struct arrival_block *ab = &a->blocks[b->index];

    return ab->travels && offset < b->used_length &&
           atomic_bit_test(ab->absent, offset >> ab->shift);
}

uint64_t arrival_missing_pages(const struct arrival *a)
{
    return atomic_load((_Atomic uint64_t *)(uintptr_t)&a->absent_pages);
}

uint8_t *arrival_received(const struct arrival *a, const struct ram_block *b, size_t *len)
{
    const struct arrival_block *ab = &a->blocks[b->index];
    uint64_t pages = ram_block_pages(b), per_host = b->page_size >> TARGET_PAGE_BITS;
    g_autofree unsigned long *map = bitmap_new(pages);

    bitmap_set_range(map, 0, pages);
    for (uint64_t i = 0; ab->travels && i < arrival_host_pages(ab); i++) {
        if (atomic_bit_test(ab->absent, i)) {
            bitmap_clear_range(map, i * per_host, per_host);
        }
    }
    *len = BITMAP_WORDS(pages) * sizeof(*map);
    /* the words are in the host's order, which on x86 is the wire's */
    return (uint8_t *)g_steal_pointer(&map);
}

void arrival_get_blocktime(const struct arrival *a, struct arrival_blocktime *t)
{
    faults_get_blocktime(a->faults, t);
}
