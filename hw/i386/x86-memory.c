/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RAM of the machine: one block, mapped from 0 up to 3 GiB, the rest from 4 GiB up; the firmware's
 * window below 1 MiB is left out, for the firmware block is mapped there.
 *
 * A stream knows the block by name ("microvm.ram", or the id of the memory backend) and length, so
 * both are fixed by the command line alone.
 */
#include <inttypes.h>

#include "board.h"

#include "hw/nvram/fw_cfg.h"
#include "system/config.h"
#include "system/memory.h"
#include "system/vm.h"
#include "util/error.h"

#define ABOVE_4G        (UINT64_C(1) << 32)
#define LOW_MEMORY_END  (UINT64_C(1) << 20)
#define DEFAULT_RAM     "microvm.ram"
#define E820_RAM        1
#define E820_ENTRY_SIZE 20

static bool map_piece(struct board *board, uint64_t start, uint64_t end, uint64_t gpa, GError **err)
{
    return start >= end ||
           memory_map_ram(board->vm->memory, board->ram, start, end - start, gpa, false, err);
}

bool x86_memory_build(struct board *board, GError **err)
{
    const struct vm_config *cfg = board->cfg;
    const struct ram_backing *backing =
        cfg->ram_backend ? &cfg->ram_backend->backing : &cfg->default_backing;
    const char *name = cfg->ram_backend ? cfg->ram_backend->id : DEFAULT_RAM;
    uint64_t size = cfg->ram_size;

    if (cfg->ram_backend && cfg->ram_backend->size != size) {
        error_set(err, FERRY_ERROR_USER,
                  "The size of memory backend '%s', %" PRIu64 " bytes, differs from the machine's "
                  "memory, %" PRIu64 " bytes; give -m the size of the backend",
                  name, cfg->ram_backend->size, size);
        return false;
    }
    if (size < LOW_MEMORY_END) {
        error_set(err, FERRY_ERROR_USER,
                  "The machine's memory, %" PRIu64 " bytes, is too small; give it at least 1 MiB",
                  size);
        return false;
    }
    board->ram = ram_block_new(board->vm->memory, name, size, 0, backing, err);
    if (!board->ram) {
        return false;
    }
    board->below_4g = MIN(size, MICROVM_BELOW_4G_MAX);
    board->above_4g = size - board->below_4g;

    return map_piece(board, 0, board->bios_alias, 0, err) &&
           map_piece(board, LOW_MEMORY_END, board->below_4g, LOW_MEMORY_END, err) &&
           map_piece(board, board->below_4g, size, ABOVE_4G, err);
}

static void add_entry(GByteArray *out, uint64_t start, uint64_t length)
{
    uint64_t range[2] = { GUINT64_TO_LE(start), GUINT64_TO_LE(length) };
    uint32_t type = GUINT32_TO_LE(E820_RAM);

    g_byte_array_append(out, (const guint8 *)range, sizeof(range));
    g_byte_array_append(out, (const guint8 *)&type, sizeof(type));
}

void x86_memory_add_e820(struct board *board)
{
    g_autoptr(GByteArray) map = g_byte_array_sized_new(2 * E820_ENTRY_SIZE);
    g_autoptr(GBytes) bytes = NULL;

    add_entry(map, 0, board->below_4g);
    if (board->above_4g) {
        add_entry(map, ABOVE_4G, board->above_4g);
    }
    bytes = g_byte_array_free_to_bytes(g_steal_pointer(&map));
    fw_cfg_add_file(board->fw_cfg, "etc/e820", bytes);
}
