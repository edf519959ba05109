/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's memory: RAM blocks, where they are mapped, and the I/O regions of devices.
 *
 * A RAM block is host memory with a name; the name and the length are what a migration stream knows
 * it by. A block is mapped at no, one or several guest-physical ranges (pc.bios: twice). An I/O
 * region is a range of ports or of guest-physical addresses that calls a device.
 *
 * Blocks and maps are made while the machine is built, before any vCPU runs, and are constant from
 * then on, except for a resizable block's used_length, which changes under the machine lock with
 * the vCPUs stopped. So reading the tables needs no lock. I/O regions are called with the machine
 * lock held.
 */
#ifndef SYSTEM_MEMORY_H
#define SYSTEM_MEMORY_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARGET_PAGE_BITS 12
#define TARGET_PAGE_SIZE (UINT64_C(1) << TARGET_PAGE_BITS)
#define TARGET_PAGE_MASK (~(TARGET_PAGE_SIZE - 1))

struct dirty_journal;
struct vm;
struct memory;

/* Where a block's bytes come from. */
struct ram_backing {
    enum { RAM_ANON, RAM_MEMFD, RAM_FILE } type;
    const char
        *path;  /* RAM_FILE: a file, a directory (an unlinked file in it) or a hugetlbfs mount */
    bool share; /* MAP_SHARED */
    bool readonly;
    bool prealloc;        /* touch every page before the guest starts */
    bool hugetlb;         /* RAM_MEMFD */
    uint64_t hugetlbsize; /* bytes; 0 = the host's default */
    int madvise_merge, madvise_hugepage, madvise_dump; /* 1 on, 0 off, -1 leave */
};

struct ram_block {
    char *idstr; /* name on the wire, at most 255 bytes */
    uint8_t *host;
    uint64_t used_length; /* bytes, a multiple of the target page size */
    uint64_t max_length;  /* used_length may grow up to this (resizable blocks) */
    uint64_t page_size;   /* of the host memory: 4096 or a huge page */
    int fd;               /* -1 for anonymous memory */
    bool shared;          /* another process can see the same memory (share=on) */
    bool persistent; /* a shared file: its content may be older than this process, and somebody's */
    bool resizable;
    bool migratable; /* false: not in the stream */
    uint64_t gpa;    /* first mapped address, 0 when not mapped (what x-ignore-shared sends) */
    unsigned index;  /* position in memory's list: stream order */

    /*
     * Dirty tracking, owned by migration/ram: NULL while nobody tracks. vmm_dirty collects what the
     * VMM itself wrote, from any thread.
     */
    struct dirty_journal *_Atomic vmm_dirty;
    /* Pages that the guest says it does not need, since a migration asked (migration/page-hints.c);
     * NULL: nobody asks. */
    struct dirty_journal *_Atomic not_needed;
    _Atomic unsigned discards; /* counts ram_block_discard(): what was there may be a hole by now */
};

/*
 * Creates a block. size is rounded up to the backing's page size. max_size = 0 means size. The
 * blocks are kept sorted as the stream lists them: by max_length descending, then in order of
 * creation.
 */
struct ram_block *ram_block_new(struct memory *mem, const char *idstr, uint64_t size,
                                uint64_t max_size, const struct ram_backing *backing, GError **err);
struct ram_block *ram_block_find(struct memory *mem, const char *idstr);
struct ram_block *ram_block_at(struct memory *mem, unsigned index); /* NULL past the last */
unsigned ram_block_count(struct memory *mem);
/* Sets used_length of a resizable block (machine lock, vCPUs stopped); new pages read as zero. Also
 * remaps. */
bool ram_block_resize(struct memory *mem, struct ram_block *block, uint64_t used_length,
                      GError **err);
static inline uint64_t ram_block_pages(const struct ram_block *b)
{
    return b->used_length >> TARGET_PAGE_BITS;
}

