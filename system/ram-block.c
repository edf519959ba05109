/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM blocks: host memory with a name. This file gets the memory from the host (anonymous, memfd,
 * file; huge pages; preallocation), grows resizable blocks, and collects what the VMM itself
 * writes. Address space below max_length is reserved at once, so that a block never moves; pages
 * past used_length are inaccessible.
 *
 * Failure: nothing is left behind; the error names the block, the size and what the host said.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/memfd.h>

#include "memory-internal.h"
#include "util/dirty-set.h"
#include "util/error.h"

static uint64_t round_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

static bool open_memfd(const char *idstr, const struct ram_backing *b, int *fd, GError **err)
{
    unsigned flags = MFD_CLOEXEC;

    if (b->hugetlb) {
        flags |= MFD_HUGETLB;
        if (b->hugetlbsize) {
            flags |= (unsigned)__builtin_ctzll(b->hugetlbsize) << MFD_HUGE_SHIFT;
        }
    }
    *fd = memfd_create(idstr, flags);
    if (*fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno, "Cannot create a memfd for memory '%s'",
                        idstr);
        return false;
    }
    return true;
}

static bool open_file(const char *idstr, const struct ram_backing *b, int *fd, GError **err)
{
    struct stat st;
    int flags = (b->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC;

    if (stat(b->path, &st) == 0 && S_ISDIR(st.st_mode)) {
        g_autofree char *name = g_strdup_printf("%s/ferry_ram.XXXXXX", b->path);

        *fd = mkostemp(name, O_CLOEXEC);
        if (*fd >= 0) {
            unlink(name);
        }
    } else {
        *fd = open(b->path, flags);
        if (*fd < 0 && errno == ENOENT && !b->readonly) {
            *fd = open(b->path, flags | O_CREAT, 0644);
        }
    }
    if (*fd < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot open '%s' as backing store of memory '%s'", b->path, idstr);
        return false;
    }
    return true;
}

/* The page size of the file behind fd: that of hugetlbfs or 4096. */
static uint64_t fd_page_size(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) {
        return (uint64_t)fs.f_bsize;
    }
    return TARGET_PAGE_SIZE;
}

static bool size_file(struct ram_block *b, const struct ram_backing *backing, uint64_t size,
                      GError **err)
{
    struct stat st;

    if (fstat(b->fd, &st) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot examine the backing store of memory '%s'", b->idstr);
        return false;
    }
    if (backing->type == RAM_FILE && S_ISREG(st.st_mode) && st.st_size > 0) {
        if ((uint64_t)st.st_size < size) {
            error_set(err, FERRY_ERROR_USER,
                      "Backing store size 0x%" G_GINT64_MODIFIER
                      "x of '%s' does not match the size 0x%" G_GINT64_MODIFIER "x of memory '%s'",
                      (uint64_t)st.st_size, backing->path, size, b->idstr);
            return false;
        }
        return true;
    }
    if (!S_ISREG(st.st_mode)) {
        return true;
    }
    if (ftruncate(b->fd, (off_t)size) < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot size the backing store of memory '%s' to %" PRIu64 " bytes",
                        b->idstr, size);
        return false;
    }
    return true;
}

static void advise(struct ram_block *b, int on_off, int on, int off)
{
    if (on_off >= 0) {
        /* advice: a kernel without the feature refuses, and nothing is lost by that */
        (void)madvise(b->host, b->max_length, on_off ? on : off);
    }
}

static bool preallocate(struct ram_block *b, GError **err)
{
    if (madvise(b->host, b->used_length, MADV_POPULATE_WRITE) < 0) {
        if (errno == EINVAL) { /* before Linux 5.14 */
            for (uint64_t i = 0; i < b->used_length; i += b->page_size) {
                volatile uint8_t *p = b->host + i;

                *p = *p;
            }
            return true;
        }
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot preallocate the %" PRIu64 " bytes of memory '%s'", b->used_length,
                        b->idstr);
        return false;
    }
    return true;
}

/* Maps the block's memory; sets host and page_size. */
static bool map_block(struct ram_block *b, const struct ram_backing *backing, GError **err)
{
    int prot = PROT_READ | (backing->readonly ? 0 : PROT_WRITE);
    int flags = backing->share ? MAP_SHARED : MAP_PRIVATE;
    uint64_t align = MAX(b->page_size, UINT64_C(2) << 20);

    if (b->fd < 0) {
        flags |= MAP_ANONYMOUS;
    }
    /* transparent huge pages want 2 MiB alignment: reserve more, map inside, give the rest back */
    uint8_t *area = mmap(NULL, b->max_length + align, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot reserve %" PRIu64 " bytes for memory '%s'", b->max_length,
                        b->idstr);
        return false;
    }
    uint8_t *host = (uint8_t *)(uintptr_t)round_up((uint64_t)(uintptr_t)area, align);

    if (mmap(host, b->used_length, prot, flags | MAP_FIXED, b->fd, 0) == MAP_FAILED) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot allocate the %" PRIu64 " bytes of memory '%s'", b->used_length,
                        b->idstr);
        munmap(area, b->max_length + align);
        return false;
    }
    if (host > area) {
        munmap(area, (size_t)(host - area));
    }
    uint64_t tail = (uint64_t)(area + align - host);

    if (tail) {
        munmap(host + b->max_length, tail);
    }
    b->host = host;
    return true;
}

void ram_block_free(struct ram_block *b)
{
    if (!b) {
        return;
    }
    if (b->host) {
        munmap(b->host, b->max_length);
    }
    if (b->fd >= 0) {
        close(b->fd);
    }
    dirty_journal_free(b->vmm_dirty);
    dirty_journal_free(b->not_needed);
    g_free(b->idstr);
    g_free(b);
}

