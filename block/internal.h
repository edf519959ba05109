/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of block/ share. */
#ifndef BLOCK_INTERNAL_H
#define BLOCK_INTERNAL_H

#include "block/block.h"
#include "engine.h"
#include "lock.h"
#include "qapi/qapi-types.h"
#include "util/sync.h"

#define BLOCK_SECTOR                                                                               \
    512 /* lengths are whole sectors: what lies behind the end of a file is zero                   \
         */

struct block_counters {
    uint64_t ops, failed, invalid, bytes;
    int64_t time_ns;
};

/*
 * A node: bytes in a file ("file", "host_device"), or a format over another node ("raw", which adds
 * only a name). -drive makes both, of which the raw one carries the drive's id.
 */
struct block_node {
    struct block_set *set;
    char *name;     /* node-name; "#block123" where none was given */
    char *drive_id; /* -drive id=; NULL: none */
    BlockdevDriver driver;
    struct block_node *file; /* raw: the node below */
    unsigned parents;        /* nodes above */
    bool from_drive;         /* made by -drive, or for the node above; not the client's */

    char *filename;
    int fd; /* -1: raw */
    /* Why it could only be opened to read, where auto-read-only allows that: an errno, else 0. Who
     * wants to write is refused with it; on a destination it is tried again when the guest comes.
     */
    int not_writable;
    bool is_device, read_only, direct, no_flush, discard, writethrough, force_share;
    BlockdevDetectZeroesOptions detect_zeroes;
    OnOffAuto locking;
    BlockdevAioOptions aio;
    enum block_error_action werror, rerror;
    unsigned mem_align, io_align; /* of buffers; of offsets and lengths */
    uint64_t length;
    struct block_locks locks; /* held */
    /* A write-back that failed leaves the page cache in a state in which a later flush would seem
     * to succeed: it never does again. */
    int flush_error;

    const struct block_user_ops *user;
    void *opaque;
    bool user_writes, user_shares, unsettled, flushing;
    unsigned in_flight;
    struct block_counters counters[BLOCK_WRITE_ZEROES + 1];
    int64_t last_access_ns;
    uint64_t highest_write;
};

struct block_set {
    struct vm *vm;
    GPtrArray
        *nodes; /* struct block_node *, in order of creation, those below before those above */
    unsigned next_name;
    GMainContext *(*context)(struct vm *vm);
    struct block_engine *engine; /* with the first user */
    bool active;
    int64_t inactive_ns;
    char *fault_path;      /* FERRY_FAIL_BLOCK; NULL: nothing fails that need not */
    struct cond completed; /* a request, while somebody waits */
    unsigned waiters;
};

/* One of the node's requests is in flight no more. */
void block_completed(struct block_node *node);

/* The node that has the file. */
struct block_node *block_leaf(struct block_node *node);
static inline const struct block_node *block_leaf_const(const struct block_node *node)
{
    return block_leaf((struct block_node *)node);
}

struct block_node *block_find_node(struct block_set *set, const char *node_name);

/* Opens node->filename as the node's members say and finds out about it; *err HOST or USER. */
bool block_file_open(struct block_node *node, bool auto_read_only, GError **err);
/* Opens it again, to write, where that was not possible before (not_writable). Nothing is in
 * flight, no lock is held. *err HOST; then it is as it was. */
bool block_file_make_writable(struct block_node *node, GError **err);
/* Its filesystem is one that no other host writes to. What is not known may be shared. */
bool block_file_is_host_alone(int fd);
/* The length as it is now, in whole sectors; -errno. */
int64_t block_file_length(const struct block_node *node);

/* Adds a node that is not open yet; name NULL: makes one. The node is freed by block_node_free().
 */
struct block_node *block_node_new(struct block_set *set, const char *name, GError **err);
void block_node_free(struct block_node *node);

/* A discard reaches the file. */
bool block_discards(const struct block_node *node);

/* For tests: whether this kind of request is to fail now. */
bool block_fault(const struct block_set *set, enum block_op op);

/* blockdev-add */
bool block_add(struct block_set *set, const BlockdevOptions *options, GError **err);

bool block_take_locks(struct block_node *node, GError **err);
void block_drop_locks(struct block_node *node);

#endif
