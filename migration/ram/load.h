/* SPDX-License-Identifier: GPL-2.0-or-later */
/* RAM on the way in. One thread; vCPUs do not run. */
#ifndef MIGRATION_RAM_LOAD_H
#define MIGRATION_RAM_LOAD_H

#include "migration/stream/in.h"
#include "system/memory.h"

struct premap;
struct vm;

struct ram_load;
/* `premap` may be NULL; it stays the caller's and is stopped by ram_load_begin(). */
struct ram_load *ram_load_new(struct vm *vm, struct premap *premap);
void ram_load_free(struct ram_load *rl);
/*
 * Before the connection: makes the memory that is this process's own read as zero. Memory in a
 * shared file is left alone, because it may be the very memory that the source's guest runs in.
 * Slow for memory that holds something.
 */
void ram_load_zero(struct ram_load *rl);
/*
 * Once the capabilities are known. True when all memory that the stream will bring is known to read
 * as zero, so that it may leave zero pages out (FERRY_FEATURE_ZEROED).
 */
bool ram_load_begin(struct ram_load *rl, bool ignore_shared);
/* POSTCOPY_ADVISE came before the list of blocks: the list then has the size of huge pages. */
void ram_load_advise(struct ram_load *rl);
/* The block that the last record was of: what comes next may continue it. NULL: none yet. */
struct ram_block *ram_load_current(const struct ram_load *rl);
/* Reads the payload of a ram section up to and with its end mark. May take the machine lock
 * (resizable blocks). */
bool ram_load_section(struct ram_load *rl, struct stream_in *in, GError **err);
/*
 * At the end of a stream that names every page at least once, as all do whose source does not know
 * that memory reads as zero here: false and *err when it has left one out.
 */
bool ram_load_complete(const struct ram_load *rl, GError **err);

#endif
