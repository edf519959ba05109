/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's address spaces: which RAM block is mapped where, and which device answers at which
 * port or address. One lookup serves vCPU exits, qtest and device DMA; memory_ram_ptr() is the only
 * place where a guest address becomes a host pointer.
 *
 * I/O regions and maps are kept in arrays sorted by address and searched by bisection; they are
 * constant once the machine is built.
 */
#include <string.h>

#include "memory-internal.h"
#include "util/error.h"

struct io_region {
    uint64_t base, length;
    const struct io_ops *ops;
    void *opaque;
    const char *name;
};

struct memory {
    struct vm *vm;
    GPtrArray *blocks;         /* struct ram_block *, in stream order */
    GArray *maps;              /* struct ram_map, by gpa */
    GArray *io[2];             /* struct io_region, by base, per enum io_space */
    memory_gate *_Atomic gate; /* written: machine lock */
    void *gate_opaque;
};

struct memory *memory_new(struct vm *vm)
{
    struct memory *mem = g_new0(struct memory, 1);

    mem->vm = vm;
    mem->blocks = g_ptr_array_new_with_free_func((GDestroyNotify)ram_block_free);
    mem->maps = g_array_new(FALSE, TRUE, sizeof(struct ram_map));
    mem->io[IO_SPACE_PORT] = g_array_new(FALSE, TRUE, sizeof(struct io_region));
    mem->io[IO_SPACE_MEM] = g_array_new(FALSE, TRUE, sizeof(struct io_region));
    return mem;
}

void memory_free(struct memory *mem)
{
    if (!mem) {
        return;
    }
    g_array_free(mem->io[0], TRUE);
    g_array_free(mem->io[1], TRUE);
    g_array_free(mem->maps, TRUE);
    g_ptr_array_free(mem->blocks, TRUE);
    g_free(mem);
}

void memory_insert_block(struct memory *mem, struct ram_block *block)
{
    unsigned at = 0;

    while (at < mem->blocks->len) {
        const struct ram_block *other = g_ptr_array_index(mem->blocks, at);

        if (other->max_length < block->max_length) {
            break;
        }
        at++;
    }
    g_ptr_array_insert(mem->blocks, (int)at, block);
    for (unsigned i = 0; i < mem->blocks->len; i++) {
        ((struct ram_block *)g_ptr_array_index(mem->blocks, i))->index = i;
    }
}

struct ram_block *ram_block_find(struct memory *mem, const char *idstr)
{
    for (unsigned i = 0; i < mem->blocks->len; i++) {
        struct ram_block *b = g_ptr_array_index(mem->blocks, i);

        if (g_str_equal(b->idstr, idstr)) {
            return b;
        }
    }
    return NULL;
}

struct ram_block *ram_block_at(struct memory *mem, unsigned index)
{
    return index < mem->blocks->len ? g_ptr_array_index(mem->blocks, index) : NULL;
}

unsigned ram_block_count(struct memory *mem)
{
    return mem->blocks->len;
}

void memory_block_resized(struct memory *mem, struct ram_block *block)
{
    /* resizable blocks are firmware blobs that no map shows; a mapped one would need its KVM slot
     * changed */
    for (unsigned i = 0; i < mem->maps->len; i++) {
        g_assert(g_array_index(mem->maps, struct ram_map, i).block != block);
    }
}