struct ram_block *ram_block_new(struct memory *mem, const char *idstr, uint64_t size,
                                uint64_t max_size, const struct ram_backing *backing, GError **err)
{
    struct ram_block *b = g_new0(struct ram_block, 1);
    bool ok;

    b->idstr = g_strdup(idstr);
    b->fd = -1;
    b->page_size = TARGET_PAGE_SIZE;
    b->shared = backing->share;
    b->persistent = backing->type == RAM_FILE && backing->share;
    b->migratable = true;
    b->resizable = max_size > size;

    if (strlen(idstr) > 255 || ram_block_find(mem, idstr)) {
        error_set(err, FERRY_ERROR_USER,
                  "Memory name '%s' is already in use or longer than 255 bytes", idstr);
        goto fail;
    }
    switch (backing->type) {
    case RAM_MEMFD:
        ok = open_memfd(idstr, backing, &b->fd, err);
        break;
    case RAM_FILE:
        ok = open_file(idstr, backing, &b->fd, err);
        break;
    case RAM_ANON:
        /* shared memory without a name: the kernel's own memfd serves, so that it can be handed on
         */
        ok = !backing->share || open_memfd(idstr, backing, &b->fd, err);
        break;
    default:
        ok = false;
        error_set(err, FERRY_ERROR_USER, "Memory '%s' has no backing type", idstr);
    }
    if (!ok) {
        goto fail;
    }
    if (b->fd >= 0) {
        b->page_size = fd_page_size(b->fd);
    }
    b->used_length = round_up(size, b->page_size);
    b->max_length = round_up(MAX(max_size, size), b->page_size);
    if (size == 0 || b->used_length != size) {
        error_set(err, FERRY_ERROR_USER,
                  "The size of memory '%s', %" PRIu64
                  " bytes, must be a multiple of its page size, %" PRIu64 " bytes",
                  idstr, size, b->page_size);
        goto fail;
    }
    if (b->fd >= 0 && !size_file(b, backing, b->max_length, err)) {
        goto fail;
    }
    if (!map_block(b, backing, err)) {
        goto fail;
    }
    advise(b, backing->madvise_merge, MADV_MERGEABLE, MADV_UNMERGEABLE);
    advise(b, backing->madvise_hugepage, MADV_HUGEPAGE, MADV_NOHUGEPAGE);
    advise(b, backing->madvise_dump, MADV_DODUMP, MADV_DONTDUMP);
    if (backing->prealloc && !preallocate(b, err)) {
        goto fail;
    }
    memory_insert_block(mem, b);
    return b;
fail:
    ram_block_free(b);
    return NULL;
}

bool ram_block_resize(struct memory *mem, struct ram_block *b, uint64_t used_length, GError **err)
{
    if (used_length == b->used_length) {
        return true;
    }
    if (!b->resizable || used_length == 0 || used_length > b->max_length ||
        used_length % b->page_size) {
        error_set(err, FERRY_ERROR_PEER,
                  "Length mismatch: %s: 0x%" G_GINT64_MODIFIER "x in != 0x%" G_GINT64_MODIFIER
                  "x: %s",
                  b->idstr, used_length, b->used_length, "Invalid argument");
        return false;
    }
    if (used_length > b->used_length) {
        if (mmap(b->host + b->used_length, used_length - b->used_length, PROT_READ | PROT_WRITE,
                 (b->fd < 0 ? MAP_ANONYMOUS : 0) | (b->shared ? MAP_SHARED : MAP_PRIVATE) |
                     MAP_FIXED,
                 b->fd, b->fd < 0 ? 0 : (off_t)b->used_length) == MAP_FAILED) {
            error_set_errno(err, FERRY_ERROR_HOST, errno,
                            "Cannot grow memory '%s' to %" PRIu64 " bytes", b->idstr, used_length);
            return false;
        }
    } else if (mmap(b->host + used_length, b->used_length - used_length, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "Cannot shrink memory '%s' to %" PRIu64 " bytes", b->idstr, used_length);
        return false;
    }
    b->used_length = used_length;
    memory_block_resized(mem, b);
    return true;
}

void ram_block_mark_dirty(struct ram_block *b, uint64_t offset, uint64_t len)
{
    struct dirty_journal *journal = atomic_load(&b->vmm_dirty);

    if (!journal || !len) {
        return;
    }
    uint64_t first = offset >> TARGET_PAGE_BITS;

    dirty_journal_add(journal, first, ((offset + len - 1) >> TARGET_PAGE_BITS) - first + 1);
}

void ram_block_not_needed(struct ram_block *b, uint64_t offset, uint64_t len)
{
    struct dirty_journal *journal = atomic_load(&b->not_needed);
    uint64_t first = (offset + TARGET_PAGE_SIZE - 1) >> TARGET_PAGE_BITS;
    uint64_t end = (offset + len) >> TARGET_PAGE_BITS;

    if (journal && first < end) {
        dirty_journal_add(journal, first, end - first);
    }
}

/*
 * Shared memory loses its pages in the file, where every mapping sees the hole. A private mapping
 * loses its own pages only: the file may be somebody else's.
 */
bool ram_block_discard(struct ram_block *b, uint64_t offset, uint64_t len, GError **err)
{
    bool hole = b->fd >= 0 && b->shared;
    int rc;

    g_assert(!((offset | len) & (b->page_size - 1)) && offset + len <= b->used_length);
    rc = hole ? fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                          (off_t)len)
              : madvise(b->host + offset, len, MADV_DONTNEED);
    atomic_fetch_add(&b->discards, 1);
    if (rc < 0) {
        error_set_errno(err, FERRY_ERROR_HOST, errno,
                        "The host does not take back %" PRIu64 " bytes of memory '%s'", len,
                        b->idstr);
    }
    return rc == 0;
}
