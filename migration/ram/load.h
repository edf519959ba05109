/* SPDX-License-Identifier: GPL-2.0-or-later */
/* RAM on the way in. One thread; vCPUs do not run. */
#ifndef MIGRATION_RAM_LOAD_H
#define MIGRATION_RAM_LOAD_H

#include "migration/stream/in.h"
#include "system/memory.h"

struct vm;

struct ram_load;
struct ram_load *ram_load_new(struct vm *vm, bool ignore_shared);
void ram_load_free(struct ram_load *rl);
/* Makes all memory that the stream will bring read as zero, so that what it leaves out is right.
 * Slow for memory that holds something. */
void ram_load_zero(struct ram_load *rl);
/* Reads the payload of a ram section up to and with its end mark. May take the machine lock
 * (resizable blocks). */
bool ram_load_section(struct ram_load *rl, struct stream_in *in, GError **err);

#endif