bool memory_map_ram(struct memory *mem, struct ram_block *block, uint64_t offset, uint64_t length,
                    uint64_t gpa, bool readonly, GError **err)
{
    struct ram_map map = {
        .block = block, .gpa = gpa, .offset = offset, .length = length, .readonly = readonly
    };
    bool first = true;
    unsigned at = 0;

    for (unsigned i = 0; i < mem->maps->len; i++) {
        first = first && g_array_index(mem->maps, struct ram_map, i).block != block;
    }
    if (((gpa | offset | length) & ~TARGET_PAGE_MASK) || !length || gpa + length < gpa ||
        offset > block->used_length || length > block->used_length - offset || block->resizable) {
        error_set(err, FERRY_ERROR_USER,
                  "Memory '%s' cannot be mapped at 0x%" G_GINT64_MODIFIER "x", block->idstr, gpa);
        return false;
    }
    for (; at < mem->maps->len; at++) {
        const struct ram_map *m = &g_array_index(mem->maps, struct ram_map, at);

        if (gpa < m->gpa + m->length && m->gpa < gpa + length) {
            error_set(err, FERRY_ERROR_USER,
                      "Memory '%s' at 0x%" G_GINT64_MODIFIER "x overlaps memory '%s'", block->idstr,
                      gpa, m->block->idstr);
            return false;
        }
        if (m->gpa > gpa) {
            break;
        }
    }
    g_array_insert_val(mem->maps, at, map);
    if (first || readonly) {
        /* for firmware the address that counts is the read-only one below 4 GiB, as QEMU sends it
         */
        block->gpa = gpa;
    }
    return true;
}

const struct ram_map *memory_ram_maps(struct memory *mem, unsigned *count)
{
    *count = mem->maps->len;
    return (const struct ram_map *)(void *)mem->maps->data;
}

static const struct ram_map *map_find(struct memory *mem, uint64_t gpa)
{
    unsigned lo = 0, hi = mem->maps->len;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct ram_map *m = &g_array_index(mem->maps, struct ram_map, mid);

        if (gpa < m->gpa) {
            hi = mid;
        } else if (gpa - m->gpa >= m->length) {
            lo = mid + 1;
        } else {
            return m;
        }
    }
    return NULL;
}

void memory_set_gate(struct memory *mem, memory_gate *gate, void *opaque)
{
    mem->gate_opaque = opaque;
    atomic_store(&mem->gate, gate);
}

bool memory_has_gate(const struct memory *mem)
{
    return atomic_load(&mem->gate) != NULL;
}

/* Whether bytes of a map can be had; may wait. */
static bool pass_gate(struct memory *mem, const struct ram_map *m, uint64_t gpa, uint64_t len)
{
    memory_gate *gate = atomic_load_explicit(&mem->gate, memory_order_relaxed);

    return !gate || !len || gate(mem->gate_opaque, m->block, m->offset + (gpa - m->gpa), len);
}

bool memory_is_here(struct memory *mem, uint64_t gpa, uint64_t len)
{
    bool here = true;

    while (len && here) {
        const struct ram_map *m = map_find(mem, gpa);
        uint64_t n = m ? MIN(len, m->length - (gpa - m->gpa)) : 1;

        here = !m || pass_gate(mem, m, gpa, n);
        gpa += n;
        len -= n;
    }
    return here;
}

void *memory_ram_ptr(struct memory *mem, uint64_t gpa, uint64_t len, bool write)
{
    const struct ram_map *m = map_find(mem, gpa);

    if (!m || len > m->length - (gpa - m->gpa) || (write && m->readonly)) {
        return NULL;
    }
    uint64_t offset = m->offset + (gpa - m->gpa);

    if (!pass_gate(mem, m, gpa, len)) {
        return NULL;
    }
    if (write) {
        ram_block_mark_dirty(m->block, offset, len);
    }
    return m->block->host + offset;
}

void *memory_ram_span(struct memory *mem, uint64_t gpa, uint64_t *len, bool write)
{
    const struct ram_map *m = map_find(mem, gpa);

    if (!m || (write && m->readonly)) {
        return NULL;
    }
    *len = MIN(*len, m->length - (gpa - m->gpa));
    return m->block->host + m->offset + (gpa - m->gpa);
}

void memory_mark_dirty(struct memory *mem, uint64_t gpa, uint64_t len)
{
    while (len) {
        const struct ram_map *m = map_find(mem, gpa);
        uint64_t n;

        if (!m) {
            return; /* devices mark what memory_ram_span() gave them */
        }
        n = MIN(len, m->length - (gpa - m->gpa));
        ram_block_mark_dirty(m->block, m->offset + (gpa - m->gpa), n);
        gpa += n;
        len -= n;
    }
}

