/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See test-arrival-machine.h. */
#include "test-arrival-machine.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "migration/stream/format.h"

/* --- the source --- */

bool source_zero(uint64_t page)
{
    return page % 7 == 3;
}

/* The word that all of the page consists of, each plus its index. */
uint64_t source_word(uint64_t page)
{
    return source_zero(page) ? 0 : (page + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

void fill_page(uint64_t *words, uint64_t page)
{
    for (unsigned i = 0; i < TARGET_PAGE_SIZE / 8; i++) {
        words[i] = source_zero(page) ? 0 : source_word(page) + i;
    }
}

void put_be64(GByteArray *bytes, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    g_byte_array_append(bytes, (const uint8_t *)&v, sizeof(v));
}

void put_word(GByteArray *bytes, uint64_t offset, unsigned flags, const char *name)
{
    put_be64(bytes, offset | flags | (name ? 0 : RAM_FLAG_CONTINUE));
    if (name) {
        uint8_t len = (uint8_t)strlen(name);

        g_byte_array_append(bytes, &len, 1);
        g_byte_array_append(bytes, (const uint8_t *)name, len);
    }
}

/* name NULL: continues a block. */
void put_page(GByteArray *bytes, uint64_t page, const char *name)
{
    uint64_t words[TARGET_PAGE_SIZE / 8];
    uint8_t fill = 0;

    if (source_zero(page)) {
        put_word(bytes, page * TARGET_PAGE_SIZE, RAM_FLAG_ZERO, name);
        g_byte_array_append(bytes, &fill, 1);
        return;
    }
    put_word(bytes, page * TARGET_PAGE_SIZE, RAM_FLAG_PAGE, name);
    fill_page(words, page);
    g_byte_array_append(bytes, (const uint8_t *)words, sizeof(words));
}

void put_eos(GByteArray *bytes)
{
    put_be64(bytes, RAM_FLAG_EOS);
}

/* --- the machine --- */

void push_request(struct fixture *f, uint64_t offset, uint64_t length)
{
    struct request *r = g_new(struct request, 1);

    *r = (struct request){ offset, length };
    mutex_lock(&f->lock);
    g_queue_push_tail(&f->requests, r);
    cond_signal(&f->cond);
    mutex_unlock(&f->lock);
}

struct request pop_request(struct fixture *f)
{
    g_autofree struct request *r = NULL;

    mutex_lock(&f->lock);
    while (g_queue_is_empty(&f->requests)) {
        cond_wait(&f->cond, &f->lock);
    }
    r = g_queue_pop_head(&f->requests);
    mutex_unlock(&f->lock);
    return *r;
}

bool request(void *opaque, struct ram_block *b, uint64_t offset, uint64_t length)
{
    struct fixture *f = opaque;

    g_assert_true(b == f->ram);
    g_assert_cmpuint(length, ==, b->page_size);
    g_assert_cmpuint(offset % length, ==, 0);
    if (atomic_load(&f->link_down)) {
        return false;
    }
    atomic_fetch_add(&f->asked, 1);
    push_request(f, offset, length);
    return true;
}

/* Huge pages for the test; they are given back at the end. */
#define HUGE_PAGES (int)(PAGES * TARGET_PAGE_SIZE / HUGE_SIZE)
static int huge_pages_before = -1;

static int huge_pages(const char *name, int set)
{
    g_autofree char *path = g_strdup_printf("/sys/kernel/mm/hugepages/hugepages-2048kB/%s", name);
    FILE *file = fopen(path, set < 0 ? "r" : "w");
    int n = -1;

    if (!file) {
        return -1;
    }
    if (set >= 0) {
        fprintf(file, "%d", set);
    } else if (fscanf(file, "%d", &n) != 1) {
        n = -1;
    }
    fclose(file);
    return n;
}

/* So many and not what there was before: somebody else may have reserved some meanwhile. */
static void give_huge_pages_back(void)
{
    huge_pages("nr_hugepages", MAX(huge_pages("nr_hugepages", -1) - HUGE_PAGES, 0));
}

static bool have_huge_pages(void)
{
    if (huge_pages_before < 0) {
        /* one test at a time, until the process ends: discarded pages are anybody's */
        int fd = open("/dev/shm/ferry-test-huge-pages", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd < 0 || flock(fd, LOCK_EX) < 0) {
            return false;
        }
        huge_pages_before = huge_pages("nr_hugepages", -1);
        if (huge_pages_before >= 0 && huge_pages("free_hugepages", -1) < HUGE_PAGES) {
            huge_pages("nr_hugepages", huge_pages_before + HUGE_PAGES);
            atexit(give_huge_pages_back);
        }
    }
    return huge_pages("free_hugepages", -1) >= HUGE_PAGES;
}

/* The block of the kind, or NULL where the host has no huge pages. */
static struct ram_block *new_ram(struct fixture *f, enum memory_kind kind)
{
    struct ram_backing backing = {
        .type = RAM_MEMFD, .madvise_merge = -1, .madvise_hugepage = -1, .madvise_dump = -1
    };
    GError *err = NULL;

    switch (kind) {
    case ANON:
        backing.type = RAM_ANON;
        break;
    case MEMFD:
    case MEMFD_HOLES:
        backing.share = true;
        break;
    case MEMFD_PRIVATE:
        break;
    case SHM_FILE:
        f->file = g_strdup_printf("/dev/shm/test-arrival-%d", getpid());
        backing.type = RAM_FILE;
        backing.path = f->file;
        backing.share = true;
        break;
    case HUGE_SHARED:
    case HUGE_HOLES:
    case HUGE_PRIVATE:
        backing.hugetlb = true;
        backing.share = kind != HUGE_PRIVATE;
        if (!have_huge_pages()) {
            g_test_skip("This host has no huge pages and none can be reserved");
            return NULL;
        }
        break;
    }
    struct ram_block *b =
        ram_block_new(f->vm->memory, "ram0", PAGES * TARGET_PAGE_SIZE, 0, &backing, &err);

    if (backing.hugetlb && !b) { /* somebody else was faster */
        g_test_skip(err->message);
        g_error_free(err);
        return NULL;
    }
    g_assert_no_error(err);
    return b;
}

bool set_up(struct fixture *f, enum memory_kind kind)
{
    struct ram_backing anon = {
        .type = RAM_ANON, .madvise_merge = -1, .madvise_hugepage = -1, .madvise_dump = -1
    };
    GError *err = NULL;

    memset(f, 0, sizeof(*f));
    g_setenv("FERRY_UFFD_HIDE", kind == MEMFD_HOLES || kind == HUGE_HOLES ? "0x600" : "0", TRUE);
    f->vm = vm_new();
    vm_unlock(f->vm);
    f->ram = new_ram(f, kind);
    mutex_init(&f->lock);
    cond_init(&f->cond);
    for (unsigned i = 0; i < VCPUS; i++) {
        f->vcpus[i] = &f->vcpu[i];
    }
    if (!f->ram) {
        return false;
    }
    f->rom = ram_block_new(f->vm->memory, "rom", ROM_PAGES * TARGET_PAGE_SIZE, 0, &anon, NULL);
    g_assert_nonnull(f->rom);
    if (!arrival_possible(f->vm, false, &err)) {
        g_test_skip(err->message);
        g_error_free(err);
        return false;
    }
    f->rl = ram_load_new(f->vm, NULL);
    f->a = arrival_new(f->vm, false, &err);
    g_assert_no_error(err);
    return true;
}

void tear_down(struct fixture *f)
{
    arrival_free(f->a);
    ram_load_free(f->rl);
    g_queue_clear_full(&f->requests, g_free);
    cond_clear(&f->cond);
    mutex_clear(&f->lock);
    f->vm->vcpus = NULL;
    f->vm->vcpu_count = 0;
    vm_lock(f->vm);
    vm_free(f->vm);
    if (f->file) {
        unlink(f->file);
        g_free(f->file);
    }
}

void discard(struct fixture *f, uint64_t page, uint64_t pages)
{
    GError *err = NULL;

    arrival_discard(f->a, f->ram, page * TARGET_PAGE_SIZE, pages * TARGET_PAGE_SIZE, &err);
    g_assert_no_error(err);
}

void listen_now(struct fixture *f)
{
    GError *err = NULL;

    arrival_listen(f->a, request, f, &err);
    g_assert_no_error(err);
}

void read_section(struct arrival_reader *r, const GByteArray *bytes)
{
    struct stream_in *in = in_new_memory(bytes->data, bytes->len);
    GError *err = NULL;

    arrival_read_section(r, in, &err);
    g_assert_no_error(err);
    in_free(in);
}

/* The whole pages [first, first + n) arrive. */
void arrive(struct arrival_reader *r, uint64_t first, uint64_t n)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    for (uint64_t i = 0; i < n; i++) {
        put_page(bytes, first + i, i ? NULL : "ram0");
    }
    put_eos(bytes);
    read_section(r, bytes);
}

uint64_t peek(struct fixture *f, uint64_t page, unsigned word)
{
    uint64_t *p = (uint64_t *)(void *)(f->ram->host + page * TARGET_PAGE_SIZE);

    return __atomic_load_n(&p[word], __ATOMIC_RELAXED);
}

void check_page(struct fixture *f, uint64_t page)
{
    for (unsigned i = 0; i < TARGET_PAGE_SIZE / 8; i += 73) {
        g_assert_cmphex(peek(f, page, i), ==, source_zero(page) ? 0 : source_word(page) + i);
    }
}