/* A guest-physical range backed by a piece of a block; what the accelerator makes a KVM slot of. */
struct ram_map {
    struct ram_block *block;
    uint64_t gpa, offset, length; /* bytes, page aligned */
    bool readonly;                /* guest writes go nowhere */
};
bool memory_map_ram(struct memory *mem, struct ram_block *block, uint64_t offset, uint64_t length,
                    uint64_t gpa, bool readonly, GError **err);
const struct ram_map *memory_ram_maps(struct memory *mem, unsigned *count);

/* Device registers. Offsets are relative to the region. Accesses wider than max_size are split,
 * misaligned ones pass as they are. */
struct io_ops {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    unsigned max_size; /* 1, 2, 4 or 8; 0 = 8 */
};
enum io_space { IO_SPACE_PORT, IO_SPACE_MEM };
/* Overlaps with an existing region of the same space are a programming error (aborts). name is for
 * `info mtree` and traces. */
void memory_add_io(struct memory *mem, enum io_space space, uint64_t base, uint64_t length,
                   const struct io_ops *ops, void *opaque, const char *name);

/* An access of the guest (or qtest). Unclaimed reads give all ones, unclaimed writes are dropped.
 * Machine lock held. */
void memory_io(struct memory *mem, enum io_space space, uint64_t addr, void *data, unsigned size,
               bool write);

/*
 * The one checked translator of guest addresses: the host address of [gpa, gpa+len) if it lies in
 * one RAM map, else NULL. With write = true the range is marked dirty, and read-only maps give
 * NULL. Any thread; while there is a gate the machine lock is held, and may be dropped meanwhile.
 */
void *memory_ram_ptr(struct memory *mem, uint64_t gpa, uint64_t len, bool write);
/*
 * The host address of the beginning of [gpa, gpa + *len); *len is shortened to what lies in one RAM
 * map. NULL: no RAM there, or read-only and write is set. For buffers of device DMA: nothing is
 * marked dirty, which memory_mark_dirty() does after the write, and the gate below is not asked
 * (memory_is_here()). Any thread.
 */
void *memory_ram_span(struct memory *mem, uint64_t gpa, uint64_t *len, bool write);
/* What lies in RAM of the range was written to. Any thread. */
void memory_mark_dirty(struct memory *mem, uint64_t gpa, uint64_t len);
/*
 * Memory that is not all there (post-copy): the gate is asked before memory_ram_ptr() gives out
 * bytes of a block, with the machine lock held, which it may drop while it waits; where it says
 * false they cannot be had now. NULL: none. Machine lock held.
 */
typedef bool memory_gate(void *opaque, struct ram_block *block, uint64_t offset, uint64_t length);
void memory_set_gate(struct memory *mem, memory_gate *gate, void *opaque);
bool memory_has_gate(const struct memory *mem); /* any thread */
/* Whether no part of the range is held back by the gate; waits as that does. */
bool memory_is_here(struct memory *mem, uint64_t gpa, uint64_t len);
/* Copy to and from guest-physical memory, crossing maps and reaching I/O regions (machine lock).
 * False: part of it was unclaimed. */
bool memory_read(struct memory *mem, uint64_t gpa, void *buf, uint64_t len);
bool memory_write(struct memory *mem, uint64_t gpa, const void *buf, uint64_t len);

/* The VMM wrote to a block (device DMA, loader). Any thread; cheap when nobody tracks. offset and
 * len in bytes. */
void ram_block_mark_dirty(struct ram_block *block, uint64_t offset, uint64_t len);

/*
 * The guest does not need what is in these bytes (whole pages of the host): the host has its memory
 * back, and they are as if they had never been touched. Nothing is marked dirty. Never while pages
 * of the block may be missing (memory_has_gate()). Any thread. False and *err (HOST): the host
 * refuses, for locked memory say; the bytes are as they were.
 */
bool ram_block_discard(struct ram_block *block, uint64_t offset, uint64_t len, GError **err);
/* The pages that lie wholly in the range are not needed, as the guest says; nothing happens where
 * nobody asks. Machine lock held. */
void ram_block_not_needed(struct ram_block *block, uint64_t offset, uint64_t len);

struct memory *memory_new(struct vm *vm);
void memory_free(struct memory *mem);

#endif