void memory_add_io(struct memory *mem, enum io_space space, uint64_t base, uint64_t length,
                   const struct io_ops *ops, void *opaque, const char *name)
{
    struct io_region r = {
        .base = base, .length = length, .ops = ops, .opaque = opaque, .name = name
    };
    GArray *io = mem->io[space];
    unsigned at = 0;

    for (; at < io->len; at++) {
        const struct io_region *o = &g_array_index(io, struct io_region, at);

        if (base < o->base + o->length && o->base < base + length) {
            g_error("I/O regions '%s' and '%s' overlap at 0x%" G_GINT64_MODIFIER "x", name, o->name,
                    base);
        }
        if (o->base > base) {
            break;
        }
    }
    g_array_insert_val(io, at, r);
}

static const struct io_region *io_find(GArray *io, uint64_t addr)
{
    unsigned lo = 0, hi = io->len;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct io_region *r = &g_array_index(io, struct io_region, mid);

        if (addr < r->base) {
            hi = mid;
        } else if (addr - r->base >= r->length) {
            lo = mid + 1;
        } else {
            return r;
        }
    }
    return NULL;
}

/* One access that a region takes: size is 1, 2, 4 or 8 and within the region. */
static void io_one(const struct io_region *r, uint64_t offset, uint8_t *data, unsigned size,
                   bool write)
{
    uint64_t v = 0;

    if (write) {
        memcpy(&v, data, size); /* little-endian host: x86 only */
        if (r->ops->write) {
            r->ops->write(r->opaque, offset, v, size);
        }
    } else {
        v = r->ops->read ? r->ops->read(r->opaque, offset, size) : ~UINT64_C(0);
        memcpy(data, &v, size);
    }
}

void memory_io(struct memory *mem, enum io_space space, uint64_t addr, void *data, unsigned size,
               bool write)
{
    uint8_t *p = data;

    while (size) {
        const struct io_region *r = io_find(mem->io[space], addr);
        unsigned n = size;

        if (!r) {
            /* byte by byte: an access may begin before a region and end in it */
            if (!write) {
                *p = 0xff;
            }
            n = 1;
        } else {
            unsigned max = r->ops->max_size ? r->ops->max_size : 8;
            uint64_t left = r->length - (addr - r->base);

            n = MIN(n, max);
            if (n > left) {
                n = (unsigned)left;
            }
            n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
            io_one(r, addr - r->base, p, n, write);
        }
        addr += n;
        p += n;
        size -= n;
    }
}

/* Copies between buf and guest-physical memory. */
static bool memory_rw(struct memory *mem, uint64_t gpa, uint8_t *buf, uint64_t len, bool write)
{
    bool all = true;

    while (len) {
        const struct ram_map *m = map_find(mem, gpa);
        uint64_t n = 1;

        if (m) {
            n = MIN(len, m->length - (gpa - m->gpa));
            if (!pass_gate(mem, m, gpa, n)) {
                all = false;
                if (!write) {
                    memset(buf, 0xff, n);
                }
            } else if (!write) {
                memcpy(buf, m->block->host + m->offset + (gpa - m->gpa), n);
            } else if (!m->readonly) {
                uint64_t offset = m->offset + (gpa - m->gpa);

                ram_block_mark_dirty(m->block, offset, n);
                memcpy(m->block->host + offset, buf, n);
                /* again after the write: the page may have been taken for sending in between */
                ram_block_mark_dirty(m->block, offset, n);
            }
        } else {
            n = MIN(len, 8);
            n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
            all = all && io_find(mem->io[IO_SPACE_MEM], gpa);
            memory_io(mem, IO_SPACE_MEM, gpa, buf, (unsigned)n, write);
        }
        gpa += n;
        buf += n;
        len -= n;
    }
    return all;
}

bool memory_read(struct memory *mem, uint64_t gpa, void *buf, uint64_t len)
{
    return memory_rw(mem, gpa, buf, len, false);
}

bool memory_write(struct memory *mem, uint64_t gpa, const void *buf, uint64_t len)
{
    return memory_rw(mem, gpa, (uint8_t *)(uintptr_t)buf, len, true);
}
